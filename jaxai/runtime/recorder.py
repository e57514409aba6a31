"""Logs and shows the metrics of a run, and keeps the score that selects the best checkpoint."""

import math
import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
from jaxai.runtime.training import Training

__all__ = ["Machine", "Recorder"]


@dataclass(frozen=True)
class Machine:
    """The chips of a training, to compute its speed and its share of their peak.

    Attributes:
      chips: number of chips that share the work.
      flops_per_unit: FLOPs of training for each `Log.unit`.
      peak_flops: of one chip, FLOP/s; None if the chip is not known.
    """

    chips: int
    flops_per_unit: float
    peak_flops: float | None


class Recorder:
    """The metrics and the timing of one run.

    A call's metrics are read after the next call has started, so that an accelerator never waits for the host.

    Args:
      folder: of the lines; existing lines are continued.
      training: its scoring and its log.
      machine: its chips.
      display: of the progress.
      started: `time.monotonic()` at the start of the command.
    """

    def __init__(self, folder: RunFolder, training: Training, machine: Machine, display: Display, started: float):
        self.folder, self._machine, self._display = folder, machine, display
        self._scoring, self._log, self._units = training.scoring, training.log, training.units_per_step
        self._sign = -1 if training.declarations.meanings.better(training.scoring.score or "") == "lower" else 1
        self._reported = set[str]()
        self._timing, written = folder.lines("timing.jsonl"), folder.lines("metrics.jsonl")
        require_numbers(folder.path / "timing.jsonl", self._timing, "elapsed", self._rate)
        score = [] if self._scoring.score is None else [self._scoring.score]
        require_numbers(folder.path / "metrics.jsonl", written, *score)
        evaluations = [line for line in written if self._scoring.is_evaluation(line) and not line.get(SUPERSEDED)]
        self._evaluations = [line for line in evaluations if {*score} <= line.keys()]
        self._last_call: Mapping[str, Any] = next(
            (line for line in reversed(written) if not self._scoring.is_evaluation(line)), {}
        )
        self._lost: set[int] = set()
        for line in written:
            self._news(line)  # problems that existed when the run was stopped have been reported
        self._started = started - (self._timing[-1].get("elapsed") or 0.0 if self._timing else 0.0)
        self._pending: tuple[int, int, Metrics] | None = None
        self._mark = self._waited = self._compile_seconds = 0.0  # `_waited` counts from the mark on

    def compiling(self) -> None:
        """Starts the clock of the compilation."""
        self._mark = time.monotonic()

    def compiled(self, devices: str) -> None:
        """The compilation has ended; the clock of the first call starts."""
        self._compile_seconds = time.monotonic() - self._mark
        self._display.print_line(f"compiled in {self._compile_seconds:.1f} s for {devices}")
        self._mark = time.monotonic()

    def submit(self, step: int, steps: int, metrics: Metrics, waited: float) -> None:
        """Takes the metrics of a call that has just been dispatched.

        Args:
          step: after the call.
          steps: number of train steps of the call.
          metrics: of the call, still on the device.
          waited: seconds of waiting for the call's data.
        """
        self._waited += waited  # during the previous call
        self.flush()
        self._pending = (step, steps, metrics)

    def flush(self) -> dict[str, Any]:
        """Waits for the last submitted call, logs its metrics, and returns them; empty without a call.

        Raises:
          NonFiniteError: the call produced a non-finite value.
        """
        if self._pending is None:
            return {}
        step, steps, metrics = self._pending
        self._pending = None
        arrays = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
        if (bad := arrays.pop(NONFINITE).item()) >= 0:
            raise NonFiniteError(bad)
        values = self._log.describe(arrays, steps)
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        waited, self._waited = self._waited, 0.0
        rate = steps * self._units / seconds / self._machine.chips
        measured = {
            "step": step,
            self._rate: rate,
            "data_wait": min(1.0, waited / seconds),
            "seconds": seconds,
            "elapsed": now - self._started,
        }
        if self._machine.peak_flops:
            measured["mfu"] = rate * self._machine.flops_per_unit / self._machine.peak_flops
        line = {"step": step, **self._log.position(step), **values}
        self._last_call = self.folder.append("metrics.jsonl", line)
        self._timing.append(self.folder.append("timing.jsonl", measured))
        self._display.training(step, values, measured)
        self._warn({"step": step, **values})
        return _without_step(line)

    def evaluated(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Logs the metrics of an evaluation that has just ended, and returns them.

        Raises:
          ValueError: the score is not among them.
        """
        line = {"step": step, **self._log.position(step), **metrics}
        if (score := self._scoring.score) is not None and score not in line:
            raise ValueError(f"score is {score!r}, which the evaluation has not; expected one of {', '.join(metrics)}")
        written = self.folder.append("metrics.jsonl", line)
        # An earlier state that is evaluated again does not become the last one.
        self._evaluations = sorted([*self._evaluations, written], key=lambda line: line["step"])
        self._display.evaluation(step, metrics)
        self._warn(line)
        self.restart_clock()
        return _without_step(line)

    def restart_clock(self) -> None:
        """The time since the last call is not counted as the next call's."""
        self._mark = time.monotonic()

    def _warn(self, values: Mapping[str, Any]) -> None:
        """Shows new warnings, and logs them for the report."""
        for text in self._news(values):
            self._display.print_line(f"step {values['step']}: {text}")
            self.folder.append("warnings.jsonl", {"step": values["step"], "warning": text})

    def _news(self, values: Mapping[str, Any]) -> list[str]:
        """The warnings of problems that are new since the last line."""
        found = self._log.warnings(values)
        news = [text for kind, text in found.items() if text and kind not in self._reported]
        self._reported = (self._reported - found.keys()) | {kind for kind, text in found.items() if text}
        return news

    def measured(self, step: int) -> bool:
        """Whether the metrics of the state at `step` can be compared with later ones."""
        return any(line["step"] == step for line in self._evaluations)

    @property
    def _rate(self) -> str:
        return timing.rate(self._log.unit)

    @property
    def _best(self) -> Mapping[str, Any]:
        """The best evaluation, the earliest of equals; a score that is not finite is the worst."""
        held = [line for line in self._evaluations if line["step"] not in self._lost] or self._evaluations
        score, sign = self._scoring.score, self._sign
        if score is None:
            return held[-1]
        signed = [-math.inf if line[score] is None else sign * line[score] for line in held]
        return held[signed.index(max(signed))]

    @property
    def best_step(self) -> int | None:
        """Step of the best evaluation whose checkpoint is not lost; None if there is none."""
        step: int | None = self._best["step"] if self._evaluations else None
        return None if step in self._lost else step

    def lose(self, kept: Collection[int | None]) -> None:
        """Marks the states of all evaluations so far as lost, except those of the steps `kept`."""
        self._lost = {line["step"] for line in self._evaluations} - set(kept)

    def improved(self, step: int) -> bool:
        """Whether the evaluation at `step` is the best so far."""
        return bool(self._evaluations) and self._best["step"] == step

    def stale(self, patience: int) -> bool:
        """Whether the last `patience` evaluations had no better score; never with a patience of 0."""
        return 0 < patience < len(self._evaluations) and self._best not in self._evaluations[-patience:]

    def result(self) -> dict[str, Any]:
        """The last evaluation, the best score, and the speed (median over calls); seconds include earlier processes.

        For a run without evaluations, the metrics of the last call. `checkpoint` states that the metrics are those of
        the latest checkpoint, and `selected_on` is the split that selected the best one. Metrics of the best checkpoint
        on other splits are added, as `best_test_accuracy`.
        """
        rates = [line[self._rate] for line in self._timing if line.get(self._rate) is not None]
        speed = {self._rate: statistics.median(rates)} if rates else {}
        if rates and self._machine.peak_flops:
            speed["mfu"] = speed[self._rate] * self._machine.flops_per_unit / self._machine.peak_flops
        position = ("step", *self._log.position(0))
        last = self._evaluations[-1] if self._evaluations else self._last_call
        figures = {name: value for name, value in last.items() if name not in position}
        if self._evaluations:
            score = self._scoring.score
            figures |= {f"{BEST}{score}": self._best[score]} if score else {}
            figures |= {"best_step": self._best["step"], "checkpoint": "latest"}
            figures |= self._selection(score)
        return figures | {
            **speed,
            "seconds": time.monotonic() - self._started,
            "compile_seconds": self._compile_seconds,
            timing.flops(self._log.unit): self._machine.flops_per_unit,
        }

    def _selection(self, score: str | None) -> dict[str, Any]:
        """The split that selected the best checkpoint, and its metrics on the other splits."""
        selected_on = self._scoring.selected_on
        if not score or not selected_on:
            return {}
        others = tuple(f"{split}_" for split in self._scoring.splits if split != selected_on)
        return {"selected_on": selected_on} | {
            f"{BEST}{name}": value for name, value in self._best.items() if others and name.startswith(others)
        }


def _without_step(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "step"}
