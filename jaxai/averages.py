"""The second half of a train step, for every workload: optimizer update, moving average, variables for evaluation.

The moving average is `state.extra["ema"]`: a dict of linen collections, `{"params": ...}` or, with the statistics that
belong to these parameters, `{"params": ..., "batch_stats": ...}`.

>>> import jax, jax.numpy as jnp, optax
>>> from jaxai.core import State
>>> transformation, params = optax.sgd(0.5), {"w": jnp.ones(2)}
>>> state = State(jnp.int32(0), params, transformation.init(params), jax.random.key(0), extra=start({"params": params}))
>>> state = advance(state, transformation, {"w": jnp.ones(2)}, ema_decay=0.9)
>>> state.params["w"].tolist(), [round(x, 2) for x in parameters(state)["w"].tolist()]
([0.5, 0.5], [0.55, 0.55])
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxai.core import PyTree, State

__all__ = [
    "EMA",
    "advance",
    "evaluated",
    "follow",
    "initialize",
    "parameters",
    "restarted",
    "start",
    "update",
    "variables",
]

EMA = "ema"
"""The name in `State.extra` under which the moving average is stored."""


def start(collections: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The moving average before the first step, as a part of `State.extra`.

    Args:
      collections: what the average follows, as `{"params": params, "batch_stats": ...}`.

    Returns:
      `{"ema": a copy}`; a copy, because a donated state cannot hold an array twice.
    """
    return {EMA: jax.tree.map(jnp.copy, dict(collections))}


def follow(average: PyTree, current: PyTree, decay: jax.typing.ArrayLike, step: jax.Array) -> PyTree:
    """The moving average after one more step: `d * average + (1 - d) * current`.

    `d = min(decay, (1 + step) / (10 + step))`. Early in training the average follows faster, so that it forgets the
    random initial values (as `num_updates` of TensorFlow's ExponentialMovingAverage).

    Args:
      average: any pytree, from `start` or from the step before.
      current: the same structure, after this step's update.
      decay: 0 to below 1.
      step: [] int32, optimizer steps taken before this one.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(average, current)
    return optax.incremental_update(current, average, 1 - jnp.minimum(decay, (1 + step) / (10 + step)))


def initialize(transformation: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The optimizer state before the first step: `transformation.init(params)`, as arrays of fixed types.

    A Python number in it would have another type after the first step, and the step would be compiled twice.
    """
    return jax.tree.map(_fixed, transformation.init(params))


def update(
    transformation: optax.GradientTransformation,
    gradients: PyTree,
    opt_state: PyTree,
    params: PyTree,
    *,
    value: jax.Array | None = None,
    value_fn: Callable[[PyTree], jax.Array] | None = None,
) -> tuple[PyTree, PyTree]:
    """The parameters and the optimizer state after one update of an optax transformation.

    A transformation with extra arguments (`optax.contrib.reduce_on_plateau`, `optax.polyak_sgd`, `optax.lbfgs`) gets
    `value`, `grad` and `value_fn`, as far as it accepts them.

    Args:
      transformation: of optax, or with the same `init` and `update`.
      gradients: the structure of `params`; on several devices their mean.
      opt_state: from `initialize` or from the previous step.
      params: before the update.
      value: [] float, the loss of these gradients; on several devices the mean.
      value_fn: params -> the loss on the same batch, for a line search.

    Returns:
      (params, opt_state)

    Raises:
      ValueError: the transformation needs `value_fn`, and it is None.
    """
    chex.assert_trees_all_equal_shapes(gradients, params)
    extra: dict[str, Any] = {} if value is None else {"value": value, "grad": gradients}
    if value_fn is not None:
        extra["value_fn"] = value_fn
    accepted = _accepted(transformation, extra)
    try:
        updates, opt_state = transformation.update(gradients, opt_state, params, **accepted)
    except TypeError as error:
        if value_fn is not None or "'value_fn'" not in str(error):
            raise
        raise ValueError(
            "the transformation needs value_fn, as the line search of optax.lbfgs does, and this workload has none;"
            " give a transformation without a line search"
        ) from error
    return optax.apply_updates(params, updates), jax.tree.map(_fixed, opt_state)


def advance(
    state: State,
    transformation: optax.GradientTransformation,
    gradients: PyTree,
    collections: Mapping[str, PyTree] | None = None,
    *,
    ema_decay: float = 0.0,
    value: jax.Array | None = None,
    value_fn: Callable[[PyTree], jax.Array] | None = None,
) -> State:
    """The state after a step: parameters and optimizer updated, statistics replaced, the moving average moved.

    Args:
      state: before the step. With `ema_decay`, `state.extra` has the average from `start`.
      transformation: of optax; see `update`.
      gradients: the structure of `state.params`; on several devices their mean.
      collections: collections other than the parameters, after this step, as `{"batch_stats": ...}`; they replace
        those in `state.extra`.
      ema_decay: decay of the moving average; 0 for none.
      value: [] float, the loss; see `update`.
      value_fn: params -> the loss; see `update`.
    """
    params, opt_state = update(transformation, gradients, state.opt_state, state.params, value=value, value_fn=value_fn)
    extra = dict(state.extra or {}) | dict(collections or {})
    if ema_decay:
        current = {"params": params, **extra}
        followed = {name: current[name] for name in state.extra[EMA]}
        extra[EMA] = follow(state.extra[EMA], followed, ema_decay, state.step)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=extra)


def evaluated(
    params: PyTree, collections: Mapping[str, PyTree], average: Mapping[str, PyTree] | None, opt_state: PyTree
) -> dict[str, PyTree]:
    """The collections that evaluation applies a network with.

    These are the averaged collections, and the current ones where the average does not include them. Without an
    average, the parameters of a schedule-free optimizer are its averaged ones
    (`optax.contrib.schedule_free_eval_params`; Defazio et al. 2024, arXiv:2405.15682).

    Args:
      params: the current parameters.
      collections: current collections other than the parameters, as `{"batch_stats": ...}`.
      average: of the same network, as `{"params": ...}`; None for none.
      opt_state: of the transformation that updates `params`.
    """
    if average is None:
        params = _schedule_free(params, opt_state)
    return {"params": params, **collections, **(average or {})}


def variables(state: State) -> dict[str, PyTree]:
    """The collections that evaluation applies the network of a state with; see `evaluated`.

    Args:
      state: of a workload with one network, whose `extra` has the network's collections and may have the average.
    """
    extra = dict(state.extra or {})
    average = extra.pop(EMA, None)
    return evaluated(state.params, extra, average, state.opt_state)


def parameters(state: State) -> PyTree:
    """The parameters that evaluation uses: averaged where there is an average; see `evaluated`."""
    return variables(state)["params"]


def restarted(opt_state: PyTree, params: PyTree) -> PyTree:
    """An optimizer state before the first step, adapted to other parameters than those it was initialized with.

    Only a schedule-free optimizer keeps a copy of the parameters, which is replaced.

    Args:
      opt_state: from `initialize`.
      params: the parameters that training starts with.
    """

    def is_state(node: PyTree) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState)

    def replaced(node: PyTree) -> PyTree:
        if not is_state(node):
            return node
        copy = jax.tree.map(lambda z, y: z if _is_masked(z) else jnp.copy(y), node.z, params, is_leaf=_is_masked)
        return node._replace(z=copy)

    if type(opt_state) is type(params) and hasattr(params, "_fields"):  # several networks, each with its optimizer
        return type(params)(*map(restarted, opt_state, params))
    return jax.tree.map(replaced, opt_state, is_leaf=is_state)


def _is_masked(node: PyTree) -> bool:
    return isinstance(node, optax.MaskedNode)  # a part that another optimizer of `multi_transform` updates


def _fixed(leaf: Any) -> jax.Array:
    """The leaf as an array without weak type."""
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype) if array.weak_type else array


def _accepted(transformation: optax.GradientTransformation, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The extra arguments that a transformation takes."""
    if not isinstance(transformation, optax.GradientTransformationExtraArgs):
        return {}
    parameters = inspect.signature(transformation.update).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def _schedule_free(params: PyTree, opt_state: PyTree) -> PyTree:
    """The averaged parameters of each schedule-free optimizer in `opt_state`; the others as they are."""

    def is_state(node: PyTree) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState)

    for found in filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state)):
        params = jax.tree.map(
            lambda z, y, b1=found.b1: y if _is_masked(z) else (y - (1 - b1) * z) / b1,
            found.z,
            params,
            is_leaf=_is_masked,
        )
    return params
