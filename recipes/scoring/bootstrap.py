"""Bootstrap intervals over clips: clips are drawn, for events and queries of one clip are not independent."""

import numbers
from collections.abc import Callable

import numpy as np

# Resamples that are summed together: few enough that those of a large vocabulary fit in memory.
_BATCH = 50


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
        ValueError: no clips, a confidence or number of resamples out of range, or no resample with a finite statistic.
    """
    values = np.asarray(values)
    draws = _draws(len(values), confidence, num_resamples, seed)
    interval = _percentiles([statistic(values[draw]) for draw in draws], confidence)
    if interval is None:
        raise ValueError(f"statistic is finite in none of {num_resamples} resamples; give more clips.")
    return interval


def sum_intervals(
    values,
    statistics: Callable[[np.ndarray], dict[str, np.ndarray]],
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """Return the intervals of many statistics of sums over clips: as [`bootstrap_interval`] of each, but much faster.

    Args:
        values: `(num_clips, num_columns)`, an array or a sparse matrix of SciPy.
        statistics: maps sums over the clips of several resamples `(num_sums, num_columns)` to named arrays
            `(num_sums,)`. Resamples where one is not finite are left out of it.

    Returns:
        The intervals by name, `None` where a statistic is never finite.

    Raises:
        ValueError: no clips, or a confidence or number of resamples out of range.
    """
    num_clips = values.shape[0]
    draws = list(_draws(num_clips, confidence, num_resamples, seed))
    batches = []
    for start in range(0, num_resamples, _BATCH):
        # How often each clip was drawn.
        weights = np.stack([np.bincount(draw, minlength=num_clips) for draw in draws[start : start + _BATCH]])
        batches.append(statistics(weights.astype(np.float64) @ values))
    return {name: _percentiles(np.concatenate([batch[name] for batch in batches]), confidence) for name in batches[0]}


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
    statistics = np.asarray(statistics, dtype=np.float64)
    statistics = statistics[np.isfinite(statistics)]
    if not len(statistics):
        return None
    low, high = np.quantile(statistics, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


__all__ = ["bootstrap_interval", "sum_intervals"]
