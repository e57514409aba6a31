"""Writes down what a run measures, shows it, and keeps the score that decides which checkpoint is the best."""

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from jaxai.core import Metrics
from jaxai.files.json_files import SUPERSEDED, require_numbers
from jaxai.metrics import BEST
from jaxai.runtime import timing
from jaxai.runtime.nonfinite import NonFiniteError
from jaxai.runtime.parallel import NONFINITE
from jaxai.runtime.progress import Display
from jaxai.runtime.run_folder import RunFolder


class Recorder:
    """The metrics and the timing of one run.

    A call's metrics are read only when the next call is under way, so that an accelerator never waits for the host.

    Args:
      folder: where the lines go; those that are there are gone on with.
      score: the evaluation metric that the best checkpoint goes by.
      lower_is_better: whether less of it is better.
      warnings: what was written down -> kind -> what a person should know of it, or ""; see `Training`.
      batch_size: examples, or what `unit` counts, in a step over all devices.
      unit: what the speed counts.
      beside: step -> what stands beside it in each line, as the epoch.
      describe: one call's metrics, and its number of steps -> what is written down of them.
      chips: how many share the work.
      flops_per_example: of a train step, for each of `unit`.
      peak_flops: of one device, FLOP/s; None where the chip is not known.
      started: `time.monotonic()` at the start of the command.

    Attributes:
      display: where everything is shown; set before the first call.
    """

    def __init__(
        self,
        folder: RunFolder,
        score: str,
        lower_is_better: bool,
        warnings: Callable[[Mapping[str, Any]], Mapping[str, str]],
        batch_size: float,
        unit: str,
        beside: Callable[[int], dict[str, float]],
        describe: Callable[[Mapping[str, np.ndarray], int], dict[str, Any]],
        chips: int,
        flops_per_example: float,
        peak_flops: float | None,
        started: float,
    ):
        self.folder, self._score, self._chips = folder, score, chips
        self._batch_size, self._unit, self._beside, self._describe = batch_size, unit, beside, describe
        self.flops_per_example, self._peak_flops = flops_per_example, peak_flops
        self._sign = -1 if lower_is_better else 1
        self._warnings, self._said = warnings, set[str]()
        self._timing, written = folder.lines("timing.jsonl"), folder.lines("metrics.jsonl")
        require_numbers(folder.path / "timing.jsonl", self._timing, "elapsed", self._rate)
        require_numbers(folder.path / "metrics.jsonl", written, score)
        self._evaluations = [line for line in written if score in line and not line.get(SUPERSEDED)]
        self._lost: set[int] = set()
        for line in written:
            self._news(line)  # what went on when a run was stopped has been said
        self._started = started - (self._timing[-1].get("elapsed") or 0.0 if self._timing else 0.0)
        self._pending: tuple[int, int, Metrics] | None = None
        self._mark = self._waited = self._compile_seconds = 0.0  # the wait for data is that since the mark
        self.display: Display

    def compiling(self) -> None:
        """Starts the clock of the compilation."""
        self._mark = time.monotonic()

    def compiled(self, devices: str) -> None:
        """The compilation has ended; the clock of the first call starts."""
        self._compile_seconds = time.monotonic() - self._mark
        self.display.say(f"compiled in {self._compile_seconds:.1f} s for {devices}")
        self._mark = time.monotonic()

    def submit(self, step: int, steps: int, metrics: Metrics, waited: float) -> None:
        """Takes the metrics of a call that has just been dispatched after a wait for data and ends at `step`."""
        self._waited += waited  # while the call before was under way
        self.flush()
        self._pending = (step, steps, metrics)

    def flush(self) -> None:
        """Waits for the last call that was submitted, and writes it down.

        Raises:
          NonFiniteError: the call left something non-finite behind.
        """
        if self._pending is None:
            return
        step, steps, metrics = self._pending
        self._pending = None
        arrays = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
        if (bad := arrays.pop(NONFINITE).item()) >= 0:
            raise NonFiniteError(bad)
        values = self._describe(arrays, steps)
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        waited, self._waited = self._waited, 0.0
        rate = steps * self._batch_size / seconds / self._chips
        measured = {
            "step": step,
            self._rate: rate,
            "data_wait": min(1.0, waited / seconds),
            "seconds": seconds,
            "elapsed": now - self._started,
        }
        if self._peak_flops:
            measured["mfu"] = rate * self.flops_per_example / self._peak_flops
        self.folder.append("metrics.jsonl", {"step": step, **self._beside(step), **values})
        self._timing.append(self.folder.append("timing.jsonl", measured))
        self.display.training(step, values, measured)
        self._warn({"step": step, **values})

    def evaluated(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of an evaluation that has just ended; its time is not the next call's."""
        line = {"step": step, **self._beside(step), **metrics}
        written = self.folder.append("metrics.jsonl", line)
        # An earlier state that is measured again does not become the last one by it.
        self._evaluations = sorted([*self._evaluations, written], key=lambda line: line["step"])
        self.display.evaluation(step, metrics)
        self._warn(line)
        self._mark = time.monotonic()

    def _warn(self, values: Mapping[str, Any]) -> None:
        """Says what has become worth knowing, and writes it down for the report."""
        for text in self._news(values):
            self.display.say(f"step {values['step']}: {text}")
            self.folder.append("warnings.jsonl", {"step": values["step"], "warning": text})

    def _news(self, values: Mapping[str, Any]) -> list[str]:
        """The warnings that have not been there right before."""
        found = self._warnings(values)
        news = [text for kind, text in found.items() if text and kind not in self._said]
        self._said = (self._said - found.keys()) | {kind for kind, text in found.items() if text}
        return news

    def measured(self, step: int) -> bool:
        """Whether there are figures of the state at `step` that compare with those to come."""
        return any(line["step"] == step for line in self._evaluations)

    @property
    def _rate(self) -> str:
        return timing.rate(self._unit)

    @property
    def _best(self) -> Mapping[str, Any]:
        """The best evaluation, the earliest of equals; a score that is not finite is the worst."""
        held = [line for line in self._evaluations if line["step"] not in self._lost] or self._evaluations
        signed = [-math.inf if line[self._score] is None else self._sign * line[self._score] for line in held]
        return held[signed.index(max(signed))]

    @property
    def best_step(self) -> int | None:
        """Step of the best evaluation whose checkpoint is not lost; None where there is none."""
        step: int | None = self._best["step"] if self._evaluations else None
        return None if step in self._lost else step

    def lose(self, kept: Collection[int | None]) -> None:
        """The states of all evaluations so far but those of the steps `kept` are gone: they are the best no more."""
        self._lost = {line["step"] for line in self._evaluations} - set(kept)

    def improved(self, step: int) -> bool:
        """Whether the evaluation at `step` is the best so far."""
        return self._best["step"] == step

    def stale(self, patience: int) -> bool:
        """Whether the last `patience` evaluations brought nothing better; never with a patience of 0."""
        return 0 < patience < len(self._evaluations) and self._best not in self._evaluations[-patience:]

    def result(self) -> dict[str, Any]:
        """The last evaluation, the best score, and speed: the median over calls; seconds of earlier runs included."""
        rates = [line[self._rate] for line in self._timing if line.get(self._rate) is not None]
        speed = {self._rate: statistics.median(rates)} if rates else {}
        if rates and self._peak_flops:
            speed["mfu"] = speed[self._rate] * self.flops_per_example / self._peak_flops
        beside = ("step", *self._beside(0))
        figures = {name: value for name, value in self._evaluations[-1].items() if name not in beside}
        figures |= {f"{BEST}{self._score}": self._best[self._score], "best_step": self._best["step"]}
        return figures | {
            **speed,
            "seconds": time.monotonic() - self._started,
            "compile_seconds": self._compile_seconds,
            timing.flops(self._unit): self.flops_per_example,
        }


def scalars(metrics: Mapping[str, np.ndarray], steps: int = 1) -> dict[str, Any]:
    """The metrics that are single numbers, as Python's; they are means, so that the number of steps says nothing."""
    del steps
    return {name: np.asarray(value).item() for name, value in metrics.items() if np.ndim(value) == 0}
