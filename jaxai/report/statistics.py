"""Statistics over a few seeds: a mean that is robust to outliers, and its confidence interval.

Both follow Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv:2108.13264). `scipy.stats.trim_mean` and `scipy.stats.bootstrap` are the reference of the tests; this bootstrap
also accepts a single seed, which SciPy's does not, and takes milliseconds for a whole learning curve.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bootstrap_interval", "interquartile_mean"]

CHUNK = 1 << 22
"""Number of resampled values that are in memory at a time."""


def interquartile_mean(values: npt.ArrayLike, axis: int = 0) -> Any:
    """The mean of the middle half of the values: a quarter of them, rounded down, is left out at each end.

    Args:
      values: [..., seeds, ...], numbers.
      axis: of the seeds.

    Returns:
      A float for [seeds], else an array without `axis`. NaN where a value is not finite.

    Raises:
      ValueError: there is no value.
    """
    ordered = np.sort(np.moveaxis(_finite_or_nan(values), axis, 0), axis=0)  # NaN sorts last
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut].mean(axis=0)
    return np.where(np.isnan(ordered[-1]), np.nan, middle)[()]


def bootstrap_interval(
    values: npt.ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Any, Any]:
    """The bootstrap interval of a statistic over seeds: percentiles of its values over seeds drawn with replacement.

    All points of a curve are resampled with the same draws, so that the edges of a band are as smooth as the curve.

    Args:
      values: [seeds] or [seeds, points], numbers.
      statistic: called as `statistic(drawn, axis=0)`, returns an array without that axis; `np.mean` is the fastest.
      confidence: of the interval, between 0 and 1.
      resamples: number of draws.
      seed: of the draws; the same seed gives the same interval.

    Returns:
      (low, high), floats for [seeds], else [points] each. With one seed both are its value. NaN where a value is not
      finite.

    Raises:
      ValueError: there is no value, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a share between 0 and 1 such as 0.95")
    table = _finite_or_nan(values)
    count = len(table)
    if count == 1:
        only = np.asarray(statistic(table, axis=0))[()]
        return only, only
    drawn = np.random.default_rng(seed).integers(count, size=(count, resamples))
    points = table.reshape(count, -1)
    if statistic is np.mean:
        weights = np.stack([np.bincount(column, minlength=count) for column in drawn.T]) / count
        width = max(1, CHUNK // resamples)
        resampled = [weights @ points[:, at : at + width] for at in range(0, points.shape[1], width)]
    else:
        width = max(1, CHUNK // drawn.size)
        resampled = [statistic(points[:, at : at + width][drawn], axis=0) for at in range(0, points.shape[1], width)]
    tail = (1 - confidence) / 2
    edges = np.concatenate([np.quantile(part, [tail, 1 - tail], axis=0) for part in resampled], axis=1)
    low, high = edges.reshape(2, *table.shape[1:])
    return low[()], high[()]


def _finite_or_nan(values: npt.ArrayLike) -> np.ndarray:
    table = np.asarray(values, np.float64)
    if not table.size:
        raise ValueError(f"statistics over seeds got an array of shape {list(table.shape)}, expected a value or more")
    return np.where(np.isfinite(table), table, np.nan)
