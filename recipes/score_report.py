"""The scores of answers about annotated clips, with intervals."""

import numpy as np

from recipes.score_questions import grounding_pairs
from recipes.scoring import (
    IOU_THRESHOLDS,
    IOU_TOLERANCE,
    bootstrap_interval,
    count_accuracy,
    event_based_f1,
    event_counts,
    macro_scores,
    micro_scores,
    recall_at_iou,
    rejection_rates,
    union_iou,
)


def make_report(rows, answers, num_absent=2) -> dict:
    """Return scores with 95 % bootstrap intervals over clips.

    Args:
        rows: annotated clips, see `recipes/score_questions.py`.
        answers: events, or `None` for an unparseable answer, by question `(id, task, query)`.
        num_absent: as it was when the questions were asked.

    Returns:
        `detection` (event-based F1), `grounding` (queries that are present) and `rejection` (all queries), each with
        `intervals`; parts without questions are absent.
    """
    report = {}
    detected = [row for row in rows if (row["id"], "detection", None) in answers]
    if detected:
        references = [row["events"] for row in detected]
        predictions = [answers[row["id"], "detection", None] for row in detected]
        _, counts = event_counts(references, predictions)
        report["detection"] = {"t_collar": 0.2, "percentage_of_length": 0.2, **event_based_f1(references, predictions)}
        report["detection"]["intervals"] = {
            "micro_f1": bootstrap_interval(counts, lambda sample: micro_scores(sample)["f1"]),
            "macro_f1": bootstrap_interval(counts, lambda sample: macro_scores(sample)["f1"]),
        }
    pairs = [pair for row in rows for pair in grounding_pairs(row, answers, num_absent)]
    present = [pair for pair in pairs if pair[1]]
    if present:
        _, references, predictions = zip(*present, strict=True)
        report["grounding"] = {
            **recall_at_iou(references, predictions),
            "count_accuracy": count_accuracy(references, predictions),
            "intervals": _grounding_intervals(present),
        }
    if pairs:
        report["rejection"] = rejection_rates([pair[1] for pair in pairs], [pair[2] for pair in pairs])
        rejected = [(clip, float(answer == [])) for (clip, _, _), reference, answer in pairs if not reference]
        if rejected:
            report["rejection"]["intervals"] = {"true_rejection_rate": _clip_interval(rejected)}
    return report


def _grounding_intervals(pairs) -> dict:
    ious = [(clip, union_iou(reference, prediction)) for (clip, _, _), reference, prediction in pairs]
    intervals = {"miou_union": _clip_interval(ious)}
    for threshold in IOU_THRESHOLDS:
        hits = [(clip, float(iou >= threshold - IOU_TOLERANCE)) for clip, iou in ious]
        intervals[f"R@{threshold:g}"] = _clip_interval(hits)
    return intervals


def _clip_interval(values) -> tuple[float, float]:
    """Return the interval of the mean of `(clip, value)` pairs, resampled by clip."""
    sums = {}
    for clip, value in values:
        total, count = sums.get(clip, (0.0, 0))
        sums[clip] = (total + value, count + 1)
    return bootstrap_interval(np.array(list(sums.values())), lambda rows: rows[:, 0].sum() / rows[:, 1].sum())
