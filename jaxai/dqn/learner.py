"""The learner of deep Q-learning: network, loss and update, on batches from any source."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxai import averages
from jaxai import optimizer as optimizers
from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, pmean, step_key
from jaxai.dqn import parts
from jaxai.dqn.batches import check_batch, example_batch
from jaxai.dqn.bellman import Loss, Networks, bellman_loss
from jaxai.dqn.config import Config, Hyperparameters, env_steps, epsilon, observation_shape
from jaxai.dqn.policy import make_greedy, make_predict
from jaxai.dqn.spec import EnvironmentSpec
from jaxai.tracing import trace

__all__ = ["Learner", "make_learner"]


class Learner(NamedTuple):
    """Pure functions that need the shapes of an environment, and no environment.

    Attributes:
      init: key -> the state before the first update, with nothing in `local`.
      train_step: (state, batch) -> (state, metrics): one update of the parameters, and of the target if it is due.
      gradients: (state, batch) -> the gradient that `train_step` applies.
      predict: (state, observations [batch, ...]) -> action values [batch, actions] float32.
      greedy: (params, observations [batch, ...], mask [batch, actions] bool or None, key=None) -> the best legal
        actions [batch]; the key draws the noise of noisy layers.
      gradient: (state, batch, key) -> gradient, errors [batch] (their absolute values are priorities), metrics.
      update: (state, batch, key) -> the state after one update of the parameters alone, errors [batch], metrics.
      advance: (state, metrics) -> both at the next step, with the target updated if it is due.
    """

    init: Callable[[Key], State]
    train_step: Callable[[State, Batch], tuple[State, Metrics]]
    gradients: Callable[[State, Batch], PyTree]
    predict: Callable[[State, jax.Array], jax.Array]
    greedy: Callable[..., jax.Array]
    gradient: Callable[[State, Batch, Key], tuple[PyTree, jax.Array, Metrics]]
    update: Callable[[State, Batch, Key], tuple[State, jax.Array, Metrics]]
    advance: Callable[[State, Metrics], tuple[State, Metrics]]

    @property
    def workload(self) -> Workload:
        """The learner as a workload that learns from batches; it has no evaluation, which needs environments."""
        return Workload(self.init, self.train_step, gradients=self.gradients, predict=self.predict)


def make_learner(
    config: Config,
    spec: EnvironmentSpec,
    axis_name: str | None = None,
    *,
    network: nn.Module | None = None,
    transformation: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
) -> Learner:
    """A learner for batches from any source: an environment on the host, a file, another process.

    A batch is `{"observation" [batch, ...], "action" [batch] int32, "reward" [batch] float32 (of n steps), "discount"
    [batch] float32 (gamma^n, 0 after termination), "next_observation" [batch, ...]}`, and optional `"weight"` [batch],
    `"mask"` [batch] (0: the transition has no effect), `"action_mask"` and `"next_action_mask"` [batch, actions] bool.

    A train step counts as `train_every` environment steps: `target_every` and the schedule of epsilon follow from it.

    >>> spec = EnvironmentSpec(observation_shape=(4,), observation_dtype="float32", num_actions=2)
    >>> learner = make_learner(Config(), spec)
    >>> learner.predict(learner.init(jax.random.key(0)), jnp.zeros((3, 4))).shape
    (3, 2)

    Args:
      config: network, loss and optimizer, each unless it is given.
      spec: shapes of the environment, from `make_environment_spec` or written by hand.
      axis_name: mapped axis over devices (`pmap`, `shard_map`), each with its share of the batch; None: one device.
      network: linen module, observations [batch, ...] (as the environment returns them, frames stacked, pixels uint8)
        -> float values [batch, actions], or [batch, actions, atoms] with a distribution. It has parameters and no
        other collections. With `noisy` it gets the rng stream "noise" when it acts and learns. None: `build`'s.
      transformation: of the gradients; it may take the extra arguments `value`, `grad` and `value_fn`. It replaces
        `config.optimizer`; the metric `learning_rate` needs `optax.inject_hyperparams`. None: `jaxai.optimizer.make`'s.
      loss: as `Loss` describes. None: `bellman_loss` of the config.

    Returns:
      A learner. Metrics of `train_step`: `loss`, `q_mean` (mean value of the actions taken) or what the loss reports,
      `grad_norm` (before clipping), `learning_rate`, `epsilon`, with a `mask` also `discarded` (the share that is 0).

    Raises:
      ValueError: in one line: a field out of its range, or a part that does not fit.
    """
    network = parts.make_network(config, spec, network)
    optimizer = config.optimizer
    if not optimizer.decay_steps:
        optimizer = dataclasses.replace(optimizer, decay_steps=config.train_steps * config.updates_per_step)
    initial, learning_rate = optimizers.own_or_built(optimizer, transformation)
    apply = parts.apply(parts.for_updates(network))
    shape = observation_shape(config, spec)
    example = jnp.zeros((1, *shape), spec.observation_dtype)

    def init(key: Key) -> State:
        key, params_key = jax.random.split(key, 4)[:2]  # `make` uses the other two
        params = network.init({"params": params_key}, example).get("params", {})
        extra = {"target": jax.tree.map(jnp.copy, params), "hyperparameters": Hyperparameters.of(config)}
        return State(jnp.int32(0), params, initial.init(params), key, extra=extra)

    losses_of: Loss = parts.checked_loss(loss) if loss else functools.partial(bellman_loss, config)

    def mean_loss(params: PyTree, state: State, batch: Any, key: Key) -> tuple[jax.Array, Any]:
        """Weighted mean loss; absolute error of each transition, its priority; and other reported values."""
        online = functools.partial(apply, params)
        fixed = functools.partial(apply, state.params)
        target = functools.partial(apply, state.extra["target"])
        each, reported = losses_of(Networks(online, fixed, target), batch, key)
        errors = jnp.abs(reported.get("error", each))
        weight = batch.get("weight", 1.0) * batch.get("mask", 1.0)
        return (weight * each).mean(), (errors, {k: v.mean() for k, v in reported.items() if k != "error"})

    def gradient(state: State, batch: Batch, key: Key) -> tuple[PyTree, jax.Array, Metrics]:
        (loss, (errors, reported)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params, state, batch, key)
        grads, metrics = pmean((grads, {"loss": loss} | reported), axis_name)
        return grads, errors, metrics

    def update(state: State, batch: Batch, key: Key) -> tuple[State, jax.Array, Metrics]:
        grads, errors, metrics = gradient(state, batch, key)
        metrics["grad_norm"] = optax.tree.norm(grads)
        current = transformation
        if current is None:
            # The learning rate is a leaf of the state, so that vmapped trainings can differ in it.
            rate = state.extra["hyperparameters"].learning_rate
            scheduled = dataclasses.replace(optimizer, learning_rate=rate)
            current = optimizers.make(scheduled)
            metrics["learning_rate"] = optimizers.schedule(scheduled)(state.step * config.updates_per_step)
        params, opt_state = averages.update(
            current,
            grads,
            state.opt_state,
            state.params,
            value=metrics["loss"],
            value_fn=lambda params: pmean(mean_loss(params, state, batch, key)[0], axis_name),
        )
        if transformation is not None:
            metrics |= learning_rate(state.step, opt_state)
        return state.replace(params=params, opt_state=opt_state), errors, metrics

    def advance(state: State, metrics: Metrics) -> tuple[State, Metrics]:
        time = config.warmup_vector_steps + (state.step + 1) * config.vector_steps
        # Beyond an int32 they wrap around, from one multiple of 2**32 to the next: one interval is longer.
        steps = time * config.num_envs
        target = lax.cond(
            steps // config.target_every > (steps - config.train_every) // config.target_every,
            lambda: optax.incremental_update(
                state.params, state.extra["target"], state.extra["hyperparameters"].target_rate
            ),
            lambda: state.extra["target"],
        )
        metrics |= {"epsilon": epsilon(config, state.extra["hyperparameters"], env_steps(config, time))}
        state = state.replace(step=state.step + 1, extra=state.extra | {"target": target})
        return state, jax.tree.map(lambda metric: jnp.asarray(metric, jnp.float32), metrics)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        batch = check_batch(batch, shape, spec)
        state, _, metrics = update(state, batch, step_key(state, axis_name))
        if "mask" in batch:
            metrics["discarded"] = pmean(1 - batch["mask"].mean(), axis_name)
        return advance(state, metrics)

    def gradients(state: State, batch: Batch) -> PyTree:
        return gradient(state, check_batch(batch, shape, spec), step_key(state, axis_name))[0]

    if loss and axis_name is None:  # a loss that uses collectives can be traced only under its axis
        state, key = jax.eval_shape(lambda key: (init(key), key), jax.eval_shape(lambda: jax.random.key(0)))
        what, batch = f"loss {parts.name_of_loss(loss)}", example_batch(config, spec)
        trace(what, mean_loss, state.params, state, batch, key, expected=f"(networks, batch, key) -> {parts.RETURNED}")
    predict, greedy = make_predict(config, spec, network=network), make_greedy(config, network)
    return Learner(init, train_step, gradients, predict, greedy, gradient, update, advance)
