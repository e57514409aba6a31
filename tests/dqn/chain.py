"""A small environment, a small configuration for it, and what tests of the train step compare."""

import dataclasses
import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxai import dqn
from jaxai.core import State, Workload

PLACES, GAMMA, BONUS = 4, 0.8, 0.5
REWARDS = np.array([0.0, 1.0, 0.0, 2.0], np.float32)
SGD = dqn.Optimizer("sgd", learning_rate=0.25)
TINY = dqn.Config(
    hidden=(8,),
    total_steps=400,
    num_envs=4,
    learning_starts=40,
    train_every=8,
    batch_size=8,
    capacity=400,
    discount=GAMMA,
    epsilon_steps=100,
    target_every=40,
    evaluation_episodes=6,
)
PRIORITIZED = dataclasses.replace(TINY, prioritized=True, updates_per_step=3, train_every=4)


class Limit(NamedTuple):
    max_steps_in_episode: int


class Chain:
    """Four places in a circle, observed one-hot; every step moves on by one, and one action of each earns a bonus."""

    def __init__(self, limit: int = 5, goal: bool = False, bonus: float = BONUS, told: bool = True):
        self.limit, self.goal, self.bonus = limit, goal, bonus
        self.default_params = Limit(limit) if told else None

    def action_space(self, params: Any) -> Any:
        return types.SimpleNamespace(n=2)

    def observe(self, state: jax.Array) -> jax.Array:
        return jax.nn.one_hot(state[0], PLACES)

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        # The key's own bits: a generator's code compiles for half a second.
        place = jax.random.key_data(key)[-1] % PLACES
        state = jnp.stack([place.astype(jnp.int32), 0])
        return self.observe(state), state

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> tuple[Any, ...]:
        place, time = state
        reward = jnp.asarray(REWARDS)[place] + self.bonus * (action == place % 2)
        after = jnp.stack([(place + 1) % PLACES, time + 1])
        late, arrived = time + 1 >= self.limit, self.goal & (place == PLACES - 1)
        terminated, truncated = arrived, late
        first, fresh = self.reset(key, params)
        ended = terminated | truncated
        observation = jnp.where(ended, first, self.observe(after))
        info = {"final_observation": self.observe(after)}
        return observation, jnp.where(ended, fresh, after), reward, terminated, truncated, info


def network_values(config: dqn.Config, params: Any, observations: Any) -> np.ndarray:
    network = dqn.build(config, observations.shape[1:], 2)
    return np.asarray(network.apply({"params": params}, jnp.asarray(observations)))


def changed(**changes: Any) -> dqn.Config:
    return dataclasses.replace(TINY, **changes)


@functools.cache
def started(config: dqn.Config = TINY, **env: Any) -> tuple[Workload, Any, State]:
    """A workload, its jitted train step, and its first state."""
    workload = dqn.make(config, Chain(**env))
    return workload, jax.jit(workload.train_step), jax.jit(workload.init)(jax.random.key(0))


def transitions(seed: int = 0, batch: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "observation": rng.normal(size=(batch, PLACES)).astype(np.float32),
        "action": rng.integers(0, 2, batch).astype(np.int32),
        "reward": rng.normal(size=batch).astype(np.float32),
        "discount": np.where(rng.random(batch) < 0.3, 0, GAMMA).astype(np.float32),
        "next_observation": rng.normal(size=(batch, PLACES)).astype(np.float32),
    }


def data(state: State) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))]
