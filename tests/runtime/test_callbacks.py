"""Callbacks and measures run between calls; see also `signal_at` in conftest.py, which other tests use."""

import io
import json
import re
import sys
import types

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxai
from jaxai.runtime.callbacks import CallbackError
from jaxai.runtime.run_folder import RunFolder
from tests.runtime.logistic import TESTED, data, make

STEPS, EVERY = 16, 8
METRIC = jaxai.Metric
TEST = data(TESTED, seed=1)


def train(workdir, **options):
    console = Console(file=io.StringIO(), width=300)
    defaults = {"steps": STEPS, "batch_size": 16, "evaluate_on": TEST, "devices": 1, "seed": 0}
    defaults |= {"steps_per_call": 4, "evaluate_every": EVERY, "mode": "shard_map"}
    outcome = jaxai.train(make, data(), workdir=workdir, console=console, **defaults | options)
    return outcome, console.file.getvalue()


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_each_call_and_each_evaluation_is_reported_with_its_metrics_and_a_state_to_read(tmp_path, mode):
    seen = []

    def callback(step, metrics, state):
        assert int(state.step) == step
        seen.append({"step": step, **metrics, "norm": float(np.abs(state.params["w"]).sum())})

    train(tmp_path / "run", mode=mode, devices=2, callbacks=[callback])
    lines = RunFolder(tmp_path / "run").lines("metrics.jsonl")
    assert [line.keys() for line in lines] == [line.keys() - {"norm"} for line in seen]
    assert ["loss" in line for line in seen] == [True, True, False, True, True, False]
    for line, reported in zip(lines, seen, strict=True):
        assert {name: pytest.approx(value, rel=1e-6) for name, value in line.items()} == {
            name: reported[name] for name in line
        }
    assert seen[1]["norm"] == seen[2]["norm"] > seen[0]["norm"] > 0


def test_callbacks_change_no_bit(tmp_path):
    plain, _ = train(tmp_path / "plain")
    other, _ = train(tmp_path / "other", callbacks=[lambda step, metrics, state: None])
    assert (tmp_path / "plain/metrics.jsonl").read_bytes() == (tmp_path / "other/metrics.jsonl").read_bytes()
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), plain.state.params, other.state.params)))


def stop_at(step):
    def stopping_rule(current, metrics, state):
        return "stop" if current >= step and "loss" in metrics else None

    return stopping_rule


def test_a_stop_ends_the_run_with_a_result_and_stays_until_it_is_lifted(tmp_path):
    outcome, _ = train(tmp_path / "run", callbacks=[stop_at(12)])
    assert (outcome.result["steps"], outcome.interrupted) == (12, "")
    assert "stopping_rule" in outcome.stopped_by
    assert outcome.result["stopped_by"] == outcome.stopped_by
    assert outcome.history["evaluation_step"].tolist() == [8, 12]
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    again, text = train(tmp_path / "run")
    assert again.result == outcome.result
    assert "stopping_rule stopped this run at step 12 of 16" in text
    assert "resume_with_changes" in text
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    rest, _ = train(tmp_path / "run", resume_with_changes=True)
    assert (rest.result["steps"], rest.stopped_by) == (STEPS, "")
    assert "stopped_by" not in rest.result
    assert not (tmp_path / "run/stopped.json").exists()


def test_a_stop_at_an_evaluation_is_no_further_evaluation(tmp_path):
    outcome, _ = train(
        tmp_path / "run", callbacks=[lambda step, metrics, state: "stop" if "test_loss" in metrics else None]
    )
    assert outcome.result["steps"] == EVERY
    assert outcome.history["evaluation_step"].tolist() == [EVERY]
    assert "<lambda> (test_callbacks.py:" in outcome.stopped_by


def test_a_failing_callback_ends_the_run_with_everything_saved_and_is_named(tmp_path):
    whole, _ = train(tmp_path / "whole")
    losses = []

    def collect(step, metrics, state):
        losses.append(metrics["loss"])  # which an evaluation has not

    with pytest.raises(CallbackError) as error:
        train(tmp_path / "run", callbacks=[collect])
    message = str(error.value)
    assert message.startswith("callback test_a_failing_callback")
    assert "collect failed at step 8: KeyError: 'loss'" in message
    assert "(its metrics were epoch, test_accuracy, test_loss)" in message
    assert message.endswith("step 8 is saved, and the same command continues from there")
    assert isinstance(error.value.__cause__, KeyError)
    assert len(losses) == 2
    rest, text = train(tmp_path / "run")
    assert f"continuing at step 8 of {STEPS}" in text
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert rest.result["test_loss"] == whole.result["test_loss"]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (print, "callbacks is print; expected a list of functions (step, metrics, state)"),
        (3, "callbacks is 3; expected a list of functions"),
        ([None], "callbacks has None; expected functions (step, metrics, state)"),
        ([lambda step: None], "takes (step); expected (step, metrics, state)"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_written(tmp_path, callbacks, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_an_answer_that_is_neither_none_nor_stop_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"returned True at step 4; expected None or 'stop'; step 4 is saved"):
        train(tmp_path / "run", callbacks=[lambda step, metrics, state: True])


def test_weights_and_biases_gets_every_line(tmp_path, monkeypatch):
    logged = []
    wandb = types.SimpleNamespace(log=lambda values, step: logged.append({"step": step, **values}))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    import wandb

    train(tmp_path / "run", callbacks=[lambda step, metrics, state: wandb.log(dict(metrics), step=step)])
    assert [line["step"] for line in logged] == [4, 8, 8, 12, 16, 16]
    assert json.dumps(logged)  # plain numbers


def weight_norm(state):
    return {"weight_norm": np.abs(state.params["w"]).sum()}


def test_a_measure_adds_to_the_evaluation_the_callbacks_the_history_and_the_report(tmp_path, jaxai):
    seen = []
    metrics = {"weight_norm": METRIC("norm of the weights", better="lower")}
    outcome, text = train(
        tmp_path / "run",
        measures=[weight_norm],
        metrics=metrics,
        score="weight_norm",
        callbacks=[lambda step, metrics, state: seen.append(metrics.get("weight_norm"))],
    )
    norms = outcome.history["weight_norm"]
    assert norms[-1] == pytest.approx(weight_norm(outcome.state)["weight_norm"], rel=1e-6)
    assert [value for value in seen if value is not None] == pytest.approx(norms.tolist(), rel=1e-6)
    assert outcome.result["best_weight_norm"] == norms.min()
    assert "norm of the weights" in text
    assert jaxai("report", tmp_path / "run")[0] == 0
    assert "orm of the weights" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda state: 3, "AttributeError: 'int' object has no attribute 'items'; it must return {name: number}"),
        (lambda state: {"test_loss": 1.0}, "returned test_loss at step 8, which is the name of another metric"),
        (lambda state: {"a": "b"}, "failed at step 8: ValueError"),
    ],
)
def test_a_measure_that_fails_is_named_and_everything_is_saved(tmp_path, measure, message):
    with pytest.raises(CallbackError) as error:
        train(tmp_path / "run", measures=[measure])
    assert message in str(error.value)
    assert str(error.value).endswith("step 8 is saved, and the same command continues from there")
