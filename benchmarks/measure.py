"""Measures a training step as the loop runs it: compilation apart, warm, in blocks that end on the device."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from benchmarks.machine import MOST_FOREIGN, ForeignCpu, load_average
from jaxai.core import PyTree, State
from jaxai.runtime import chips, parallel
from jaxai.runtime.batches import CallBatches, StreamedBatches, make_batches
from jaxai.runtime.config import Run
from jaxai.runtime.loop import flops_per_step
from jaxai.runtime.plan import STEPS_PER_CALL, Plan
from jaxai.runtime.training import Training

ROTATION = 8
"""Calls whose batches differ; they wait on the device, so that only the step is timed."""
FOREVER = 2**30


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    blocks: int = 5  # timed blocks; their median is the result, their range the spread
    steps: int = 20  # optimizer steps in a block, at least
    block_seconds: float = 0.5  # seconds that a block lasts at least: it gets more steps on a fast chip
    seconds: float = 60.0  # about the most for all blocks of a case: they get fewer steps on a slow chip


def measure(training: Training, run: Run, effort: Effort) -> tuple[dict[str, Any], list[str]]:
    """The figures of a training's step on this machine, and what speaks against trusting them.

    Returns:
      figures: examples_per_second_per_chip (spread over the blocks), seconds_per_step (median), trace_seconds,
        compile_seconds, flops_per_example, mfu (None where the chip's peak is not known), peak_memory_bytes (of one
        chip) and how it was read, and how it was measured.
      flags: one line for each thing that was not as it should be.
    """
    mesh, steps_per_call = parallel.make_mesh(run.devices), run.steps_per_call or STEPS_PER_CALL
    plan = Plan(FOREVER, steps_per_call, FOREVER, FOREVER)
    program = training.program
    state = program.prepare(jax.jit(program.make(None).init)(jax.random.key(run.seed)))
    state = parallel.place_state(state, mesh, run.mode)
    device = mesh.devices.flat[0]
    load_before, peak_before = load_average(), _device_peak(device)
    with make_batches(training.data, run, mesh, plan, first_step=0) as batches:
        call = parallel.compile_step(
            program.make(parallel.axis_name(run.mode)).train_step, mesh, run.mode, steps_per_call
        )
        started = time.perf_counter()
        lowered = call.lower(state, batches.at(0), batches.dataset)
        traced = time.perf_counter()
        call = call._replace(function=lowered.compile())
        compiled = time.perf_counter()
        trainer = _Trainer(call, state, batches, steps_per_call, wait=device.platform == "cpu" and mesh.size > 1)
        warm_steps, seconds_per_step = _warm_up(trainer, effort)
        steps = _block_steps(effort, seconds_per_step)
        rates, foreign = [], []
        for _ in range(effort.blocks):
            with ForeignCpu() as others:
                done, seconds = trainer.run(steps)
            rates.append(done * training.units_per_step / seconds / chips.count(mesh))
            foreign.append(others.share)
    per_example = flops_per_step(training) / training.units_per_step
    rate, peak = statistics.median(rates), chips.peak_flops(device)
    memory, memory_source = _peak_memory(device, peak_before, call.function)
    figures = {
        "batch_size": training.units_per_step if training.data is None else training.batch_size,
        "unit": training.log.unit,  # what is called an example below
        "steps_per_call": steps_per_call,
        "mode": run.mode,
        "devices": mesh.size,
        "examples_per_second_per_chip": spread(rates),
        "seconds_per_step": training.units_per_step / rate / chips.count(mesh),
        "trace_seconds": round(traced - started, 3),
        "compile_seconds": round(compiled - traced, 3),
        "flops_per_example": per_example,
        "flops_per_second_per_chip": rate * per_example,
        "mfu": rate * per_example / peak if peak else None,
        "peak_memory_bytes": memory,
        "peak_memory_source": memory_source,
        "blocks": rates,
        "steps_per_block": done,
        "warm_up_steps": warm_steps,
        "placement": "host" if isinstance(batches, StreamedBatches) else "device",
        "load_average": load_before,
        "foreign_cpu_share": foreign,
    }
    return figures, _flags(effort, figures, trainer.finite)


def spread(values: Sequence[float]) -> dict[str, float]:
    """median, min, max and iqr (between the quartiles) of at least one value."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "iqr": quartiles[2] - quartiles[0],
    }


class _Trainer:
    """Goes on training with a compiled call."""

    def __init__(self, call: parallel.Call, state: Any, batches: CallBatches, steps_per_call: int, wait: bool):
        self._call, self._state, self._dataset, self._most, self._wait = (
            call,
            state,
            batches.dataset,
            steps_per_call,
            wait,
        )
        self._next = _batches(batches, steps_per_call)
        self.finite = True

    def run(self, steps: int) -> tuple[int, float]:
        """Runs `steps` steps, rounded up to whole calls, and waits for them: (steps done, seconds)."""
        calls, per_call = math.ceil(steps / self._most), min(steps, self._most)
        started = time.perf_counter()
        for _ in range(calls):
            self._state, metrics = self._call(self._state, self._next(self._state), self._dataset, per_call)
            if self._wait:  # many collectives in flight exhaust the threads that CPU devices meet in
                jax.block_until_ready(metrics)
        jax.block_until_ready((self._state, metrics))
        seconds = time.perf_counter() - started
        self.finite &= int(metrics[parallel.NONFINITE]) < 0
        return calls * per_call, seconds


def _batches(batches: CallBatches, steps_per_call: int) -> Callable[[State], PyTree]:
    if isinstance(batches, StreamedBatches):  # what does not wait on the device is part of what is measured
        starts = itertools.count(0, steps_per_call)
        return lambda state: batches.next(next(starts), steps_per_call, state)[0]
    waiting = itertools.cycle([batches.at(i * steps_per_call) for i in range(ROTATION)])
    return lambda state: next(waiting)


def _warm_up(trainer: _Trainer, effort: Effort) -> tuple[int, float]:
    """Steps until the chip is at speed, at least two calls: (steps done, seconds a step at the end)."""
    done, began, steps = trainer.run(1)[0], time.perf_counter(), 1
    while True:
        ran, seconds = trainer.run(steps)
        done += ran
        elapsed = time.perf_counter() - began
        if (done > effort.steps and elapsed > effort.block_seconds) or elapsed > effort.seconds / effort.blocks:
            return done, seconds / ran
        steps *= 2


def _block_steps(effort: Effort, seconds_per_step: float) -> int:
    wanted = max(effort.steps, math.ceil(effort.block_seconds / seconds_per_step))
    return max(1, min(wanted, int(effort.seconds / effort.blocks / seconds_per_step)))


def _device_peak(device: jax.Device) -> int:
    """The most bytes that this process has had on the device, ever; 0 where the device does not tell, as a CPU."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)


def _peak_memory(device: jax.Device, before: int, compiled: Any) -> tuple[int, str]:
    # A peak that did not grow is that of an earlier case in the same process.
    after = _device_peak(device)
    if after > before:
        return after, "memory_stats"
    sizes = compiled.memory_analysis()
    outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + outputs, "memory_analysis"


def _flags(effort: Effort, figures: dict[str, Any], finite: bool) -> list[str]:
    flags = []
    shares = [share for share in figures["foreign_cpu_share"] if share is not None]
    if shares and max(shares) > MOST_FOREIGN:
        flags.append(f"other processes took up to {max(shares):.0%} of the CPU")
    if figures["steps_per_block"] < effort.steps:
        flags.append(f"blocks of {figures['steps_per_block']} steps only, for lack of time")
    if effort.blocks < Effort.blocks or effort.steps < Effort.steps:
        flags.append(f"{effort.blocks} blocks of {effort.steps} steps were asked for, fewer than the rule")
    if not finite:
        flags.append("the training became non-finite")
    return flags
