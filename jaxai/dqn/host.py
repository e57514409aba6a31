"""Environments on the host, as gymnasium's, for a learner on the device."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxai.core import State
from jaxai.dqn import frames, parts, spaces
from jaxai.dqn.batches import example_batch
from jaxai.dqn.config import Config, check, env_steps, epsilon, make_replay_buffer
from jaxai.dqn.evaluation import longest_episode
from jaxai.dqn.policy import epsilon_greedy, make_greedy, parameters
from jaxai.dqn.replay_buffer import Memory
from jaxai.dqn.spec import EnvironmentSpec

__all__ = ["HostEnvironments", "host_spec"]

RETURNS = 100
"""Number of last episodes whose returns are kept."""
KNOWN = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3")
"""Environments of gymnasium with discrete actions, for a message."""


class HostEnvironments:
    """Vectorized gymnasium environments on the host, with a replay buffer on the device: batches for a learner.

    `next` takes the environment steps between two train steps and returns a batch from the replay buffer. Truncation is
    not termination: a truncated episode bootstraps from its true last observation, in each autoreset mode of gymnasium.
    In gymnasium's default mode (NEXT_STEP) the step that only begins an episode is stored but has no effect on an
    update; SAME_STEP has no such steps.

    ::

        envs = gymnasium.make_vec("CartPole-v1", num_envs=8)
        host = dqn.HostEnvironments(envs, config)
        learner = dqn.make_learner(config, host.spec)
        state, step = learner.init(jax.random.key(0)), jax.jit(learner.train_step)
        for i in range(config.train_steps):
            state, metrics = step(state, host.next(i, state))

    It is a feed of `jaxai.train` too, for the workload `learner.workload`.

    Attributes:
      example: shapes and dtypes of a batch.
      spec: of one environment, for `make_learner` and `make_policy`.
      returns: of the last episodes that ended, at most 100; the sum of rewards of each.

    Args:
      envs: what `gymnasium.make_vec` returns, or another `gymnasium.vector.VectorEnv`, with discrete actions.
      config: of the learner; `num_envs` must be that of `envs`.
      seed: of the environments, the exploration and the samples.
      network: the same as in `make_learner`.

    Raises:
      ValueError: in one line: `envs` is no vector environment, has another number of environments than the
        configuration, has no discrete actions, or a field has a value that cannot be trained with.
    """

    def __init__(self, envs: Any, config: Config, seed: int = 0, *, network: nn.Module | None = None):
        self.spec = host_spec(envs)
        self.example = {name: shape for name, shape in example_batch(config, self.spec).items() if name != "weight"}
        if envs.num_envs != config.num_envs:
            raise ValueError(
                f"num_envs is {config.num_envs}, and envs has {envs.num_envs} environments: make them equal"
            )
        for name, only in (("prioritized", False), ("updates_per_step", 1)):
            if getattr(config, name) != only:
                raise ValueError(f"{name} is {getattr(config, name)}; environments on the host support only {only}")
        buffer = make_replay_buffer(config, self.spec)
        check(config, buffer)
        self.returns: collections.deque[float] = collections.deque(maxlen=RETURNS)
        self._envs, self._config, self._seed, self._key = envs, config, seed, jax.random.key(seed)
        mode = envs.metadata.get("autoreset_mode")
        self._mode = "NEXT_STEP" if mode is None else getattr(mode, "name", str(mode))
        self._buffer, self._time = buffer, 0
        self._memory: Memory | None = None
        greedy, num_actions = make_greedy(config, parts.make_network(config, self.spec, network)), self.spec.num_actions

        def act(params: Any, observation: jax.Array, key: jax.Array, share: jax.Array) -> jax.Array:
            noise_key, explore_key = jax.random.split(key)
            best = greedy(params, observation, None, noise_key)
            return epsilon_greedy(best, share, jax.random.uniform(explore_key, (2, len(best))), num_actions, None)

        def following(observation: jax.Array, frame: jax.Array, ended: jax.Array) -> jax.Array:
            return frames.following(observation, frame, ended, config.frame_stack)

        def sample(memory: Any, key: jax.Array, time: jax.Array, discount: jax.Array) -> dict[str, jax.Array]:
            return buffer.sample(memory, key, time, config.batch_size, discount).batch

        self._act, self._following, self._sample = jax.jit(act), jax.jit(following), jax.jit(sample)
        self._greedy = jax.jit(lambda params, observation: greedy(params, observation, None))
        self._add = jax.jit(buffer.add, donate_argnums=0)

    def next(self, step: int, state: State) -> dict[str, jax.Array]:
        """Takes the environment steps of a train step, and samples a batch for the next one.

        The first call takes `learning_starts` steps, at random where `step` is 0; each further call takes `train_every`
        steps, epsilon-greedily. So a resumed training fills its replay buffer with steps of the restored policy.

        Args:
          step: number of the train step, from 0; the share of random actions follows from it.
          state: of the learner, before this train step.

        Returns:
          A batch as `make_learner` describes it, on the device.
        """
        config, hyperparameters = self._config, state.extra["hyperparameters"]
        steps = config.vector_steps
        share = jnp.float32(1.0)
        if self._memory is None:
            self._begin()
            steps = config.warmup_vector_steps
        if step > 0:
            time = jnp.int32(config.warmup_vector_steps + step * config.vector_steps)
            share = epsilon(config, hyperparameters, env_steps(config, time))
        for _ in range(steps):
            self._step(state, share)
        key = jax.random.fold_in(jax.random.fold_in(self._key, 1), self._time)
        return self._sample(self._memory, key, jnp.int32(self._time), hyperparameters.discount)

    def evaluate(self, state: State, episodes: int | None = None) -> dict[str, float]:
        """Greedy episodes, the first of each environment after a reset, repeated until there are enough.

        Args:
          state: of the learner.
          episodes: at least this number; None: `evaluation_episodes`.

        Returns:
          Means `return` and `length`, the share `unfinished` of episodes that were cut off, and their `count`.

        Raises:
          ValueError: training has begun in these environments: their episodes would be interrupted.
        """
        if self._memory is not None:
            raise ValueError(
                "these environments are in training; evaluate in others: HostEnvironments(gymnasium.make_vec(...),"
                " config).evaluate(state)"
            )
        asked = self._config.evaluation_episodes if episodes is None else episodes
        rounds: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while len(rounds) * self._config.num_envs < asked:
            rounds.append(self._greedy_episodes(state, self._seed + len(rounds) * self._config.num_envs))
        returns, lengths, done = (np.concatenate(values) for values in zip(*rounds, strict=True))
        return {
            "return": float(returns.mean()),
            "length": float(lengths.mean()),
            "unfinished": float(1 - done.mean()),
            "count": float(len(returns)),
        }

    def close(self) -> None:
        """Closes the environments."""
        self._envs.close()

    def _begin(self) -> None:
        frame, _ = self._envs.reset(seed=self._seed)
        frame = self._as_array(frame)
        self._observation = frames.first(jnp.asarray(frame), self._config.frame_stack)
        self._memory = self._buffer.init(jnp.asarray(frame))
        self._ended = np.zeros(self._config.num_envs, bool)  # in the last step; NEXT_STEP begins episodes in this one
        self._return = np.zeros(self._config.num_envs)

    def _step(self, state: State, share: jax.Array) -> None:
        """One step of all environments, stored in the replay buffer."""
        key = jax.random.fold_in(jax.random.fold_in(self._key, 0), self._time)
        action = np.asarray(self._act(state.params, self._observation, key, share))
        frame, reward, terminated, truncated, info = self._envs.step(action + self.spec.first_action)
        begun = self._ended & (self._mode == "NEXT_STEP")
        terminated, truncated = terminated & ~begun, truncated & ~begun
        ended = terminated | truncated
        frame = final = self._as_array(frame)
        if ended.any() and self._mode == "SAME_STEP":
            final = frame.copy()
            for index in np.flatnonzero(ended):
                final[index] = info["final_obs"][index]
        elif ended.any() and self._mode == "DISABLED":
            frame = self._as_array(self._envs.reset(options={"reset_mask": ended})[0])
        self._memory = self._add(
            self._memory,
            jnp.int32(self._time),
            action,
            np.asarray(reward, np.float32),
            terminated,
            truncated,
            final,
            frame,
            begun=begun,
        )
        # In NEXT_STEP the observation after the end still belongs to the old episode.
        self._observation = self._following(self._observation, frame, begun if self._mode == "NEXT_STEP" else ended)
        self._time, self._ended = self._time + 1, ended
        self._return += np.where(begun, 0.0, reward)
        self.returns.extend(self._return[ended].tolist())
        self._return[ended] = 0.0

    def _greedy_episodes(self, state: State, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, length and whether it ended of the first episode of each environment."""
        config, params = self._config, parameters(state)
        frame = self._as_array(self._envs.reset(seed=seed)[0])
        observation = frames.first(jnp.asarray(frame), config.frame_stack)
        returns, lengths, done = np.zeros(config.num_envs), np.zeros(config.num_envs), np.zeros(config.num_envs, bool)
        for _ in range(longest_episode(config, self.spec.max_steps)):
            action = np.asarray(self._greedy(params, observation))
            frame, reward, terminated, truncated, _ = self._envs.step(action + self.spec.first_action)
            returns, lengths = returns + np.where(done, 0.0, reward), lengths + ~done
            ended = terminated | truncated
            done |= ended
            if done.all():
                break
            if ended.any() and self._mode == "DISABLED":
                frame = self._envs.reset(options={"reset_mask": ended})[0]
            observation = self._following(observation, self._as_array(frame), ended)
        return returns, lengths, done

    def _as_array(self, frame: Any) -> np.ndarray:
        return np.asarray(frame, self.spec.observation_dtype)


def host_spec(envs: Any) -> EnvironmentSpec:
    """The shapes of a vector environment of gymnasium.

    Raises:
      ValueError: it is none, or its observations or actions are not of a kind that deep Q-learning takes.
    """
    name = str(getattr(getattr(envs, "spec", None), "id", type(envs).__name__))
    space = getattr(envs, "single_observation_space", None)
    if space is None or not hasattr(envs, "num_envs"):
        raise ValueError(
            f"{name} is no vector environment; give gymnasium.make_vec(NAME, num_envs=...), or"
            " gymnasium.vector.SyncVectorEnv([make_one, ...])"
        )
    first_action, num_actions = spaces.discrete_actions(envs.single_action_space, name, KNOWN)
    if space.shape is None or spaces.dtype(space) is None:
        raise ValueError(
            f"{name} observes a {type(space).__name__}; DQN needs one array: join its parts, as"
            " gymnasium.wrappers.FlattenObservation does"
        )
    limit = getattr(getattr(envs, "spec", None), "max_episode_steps", None)
    return EnvironmentSpec(
        observation_shape=space.shape,
        observation_dtype=jax.dtypes.canonicalize_dtype(space.dtype),
        num_actions=num_actions,
        max_steps=int(limit or 0),
        binary=space.dtype == np.bool_ or type(space).__name__ == "MultiBinary",
        first_action=first_action,
        name=name,
        observation_space=space,
    )
