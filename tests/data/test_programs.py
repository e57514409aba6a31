"""Short programs around data of one's own: each in at most ten lines of public names."""

import numpy as np
import pytest
from rich.console import Console

import jaxai
from jaxai import cli, cnn
from jaxai.data import Data, arrays, from_dataset
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime.config import Run
from tests.data.test_own_data import X_TEST, Y_TEST, HuggingFace, Torch, X, Y, pil

TINY = cnn.Config(architecture="mlp", width=4, depth=1)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("jaxai.report.pictures.available", lambda: False)


def test_train_on_arrays_evaluate_and_resume_on_them(tmp_path):
    x, y, x_test, y_test, workdir, config = X, Y, X_TEST, Y_TEST, str(tmp_path / "mine"), TINY

    images = jaxai.data.arrays(x, y, x_test, y_test, classes=["cat", "dog", "eel"], validation=0.25)
    experiment = Experiment(config, epochs=2.0, batch_size=8, run=Run(workdir=workdir))
    experiment.bind(images).train()
    experiment.bind(images).train()  # resumes
    figures = experiment.bind(images).evaluate(Console())
    probabilities = jaxai.load(workdir).predict(x_test[..., None])

    accuracy = (probabilities.argmax(-1) == y_test).mean()
    assert figures["test_accuracy"] == pytest.approx(accuracy)


def test_a_source_of_ones_own_in_a_preset(tmp_path):
    def my_images():
        return arrays(X, Y, X_TEST, Y_TEST)

    config = Experiment(TINY, Data(source=my_images), epochs=1.0, batch_size=8)  # the last line of a preset

    bound = Experiment(config.workload, config.data, 1.0, 8, run=Run(workdir=str(tmp_path / "run"))).bind()
    assert bound.train().result["test_accuracy"] >= 0


def test_a_hugging_face_and_a_torch_set_in_two_lines():
    dataset = {"train": HuggingFace(pil(X), Y.tolist()), "test": HuggingFace(pil(X_TEST), Y_TEST.tolist())}
    train, test = Torch(X, Y), Torch(X_TEST, Y_TEST)

    images = from_dataset(dataset)
    others = from_dataset(train, test)

    assert (images.classes, others.classes) == (("cat", "dog", "eel"),) * 2
    np.testing.assert_array_equal(images.train["label"], others.train["label"])


def test_the_command_line_trains_on_an_npz_file(tmp_path):
    """`jaxai train PRESET --data.source npz --data.dir FILE`."""
    np.savez(tmp_path / "own.npz", x_train=X, y_train=Y, x_test=X_TEST, y_test=Y_TEST)
    where = ("--data.source", "npz", "--data.dir", tmp_path / "own.npz", "--workdir", tmp_path / "run")
    small = ("--architecture", "mlp", "--width", 4, "--depth", 1, "--epochs", 1, "--batch-size", 8)
    steps = ("--optimizer.warmup-steps", 0, "--augment.crop-padding", 0)
    cli.main(["train", "configs/mnist_cnn.py", *map(str, (*where, *small, *steps))])
    assert jaxai.load(tmp_path / "run").classes == ("0", "1", "2")
