"""One diverging seed stops no other: it is named, counts in no figure, and is neither played nor picked."""

import io
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai.experiments.qlearning.bound import Bound
from jaxai.runtime import parallel
from jaxai.runtime.run_folder import RunFolder
from tests.dqn.test_experiment import experiment


def diverging(monkeypatch, members):
    """These members, of the seeds of a run, are given a learning rate that is no number."""

    def prepare(self, state):
        hyperparameters = state.extra["hyperparameters"]
        rates = hyperparameters.learning_rate.at[jnp.array(members)].set(jnp.nan)
        return state.replace(extra=state.extra | {"hyperparameters": hyperparameters.replace(learning_rate=rates)})

    monkeypatch.setattr(Bound, "_with_settings", prepare)


def train(workdir, monkeypatch, members):
    console = Console(file=io.StringIO(), width=200)
    with monkeypatch.context() as patch:
        diverging(patch, members)
        patch.setattr(Bound, "draw", lambda *_: None)
        outcome = experiment(workdir, seeds=3).bind().train(console)
    return outcome, console.file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("diverging") / "run"
    with pytest.MonkeyPatch.context() as patch:
        return workdir, *train(workdir, patch, [1])


def test_the_others_go_on_and_the_figures_are_over_them(run):
    workdir, outcome, text = run
    first, lost, last = outcome.result["return_per_seed"]
    assert lost is None
    assert outcome.result["return_mean"] == pytest.approx((first + last) / 2)
    assert outcome.result["diverged"] == 1
    said = "1 of 3 trainings diverged (seed 1): the others continue, and means are over them"
    assert text.count(said) == 1
    assert [line["warning"] for line in RunFolder(workdir).lines("warnings.jsonl")] == [said]
    assert "NaN" not in (workdir / "metrics.jsonl").read_text()


def test_a_diverged_training_is_neither_played_nor_picked(run, jaxai, tmp_path):
    workdir = run[0]
    code, _, err = jaxai("play", workdir, "--member", "1", "--output", tmp_path / "no.gif")
    assert (code, err) == (2, "jaxai: --member is 1 (seed 1), which diverged; choose one of 0, 2\n")
    assert not (tmp_path / "no.gif").exists()
    code, out, _ = jaxai("play", workdir, "--checkpoint", "latest", "--output", tmp_path / "yes.gif")
    assert code == 0
    assert re.search(r"\(training [02]\)", out)
    code, _, _ = jaxai("evaluate", workdir, "--episodes", "5")
    found = json.loads((workdir / "evaluation.json").read_text())
    assert (code, found["episodes_per_seed"], found["return_per_seed"][1]) == (0, 5, None)
    assert found["return_mean"] == pytest.approx(np.mean([found["return_per_seed"][i] for i in (0, 2)]))


def test_where_all_diverge_training_stops_in_a_line_with_1(jaxai, monkeypatch, tmp_path):
    diverging(monkeypatch, [0, 1, 2])
    monkeypatch.setattr(parallel, "use_cpu_devices", lambda *_: None)
    preset = tmp_path / "toy.py"
    preset.write_text("from tests.dqn.test_experiment import experiment\nconfig = experiment('', seeds=3)\n")
    code, _, err = jaxai("train", preset, "--workdir", tmp_path / "run")
    assert code == 1
    assert re.fullmatch(r"jaxai: all 3 trainings diverged by step \d+; lower the learning rate, or train one .*\n", err)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("episodes", [0, -3])
def test_no_episodes_are_refused(run, jaxai, episodes):
    code, _, err = jaxai("evaluate", run[0], "--episodes", episodes)
    assert (code, err) == (2, f"jaxai: --episodes is {episodes}; it must be at least 1\n")
