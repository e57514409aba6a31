"""How observations reach the network: by the environment's space, or as the configuration says."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import dqn
from jaxai.dqn.environment import DISCRETE, Environment, make_environment
from jaxai.dqn.frames import stack
from jaxai.dqn.observations import Encoding, check_storage, make_encoding

Spaces = gymnasium.spaces
QUICK = ("FrozenLake-misc", "Catch-bsuite", "UmbrellaChain-bsuite", "FourRooms-misc", "BernoulliBandit-misc")
TINY = dqn.Config(
    hidden=(8,),
    total_steps=400,
    num_envs=4,
    learning_starts=40,
    train_every=8,
    batch_size=8,
    capacity=400,
    epsilon_steps=100,
    target_every=40,
    evaluation_episodes=2,
    evaluation_steps=5,
)


class Shows:
    """Shows zeros of a shape and a dtype, and describes them by a space."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, space: Any = None, value: float = 0):
        self.first = jnp.full(shape, value, dtype)
        self.observation_space = space

    def action_space(self, params: Any) -> Any:
        return SimpleNamespace(n=2)

    def reset(self, key: jax.Array, params: Any) -> Any:
        return self.first, jnp.int32(0)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> Any:
        ended = state >= 3
        after = jnp.where(ended, 0, state + 1)
        return self.first, after, jnp.float32(1), ended, jnp.bool_(False), {"final_observation": self.first}


class AsBytes:
    """A wrapper that casts observations, and leaves the space as it is."""

    def __init__(self, env: Any, scale: float = 1):
        self._env, self.scale = env, scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def cast(self, observation: jax.Array) -> jax.Array:
        return (observation * self.scale).astype(jnp.uint8)

    def reset(self, key: jax.Array, params: Any) -> Any:
        observation, state = self._env.reset(key, params)
        return self.cast(observation), state

    def step(self, *arguments: Any) -> Any:
        observation, *values, info = self._env.step(*arguments)
        return self.cast(observation), *values, {"final_observation": self.cast(info["final_observation"])}


def box(low: float, high: float, shape: tuple[int, ...], dtype: Any = np.uint8) -> Any:
    return Spaces.Box(low, high, shape, dtype)


def encoded(env: Any, choice: str, observations: Any, frame_stack: int = 1) -> np.ndarray:
    encoding = make_encoding(choice, dqn.make_environment_spec(env), frame_stack)  # type: ignore[arg-type]  # a parametrized literal
    return np.asarray(encoding(jnp.asarray(observations)))


GREY = np.full((1, 36, 36), 0.2)
PIXELS = np.array([[[0, 255]], [[51, 102]]], np.uint8)


@pytest.mark.parametrize(
    ("env", "choice", "given", "expected"),
    [
        (Shows((1, 2), np.uint8, box(0, 255, (1, 2))), "auto", PIXELS, PIXELS / np.float32(255)),
        (Shows((1, 2), np.uint8, box(0, 3, (1, 2))), "auto", PIXELS, PIXELS),
        (Shows((1, 2), np.uint8, box(0, 1, (1, 2), np.float32)), "auto", PIXELS, PIXELS),
        (Shows((1, 2), np.uint8, box(0, 255, (1, 2))), "cast", PIXELS, PIXELS),
        (Shows((1, 2), np.uint8), "scale", PIXELS, PIXELS / np.float32(255)),
        (Shows((36, 36), np.uint8), "auto", np.full((1, 36, 36), 51, np.uint8), np.full((1, 36, 36), 0.2)),
        (Shows((36, 36), np.int32, box(0, 255, (36, 36), np.int32)), "auto", np.full((1, 36, 36), 51), GREY),
        (Shows((36, 36), np.float32, box(0, 255, (36, 36), np.float32)), "auto", np.full((1, 36, 36), 51.0), GREY),
        (Shows((36, 36), np.float32, box(0, 255, (36, 36))), "auto", GREY, GREY),
        (Shows((2,), np.int32), "auto", [[300, -7]], [[300, -7]]),
        (Shows((2,), np.bool_), "auto", [[True, False]], [[1, 0]]),
        (Shows((2,), np.float32, box(0, 255, (2,), np.float32)), "auto", [[255.0, 3.5]], [[255, 3.5]]),
        (Shows((2,), np.float32), "scale", [[255.0, 51.0]], [[1, 0.2]]),
        (Shows((), np.int32, Spaces.Discrete(4)), "auto", [2, 0], [[0, 0, 1, 0], [1, 0, 0, 0]]),
        (Shows((), np.int32, Spaces.Discrete(3, start=5)), "auto", [7, 5], [[0, 0, 1], [1, 0, 0]]),
        (Shows((), np.float32, Spaces.Discrete(3)), "auto", [1.0], [[0, 1, 0]]),
        (Shows((), np.int32, Spaces.Discrete(4)), "cast", [2, 0], [2, 0]),
        (Shows((), np.int32, box(0, 90, (), np.int32)), "auto", [77], [77]),
        (Shows((2,), np.int32, Spaces.MultiDiscrete([2, 3])), "auto", [[1, 0]], [[0, 1, 1, 0, 0]]),
        (Shows((2,), np.int32, box(1, 3, (2,), np.int32)), "one_hot", [[1, 3]], [[1, 0, 0, 0, 0, 1]]),
        (Shows((2,), np.int8, Spaces.MultiBinary(2)), "auto", [[1, 0]], [[1, 0]]),
        (Shows((1, 2), np.int32, box(0, 1, (1, 2), np.int32)), "one_hot", [[[1, 0]]], [[[0, 1], [1, 0]]]),
    ],
)
def test_the_space_decides_and_the_configuration_overrides(env, choice, given, expected):
    found = encoded(env, choice, given)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(np.shape(expected)), expected, rtol=1e-6)


def test_frames_side_by_side_are_encoded_as_each_alone():
    random = np.random.default_rng(0)
    for shape in ((), (2, 3)):
        env = Shows(shape, np.int32, box(0, 2, shape, np.int32))
        four = random.integers(0, 3, (5, 4, *shape))  # [batch, frames, ...]
        stacked = stack(jnp.asarray(four), jnp.ones((5, 4), bool))
        together = encoded(env, "one_hot", stacked, frame_stack=4)
        alone = np.stack([encoded(env, "one_hot", four[:, i]) for i in range(4)])
        # Each frame's ones are there once, whatever the order.
        assert together.sum() == alone.sum() == four.size
        assert together.size == alone.size
        np.testing.assert_array_equal(
            np.sort(together.reshape(5, -1).sum(1)), np.sort(alone.sum(tuple(range(2, alone.ndim))).sum(0))
        )


@pytest.mark.parametrize(
    ("env", "choice", "message"),
    [
        (
            Shows((4, 4), np.uint8),
            "auto",
            r"Shows observes uint8\[4, 4\] and has no observation_space with bounds; choo",
        ),
        (Shows((), np.int32), "auto", r"Shows observes one int32 and has no observation_space; give it one \(Discrete"),
        (
            Shows((2,), np.float32, box(0, 1, (2,), np.float32)),
            "one_hot",
            "observations is one_hot, but those of Shows",
        ),
        (Shows((2,), np.int32), "one_hot", "are int32 from -inf to inf; it needs a Discrete observation_space"),
        (Shows((), np.int32, Spaces.Discrete(100_000)), "auto", "have 100000 categories, and one-hot at most 65536"),
    ],
)
def test_what_the_space_does_not_decide_is_asked_for(env, choice, message):
    with pytest.raises(ValueError, match=message) as error:
        dqn.make(dataclasses.replace(TINY, observations=choice), env)
    assert "\n" not in str(error.value)


def test_symbols_in_bytes_train_as_in_float_bit_for_bit_and_are_stored_as_bytes():
    env, params = make_environment(Environment("Catch-bsuite"))
    states = []
    for each in (env, AsBytes(env)):
        workload = dqn.make(TINY, each, params)
        state = jax.jit(workload.init)(jax.random.key(0))
        for _ in range(2):
            state, _ = jax.jit(workload.train_step)(state, None)
        states.append(state)
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)
    assert states[1].local.memory.observation.dtype == jnp.uint8


def test_a_states_number_is_one_hot_for_the_network_and_one_number_in_the_replay():
    env, params = make_environment(Environment("FrozenLake-misc"))
    config = dataclasses.replace(TINY, frame_stack=2)
    state = jax.eval_shape(dqn.make(config, env, params).init, jax.random.key(0))
    assert state.params["q_hidden"]["kernel"].shape == (2 * 16, 8)
    assert state.local.memory.observation.shape == (4, 400 // 4 + 1 + 2 - 1)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DISCRETE],
)
def test_every_environment_is_traced_with_frames_sticky_actions_and_more_steps(name):
    env, params = make_environment(Environment(name, sticky_actions=0.1))
    workload = dqn.make(dataclasses.replace(TINY, frame_stack=2, n_step=3), env, params)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    after, metrics = jax.eval_shape(workload.train_step, state, None)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert metrics["return_sum"].dtype == jnp.float32
    assert jax.eval_shape(workload.eval_step, state, None)["return"].shape == ()


@pytest.mark.parametrize(
    ("space", "refused"),
    [
        (None, False),
        (box(0, 1, (3,), np.float32), False),
        (Spaces.Box(-np.inf, np.inf, (3,)), False),
        (box(0, 2, (3,), np.float32), True),
        (Spaces.Box(-1, np.inf, (3,)), True),
        (Spaces.MultiDiscrete([2, 2, 3]), True),
        (Spaces.MultiDiscrete([2, 2, 2]), False),
    ],
)
def test_bits_are_refused_where_the_space_says_that_they_are_too_small(space, refused):
    env = Shows((3,), np.float32, space)
    if not refused:
        check_storage(dqn.make_environment_spec(env))
        return
    with pytest.raises(ValueError, match=r"storage is bits, but observations of Shows are from .* choose dtype, or"):
        dqn.make(dataclasses.replace(TINY, storage="bits"), env)


@pytest.mark.parametrize(("value", "fits"), [(1, True), (0.5, False)])
def test_bits_that_lose_an_observation_make_the_step_fail_and_say_why(value, fits):
    workload = dqn.make(dataclasses.replace(TINY, storage="bits"), Shows((3,), np.float32, None, value))
    state = jax.jit(workload.init)(jax.random.key(0))
    _, metrics = jax.jit(workload.train_step)(state, None)
    assert np.isfinite(float(metrics["loss"])) == fits
    said = {words for words, where in workload.faults(state).items() if any(map(jnp.any, jax.tree.leaves(where)))}
    expected = "storage is bits, and an observation of Shows holds more than 0 and 1; choose dtype"
    assert said == (set() if fits else {expected})


def test_an_encoding_can_be_given_to_build():
    encoding = Encoding(categories=((0, 3), (0, 2)))
    network = dqn.build(dqn.Network(hidden=(4,)), (2,), 2, encoding)
    params = network.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    assert params["q_hidden"]["kernel"].shape == (5, 4)
    with pytest.raises(ValueError, match="observations is one_hot, and build knows no categories"):
        dqn.build(dqn.Network(observations="one_hot"), (2,), 2)


def greedy_return(config: dqn.Config, env: Any, params: Any) -> float:
    workload = dqn.make(config, env, params)
    state = jax.jit(workload.init)(jax.random.key(0))
    state = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: workload.train_step(s, None), state, length=config.train_steps)
    )(state)[0]
    sums = jax.jit(workload.eval_step)(state, None)
    return float(sums["return"] / sums["count"])


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "solves"), [("auto", True), ("cast", False)])
def test_frozen_lake_is_solved_one_hot_and_not_as_a_quantity(choice, solves):
    """A policy that knows the lake reaches the goal in 0.73 of the episodes of 100 steps; a random one in 0.01."""
    config = dqn.Config(
        hidden=(64,), total_steps=60_000, num_envs=10, learning_starts=2_000, train_every=10, batch_size=64,
        capacity=20_000, epsilon_steps=30_000, target_every=500, evaluation_episodes=400, observations=choice,
        optimizer=dqn.Optimizer(learning_rate=1e-3),
    )  # fmt: skip
    reached = greedy_return(config, *make_environment(Environment("FrozenLake-misc")))
    assert (reached > 0.5) == solves


@pytest.mark.slow
def test_catch_in_bytes_is_solved():
    env, params = make_environment(Environment("Catch-bsuite"))
    config = dqn.Config(
        hidden=(64,), total_steps=30_000, num_envs=10, learning_starts=1_000, train_every=10, batch_size=64,
        capacity=10_000, epsilon_steps=10_000, target_every=500, evaluation_episodes=100, evaluation_steps=9,
        optimizer=dqn.Optimizer(learning_rate=1e-3),
    )  # fmt: skip
    assert greedy_return(config, AsBytes(env), params) == 1.0
