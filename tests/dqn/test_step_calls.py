import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import dqn
from jaxai.core import State
from jaxai.runtime import parallel
from tests.dqn.chain import (
    PLACES,
    SGD,
    Chain,
    changed,
    data,
    started,
    transitions,
)

MODES: tuple[parallel.Mode, ...] = ("shard_map", "pmap")


class Board(Chain):
    """A Chain whose place, left by the action, is painted on a board as large as Breakout's."""

    def observe(self, state: jax.Array) -> jax.Array:
        return jnp.zeros((10, 10, 4), bool).at[:, :, state[0]].set(True)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> tuple[Any, ...]:
        return super().step(key, state.at[0].set((state[0] + action) % PLACES), action, params)


# Evaluation.


def with_actions(state: State, action: int) -> State:
    """A state whose greedy action is always the same."""
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["q"]["bias"] = params["q"]["bias"].at[action].set(1.0)
    return state.replace(params=params)


class Corridor(Chain):
    """A Chain in which action 1 earns 1, and arriving earns 10 and ends the episode."""

    def __init__(self) -> None:
        super().__init__(limit=100, goal=True)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> tuple[Any, ...]:
        observation, after, _, terminated, truncated, info = super().step(key, state, action, params)
        return observation, after, action * 1.0 + 10.0 * terminated, terminated, truncated, info


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_evaluation_is_greedy_and_counts_the_first_episode_of_each_environment(mode: parallel.Mode) -> None:
    mesh = parallel.make_mesh(1 if mode == "jit" else 2)
    config = changed(evaluation_episodes=64)
    workload = dqn.make(config, Corridor(), axis_name=parallel.axis_name(mode))
    assert workload.eval_step is not None
    evaluate = parallel.compile_evaluation(workload.eval_step, mesh, mode)
    _, _, state = started()
    sums = {}
    for action in (0, 1):
        placed = parallel.place_state(with_actions(state, action), mesh, mode)
        sums[action] = jax.device_get(evaluate(placed, None, None))
        found = sums[action]
        assert found["count"] == 64
        # Episodes begin anywhere, so that they last 1 to 4 steps: 2.5 in the mean, four standard deviations.
        assert abs(found["length"] / 64 - 2.5) < 4 * np.sqrt(1.25 / 64)
        assert found["return"] == action * found["length"] + 10 * 64
    assert sums[0]["length"] == sums[1]["length"]
    later = jax.device_get(
        evaluate(parallel.place_state(with_actions(state, 0).replace(step=jnp.int32(1)), mesh, mode), None, None)
    )
    assert later["count"] == 64


def test_evaluation_stops_after_evaluation_steps() -> None:
    config = changed(evaluation_steps=2, evaluation_episodes=7)
    workload = dqn.make(config, Chain(limit=50))
    assert workload.eval_step is not None
    state = with_actions(started()[2], 0)
    sums = jax.jit(workload.eval_step)(state, None)
    assert float(sums["length"]) == 14
    assert float(sums["unfinished"]) == float(sums["count"]) == 7


def test_evaluation_changes_no_bit_of_training() -> None:
    workload, train_step, state = started()
    assert workload.eval_step is not None
    evaluate = jax.jit(workload.eval_step)
    with_it = without = state
    for _ in range(3):
        evaluate(with_it, None)
        with_it, without = train_step(with_it, None)[0], train_step(without, None)[0]
    chex.assert_trees_all_equal(data(with_it), data(without))


# Calls, devices, memory.


def test_any_split_into_calls_gives_the_same_bits() -> None:
    workload, train_step, _ = started()
    mesh, init = parallel.make_mesh(1), jax.jit(workload.init)
    call = parallel.compile_step(workload.train_step, mesh, "jit", 8)

    def run(*calls: int) -> tuple[State, float]:
        state, episodes = parallel.place_state(init(jax.random.key(0)), mesh), 0.0
        for steps in calls:
            state, metrics = call(state, None, steps=steps)
            episodes += float(metrics["episodes"]) * steps
        return jax.device_get(state), episodes

    whole, counted = run(8)
    half = run(4, 4)
    chex.assert_trees_all_equal(data(half[0]), data(whole))
    chex.assert_trees_all_equal(data(run(3, 1, 4)[0]), data(whole))
    np.testing.assert_allclose(half[1], counted, rtol=1e-6)
    state = init(jax.random.key(0))
    for _ in range(8):
        state, _ = train_step(state, None)
    chex.assert_trees_all_close(data(state), data(whole), rtol=1e-5, atol=1e-5)


@functools.cache
def trained_on_devices(mode: parallel.Mode, steps: int = 4) -> tuple[State, State, list[dict[str, Any]], State]:
    """Placed and gathered states after some train steps, the metrics of each, and the state before."""
    config = changed(num_envs=8, train_every=16)
    workload = dqn.make(config, Chain(), axis_name=parallel.axis_name(mode))
    mesh = parallel.make_mesh(4)
    call = parallel.compile_step(workload.train_step, mesh, mode)
    before = jax.device_get(jax.jit(workload.init)(jax.random.key(0)))
    state, metrics = parallel.place_state(before, mesh, mode), []
    for _ in range(steps):
        state, found = call(state, None)
        metrics.append(jax.device_get(found))
    return state, jax.device_get(parallel.gather_state(state, mode)), metrics, before


@pytest.mark.parametrize("mode", MODES)
def test_devices_agree_on_parameters_and_live_in_environments_of_their_own(mode: parallel.Mode) -> None:
    placed, gathered, metrics, before = trained_on_devices(mode)
    for leaf in jax.tree.leaves((placed.params, placed.opt_state, placed.extra)):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        assert all((copy == copies[0]).all() for copy in copies)
    lived = np.asarray(gathered.local.memory.action)[:, 5:9].reshape(4, -1)
    assert len({tuple(row) for row in lived}) == 4
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before.params, gathered.params)), strict=True))
    # Eight steps after a warm-up of five: the second episode of each of the eight environments ends.
    assert (np.asarray(gathered.local.memory.ending)[:, 5:13] > 0).sum() == 8
    assert sum(float(step["episodes"]) for step in metrics) == 8


def test_pmap_equals_shard_map_bitwise() -> None:
    one, other = (trained_on_devices(mode) for mode in MODES)
    chex.assert_trees_all_equal(data(one[1]), data(other[1]))
    chex.assert_trees_all_equal(one[2], other[2])


def test_one_and_four_devices_learn_the_same_from_the_same_transitions() -> None:
    mode: parallel.Mode = "shard_map"  # pmap equals it bitwise
    config = changed(optimizer=SGD)
    workload = dqn.make(config, Chain(), axis_name=parallel.axis_name(mode))
    init, after = jax.jit(workload.init), []
    for devices in (1, 4):
        mesh = parallel.make_mesh(devices)
        call = parallel.compile_step(workload.train_step, mesh, mode)
        state = parallel.place_state(init(jax.random.key(0)), mesh, mode)
        for i in range(3):
            state, metrics = call(state, parallel.place_batches(transitions(i), mesh, mode))
        after.append(jax.device_get((state.params, metrics)))
    chex.assert_trees_all_close(after[0], after[1], rtol=1e-6, atol=1e-6)


def test_train_step_updates_a_large_replay_in_place() -> None:
    config = changed(
        num_envs=10,
        train_every=10,
        learning_starts=1000,
        total_steps=100_000,
        capacity=100_000,
        prioritized=True,
        torso="mlp",  # convolutions need memory of their own
    )
    workload = dqn.make(config, Board(limit=1000))
    state = jax.eval_shape(workload.init, jax.random.key(0))
    call = parallel.compile_step(workload.train_step, parallel.make_mesh(1))
    memory = call.compile(state, None).function.memory_analysis()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.local))
    assert size < 65 * 100_000  # a bit for each of 400 cells, and a few bytes
    assert memory.alias_size_in_bytes >= 0.99 * memory.argument_size_in_bytes
    assert memory.argument_size_in_bytes > size
    assert memory.temp_size_in_bytes <= 0.1 * memory.argument_size_in_bytes
