"""The position in the data as a pure function of the step: to resume, only `State.step` is needed.

Each epoch has its own order of the examples, which depends only on the key and the number of the epoch. Examples that
do not fill the last batch of an epoch are left out of it. A batch of all examples gives plain gradient descent, a batch
of one stochastic gradient descent.
"""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxai.core import Key

__all__ = ["MOST_STEPS", "Epochs", "Order", "batch_indices", "batches_per_epoch", "permutation", "steps_in"]

MOST_STEPS = 2**31 - 1
"""The largest `State.step`, an int32."""


def permutation(key: Key, epoch: int | jax.Array, examples: int) -> jax.Array:
    """The order of one epoch: a random permutation of the examples.

    Args:
      key: of the data.
      epoch: number of the epoch, from 0; may be traced.
      examples: number of examples.

    Returns:
      [examples] int32.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(examples, dtype=jnp.int32))


@functools.partial(jax.jit, static_argnames=("steps", "batch_size", "examples"))
def batch_indices(key: Key, step: int | jax.Array, steps: int, batch_size: int, examples: int) -> jax.Array:
    """The examples of the steps [step, step + steps).

    Each call computes the permutation again; outside of jit, use `Epochs`.

    Args:
      key: of the data.
      step: first step, from 0; may be traced.
      steps: number of steps.
      batch_size: number of examples in a step, over all devices.
      examples: number of training examples.

    Returns:
      [steps, batch_size] int32, indices of examples.

    Raises:
      ValueError: as `batches_per_epoch`.
    """
    per_epoch = batches_per_epoch(examples, batch_size)
    first = jnp.asarray(step, jnp.int32) // per_epoch
    # The largest number of epochs that these steps can overlap: they may begin at the last batch of an epoch.
    touched = 1 + (steps + per_epoch - 2) // per_epoch
    orders = jax.vmap(lambda epoch: permutation(key, epoch, examples))(first + jnp.arange(touched, dtype=jnp.int32))
    batches = orders[:, : per_epoch * batch_size].reshape(touched * per_epoch, batch_size)
    return jax.lax.dynamic_slice_in_dim(batches, step - first * per_epoch, steps)


def batches_per_epoch(examples: int, batch_size: int) -> int:
    """Number of full batches in an epoch.

    Raises:
      ValueError: `batch_size` is below 1, or above the number of examples.
    """
    if not 1 <= batch_size <= examples:
        raise ValueError(
            f"batch_size is {batch_size}; expected 1 to {examples}, the number of training examples "
            f"(all of them at once is plain gradient descent)"
        )
    return examples // batch_size


def steps_in(epochs: float, batches: int) -> int:
    """Number of train steps in `epochs` epochs of `batches` batches each, at least 1.

    Raises:
      ValueError: more steps than an int32 can hold.
    """
    steps = max(1, round(epochs * batches))
    if steps > MOST_STEPS:
        raise ValueError(f"epochs is {epochs:g}: {steps} steps, and at most {MOST_STEPS} are counted; lower it")
    return steps


class Order(Protocol):
    """The examples of each step.

    Attributes:
      examples: number of training examples.
      batch_size: number of indices in a step, over all devices.
    """

    examples: int
    batch_size: int

    def host_indices(self, step: int, steps: int) -> np.ndarray:
        """The examples of the steps [step, step + steps): [steps, batch_size] int32 on the host."""


class Epochs:
    """`batch_indices` for a training loop: the orders of the last epochs are cached on the host.

    They are on the host because streams gather there, and because slicing there needs no compilation.

    Attributes:
      examples: number of training examples.
      batch_size: number of examples in a step, over all devices.
      batches: number of steps in an epoch.
    """

    def __init__(self, key: Key, examples: int, batch_size: int) -> None:
        self.examples, self.batch_size = examples, batch_size
        self.batches = batches_per_epoch(examples, batch_size)
        order = jax.jit(permutation, static_argnums=2)

        @functools.lru_cache(maxsize=2)
        def batches_of(epoch: int) -> np.ndarray:
            whole = np.asarray(order(key, np.int32(epoch), examples))
            return whole[: self.batches * batch_size].reshape(self.batches, batch_size)

        self._batches_of = batches_of

    def host_indices(self, step: int, steps: int) -> np.ndarray:
        """The examples of the steps [step, step + steps): [steps, batch_size] int32 on the host.

        Raises:
          ValueError: `step` is below 0, or `steps` below 1.
        """
        if step < 0 or steps < 1:
            raise ValueError(f"step is {step} and steps {steps}; expected at least 0 and 1")
        parts, stop = [], step + steps
        while step < stop:
            epoch, first = divmod(step, self.batches)
            last = min(self.batches, first + stop - step)
            parts.append(self._batches_of(epoch)[first:last])
            step += last - first
        return np.concatenate(parts)

    def indices(self, step: int, steps: int) -> jax.Array:
        """As `host_indices`, on the default device."""
        return jnp.asarray(self.host_indices(step, steps))
