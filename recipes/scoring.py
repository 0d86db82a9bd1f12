"""Scores of detection and grounding: functions of events alone, without state, shared by reports and rewards.

References and predictions are lists over clips (or clip and query pairs) of lists of events: objects with `onset`,
`offset` (seconds) and `event_label`. A prediction may be `None`, an answer that could not be parsed. It is never
dropped: it finds nothing, it rejects nothing, and it is counted in `parse_failure_rate`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

IOU_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
# 3 s of 10 s must reach a threshold of 0.3 although binary fractions may miss it by a few units in the last place.
IOU_TOLERANCE = 1e-9


def match_events(
    reference, prediction, t_collar=0.2, percentage_of_length=0.2, time_only=False
) -> list[tuple[int, int]]:
    """Pair the events of one clip one to one, as many as can be.

    A pair has the same label, onsets at most `t_collar` apart, and offsets at most
    `max(t_collar, percentage_of_length * reference length)` apart; all bounds belong to the collar (`sed_eval` 0.2.1,
    `EventBasedMetrics.validate_onset`, `validate_offset` with `event_matching_type="optimal"`).

    Args:
        t_collar: tolerance in seconds.
        percentage_of_length: tolerance of offsets as a fraction of the reference event's length, 0 to 1.
        time_only: let events with different labels match.

    Returns:
        Indices `(of reference, of prediction)`.

    Raises:
        ValueError: a tolerance out of its range.
    """
    if not t_collar >= 0:
        raise ValueError(f"t_collar is {t_collar}; give seconds, 0 or more.")
    if not 0 <= percentage_of_length <= 1:
        raise ValueError(f"percentage_of_length is {percentage_of_length}; give a fraction from 0 to 1.")
    if not reference or not prediction:
        return []
    onsets, offsets = _times(reference)
    predicted_onsets, predicted_offsets = _times(prediction)
    offset_collars = np.maximum(t_collar, percentage_of_length * (offsets - onsets))
    is_hit = np.abs(onsets[:, None] - predicted_onsets) <= t_collar
    is_hit &= np.abs(offsets[:, None] - predicted_offsets) <= offset_collars[:, None]
    if not time_only:
        is_hit &= np.array([[a.event_label == b.event_label for b in prediction] for a in reference])
    rows, columns = linear_sum_assignment(is_hit, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if is_hit[i, j]]


def event_counts(references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False):
    """Count matches, references and predictions of every clip and label, the basis of event-based F1.

    Returns:
        Sorted labels, and an int array `(num_clips, num_labels, 3)` of matches, references and predictions.

    Raises:
        ValueError: different numbers of references and predictions, or a tolerance out of its range.
    """
    _check_lengths(references, predictions)
    predictions = [prediction or [] for prediction in predictions]
    labels = sorted({_label(event, time_only) for events in (*references, *predictions) for event in events})
    row_of = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(references), len(labels), 3), dtype=np.int64)
    for count, reference, prediction in zip(counts, references, predictions, strict=True):
        for i, _ in match_events(reference, prediction, t_collar, percentage_of_length, time_only):
            count[row_of[_label(reference[i], time_only)], 0] += 1
        for column, events in ((1, reference), (2, prediction)):
            for event in events:
                count[row_of[_label(event, time_only)], column] += 1
    return labels, counts


def micro_scores(counts) -> dict[str, float]:
    """Return F1, precision and recall over all events of `counts` (num_clips, num_labels, 3)."""
    return _scores(*counts.reshape(-1, 3).sum(axis=0))


def macro_scores(counts) -> dict[str, float]:
    """Return the means of F1, precision and recall over the labels that have reference events."""
    classes = [_scores(*row) for row in counts.sum(axis=0) if row[1]]
    if not classes:
        return micro_scores(counts)
    return {name: float(np.mean([scores[name] for scores in classes])) for name in classes[0]}


def event_based_f1(references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False) -> dict:
    """Return event-based F1 as sed_eval computes it (Mesaros et al. 2016, "Metrics for Polyphonic SED").

    Pass every clip, those without events too: their false alarms count. Where a ratio has the denominator 0 it is 1.0
    if there was nothing to find and nothing was found, else 0.0. For the collars see [`match_events`].

    Returns:
        `micro` over all events and `macro` over the labels with references, each with `f1`, `precision` and `recall`;
        `class_wise`, the same by label with the three counts; `parse_failure_rate`; `num_clips`.

    Raises:
        ValueError: different numbers of references and predictions, or a tolerance out of its range.
    """
    labels, counts = event_counts(references, predictions, t_collar, percentage_of_length, time_only)
    names = ("num_matches", "num_references", "num_predictions")
    return {
        "micro": micro_scores(counts),
        "macro": macro_scores(counts),
        "class_wise": {
            label: {**_scores(*row), **{name: int(n) for name, n in zip(names, row, strict=True)}}
            for label, row in zip(labels, counts.sum(axis=0), strict=True)
        },
        "parse_failure_rate": parse_failure_rate(predictions),
        "num_clips": len(references),
    }


def union_iou(reference, prediction) -> float:
    """Return the length of what both cover over the length of what either covers; labels play no part.

    Overlapping events of one side are united first. Both sides empty: 1.0. One side empty: 0.0. Unparseable (`None`):
    0.0, for a broken answer is no rejection. If both sides have no length at all, 1.0 where they are equal.
    """
    if prediction is None:
        return 0.0
    reference, prediction = _union(reference), _union(prediction)
    shared = sum(
        max(0.0, min(offset, other_offset) - max(onset, other_onset))
        for onset, offset in reference
        for other_onset, other_offset in prediction
    )
    covered = sum(offset - onset for onset, offset in reference + prediction) - shared
    return shared / covered if covered > 0 else float(reference == prediction)


def recall_at_iou(references, predictions, thresholds: Sequence[float] = IOU_THRESHOLDS) -> dict[str, float]:
    """Return the share of pairs whose [`union_iou`] reaches each threshold, and its mean.

    "mIoU" means several things in print; `miou_union` is the mean over pairs of the IoU of the set unions.

    Returns:
        `R@0.3` and so on for each threshold, `miou_union`, `parse_failure_rate` and `num_pairs`.

    Raises:
        ValueError: no pairs, or different numbers of references and predictions.
    """
    _check_lengths(references, predictions, empty=False)
    ious = np.array([union_iou(*pair) for pair in zip(references, predictions, strict=True)])
    return {
        **{f"R@{threshold:g}": float(np.mean(ious >= threshold - IOU_TOLERANCE)) for threshold in thresholds},
        "miou_union": float(ious.mean()),
        "parse_failure_rate": parse_failure_rate(predictions),
        "num_pairs": len(ious),
    }


def rejection_rates(references, predictions) -> dict[str, float | int | None]:
    """Return how often an absent query is rejected, and how often a present one is.

    A query is absent where its reference is empty; it is rejected by `[]`, not by an unparseable answer.

    Returns:
        `true_rejection_rate` of absent queries and `false_rejection_rate` of present ones, `None` where there are none;
        `num_absent` and `num_present`.

    Raises:
        ValueError: different numbers of references and predictions.
    """
    _check_lengths(references, predictions)
    rejected = [prediction is not None and not prediction for prediction in predictions]
    absent = [value for value, reference in zip(rejected, references, strict=True) if not reference]
    present = [value for value, reference in zip(rejected, references, strict=True) if reference]
    return {
        "true_rejection_rate": float(np.mean(absent)) if absent else None,
        "false_rejection_rate": float(np.mean(present)) if present else None,
        "num_absent": len(absent),
        "num_present": len(present),
    }


def count_accuracy(references, predictions) -> float:
    """Return the share of pairs with as many predicted events as reference events; `None` is never right.

    Raises:
        ValueError: no pairs, or different numbers of references and predictions.
    """
    _check_lengths(references, predictions, empty=False)
    counts = [None if prediction is None else len(prediction) for prediction in predictions]
    return float(np.mean([len(reference) == count for reference, count in zip(references, counts, strict=True)]))


def parse_failure_rate(predictions) -> float:
    """Return the share of predictions that are `None`; 0.0 of no predictions."""
    return sum(prediction is None for prediction in predictions) / max(len(predictions), 1)


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: array `(num_clips, ...)`, what one clip contributes in each row. Clips are drawn with replacement, for
            events and queries of one clip are not independent.
        statistic: maps an array of such rows to a number. Resamples where it is not finite (`nan`) are left out.
        confidence: probability that the interval covers, between 0 and 1.
        num_resamples: how often the clips are drawn.
        seed: the same seed draws the same clips.

    Raises:
        ValueError: no clips, a confidence out of range, or no resample with a finite statistic.
    """
    values = np.asarray(values)
    if not len(values):
        raise ValueError("values is empty; an interval needs at least one clip.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a probability between 0 and 1, for instance 0.95.")
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(values), size=len(values)) for _ in range(num_resamples))
    statistics = np.array([statistic(values[draw]) for draw in draws], dtype=np.float64)
    statistics = statistics[np.isfinite(statistics)]
    if not len(statistics):
        raise ValueError(f"statistic is finite in none of {num_resamples} resamples; give more clips.")
    low, high = np.quantile(statistics, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _times(events) -> tuple[np.ndarray, np.ndarray]:
    times = np.array([(event.onset, event.offset) for event in events], dtype=np.float64)
    return times[:, 0], times[:, 1]


def _label(event, time_only: bool) -> str:
    return "" if time_only else event.event_label


def _scores(num_matches, num_references, num_predictions) -> dict[str, float]:
    nothing_at_all = float(num_references == num_predictions == 0)

    def ratio(numerator, denominator):
        return float(numerator / denominator) if denominator else nothing_at_all

    return {
        "f1": ratio(2 * num_matches, num_references + num_predictions),
        "precision": ratio(num_matches, num_predictions),
        "recall": ratio(num_matches, num_references),
    }


def _union(events) -> list[tuple[float, float]]:
    """Return the disjoint intervals that events cover, in order."""
    merged = []
    for onset, offset in sorted((event.onset, event.offset) for event in events):
        if merged and onset <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset))
        else:
            merged.append((onset, offset))
    return merged


def _check_lengths(references, predictions, empty=True):
    if len(references) != len(predictions):
        raise ValueError(
            f"references has {len(references)} entries and predictions {len(predictions)}; give one prediction, "
            "possibly [] or None, for each reference."
        )
    if not empty and not references:
        raise ValueError("references is empty; give at least one pair.")
