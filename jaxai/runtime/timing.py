"""What the training loop measures by itself: speed, time and cost. The names and their meanings."""

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
    """Declarations of all that the loop measures in a training that counts `unit`, which people call `words`."""
    return {
        rate(unit): Metric(f"{words}/s/chip", better="higher", shown=True),
        **METRICS,
        flops(unit): Metric(f"training FLOPs per {words.removesuffix('s')}"),
    }


def declarations(
    declared: Mapping[str, Metric], score: str | None, unit: str, positions: tuple[str, ...]
) -> Declarations:
    """What `metrics.json` of a run holds.

    Args:
      declared: by the workload and its experiment.
      score: the evaluation metric that the best checkpoint is chosen by; None: the latest is the best.
      unit: what the speed counts.
      positions: names that each line of metrics has beside its metrics.

    Raises:
      ValueError: a declaration that is none, or a score that does not say which values are better.
    """
    check(declared)
    if score is not None and Meanings(declared).better(score) is None:
        raise ValueError(
            f"whether a higher or a lower {score} is better is not declared, so that no best checkpoint can be chosen;"
            f" declare it, as metrics={{{score!r}: Metric({Meanings(declared).label(score)!r}, better='lower')}}"
        )
    axis = unit if unit in positions else "step"
    return Declarations(declared, metrics(unit, Meanings(declared).label(unit)), score or "", axis, positions)
