"""gymnasium environments on the host, and a learner on the device."""

import io
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from rich.console import Console

import jaxai
from jaxai import dqn
from tests.dqn.chain import BONUS, GAMMA, PLACES, REWARDS, TINY, changed
from tests.dqn.test_step import chain_values


class Counted(gymnasium.Env):
    """Observes the number of its episode and of its step; odd episodes terminate after 3 steps, even ones are cut
    off after 5."""

    observation_space = gymnasium.spaces.Box(0, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=1)
    episode = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return np.array([self.episode, 0], np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in (1, 2)
        self.time += 1
        odd = self.episode % 2
        ended = bool(odd and self.time == 3), bool(not odd and self.time == 5)
        return np.array([self.episode, self.time], np.float32), float(self.time), *ended, {}


class Circle(gymnasium.Env):
    """`Chain` of the other tests, cut off after 5 steps."""

    observation_space = gymnasium.spaces.Box(0, 1, (PLACES,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.time = int(self.np_random.integers(PLACES)), 0
        return np.eye(PLACES, dtype=np.float32)[self.place], {}

    def step(self, action: Any) -> Any:
        reward = float(REWARDS[self.place] + BONUS * (action == self.place % 2))
        self.place, self.time = (self.place + 1) % PLACES, self.time + 1
        return np.eye(PLACES, dtype=np.float32)[self.place], reward, False, self.time == 5, {}


def several(kind: type[gymnasium.Env], count: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> SyncVectorEnv:
    return SyncVectorEnv([kind] * count, autoreset_mode=mode)


@pytest.mark.parametrize("frame_stack", [1, 2])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_successors_are_the_true_ones_and_only_termination_ends_the_return(
    mode: AutoresetMode, frame_stack: int
) -> None:
    config = changed(frame_stack=frame_stack, learning_starts=80, capacity=100, batch_size=60, truncation_spacing=3)
    host = dqn.HostEnvironments(several(Counted, 4, mode), config)
    learner = dqn.make_learner(config, host.spec)
    state = learner.init(jax.random.key(0))
    host.next(0, state)
    batch = {name: np.asarray(value) for name, value in host.next(1, state).items()}
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        name: (value.shape, value.dtype) for name, value in host.example.items()
    }
    counts = batch["mask"] > 0
    assert counts.mean() > 0.6 if mode == AutoresetMode.NEXT_STEP else counts.all()
    batch = {name: value[counts] for name, value in batch.items()}
    (episode, time), (next_episode, next_time) = (batch[name][:, -2:].T for name in ("observation", "next_observation"))
    terminated, truncated = (episode % 2 == 1) & (time == 2), (episode % 2 == 0) & (time == 4)
    assert terminated.any()
    assert truncated.any()
    np.testing.assert_array_equal(batch["discount"], np.where(terminated, 0, np.float32(GAMMA)))
    np.testing.assert_array_equal(batch["reward"], time + 1)
    goes_on = ~terminated  # a terminated step has no successor
    np.testing.assert_array_equal(next_episode[goes_on], episode[goes_on])
    np.testing.assert_array_equal(next_time[goes_on], time[goes_on] + 1)
    if frame_stack == 2:  # the frame before is of the same episode, or zeros
        begins = time == 0
        expected = np.stack([np.where(begins, 0, episode), np.where(begins, 0, time - 1)], -1)
        np.testing.assert_array_equal(batch["observation"][:, :2], expected)
        np.testing.assert_array_equal(batch["next_observation"][goes_on, :2], batch["observation"][goes_on, -2:])
    assert set(host.returns) == {6.0, 15.0}


def test_a_truncated_environment_on_the_host_still_bootstraps() -> None:
    config = changed(
        hidden=(32,),
        total_steps=6_000,
        learning_starts=80,
        truncation_spacing=5,
        batch_size=64,
        epsilon_end=1.0,
        huber_delta=0.0,
        optimizer=dqn.Optimizer(learning_rate=1e-2, schedule="cosine"),
    )
    host = dqn.HostEnvironments(several(Circle, 4), config)
    learner = dqn.make_learner(config, host.spec)
    state, step = learner.init(jax.random.key(0)), jax.jit(learner.train_step)
    for i in range(config.train_steps):
        state, _ = step(state, host.next(i, state))
    # Where truncation is taken for termination, values are more than 1 lower.
    np.testing.assert_allclose(learner.predict(state, jnp.eye(PLACES)), chain_values(), atol=0.2)
    found = dqn.HostEnvironments(several(Circle, 4), config).evaluate(state, episodes=6)
    best = [sum(REWARDS[(start + i) % PLACES] + BONUS for i in range(5)) for start in range(PLACES)]
    assert min(best) <= found["return"] <= max(best)
    assert (found["length"], found["unfinished"], found["count"]) == (5, 0, 8)
    with pytest.raises(ValueError, match="these environments are in training; evaluate in others"):
        host.evaluate(state)


def test_cart_pole_of_gymnasium_in_ten_lines() -> None:
    config = dqn.Config(hidden=(8,), num_envs=4, train_every=4, total_steps=200, learning_starts=120, batch_size=32)
    host = dqn.HostEnvironments(gymnasium.make_vec("CartPole-v1", num_envs=4), config)
    learner = dqn.make_learner(config, host.spec)
    state, step = learner.init(jax.random.key(0)), jax.jit(learner.train_step)
    for i in range(config.train_steps):
        state, metrics = step(state, host.next(i, state))
    assert np.isfinite(float(metrics["loss"]))
    assert host.spec.max_steps == 500
    assert 5 < np.mean(host.returns) < 60  # at random


@pytest.mark.parametrize(
    ("envs", "changes", "message"),
    [
        (lambda: gymnasium.make("CartPole-v1"), {}, "CartPole-v1 is no vector environment; give gymnasium.make_vec"),
        (lambda: several(Counted, 2), {}, "num_envs is 4, and envs has 2 environments: make them equal"),
        (lambda: several(Counted, 4), {"prioritized": True}, "prioritized is True; environments on the host support"),
        (lambda: several(Counted, 4), {"updates_per_step": 2}, "updates_per_step is 2; environments on the host supp"),
        (lambda: gymnasium.make_vec("Pendulum-v1", 4), {}, "Pendulum-v1 has continuous actions"),
    ],
)
def test_what_the_host_cannot_train_on_is_named_in_one_line(envs: Any, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dqn.HostEnvironments(envs(), changed(**changes))
    assert "\n" not in str(error.value)
    assert TINY.num_envs == 4


def test_the_host_is_a_feed_of_jaxai_train(tmp_path: Any) -> None:
    config = changed(learning_starts=80)
    host = dqn.HostEnvironments(several(Circle, 4, AutoresetMode.SAME_STEP), config)
    learner = dqn.make_learner(config, host.spec)
    outcome = jaxai.train(
        learner.workload, host, steps=6, workdir=tmp_path / "run", console=Console(file=io.StringIO())
    )
    assert int(outcome.state.step) == 6
    run = jaxai.load(tmp_path / "run", workload=learner.workload)
    np.testing.assert_array_equal(run.predict(jnp.eye(PLACES)), learner.predict(outcome.state, jnp.eye(PLACES)))
