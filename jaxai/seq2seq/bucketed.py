"""Steps over batches of several shapes, in one program that picks the shape of the batch it is given."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxai.core import Batch, State, Workload
from jaxai.seq2seq.checks import PAIRS, check_batch

Output = TypeVar("Output")


class Shape(NamedTuple):
    """A batch of `rows` pairs, over all devices, with so many tokens of padded source and target."""

    source: int
    target: int
    rows: int


def bucketed(workload: Workload, shapes: Sequence[Shape]) -> Workload:
    """The workload for batches that come padded to the largest of `shapes` and say which of them they have.

    `batch["bucket"]` ([rows] int32, the same number in all rows) is the index of the batch's shape; of its rows those
    at `floor(i * most / rows)` are read, and of `source` and `target` as many tokens as the shape has. Each shape is a
    branch of one `lax.switch`, compiled once: any mix of shapes runs in one call.

    Raises:
      ValueError: a batch that was cut for more devices than the rows of a bucket divide over.
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
    """Of a bucket's rows those on this device, which has `here` of the `most` that a batch has."""
    if rows * here % most:
        raise ValueError(
            f"a bucket of {rows} rows does not divide over {most // here} devices; give more tokens a batch, fewer"
            " buckets, or fewer devices with --devices"
        )
    return rows * here // most


def example(shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of one bucket, as `seq2seq.make(...).train_step` takes it."""
    tokens = {
        name: jax.ShapeDtypeStruct((shape.rows, getattr(shape, name)), jnp.int32) for name in ("source", "target")
    }
    return tokens | {f"{name}_length": jax.ShapeDtypeStruct((shape.rows,), jnp.int32) for name in tokens}
