"""Train the frame grounder: question tokens, frame targets, and the loss."""

import numpy as np
import torch
from torch.nn import functional as F

from processing.answer_text import parse_events

GROUNDER = "frame_grounder"
# The target, which is not an argument of `forward`.
FRAME_TARGETS = "frame_targets"


def frame_coverage(intervals, num_frames, frame_rate):
    """Return the fraction of each frame `(num_frames,)` float32 that intervals `(onset, offset)` in seconds cover."""
    starts = np.arange(num_frames) / frame_rate
    covered = np.zeros(num_frames, dtype=np.float32)
    for onset, offset in intervals:
        part = np.minimum(offset, starts + 1 / frame_rate) - np.maximum(onset, starts)
        covered = np.maximum(covered, np.clip(part * frame_rate, 0, 1))
    return covered.astype(np.float32)


def question_spans(tokens, audio_token_id, prefix, branches):
    """Return the positions in a row of each turn's question tokens: those between the audio and the answer.

    Args:
        tokens: `input_ids` and `labels` of each turn; labels are -100 before the answer.
        prefix: number of tokens that the turns share; they are in the row once.
        branches: number of further tokens of each turn.
    """
    spans, start = [], prefix
    for turn, size in zip(tokens, branches, strict=True):
        ids, labels = turn["input_ids"], turn["labels"]
        first = len(ids) - ids[::-1].index(audio_token_id)
        last = next(place for place, label in enumerate(labels) if label != -100)
        spans.append([place if place < prefix else start + place - prefix for place in range(first, last)])
        start += size
    return spans


def question_batch(clips, grid):
    """Return `question_tokens`, `question_rows` and [`FRAME_TARGETS`], padded with -1; `{}` without questions.

    Args:
        clips: for each row its `questions`, pairs of a token span and the reference answer, and its `num_frames`.
        grid: the checkpoint's [`TimeGrid`].
    """
    asked = [(row, *question, clip["num_frames"]) for row, clip in enumerate(clips) for question in clip["questions"]]
    if not asked:
        return {}
    longest, most = (max(sizes) for sizes in zip(*((len(span), num) for _, span, _, num in asked)))
    events = [[(event.onset, event.offset) for event in parse_events(answer, "grounding")] for *_, answer, _ in asked]
    covered = [frame_coverage(times, num, grid.frame_rate) for times, (*_, num) in zip(events, asked, strict=True)]
    return {
        "question_tokens": torch.tensor([span + [-1] * (longest - len(span)) for _, span, _, _ in asked]),
        "question_rows": torch.tensor([row for row, *_ in asked]),
        FRAME_TARGETS: torch.stack([F.pad(torch.from_numpy(c), (0, most - len(c)), value=-1) for c in covered]),
    }


def grounder_loss(logits, targets):
    """Return the mean binary cross-entropy over frames.

    Args:
        logits: `(num_questions, num_frames)`.
        targets: active fraction of each frame, of the same shape; -1 for padding.
    """
    is_real = targets >= 0
    return F.binary_cross_entropy_with_logits(logits[is_real], targets[is_real].to(logits.dtype))


def prepare_grounder(model, is_alone, peft_config=None, frames="encoder"):
    """Add the head to a model without one, and make it the only trained part, or train and save it with an adapter."""
    if model.frame_grounder is None:
        model.add_frame_grounder(frames=frames)
    if is_alone:
        model.requires_grad_(False)
        model.frame_grounder.requires_grad_(True)
    if peft_config is not None:
        peft_config.modules_to_save = [*(peft_config.modules_to_save or ()), GROUNDER]
