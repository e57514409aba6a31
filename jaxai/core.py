"""The interface of a workload, and the state with everything that training needs in order to continue.

A workload is a tuple of pure functions, as an optax transformation is. The same `train_step` runs under `jax.jit`,
`jax.pmap`, `jax.shard_map`, `jax.vmap` over seeds and `jax.lax.scan` over steps, because all its inputs are arguments
and all its effects are return values.

A step that is made for several devices (`axis_name` given) follows one rule: take the gradient of the *local* loss,
then `pmean` the gradient. The gradient of a `pmean`ed loss is silently wrong under `pmap`, and under `shard_map` with
`check_vma=True` it comes back already summed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from flax import struct
from jax import lax

from jaxai.metrics import Metric as Metric

__all__ = [
    "Batch",
    "Key",
    "Metric",
    "Metrics",
    "PyTree",
    "State",
    "Workload",
    "device_key",
    "pmean",
    "psum",
    "split_batch",
    "step_key",
    "whole",
]

PyTree = Any
Key = jax.Array
"""A typed key from `jax.random.key`: shape [], dtype `key<fry>`."""
Batch = Mapping[str, jax.Array] | None
"""Arrays whose leading axis is the batch; `None` for a workload that makes its own data, as DQN does."""
Metrics = dict[str, jax.Array]

T = TypeVar("T")


class State(struct.PyTreeNode):
    """Everything that training needs in order to continue, one pytree.

    Attributes:
      step: [] int32, number of optimizer steps so far; it determines the position in the data.
      params: replicated over devices.
      opt_state: of the optax transformation; replicated.
      key: typed key, never advanced: random numbers of a step come from `fold_in(key, step)`.
      extra: replicated: batch statistics, moving averages, target parameters.
      local: per device: environment states, replay; its leading axis divides by the device count.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    key: Key
    extra: PyTree = None
    local: PyTree = None


def whole(state: State) -> State:
    """The state unchanged: the default of `Workload.stored` and `Workload.renewed`."""
    return state


class Workload(NamedTuple):
    """Pure functions that make a training run.

    Attributes:
      init: key -> the state before the first step.
      train_step: (state, batch) -> (state, metrics). Metrics are float32 scalars, averaged over the batch and over
        devices; `grad_norm` is among them, so that a non-finite gradient is noticed even where the loss is finite.
      eval_step: (state, batch) -> sums and counts over the batch. They are exact for a padded last batch: examples
        whose `batch["mask"]` is 0 are not counted.
      gradients: (state, batch) -> the gradient that `train_step` applies, shaped as `state.params`; `None` where a
        workload has no single one. Used to name the parameter whose gradient is not finite.
      predict: (state, inputs) -> outputs, as evaluation computes them: logits of images, action values of observations;
        `None` for a workload that predicts nothing. Each workload's `make_predict` states shapes and dtypes.
      faults: state -> {description of a fault in the values from an environment: bool array, True where it occurs};
        `None` for a workload that learns from data. Used to name the cause of a non-finite step.
      stored: state -> the part of it that a checkpoint holds; enough for evaluation.
      renewed: stored part -> the state that a resumed training continues from. Where `stored` and `renewed` are not
        `whole`, a resumed run is not bit for bit the uninterrupted one.
    """

    init: Callable[[Key], State]
    train_step: Callable[[State, Batch], tuple[State, Metrics]]
    eval_step: Callable[[State, Batch], Metrics] | None = None
    gradients: Callable[[State, Batch], PyTree] | None = None
    predict: Callable[[State, Any], PyTree] | None = None
    faults: Callable[[State], dict[str, PyTree]] | None = None
    stored: Callable[[State], State] = whole
    renewed: Callable[[State], State] = whole


def pmean(tree: T, axis_name: str | None) -> T:
    """Mean of every leaf over the devices of `axis_name`; the identity when it is None."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def psum(tree: T, axis_name: str | None) -> T:
    """Sum of every leaf over the devices of `axis_name`; the identity when it is None."""
    return tree if axis_name is None else lax.psum(tree, axis_name)


def device_key(key: Key, axis_name: str | None) -> Key:
    """A key that differs between the devices of `axis_name`; the same key when it is None."""
    return key if axis_name is None else jax.random.fold_in(key, lax.axis_index(axis_name))


def step_key(state: State, axis_name: str | None) -> Key:
    """The key for the random numbers of this step on this device."""
    return device_key(jax.random.fold_in(state.key, state.step), axis_name)


def split_batch(leaf: jax.Array, parts: int) -> jax.Array:
    """[batch, ...] -> [parts, batch / parts, ...], each part from every device's share of a sharded batch."""
    return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)
