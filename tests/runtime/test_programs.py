"""Short programs around the training loop, as a user writes them: each at most ten lines after its imports."""

import io
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxai
from jaxai import cnn, dqn, gan, seq2seq
from jaxai.data import Epochs
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.parallel import Setup
from tests.runtime.logistic import EXAMPLES, data, logits, make


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Relative folders of a program are in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def test_a_tracker_and_a_stopping_rule():
    tracked = []

    def track(step, metrics, state):
        tracked.append((step, dict(metrics)))

    def stop_when_good(step, metrics, state):
        return "stop" if metrics.get("test_accuracy", 0) > 0.9 else None

    outcome = jaxai.train(
        make, data(), steps=200, workdir="runs/mine", evaluate_on=data(20), callbacks=[track, stop_when_good]
    )
    assert outcome.stopped_by.endswith("stop_when_good")
    assert tracked[-1][1]["test_accuracy"] == outcome.result["test_accuracy"] > 0.9
    assert outcome.result["steps"] == tracked[-1][0] < 200


def test_a_workload_of_ones_own_resumes_is_reported_and_loaded(jaxai):
    import jaxai as package

    accuracy = {"accuracy": package.Metric("accuracy", "%", better="higher")}
    for steps in (20, 40):  # the second call continues the first
        outcome = package.train(
            make, data(), steps=steps, workdir="runs/mine", evaluate_on=data(20), metrics=accuracy,
            resume_with_changes=True,
        )  # fmt: skip
    run = package.load("runs/mine", "latest", workload=make)
    assert run.step == 40
    np.testing.assert_allclose(run.predict(data()["x"]), logits(outcome.state.params, data()["x"]), rtol=1e-5)
    assert jaxai("report", "runs/mine")[0] == 0


def loop(steps, workload, batch, folder="checkpoints"):
    """Trains to `steps` in a loop of one's own, which continues where it was killed."""
    step = jax.jit(workload.train_step, donate_argnums=0)
    with Checkpoints(folder) as checkpoints:
        state = workload.init(jax.random.key(0))
        state = checkpoints.restore(state) or state
        for i in range(int(state.step), steps):
            state, _ = step(state, batch(i))
            if i % 10 == 9:
                checkpoints.save(state)
    return state


def test_checkpoint_and_resume_in_a_loop_of_ones_own():
    workload, visited = make(), []

    def batch(i):
        visited.append(i)
        rows = np.random.default_rng(i).integers(0, EXAMPLES, 16)
        return {name: np.asarray(array[rows], {"x": np.float32, "y": np.int32}[name]) for name, array in data().items()}

    loop(25, workload, batch)
    resumed = loop(40, workload, batch)
    assert visited == [*range(25), *range(20, 40)]  # the last checkpoint was that of step 20
    whole = loop(40, workload, batch, "others")
    chex.assert_trees_all_equal(resumed.replace(key=0), whole.replace(key=0))


def test_in_a_notebook_progress_is_shown_and_the_history_can_be_plotted():
    console = Console(file=io.StringIO(), width=200)  # no terminal, as a notebook's output
    outcome = jaxai.train(make, data(), steps=40, workdir="runs/mine", evaluate_on=data(20), console=console)
    history = outcome.history
    assert history["loss"].shape == history["step"].shape
    assert history["test_loss"].shape == history["evaluation_step"].shape
    assert all(np.isfinite(values).all() and values.dtype.kind in "fi" for values in history.values())
    shown = console.file.getvalue()
    assert "loss" in shown.split("step 2/40")[1].splitlines()[0]
    assert "step 40/40" in shown


@pytest.mark.parametrize("workload", [cnn, gan, seq2seq, dqn])
def test_progress_shows_metrics_of_every_workload(workload):
    assert any(metric.shown for metric in workload.METRICS.values())


def recall_of_class(index, inputs, labels):
    def recall(state):
        found = np.asarray(logits(state.params, inputs)).argmax(-1)[labels == index] == index
        return {"recall": found.mean()}

    return recall


def test_a_metric_of_ones_own_selects_the_best_checkpoint_and_is_reported(jaxai):
    import jaxai as package

    held_out = data(20)
    outcome = package.train(
        make, data(), steps=40, workdir="runs/mine", evaluate_on=held_out, score="recall",
        measures=[recall_of_class(2, held_out["x"], held_out["y"])],
        metrics={"recall": package.Metric("recall of class 2", "%", better="higher")},
    )  # fmt: skip
    assert outcome.result["best_recall"] == outcome.history["recall"].max()
    assert jaxai("report", "runs/mine")[0] == 0
    assert "ecall of class 2" in Path("runs/mine/report.html").read_text()


def test_own_arrays_train_evaluate_and_resume_on_themselves_alone():
    from jaxai.data import arrays
    from jaxai.experiments.classification.experiment import Experiment
    from jaxai.runtime.config import Run

    random, quiet = np.random.default_rng(0), Console(file=io.StringIO(), width=200)
    x, y = random.integers(0, 256, (40, 4, 4, 1), np.uint8), np.arange(40, dtype=np.int32) % 3
    experiment = Experiment(cnn.Config(architecture="mlp", width=4), epochs=2.0, batch_size=8, run=Run("runs/mine"))
    bound = experiment.bind(arrays(x, y, x[:9], y[:9], classes=("cat", "dog", "eel")))
    outcome = bound.train(quiet, measures=[lambda state: {"biggest": max(map(jnp.max, jax.tree.leaves(state.params)))}])
    assert outcome.history["biggest"].shape == outcome.history["test_accuracy"].shape == (2,)
    assert bound.evaluate(which="latest")["test_accuracy"] == pytest.approx(outcome.result["test_accuracy"])
    assert bound.train(quiet).result == outcome.result
    with pytest.raises(ValueError, match="train data: other content"):
        experiment.bind(arrays(255 - x, y, x[:9], y[:9], classes=("cat", "dog", "eel"))).train(quiet)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_several_steps_per_call_with_the_data_on_the_device(mode):
    setup = Setup(mode, devices=2, steps_per_call=8)
    config = cnn.Config(architecture="mlp", width=4, image_shape=(4, 4, 1), num_classes=3)
    workload = cnn.make(config, setup.axis_name)
    call, state = setup.compile_step(workload.train_step), setup.place_state(workload.init(jax.random.key(0)))
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1), np.uint8)
    dataset = setup.place_dataset({"image": images, "label": np.arange(64, dtype=np.int32) % 3})
    order = Epochs(jax.random.key(0), examples=64, batch_size=16)
    for first in range(0, 40, 8):
        state, metrics = call(state, setup.place_batches(order.host_indices(first, 8)), dataset)
    assert int(state.step) == 40
    assert jnp.isfinite(metrics["loss"])
