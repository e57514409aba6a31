"""Batches from the host for data that does not fit on the device, gathered in advance by a thread."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from jaxai.data.epochs import Order

__all__ = ["HostBatches", "Stream", "calls"]

HostBatches = dict[str, np.ndarray]
"""The batches of one call of `steps` steps: key -> [steps, batch, ...]."""


def calls(start: int, stop: int, steps_per_call: int) -> Iterator[tuple[int, int]]:
    """(step, steps) of each call; the last may be shorter.

    Args:
      start: first step.
      stop: the step after the last one.
      steps_per_call: number of steps in a call.
    """
    for step in range(start, stop, steps_per_call):
        yield step, min(steps_per_call, stop - step)


class Stream:
    """Iterates over the batches of each call; they are exactly the same as for data on the device.

    A background thread gathers them and, given `place`, puts them on the devices while the device computes. The batches
    of at most `depth` + 2 calls are in memory: queued, being gathered, and in use. Close it, or use it in a `with`
    block.

    Attributes:
      seconds_waited: total time that `next` has waited, in seconds.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        epochs: Order,
        calls: Iterable[tuple[int, int]],
        *,
        place: Callable[[HostBatches], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
        depth: int = 2,
    ) -> None:
        """Starts the thread.

        Args:
          arrays: key -> [examples, ...]; may be memory-mapped.
          epochs: the examples of each step.
          calls: (step, steps) of each call, as from `calls(start, stop, steps_per_call)`; may be endless.
          place: applied in the thread to {key: [steps, batch, ...]}, as a `device_put`; its result is yielded.
          shard: (index, count) of this process: it reads the index-th of count equal parts of each batch.
          depth: number of calls whose batches are prepared in advance.

        Raises:
          ValueError: `shard` does not fit the batch size, or the arrays have another number of examples.
        """
        index, count = shard
        if not 0 <= index < count or epochs.batch_size % count:
            raise ValueError(
                f"shard is {index} of {count}; expected an index below the count, "
                f"and a count that divides the batch size {epochs.batch_size}"
            )
        lengths = {key: len(array) for key, array in arrays.items()}
        if set(lengths.values()) != {epochs.examples}:
            raise ValueError(f"arrays have lengths {lengths}; expected {epochs.examples} examples each")
        part = epochs.batch_size // count
        # A view, because indexing a memmap directly is slower and yields memmaps.
        views = {key: np.asarray(array) for key, array in arrays.items()}

        def gather(step: int, steps: int) -> Any:
            indices = epochs.host_indices(step, steps)[:, index * part : (index + 1) * part]
            batches = {key: view[indices] for key, view in views.items()}
            return batches if place is None else place(batches)

        self.seconds_waited = 0.0
        self._ready: queue.Queue[Any] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=_produce, args=(gather, calls, self._ready, self._closed), name="jaxai-stream", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Self:
        """The stream itself: it can be iterated once."""
        return self

    def __next__(self) -> Any:
        """The batches of the next call. Raises an exception of the thread, if there was one."""
        if self._closed.is_set():
            raise StopIteration
        began = time.perf_counter()
        item = self._ready.get()
        self.seconds_waited += time.perf_counter() - began
        if isinstance(item, _End):
            self.close()
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def close(self) -> None:
        """Stops the thread and waits for it; may be called twice."""
        self._closed.set()
        # The thread may be waiting for room in the queue.
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.01)
        self._drain()

    def _drain(self) -> None:
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                return

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the stream."""
        self.close()


class _End:
    """The last item in the queue: the calls have ended, or the thread has failed."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _produce(
    gather: Callable[[int, int], Any],
    calls: Iterable[tuple[int, int]],
    ready: queue.Queue[Any],
    closed: threading.Event,
) -> None:
    # A function, not a method: the thread holds no reference to the Stream.
    error: BaseException | None = None
    try:
        for step, steps in calls:
            if closed.is_set():
                return
            ready.put(gather(step, steps))
    # Any error is raised in the consumer, which would otherwise wait forever.
    except BaseException as caught:
        error = caught
    ready.put(_End(error))
