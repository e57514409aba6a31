import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxai import dqn, population
from jaxai.dqn.environment import Environment
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.experiments.qlearning.sweep import Grid, Sweep, _table, ranking
from jaxai.runtime.config import Run, from_dict, to_dict
from jaxai.runtime.run_folder import RunFolder

WORKLOAD = dqn.Config(
    hidden=(8,),
    total_steps=36 + 24 * 4,
    num_envs=4,
    train_every=4,
    learning_starts=36,
    batch_size=16,
    capacity=256,
    target_every=16,
    epsilon_steps=200,
    evaluation_episodes=4,
    optimizer=dqn.Optimizer(learning_rate=1e-2),
)
RATES, DISCOUNTS = (1e-2, 1e30), (0.5, 0.9)


def sweep(workdir, grid, workload=WORKLOAD, **run):
    settings = {"workdir": str(workdir), "mode": "shard_map", "devices": 1, "steps_per_call": 4, "evaluate_every": 8}
    return Sweep(workload, Environment("Catch-bsuite"), run=Run(**settings | run), grid=grid)


def quiet():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """2 learning rates, one of which diverges, x 2 discounts x 2 seeds."""
    workdir = tmp_path_factory.mktemp("sweep") / "run"
    console = quiet()
    outcome = sweep(workdir, Grid(learning_rate=RATES, discount=DISCOUNTS), seeds=2, devices=2).bind().train(console)
    return workdir, outcome, console.file.getvalue()


def test_every_combination_is_trained_and_ranked(swept):
    workdir, outcome, text = swept
    rows = json.loads((workdir / "sweep.json").read_text())
    assert {(row["learning_rate"], row["discount"]) for row in rows} == {(a, b) for a in RATES for b in DISCOUNTS}
    scores = np.array([np.nan if score is None else score for score in outcome.result["return_per_seed"]])
    settings = [(a, b) for a in RATES for b in DISCOUNTS]
    for row in rows:
        own = scores.reshape(4, 2)[settings.index((row["learning_rate"], row["discount"]))]
        assert row["return_per_seed"] == [None if np.isnan(score) else score for score in own]
    stable = [row for row in rows if not row["diverged"]]
    assert rows[: len(stable)] == stable == sorted(stable, key=lambda row: -row["return_mean"])
    assert (workdir / "pictures" / "sweep.png").stat().st_size > 0
    assert list(json.loads((workdir / "pictures" / "captions.json").read_text())) == ["sweep.png"]
    assert "The best 4 of 4 settings" in text
    assert (outcome.result["seeds"], outcome.result["env_steps"]) == (2, WORKLOAD.total_steps)


def test_a_setting_that_diverges_is_told_and_stops_no_other(swept):
    workdir, outcome, _ = swept
    for row in json.loads((workdir / "sweep.json").read_text()):
        diverges = row["learning_rate"] == 1e30
        assert row["diverged"] == (2 if diverges else 0)
        assert (row["return_mean"] is None) == diverges
    lines = RunFolder(workdir).lines("metrics.jsonl")
    last = [line for line in lines if "loss" in line][-1]
    assert last["diverged_per_seed"] == [0] * 4 + [1] * 4
    assert last["diverged"] == 0.5
    assert all(loss > 0 for loss in last["loss_per_seed"][:4])
    assert outcome.result["return_per_seed"][4:] == [None] * 4
    finite = [score for score in outcome.result["return_per_seed"] if score is not None]
    assert outcome.result["return_mean"] == pytest.approx(np.mean(finite))
    for name in ("metrics.jsonl", "result.json", "sweep.json"):
        assert "NaN" not in (workdir / name).read_text()


def test_evaluate_of_a_sweep_with_a_diverged_setting_is_json(swept):
    workdir, outcome, _ = swept
    found = RunFolder(workdir).load_config().of_run().evaluate(quiet(), "latest", WORKLOAD.evaluation_episodes)
    assert json.loads(json.dumps(found, allow_nan=False))["return_per_seed"] == outcome.result["return_per_seed"]


def test_a_member_equals_the_single_run_with_its_settings(swept, tmp_path):
    workload = dataclasses.replace(WORKLOAD, discount=0.9, optimizer=dqn.Optimizer(learning_rate=1e-2))
    run = Run(workdir=str(tmp_path / "run"), mode="shard_map", devices=1)
    one = Experiment(workload, Environment("Catch-bsuite"), run=run)
    workload = one.of_run().make()
    state, step = jax.jit(workload.init)(jax.random.key(1)), jax.jit(workload.train_step)
    for _ in range(one.workload.train_steps):
        state, _ = step(state, None)
    whole = RunFolder(swept[0]).load_config()
    member = population.member_of(
        whole.of_run().restore("latest"), whole.settings.index({"learning_rate": 1e-2, "discount": 0.9}) * 2 + 1
    )
    for name in ("params", "opt_state", "extra"):
        expected, got = (jax.tree.leaves(getattr(each, name)) for each in (state, member))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(member.local), jax.tree.leaves(state.local), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_single_setting_of_one_seed_is_trained_with_it_and_not_with_the_presets():
    workload = sweep("", Grid(learning_rate=(3e-3,), discount=(0.25,))).of_run().make()
    state = jax.jit(workload.init)(jax.random.key(0))
    hyperparameters = population.member_of(state, 0).extra["hyperparameters"]
    assert (float(hyperparameters.learning_rate), float(hyperparameters.discount)) == (np.float32(3e-3), 0.25)
    assert float(hyperparameters.epsilon_end) == np.float32(0.05)


def test_ranking_has_the_best_mean_first_and_diverged_settings_last():
    settings = [{"discount": value} for value in (0.1, 0.2, 0.3, 0.4)]
    scores = np.array([[1.0, 3.0], [np.nan, 9.0], [-4.0, -5.0], [np.nan, np.nan]])
    rows = ranking(settings, scores)
    assert [row["discount"] for row in rows] == [0.1, 0.3, 0.2, 0.4]
    assert [row["return_mean"] for row in rows] == [2.0, -4.5, 9.0, None]
    assert rows[0]["return_std"] == pytest.approx(np.std([1, 3], ddof=1))
    assert [row["return_std"] for row in rows[2:]] == [None, None]
    assert [row["diverged"] for row in rows] == [0, 0, 1, 2]
    assert rows[2]["return_per_seed"] == [None, 9.0]
    assert _table(rows, ["discount"]).row_count == 4
    assert _table(rows * 9, ["discount"]).row_count == 10


def test_a_sweep_is_saved_and_read_again():
    whole = sweep("runs/x", Grid(learning_rate=RATES, target_rate=(0.5,)), seeds=2)
    assert from_dict(json.loads(json.dumps(to_dict(whole)))) == whole
    assert len(whole.seeds) == 4
    assert whole.settings == [{"learning_rate": rate, "target_rate": 0.5} for rate in RATES]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(), "a sweep needs values to try, as --grid.learning-rate 1e-4 1e-3; one or more of"),
        (Grid(priority_exponent=(0.5, 0.6)), "priority_exponent has no effect without prioritized replay"),
        (Grid(importance_exponent=(0.5,)), "importance_exponent has no effect without prioritized replay"),
        (Grid(discount=(0.9, 1.5)), r"grid.discount is \(0.9, 1.5\); every value must be between 0 and 1"),
        (Grid(epsilon_steps=(0,)), r"grid.epsilon_steps is \(0,\); every value must be at least 1"),
        (Grid(discount=(0.9, 0.5, 0.9)), r"grid.discount is \(0.9, 0.5, 0.9\): a value is given twice"),
        (Grid(learning_rate=(1e-3, -1.0)), r"grid.learning_rate is \(0.001, -1.0\)"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_trained_is_refused_in_one_line(grid, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        sweep(tmp_path / "run", grid).bind().train(quiet())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_priorities_can_be_swept_where_replay_is_prioritized(tmp_path):
    prioritized = dataclasses.replace(WORKLOAD, prioritized=True)
    sweep(tmp_path, Grid(priority_exponent=(0.0, 0.6), importance_exponent=(0.4, 1.0)), prioritized).check()
