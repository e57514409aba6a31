import dataclasses
import itertools
import pathlib
import types
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxai import dqn
from jaxai.core import State
from jaxai.dqn.config import epsilon
from jaxai.dqn.replay_buffer import TRUNCATED, ReplayBuffer, Sample
from tests.dqn.chain import (
    BONUS,
    GAMMA,
    PLACES,
    PRIORITIZED,
    REWARDS,
    SGD,
    TINY,
    Chain,
    changed,
    network_values,
    started,
    transitions,
)


def chain_values(goal: bool = False, bonus: float = BONUS, discount: float = GAMMA) -> np.ndarray:
    """Q* [places, actions] of a Chain that no limit ends."""
    follows = np.roll(np.eye(PLACES), 1, axis=1)
    if goal:
        follows[-1] = 0
    best = np.linalg.solve(np.eye(PLACES) - discount * follows, REWARDS + bonus)
    good = np.arange(2) == np.arange(PLACES)[:, None] % 2
    return (REWARDS + discount * follows @ best)[:, None] + bonus * good


# What it learns.


def learned(n_step: int = 1, **env: Any) -> np.ndarray:
    """Q [places, actions] after training on random actions alone."""
    config = changed(
        hidden=(32,),
        total_steps=12_000,
        train_every=8,
        batch_size=32,
        epsilon_end=1.0,
        huber_delta=0.0,
        n_step=n_step,
        optimizer=dqn.Optimizer(learning_rate=5e-3, schedule="cosine"),
    )
    workload = dqn.make(config, Chain(**env))

    @jax.jit
    def run(key: jax.Array) -> State:
        return lax.fori_loop(0, config.train_steps, lambda _, s: workload.train_step(s, None)[0], workload.init(key))

    return network_values(config, run(jax.random.key(0)).params, np.eye(PLACES, dtype=np.float32))


def test_truncated_episodes_still_bootstrap() -> None:
    expected = chain_values()
    np.testing.assert_allclose(learned(), expected, atol=0.05)
    # What an agent would learn that confused the two: one of five steps would end the return.
    assert (expected - chain_values(discount=GAMMA * 4 / 5) > 1).all()


@pytest.mark.parametrize(("n_step", "told"), [(1, False), (3, True)])
def test_termination_ends_the_return_and_a_limit_told_or_not_does_not(n_step: int, told: bool) -> None:
    # Beyond one step the returns are those of the random actions: equal where actions earn nothing.
    bonus = BONUS if n_step == 1 else 0.0
    expected = chain_values(goal=True, bonus=bonus)
    assert np.abs(expected - chain_values(bonus=bonus)).min() > 1
    np.testing.assert_allclose(learned(n_step, goal=True, limit=3, bonus=bonus, told=told), expected, atol=0.05)


GOLDEN: dict[str, dict[str, Any]] = {
    "huber": {},
    "squared_double": {"huber_delta": 0.0, "double": True},
    "munchausen": {"munchausen": 0.9},
    "categorical": {"distribution": "categorical"},
    "categorical_double": {"distribution": "categorical", "double": True},
    "quantile": {"distribution": "quantile"},
    "munchausen_quantile": {"distribution": "quantile", "huber_delta": 0.5, "munchausen": 0.9},
}


class ThreeActions(Chain):
    def action_space(self, params: Any) -> Any:
        return types.SimpleNamespace(n=3)


@pytest.mark.parametrize("name", GOLDEN)
def test_three_updates_of_adam_equal_pytorch(name: str) -> None:
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden/dqn_update.npz")

    def tree(prefix: str) -> dict[str, dict[str, np.ndarray]]:
        layers = ("dense_0", "q_hidden", "q")
        return {layer: {kind: golden[f"{prefix}/{layer}/{kind}"] for kind in ("kernel", "bias")} for layer in layers}

    config = changed(
        hidden=(16, 16),
        atoms=11,
        value_min=-4.0,
        value_max=4.0,
        munchausen_temperature=0.3,
        target_every=100_000,
        optimizer=dqn.Optimizer(learning_rate=1e-2, eps=1e-5),
        **GOLDEN[name],
    )
    workload = dqn.make(config, ThreeActions())
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, shapes.params) == jax.tree.map(jnp.shape, tree(f"{name}/params"))
    extra = {"target": tree(f"{name}/target"), "hyperparameters": dqn.Hyperparameters.of(config)}
    # Adam begins at zero.
    opt_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.opt_state)
    state = State(jnp.int32(0), tree(f"{name}/params"), opt_state, jax.random.key(0), extra)
    train_step = jax.jit(workload.train_step)
    fields = (*transitions(), "weight")
    for i in range(3):
        state, metrics = train_step(state, {field: golden[f"batch/{i}/{field}"] for field in fields})
        np.testing.assert_allclose(metrics["loss"], golden[f"{name}/losses"][i], rtol=1e-5)
        if i == 0:
            np.testing.assert_allclose(metrics["grad_norm"], golden[f"{name}/grad_norm"], rtol=1e-5)
            chex.assert_trees_all_close(state.params, tree(f"{name}/after_1"), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(state.params, tree(f"{name}/after_3"), rtol=1e-5, atol=1e-5)


# Switches, in all combinations of two.

SWITCHES: dict[str, tuple[Any, ...]] = {
    "double": (False, True),
    "dueling": (False, True),
    "n_step": (1, 3),
    "prioritized": (False, True),
    "distribution": ("none", "categorical", "quantile"),
    "noisy": (False, True),
    "munchausen": (0.0, 0.9),
    "target_rate": (1.0, 0.01),
    "huber_delta": (1.0, 0.0),
    "layer_norm": (False, True),
    "epsilon": ("linear", "exponential"),
    "frame_stack": (1, 2),
}


def combinations() -> list[dict[str, Any]]:
    """Rows in which every two values of different switches meet, those first in which most do."""

    def pairs(row: dict[str, Any]) -> set[Any]:
        return set(itertools.combinations(row.items(), 2))

    missing = {
        ((one, a), (other, b))
        for one, other in itertools.combinations(SWITCHES, 2)
        for a, b in itertools.product(SWITCHES[one], SWITCHES[other])
    }
    rng, rows = np.random.default_rng(0), []
    while missing:
        drawn = [{name: values[rng.integers(len(values))] for name, values in SWITCHES.items()} for _ in range(100)]
        rows.append(max(drawn, key=lambda row: len(pairs(row) & missing)))
        missing -= pairs(rows[-1])
    return rows


@pytest.mark.parametrize("row", combinations(), ids=lambda row: "-".join(str(value) for value in row.values()))
def test_every_two_switches_combine(row: dict[str, Any]) -> None:
    workload = dqn.make(changed(updates_per_step=2, atoms=5, **row), Chain())
    state = jax.eval_shape(workload.init, jax.random.key(0))
    after, metrics = jax.eval_shape(workload.train_step, state, None)
    assert after == state
    assert {(metric.shape, metric.dtype) for metric in metrics.values()} == {((), np.dtype("float32"))}
    assert workload.gradients is not None
    assert jax.eval_shape(workload.gradients, state, None) == state.params


@pytest.mark.parametrize("row", combinations()[:2], ids=lambda row: "-".join(str(value) for value in row.values()))
def test_combined_switches_train_with_finite_metrics(row: dict[str, Any]) -> None:
    workload = dqn.make(changed(atoms=5, **row), Chain())

    @jax.jit
    def run(key: jax.Array) -> Any:
        state = workload.init(key)
        return state, lax.scan(lambda state, _: workload.train_step(state, None), state, length=30)

    before, (after, metrics) = run(jax.random.key(0))
    for name, values in metrics.items():
        assert np.isfinite(values).all(), name
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.extra)))
    moved = [np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)]
    assert np.mean(moved) > 0.7  # a ReLU's units may all be dead, a difference of streams cancels one bias
    assert float(metrics["episodes"].sum()) > 0


# Acting and remembering.


def test_warm_up_fills_the_replay_with_random_steps_in_their_order() -> None:
    _, _, state = started()
    worker, memory = state.local, state.local.memory
    steps = TINY.warmup_steps // TINY.num_envs
    assert steps == 10
    assert int(state.step) == 0
    observation = np.asarray(memory.observation)[:, : steps + 1]
    action, reward = (np.asarray(array)[:, :steps] for array in (memory.action, memory.reward))
    place = observation.argmax(-1)
    np.testing.assert_allclose(reward, REWARDS[place[:, :-1]] + BONUS * (action == place[:, :-1] % 2))
    ending = np.asarray(memory.ending)[:, :steps]
    assert ((ending == TRUNCATED) == (np.arange(steps) % 5 == 4)).all()
    follows = (place[:, :-1] + 1) % PLACES == place[:, 1:]
    assert follows[ending == 0].all()
    assert not np.asarray(memory.observation)[:, steps + 1 :].any()
    np.testing.assert_array_equal(worker.observation, observation[:, -1])
    assert 0.25 < action.mean() < 0.75
    assert len({tuple(row) for row in action}) == TINY.num_envs
    assert changed(learning_starts=41).warmup_steps == 44


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_share_of_random_actions_is_epsilon(share: float) -> None:
    _, train_step, state = started()
    hyperparameters = state.extra["hyperparameters"].replace(
        epsilon_start=jnp.float32(share), epsilon_end=jnp.float32(share), learning_rate=jnp.float32(0)
    )
    state = state.replace(extra=state.extra | {"hyperparameters": hyperparameters})
    for _ in range(45):
        state, metrics = train_step(state, None)
        assert float(metrics["epsilon"]) == share
    memory = state.local.memory
    observation, action = np.asarray(memory.observation)[:, 10:100], np.asarray(memory.action)[:, 10:100]
    greedy = dqn.make_policy(TINY, Chain())(state, observation.reshape(-1, PLACES))
    differs = (np.asarray(greedy) != action.reshape(-1)).mean()
    # Half of the random actions are greedy by chance; 360 actions, four standard deviations.
    assert abs(differs - share / 2) <= 4 * np.sqrt(share / 2 * (1 - share / 2) / 360)


def test_episode_sums_equal_a_recount_from_the_replay() -> None:
    _, train_step, state = started()
    episodes = returns = lengths = 0.0
    for _ in range(6):
        state, metrics = train_step(state, None)
        episodes, returns = episodes + float(metrics["episodes"]), returns + float(metrics["return_sum"])
        lengths += float(metrics["length_sum"])
    # 10 steps of warm-up end with an episode, 12 more hold two episodes of each environment.
    assert episodes == 2 * 4
    assert lengths == 5 * episodes
    np.testing.assert_allclose(returns, np.asarray(state.local.memory.reward)[:, 10:20].sum(), rtol=1e-5)


def test_epsilon_falls_in_a_line_or_geometrically_and_stays() -> None:
    hyperparameters = dqn.Hyperparameters.of(changed(epsilon_start=0.8, epsilon_end=0.2, epsilon_steps=100))
    steps = np.array([0, 25, 50, 100, 1000])
    linear = epsilon(TINY, hyperparameters, steps)
    np.testing.assert_allclose(linear, [0.8, 0.65, 0.5, 0.2, 0.2], rtol=1e-6)
    exponential = epsilon(changed(epsilon="exponential"), hyperparameters, steps)
    np.testing.assert_allclose(exponential, [0.8, 0.8 * 0.25**0.25, 0.4, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_noisy_layers_explore_without_random_actions_unless_they_are_asked_for(kind: str) -> None:
    def shares(**changes: Any) -> list[float]:
        config = changed(epsilon=kind, epsilon_steps=100, **changes)
        dqn.make(config, Chain())  # takes it
        hyperparameters = dqn.Hyperparameters.of(config)
        return [round(float(epsilon(config, hyperparameters, jnp.float32(steps))), 6) for steps in (0, 100, 1000)]

    assert shares() == [1.0, 0.05, 0.05]
    assert shares(noisy=True) == [0.0, 0.0, 0.0]
    assert shares(noisy=True, epsilon_start=0.5, epsilon_end=0.1) == [0.5, 0.1, 0.1]
    assert shares(noisy=True, epsilon_end=0.02) == [0.02, 0.02, 0.02]
    with pytest.raises(ValueError, match=r"epsilon_end is 0\.0; an exponential schedule never reaches 0"):
        dqn.make(changed(epsilon="exponential", noisy=True, epsilon_start=0.5), Chain())


# The target network and the optimizer.


@pytest.mark.parametrize(("target_every", "rate"), [(40, 1.0), (20, 1.0), (40, 0.25)])
def test_target_follows_every_so_many_environment_steps(target_every: int, rate: float) -> None:
    _, train_step, state = started(changed(target_every=target_every))
    chex.assert_trees_all_equal(state.extra["target"], state.params)
    hyperparameters = state.extra["hyperparameters"].replace(target_rate=jnp.float32(rate))
    state = state.replace(extra=state.extra | {"hyperparameters": hyperparameters})
    target = jax.device_get(state.params)
    for taken in range(48, 48 + 8 * 12, 8):  # after the 40 of the warm-up
        state, _ = train_step(state, transitions())
        if taken // target_every > (taken - 8) // target_every:
            target = jax.tree.map(lambda t, p: (1 - rate) * t + rate * np.asarray(p), target, state.params)
        chex.assert_trees_all_close(state.extra["target"], target, rtol=1e-6, atol=1e-6)


def test_updates_per_step_counts_optimizer_steps() -> None:
    _, train_step, state = started(PRIORITIZED)
    for _ in range(2):
        state, _ = train_step(state, None)
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    counts = [int(leaf) for path, leaf in leaves if "count" in jax.tree_util.keystr(path)]
    assert set(counts) == {6}
    assert int(state.step) == 2


def test_learning_rate_of_the_state_and_its_schedule_reach_the_optimizer() -> None:
    config = changed(optimizer=dataclasses.replace(SGD, schedule="linear"), target_every=100_000)
    workload, train_step, state = started(config)
    assert config.train_steps == 45
    hyperparameters = state.extra["hyperparameters"].replace(learning_rate=jnp.float32(0.125))
    state = state.replace(extra=state.extra | {"hyperparameters": hyperparameters})
    assert workload.gradients is not None
    gradients = jax.jit(workload.gradients)
    for i in range(3):
        rate = 0.125 * (1 - i / 45)
        slope = gradients(state, transitions(i))
        after, metrics = train_step(state, transitions(i))
        expected = jax.tree.map(lambda p, g, rate=rate: p - rate * g, state.params, slope)
        chex.assert_trees_all_close(after.params, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-6)
        state = after


@pytest.mark.slow
def test_gradients_are_those_that_the_train_step_applies() -> None:
    workload, train_step, state = started(changed(optimizer=SGD, noisy=True))
    assert workload.gradients is not None
    slope = jax.jit(workload.gradients)(state, None)
    after, _ = train_step(state, None)
    chex.assert_trees_all_close(
        after.params, jax.tree.map(lambda p, g: p - 0.25 * g, state.params, slope), rtol=1e-6, atol=1e-6
    )


# Prioritized replay.


def test_weights_undo_the_priorities_and_new_priorities_follow_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(
        prioritized=True,
        batch_size=4,
        importance_exponent=0.4,
        priority_exponent=0.7,
        huber_delta=0.0,
        optimizer=dqn.Optimizer(learning_rate=0.0),
    )
    batch = transitions(batch=4) | {"mask": np.array([1, 1, 0, 1], np.float32)}
    probability = np.array([0.5, 0.125, 0.25, 0.25], np.float32)
    environment, slot = np.array([0, 3, 1, 2]), np.array([7, 2, 5, 6])
    drawn = Sample({k: jnp.asarray(v) for k, v in batch.items()}, *map(jnp.asarray, (environment, slot, probability)))
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *_: drawn)
    workload = dqn.make(config, Chain())
    state = jax.jit(workload.init)(jax.random.key(0))
    train_step = jax.jit(workload.train_step)
    value = network_values(config, state.params, batch["observation"])[np.arange(4), batch["action"]]
    following = network_values(config, state.extra["target"], batch["next_observation"]).max(-1)
    error = batch["reward"] + batch["discount"] * following - value
    # Environment steps before the update, of 400: the exponent rises from 0.4 to 1.
    for step, taken in ((0, 40), (21, 208), (45, 400)):
        beta = 0.4 + 0.6 * taken / 400
        weight = (probability / 0.125) ** -beta
        after, metrics = train_step(state.replace(step=jnp.int32(step)), None)
        np.testing.assert_allclose(metrics["loss"], (weight * batch["mask"] * error**2 / 2).mean(), rtol=1e-5)
        priorities = after.local.memory.priorities.leaves.reshape(4, -1)[environment, slot]
        np.testing.assert_allclose(priorities, np.where(batch["mask"] > 0, np.abs(error) ** 0.7, 0), rtol=1e-4)


def test_what_was_just_lived_gets_the_largest_priority_so_far() -> None:
    _, train_step, state = started(PRIORITIZED)
    table = state.local.memory.priorities
    # The old ones hold nearly all of the mass, so that the new ones are not drawn at once.
    table = table.replace(leaves=table.leaves * 1e4, sums=table.sums * 1e4, largest=jnp.array([1.0, 2, 3, 2]))
    state = state.replace(local=state.local.replace(memory=state.local.memory.replace(priorities=table)))
    after = np.asarray(train_step(state, None)[0].local.memory.priorities.leaves).reshape(4, -1)
    before = np.asarray(table.leaves).reshape(4, -1)
    assert (before[:, 10:] == 0).all()
    np.testing.assert_array_equal(after[:, 10], 3)
    assert (after[:, 11:] == 0).all()
    drawn = (after[:, :10] != before[:, :10]).sum()
    assert 0 < drawn <= PRIORITIZED.batch_size * PRIORITIZED.updates_per_step


# Errors.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 0}, "total_steps is 0; it must be at least 1"),
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"train_every": 0}, "train_every is 0; it must be at least 1"),
        ({"updates_per_step": 0}, "updates_per_step is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"n_step": 0}, "n_step is 0; it must be at least 1"),
        ({"frame_stack": 0}, "frame_stack is 0; it must be at least 1"),
        ({"epsilon_steps": 0}, "epsilon_steps is 0; it must be at least 1"),
        ({"target_every": 0}, "target_every is 0; it must be at least 1"),
        ({"evaluation_episodes": 0}, "evaluation_episodes is 0; it must be at least 1"),
        ({"huber_delta": -1.0}, "huber_delta is -1.0; it must be at least 0"),
        ({"munchausen": -0.9}, "munchausen is -0.9; it must be at least 0"),
        ({"truncation_spacing": -1}, "truncation_spacing is -1; it must be at least 0"),
        ({"evaluation_steps": -1}, "evaluation_steps is -1; it must be at least 0"),
        ({"learning_starts": -1}, "learning_starts is -1; it must be at least 0"),
        ({"priority_exponent": -0.5}, "priority_exponent is -0.5; it must be at least 0"),
        ({"discount": 1.5}, "discount is 1.5; it must be between 0 and 1"),
        ({"discount": float("nan")}, "discount is nan; it must be between 0 and 1"),
        ({"epsilon_start": 2.0}, "epsilon_start is 2.0; it must be between 0 and 1"),
        ({"epsilon_end": -0.1}, "epsilon_end is -0.1; it must be between 0 and 1"),
        ({"target_rate": 2.0}, "target_rate is 2.0; it must be between 0 and 1"),
        ({"importance_exponent": 2.0}, "importance_exponent is 2.0; it must be between 0 and 1"),
        ({"epsilon": "exponential", "epsilon_end": 0.0}, "epsilon_end is 0.0; .* try 0.01"),
        ({"epsilon": "exponential", "epsilon_start": 0.0}, "epsilon_start is 0.0; .* try"),
        ({"epsilon": "cosine"}, "epsilon is 'cosine'; it must be one of linear, exponential"),
        ({"storage": "bytes"}, "storage is 'bytes'; it must be one of auto, bits, dtype"),
        ({"munchausen": 0.9, "munchausen_temperature": 0.0}, "munchausen_temperature is 0.0; it must be above 0"),
        ({"munchausen": 0.9, "munchausen_minimum": 1.0}, "munchausen_minimum is 1.0; it must be at most 0"),
        ({"capacity": 4}, "capacity is 4, less than a batch of 8; raise capacity or lower batch_size"),
        ({"train_every": 10}, "train_every is 10, not divisible by the 4 of num_envs; choose a multiple of 4"),
        ({"learning_starts": 0, "batch_size": 32}, "learning_starts is 0: too few .* batch of 32; choose 36 or more"),
        ({"total_steps": 40}, r"total_steps is 40, all of them before learning_starts \(40\)"),
        ({"distribution": "normal"}, "distribution is 'normal'; it must be one of none, categorical, quantile"),
        ({"torso": "nature"}, "observations of shape .* do not fit the nature torso"),
        ({"optimizer": dqn.Optimizer("adamm")}, "optimizer.name is 'adamm'.* did you mean adam"),
        ({"optimizer": dqn.Optimizer(schedule="cosin")}, "optimizer.schedule is 'cosin'"),  # type: ignore[arg-type]
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_with_is_told_in_a_line_before_anything_compiles(
    changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with jax.log_compiles(), pytest.raises(ValueError, match=message) as told:
        dqn.make(changed(**changes), Chain())
    assert "\n" not in str(told.value)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
