"""The actor of deep Q-learning: environments that step together on the device, and write to the replay buffer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxai.core import Key, Metrics, PyTree, State
from jaxai.dqn import frames
from jaxai.dqn.config import Config, env_steps, epsilon
from jaxai.dqn.interface import Interface
from jaxai.dqn.observations import not_bits
from jaxai.dqn.policy import epsilon_greedy, random_legal_action
from jaxai.dqn.replay_buffer import Memory, ReplayBuffer
from jaxai.ops.ordering import computed_after

__all__ = ["Actor", "Worker", "faults", "make_actor", "scan"]

REPLAY_STREAM = 0x5EED
"""Folded into the key with which a replay buffer is filled again."""


class Worker(struct.PyTreeNode):
    """What belongs to one device, `state.local`; the leading axis of every leaf is the environments.

    Attributes:
      environment: states of the environments.
      observation: [environments, ...], the network's next input.
      episode_return: [environments] float32, so far.
      episode_length: [environments] int32, so far.
      memory: contents of the replay buffer.
      mask: [environments, actions] bool, the legal actions; None where the environment does not give them.
      unstorable: [environments] bool, whether an observation had other values than 0 and 1, where the replay buffer
        stores bits; None where it stores numbers, or the observations are known to be binary.
    """

    environment: PyTree
    observation: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    memory: Memory
    mask: jax.Array | None = None
    unstorable: jax.Array | None = None


class Actor(NamedTuple):
    """Pure functions of the environments.

    Attributes:
      init: (reset_key, action_key) -> a worker whose replay buffer holds `learning_starts` random steps.
      act: (state, keys [vector_steps], learned) -> the worker after the environment steps of a train step, and sums
        over the episodes that ended: `episodes`, `return_sum`, `length_sum`. `learned` is any bool that is known once
        the replay buffer has been read.
      refill: state -> a worker with new environments, whose replay buffer holds the last steps of the state's policy.
    """

    init: Callable[[Key, Key], Worker]
    act: Callable[[State, Key, jax.Array], tuple[Worker, Metrics]]
    refill: Callable[[State], Worker]


def make_actor(config: Config, interface: Interface, buffer: ReplayBuffer, greedy: Callable[..., jax.Array]) -> Actor:
    """The actor of a configuration in an environment.

    Args:
      config: of the workload.
      interface: of the environment.
      buffer: that the steps are written to.
      greedy: as in `Learner`.
    """
    spec, env_params = interface.spec, interface.env_params
    reset = jax.vmap(interface.reset, in_axes=(0, None))
    step_all = jax.vmap(interface.step, in_axes=(0, 0, 0, None))

    def step(worker: Worker, time: jax.Array, action: jax.Array, keys: Key, learned: Any) -> tuple[Worker, Metrics]:
        """One stored step of all environments, and the sums over the episodes that it ended."""
        following = step_all(keys, worker.environment, action, env_params)
        terminated, truncated = following.terminated, following.truncated
        # Actions and their results depend on the parameters; the reward is made to depend on them here.
        reward = computed_after(following.reward, learned)
        ended = terminated | truncated
        returns, lengths = worker.episode_return + reward, worker.episode_length + 1
        memory = buffer.add(
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
        unstorable = worker.unstorable
        if unstorable is not None:
            unstorable |= not_bits(following.observation) | not_bits(following.final_observation)
        worker = Worker(
            following.state,
            frames.following(worker.observation, following.observation, ended, config.frame_stack),
            jnp.where(ended, 0, returns),
            jnp.where(ended, 0, lengths),
            memory,
            following.mask,
            unstorable,
        )
        return worker, sums

    def init(reset_key: Key, action_key: Key) -> Worker:
        start = reset(jax.random.split(reset_key, config.num_envs), env_params)
        worker = Worker(
            environment=start.state,
            observation=frames.first(start.observation, config.frame_stack),
            episode_return=jnp.zeros(config.num_envs),
            episode_length=jnp.zeros(config.num_envs, jnp.int32),
            memory=buffer.init(start.observation, start.mask),
            mask=start.mask,
            unstorable=not_bits(start.observation) if buffer.binary and not spec.binary else None,
        )

        def step_at_random(time: jax.Array, worker: Worker) -> Worker:
            choice_key, env_key = jax.random.split(jax.random.fold_in(action_key, time))
            if worker.mask is None:
                action = jax.random.randint(choice_key, (config.num_envs,), 0, spec.num_actions)
            else:
                action = random_legal_action(jax.random.uniform(choice_key, (config.num_envs,)), worker.mask)
            return step(worker, time, action, jax.random.split(env_key, config.num_envs), False)[0]

        return lax.fori_loop(0, config.warmup_vector_steps, step_at_random, worker)

    def act(state: State, keys: Key, learned: jax.Array) -> tuple[Worker, Metrics]:
        first = config.warmup_vector_steps + state.step * config.vector_steps

        def act_once(carry: tuple[Worker, Metrics], at: tuple[jax.Array, Key]) -> tuple[tuple[Worker, Metrics], None]:
            (worker, sums), (i, key) = carry, at
            environments = len(worker.episode_return)
            # One split for all: on CPU a small random draw costs as much as a layer of a small network.
            keys = jax.random.split(key, environments + 2)
            best = greedy(state.params, worker.observation, worker.mask, keys[0])
            share = epsilon(config, state.extra["hyperparameters"], env_steps(config, first + i))
            uniform = jax.random.uniform(keys[1], (2, environments))
            action = epsilon_greedy(best, share, uniform, spec.num_actions, worker.mask)
            worker, ended = step(worker, first + i, action, keys[2:], learned)
            return (worker, jax.tree.map(jnp.add, sums, ended)), None

        sums = {name: jnp.float32(0) for name in ("episodes", "return_sum", "length_sum")}
        return scan(act_once, (state.local, sums), (jnp.arange(config.vector_steps), keys))[0]

    def refill(state: State) -> Worker:
        key = jax.random.fold_in(jax.random.fold_in(state.key, REPLAY_STREAM), state.step)
        # The number of steps that write every slot: no random step is left, except in a shorter run.
        first = jnp.maximum(0, state.step - -(-buffer.slots // config.vector_steps))

        def again(step: jax.Array, worker: Worker) -> Worker:
            keys = jax.random.split(jax.random.fold_in(key, step), config.vector_steps)
            return act(state.replace(step=step, local=worker), keys, jnp.bool_(True))[0]

        return lax.fori_loop(first, state.step, again, init(*jax.random.split(key, 4)[2:]))

    return Actor(init, act, refill)


def faults(worker: Worker, name: str) -> dict[str, PyTree]:
    """Text of each problem with the values that an environment returned -> bool arrays, True where it occurs."""
    memory = worker.memory
    shown = (worker.observation, memory.observation, memory.final_observation)
    found: dict[str, PyTree] = {
        f"a reward of {name} is not finite": ~jnp.isfinite(memory.reward),
        f"an observation of {name} is not finite": jax.tree.map(lambda leaf: ~jnp.isfinite(leaf), shown),
    }
    if worker.unstorable is not None:
        bits = f"storage is bits, and an observation of {name} holds more than 0 and 1; choose dtype"
        found[bits] = worker.unstorable
    return found


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree) -> tuple[Any, Any]:
    """`lax.scan`, without a loop for a single step: around the replay buffer a loop causes copies on CPU.

    Args:
      step: (carry, element of xs) -> (carry, y).
      carry: its first value.
      xs: leaves [length, ...], with length at least 1.

    Returns:
      The last carry, and the stacked y: leaves [length, ...].
    """
    if len(jax.tree.leaves(xs)[0]) > 1:
        return lax.scan(step, carry, xs)
    carry, y = step(carry, jax.tree.map(lambda leaf: leaf[0], xs))
    return carry, jax.tree.map(lambda leaf: leaf[None], y)
