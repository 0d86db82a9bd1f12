"""PSDS, the polyphonic sound detection score, of events with scores.

Bilen et al. 2020, "A Framework for the Robust Evaluation of Sound Event Detection"; DESED's two scenarios. An event
exists at every threshold below its score, so the thresholds between distinct scores are all operating points, and the
curve is exact like that of Ebbers et al. 2022, "Threshold-Independent Evaluation of Sound Event Detection Scores". They
threshold frame scores, where events grow and merge as the threshold falls; here events keep their times, so overlaps
are computed only once.
"""

import bisect
import math
from typing import NamedTuple

import numpy as np
from scipy.sparse import eye_array

from processing.events import normalize_label
from recipes.scoring.bootstrap import ClipSums
from recipes.scoring.counts import parse_failure_rate

SECONDS_PER_HOUR = 3600.0
# 0.7 s of 1 s must reach a criterion of 0.7 despite rounding in binary.
COVERAGE_TOLERANCE = 1e-9
FOUND, FALSE = -2, -1


class PsdsScenario(NamedTuple):
    """Parameters of a PSDS, in the notation of Bilen et al. 2020.

    Args:
        dtc: detection tolerance criterion, the fraction of a prediction that references must cover; above 0, at most 1.
        gtc: ground truth intersection criterion, the fraction of a reference that predictions must cover; likewise.
        cttc: cross-trigger tolerance criterion, the fraction of a prediction that references of another label must
            cover; likewise, or `None` for no cross-triggers.
        alpha_ct: weight of cross-triggers in the effective false positive rate, 0 or more.
        alpha_st: weight of the standard deviation over labels, subtracted from the mean true positive ratio, 0 or more.
        max_efpr: end of the curve, in effective false positives per hour.
    """

    dtc: float
    gtc: float
    cttc: float | None
    alpha_ct: float
    alpha_st: float
    max_efpr: float = 100.0


# DESED's two scenarios: precise times; and no confusion between classes.
PSDS1 = PsdsScenario(dtc=0.7, gtc=0.7, cttc=None, alpha_ct=0.0, alpha_st=1.0)
PSDS2 = PsdsScenario(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5, alpha_st=1.0)


def psds(references, predictions, durations, scenario: PsdsScenario, labels=None, statistics=None) -> dict:
    """Return the polyphonic sound detection score, for instance `psds(references, predictions, durations, PSDS1)`.

    A prediction is relevant if references of its label cover a fraction `dtc` of it, else false. A reference is found
    if the relevant predictions of its label cover a fraction `gtc` of it. A false prediction is also a cross-trigger of
    every other label whose references cover a fraction `cttc` of it. Overlapping events of one label cover time only
    once. Events without length are ignored, as in `psds_eval` and `sed_scores_eval`. Predictions past the end of a clip
    are false.

    The effective false positive rate of a label is its number of false predictions per hour of all clips, plus
    `alpha_ct` times the mean over the other labels of its cross-triggers per hour of their references.

    Args:
        references: a list over clips of lists of events, including clips without events.
        predictions: the same, where each event has a `score`; `None` for a clip whose answer could not be parsed.
        durations: length of each clip in seconds.
        labels: the classes to average over; `None` takes those of the references.
        statistics: precomputed [`psds_statistics`] of these arguments, which take nearly all the time.

    Returns:
        `psds`, the area under the curve divided by `max_efpr`, 0 to 1; `class_wise`, the same for each label;
        `num_other_labels`, the number of predictions with other labels; `parse_failure_rate`; `num_clips`.

    Raises:
        ValueError: no clips, lists of different lengths, a duration that is not above 0, a predicted event without
            score, a label without reference events, or a scenario parameter out of range.
    """
    if statistics is None:
        statistics = psds_statistics(references, predictions, durations, scenario, labels)
    (area,), (areas,) = _areas(statistics, scenario, np.ones((1, len(durations))))
    known = set(statistics.labels)
    return {
        "psds": float(area),
        "class_wise": dict(zip(statistics.labels, map(float, areas), strict=True)),
        "num_other_labels": sum(event.event_label not in known for clip in predictions for event in clip or ()),
        "parse_failure_rate": parse_failure_rate(predictions),
        "num_clips": len(durations),
    }


def psds_sums(statistics, scenario, name="psds") -> ClipSums:
    """Return [`psds`] as a named function of the weight of each clip.

    It is NaN in resamples in which a label has no reference event; intervals ignore these.
    """

    def areas(weights):
        return {name: _areas(statistics, scenario, weights)[0]}

    return ClipSums(eye_array(len(statistics.durations), format="csr"), areas)


class PsdsStatistics(NamedTuple):
    """What changes in which clip as the threshold falls below each score.

    `changes` has for each label an array `(num_changes, 3)` by falling score: the score, the clip, and the kind of
    change: `FOUND`, a reference; `FALSE`, a false prediction; or the index of a label that is cross-triggered.
    `num_references` and `reference_seconds` are `(num_clips, num_labels)`, `durations` is `(num_clips,)`.
    """

    labels: list[str]
    changes: list[np.ndarray]
    num_references: np.ndarray
    reference_seconds: np.ndarray
    durations: np.ndarray


def psds_statistics(references, predictions, durations, scenario: PsdsScenario, labels=None) -> PsdsStatistics:
    """Determine, for all thresholds at once, which predictions are false and at which score each reference is found.

    Raises:
        ValueError: as [`psds`].
    """
    _check_scenario(scenario)
    _check(references, predictions, durations)
    with_length = [[event for event in clip if event.offset > event.onset] for clip in references]
    present = {event.event_label for clip in with_length for event in clip}
    labels = sorted(present) if labels is None else list(dict.fromkeys(map(normalize_label, labels)))
    absent = [label for label in labels if label not in present]
    if absent or not labels:
        raise ValueError(
            f"labels has no reference events for {absent}; a label needs at least one with a length above 0 s for its "
            "fraction of found events to be defined, so leave such labels out or add references."
        )
    index = {label: i for i, label in enumerate(labels)}
    changes = [[np.zeros((0, 3))] for _ in labels]
    num_references, reference_seconds = np.zeros((2, len(references), len(labels)))
    for clip, (reference, prediction) in enumerate(zip(with_length, predictions, strict=True)):
        targets = {c: _times(events) for c, events in _by_label(reference, index).items()}
        unions = {c: _union(target) for c, target in targets.items()}
        for c, union in unions.items():
            num_references[clip, c] = len(targets[c])
            reference_seconds[clip, c] = np.diff(union).sum()
        for c, events in _by_label(prediction or (), index).items():
            times, scores = _times(events), np.array([event.score for event in events], dtype=np.float64)
            lengths = np.diff(times)[:, 0]
            times, scores, lengths = times[lengths > 0], scores[lengths > 0], lengths[lengths > 0]
            covered = {other: _covered(union, times) / lengths for other, union in unions.items()}
            relevant = covered.get(c, np.zeros(len(times))) >= scenario.dtc - COVERAGE_TOLERANCE
            changes[c].append(_rows(scores[~relevant], clip, FALSE))
            for other, fraction in covered.items():
                if other != c and scenario.cttc is not None:
                    crossed = ~relevant & (fraction >= scenario.cttc - COVERAGE_TOLERANCE)
                    changes[c].append(_rows(scores[crossed], clip, other))
            found = [_score_of_finding(target, times[relevant], scores[relevant], scenario.gtc)
                     for target in targets.get(c, ())]  # fmt: skip
            changes[c].append(_rows([score for score in found if score is not None], clip, FOUND))
    changes = [np.concatenate(rows) for rows in changes]
    changes = [rows[np.argsort(-rows[:, 0])] for rows in changes]
    return PsdsStatistics(labels, changes, num_references, reference_seconds, np.array(durations, dtype=np.float64))


def _areas(statistics, scenario, weights) -> tuple[np.ndarray, np.ndarray]:
    """Return PSDS `(num_resamples,)`, and the area of each label `(num_resamples, num_labels)`.

    Args:
        weights: number of times each clip is in each resample, `(num_resamples, num_clips)`.
    """
    num_references = weights @ statistics.num_references
    hours = weights @ statistics.durations[:, None] / SECONDS_PER_HOUR
    reference_hours = weights @ statistics.reference_seconds / SECONDS_PER_HOUR
    rates, ratios, owners = [], [], []
    with np.errstate(divide="ignore", invalid="ignore"):
        # The increase of the effective false positive rate by kind of change; the last two are FOUND and FALSE.
        costs = scenario.alpha_ct / max(len(statistics.labels) - 1, 1) / reference_hours
        costs = np.hstack([costs, np.zeros_like(hours), 1.0 / hours])
        for label, rows in enumerate(statistics.changes):
            clips, kinds = rows[:, 1:].astype(np.int64).T
            is_last_of_score = np.append(np.diff(rows[:, 0]) != 0, True)[: len(rows)]
            found = np.cumsum(weights[:, clips] * (kinds == FOUND), axis=1)[:, is_last_of_score]
            rates += [np.zeros_like(hours), np.cumsum(weights[:, clips] * costs[:, kinds], axis=1)[:, is_last_of_score]]
            ratios += [np.zeros_like(hours), found / num_references[:, [label]]]
            owners += [label] * (1 + found.shape[1])
    rates, ratios, owners = np.hstack(rates), np.hstack(ratios), np.array(owners)
    scores, areas = np.full(len(weights), np.nan), np.full(num_references.shape, np.nan)
    # The ratio of a label without references in a resample is undefined.
    for row in np.flatnonzero(num_references.all(axis=1)):
        order = np.argsort(rates[row])
        widths = np.diff(np.minimum(rates[row, order], scenario.max_efpr), append=scenario.max_efpr)
        # Both grow as the threshold falls, so the best ratio at a rate is the running maximum.
        best = np.zeros((len(statistics.labels), len(order)))
        best[owners[order], np.arange(len(order))] = ratios[row, order]
        best = np.maximum.accumulate(best, axis=1)
        effective = np.maximum(best.mean(axis=0) - scenario.alpha_st * best.std(axis=0), 0.0)
        scores[row], areas[row] = effective @ widths / scenario.max_efpr, best @ widths / scenario.max_efpr
    return scores, areas


def _by_label(events, index) -> dict[int, list]:
    """Group events by the index of their label; events with other labels are dropped."""
    grouped = {}
    for event in events:
        if event.event_label in index:
            grouped.setdefault(index[event.event_label], []).append(event)
    return grouped


def _times(events) -> np.ndarray:
    """Return onsets and offsets `(num_events, 2)`."""
    return np.array([(event.onset, event.offset) for event in events], dtype=np.float64)


def _union(times) -> np.ndarray:
    """Return the union of intervals as disjoint intervals `(num_intervals, 2)`, in order."""
    times = times[np.argsort(times[:, 0])]
    ends = np.maximum.accumulate(times[:, 1])
    is_first = np.append(True, times[1:, 0] > ends[:-1])
    return np.column_stack((times[is_first, 0], ends[np.append(is_first[1:], True)]))


def _covered(union, times) -> np.ndarray:
    """Return how many seconds of each interval of `times` the sorted disjoint intervals of `union` cover."""
    # The seconds covered before a time rise within the intervals of the union and are constant between them.
    covered_before = np.repeat(np.append(0.0, np.cumsum(np.diff(union))), 2)[1:-1]
    return np.diff(np.interp(times, union.ravel(), covered_before))[:, 0]


def _score_of_finding(target, times, scores, gtc) -> float | None:
    """Return the highest score such that the detections with at least this score cover enough of a reference."""
    meets = (times[:, 0] < target[1]) & (times[:, 1] > target[0])
    order = np.argsort(-scores[meets])
    times, scores = times[meets][order], scores[meets][order]

    def is_found(count):
        return _covered(_union(times[:count]), target[None])[0] / (target[1] - target[0]) >= gtc - COVERAGE_TOLERANCE

    # Coverage grows monotonically with the number of detections.
    count = bisect.bisect_left(range(1, len(scores) + 1), True, key=is_found)
    return scores[count] if count < len(scores) else None


def _rows(scores, clip, kind) -> np.ndarray:
    rows = np.empty((len(scores), 3))
    rows[:, 0], rows[:, 1], rows[:, 2] = scores, clip, kind
    return rows


def _check_scenario(scenario):
    for name in ("dtc", "gtc", "cttc"):
        value = getattr(scenario, name)
        if not (value is None and name == "cttc") and not 0 < value <= 1:
            raise ValueError(f"scenario.{name} is {value}; give a fraction above 0 and at most 1.")
    for name in ("alpha_ct", "alpha_st"):
        value = getattr(scenario, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"scenario.{name} is {value}; give a weight, 0 or more.")
    if (scenario.alpha_ct > 0) != (scenario.cttc is not None):
        raise ValueError(
            f"scenario.alpha_ct is {scenario.alpha_ct} and scenario.cttc {scenario.cttc}; give a weight above 0 and a "
            "criterion, or 0 and None for no cross-triggers."
        )
    if not 0 < scenario.max_efpr < math.inf:
        raise ValueError(f"scenario.max_efpr is {scenario.max_efpr}; give a rate per hour above 0, for instance 100.")


def _check(references, predictions, durations):
    if not len(references) == len(predictions) == len(durations) or not len(references):
        raise ValueError(
            f"references has {len(references)} entries, predictions {len(predictions)} and durations {len(durations)}; "
            "give at least one clip, and one entry for each clip in all three."
        )
    for clip, duration in enumerate(durations):
        if not 0 < duration < math.inf:
            raise ValueError(f"durations[{clip}] is {duration}; give the length of the clip in seconds, above 0.")
    for clip, prediction in enumerate(predictions):
        for i, event in enumerate(prediction or ()):
            if event.score is None:
                raise ValueError(
                    f"predictions[{clip}][{i}] is {event}, without a score; PSDS is an area over thresholds on the "
                    "score, so give one to every predicted event."
                )
