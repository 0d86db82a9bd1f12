"""Give the small checkpoint a frame grounder that knows its labels: the frame head that its encoder was trained with.

    python -m recipes.small.label_grounder --checkpoint DIR --backbone DIR --stems DIR --out DIR

Training the encoder on frame labels (`backbone.py`) leaves a linear map from its frames to the labels. Here a logistic
regression finds which label a question asks about, by the language model's states of questions in many wordings.
Questions about sounds that are no label are a class of their own.
"""

import logging

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from processing.answer_text import prompt_text
from recipes.arguments import script_parser
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.data.label_phrases import heldout_paraphrases
from recipes.small.backbone import FRAME_MAP
from recipes.small.frame_labels import read_stems
from recipes.small.grounder import (
    choose_decoder,
    choose_query_threshold,
    question_states,
    score_queries,
    score_stems,
    states_of,
)
from recipes.soundscapes.catalogue import load_catalogue

logger = logging.getLogger(__name__)

WEIGHT_DECAY = 1e-3
NUM_CLIPS = 24


def unknown_sounds(labels):
    """Return the names of catalogued sounds, distractors and backgrounds, that are no label."""
    return sorted({file.label for file in load_catalogue()} - set(labels))


def fit_label_grounder(model, processor, frame_map, labels, folder, split="train_field", seed=0):
    """Give a model a frame grounder with labels, in place.

    Args:
        frame_map: `weight` `(num_labels, size)` and `bias` `(num_labels,)` of the linear map from the encoder's frames
            to the labels.
        folder, split: stored stems of clips about which the questions are asked.

    Returns:
        the states of questions about each label, see [`question_states`].
    """
    asked = [*labels, *unknown_sounds(labels)]
    states = question_states(model.eval(), processor, folder, split, asked, NUM_CLIPS, seed)
    model.add_frame_grounder(match="labels", hidden_size=len(labels))
    head = model.frame_grounder
    head.labels.load_state_dict(frame_map)
    every = [(place, state) for place, label in enumerate(asked) for state in states[label]]
    wanted = torch.tensor([min(place, len(labels)) for place, _ in every])
    with torch.no_grad():
        questions = torch.cat([head.summary(state[None], torch.ones(1, len(state), dtype=bool)) for _, state in every])
        nn.init.zeros_(head.choose.weight)
    optimizer = torch.optim.LBFGS(head.choose.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(head.choose(questions), wanted) + WEIGHT_DECAY / 2 * head.choose.weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(step)
    return {label: states[label] for label in labels}


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint that gets the frame grounder")
    parser.add_argument("--backbone", required=True, help=f"folder of {FRAME_MAP}, see recipes/small/backbone.py")
    parser.add_argument("--stems", required=True, help="folder of stored stem features: train_field, validation_field")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    model, processor = load_checkpoint(arguments.checkpoint, dtype="float32")
    labels, frame_map = model.config.event_labels, load_file(f"{arguments.backbone}/{FRAME_MAP}")
    states = fit_label_grounder(model, processor, frame_map, labels, arguments.stems, seed=arguments.seed)
    frame_rate, split = model.config.frame_rate, "validation_field"
    stems, rows = read_stems(arguments.stems, split)
    scores = score_stems(model, states, labels, arguments.stems, split)
    decoder, f1 = choose_decoder(scores, rows, labels, frame_rate)
    logger.info("event-based F1 of detection on %s: %.3f with %s", split, f1, decoder)
    threshold, recall, rejected = choose_query_threshold(scores, rows, labels, frame_rate, decoder)
    logger.info("queries at %.2f: R@.5 %.3f, %.3f of the absent ones rejected", threshold, recall, rejected)
    worded = [
        [prompt_text("grounding", words) for words in heldout_paraphrases(label)[:1] or [label]] for label in labels
    ]
    asked = states_of(model, processor, stems, 0, [question for questions in worded for question in questions])
    other = score_stems(model, {label: [state] for label, state in zip(labels, asked)}, labels, arguments.stems, split)
    recall, rejected = score_queries(other, rows, labels, frame_rate, decoder, threshold)
    logger.info("in words that were not taught: R@.5 %.3f, %.3f rejected", recall, rejected)
    likeness = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(scores.swapaxes(0, 1), other.swapaxes(0, 1))]
    logger.info("correlation of their scores with the label's: %.3f in the median", float(np.median(likeness)))
    model.config.frame_grounder |= decoder | {"query_threshold": threshold}
    save_checkpoint(model, processor, arguments.out)


if __name__ == "__main__":
    main()
