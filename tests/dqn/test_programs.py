"""Short programs that users write around deep Q-learning: each in at most ten lines of public names."""

import dataclasses
from typing import Any

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from jaxai import dqn, population
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from tests.dqn.chain import TINY, Chain


def test_sixteen_seeds_in_one_program() -> None:
    config, env = TINY, Chain()

    learner = population.make(dqn.make(config, env), seeds=range(16))
    state, step = jax.jit(learner.init)(jax.random.key(0)), jax.jit(learner.train_step)
    for _ in range(3):
        state, metrics = step(state, None)

    chex.assert_shape(metrics["loss"], (16,))
    assert len(np.unique(metrics["loss"])) == 16
    alone = dqn.make(config, env)
    state = jax.jit(alone.init)(jax.random.key(11))
    for _ in range(3):
        state, expected = jax.jit(alone.train_step)(state, None)
    np.testing.assert_allclose(metrics["loss"][11], expected["loss"], rtol=1e-5)


def test_an_environment_of_ones_own_in_ones_own_loop() -> None:
    class Guess:
        """The observation is the action that earns 1; five steps are an episode."""

        default_params = None

        def action_space(self, params: Any) -> Any:
            return gymnasium.spaces.Discrete(3)

        def reset(self, key: jax.Array, params: Any) -> Any:
            goal = jax.random.randint(key, (), 0, 3)
            return jax.nn.one_hot(goal, 3), (goal, 0)

        def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> Any:
            observation, (goal, _) = self.reset(key, params)
            time, reward = state[1] + 1, (action == state[0]) * 1.0
            return observation, (goal, time % 5), reward, time == 5, False, {"final_observation": observation}

    config = dataclasses.replace(TINY, total_steps=4_000, discount=0.0, optimizer=dqn.Optimizer(learning_rate=1e-2))

    workload = dqn.make(config, Guess())
    state, step = jax.jit(workload.init)(jax.random.key(0)), jax.jit(workload.train_step)
    for _ in range(config.train_steps):
        state, _ = step(state, None)
    sums = workload.eval_step(state, None)

    assert sums["return"] / sums["count"] == 5
    np.testing.assert_allclose(workload.predict(state, jnp.eye(3)), np.eye(3), atol=0.1)


def test_checkpoint_and_resume_in_ones_own_loop(tmp_path: Any) -> None:
    workload = dqn.make(TINY, Chain())
    step = jax.jit(workload.train_step)
    state = jax.jit(workload.init)(jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(4):
            state, _ = step(state, None)
        checkpoints.save(state)
    expected, _ = step(state, None)

    restored = Checkpoints(tmp_path).restore(jax.eval_shape(workload.init, jax.random.key(0)))
    chex.assert_trees_all_equal(step(restored, None)[0], expected)


def test_many_steps_per_call_on_all_devices() -> None:
    setup = parallel.Setup("shard_map", devices=2, steps_per_call=5)
    workload = dqn.make(TINY, Chain(), axis_name=setup.axis_name)
    call, state = setup.compile_step(workload.train_step), setup.place_state(workload.init(jax.random.key(0)))
    for _ in range(2):
        state, metrics = call(state, None)

    assert int(state.step) == 10
    assert np.isfinite(float(metrics["loss"]))
