import dataclasses
import io
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxai import cnn
from jaxai.data import Data, Images, load
from jaxai.experiments.classification.experiment import Experiment
from jaxai.report import pictures
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder

WORKLOAD = cnn.Config(
    architecture="mlp", width=8, depth=1, normalization="batch", ema_decay=0.9, optimizer=cnn.Optimizer("sgd", 0.5)
)


DATA = Data("synthetic", image_shape=(6, 6, 1), num_classes=3, examples=60, test_examples=30, cache="off")


@pytest.fixture(scope="module")
def images() -> Images:
    return load(DATA)


def experiment(workdir, **changes) -> Experiment:
    run = Run(workdir=str(workdir), devices=1, steps_per_call=5)
    return dataclasses.replace(Experiment(WORKLOAD, DATA, epochs=2.0, batch_size=12, run=run), **changes)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    untrained = experiment(workdir).resolve(images)
    return untrained, untrained.bind(images).train(quiet())


def test_evaluation_with_statistics_computed_anew_is_that_of_all_training_images(trained, images):
    resolved, outcome = trained
    stored, anew = (resolved.of_run(images).evaluate(quiet(), "latest", recompute) for recompute in (False, True))
    assert stored["test_loss"] == pytest.approx(outcome.result["test_loss"], rel=1e-5)
    batches = images.train["image"][np.random.default_rng(0).permutation(60)].reshape(5, 12, 6, 6, 1)
    state = cnn.make_recompute(resolved.workload)(outcome.state, batches)
    logits = jax.nn.log_softmax(cnn.make_predict(resolved.workload)(state, images.test["image"]))
    expected = -np.asarray(logits)[np.arange(30), images.test["label"]].mean()
    assert anew["test_loss"] == pytest.approx(expected, rel=1e-4)
    assert abs(anew["test_loss"] - stored["test_loss"]) > 1e-3


def test_statistics_are_computed_anew_of_fewer_images_than_a_batch(trained, images):
    few = dataclasses.replace(images, train={name: array[:5] for name, array in images.train.items()})
    assert np.isfinite(trained[0].of_run(few).evaluate(quiet(), "latest", True)["test_loss"])


def test_command_line_computes_statistics_anew(trained, images, jaxai):
    resolved, _ = trained
    code, _, error = jaxai("evaluate", resolved.run.workdir, "--checkpoint", "latest", "--recompute-statistics")
    assert (code, error) == (0, "")
    found = RunFolder(Path(resolved.run.workdir)).read_json("evaluation.json")
    assert found["test_loss"] == pytest.approx(
        resolved.of_run(images).evaluate(quiet(), "latest", True)["test_loss"], rel=1e-5
    )


def test_a_run_of_another_state_is_refused_in_one_line(trained, images):
    resolved, _ = trained
    other = dataclasses.replace(resolved, workload=dataclasses.replace(resolved.workload, ema_decay=0.0))
    with pytest.raises(ValueError, match=r"\.extra\['ema'\].* this run as nothing; use the .*version") as error:
        other.of_run(images).evaluate(quiet(), "latest")
    assert "\n" not in str(error.value)


def test_names_and_channels_without_a_plain_picture_cost_no_run(tmp_path):
    names = ("$x_{1}$", "[red]", "\u65e5\u672c\U0001f600" + "x" * 3000)
    labels = np.arange(24, dtype=np.int32) % 3
    split = {"image": np.random.default_rng(0).integers(0, 256, (24, 6, 6, 2), np.uint8), "label": labels}
    made = Images(split, split, names, "made here")
    console = quiet()
    workload = dataclasses.replace(WORKLOAD, image_mean=(0.5,), image_std=(0.5,))
    unresolved = experiment(tmp_path / "run", workload=workload, epochs=1.0)
    outcome = unresolved.bind(made, console).train(console)
    assert "warning" not in console.file.getvalue()
    assert (tmp_path / "run" / "pictures" / "confusion_matrix.png").exists()
    assert (tmp_path / "run" / "pictures" / "mistakes.png").exists()
    found = unresolved.resolve(made).of_run(made).evaluate(console, "latest")
    assert found["test_accuracy"] == pytest.approx(outcome.result["test_accuracy"])
    assert "[red]" in console.file.getvalue()


def test_a_picture_that_fails_is_a_line_and_the_result_is_written(tmp_path, images, monkeypatch):
    def fails(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(pictures, "confusion_matrix", fails)
    console = quiet()
    outcome = experiment(tmp_path / "run", epochs=1.0).bind(images, console).train(console)
    assert RunFolder(tmp_path / "run").read_json("result.json") == outcome.result
    lines = [line for line in console.file.getvalue().splitlines() if "picture" in line]
    assert lines == ["warning: a picture could not be drawn (OSError: No space left on device); all else is complete"]
