"""Several trainings in one program: a workload vmapped over seeds, and over hyperparameters in its state.

Members share only the batch, so they are split over the devices without communication.

Three learning rates of a classifier:

>>> import jax, jax.numpy as jnp, optax
>>> from jaxai import cnn, population
>>> sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
>>> member = cnn.make(cnn.Config(architecture="mlp", image_shape=(4, 4, 1)), transformation=sgd)
>>> def set_rates(members):
...     return members.replace(opt_state=optax.tree.set(members.opt_state, learning_rate=jnp.array([0.01, 0.1, 1.0])))
>>> workload = population.make(member, seeds=[0, 0, 0], prepare=set_rates)
>>> state = workload.init(jax.random.key(0))
>>> batch = {"image": jnp.ones((8, 4, 4, 1)), "label": jnp.arange(8)}
>>> state, metrics = jax.jit(workload.train_step)(state, batch)
>>> metrics["loss"].shape
(3,)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxai.core import Batch, Key, Metric, Metrics, PyTree, State, Workload, whole
from jaxai.ranges import Seed, check_argument

__all__ = ["METRICS", "make", "member_of", "members_of"]

METRICS = {"diverged": Metric("diverged seeds", "%")}
"""Declarations of the metrics that are added to the workload's."""
# The step is the same for all members and stays a scalar, so that a `cond` on the step stays a branch under `vmap`.
AXES: PyTree = State(None, 0, 0, 0, extra=0, local=0)  # type: ignore[arg-type]  # axes, not arrays


def make(
    workload: Workload,
    seeds: Sequence[int],
    prepare: Callable[[State], State] = lambda members: members,
    tolerant: bool = False,
) -> Workload:
    """A workload that trains one member for each seed, each as it would train alone.

    The members' states are stacked in `local`, on a leading axis that must divide by the number of devices; metrics,
    evaluation sums and predictions have the leading axis [members], on each device its own members.

    Args:
      workload: of one member, made without an axis name.
      seeds: member i starts from `jax.random.key(seeds[i])`.
      prepare: stacked states of all members before the first step -> the same, with hyperparameters set.
      tolerant: a member with non-finite metrics is reported as `diverged` (0 or 1) and does not stop the others; else
        its metrics are returned as they are.

    Returns:
      A workload with the functions of the member's workload, except `gradients`.

    Raises:
      ValueError: a seed out of range.
    """

    for seed in seeds:
        check_argument("seed", Seed, seed)

    def init(key: Key) -> State:
        members = jax.vmap(workload.init, out_axes=AXES)(jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32)))
        return State(members.step, params={}, opt_state={}, key=key, local=prepare(members).replace(step=None))

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        step = jax.vmap(lambda member: workload.train_step(member, batch), in_axes=(AXES,), out_axes=(AXES, 0))
        members, metrics = step(members_of(state))
        if tolerant:
            finite = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all(0)
            metrics = {name: jnp.where(finite, value, 0) for name, value in metrics.items()}
            metrics["diverged"] = 1.0 - finite
        return state.replace(step=members.step, local=members.replace(step=None)), metrics

    def eval_step(state: State, batch: Batch) -> Metrics:
        assert workload.eval_step is not None
        evaluate = workload.eval_step
        members = members_of(state)
        sums = jax.vmap(lambda member: evaluate(member, batch), in_axes=(AXES,))(members)
        # A network of NaN still selects actions, and its return would look valid.
        finite = jax.vmap(_all_finite)(members.params)
        return {name: jnp.where(finite, value, jnp.nan) for name, value in sums.items()}

    def predict(state: State, inputs: Any) -> PyTree:
        assert workload.predict is not None
        of_member = workload.predict
        return jax.vmap(lambda member: of_member(member, inputs), in_axes=(AXES,))(members_of(state))

    def faults(state: State) -> dict[str, PyTree]:
        assert workload.faults is not None
        return workload.faults(members_of(state))

    def stored(state: State) -> State:
        return state.replace(local=workload.stored(members_of(state)).replace(step=None))

    def renewed(state: State) -> State:
        members = jax.vmap(workload.renewed, in_axes=(AXES,), out_axes=AXES)(members_of(state))
        return state.replace(local=members.replace(step=None))

    population = Workload(
        init,
        train_step,
        eval_step if workload.eval_step else None,
        predict=predict if workload.predict else None,
        faults=faults if workload.faults else None,
    )
    return population if workload.renewed is whole else population._replace(stored=stored, renewed=renewed)


def members_of(state: State) -> State:
    """The stacked states of the members: every leaf but `step` has them as its leading axis."""
    members: State = state.local.replace(step=state.step)
    return members


def member_of(state: State, index: int) -> State:
    """The state of one member, as it would be after training alone."""
    members = members_of(state)
    alone: State = jax.tree.map(lambda leaf: leaf[index], members.replace(step=None)).replace(step=members.step)
    return alone


def _all_finite(tree: PyTree) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
