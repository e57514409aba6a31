"""Deep Q-learning: the pure functions that act, remember, learn and evaluate on the device."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import lax

from jaxai import optimizer as optimizers
from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, device_key, pmean, psum, step_key
from jaxai.dqn import losses
from jaxai.dqn.batches import check_batch
from jaxai.dqn.config import Config, Hyperparameters, check, epsilon, make_replay, observation_shape
from jaxai.dqn.interface import connect
from jaxai.dqn.losses import legal_values
from jaxai.dqn.model import atoms, build, q_values
from jaxai.dqn.observations import check_storage, make_encoding, not_bits
from jaxai.dqn.policy import random_legal_action
from jaxai.dqn.replay import Memory

EVALUATION_STREAM = 0xE7A1
"""Folded into the key of an evaluation, so that it shares no random number with training."""
REPLAY_STREAM = 0x5EED
"""Folded into the key of a replay that is filled anew."""


class Worker(struct.PyTreeNode):
    """What a device has of its own, `state.local`; every leaf's leading axis is the environments.

    Attributes:
      environment: states of the environments.
      observation: [environments, ...], what the network sees now.
      episode_return: [environments] float32, so far.
      episode_length: [environments] int32, so far.
      memory: the replay.
      mask: [environments, actions] bool, the legal actions; None where the environment does not say.
      unstorable: [environments] bool, whether one showed more than 0 and 1 where the replay keeps bits; None where it
        keeps numbers, or it is known that there is nothing else.
    """

    environment: PyTree
    observation: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    memory: Memory
    mask: jax.Array | None = None
    unstorable: jax.Array | None = None


def make(config: Config, env: Any, env_params: Any = None, axis_name: str | None = None) -> Workload:
    """The pure functions of a deep Q-learner whose environments, replay and learner all live on the device.

    `init` fills the replay with `learning_starts` random steps. `train_step(state, None)` then learns
    `updates_per_step` times from what it draws, takes `train_every` environment steps, epsilon-greedily, and writes
    them to the replay. `train_step(state, batch)` only learns, from a batch that is handed in: `{"observation"
    [batch, ...], "action" [batch] int32, "reward" [batch] float32 (of n steps), "discount" [batch] float32 (gamma^n, 0
    after termination), "next_observation" [batch, ...]}`, and optional `"weight"` [batch], `"action_mask"` and
    `"next_action_mask"` [batch, actions] bool. `state.step` counts train steps.

    Where the environment says which actions are legal (`info["action_mask"]`), no other one is taken, at random
    neither, and no target bootstraps from another.

    Truncation is not termination: a truncated episode still bootstraps, from its true last observation.

    Args:
      config: the network and how it learns.
      env: an environment with the interface of gymnax 1.0, and discrete actions.
      env_params: its parameters; None: its `default_params`.
      axis_name: the mapped axis over devices (`pmap`, `shard_map`), each of which has its share of the environments,
        of the replay and of the batch; None for one device.

    Returns:
      A workload. Training metrics: `loss`, `q_mean` (mean value of the actions taken), `grad_norm` (before clipping),
      `learning_rate`, `epsilon`, `discarded` (share of the draws that count nothing, since a truncation's successor is
      gone), and of the episodes that ended in the step `episodes`, `return_sum`, `length_sum`.
      Evaluation sums over greedy episodes: `return`, `length`, `unfinished` (cut off at the most steps), `count`.

    Raises:
      ValueError: a field has a value that cannot be trained with, or the environment cannot be trained on; one line.
    """
    interface = connect(env, env_params)
    env_params, spec = interface.env_params, interface.spec
    replay = make_replay(config, spec)
    check(config, replay)
    if replay.binary and not spec.binary:
        check_storage(interface)
    shape = observation_shape(config, spec)
    encoding = make_encoding(config.observations, interface, config.frame_stack)
    network = build(config, shape, spec.num_actions, encoding)
    # Noise of an update is one draw for its batch (Fortunato et al. 2018, section 3.1); every actor has its own.
    learner = network.clone(shared_noise=True)
    optimizer = config.optimizer
    if not optimizer.decay_steps:
        optimizer = dataclasses.replace(optimizer, decay_steps=config.train_steps * config.updates_per_step)
    first_optimizer = optimizers.make(optimizer)  # its errors come before anything compiles
    vector_steps = config.train_every // config.num_envs
    warmup = config.warmup_steps // config.num_envs
    reset = jax.vmap(interface.reset, in_axes=(0, None))
    step_all = jax.vmap(interface.step, in_axes=(0, 0, 0, None))

    def env_steps(time: jax.Array) -> jax.Array:
        """Steps of all environments together -> environment steps, float32: an int32 ends at two thousand million."""
        return time.astype(jnp.float32) * config.num_envs

    def outputs(params: PyTree, observation: jax.Array, key: Key | None, network: nn.Module = learner) -> jax.Array:
        rngs = {"noise": key} if config.noisy and key is not None else None
        return cast(jax.Array, network.apply({"params": params}, observation, rngs=rngs))

    def greedy(params: PyTree, observation: jax.Array, mask: jax.Array | None, key: Key | None = None) -> jax.Array:
        return legal_values(q_values(config, outputs(params, observation, key, network)), mask).argmax(-1)

    def first_observation(frame: jax.Array) -> jax.Array:
        """[environments, ...] of a new episode, as the network sees it: no frame came before."""
        frames = jnp.repeat(frame[:, None], config.frame_stack, 1)
        return replay.stack(frames, jnp.arange(config.frame_stack) == jnp.full((len(frame), 1), config.frame_stack - 1))

    def next_observation(observation: jax.Array, frame: jax.Array, ended: jax.Array) -> jax.Array:
        if config.frame_stack == 1:
            return frame
        new = first_observation(frame)
        channels = new.shape[-1] // config.frame_stack
        old = jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), jnp.zeros((), new.dtype), observation)
        return jnp.concatenate([old[..., channels:], new[..., -channels:]], -1)

    def play(worker: Worker, time: jax.Array, action: jax.Array, keys: Key, learned: Any) -> tuple[Worker, Metrics]:
        """One step of all environments, remembered; and the sums over the episodes that it ended.

        Args:
          learned: any bool that is known once the replay has been read.
        """
        following = step_all(keys, worker.environment, action, env_params)
        reward, terminated, truncated = following.reward, following.terminated, following.truncated
        # The reward itself, but not before `learned`: what is written depends on all that was read, and so XLA writes
        # the replay in place. Actions, and what follows from them, wait for the parameters anyway.
        reward = jnp.minimum(reward, reward + learned)
        ended = terminated | truncated
        returns, lengths = worker.episode_return + reward, worker.episode_length + 1
        memory = replay.add(
            worker.memory,
            time,
            action,
            reward,
            terminated,
            truncated,
            following.final_observation,
            following.observation,
            following.final_mask,
            following.mask,
        )
        sums = {
            "episodes": ended.sum(dtype=jnp.float32),
            "return_sum": jnp.where(ended, returns, 0).sum(),
            "length_sum": jnp.where(ended, lengths, 0).sum(dtype=jnp.float32),
        }
        worker = Worker(
            following.state,
            next_observation(worker.observation, following.observation, ended),
            jnp.where(ended, 0, returns),
            jnp.where(ended, 0, lengths),
            memory,
            following.mask,
            None
            if worker.unstorable is None
            else worker.unstorable | not_bits(following.observation) | not_bits(following.final_observation),
        )
        return worker, sums

    def init(key: Key) -> State:
        key, params_key, reset_key, play_key = jax.random.split(key, 4)
        start = reset(jax.random.split(reset_key, config.num_envs), env_params)
        worker = Worker(
            environment=start.state,
            observation=first_observation(start.observation),
            episode_return=jnp.zeros(config.num_envs),
            episode_length=jnp.zeros(config.num_envs, jnp.int32),
            memory=replay.init(start.observation, start.mask),
            mask=start.mask,
            unstorable=not_bits(start.observation) if replay.binary and not spec.binary else None,
        )

        def play_at_random(time: jax.Array, worker: Worker) -> Worker:
            action_key, env_key = jax.random.split(jax.random.fold_in(play_key, time))
            if worker.mask is None:
                action = jax.random.randint(action_key, (config.num_envs,), 0, spec.num_actions)
            else:
                action = random_legal_action(jax.random.uniform(action_key, (config.num_envs,)), worker.mask)
            return play(worker, time, action, jax.random.split(env_key, config.num_envs), False)[0]

        worker = lax.fori_loop(0, warmup, play_at_random, worker)
        params = network.init({"params": params_key}, jnp.zeros((1, *shape), spec.observation_dtype))["params"]
        extra = {"target": jax.tree.map(jnp.copy, params), "hyperparameters": Hyperparameters.of(config)}
        return State(jnp.int32(0), params, first_optimizer.init(params), key, extra=extra, local=worker)

    def act(state: State, keys: Key, learned: jax.Array) -> tuple[Worker, Metrics]:
        """The environment steps of a train step, with a key for each."""
        first = warmup + state.step * vector_steps

        def act_once(carry: tuple[Worker, Metrics], now: tuple[jax.Array, Key]) -> tuple[tuple[Worker, Metrics], None]:
            (worker, sums), (i, key) = carry, now
            environments = len(worker.episode_return)
            # One split for all: on CPU a small random draw costs as much as a layer of a small network.
            keys = jax.random.split(key, environments + 2)
            best = greedy(state.params, worker.observation, worker.mask, keys[0])
            chance, choice = jax.random.uniform(keys[1], (2, environments))
            explore = chance < epsilon(config, state.extra["hyperparameters"], env_steps(first + i))
            if worker.mask is None:
                at_random = (choice * spec.num_actions).astype(best.dtype)
            else:
                at_random = random_legal_action(choice, worker.mask).astype(best.dtype)
            action = jnp.where(explore, at_random, best)
            worker, ended = play(worker, first + i, action, keys[2:], learned)
            return (worker, jax.tree.map(jnp.add, sums, ended)), None

        sums = {name: jnp.float32(0) for name in ("episodes", "return_sum", "length_sum")}
        return _scan(act_once, (state.local, sums), (jnp.arange(vector_steps), keys))[0]

    def stored(state: State) -> State:
        return state.replace(local=None)

    def renewed(state: State) -> State:
        """The state with new environments, and a replay of what its parameters do in them at the steps before."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, REPLAY_STREAM), state.step)
        # As many as write every slot, so that nothing is left of the random steps before them; but in a run that is
        # younger, where these come first, too.
        first = jnp.maximum(0, state.step - -(-replay.slots // vector_steps))

        def again(step: jax.Array, worker: Worker) -> Worker:
            keys = jax.random.split(jax.random.fold_in(key, step), vector_steps)
            return act(state.replace(step=step, local=worker), keys, jnp.bool_(True))[0]

        return state.replace(local=lax.fori_loop(first, state.step, again, init(key).local))

    def loss_fn(params: PyTree, state: State, batch: Any, key: Key) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Weighted mean loss; and each transition's error, whose size is its priority, and its value."""
        keys = jax.random.split(key, 4) if config.noisy else [None] * 4
        target = state.extra["target"]
        following = outputs(target, batch["next_observation"], keys[0])
        valued = q_values(config, following)
        chooser = valued
        if config.double:
            chooser = q_values(config, outputs(state.params, batch["next_observation"], keys[1]))
        chooser = legal_values(chooser, batch.get("next_action_mask"))
        reward = batch["reward"]
        if config.munchausen:
            temperature = config.munchausen_temperature
            policy, bonus = jax.vmap(losses.soft_policy, in_axes=(0, None))(chooser, temperature)
            before = q_values(config, outputs(target, batch["observation"], keys[2]))
            before = legal_values(before, batch.get("action_mask"))
            reward += jax.vmap(losses.munchausen_bonus, in_axes=(0, 0, None, None, None))(
                before, batch["action"], temperature, config.munchausen, config.munchausen_minimum
            )
        else:
            policy, bonus = jax.vmap(losses.greedy_policy)(chooser), jnp.zeros(len(reward))
        arguments = (reward, batch["discount"])
        predicted = outputs(params, batch["observation"], keys[3])
        taken = jax.vmap(losses.select_action)(predicted, batch["action"])
        if config.distribution == "categorical":
            project = jax.vmap(losses.categorical_target, in_axes=(None, 0, 0, 0, 0, 0))
            goal = project(atoms(config), following, *arguments, policy, bonus)
            each = jax.vmap(losses.categorical_loss)(taken, goal)
            error = each
        elif config.distribution == "quantile":
            goal = jax.vmap(losses.quantile_target)(following, *arguments, policy, bonus)
            each = jax.vmap(losses.quantile_loss, in_axes=(0, 0, None))(taken, goal, config.huber_delta)
            error = each
        else:
            goal = jax.vmap(losses.value_target)(*arguments, following, policy, bonus)
            error = goal - taken
            each = jax.vmap(losses.td_loss, in_axes=(0, None))(error, config.huber_delta)
        weight = batch.get("weight", 1.0) * batch.get("mask", 1.0)
        value = q_values(config, taken[:, None])[:, 0]
        return (weight * each).mean(), (jnp.abs(error), value)

    def gradient(state: State, batch: Batch, key: Key) -> tuple[PyTree, jax.Array, Metrics]:
        """Gradient and metrics averaged over the batch and over devices, and this device's errors."""
        (loss, (errors, value)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, state, batch, key)
        grads, metrics = pmean((grads, {"loss": loss, "q_mean": value.mean()}), axis_name)
        return grads, errors, metrics

    def learn(state: State, batch: Batch, key: Key) -> tuple[State, jax.Array, Metrics]:
        """One update of the parameters."""
        grads, errors, metrics = gradient(state, batch, key)
        # The learning rate is a leaf of the state, so that vmapped trainings can differ in it.
        current = dataclasses.replace(optimizer, learning_rate=state.extra["hyperparameters"].learning_rate)
        updates, opt_state = optimizers.make(current).update(grads, state.opt_state, state.params)
        learning_rate = optimizers.schedule(current)(state.step * config.updates_per_step)
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": learning_rate}
        state = state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
        return state, errors, metrics

    def remembered(state: State, key: Key) -> tuple[Any, Any]:
        """A batch from the replay, with the weights that undo the bias of its priorities; and where it lies."""
        hyperparameters = state.extra["hyperparameters"]
        time = warmup + state.step * vector_steps
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        if config.batch_size % devices:
            raise ValueError(f"batch_size is {config.batch_size}; it must be a multiple of the {devices} devices")
        sample = replay.sample(state.local.memory, key, time, config.batch_size // devices, hyperparameters.discount)
        if not config.prioritized:
            return sample.batch, sample
        beta = hyperparameters.importance_exponent
        beta = beta + (1 - beta) * jnp.minimum(1.0, env_steps(time) / float(config.total_steps))
        # The largest weight is 1: weights only shrink updates (Schaul et al. 2016, section 3.4).
        weight = (sample.probability / sample.probability.min()) ** -beta
        return sample.batch | {"weight": weight}, sample

    def remember_and_learn(state: State, key: Key) -> tuple[State, Metrics]:
        """One update from the replay, and new priorities."""
        sample_key, noise_key = jax.random.split(key) if config.noisy else (key, key)
        batch, sample = remembered(state, sample_key)
        state, errors, metrics = learn(state, batch, noise_key)
        metrics["discarded"] = pmean(1 - batch["mask"].mean(), axis_name)
        if config.prioritized:
            exponent = state.extra["hyperparameters"].priority_exponent
            # What has lost its successor is never drawn again.
            fresh = jnp.where(batch["mask"] > 0, (errors + 1e-6) ** exponent, 0.0)
            memory = replay.prioritize(state.local.memory, sample, fresh)
            state = state.replace(local=state.local.replace(memory=memory))
        return state, metrics

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = step_key(state, axis_name)
        if batch is not None:
            batch = check_batch(batch, shape, spec)
            state, _, metrics = learn(state, batch, key)
        else:
            keys = jax.random.split(key, config.updates_per_step + vector_steps)
            state, metrics = _scan(remember_and_learn, state, keys[: config.updates_per_step])
            worker, episodes = act(state, keys[config.updates_per_step :], metrics["loss"][-1] >= 0)
            state = state.replace(local=worker)
            metrics = jax.tree.map(jnp.mean, metrics) | psum(episodes, axis_name)
            if worker.unstorable is not None:
                # Not finite, so that the guard of the runtime stops and says why; see `faults`.
                metrics["loss"] = jnp.where(psum(worker.unstorable.any(), axis_name), jnp.nan, metrics["loss"])
        time = warmup + (state.step + 1) * vector_steps
        # Beyond an int32 they wrap around, from one multiple of 2**32 to the next: the interval is longer once.
        steps = time * config.num_envs
        rate = state.extra["hyperparameters"].target_rate
        target = lax.cond(
            steps // config.target_every > (steps - config.train_every) // config.target_every,
            lambda: optax.incremental_update(state.params, state.extra["target"], rate),
            lambda: state.extra["target"],
        )
        metrics |= {"epsilon": epsilon(config, state.extra["hyperparameters"], env_steps(time))}
        state = state.replace(step=state.step + 1, extra=state.extra | {"target": target})
        return state, jax.tree.map(lambda metric: jnp.asarray(metric, jnp.float32), metrics)

    def eval_step(state: State, batch: Batch) -> Metrics:
        del batch  # the environments make their own
        key = device_key(jax.random.fold_in(jax.random.fold_in(state.key, EVALUATION_STREAM), state.step), axis_name)
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        episodes = -(-config.evaluation_episodes // devices)
        reset_key, step_key = jax.random.split(key)
        start = reset(jax.random.split(reset_key, episodes), env_params)
        longest = config.evaluation_steps or spec.max_steps or 27_000

        def unfinished(carry: Any) -> jax.Array:
            time, _, _, _, done, _, _ = carry
            return (time < longest) & ~done.all()

        def advance(carry: Any) -> Any:
            time, environment, observation, mask, done, returns, lengths = carry
            action = greedy(state.params, observation, mask)
            keys = jax.random.split(jax.random.fold_in(step_key, time), episodes)
            following = step_all(keys, environment, action, env_params)
            ended = following.terminated | following.truncated
            # An environment plays on after its first episode, and nothing of that counts.
            returns, lengths = returns + jnp.where(done, 0.0, following.reward), lengths + ~done
            observation = next_observation(observation, following.observation, ended)
            return time + 1, following.state, observation, following.mask, done | ended, returns, lengths

        nobody, zeros = jnp.zeros(episodes, bool), jnp.zeros(episodes)
        carry = (jnp.int32(0), start.state, first_observation(start.observation), start.mask, nobody, zeros, zeros)
        *_, done, returns, lengths = lax.while_loop(unfinished, advance, carry)
        sums = {"return": returns.sum(), "length": lengths.sum(), "unfinished": (~done).sum(dtype=jnp.float32)}
        sums["count"] = jnp.float32(episodes)
        return psum(sums, axis_name)

    def gradients(state: State, batch: Batch) -> PyTree:
        key = step_key(state, axis_name)
        if batch is None:  # of the step's first update
            key = jax.random.split(key, config.updates_per_step + vector_steps)[0]
            sample_key, key = jax.random.split(key) if config.noisy else (key, key)
            batch, _ = remembered(state, sample_key)
        else:
            batch = check_batch(batch, shape, spec)
        return gradient(state, batch, key)[0]

    def faults(state: State) -> dict[str, PyTree]:
        worker, memory = state.local, state.local.memory
        shown = (worker.observation, memory.observation, memory.final_observation)
        found: dict[str, PyTree] = {
            f"a reward of {interface.name} is not finite": ~jnp.isfinite(memory.reward),
            f"an observation of {interface.name} is not finite": jax.tree.map(
                lambda frames: ~jnp.isfinite(frames), shown
            ),
        }
        if worker.unstorable is not None:
            bits = f"storage is bits, and an observation of {interface.name} holds more than 0 and 1; choose dtype"
            found[bits] = worker.unstorable
        return found

    if config.save_replay:
        return Workload(init, train_step, eval_step, gradients, faults=faults)
    return Workload(init, train_step, eval_step, gradients, faults=faults, stored=stored, renewed=renewed)


def _scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree) -> tuple[Any, Any]:
    """`lax.scan`, without a loop where there is one step: around the replay a loop costs copies on CPU."""
    if len(jax.tree.leaves(xs)[0]) > 1:
        return lax.scan(step, carry, xs)
    carry, y = step(carry, jax.tree.map(lambda leaf: leaf[0], xs))
    return carry, jax.tree.map(lambda leaf: leaf[None], y)
