"""Event-based F1 and error rate: whole events, found within collars."""

import numpy as np

from recipes.event_matching import check_collars, count_substitutions, match_spans, spans_of
from recipes.score_counts import ClipCounts, check_lengths, parse_failure_rate, score_counts


def event_based_f1(references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False) -> dict:
    """Return event-based F1 and error rate as sed_eval computes them (Mesaros et al. 2016).

    Pass every clip, those without events too: their false alarms count. (The script of DESED loops over the files of
    the reference and never counts them.) Where a ratio has the denominator 0 it is 1.0 if there was nothing to find and
    nothing was found, else 0.0. For the collars see [`match_events`]; for the order of events, which substitutions
    depend on in sed_eval, see [`~recipes.event_matching.count_substitutions`].

    Returns:
        What [`~recipes.score_counts.score_counts`] returns: `micro`, `macro`, `micro_errors`, `macro_errors` and
        `class_wise`; also `parse_failure_rate` and `num_clips`.

    Raises:
        ValueError: different numbers of references and predictions, or a tolerance out of its range.
    """
    counts = count_events(references, predictions, t_collar, percentage_of_length, time_only)
    rest = {"parse_failure_rate": parse_failure_rate(predictions), "num_clips": len(references)}
    return {**score_counts(counts), **rest}


def event_f1(reference, prediction, t_collar=0.2, percentage_of_length=0.2, time_only=False) -> float:
    """Return event-based F1 of one clip, fast enough to be a reward; see [`event_based_f1`].

    Both sides empty: 1.0. A prediction that is `None`: 0.0, for a broken answer is no rejection.

    Raises:
        ValueError: a tolerance out of its range.
    """
    check_collars(t_collar, percentage_of_length)
    if prediction is None:
        return 0.0
    num_events = len(reference) + len(prediction)
    if not num_events:
        return 1.0
    sides = spans_of(reference, time_only), spans_of(prediction, time_only)
    return 2 * len(match_spans(*sides, t_collar, percentage_of_length)) / num_events


def count_events(references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False) -> ClipCounts:
    """Count matched, reference and predicted events, substitutions, deletions and insertions of every clip.

    Raises:
        ValueError: different numbers of references and predictions, or a tolerance out of its range.
    """
    check_lengths(references, predictions)
    check_collars(t_collar, percentage_of_length)
    totals, rows, index_of = [], [], {}
    for clip, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        reference, prediction = spans_of(reference, time_only), spans_of(prediction or (), time_only)
        pairs = match_spans(reference, prediction, t_collar, percentage_of_length)
        by_label = {}
        for column, side in ((2, [reference[i] for i, _ in pairs]), (3, reference), (4, prediction)):
            for label, _, _ in side:
                if label not in by_label:
                    by_label[label] = [clip, index_of.setdefault(label, len(index_of)), 0, 0, 0]
                by_label[label][column] += 1
        rows.extend(by_label.values())
        substitutions = count_substitutions(reference, prediction, pairs, t_collar, percentage_of_length)
        found = len(pairs) + substitutions
        totals.append(
            (
                len(pairs),
                len(reference),
                len(prediction),
                substitutions,
                len(reference) - found,
                len(prediction) - found,
            )
        )
    label_rows = np.array(rows, dtype=np.int64).reshape(-1, 5)
    labels = sorted(index_of)
    # Labels were numbered as they came; number them as they are sorted.
    places = {label: place for place, label in enumerate(labels)}
    label_rows[:, 1] = np.array([places[label] for label in index_of], dtype=np.int64)[label_rows[:, 1]]
    return ClipCounts(np.array(totals, dtype=np.int64).reshape(-1, 6), labels, label_rows)


def event_counts(references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False):
    """Count matches, references and predictions of every clip and label, as one table; see [`count_events`].

    Returns:
        Sorted labels, and an int array `(num_clips, num_labels, 3)` of matches, references and predictions.

    Raises:
        ValueError: different numbers of references and predictions, or a tolerance out of its range.
    """
    counts = count_events(references, predictions, t_collar, percentage_of_length, time_only)
    table = np.zeros((len(references), len(counts.labels), 3), dtype=np.int64)
    table[counts.label_rows[:, 0], counts.label_rows[:, 1]] = counts.label_rows[:, 2:]
    return counts.labels, table


__all__ = ["count_events", "event_based_f1", "event_counts", "event_f1"]
