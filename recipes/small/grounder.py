"""Train only the small checkpoint's frame grounder, with the language model's states computed in advance.

    python -m recipes.small.grounder --checkpoint DIR --stems DIR --out DIR [--num-steps 600]

`recipes/sft.py` with `answer_weight: 0` runs the language model on every question in every step. Here each label is
asked once about a few clips, and the language model's states of these questions are stored; a step then trains the head
with states from any of these clips. This is ten times faster, and makes the head independent of the clip about which a
question was asked. The head's audio input is the encoder's frozen stem.
"""

import logging
from itertools import product

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from processing.answer_text import PROMPTS, prompt_text
from processing.events import Event
from processing.frame_decoding import frame_events
from recipes.arguments import script_parser
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.data.label_phrases import paraphrases
from recipes.scoring import event_based_f1, recall_at_iou
from recipes.small.averaged_training import train_averaged
from recipes.small.frame_labels import blank, frame_targets, known_labels, read_stems
from recipes.training.collator import TimeProCollator
from recipes.training.grounder_loss import grounder_loss, prepare_grounder

logger = logging.getLogger(__name__)

QUERY_THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)

# Thresholds, and lengths in seconds, to choose from on the validation split.
DECODERS = {
    "threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "median_filter_s": (0.0, 0.24, 0.4, 0.56),
    "min_gap_s": (0.0, 0.16, 0.32),
    "min_length_s": (0.0, 0.16, 0.24),
}


@torch.no_grad()
def question_states(model, processor, folder, split, labels, num_clips=16, seed=0):
    """Return the input of the language model's last layer for questions about each label, asked about a few clips.

    Returns:
        for each label a list of `(num_tokens, hidden_size)`, one per clip: first for the label itself in the default
        prompt, then for varying prompts and paraphrases.
    """
    stems, rows = read_stems(folder, split)
    rng = np.random.default_rng([seed, 1])
    states = {label: [] for label in labels}
    for number, place in enumerate(tqdm(rng.permutation(len(rows))[:num_clips], desc="questions")):
        asked = []
        for label in labels:
            words, prompts = paraphrases(label), len(PROMPTS["grounding"])
            query = label if not number or rng.random() < 0.5 else words[int(rng.integers(len(words)))]
            asked.append(prompt_text("grounding", query, int(rng.integers(prompts)) if number else 0))
        for label, state in zip(labels, states_of(model, processor, stems, place, asked), strict=True):
            states[label].append(state)
    return states


@torch.no_grad()
def states_of(model, processor, stems, clip, asked):
    """Return the input of the last layer, `(num_tokens, hidden_size)`, for each question that is asked about a clip."""
    turns = [{"question": question, "answer": "none", "event_label": question} for question in asked]
    piece = {"stem_index": int(clip), "start": 0.0, "duration": None}
    batch = TimeProCollator(processor, stems, frame_targets=True)([{"pieces": [piece], "turns": turns}])
    names = ("input_ids", "attention_mask", "position_ids", "stem_features", "input_features_mask")
    inputs = {name: batch[name] for name in names if name in batch}
    hidden = model.model(**inputs, output_hidden_states=True).hidden_states[-2][0]
    return [hidden[tokens[tokens >= 0]] for tokens in batch["question_tokens"]]


def _padded(states):
    """Return padded question states `(num_questions, num_tokens, hidden_size)` and the mask of their tokens."""
    sizes = torch.tensor([len(question) for question in states])
    padded = nn.utils.rnn.pad_sequence(states, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < sizes[:, None]


def train_grounder(
    model, processor, folder, num_steps=1500, batch_size=16, num_absent=8, learning_rate=1e-3, seed=0,
    split="train_field", resume=None,
):  # fmt: skip
    """Train the frame grounder of a model on stored stems, in place; return `(labels, question states)`.

    The result is a running average of the weights, see [`train_averaged`].

    Args:
        folder: folder of the stored stems.
        num_absent: number of absent labels to ask about per clip, in addition to the present ones.
        resume: folder to save to every 25 steps, and to resume from.
    """
    stems, rows = read_stems(folder, split)
    labels = known_labels(rows)
    prepare_grounder(model, is_alone=True, frames="stem")
    states = question_states(model.eval(), processor, folder, split, labels, seed=seed)
    targets, _ = frame_targets(rows, labels, stems.shape[1], model.config.frame_rate)
    present = [sorted({labels.index(event["event_label"]) for event in row["events"]}) for row in rows]
    head = model.frame_grounder.train()

    def step_loss(rng):
        chosen = np.sort(rng.integers(0, len(rows), batch_size))
        clips, asked = [], []
        for clip, row in enumerate(chosen):
            absent = rng.permutation([index for index in range(len(labels)) if index not in present[row]])
            for label in [*present[row], *absent[:num_absent]]:
                clips.append(clip)
                asked.append(int(label))
        choices = [states[labels[label]] for label in asked]
        questions, is_token = _padded([every[int(rng.integers(len(every)))] for every in choices])
        frames = blank(torch.from_numpy(stems[chosen].astype(np.float32)), rng)
        # Adjacent frames are similar, so use half of them.
        some = np.sort(rng.permutation(frames.shape[1])[: -(-frames.shape[1] // 2)])
        encoded = head.encode(frames, torch.ones(frames.shape[:2], dtype=torch.bool))[:, some]
        logits = head.match(encoded, questions, is_token, torch.tensor(clips))
        wanted = [targets[chosen[clip], some, label] for clip, label in zip(clips, asked, strict=True)]
        return grounder_loss(logits, torch.stack(wanted))

    train_averaged(head, step_loss, num_steps, learning_rate, 20, seed, "frame grounder", resume, save_every=25)
    model.eval()
    return labels, states


@torch.no_grad()
def score_stems(model, states, labels, folder, split):
    """Return the scores of all labels in the stored clips of a split, `(num_clips, num_labels, num_frames)`.

    Args:
        states: question states by label, of which the first is used.
    """
    stems, _ = read_stems(folder, split)
    questions, is_token = _padded([states[label][0] for label in labels])
    scores = []
    for stem in tqdm(stems, desc=f"{split} scores"):
        frames = torch.from_numpy(stem[None].astype(np.float32))
        if model.config.frame_grounder["frames"] == "encoder":
            frames = model.model.audio_tower(stem_features=frames).last_hidden_state
        mask, clips = torch.ones(frames.shape[:2], dtype=torch.bool), torch.zeros(len(labels), dtype=torch.long)
        scores.append(model.frame_grounder(frames, mask, questions, is_token, clips).sigmoid().numpy())
    return np.stack(scores)


def detection_f1(scores, rows, labels, frame_rate, decoder):
    """Return the event-based F1 (micro) of the events that scores `(num_clips, num_labels, num_frames)` indicate."""
    references = [[Event.from_dict(event) for event in row["events"]] for row in rows]
    predictions = [
        [
            event
            for label, part in zip(labels, clip, strict=True)
            for event in frame_events(part, label, frame_rate, **decoder)
        ]
        for clip in scores
    ]
    return event_based_f1(references, predictions)["micro"]["f1"]


def choose_decoder(scores, rows, labels, frame_rate):
    """Return `(settings, event-based F1)` of the best of [`DECODERS`] on clips: how scores become events.

    The threshold is chosen with the median filter first, then the two lengths.
    """

    def f1(settings):
        return detection_f1(scores, rows, labels, frame_rate, settings)

    best = {name: values[0] for name, values in DECODERS.items()}
    for names in (("threshold", "median_filter_s"), ("min_gap_s", "min_length_s")):
        choices = [
            best | dict(zip(names, values, strict=True)) for values in product(*(DECODERS[name] for name in names))
        ]
        best = max(tqdm(choices, desc="frame decoder"), key=f1)
    return best, f1(best)


def score_queries(scores, rows, labels, frame_rate, decoder, threshold):
    """Return `(R@.5, fraction of absent queries rejected)` of scores `(num_clips, num_labels, num_frames)`.

    Asked about are the labels of a clip, and those that its row says to be absent.
    """
    lengths = {name: decoder[name] for name in ("median_filter_s", "min_gap_s", "min_length_s")}
    wanted, found, rejected = [], [], []
    for row, clip in zip(rows, scores, strict=True):
        for label in sorted({event["event_label"] for event in row["events"]} | set(row["absent"])):
            said = frame_events(clip[labels.index(label)], label, frame_rate, threshold, **lengths)
            events = [Event.from_dict(event) for event in row["events"] if event["event_label"] == label]
            if events:
                wanted.append(events)
                found.append(said)
            else:
                rejected.append(not said)
    return recall_at_iou(wanted, found, thresholds=(0.5,))["R@0.5"], float(np.mean(rejected))


def choose_query_threshold(scores, rows, labels, frame_rate, decoder):
    """Return `(threshold, R@.5, fraction of absent queries rejected)` with the highest sum of the two on clips."""
    results = [
        (threshold, *score_queries(scores, rows, labels, frame_rate, decoder, threshold))
        for threshold in QUERY_THRESHOLDS
    ]
    return max(results, key=lambda result: result[1] + result[2])


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint whose frame grounder is trained")
    parser.add_argument("--stems", required=True, help="directory of stored stem features")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--split", default="train_field", help="which stems to learn from (default: train_field)")
    parser.add_argument("--num-steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    model, processor = load_checkpoint(arguments.checkpoint, dtype="float32")
    labels, states = train_grounder(
        model, processor, arguments.stems, arguments.num_steps, seed=arguments.seed, split=arguments.split,
        resume=f"{arguments.out}.resume",
    )  # fmt: skip
    save_checkpoint(model, processor, arguments.out)
    validation = arguments.split.replace("train", "validation")
    _, rows = read_stems(arguments.stems, validation)
    scores = score_stems(model, states, labels, arguments.stems, validation)
    decoder, f1 = choose_decoder(scores, rows, labels, model.config.frame_rate)
    logger.info("event-based F1 of detection on %s: %.3f with %s", validation, f1, decoder)
    threshold, recall, rejected = choose_query_threshold(scores, rows, labels, model.config.frame_rate, decoder)
    logger.info("queries at %.2f: R@.5 %.3f, %.3f of the absent ones rejected", threshold, recall, rejected)
    model.config.frame_grounder |= decoder | {"query_threshold": threshold}
    save_checkpoint(model, processor, arguments.out)


if __name__ == "__main__":
    main()
