import dataclasses
import io
import json
import signal
import time
import types
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai import cnn
from jaxai.core import Metric, State, Workload
from jaxai.data import Data, load
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.parallel import NONFINITE
from jaxai.runtime.recorder import Machine, Recorder
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Log, Program, Scoring, Training, position_in_epochs

EXAMPLES, BATCH, TESTED = 80, 8, 30
EPOCH = EXAMPLES // BATCH
ACCURACY = {"accuracy": Metric("accuracy", "%", better="higher")}


@pytest.fixture(scope="module")
def images():
    return load(Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=EXAMPLES, test_examples=TESTED))


def experiment(workdir, learning_rate=1e-2, epochs=2.0, batch_size=BATCH, **run):
    optimizer = cnn.Optimizer(learning_rate=learning_rate)
    return Experiment(
        workload=cnn.Config(architecture="mlp", width=8, depth=1, dropout=0.2, ema_decay=0.9, optimizer=optimizer),
        epochs=epochs,
        batch_size=batch_size,
        run=Run(**{"workdir": str(workdir), "devices": 1, "steps_per_call": 5} | run),
    )


def train(images, workdir, **settings):
    console = Console(file=io.StringIO(), width=200)
    bound = experiment(workdir, **settings).bind(images)
    return fit(bound.training(), bound.config, console), console.file.getvalue()


def arrays(state):
    return state.replace(key=jax.random.key_data(state.key))


def assert_same_bits(one, other):
    chex.assert_trees_all_equal(arrays(one.state), arrays(other.state))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    console = Console(file=io.StringIO(), width=200)
    return workdir, experiment(workdir).bind(images, console).train(console), console.file.getvalue()


def test_run_folder_holds_what_is_promised(finished):
    workdir, outcome, _ = finished
    names = {path.name for path in workdir.iterdir()}
    files = {"config.json", "command.txt", "environment.json", "metrics.jsonl", "timing.jsonl", "result.json"}
    files |= {"data.json", "metrics.json", "README.md"}
    assert names == files | {"checkpoints", "pictures"}
    assert (workdir / "pictures" / "confusion_matrix.png").stat().st_size > 0
    assert json.loads((workdir / "environment.json").read_text())["versions"]["jax"] == jax.__version__
    result = json.loads((workdir / "result.json").read_text())
    assert result == outcome.result
    assert result["steps"] == 2 * EPOCH
    assert 0 <= result["test_accuracy"] <= 1
    assert result["examples_per_second_per_chip"] > 0
    assert result["seconds"] > result["compile_seconds"] > 0
    assert sorted(int(path.name) for path in (workdir / "checkpoints" / "latest").iterdir()) == [EPOCH, 2 * EPOCH]


def test_metrics_have_a_line_for_each_call_and_evaluation_and_nothing_of_the_clock(finished):
    lines = RunFolder(finished[0]).lines("metrics.jsonl")
    calls = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "test_accuracy" in line]
    assert [line["step"] for line in calls] == [5, 10, 15, 20]
    assert [line["step"] for line in evaluations] == [10, 20]
    assert all(line["epoch"] == line["step"] / EPOCH for line in lines)
    assert all(line.keys() == {"step", "epoch", "loss", "accuracy", "grad_norm", "learning_rate"} for line in calls)
    assert all(
        line.keys() == {"step", "epoch", "test_loss", "test_accuracy", "test_top5_accuracy"} for line in evaluations
    )
    timing = RunFolder(finished[0]).lines("timing.jsonl")
    assert [line["step"] for line in timing] == [5, 10, 15, 20]
    assert all(0 <= line["data_wait"] <= 1 and line["examples_per_second_per_chip"] > 0 for line in timing)


def test_reported_accuracy_is_that_of_the_returned_state_counted_by_hand(finished, images):
    workdir, outcome, _ = finished
    predict = cnn.make_predict(experiment(workdir).resolve(images).workload)
    right = np.asarray(predict(outcome.state, images.test["image"])).argmax(-1) == images.test["label"]
    assert outcome.result["test_accuracy"] == pytest.approx(right.sum() / TESTED)


def test_output_tells_the_model_the_compilation_and_the_speed(finished):
    _, outcome, text = finished
    parameters = sum(leaf.size for leaf in jax.tree.leaves(outcome.state.params))
    assert f" {parameters:,} " in text
    assert "compiled in" in text
    assert "examples/s/chip" in text
    assert "data wait" in text
    assert "MFU" not in text


def test_finished_run_started_again_changes_no_metrics(finished, images):
    workdir, outcome, _ = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    again, _ = train(images, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert again.result["test_accuracy"] == outcome.result["test_accuracy"]
    assert_same_bits(again, outcome)


@pytest.mark.parametrize("settings", [{"steps_per_call": 2}, {"placement": "host"}], ids=str)
def test_neither_the_split_into_calls_nor_the_placement_changes_a_bit(finished, images, tmp_path, settings):
    workdir, outcome, _ = finished
    other, _ = train(images, tmp_path / "run", **settings)
    assert_same_bits(other, outcome)
    if "placement" in settings:
        assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()


def test_single_steps_end_where_calls_of_five_do(finished, images, tmp_path):
    other, _ = train(images, tmp_path / "run", steps_per_call=1)
    chex.assert_trees_all_close(arrays(other.state), arrays(finished[1].state), rtol=1e-5, atol=1e-6)
    singles = [line for line in RunFolder(tmp_path / "run").lines("metrics.jsonl") if "loss" in line]
    fives = [line for line in RunFolder(finished[0]).lines("metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in singles] == list(range(1, 2 * EPOCH + 1))
    means = np.mean([line["loss"] for line in singles[:5]])
    assert means == pytest.approx(fives[0]["loss"], rel=1e-5)


@dataclass(frozen=True)
class Line:
    """A configuration as `fit` takes one, of a workload that compiles in no time."""

    changes = None  # every field may change
    run: Run
    slope: float = 2.0


def fit_line(workdir, slope=2.0, steps=9 * EPOCH, callbacks=(), **run):
    """Fits y = slope * x; its score is 1/3 at every evaluation."""
    x = np.linspace(-1, 1, EXAMPLES, dtype=np.float32)

    def make(axis_name):
        def train_step(state, batch):
            loss, grad = jax.value_and_grad(lambda w: jnp.mean((w * batch["x"] - batch["y"]) ** 2))(state.params)
            return state.replace(step=state.step + 1, params=state.params - 0.1 * grad), {"loss": loss}

        return Workload(
            lambda key: State(jnp.int32(0), jnp.zeros(()), (), key),
            train_step,
            lambda state, batch: {"accuracy": batch["mask"].sum() / 3, "count": batch["mask"].sum()},
        )

    training = Training(
        Program(make),
        steps,
        Examples({"x": x, "y": slope * x}, BATCH),
        Scoring(EPOCH, "test_accuracy", splits={"test": {"x": x[:TESTED]}}),
        Log(position=position_in_epochs(EPOCH)),
        metrics=ACCURACY,
    )
    console = Console(file=io.StringIO(), width=200)
    config = Line(Run(**{"workdir": str(workdir), "devices": 1, "steps_per_call": 5} | run), slope)
    return fit(training, config, console, callbacks), console.file.getvalue()


def test_early_stopping_stops_after_its_patience_and_stays_stopped(tmp_path):
    outcome, _ = fit_line(tmp_path / "run", early_stopping=3)
    assert outcome.interrupted == ""
    assert outcome.result["steps"] == (1 + 3) * EPOCH
    assert outcome.result["best_step"] == EPOCH
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again, _ = fit_line(tmp_path / "run", early_stopping=3)
    assert again.result["steps"] == 4 * EPOCH
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_ends_a_run_with_everything_saved_and_patience_goes_on_counting(tmp_path, signal_at, name):
    whole, _ = fit_line(tmp_path / "whole", early_stopping=3)
    handler = signal.getsignal(signal.Signals[name])
    callbacks = [signal_at("test_accuracy", 2, name)]
    first, text = fit_line(tmp_path / "run", early_stopping=3, callbacks=callbacks)
    assert signal.getsignal(signal.Signals[name]) == handler
    assert first.interrupted == name
    assert f"{name}: saved at step {2 * EPOCH}" in text
    assert not (tmp_path / "run" / "result.json").exists()
    rest, text = fit_line(tmp_path / "run", early_stopping=3)
    assert f"continuing at step {2 * EPOCH} of {9 * EPOCH}" in text
    assert rest.result["steps"] == (1 + 3) * EPOCH
    assert rest.result["best_step"] == EPOCH
    assert_same_bits(rest, whole)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_best_checkpoint_stays_at_the_best_evaluation(tmp_path):
    fit_line(tmp_path / "run", steps=5 * EPOCH)
    saved = {
        which: {path.name for path in (tmp_path / "run/checkpoints" / which).iterdir()} for which in ("best", "latest")
    }
    assert saved == {"best": {str(EPOCH)}, "latest": {str(4 * EPOCH), str(5 * EPOCH)}}


def recorder(folder):
    class Silent:
        def print_line(self, line):
            pass

        def evaluation(self, step, metrics):
            pass

        def training(self, step, values, timing):
            pass

    training = Training(None, 20, None, Scoring(10, "test_accuracy"), Log(units_per_step=8), metrics=ACCURACY)
    return Recorder(RunFolder(folder), training, Machine(1, 1.0, None), Silent(), time.monotonic())


def test_an_equal_score_after_a_resume_is_no_better(tmp_path):
    # 1/3 as nine digits is less than 1/3.
    recorder(tmp_path).evaluated(10, {"test_accuracy": 1 / 3})
    resumed = recorder(tmp_path)
    resumed.evaluated(20, {"test_accuracy": 1 / 3})
    assert not resumed.improved(20)
    assert resumed.stale(1)


def test_a_wait_for_data_counts_in_the_call_during_which_it_passed(tmp_path, monkeypatch):
    made = recorder(tmp_path)
    now = 100.0
    monkeypatch.setattr("jaxai.runtime.recorder.time", types.SimpleNamespace(monotonic=lambda: now))
    made.compiled("a chip")
    for step, waited, then in ((5, 1.0, 2.0), (10, 3.0, 1.0)):
        now += waited
        made.submit(step, 5, {"loss": np.zeros(5), NONFINITE: np.int32(-1)}, waited)
        now += then
    made.flush()
    # The first call lasts from 100 s to the end of the second's wait at 106 s, of which 1 + 3 s were waited.
    timing = RunFolder(tmp_path).lines("timing.jsonl")
    assert [line["seconds"] for line in timing] == [6.0, 1.0]
    assert [line["data_wait"] for line in timing] == pytest.approx([4 / 6, 0.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0.0}, "epochs is 0.0; it must be above 0"),
        ({"batch_size": EXAMPLES + 1}, f"batch_size is {EXAMPLES + 1}; expected 1 to {EXAMPLES}"),
        ({"devices": 9}, "devices is 9; this machine has 8"),
        ({"devices": 0}, "devices is 0; it must be at least 1"),
        ({"devices": 3}, "a batch of 8 does not divide over 3 devices"),
        ({"devices": 3, "placement": "host"}, "a batch of 8 does not divide over 3 devices"),
        ({"steps_per_call": -1}, "steps_per_call is -1"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_in_one_line_and_leaves_no_run_behind(images, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        train(images, tmp_path / "run", **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_changed_configuration_is_refused_and_goes_on_with_the_flag(tmp_path):
    fit_line(tmp_path / "run", steps=EPOCH)
    with pytest.raises(ValueError, match="--resume-with-changes") as error:
        fit_line(tmp_path / "run", slope=3.0)
    assert "slope: 2.0 -> 3.0" in str(error.value)
    outcome, _ = fit_line(tmp_path / "run", slope=3.0, steps=2 * EPOCH, resume_with_changes=True)
    assert outcome.result["steps"] == 2 * EPOCH


def test_an_experiment_says_what_is_written_down_of_arrays_and_of_a_workload_without_data(tmp_path):
    """Four members that count steps; the lines, the result and the model table are what the hooks make of them."""

    def train_step(state, batch):
        assert batch is None
        metrics = {"score": state.local + state.step, "loss": state.step * 1.0}
        return state.replace(step=state.step + 1), metrics

    training = Training(
        Program(
            lambda axis_name: Workload(
                lambda key: State(jnp.int32(0), {}, (), key, local=jnp.arange(4.0)),
                train_step,
                lambda state, batch: {"score": 2 * state.local, "count": jnp.full_like(state.local, 2)},
            ),
            steps_per_call=2,
            divided={"members of a program:": 4},
            parameters=lambda state: {"counter": state.local[0]},
        ),
        steps=6,
        data=None,
        scoring=Scoring(4, "evaluation_score", splits={"evaluation": None}),
        log=Log(
            position=lambda step: {"env_steps": 100 + 10 * step},
            unit="env_steps",
            units_per_step=10,
            describe=lambda metrics, steps: {"members": metrics["score"].tolist(), "steps": steps},
            describe_evaluation=lambda metrics: {"evaluation_score": float(metrics["evaluation_score"].max())},
            summarize=lambda result, lines: {"best": result["best_evaluation_score"], "lines": len(lines)},
        ),
        metrics={"score": Metric("score", better="higher")},
    )
    console = Console(file=io.StringIO(), width=200)
    run = Run(workdir=str(tmp_path / "run"), devices=2, mode="shard_map")
    outcome = fit(training, Line(run), console)
    calls = [[(0, 1), (2, 3)], [(4, 5)]]
    expected = []
    for epoch in calls:
        for call in epoch:
            step = call[-1] + 1
            values = [member + sum(call) / 2 for member in range(4)]
            expected.append({"step": step, "env_steps": 100 + 10 * step, "members": values, "steps": 2})
        expected.append({"step": step, "env_steps": 100 + 10 * step, "evaluation_score": 3.0})
    assert RunFolder(run.workdir).lines("metrics.jsonl") == expected
    assert {"best": 3.0, "lines": 5, "steps": 6, "devices": 2}.items() <= outcome.result.items()
    timing = RunFolder(run.workdir).lines("timing.jsonl")
    assert [line["step"] for line in timing] == [2, 4, 6]
    assert all(line["env_steps_per_second_per_chip"] * line["seconds"] == pytest.approx(20) for line in timing)
    assert "counter" in console.file.getvalue()
    with pytest.raises(ValueError, match="members of a program: 4 does not divide over 3 devices"):
        fit(training, Line(dataclasses.replace(run, workdir=str(tmp_path / "other"), devices=3)), console)
    assert not (tmp_path / "other").exists()


def test_full_batch_is_one_step_an_epoch(images, tmp_path):
    training = experiment(tmp_path / "run", batch_size=0, epochs=3.0).bind(images).training()
    assert (training.steps, training.batch_size, training.scoring.every) == (3, EXAMPLES, 1)


def test_validation_decides_on_the_best_where_there_is_one(images, tmp_path):
    training = experiment(tmp_path / "run").bind(images).training()
    assert (training.scoring.score, set(training.scoring.splits)) == ("test_accuracy", {"test"})
    held_out = dataclasses.replace(images, validation={name: array[:20] for name, array in images.train.items()})
    training = experiment(tmp_path / "run").bind(held_out).training()
    assert (training.scoring.score, set(training.scoring.splits)) == ("validation_accuracy", {"validation", "test"})


def events(folder):
    """(step, tag) -> value, from TFRecord files: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in folder.glob("events.out.tfevents.*"):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            at += length + 16
    return found


def test_tensorboard_gets_what_the_lines_have(tmp_path):
    fit_line(tmp_path / "run", steps=EPOCH, tensorboard=True)
    found = events(tmp_path / "run" / "tensorboard")
    lines = RunFolder(tmp_path / "run").lines("metrics.jsonl")
    assert len(lines) > 1
    for line in lines:
        for name in line.keys() & {"loss", "test_accuracy"}:
            assert found[line["step"], name] == pytest.approx(line[name])
