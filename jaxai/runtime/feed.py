"""Where a call's batches come from: arrays that live on the device, or a stream from the host.

Both give the same batches, and which ones is a function of the seed and the step alone.
"""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxai.core import PyTree
from jaxai.data.epochs import Order
from jaxai.data.stream import Stream
from jaxai.runtime import parallel
from jaxai.runtime.config import Run
from jaxai.runtime.schedule import Schedule

Arrays = Mapping[str, np.ndarray]

DEVICE_SHARE = 0.25
"""Share of a device's memory that data may take before it is streamed instead."""
CPU_BYTES = 4 * 2**30
"""The same as bytes for CPU devices, which do not say how much memory they have."""


class Feed(Protocol):
    """The batches of each call in turn; a context that ends what runs in the background.

    Attributes:
      dataset: what the call gathers its examples from; None where the batches are whole.
    """

    dataset: PyTree

    def batches(self, step: int) -> PyTree:
        """The placed batches of `steps_per_call` steps from any step on."""

    def next(self, step: int) -> tuple[PyTree, float]:
        """The batches of the next call, which begins at `step`, and the seconds that were spent waiting for them."""

    def __enter__(self) -> "Feed": ...

    def __exit__(self, *_: object) -> None: ...


def make_feed(
    data: Arrays | None, order: Order | None, run: Run, mesh: Mesh, schedule: Schedule, first_step: int
) -> Feed:
    """The feed of a run: none, resident or streamed, by what there is and whether it fits.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    if data is None or order is None:
        return NoFeed()
    kind = (
        StreamFeed if run.placement == "host" or (run.placement == "auto" and not _fits(data, mesh)) else ResidentFeed
    )
    return kind(data, order, mesh, run.mode, schedule, first_step)


def data_key(seed: int) -> jax.Array:
    """The key of the order of the data; `State.key` begins from `key(seed)` itself."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def example_batch(data: Arrays | None, batch_size: int) -> Any:
    """Shapes and dtypes of the batch that a step gets."""
    if data is None:
        return None
    arrays = {k: jax.ShapeDtypeStruct((batch_size, *v.shape[1:]), v.dtype) for k, v in data.items()}
    return arrays | {"index": jax.ShapeDtypeStruct((batch_size,), np.int32)}


class NoFeed:
    """For workloads that make their own data."""

    dataset = None

    def batches(self, step: int) -> PyTree:
        """None."""
        return None

    def next(self, step: int) -> tuple[PyTree, float]:
        """None, without waiting."""
        return None, 0.0

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class ResidentFeed(NoFeed):
    """Data that lives on every device whole; a batch is its indices."""

    def __init__(
        self, data: Arrays, order: Order, mesh: Mesh, mode: parallel.Mode, schedule: Schedule, first_step: int
    ):
        self.dataset = parallel.place_dataset(dict(data), mesh)
        self._order, self._mesh, self._mode, self._steps = order, mesh, mode, schedule.steps_per_call

    def batches(self, step: int) -> PyTree:
        """Indices [steps_per_call, batch], or [batch] at one step a call."""
        indices = self._order.host_indices(step, self._steps)
        indices = indices[0] if self._steps == 1 else indices
        return parallel.place_batches(indices, self._mesh, self._mode, self._steps)

    def next(self, step: int) -> tuple[PyTree, float]:
        """As `batches`, timed."""
        started = time.monotonic()
        return self.batches(step), time.monotonic() - started


class StreamFeed:
    """Data that stays on the host: a thread gathers and transfers the batches while the device computes."""

    dataset = None

    def __init__(
        self, data: Arrays, order: Order, mesh: Mesh, mode: parallel.Mode, schedule: Schedule, first_step: int
    ):
        self._data = dict(data) | {"index": np.arange(len(next(iter(data.values()))), dtype=np.int32)}
        self._order, self._mesh, self._mode, self._steps = order, mesh, mode, schedule.steps_per_call
        # Always whole calls: a shorter one runs fewer steps of the same program.
        calls = ((start, self._steps) for start, _ in schedule.calls(first_step))
        self._stream = Stream(self._data, order, calls, place=self._place)

    def batches(self, step: int) -> PyTree:
        """Arrays [steps_per_call, batch, ...], or [batch, ...] at one step a call."""
        indices = self._order.host_indices(step, self._steps)
        return self._place({name: array[indices] for name, array in self._data.items()})

    def next(self, step: int) -> tuple[PyTree, float]:
        """The next of the stream."""
        before = self._stream.seconds_waited
        batches = next(self._stream)
        return batches, self._stream.seconds_waited - before

    def _place(self, batches: Any) -> PyTree:
        if self._steps == 1:
            batches = {name: array[0] for name, array in batches.items()}
        return parallel.place_batches(batches, self._mesh, self._mode, self._steps)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _fits(data: Arrays, mesh: Mesh) -> bool:
    memory = mesh.devices.flat[0].memory_stats()
    budget = DEVICE_SHARE * memory["bytes_limit"] if memory and "bytes_limit" in memory else CPU_BYTES
    return sum(array.nbytes for array in data.values()) <= budget
