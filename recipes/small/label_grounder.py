"""Give the small checkpoint a frame grounder that knows the labels of a backbone whose encoder was trained on frames.

    python -m recipes.small.label_grounder --checkpoint DIR --backbone DIR --stems DIR --out DIR

Training the encoder on frame labels (`backbone.py`) leaves context layers and a linear map from its frames to the
labels: these are the head, beside whatever encoder the checkpoint has. Here a logistic regression finds which label a
question asks about, by the embeddings of its words, in many wordings. Questions about sounds that are no label are a
class of their own.
"""

import logging

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from processing.answer_text import PROMPTS, prompt_text
from recipes.arguments import script_parser
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.data.label_phrases import heldout_paraphrases, paraphrases
from recipes.small.backbone import FRAME_MAP
from recipes.small.frame_labels import read_stems
from recipes.small.grounder import choose_decoder, choose_query_threshold, score_queries, score_stems
from recipes.soundscapes.catalogue import load_catalogue
from recipes.training.collator import TimeProCollator

logger = logging.getLogger(__name__)

WEIGHT_DECAY = 1e-4
SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")


def unknown_sounds(labels):
    """Return the names of catalogued sounds, distractors and backgrounds, that are no label."""
    return sorted({file.label for file in load_catalogue()} - set(labels))


def question_embeddings(model, processor, words):
    """Return the embeddings `(num_tokens, hidden_size)` of each question that asks for the words, in each prompt.

    They are those of the tokens between the audio and the answer, as the frame grounder gets them. Prompts vary first.
    """
    asked = [prompt_text("grounding", word, variant) for word in words for variant in range(len(PROMPTS["grounding"]))]
    turns = [{"question": question, "answer": "none", "event_label": question} for question in asked]
    silence = {"stem_index": 0, "start": 0.0, "duration": None}
    collator = TimeProCollator(processor, np.zeros((1, 25, 1), dtype=np.float16), frame_targets=True)
    batch = collator([{"pieces": [silence], "turns": turns}])
    embeddings = model.get_input_embeddings()(batch["input_ids"][0]).detach()
    return [embeddings[tokens[tokens >= 0]] for tokens in batch["question_tokens"]]


def fit_label_grounder(model, processor, encoder, frame_map, labels):
    """Give a model a frame grounder with labels, in place.

    Args:
        encoder: a [`TimeProYamnetEncoder`], whose context layers the head gets.
        frame_map: `weight` `(num_labels, size)` and `bias` `(num_labels,)` of the linear map from the encoder's frames
            to the labels.
    """
    sizes = {name: getattr(encoder.config, name) for name in SIZES}
    model.add_frame_grounder(match="labels", frames="stem", labels=list(labels), **sizes)
    head = model.frame_grounder.eval()
    parts = (("frame_in", "stem_projection"), ("layers", "layers"), ("norm", "norm"))
    for mine, theirs in parts:
        getattr(head, mine).load_state_dict(getattr(encoder, theirs).state_dict())
    head.score.load_state_dict(frame_map)
    classes = [*(paraphrases(label) for label in labels), unknown_sounds(labels)]
    questions, wanted = [], []
    for place, words in enumerate(classes):
        for state in question_embeddings(model, processor, words):
            questions.append(head.summary(state[None], torch.ones(1, len(state), dtype=bool))[0])
            wanted.append(place)
    questions, wanted = torch.stack(questions), torch.tensor(wanted)
    nn.init.zeros_(head.choose.weight)
    optimizer = torch.optim.LBFGS(head.choose.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(head.choose(questions), wanted) + WEIGHT_DECAY / 2 * head.choose.weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(step)


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint that gets the frame grounder")
    parser.add_argument(
        "--backbone", required=True, help="backbone whose encoder becomes the head, see recipes/small/backbone.py"
    )
    parser.add_argument("--stems", required=True, help="folder of stored stem features: validation_field")
    parser.add_argument("--out", required=True, help="directory to write")
    arguments = parser.parse_args(argv)
    model, processor = load_checkpoint(arguments.checkpoint, dtype="float32")
    backbone, _ = load_checkpoint(arguments.backbone, dtype="float32")
    labels, frame_map = backbone.config.event_labels, load_file(f"{arguments.backbone}/{FRAME_MAP}")
    fit_label_grounder(model, processor, backbone.model.audio_tower, frame_map, labels)
    frame_rate, split = model.config.frame_rate, "validation_field"
    _, rows = read_stems(arguments.stems, split)
    states = {label: question_embeddings(model, processor, [label]) for label in labels}
    scores = score_stems(model, states, labels, arguments.stems, split)
    decoder, f1 = choose_decoder(scores, rows, labels, frame_rate)
    logger.info("event-based F1 of detection on %s: %.3f with %s", split, f1, decoder)
    threshold, recall, rejected = choose_query_threshold(scores, rows, labels, frame_rate, decoder)
    logger.info("queries at %.2f: R@.5 %.3f, %.3f of the absent ones rejected", threshold, recall, rejected)
    states = {
        label: question_embeddings(model, processor, heldout_paraphrases(label)[:1] or [label]) for label in labels
    }
    scores = score_stems(model, states, labels, arguments.stems, split)
    recall, rejected = score_queries(scores, rows, labels, frame_rate, decoder, threshold)
    logger.info("in words that were not taught: R@.5 %.3f, %.3f of the absent ones rejected", recall, rejected)
    model.config.frame_grounder |= decoder | {"query_threshold": threshold}
    save_checkpoint(model, processor, arguments.out)


if __name__ == "__main__":
    main()
