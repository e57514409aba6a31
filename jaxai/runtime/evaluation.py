"""Exact evaluation of a state over a whole split, in the smallest number of calls that fits the memory."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxai.core import State, Workload
from jaxai.runtime import parallel

__all__ = ["Evaluation", "Evaluations"]

Arrays = Mapping[str, np.ndarray]


class Evaluations:
    """The evaluation of several splits: a call returns `{"test_loss": ..., "test_accuracy": ...}`."""

    def __init__(
        self,
        workload: Workload,
        splits: Mapping[str, Arrays | None],
        mesh: Mesh,
        mode: parallel.Mode,
        batch_size: int,
        chunk: int | None = None,
    ):
        self._splits = {
            name: Evaluation(workload, arrays, mesh, mode, batch_size, chunk) for name, arrays in splits.items()
        }

    def __call__(self, state: State) -> dict[str, np.ndarray]:
        """The metrics of every split, called `<split>_<metric>`."""
        return {
            f"{split}_{name}": value
            for split, evaluation in self._splits.items()
            for name, value in evaluation(state).items()
            if name != "count"
        }


class Evaluation:
    """Sums `eval_step` over a split; the last batch is filled up with other examples, which are masked.

    Args:
      workload: made with `parallel.axis_name(mode)`.
      arrays: the split, leaves [examples, ...]; None for a workload that generates its own data.
      mesh: devices.
      mode: engine.
      batch_size: examples in a batch over all devices; rounded up to a multiple of the devices.
      chunk: number of examples on the device at a time; None: all, and they stay there.
    """

    def __init__(
        self,
        workload: Workload,
        arrays: Arrays | None,
        mesh: Mesh,
        mode: parallel.Mode,
        batch_size: int,
        chunk: int | None = None,
    ):
        assert workload.eval_step is not None
        self._mesh, self._mode = mesh, mode
        self._call = parallel.compile_evaluation(workload.eval_step, mesh, mode)
        self._chunks: list[Any] = [None]
        if arrays is None:
            return
        examples = len(next(iter(arrays.values())))
        # Not smaller for a small split: a statistic over groups within a batch needs batches of full groups.
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        chunk = examples if chunk is None else min(examples, chunk)
        self._chunks = [{k: v[i : i + chunk] for k, v in arrays.items()} for i in range(0, examples, chunk)]
        if len(self._chunks) == 1:
            self._chunks = [parallel.place_dataset(self._chunks[0], mesh)]

    def __call__(self, state: State) -> dict[str, np.ndarray]:
        """float64: the sums of `eval_step` divided by `count`; arrays of another shape than `count` are not divided."""
        totals: dict[str, np.ndarray] = {}
        for arrays in self._chunks:
            batches = None if arrays is None else self._batches(len(next(iter(arrays.values()))))
            dataset = None if arrays is None else parallel.place_dataset(arrays, self._mesh)
            sums = jax.device_get(self._call(state, batches, dataset))
            totals = {name: totals.get(name, 0) + np.asarray(value, np.float64) for name, value in sums.items()}
        count = totals.pop("count")
        means = {name: total / count if total.shape == count.shape else total for name, total in totals.items()}
        return means | {"count": count}

    def _batches(self, examples: int) -> Any:
        steps = -(-examples // self._batch_size)
        index = np.arange(steps * self._batch_size)
        batches = {
            "index": (index % examples).astype(np.int32).reshape(steps, -1),
            "mask": (index < examples).astype(np.float32).reshape(steps, -1),
        }
        # Evaluation always has a leading axis of steps, even for one.
        return parallel.place_batches(batches, self._mesh, self._mode, steps_per_call=2)
