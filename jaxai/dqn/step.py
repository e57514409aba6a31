"""Deep Q-learning: acting, storing and learning as one pure train step on the device."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, pmean, psum, step_key
from jaxai.dqn import actor as actors
from jaxai.dqn.bellman import Loss
from jaxai.dqn.config import Config, check, env_steps, make_replay_buffer
from jaxai.dqn.evaluation import make_eval_step
from jaxai.dqn.interface import connect
from jaxai.dqn.learner import make_learner
from jaxai.dqn.observations import check_storage
from jaxai.dqn.replay_buffer import Sample

__all__ = ["make"]


def make(
    config: Config,
    env: Any,
    env_params: Any = None,
    axis_name: str | None = None,
    *,
    network: nn.Module | None = None,
    transformation: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
) -> Workload:
    """The pure functions of a deep Q-learner whose environments, replay buffer and learner all live on the device.

    `init` fills the replay buffer with `learning_starts` random steps. `train_step(state, None)` then learns
    `updates_per_step` times from its samples, takes `train_every` environment steps, epsilon-greedily, and writes them
    to it. `train_step(state, batch)` only learns, from the given batch; see `make_learner`. `state.step` counts train
    steps.

    If the environment gives the legal actions (`info["action_mask"]`), other actions are never taken, not even at
    random, and no target bootstraps from them.

    Truncation is not termination: a truncated episode still bootstraps, from its true last observation.

    Args:
      config: network, loss, optimizer, replay buffer and exploration.
      env: an environment with the interface of gymnax 1.0, and discrete actions; see `jaxai.dqn.environment`.
      env_params: its parameters; None: its `default_params`.
      axis_name: mapped axis over devices (`pmap`, `shard_map`), each with its share of the environments, of the replay
        buffer and of the batch; None for one device.
      network: a linen module of your own; see `make_learner`.
      transformation: an optax transformation of your own; see `make_learner`.
      loss: a loss of your own; see `make_learner`.

    Returns:
      A workload. Training metrics: those of `make_learner`, `discarded` (share of the samples without an effect, since
      a truncation's successor is lost), and of the episodes that ended in the step `episodes`, `return_sum`,
      `length_sum`. Evaluation sums over greedy episodes: `return`, `length`, `unfinished` (cut off), `count`.
      `predict` returns action values; see `make_predict`.

    Raises:
      ValueError: a field has a value that cannot be trained with, the environment cannot be trained on, or a part does
        not fit; one line.
    """
    interface = connect(env, env_params)
    buffer = make_replay_buffer(config, interface.spec)
    check(config, buffer)
    if buffer.binary and not interface.spec.binary:
        check_storage(interface.spec)
    learner = make_learner(config, interface.spec, axis_name, network=network, transformation=transformation, loss=loss)
    actor = actors.make_actor(config, interface, buffer, learner.greedy)

    def init(key: Key) -> State:
        reset_key, action_key = jax.random.split(key, 4)[2:]
        return learner.init(key).replace(local=actor.init(reset_key, action_key))

    def sampled(state: State, key: Key) -> tuple[dict[str, jax.Array], Sample]:
        """A batch from the replay buffer, with the weights that undo the bias of its priorities."""
        hyperparameters = state.extra["hyperparameters"]
        time = config.warmup_vector_steps + state.step * config.vector_steps
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        if config.batch_size % devices:
            raise ValueError(f"batch_size is {config.batch_size}; it must be a multiple of the {devices} devices")
        sample = buffer.sample(state.local.memory, key, time, config.batch_size // devices, hyperparameters.discount)
        if not config.prioritized:
            return sample.batch, sample
        beta = hyperparameters.importance_exponent
        beta = beta + (1 - beta) * jnp.minimum(1.0, env_steps(config, time) / float(config.total_steps))
        # The largest weight is 1: weights only shrink updates (Schaul et al. 2016, section 3.4).
        weight = (sample.probability / sample.probability.min()) ** -beta
        return sample.batch | {"weight": weight}, sample

    def learn(state: State, key: Key) -> tuple[State, Metrics]:
        """One update from the replay buffer, and new priorities."""
        sample_key, noise_key = jax.random.split(key) if config.noisy else (key, key)
        batch, sample = sampled(state, sample_key)
        state, errors, metrics = learner.update(state, batch, noise_key)
        metrics["discarded"] = pmean(1 - batch["mask"].mean(), axis_name)
        if config.prioritized:
            exponent = state.extra["hyperparameters"].priority_exponent
            # A transition that has lost its successor is never drawn again.
            priorities = jnp.where(batch["mask"] > 0, (errors + 1e-6) ** exponent, 0.0)
            memory = buffer.prioritize(state.local.memory, sample, priorities)
            state = state.replace(local=state.local.replace(memory=memory))
        return state, metrics

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        if batch is not None:
            return learner.train_step(state, batch)
        keys = jax.random.split(step_key(state, axis_name), config.updates_per_step + config.vector_steps)
        state, metrics = actors.scan(learn, state, keys[: config.updates_per_step])
        worker, episodes = actor.act(state, keys[config.updates_per_step :], metrics["loss"][-1] >= 0)
        metrics = jax.tree.map(jnp.mean, metrics) | psum(episodes, axis_name)
        if worker.unstorable is not None:
            # Not finite, so that the guard of the runtime stops and gives the reason; see `faults`.
            metrics["loss"] = jnp.where(psum(worker.unstorable.any(), axis_name), jnp.nan, metrics["loss"])
        return learner.advance(state.replace(local=worker), metrics)

    def gradients(state: State, batch: Batch) -> PyTree:
        if batch is not None:
            return learner.gradients(state, batch)
        key = jax.random.split(step_key(state, axis_name), config.updates_per_step + config.vector_steps)[0]
        sample_key, noise_key = jax.random.split(key) if config.noisy else (key, key)
        return learner.gradient(state, sampled(state, sample_key)[0], noise_key)[0]  # of the step's first update

    workload = Workload(
        init,
        train_step,
        make_eval_step(config, interface, learner.greedy, axis_name),
        gradients,
        learner.predict,
        lambda state: actors.faults(state.local, interface.name),
    )
    if config.save_replay:
        return workload
    return workload._replace(
        stored=lambda state: state.replace(local=None),
        renewed=lambda state: state.replace(local=actor.refill(state)),
    )
