"""Grounding: overlap of predicted and reference intervals, their number, and rejection of absent queries."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from recipes.scoring.counts import check_lengths, parse_failure_rate

IOU_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
# 3 s of 10 s must reach a threshold of 0.3 despite rounding in binary.
IOU_TOLERANCE = 1e-9


def union_iou(reference, prediction) -> float:
    """Return the intersection over union of the time that each side covers, regardless of labels.

    Overlapping events of one side are merged first. Both sides empty: 1.0. One side empty: 0.0. Unparseable (`None`):
    0.0, since a broken answer is not a rejection. If neither side has any length: 1.0 if they are equal, else 0.0.
    """
    if prediction is None:
        return 0.0
    reference, prediction = _union(reference), _union(prediction)
    shared, i, j = 0.0, 0, 0
    while i < len(reference) and j < len(prediction):
        shared += max(0.0, min(reference[i][1], prediction[j][1]) - max(reference[i][0], prediction[j][0]))
        if reference[i][1] < prediction[j][1]:
            i += 1
        else:
            j += 1
    covered = sum(offset - onset for onset, offset in reference + prediction) - shared
    return shared / covered if covered > 0 else float(reference == prediction)


def label_iou(reference, prediction) -> float:
    """Return the mean of [`union_iou`] over the labels that either side names; 1.0 if neither names any."""
    if prediction is None:
        return 0.0
    labels = sorted({event.event_label for event in (*reference, *prediction)})
    parts = ([[e for e in side if e.event_label == label] for side in (reference, prediction)] for label in labels)
    return sum(union_iou(*pair) for pair in parts) / len(labels) if labels else 1.0


def best_match_iou(reference, prediction) -> float:
    """Return the mean over reference events of the highest IoU with any predicted event, regardless of labels.

    One prediction may be the best match of several references, and superfluous predictions cost nothing: read it
    together with [`union_iou`], which penalises both. Both sides empty: 1.0. One side empty: 0.0. Unparseable (`None`):
    0.0. A reference without length counts 1.0 if it is predicted exactly, else 0.0.
    """
    if prediction is None:
        return 0.0
    if not reference or not prediction:
        return float(not reference and not prediction)
    exact = {(event.onset, event.offset) for event in prediction}
    spans = sorted(exact)
    reach = list(accumulate((offset for _, offset in spans), max))
    total = 0.0
    for event in reference:
        onset, offset = event.onset, event.offset
        best = float(onset == offset and (onset, offset) in exact)
        k = bisect_left(spans, (offset,)) - 1
        # Leftwards from the last one that starts before the offset, until none can reach the onset.
        while k >= 0 and reach[k] > onset:
            start, end = spans[k]
            shared = min(offset, end) - max(onset, start)
            if shared > 0:
                best = max(best, shared / (max(offset, end) - min(onset, start)))
            k -= 1
        total += best
    return total / len(reference)


def recall_at_iou(references, predictions, thresholds: Sequence[float] = IOU_THRESHOLDS) -> dict[str, float]:
    """Return the fraction of pairs whose [`union_iou`] reaches each threshold, and its mean.

    The literature has several definitions of mIoU. `miou_union`, the headline, is the mean of [`union_iou`] over pairs,
    `miou_best_match` that of [`best_match_iou`]. They are equal if each pair has one reference and one prediction. Cut
    predictions at the end of the recording first ([`~processing.events.clip_events`]), and say so.

    Returns:
        `R@0.3` and so on for each threshold, `miou_union`, `miou_best_match`, `parse_failure_rate` and `num_pairs`.

    Raises:
        ValueError: no pairs, or different numbers of references and predictions.
    """
    check_lengths(references, predictions, empty=False)
    pairs = list(zip(references, predictions, strict=True))
    ious = np.array([union_iou(*pair) for pair in pairs])
    return {
        **{f"R@{threshold:g}": float(np.mean(ious >= threshold - IOU_TOLERANCE)) for threshold in thresholds},
        "miou_union": float(ious.mean()),
        "miou_best_match": float(np.mean([best_match_iou(*pair) for pair in pairs])),
        "parse_failure_rate": parse_failure_rate(predictions),
        "num_pairs": len(ious),
    }


def rejection_rates(references, predictions) -> dict[str, float | int | None]:
    """Return how often absent queries are rejected (true positives of rejection), and present ones (false positives).

    A query is absent if its reference is empty; it is rejected by `[]`, not by an unparseable answer.

    Returns:
        `true_rejection_rate` of absent queries and `false_rejection_rate` of present ones, `None` if there are none;
        `num_absent` and `num_present`.

    Raises:
        ValueError: different numbers of references and predictions.
    """
    check_lengths(references, predictions)
    rejected = [is_rejection(prediction) for prediction in predictions]
    absent = [value for value, reference in zip(rejected, references, strict=True) if not reference]
    present = [value for value, reference in zip(rejected, references, strict=True) if reference]
    return {
        "true_rejection_rate": float(np.mean(absent)) if absent else None,
        "false_rejection_rate": float(np.mean(present)) if present else None,
        "num_absent": len(absent),
        "num_present": len(present),
    }


def is_rejection(prediction) -> bool:
    """Return whether an answer is a rejection: `[]`, but not `None`."""
    return prediction is not None and not prediction


def count_accuracy(references, predictions) -> float:
    """Return the fraction of pairs with as many predicted as reference events; `None` is never correct.

    Raises:
        ValueError: no pairs, or different numbers of references and predictions.
    """
    check_lengths(references, predictions, empty=False)
    pairs = zip(references, predictions, strict=True)
    return float(np.mean([has_right_count(reference, prediction) for reference, prediction in pairs]))


def has_right_count(reference, prediction) -> bool:
    """Return whether a parsed answer has as many events as the reference."""
    return prediction is not None and len(reference) == len(prediction)


def _union(events) -> list[tuple[float, float]]:
    """Return the disjoint intervals that events cover, in order."""
    merged = []
    for onset, offset in sorted((event.onset, event.offset) for event in events):
        if merged and onset <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset))
        else:
            merged.append((onset, offset))
    return merged
