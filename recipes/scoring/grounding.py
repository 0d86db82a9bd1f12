"""Grounding: how well predicted intervals cover the reference ones, how many there are, and whether absence is told."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from recipes.scoring.counts import check_lengths, parse_failure_rate

IOU_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
# 3 s of 10 s must reach a threshold of 0.3 although binary fractions may miss it by a few units in the last place.
IOU_TOLERANCE = 1e-9


def union_iou(reference, prediction) -> float:
    """Return the length of what both cover over the length of what either covers; labels play no part.

    Overlapping events of one side are united first. Both sides empty: 1.0. One side empty: 0.0. Unparseable (`None`):
    0.0, for a broken answer is no rejection. If both sides have no length at all, 1.0 where they are equal.
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
    """Return the mean over reference events of the highest IoU with any predicted event; labels play no part.

    One predicted event may be the best of several references, and predictions too many cost nothing: read it beside
    [`union_iou`], which counts both. Both sides empty: 1.0. One side empty: 0.0. Unparseable (`None`): 0.0. A reference
    without length has 1.0 if it is predicted exactly, else 0.0.
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
        # Leftwards from the last that starts in time, until none can reach into the reference.
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

    "mIoU" means several things in print. `miou_union`, the headline, is the mean over pairs of the IoU of the set
    unions; `miou_best_match` is the mean over pairs of [`best_match_iou`]. Where each pair has one reference and one
    prediction they are the same. Cut predictions at the end of the recording first
    ([`~processing.events.clip_events`]) and say so: the length is not known here.

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
    """Return how often an absent query is rejected (true positives of rejection), and a present one (false positives).

    A query is absent where its reference is empty; it is rejected by `[]`, not by an unparseable answer.

    Returns:
        `true_rejection_rate` of absent queries and `false_rejection_rate` of present ones, `None` where there are none;
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
    """Return whether an answer says that there is nothing: `[]`, but not `None`."""
    return prediction is not None and not prediction


def count_accuracy(references, predictions) -> float:
    """Return the fraction of pairs with as many predicted events as reference events; `None` is never right.

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
