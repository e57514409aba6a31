"""The figures of several seeds in one result."""

import statistics
from collections.abc import Sequence
from typing import Any

from jaxai.metrics import is_number

__all__ = ["over_seeds"]


def over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each figure over seeds, with `_std` (sample standard deviation) and `_per_seed`.

    The result of a seed that diverged is empty: it counts in `diverged` and is None in `_per_seed`.

    Args:
      results: of each seed; at least one must not be empty.
    """
    together: dict[str, Any] = {"seeds": len(results), "diverged": results.count({})}
    for name, value in next(result for result in results if result).items():
        each = [result.get(name) for result in results]
        values = [value for value in each if value is not None]
        if isinstance(value, float) and all(map(is_number, values)):
            together[name] = statistics.fmean(values)
            together[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
            together[f"{name}_per_seed"] = each
        elif all(other == value for other in values):
            together[name] = value
        else:
            together[f"{name}_per_seed"] = each
    return together
