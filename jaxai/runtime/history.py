"""The metrics of a run as arrays, ready to be plotted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["history"]


def history(
    lines: Sequence[Mapping[str, Any]], is_evaluation: Callable[[Mapping[str, Any]], bool]
) -> dict[str, np.ndarray]:
    """Each metric of a run as an array of its values over time.

    Args:
      lines: of `metrics.jsonl`.
      is_evaluation: whether a line is of an evaluation.

    Returns:
      name -> float64 array. `step` belongs to the metrics of training: `plt.plot(history["step"], history["loss"])`;
      `evaluation_step` to those of evaluations: `plt.plot(history["evaluation_step"], history["test_loss"])`. Values
      that a line lacks are NaN; those with one number per seed have the shape [lines, seeds].
    """
    calls = [line for line in lines if not is_evaluation(line)]
    evaluations = [line for line in lines if is_evaluation(line)]
    found = _arrays(calls)
    of_evaluations = _arrays(evaluations)
    found["evaluation_step"] = of_evaluations.pop("step")
    # A position such as `epoch` is in both kinds of lines; here it is that of training.
    return found | {name: array for name, array in of_evaluations.items() if name not in found or not calls}


def _arrays(lines: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for line in lines for name in line)
    found = {"step": np.array([line["step"] for line in lines], np.int64)}
    for name in names:
        values = [line.get(name) for line in lines]
        width = max((len(value) for value in values if isinstance(value, list)), default=0)
        rows = [_row(value, width) for value in values]
        if name != "step" and all(row is not None for row in rows):
            found[name] = np.array(rows, np.float64)
    return found


def _row(value: Any, width: int) -> Any:
    """A number, or `width` numbers, with NaN for what is missing; None if it is not a number."""
    if width and isinstance(value, list) and len(value) == width:
        found = [_row(each, 0) for each in value]
        return None if None in found else found
    if value is None:
        return [np.nan] * width if width else np.nan
    numeric = isinstance(value, int | float) and not width
    return float(value) if numeric else None
