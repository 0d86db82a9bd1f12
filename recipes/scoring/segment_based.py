"""Segment-based F1 and error rate: labels that are active in each segment."""

import math

import numpy as np

from recipes.scoring.counts import ClipCounts, check_lengths, parse_failure_rate, score_counts

# In segments: a time this close to an edge is on it, since 0.3 / 0.1 is 2.9999999999999996 in float64.
EDGE_TOLERANCE = 1e-6


def segment_based_f1(references, predictions, time_resolution=1.0, sed_eval_rounding=False) -> dict:
    """Return segment-based F1 and error rate (Mesaros et al. 2016).

    An event makes its label active from segment `floor(onset / time_resolution)` up to, but excluding,
    `ceil(offset / time_resolution)`. In each segment, missed and wrong labels are paired as substitutions; the rest are
    deletions or insertions.

    Pass all clips, including those without events. sed_eval assigns NaN to a label that is never predicted and excludes
    it from the macro average, which rewards silence; here its F1 is 0.0.

    Args:
        time_resolution: segment length in seconds; 1.0 and 0.1 are usual.
        sed_eval_rounding: use float64 division without tolerance, as sed_eval 0.2.1 does: with 0.1 s an event from 0.3
            to 0.4 s then fills two segments. By default times within a millionth of a segment of an edge are on it.

    Returns:
        What [`~recipes.scoring.counts.score_counts`] returns, counted in segments: `micro`, `macro`, `micro_errors`,
        `macro_errors` and `class_wise`; also `time_resolution`, `parse_failure_rate` and `num_clips`.

    Raises:
        ValueError: different numbers of references and predictions, or a resolution that is not positive.
    """
    scores = score_counts(count_segments(references, predictions, time_resolution, sed_eval_rounding))
    rest = {"parse_failure_rate": parse_failure_rate(predictions), "num_clips": len(references)}
    return {"time_resolution": float(time_resolution), **scores, **rest}


def count_segments(references, predictions, time_resolution=1.0, sed_eval_rounding=False) -> ClipCounts:
    """Count the active segments of every clip and label: in both, in the reference, and in the prediction.

    The cost grows with the number of events, not of segments.

    Raises:
        ValueError: different numbers of references and predictions, or a resolution that is not positive.
    """
    check_lengths(references, predictions)
    if not 0 < time_resolution < math.inf:
        raise ValueError(f"time_resolution is {time_resolution}; give the length of a segment in seconds, above 0.")
    events = [
        (clip, event.event_label, side, event.onset, event.offset)
        for clip, pair in enumerate(zip(references, predictions, strict=True))
        for side, events in enumerate(pair)
        for event in events or ()
    ]
    labels = sorted({event[1] for event in events})
    ranks = {label: rank for rank, label in enumerate(labels)}
    table = np.array([(clip, ranks[label], *rest) for clip, label, *rest in events], dtype=np.float64).reshape(-1, 5)
    clips, label_indices, side = table[:, :3].astype(np.int64).T
    # Whole numbers, but as floats, since int64 would overflow silently.
    onset, offset = table[:, 3:].T / time_resolution
    tolerance = 0.0 if sed_eval_rounding else EDGE_TOLERANCE
    first, end = np.floor(onset + tolerance), np.ceil(offset - tolerance)
    if tolerance:  # an event with a length is active somewhere
        end = np.maximum(end, first + (offset > onset))

    pairs, group = np.unique(clips * max(len(labels), 1) + label_indices, return_inverse=True)
    group, first, end, active = _pieces(group, side, first, end)
    active = active > 0
    both = active.all(axis=1)
    length = end - first
    counts = [np.bincount(group, length * is_in, len(pairs)) for is_in in (both, active[:, 0], active[:, 1])]
    label_rows = np.stack([*np.divmod(pairs, max(len(labels), 1)), *counts], axis=1).astype(np.int64)

    # How many labels of a clip are missed and how many are wrong, at each time.
    alone = active.any(axis=1) & ~both
    clips, first, end, errors = _pieces(
        label_rows[group[alone], 0], active[alone, 1].astype(np.int64), first[alone], end[alone]
    )
    length = end - first
    missed, wrong = errors.T
    parts = np.minimum(missed, wrong), np.maximum(missed - wrong, 0), np.maximum(wrong - missed, 0)
    totals = [np.bincount(label_rows[:, 0], column, len(references)) for column in label_rows[:, 2:].T]
    totals += [np.bincount(clips, length * part, len(references)) for part in parts]
    return ClipCounts(np.stack(totals, axis=1).astype(np.int64), labels, label_rows)


def _pieces(group, side, start, end):
    """Split the time of each group at every start and end of an interval.

    Args:
        group, side, start, end: arrays `(num_intervals,)`; `side` is 0 or 1.

    Returns:
        `group`, `start` and `end` of the pieces, and the number of intervals of each side that cover them
        `(num_pieces, 2)`.
    """
    num_intervals = len(group)
    groups, edges = np.concatenate([group, group]), np.concatenate([start, end])
    changes = np.zeros((2 * num_intervals, 2), dtype=np.int64)
    changes[np.arange(num_intervals), side] = 1
    changes[num_intervals + np.arange(num_intervals), side] = -1
    order = np.lexsort((edges, groups))
    groups, edges, active = groups[order], edges[order], np.cumsum(changes[order], axis=0)
    has_length = (groups[:-1] == groups[1:]) & (edges[:-1] < edges[1:])
    return groups[:-1][has_length], edges[:-1][has_length], edges[1:][has_length], active[:-1][has_length]
