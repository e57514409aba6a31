"""The progress of a run on the terminal: a bar, or plain lines without a terminal; a table at the end."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jaxai.core import PyTree
from jaxai.metrics import Meanings, is_number
from jaxai.output import print_line
from jaxai.runtime.timing import RATE

__all__ = ["Display", "describe", "expectation", "results", "summary"]

PLAIN_SECONDS = 5.0
"""Shortest time between two plain lines of training."""


class _Bar(Progress):
    """The bar, and the metrics on a separate line: together they would not fit into 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            yield Text(task.fields["text"], overflow="ellipsis", no_wrap=True)


class Display:
    """Shows training from `step` to `steps`; use it as a context.

    Args:
      console: of the output.
      meanings: of the metrics, for labels, units and the choice of metrics.
      step: the first step.
      steps: the last step.
    """

    def __init__(self, console: Console, meanings: Meanings, step: int, steps: int):
        self._console, self._meanings, self._steps, self._last_line = console, meanings, steps, 0.0
        self._bar = _Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, completed=step, text="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def print_line(self, text: str) -> None:
        """Shows a line."""
        print_line(self._console, text)

    def training(self, step: int, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Shows the metrics and the timing of a call.

        Args:
          step: after the call.
          metrics: of the call.
          timing: of the call, a line of `timing.jsonl`.
        """
        text = describe(metrics, timing, self._meanings)
        self._bar.update(self._task, completed=step, text=text)
        due = time.monotonic() - self._last_line >= PLAIN_SECONDS or step == self._steps
        if due and not self._console.is_terminal:
            self._last_line = time.monotonic()
            self.print_line(f"step {step}/{self._steps}  {text}")

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows the metrics of an evaluation."""
        values = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
        # Statistics over seeds and floors, which stay the same, are for the report.
        single = [name for name in values if not self._meanings.parse(name).statistic]
        single = [name for name in single if not self._meanings.is_floor(name)]
        self.print_line(f"step {step}/{self._steps}  {_line(values, single, self._meanings)}")


def describe(metrics: Mapping[str, Any], timing: Mapping[str, Any], meanings: Meanings) -> str:
    """`error 0.1234 m  2,345 examples/s/chip  data wait 0 %  MFU 41.0 %`, of the values that exist.

    Args:
      metrics: of a call.
      timing: of the call, a line of `timing.jsonl`.
      meanings: of the metrics.
    """
    single = [name for name, value in metrics.items() if is_number(value)]
    parts = [_line(metrics, meanings.shown(single), meanings)]
    rate = next(name for name in timing if name.endswith(RATE))
    parts.append(f"{timing[rate]:,.0f} {meanings.label(rate)}")
    if timing["data_wait"]:
        parts.append(f"data wait {100 * timing['data_wait']:.0f} %")
    if timing.get("mfu") is not None:
        parts.append(f"MFU {100 * timing['mfu']:.1f} %")
    return "  ".join(filter(None, parts))


def _line(values: Mapping[str, Any], names: Iterable[str], meanings: Meanings) -> str:
    return "  ".join(f"{meanings.label(name)} {meanings.text(name, values[name], percent=False)}" for name in names)


def summary(params: PyTree, flops_per_example: float, unit: str = "examples") -> Table:
    """A table of the parameters, a row for each array, with their number and the training FLOPs.

    Args:
      params: the parameters; arrays or their shapes.
      flops_per_example: FLOPs of training per `unit`.
      unit: in the plural, as "examples" or "target_tokens".
    """
    table = Table("parameter", "shape", "number", title="Model")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        table.add_row(name, " x ".join(map(str, leaf.shape)) or "scalar", f"{leaf.size:,}")
    table.add_section()
    table.add_row("all", "", f"{sum(leaf.size for _, leaf in leaves):,}")
    table.add_row(f"training FLOPs per {unit.removesuffix('s').replace('_', ' ')}", "", f"{flops_per_example:,.0f}")
    return table


def results(values: Mapping[str, Any], meanings: Meanings, title: str = "Finished") -> Table:
    """A table of figures: their names in result.json, and their values with units.

    Args:
      values: the figures by name; those that are no number and no text are left out.
      meanings: of the figures.
      title: of the table.
    """
    table = Table("result", "value", title=Text(title, "table.title"))
    for name, value in values.items():
        if isinstance(value, int | float | str):
            table.add_row(Text(name), Text(meanings.text(name, value, percent=False)))
    return table


def expectation(name: str, expected: float, found: float, meanings: Meanings) -> str:
    """`expected test accuracy 0.9750 or more, got 0.9850`, in the direction that the metric declares.

    Args:
      name: of the metric.
      expected: the value that the preset is known to reach.
      found: the value of this run.
      meanings: of the metrics.
    """
    bound = "less" if meanings.better(name) == "lower" else "more"
    texts = (meanings.text(name, value, percent=False) for value in (expected, found))
    return f"expected {meanings.label(name)} {next(texts)} or {bound}, got {next(texts)}"
