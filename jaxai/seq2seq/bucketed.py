"""Steps over batches of several shapes in one compiled program, which selects the branch of each batch's shape."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jax import lax

from jaxai.core import Batch, State, Workload
from jaxai.seq2seq.checks import PAIRS, check_batch

__all__ = ["Shape", "bucketed"]

Output = TypeVar("Output")


class Shape(NamedTuple):
    """The shape of a batch over all devices."""

    source: int  # tokens of a padded source
    target: int  # tokens of a padded target
    rows: int  # pairs


def bucketed(workload: Workload, shapes: Sequence[Shape]) -> Workload:
    """The workload for batches that are padded to the largest of `shapes` and contain the index of their own shape.

    `batch["bucket"]` ([rows] int32, the same number in all rows) is the index of the batch's shape in `shapes`. The
    step reads the rows at `floor(i * largest / rows)`, and the first `shape.source` and `shape.target` tokens of them.
    Each shape is a branch of one `lax.switch`, compiled once: one call may run any mix of shapes.

    Args:
      workload: from `seq2seq.make`.
      shapes: of the batches.

    Raises:
      ValueError: from the steps, if the rows of a bucket do not divide over the devices.
    """
    most = max(shape.rows for shape in shapes)

    def choose(function: Callable[[State, Batch], Output]) -> Callable[[State, Batch], Output]:
        def chosen(state: State, batch: Batch) -> Output:
            check_batch(batch, (*PAIRS, "bucket"))
            assert batch is not None
            here = batch["bucket"].shape[0]

            def branch(shape: Shape) -> Callable[[State, Batch], Output]:
                rows = _share(shape.rows, here, most)

                def run(state: State, batch: Batch) -> Output:
                    assert batch is not None
                    cut = {name: array[np.arange(rows) * here // rows] for name, array in batch.items()}
                    cut |= {name: cut[name][:, : getattr(shape, name)] for name in ("source", "target")}
                    return function(state, cut)

                return run

            if len(shapes) == 1:
                return branch(shapes[0])(state, batch)
            return lax.switch(batch["bucket"][0], [branch(shape) for shape in shapes], state, batch)

        return chosen

    gradients = None if workload.gradients is None else choose(workload.gradients)
    return workload._replace(train_step=choose(workload.train_step), gradients=gradients)


def _share(rows: int, here: int, most: int) -> int:
    """Number of a bucket's rows on this device, whose share of a batch is `here` of `most` rows."""
    if rows * here % most:
        raise ValueError(
            f"a bucket of {rows} rows does not divide over {most // here} devices; give more tokens a batch, fewer"
            " buckets, or fewer devices with --devices"
        )
    return rows * here // most
