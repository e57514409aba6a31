"""The batches of a call: from arrays on the device, arrays streamed from the host, or a feed of your own.

With arrays, the examples of a step depend on the seed and the step alone, wherever the arrays are stored.
"""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxai.core import PyTree, State
from jaxai.data.stream import Stream
from jaxai.runtime import parallel
from jaxai.runtime.config import Run
from jaxai.runtime.feed import Feed
from jaxai.runtime.plan import Plan
from jaxai.runtime.training import Arrays, Examples

__all__ = ["CallBatches", "example_batch", "make_batches"]

DEVICE_SHARE = 0.25
"""Share of a device's memory that data may take before it is streamed instead."""
CPU_BYTES = 4 * 2**30
"""The same as bytes for CPU devices, which do not report their memory."""


class CallBatches(Protocol):
    """The placed batches of each call in turn; a context that ends background threads.

    Attributes:
      dataset: the arrays on the device that a call gathers its examples from; None if the batches are complete.
    """

    dataset: PyTree

    def at(self, step: int) -> PyTree:
        """Batches of `steps_per_call` steps from any step on; for a feed, zeros of this shape."""

    def next(self, step: int, steps: int, state: State) -> tuple[PyTree, float]:
        """The batches of the next call.

        Args:
          step: the first step of the call.
          steps: number of steps, 1 to `steps_per_call`.
          state: before that step; only a feed reads it.

        Returns:
          Batches of `steps_per_call` steps, and the seconds of waiting for them.
        """

    def __enter__(self) -> "CallBatches": ...

    def __exit__(self, *_: object) -> None: ...


def make_batches(data: Examples | Feed | None, run: Run, mesh: Mesh, plan: Plan, first_step: int) -> CallBatches:
    """The batches of a run: none, resident on the device, streamed, or from a feed.

    Args:
      data: arrays, a feed, or None for a workload that generates its own data.
      run: seed, mode and placement are read.
      mesh: the devices.
      plan: the calls of the run.
      first_step: of the first call.

    Raises:
      ValueError: the batch does not divide over the devices, or is larger than the data.
    """
    if data is None:
        return NoBatches()
    if not isinstance(data, Examples):
        return FeedBatches(data, run, mesh, plan)
    streams = run.placement == "host" or (run.placement == "auto" and not _fits(data.arrays, mesh))
    return StreamedBatches(data, run, mesh, plan, first_step) if streams else ResidentBatches(data, run, mesh, plan)


def example_batch(data: Examples | Feed | None) -> Any:
    """Shapes and dtypes of the batch of one step."""
    if data is None:
        return None
    if not isinstance(data, Examples):
        return {name: jax.ShapeDtypeStruct(np.shape(like), like.dtype) for name, like in data.example.items()}
    arrays = {k: jax.ShapeDtypeStruct((data.batch_size, *v.shape[1:]), v.dtype) for k, v in data.arrays.items()}
    return arrays | {"index": jax.ShapeDtypeStruct((data.batch_size,), np.int32)}


class NoBatches:
    """For workloads that generate their own data."""

    dataset: PyTree = None

    def at(self, step: int) -> PyTree:
        """None."""
        return None

    def next(self, step: int, steps: int, state: State) -> tuple[PyTree, float]:
        """None, without waiting.

        Args:
          step, steps, state: as for `CallBatches.next`.
        """
        return None, 0.0

    def __enter__(self) -> CallBatches:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class ResidentBatches(NoBatches):
    """Data that every device holds completely; a batch is the indices of its examples."""

    def __init__(self, data: Examples, run: Run, mesh: Mesh, plan: Plan):
        self.dataset = parallel.place_dataset(dict(data.arrays), mesh)
        self._order, self._mesh, self._mode, self._steps = data.batches(run.seed), mesh, run.mode, plan.steps_per_call

    def at(self, step: int) -> PyTree:
        """Indices [steps_per_call, batch], or [batch] at one step per call."""
        indices = self._order.host_indices(step, self._steps)
        indices = indices[0] if self._steps == 1 else indices
        return parallel.place_batches(indices, self._mesh, self._mode, self._steps)

    def next(self, step: int, steps: int, state: State) -> tuple[PyTree, float]:
        """As `at`, timed.

        Args:
          step, steps, state: as for `CallBatches.next`.
        """
        started = time.monotonic()
        return self.at(step), time.monotonic() - started


class StreamedBatches(NoBatches):
    """Data that stays on the host: a thread gathers and transfers the batches while the device computes."""

    def __init__(self, data: Examples, run: Run, mesh: Mesh, plan: Plan, first_step: int):
        examples = len(next(iter(data.arrays.values())))
        self._data = dict(data.arrays) | {"index": np.arange(examples, dtype=np.int32)}
        self._order, self._mesh, self._mode, self._steps = data.batches(run.seed), mesh, run.mode, plan.steps_per_call
        # Always whole calls: a shorter one runs fewer steps of the same program.
        calls = ((start, self._steps) for start, _ in plan.calls(first_step))
        self._stream = Stream(self._data, self._order, calls, place=self._place)

    def at(self, step: int) -> PyTree:
        """Arrays [steps_per_call, batch, ...], or [batch, ...] at one step per call."""
        indices = self._order.host_indices(step, self._steps)
        return self._place({name: array[indices] for name, array in self._data.items()})

    def next(self, step: int, steps: int, state: State) -> tuple[PyTree, float]:
        """The next of the stream.

        Args:
          step, steps, state: as for `CallBatches.next`.
        """
        before = self._stream.seconds_waited
        batches = next(self._stream)
        return batches, self._stream.seconds_waited - before

    def _place(self, batches: Any) -> PyTree:
        if self._steps == 1:
            batches = {name: array[0] for name, array in batches.items()}
        return parallel.place_batches(batches, self._mesh, self._mode, self._steps)

    def __exit__(self, *_: object) -> None:
        self._stream.close()


class FeedBatches(NoBatches):
    """Batches from a feed, checked against its example."""

    def __init__(self, feed: Feed, run: Run, mesh: Mesh, plan: Plan):
        self._feed, self._mesh, self._mode, self._steps = feed, mesh, run.mode, plan.steps_per_call
        self._example = example_batch(feed)

    def at(self, step: int) -> PyTree:
        """Zeros [steps_per_call, batch, ...], or [batch, ...] at one step per call."""
        return self._place([{name: np.zeros(like.shape, like.dtype) for name, like in self._example.items()}], 1)

    def next(self, step: int, steps: int, state: State) -> tuple[PyTree, float]:
        """One batch after another, all of them with the same state.

        Args:
          step, steps, state: as for `CallBatches.next`.

        Raises:
          ValueError: a batch that differs from the example in its names, shapes or dtypes.
        """
        started = time.monotonic()
        batches = [self._checked(step + i, self._feed.next(step + i, state)) for i in range(steps)]
        return self._place(batches, steps), time.monotonic() - started

    def _checked(self, step: int, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = {name: np.asarray(array) for name, array in batch.items()}
        got, expected = ({k: f"{v.dtype}{list(v.shape)}" for k, v in each.items()} for each in (arrays, self._example))
        if got != expected:
            raise ValueError(f"the feed's batch of step {step} is {_shown(got)}; its example is {_shown(expected)}")
        return arrays

    def _place(self, batches: list[dict[str, np.ndarray]], steps: int) -> PyTree:
        if self._steps == 1:
            return parallel.place_batches(batches[0], self._mesh, self._mode, 1)
        whole = batches + [batches[-1]] * (self._steps - steps)  # the call ignores the rest
        stacked = {name: np.stack([batch[name] for batch in whole]) for name in self._example}
        return parallel.place_batches(stacked, self._mesh, self._mode, self._steps)

    def __exit__(self, *_: object) -> None:
        if callable(close := getattr(self._feed, "close", None)):
            close()


def _shown(batch: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {array}" for name, array in sorted(batch.items())) or "empty"


def _fits(data: Arrays, mesh: Mesh) -> bool:
    memory = mesh.devices.flat[0].memory_stats()
    budget = DEVICE_SHARE * memory["bytes_limit"] if memory and "bytes_limit" in memory else CPU_BYTES
    return sum(array.nbytes for array in data.values()) <= budget
