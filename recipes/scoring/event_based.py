"""Event-based F1 and error rate: events matched within collars."""

import numpy as np

from recipes.scoring.counts import ClipCounts, check_lengths, parse_failure_rate, score_counts
from recipes.scoring.matching import (
    TIME_TOLERANCE,
    check_collars,
    count_substitutions,
    maximum_matching,
    pairs_in_reach,
    same_label,
)


def event_based_f1(
    references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False, tolerance=0.0
) -> dict:
    """Return event-based F1 and error rate as computed by sed_eval (Mesaros et al. 2016).

    Pass all clips, including those without events: their false alarms count. (DESED's script loops over the files of
    the reference and never counts them.) A ratio with denominator 0 is 1.0 if there are neither references nor
    predictions, else 0.0. For the collars see [`match_events`]; for the order of events, on which substitutions depend
    in sed_eval, see [`~recipes.scoring.matching.count_substitutions`].

    Args:
        tolerance: seconds added to the collars, see [`match_events`]; with 0, scores equal sed_eval's to the last
            digit. [`collar_edges`] tells how much it matters.

    Returns:
        What [`~recipes.scoring.counts.score_counts`] returns: `micro`, `macro`, `micro_errors`, `macro_errors` and
        `class_wise`; also `parse_failure_rate` and `num_clips`.

    Raises:
        ValueError: different numbers of references and predictions, or a collar out of its range.
    """
    counts = count_events(references, predictions, t_collar, percentage_of_length, time_only, tolerance)
    rest = {"parse_failure_rate": parse_failure_rate(predictions), "num_clips": len(references)}
    return {**score_counts(counts), **rest}


def event_f1(reference, prediction, t_collar=0.2, percentage_of_length=0.2, time_only=False) -> float:
    """Return event-based F1 of one clip, fast enough to be a reward, with the collars of [`match_events`].

    Both sides empty: 1.0. Unparseable (`None`): 0.0, since a broken answer is not a rejection.

    Raises:
        ValueError: a collar out of its range.
    """
    check_collars(t_collar, percentage_of_length)
    if prediction is None:
        return 0.0
    num_events = len(reference) + len(prediction)
    if not num_events:
        return 1.0
    edges = pairs_in_reach(reference, prediction, t_collar, percentage_of_length, TIME_TOLERANCE)
    if not time_only:
        edges = same_label(reference, prediction, edges)
    return 2 * len(maximum_matching(edges)) / num_events


def collar_edges(references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False) -> dict:
    """Return event-based F1 with [`TIME_TOLERANCE`], and how many matches lie exactly on a collar.

    Returns:
        `tolerance` in seconds, `micro` and `macro` as in [`event_based_f1`], `num_matches_on_collar` (matches with
        collars wider by the tolerance but not with collars narrower by it) and `num_refused`, how many of these float64
        arithmetic without tolerance, and therefore sed_eval, refuses.

    Raises:
        ValueError: as [`event_based_f1`].
    """
    settings = references, predictions, t_collar, percentage_of_length, time_only
    wide, exact, narrow = (count_events(*settings, tolerance) for tolerance in (TIME_TOLERANCE, 0.0, -TIME_TOLERANCE))
    scores, matches = score_counts(wide), [counts.totals[:, 0].sum() for counts in (wide, exact, narrow)]
    return {
        "tolerance": TIME_TOLERANCE,
        "micro": scores["micro"],
        "macro": scores["macro"],
        "num_matches_on_collar": int(matches[0] - matches[2]),
        "num_refused": int(matches[0] - matches[1]),
    }


def count_events(
    references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False, tolerance=0.0
) -> ClipCounts:
    """Count matches, references, predictions, substitutions, deletions and insertions of every clip.

    Raises:
        ValueError: as [`event_based_f1`].
    """
    check_lengths(references, predictions)
    check_collars(t_collar, percentage_of_length)
    totals, labels = [], ([], [], [])
    for reference, prediction in zip(references, predictions, strict=True):
        prediction = prediction or ()
        edges = pairs_in_reach(reference, prediction, t_collar, percentage_of_length, tolerance)
        matching = maximum_matching(edges if time_only else same_label(reference, prediction, edges))
        totals.append((len(matching), len(reference), len(prediction), count_substitutions(edges, matching)))
        labels[0].extend([reference[i].event_label for i in matching])
        labels[1].extend([event.event_label for event in reference])
        labels[2].extend([event.event_label for event in prediction])
    if time_only:
        labels = tuple([""] * len(column) for column in labels)
    totals = np.array(totals, dtype=np.int64).reshape(-1, 4)
    left = totals[:, 1:3] - totals[:, :1] - totals[:, 3:]
    return ClipCounts(np.concatenate([totals, left], axis=1), *_label_rows(labels, totals[:, :3]))


def _label_rows(labels, num_events):
    """Return sorted labels and the rows of [`ClipCounts`], one for each match, reference and prediction.

    Args:
        labels: labels of all matches, all references and all predictions, clip by clip.
        num_events: int array `(num_clips, 3)`, the number of each in every clip.
    """
    names = sorted({*labels[1], *labels[2]})
    ranks = {name: rank for rank, name in enumerate(names)}
    clips = np.arange(len(num_events))
    rows = []
    for column, (part, counts) in enumerate(zip(labels, num_events.T, strict=True)):
        rows.append(np.zeros((len(part), 5), dtype=np.int64))
        rows[-1][:, 0] = np.repeat(clips, counts)
        rows[-1][:, 1] = [ranks[label] for label in part]
        rows[-1][:, 2 + column] = 1
    return names, np.concatenate(rows)
