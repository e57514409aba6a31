"""The metrics of the training loop itself: speed, time and cost; their names and declarations."""

from collections.abc import Mapping

from jaxai.core import Metric
from jaxai.metrics import Declarations, Meanings, check

__all__ = ["METRICS", "RATE", "declarations", "flops", "metrics", "rate"]

RATE = "_per_second_per_chip"
"""Ending of the name of a speed."""
METRICS = {
    "mfu": Metric("MFU", "%", better="higher", shown=True),
    "seconds": Metric("time", "s", shown=True),
    "compile_seconds": Metric("compile time", "s", shown=True),
    "data_wait": Metric("wait for data", "%"),
    "elapsed": Metric("time since the start", "s"),
    "steps": Metric("steps", shown=True),
    "best_step": Metric("step of the best evaluation"),
    "epoch": Metric("epoch"),
}


def rate(unit: str) -> str:
    """Name of the speed of a training that counts `unit`, as `examples`."""
    return unit + RATE


def flops(unit: str) -> str:
    """Name of the number of training FLOPs for each of `unit`."""
    return f"flops_per_{unit.removesuffix('s')}"


def metrics(unit: str, words: str) -> dict[str, Metric]:
    """Declarations of the loop's metrics in a training that counts `unit`, written as `words` in texts."""
    return {
        rate(unit): Metric(f"{words}/s/chip", better="higher", shown=True),
        **METRICS,
        flops(unit): Metric(f"training FLOPs per {words.removesuffix('s')}"),
    }


def declarations(
    declared: Mapping[str, Metric], score: str | None, unit: str, positions: tuple[str, ...]
) -> Declarations:
    """The content of `metrics.json` of a run.

    Args:
      declared: declarations of the workload and its experiment.
      score: the evaluation metric that selects the best checkpoint; None: the latest is the best.
      unit: counted by the speed.
      positions: names in each line of metrics that are positions, not metrics.

    Raises:
      ValueError: an invalid declaration, or a score that does not declare which values are better.
    """
    check(declared)
    if score is not None and Meanings(declared).better(score) is None:
        raise ValueError(
            f"whether a higher or a lower {score} is better is not declared, so that no best checkpoint can be chosen;"
            f" declare it, as metrics={{{score!r}: Metric({Meanings(declared).label(score)!r}, better='lower')}}"
        )
    axis = unit if unit in positions else "step"
    return Declarations(declared, metrics(unit, Meanings(declared).label(unit)), score or "", axis, positions)
