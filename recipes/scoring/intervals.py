"""Bootstrap intervals of all headline figures of a report at once."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array, hstack

from recipes.scoring.bootstrap import ClipSums, sum_intervals
from recipes.scoring.counts import ClipCounts, check_lengths, error_rates, f_scores, macro_f_scores
from recipes.scoring.event_based import count_events
from recipes.scoring.grounding import (
    IOU_THRESHOLDS,
    IOU_TOLERANCE,
    best_match_iou,
    has_right_count,
    is_rejection,
    union_iou,
)
from recipes.scoring.segment_based import count_segments

TIME_RESOLUTIONS = (1.0, 0.1)


def detection_intervals(
    references,
    predictions,
    t_collar: float = 0.2,
    percentage_of_length: float = 0.2,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the intervals of a detection report, all from the same draws of clips.

    Returns:
        `micro_f1`, `micro_precision`, `micro_recall`, the same with `macro_`, and `error_rate` of
        [`~recipes.scoring.event_based_f1`]; these seven of [`~recipes.scoring.segment_based_f1`] with the prefixes
        `segment_1s_` and `segment_0.1s_`; and `parse_failure_rate`.

    Raises:
        ValueError: no clips, different numbers of references and predictions, or an argument out of its range.
    """
    sums = detection_sums(references, predictions, t_collar, percentage_of_length)
    return sum_intervals(sums, confidence, num_resamples, seed)


def detection_sums(references, predictions, t_collar=0.2, percentage_of_length=0.2) -> ClipSums:
    """Return the figures of [`detection_intervals`] as functions of each clip's counts.

    Raises:
        ValueError: no clips, different numbers of references and predictions, or a collar out of its range.
    """
    check_lengths(references, predictions, empty=False)
    counts = {"": count_events(references, predictions, t_collar, percentage_of_length)}
    counts |= {f"segment_{res:g}s_": count_segments(references, predictions, res) for res in TIME_RESOLUTIONS}
    return count_sums(counts, predictions)


def count_sums(counts: dict[str, ClipCounts], predictions) -> ClipSums:
    """Return scores as functions of each clip's counts.

    Args:
        counts: counts of the same clips, by the prefix of their scores.
        predictions: the counted predictions, for `parse_failure_rate`.

    Returns:
        Figures: for each prefix the seven scores of [`detection_intervals`], and `parse_failure_rate`.
    """
    tables = {prefix: _table(part) for prefix, part in counts.items()}
    unparseable = csr_array([[float(prediction is None)] for prediction in predictions])

    def statistics(sums):
        named, start = {"parse_failure_rate": sums[:, -1] / len(predictions)}, 0
        for prefix, table in tables.items():
            part, start = sums[:, start : start + table.shape[1]], start + table.shape[1]
            named |= {f"{prefix}{name}": value for name, value in _count_statistics(part).items()}
        return named

    return ClipSums(hstack([*tables.values(), unparseable], format="csr"), statistics)


def grounding_sums(references, predictions, clips: Sequence[Hashable] | None = None) -> ClipSums:
    """Return the figures of a grounding report as functions of sums; clips are in order of their first pair.

    Args:
        clips: clip of each pair, since pairs of one clip are drawn together; by default each pair is its own clip.

    Returns:
        Figures: `R@0.3` and so on, `miou_union`, `miou_best_match`, `count_accuracy` and `parse_failure_rate` over all
        pairs, `true_rejection_rate` over absent ones and `false_rejection_rate` over present ones.

    Raises:
        ValueError: no pairs, or different numbers of references, predictions and clips.
    """
    check_lengths(references, predictions, empty=False)
    clips = range(len(references)) if clips is None else clips
    if len(clips) != len(references):
        raise ValueError(f"clips has {len(clips)} entries for {len(references)} references; give the clip of each.")
    rows, sums = {}, []
    for clip, reference, prediction in zip(clips, references, predictions, strict=True):
        if clip not in rows:
            rows[clip] = len(sums)
            sums.append(np.zeros(8 + len(IOU_THRESHOLDS)))
        sums[rows[clip]] += _pair_values(reference, prediction)

    def statistics(sums):
        num_pairs, union, best, counted, unparseable, num_absent, absent, present, *reached = sums.T
        # An undefined rate, 0 / 0, is NaN and ignored.
        with np.errstate(invalid="ignore"):
            return {
                **{f"R@{limit:g}": hits / num_pairs for limit, hits in zip(IOU_THRESHOLDS, reached, strict=True)},
                "miou_union": union / num_pairs,
                "miou_best_match": best / num_pairs,
                "count_accuracy": counted / num_pairs,
                "parse_failure_rate": unparseable / num_pairs,
                "true_rejection_rate": absent / num_absent,
                "false_rejection_rate": present / (num_pairs - num_absent),
            }

    return ClipSums(np.stack(sums), statistics)


def _table(counts: ClipCounts) -> csr_array:
    """Return `(num_clips, 6 + 3 * num_labels)`: the totals, then matches, references and predictions by label."""
    clips, labels, values = counts.label_rows[:, 0], counts.label_rows[:, 1], counts.label_rows[:, 2:]
    columns = 3 * labels[:, None] + np.arange(3)
    shape = len(counts.totals), 3 * len(counts.labels)
    by_label = coo_array((values.ravel(), (np.repeat(clips, 3), columns.ravel())), shape=shape)
    return hstack([csr_array(counts.totals), by_label], format="csr", dtype=np.float64)


def _count_statistics(sums) -> dict[str, np.ndarray]:
    totals, by_label = sums[:, :6], sums[:, 6:].reshape(len(sums), -1, 3)
    rates = error_rates(*totals[:, 3:].T, references=totals[:, 1])
    return {
        **{f"micro_{name}": value for name, value in f_scores(totals[:, :3]).items()},
        **{f"macro_{name}": value for name, value in macro_f_scores(by_label).items()},
        "error_rate": rates["error_rate"],
    }


def _pair_values(reference, prediction) -> np.ndarray:
    iou, is_absent, rejected = union_iou(reference, prediction), not reference, is_rejection(prediction)
    return np.array(
        [
            1.0,
            iou,
            best_match_iou(reference, prediction),
            has_right_count(reference, prediction),
            prediction is None,
            is_absent,
            is_absent and rejected,
            rejected and not is_absent,
            *(iou >= threshold - IOU_TOLERANCE for threshold in IOU_THRESHOLDS),
        ],
        dtype=np.float64,
    )
