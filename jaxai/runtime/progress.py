"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere, a table at the end."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jaxai.core import PyTree
from jaxai.output import say

SHOWN = ("loss", "accuracy", "token_accuracy", "return", "generator_loss", "discriminator_loss", "d_real", "d_fake")
"""The metrics of a call that a person sees."""
OVER_SEEDS = ("_iqm", "_low", "_high")
PLAIN_SECONDS = 5.0
"""Least time between two plain lines of training."""


class _Bar(Progress):
    """The bar, and the metrics on a line of their own: beside it they would not fit on 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            yield Text(task.fields["text"], overflow="ellipsis", no_wrap=True)


class Display:
    """Shows training from `step` to `steps`; use as a context."""

    def __init__(self, console: Console, step: int, steps: int):
        self._console, self._steps, self._last_line = console, steps, 0.0
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

    def say(self, text: str) -> None:
        """A line."""
        say(self._console, text)

    def training(self, step: int, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """One call's metrics and timing."""
        text = describe(metrics, timing)
        self._bar.update(self._task, completed=step, text=text)
        due = time.monotonic() - self._last_line >= PLAIN_SECONDS or step == self._steps
        if due and not self._console.is_terminal:
            self._last_line = time.monotonic()
            self.say(f"step {step}/{self._steps}  {text}")

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One evaluation's metrics."""
        single = {name: f"{value:.4f}" for name, value in metrics.items() if isinstance(value, float)}
        single |= {name: value for name, value in metrics.items() if isinstance(value, str)}
        # The statistics over seeds of a figure are for the report.
        shown = "  ".join(f"{name} {text}" for name, text in single.items() if not name.endswith(OVER_SEEDS))
        self.say(f"step {step}/{self._steps}  {shown}")


def describe(metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    """`loss 0.1234  accuracy 0.9876  2,345 examples/s/chip  data wait 0 %  MFU 41.0 %`, with what there is."""
    parts = [f"{name} {metrics[name]:.4g}" for name in SHOWN if metrics.get(name) is not None]
    rate = next(name for name in timing if name.endswith("_per_second_per_chip"))
    unit = rate.removesuffix("_per_second_per_chip").replace("_", " ")
    parts.append(f"{timing[rate]:,.0f} {unit}/s/chip")
    if timing["data_wait"]:
        parts.append(f"data wait {100 * timing['data_wait']:.0f} %")
    if timing.get("mfu") is not None:
        parts.append(f"MFU {100 * timing['mfu']:.1f} %")
    return "  ".join(parts)


def summary(params: PyTree, flops_per_example: float, unit: str = "examples") -> Table:
    """A table of the parameters, a row for each array, with their number and the FLOPs of training for each `unit`."""
    table = Table("parameter", "shape", "number", title="Model")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        table.add_row(name, " x ".join(map(str, leaf.shape)) or "scalar", f"{leaf.size:,}")
    table.add_section()
    table.add_row("all", "", f"{sum(leaf.size for _, leaf in leaves):,}")
    table.add_row(f"training FLOPs per {unit.removesuffix('s').replace('_', ' ')}", "", f"{flops_per_example:,.0f}")
    return table


def results(values: Mapping[str, Any], title: str = "Finished") -> Table:
    """A table of figures."""
    table = Table("result", "value", title=Text(title, "table.title"))
    for name, value in values.items():
        label = Text(name)
        if isinstance(value, float):
            table.add_row(
                Text(name), f"{value:.4f}" if abs(value) < 100 else f"{value:,.{2 if abs(value) < 1000 else 0}f}"
            )
        elif isinstance(value, int | str):
            table.add_row(label, f"{value:,}" if isinstance(value, int) else Text(value))
    return table
