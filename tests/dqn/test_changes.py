"""A run of deep Q-learning that goes on with changes: each is applied to the state that was saved, or refused."""

import dataclasses
import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai import dqn
from jaxai.dqn import priorities
from jaxai.dqn.environment import Environment, make_environment
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.experiments.qlearning.sweep import Grid, Sweep
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder

ENVS, WARMUP, STEPS, MORE = 4, 36, 8, 4
WORKLOAD = dqn.Config(
    hidden=(8,),
    total_steps=WARMUP + STEPS * ENVS,
    num_envs=ENVS,
    train_every=ENVS,
    learning_starts=WARMUP,
    batch_size=16,
    capacity=256,
    target_every=8,
    epsilon_start=0.5,
    epsilon_steps=200,
    evaluation_episodes=4,
    prioritized=True,
    optimizer=dqn.Optimizer(learning_rate=1e-2),
)
CHANGED = {
    "discount": 0.5,
    "epsilon_start": 0.25,
    "epsilon_end": 0.125,
    "epsilon_steps": 100,
    "target_rate": 0.75,
    "priority_exponent": 0.3,
    "importance_exponent": 0.8,
}
LONGER = {"total_steps": WARMUP + (STEPS + MORE) * ENVS}


def experiment(workdir, workload=None, kind=Experiment, learning_rate=1e-2, grid=None, **run):
    workload = {"optimizer": dqn.Optimizer(learning_rate=learning_rate)} | (workload or {})
    run = {"workdir": str(workdir), "devices": 1, "steps_per_call": 4, "evaluate_every": 4, "mode": "shard_map"} | run
    grid = {} if grid is None else {"grid": grid}
    return kind(dataclasses.replace(WORKLOAD, **workload), Environment("Catch-bsuite"), run=Run(**run), **grid)


def train(workdir, **settings):
    """Without the pictures, which take longer than the training."""
    resolved, console = experiment(workdir, **settings), Console(file=io.StringIO(), width=300)
    return fit(resolved.bind().training(), resolved, console)


def saved(workdir):
    """The latest checkpoint, on one device."""
    resolved = RunFolder(workdir).load_config()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        run = dataclasses.replace(resolved.run, mode="jit")
        return restored_state(resolved.of_run().make(), run, parallel.make_mesh(1), checkpoints)


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_hyperparameters_are_those_of_the_new_configuration_from_the_saved_step_on(run):
    state = saved(run)
    old = state.extra["hyperparameters"]
    outcome = train(run, workload=CHANGED | LONGER, learning_rate=1e-3, resume_with_changes=True)
    # By hand: the same state with other numbers in it, and priorities of the same errors under the other exponent.
    numbers = {name: jnp.float32(value) for name, value in CHANGED.items()} | {"learning_rate": jnp.float32(1e-3)}
    memory = state.local.memory
    leaves = jnp.where(memory.priorities.leaves > 0, memory.priorities.leaves**0.5, 0)
    table = priorities.Priorities(leaves, leaves.sum(-1), memory.priorities.largest**0.5)
    state = state.replace(
        extra=state.extra | {"hyperparameters": old.replace(**numbers)},
        local=state.local.replace(memory=memory.replace(priorities=table)),
    )
    optimizer = dqn.Optimizer(learning_rate=1e-3)
    config = dataclasses.replace(WORKLOAD, **CHANGED, **LONGER, optimizer=optimizer)
    step = jax.jit(dqn.make(config, *make_environment(Environment("Catch-bsuite"))).train_step)
    for _ in range(MORE):
        state, _ = step(state, None)
    assert int(state.step) == int(outcome.state.step) == STEPS + MORE
    for name, value in numbers.items():
        assert getattr(outcome.state.extra["hyperparameters"], name) == value
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(outcome.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    last = [line for line in RunFolder(run).lines("metrics.jsonl") if "loss" in line][-1]
    assert last["learning_rate"] == pytest.approx(1e-3)


def test_state_of_a_run_that_goes_on_unchanged_is_the_same_bits(run):
    before = saved(run)
    outcome = train(run)
    data = (jax.random.key_data(state.key) for state in (before, outcome.state))
    assert np.array_equal(*data)
    for one, other in zip(
        jax.tree.leaves(before.replace(key=0)), jax.tree.leaves(outcome.state.replace(key=0)), strict=True
    ):
        assert np.array(one).tobytes() == np.array(other).tobytes()


def test_every_member_of_a_sweep_keeps_its_setting_and_takes_the_change(tmp_path):
    settings = {"kind": Sweep, "grid": Grid(discount=(0.9, 0.8)), "seeds": 2}
    state = jax.jit(experiment(tmp_path, **settings).of_run().make().init)(jax.random.key(0))
    state = jax.device_put(state, jax.devices()[0])
    before = state.local.local.memory.priorities.leaves
    changed = experiment(
        tmp_path, {"target_rate": 0.5, "priority_exponent": 0.3} | LONGER, learning_rate=1e-3, **settings
    )
    applied = changed.bind().training().storage.apply(state).local
    found = applied.extra["hyperparameters"]
    assert found.discount.tolist() == pytest.approx([0.9, 0.9, 0.8, 0.8])
    assert found.target_rate.tolist() == [0.5] * 4
    assert found.learning_rate.tolist() == pytest.approx([1e-3] * 4)
    assert found.epsilon_start.tolist() == [0.5] * 4
    expected = np.where(before > 0, np.asarray(before) ** 0.5, 0)
    np.testing.assert_allclose(applied.local.memory.priorities.leaves, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({"train_every": 8}, "workload.train_every: 4 -> 8 cannot change in a run that continues: the clock of the "),
        ({"learning_starts": 48}, "workload.learning_starts: 36 -> 48 cannot change"),
        ({"total_steps": 56}, "is at step 8, and this configuration ends at step 5"),
        ({"hidden": (16,)}, "workload.hidden"),
        ({"priority_exponent": 0.0}, "workload.priority_exponent: 0.6 -> 0.0 cannot change"),
    ],
    ids=str,
)
def test_refused_change_leaves_every_byte_as_it_was(run, workload, message):
    before = snapshot(run)
    with pytest.raises(ValueError, match=message) as error:
        train(run, workload=workload, resume_with_changes=True)
    assert "\n" not in str(error.value)
    assert snapshot(run) == before
    assert train(run).result["steps"] == STEPS


def test_priorities_of_another_exponent():
    errors = np.array([0.5, 2.0, 3.0, 0.0], np.float32)
    table = priorities.init(1, 4)
    for slot, error in enumerate(errors):
        table = priorities.set_slot(table, jnp.int32(slot), float(error) ** 0.6 if error else 0.0)
    raised = priorities.raised(table, 0.3 / 0.6)
    expected = np.where(errors > 0, errors**0.3, 0)
    np.testing.assert_allclose(raised.leaves.ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(raised.sums.ravel(), [expected.sum()], rtol=1e-5)
