"""Actions that are not legal (`info["action_mask"]`): never taken, and never bootstrapped from."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import dqn
from jaxai.dqn.environment import StickyActions
from jaxai.dqn.episode import run_episode
from jaxai.dqn.interface import connect
from jaxai.dqn.policy import random_legal_action

ACTIONS, LIMIT = 5, 6
TINY = dqn.Config(
    hidden=(8,),
    total_steps=400,
    num_envs=4,
    learning_starts=80,
    train_every=8,
    batch_size=16,
    capacity=400,
    n_step=2,
    epsilon_steps=200,
    epsilon_start=0.5,
    target_every=40,
    evaluation_episodes=4,
)


class Board:
    """Observes which actions are legal, as 0.0 and 1.0; one that is not costs 100, and a legal one earns 1.

    Args:
      told_by: where the legal actions of an episode's first step are told: `method`, `reset`, or nowhere ("").
      final: whether `info["final_action_mask"]` tells those of the true successor.
    """

    default_params = SimpleNamespace(max_steps_in_episode=LIMIT)

    def __init__(self, told_by: str = "method", final: bool = True):
        self.told_by, self.final = told_by, final
        if told_by == "method":
            self.action_mask = lambda state, params: self.legal(state)

    def action_space(self, params: Any) -> Any:
        return SimpleNamespace(n=ACTIONS)

    def legal(self, state: jax.Array) -> jax.Array:
        place, time = state
        return (jnp.arange(ACTIONS) + place + time) % 3 == 0

    def reset(self, key: jax.Array, params: Any = None) -> Any:
        state = jnp.stack([jax.random.key_data(key)[-1].astype(jnp.int32) % 7, 0])
        start = self.legal(state).astype(jnp.float32), state
        return (*start, {"action_mask": self.legal(state)}) if self.told_by == "reset" else start

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any = None) -> Any:
        reward = jnp.where(self.legal(state)[action], 1.0, -100.0)
        after = state + jnp.stack([action + 1, 1])
        truncated = after[1] >= LIMIT
        fresh = self.reset(key)[1]
        following = jnp.where(truncated, fresh, after)
        info = {"final_observation": self.legal(after).astype(jnp.float32), "action_mask": self.legal(following)}
        if self.final:
            info["final_action_mask"] = self.legal(after)
        return self.legal(following).astype(jnp.float32), following, reward, jnp.bool_(False), truncated, info


def trained(config: dqn.Config, env: Any, steps: int = 3) -> tuple[Any, Any, dict[str, float]]:
    workload = dqn.make(config, env)
    state, train_step = jax.jit(workload.init)(jax.random.key(0)), jax.jit(workload.train_step)
    for _ in range(steps):
        state, metrics = train_step(state, None)
    return workload, state, metrics


@pytest.mark.parametrize("told_by", ["method", "reset"])
def test_no_action_that_is_not_legal_is_ever_taken(told_by):
    env = Board(told_by)
    workload, state, _ = trained(TINY, env)
    # All that was ever done, at random and greedily, is in the replay; 0 is what was not written yet.
    assert set(np.unique(state.local.memory.reward)) == {0.0, 1.0}
    sums = jax.jit(workload.eval_step)(state, None)
    assert float(sums["return"] / sums["count"]) == LIMIT
    policy = dqn.make_policy(TINY, env)
    played = run_episode(
        lambda observation, key, mask: policy(state, observation[None], mask[None])[0],
        env, env.default_params, jax.random.key(3), LIMIT,
    )  # fmt: skip
    np.testing.assert_array_equal(played.rewards, np.ones(LIMIT))


def test_without_a_word_on_it_the_first_step_of_the_first_episodes_is_free_and_no_other():
    _, state, _ = trained(dataclasses.replace(TINY, num_envs=8), Board(""))
    rewards = np.asarray(state.local.memory.reward)
    assert set(np.unique(rewards[:, 0])) == {1.0, -100.0}
    assert set(np.unique(rewards[:, 1:])) == {0.0, 1.0}


def test_gymnaxs_own_reset_leaves_the_mask_of_the_episode_that_ended():
    class Base(Board):
        """As gymnax's Environment: `info` is made by `step_env`, before the next episode begins."""

        def step_env(self) -> None: ...

        def step(self, *arguments: Any) -> Any:
            *values, info = super().step(*arguments)
            return *values, {"final_observation": info["final_observation"], "action_mask": info["final_action_mask"]}

    interface = connect(Base(""))
    steps = [interface.step(jax.random.key(1), jnp.array([1, time]), jnp.int32(0), None) for time in (1, LIMIT - 1)]
    for step in steps:
        np.testing.assert_array_equal(step.final_mask, step.final_observation)
    np.testing.assert_array_equal(steps[0].mask, steps[0].observation)
    np.testing.assert_array_equal(steps[1].mask, np.ones(ACTIONS))


def test_a_replay_filled_anew_keeps_the_masks_and_takes_no_other_action():
    config = dataclasses.replace(TINY, save_replay=False, capacity=200, total_steps=4000)
    workload, env = dqn.make(config, Board()), Board()
    state = jax.jit(workload.init)(jax.random.key(0)).replace(step=jnp.int32(60))
    memory = jax.jit(workload.renewed)(workload.stored(state)).local.memory
    replay = dqn.config.make_replay_buffer(config, dqn.make_environment_spec(env))
    time = (80 + 60 * 8) // 4
    assert time > replay.slots
    batch = replay.sample(memory, jax.random.key(1), jnp.int32(time), 500, jnp.float32(1.0)).batch
    np.testing.assert_array_equal(batch["action_mask"], batch["observation"] > 0)
    np.testing.assert_array_equal(batch["next_action_mask"], batch["next_observation"] > 0)
    assert (np.asarray(batch["reward"]) > 0).all()


def test_the_replay_keeps_the_masks_of_both_observations():
    env = Board()
    _, state, _ = trained(TINY, env)
    replay = dqn.config.make_replay_buffer(TINY, dqn.make_environment_spec(env))
    time = (80 + 3 * 8) // 4
    batch = replay.sample(state.local.memory, jax.random.key(1), jnp.int32(time), 64, jnp.float32(0.9)).batch
    # The observations are the masks, at ends of episodes too: truncation bootstraps from the true successor.
    np.testing.assert_array_equal(batch["action_mask"], batch["observation"] > 0)
    np.testing.assert_array_equal(batch["next_action_mask"], batch["next_observation"] > 0)
    assert replay.nbytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state.local.memory))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"double": True}, marks=pytest.mark.slow),
        pytest.param({"munchausen": 0.9}, marks=pytest.mark.slow),
        {"munchausen": 0.9, "double": True, "distribution": "quantile"},
        {"distribution": "categorical", "double": True},
        pytest.param({"distribution": "categorical", "munchausen": 0.9}, marks=pytest.mark.slow),
        pytest.param({"distribution": "quantile"}, marks=pytest.mark.slow),
    ],
)
def test_an_action_that_is_never_legal_is_as_good_as_none(changes):
    """The independent reference: a network without that output, in an environment without that action."""
    config = dataclasses.replace(TINY, atoms=5, optimizer=dqn.Optimizer("sgd", learning_rate=0.5), **changes)

    class Fewer(Board):
        def action_space(self, params: Any) -> Any:
            return SimpleNamespace(n=ACTIONS - 1)

        def legal(self, state: jax.Array) -> jax.Array:
            return super().legal(state)[:-1]

    random = np.random.default_rng(0)
    outputs = (ACTIONS - 1) * (1 if config.distribution == "none" else 5)
    state = dqn.make(config, Board()).init(jax.random.key(0))
    # Else the network and its target agree.
    first, other = (
        jax.tree.map(lambda leaf: random.normal(size=leaf.shape, scale=0.5), state.params) for _ in range(2)
    )
    first, other = jax.tree.map(jnp.float32, (first, other))
    state = state.replace(params=first, extra=state.extra | {"target": other})
    without = dqn.make(config, Fewer(final=False)).init(jax.random.key(0))

    def fewer(params: Any) -> Any:
        params = jax.tree.map(lambda leaf: leaf, params)  # a copy of the dicts
        params["q"] = {"kernel": params["q"]["kernel"][:, :outputs], "bias": params["q"]["bias"][:outputs]}
        params["q_hidden"]["kernel"] = params["q_hidden"]["kernel"][: ACTIONS - 1]
        return params

    without = without.replace(
        params=fewer(state.params), extra=without.extra | {"target": fewer(state.extra["target"])}
    )
    masks = random.random((2, 16, ACTIONS)) < 0.5
    masks[:, :, 0], masks[:, :, -1] = True, False
    batch = {
        "observation": random.normal(size=(16, ACTIONS)).astype(np.float32),
        "action": np.zeros(16, np.int32),
        "reward": random.normal(size=16).astype(np.float32),
        "discount": np.full(16, 0.9, np.float32),
        "next_observation": random.normal(size=(16, ACTIONS)).astype(np.float32),
        "action_mask": masks[0],
        "next_action_mask": masks[1],
    }
    for name in ("observation", "next_observation"):
        batch[name][:, -1] = 0  # which the other network does not read
    narrow = {name: array[:, :-1] if array.ndim == 2 else array for name, array in batch.items()}
    _, metrics = jax.jit(dqn.make(config, Board()).train_step)(state, batch)
    _, expected = jax.jit(dqn.make(config, Fewer(final=False)).train_step)(without, narrow)
    assert np.isfinite(float(metrics["loss"]))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-5)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=2e-5)
    _, unmasked = jax.jit(dqn.make(config, Board()).train_step)(
        state, {name: array for name, array in batch.items() if "mask" not in name}
    )
    assert abs(float(unmasked["loss"]) - float(expected["loss"])) > 1e-4


def test_random_actions_are_uniform_over_the_legal_ones():
    mask = jnp.array([[True, False, True, True, False], [False, False, False, False, True]])
    uniform = jax.random.uniform(jax.random.key(0), (30_000,))
    drawn = np.asarray(random_legal_action(uniform, jnp.repeat(mask[:1], 30_000, 0)))
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [1 / 3, 0, 1 / 3, 1 / 3, 0], atol=0.01)
    assert set(np.asarray(random_legal_action(uniform, jnp.repeat(mask[1:], 30_000, 0))).tolist()) == {4}
    edges = jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))])
    assert random_legal_action(edges, jnp.repeat(mask[:1], 2, 0)).tolist() == [0, 3]


def test_after_a_game_where_nothing_is_legal_nothing_is_nan():
    class Ends(Board):
        def legal(self, state: jax.Array) -> jax.Array:
            return super().legal(state) & (state[1] < 3)

    _, state, metrics = trained(dataclasses.replace(TINY, munchausen=0.9), Ends())
    assert np.isfinite(float(metrics["loss"]))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("told_by", ["", "method", "reset"])
def test_repeating_actions_does_not_go_with_masks(told_by):
    with pytest.raises(ValueError, match="sticky_actions would repeat actions that are not legal in Board"):
        dqn.make_environment_spec(StickyActions(Board(told_by), 0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask[:3], r"has shape \(3,\); expected \(5,\), bool"),
        # As users add it to logits: 0 where an action is legal.
        (lambda mask: jnp.where(mask, 0.0, -jnp.inf), "is float32; expected bool, True where an action is legal"),
        (lambda mask: [True] * ACTIONS, "is a list; expected an array, bool"),
    ],
)
@pytest.mark.parametrize("where", ["info", "method"])
def test_a_mask_of_another_shape_or_kind_is_refused(change, message, where):
    class Other(Board):
        def step(self, *arguments: Any) -> Any:
            *values, info = super().step(*arguments)
            return *values, {**info, "action_mask": change(info["action_mask"])}

    env, name = Other(""), r"info\['action_mask'\]"
    if where == "method":
        env, name = Board(), r"action_mask\(state, params\)"
        env.action_mask = lambda state, params: change(Board.legal(env, state))
    with pytest.raises(ValueError, match=f"{name} of {type(env).__name__} {message}"):
        dqn.make_environment_spec(env)
