"""Bootstrap over clips, since events and queries within a clip are not independent: intervals and comparisons."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Resamples per batch: few enough to fit in memory with a large vocabulary.
_BATCH = 50


class ClipSums(NamedTuple):
    """What each clip contributes to sums, and figures that are functions of these sums.

    Args:
        values: `(num_clips, num_columns)`, an array or a sparse array of SciPy.
        statistics: maps sums over the clips of several resamples `(num_sums, num_columns)` to named arrays
            `(num_sums,)`, NaN where a figure is undefined.
    """

    values: Any
    statistics: Callable[[np.ndarray], dict[str, np.ndarray]]


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of any statistic (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: array `(num_clips, ...)`, one row per clip. Clips are drawn with replacement.
        statistic: maps an array of such rows to a number. Resamples where it is not finite are ignored.
        confidence: coverage of the interval, between 0 and 1.
        num_resamples: number of resamples.
        seed: the same seed draws the same clips.

    Raises:
        ValueError: no clips, a confidence or number of resamples out of range, or no resample with a finite statistic.
    """
    values = np.asarray(values)
    draws = _draws(len(values), confidence, num_resamples, seed)
    interval = _percentiles(np.array([statistic(values[draw]) for draw in draws], dtype=np.float64), confidence)
    if interval is None:
        raise ValueError(f"statistic is finite in none of {num_resamples} resamples; give more clips.")
    return interval


def sum_intervals(
    sums: ClipSums, confidence: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float] | None]:
    """Return the intervals of many figures at once, much faster than [`bootstrap_interval`] for each.

    Returns:
        The intervals by name, `None` if a figure is never finite.

    Raises:
        ValueError: no clips, or a confidence or number of resamples out of range.
    """
    found = _resampled(sums, confidence, num_resamples, seed)
    return {name: _percentiles(values, confidence) for name, values in found.items()}


def paired_bootstrap(
    sums: ClipSums | Sequence[ClipSums], other: ClipSums | Sequence[ClipSums], confidence: float = 0.95,
    num_resamples: int = 1000, seed: int = 0,
) -> dict[str, dict]:  # fmt: skip
    """Compare two systems on the same clips: each resample draws the same clips for both.

    Clips differ in difficulty more than systems do, so the interval of the difference is much narrower than the two
    separate intervals suggest. `p` is twice the smaller fraction of resamples in which the difference is at most, or at
    least, 0 (with 1 added to each count and to the number of resamples; at most 1), so an interval of confidence
    `1 - p` just touches 0 (Efron and Tibshirani 1993, section 15.4).

    Args:
        sums, other: the two systems, with the same clip in each row. Figures that only one of them has are ignored. Or
            several runs of each, with different seeds: figures are then means over runs, and each resample also draws
            runs, the same of both systems. Few seeds reveal little about the variation between seeds.

    Returns:
        By name `{"value", "other", "difference", "interval", "p"}`, where difference is value - other; interval and `p`
        are `None` if it is never finite.

    Raises:
        ValueError: different numbers of clips or of runs, no clips, or a confidence or number of resamples out of
            range.
    """
    runs, other_runs = ([side] if isinstance(side, ClipSums) else list(side) for side in (sums, other))
    if len(runs) != len(other_runs) or not runs:
        raise ValueError(f"other has {len(other_runs)} runs and sums {len(runs)}; give as many of both, one or more.")
    sizes = {run.values.shape[0] for run in (*runs, *other_runs)}
    if len(sizes) > 1:
        raise ValueError(
            f"other has {other_runs[0].values.shape[0]} clips and sums {runs[0].values.shape[0]}; give the same clips "
            "in both."
        )
    sides, totals = [], []
    for side in (runs, other_runs):
        sides.append([_resampled(run, confidence, num_resamples, seed) for run in side])
        totals.append([run.statistics(np.ones((1, run.values.shape[0])) @ run.values) for run in side])
    generator = np.random.default_rng([seed, len(runs)])
    weights = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), num_resamples).T / len(runs)
    compared = {}
    for name in [name for name in sides[0][0] if all(name in run for side in sides for run in side)]:
        value, other_value = (float(np.mean([total[name][0] for total in side])) for side in totals)
        pairs = zip(*([run[name] for run in side] for side in sides), strict=True)
        # A run that was not drawn contributes nothing, even if its figure is undefined.
        differences = sum(
            np.where(weight > 0, weight * (mine - theirs), 0.0)
            for weight, (mine, theirs) in zip(weights, pairs, strict=True)
        )
        interval, p = _percentiles(differences, confidence), None
        if interval is not None:
            differences = differences[np.isfinite(differences)]
            smaller = min((differences <= 0).sum(), (differences >= 0).sum())
            p = min(1.0, 2 * float(smaller + 1) / (len(differences) + 1))
        compared[name] = {
            "value": value, "other": other_value, "difference": value - other_value, "interval": interval, "p": p,
        }  # fmt: skip
    return compared


def _resampled(sums, confidence, num_resamples, seed) -> dict[str, np.ndarray]:
    """Return each figure in every resample, `(num_resamples,)`."""
    num_clips = sums.values.shape[0]
    draws = list(_draws(num_clips, confidence, num_resamples, seed))
    batches = []
    for start in range(0, num_resamples, _BATCH):
        # How often each clip was drawn.
        weights = np.stack([np.bincount(draw, minlength=num_clips) for draw in draws[start : start + _BATCH]])
        batches.append(sums.statistics(weights.astype(np.float64) @ sums.values))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _draws(num_clips, confidence, num_resamples, seed):
    if not num_clips:
        raise ValueError("values is empty; an interval needs at least one clip.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a probability between 0 and 1, for instance 0.95.")
    if not isinstance(num_resamples, numbers.Integral) or num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples!r}; give a whole number, 1 or more, for instance 1000.")
    generator = np.random.default_rng(seed)
    return (generator.integers(num_clips, size=num_clips) for _ in range(num_resamples))


def _percentiles(statistics, confidence) -> tuple[float, float] | None:
    statistics = statistics[np.isfinite(statistics)]
    if not len(statistics):
        return None
    low, high = np.quantile(statistics, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
