import dataclasses
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai import cnn, dqn, gan
from jaxai.data import Data, load
from jaxai.experiments.classification.experiment import Experiment
from jaxai.experiments.generation import extractor as extractors
from jaxai.experiments.generation.experiment import Experiment as Adversarial
from jaxai.experiments.generation.extractor import BATCH, FOR_SHAPE, RECIPES, export, extract, load_extractor
from jaxai.experiments.qlearning.experiment import Experiment as Agent
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.presets import load_preset
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder

CHECKOUT = Path(__file__).parents[2]
SHAPE, CLASSES = (8, 8, 1), 4


@pytest.fixture(scope="module")
def images():
    return load(Data("synthetic", image_shape=SHAPE, num_classes=CLASSES, examples=64, test_examples=30))


@pytest.fixture(scope="module")
def classifier(images, tmp_path_factory):
    """Folder of a run with batch statistics, moving averages and standardized images: all that an extractor keeps."""
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    workload = cnn.Config(
        architecture="mlp",
        width=6,
        depth=1,
        normalization="batch",
        ema_decay=0.5,
        image_mean=(0.4,),
        image_std=(0.3,),
        optimizer=cnn.Optimizer(learning_rate=1e-2),
    )
    run = Run(workdir=str(workdir), devices=1, steps_per_call=4)
    bound = Experiment(workload, epochs=1, batch_size=16, run=run).bind(images)
    fit(bound.training(), bound.config, Console(file=io.StringIO()))
    return workdir


def predictions_of(run, images):
    """What the run itself says, [n, classes]."""
    experiment = RunFolder(run).load_config()
    with Checkpoints(run / "checkpoints") as checkpoints:
        state = restored_state(experiment.of_run().make(), experiment.run, parallel.make_mesh(1), checkpoints)
    return np.asarray(cnn.make_predict(experiment.workload)(state, images))


def test_bundled_extractors_are_those_of_the_recipes_that_are_there():
    assert set(RECIPES) == set(FOR_SHAPE.values()) == {path.stem for path in extractors.BUNDLED.glob("*")}
    for name, recipe in RECIPES.items():
        workload = load_preset(str(CHECKOUT / recipe))[0].workload
        with np.load(extractors.BUNDLED / f"{name}.npz") as arrays:
            assert f'"architecture": "{workload.architecture}"' in str(arrays["config"])
            assert {array.dtype for key, array in arrays.items() if key != "config"} == {np.dtype(np.float16)}


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_bundled_extractor_has_64_features_10_labels_and_a_name_of_its_weights(name, shape):
    one, other = load_extractor(name, shape), load_extractor("auto", shape)
    assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", one.name)
    assert (one.name, one.image_shape, one.features, one.classes) == (other.name, shape, 64, 10)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    (features, logits), again = jax.jit(one.apply)(pixels), jax.jit(other.apply)(pixels)
    assert (features.shape, logits.shape) == ((3, 64), (3, 10))
    assert features.dtype == logits.dtype == jnp.float32
    assert np.isfinite(features).all()
    for first, second in zip((features, logits), again, strict=True):
        np.testing.assert_array_equal(first, second)


def test_mnist_extractor_reads_real_digits():
    digits = load(Data("mnist5k")).test
    _, logits = extract(load_extractor("auto", (28, 28, 1)), digits["image"])
    assert (np.asarray(logits).argmax(-1) == digits["label"]).mean() >= 0.98


def test_any_number_of_images_is_measured_as_in_one_batch(classifier):
    extractor = load_extractor(str(classifier), SHAPE)
    pixels = np.random.default_rng(0).integers(0, 256, (2 * BATCH + 7, *SHAPE), np.uint8)
    whole = jax.jit(extractor.apply)(pixels)
    for count in (1, BATCH, 2 * BATCH + 7):
        found = extract(extractor, pixels[:count])
        for one, all_of_them in zip(found, whole, strict=True):
            assert one.shape == (count, all_of_them.shape[1])
            np.testing.assert_allclose(one, all_of_them[:count], rtol=1e-5, atol=1e-6)


def test_bytes_and_the_same_pixels_as_floats_have_the_same_features(classifier, images):
    for name in (str(classifier), "pixels"):
        extractor = load_extractor(name, SHAPE)
        pixels = images.test["image"]
        found = zip(extractor.apply(pixels), extractor.apply(pixels.astype(np.float32) / 255), strict=True)
        for of_bytes, of_floats in found:
            np.testing.assert_allclose(of_bytes, of_floats, rtol=1e-5, atol=1e-6)


def test_run_as_an_extractor_says_what_the_run_says(classifier, images):
    extractor = load_extractor(str(classifier), SHAPE)
    assert re.fullmatch(r"run-[0-9a-f]{8}", extractor.name)
    assert (extractor.features, extractor.classes) == (6, CLASSES)
    expected = predictions_of(classifier, images.test["image"])
    np.testing.assert_allclose(extract(extractor, images.test["image"])[1], expected, rtol=1e-5, atol=1e-5)


def test_exported_extractor_is_the_run_to_the_rounding_of_its_weights(classifier, images, tmp_path):
    exported = export(classifier, tmp_path / "mine.npz")
    loaded = load_extractor(str(tmp_path / "mine.npz"), SHAPE)
    assert loaded.name == exported.name
    assert re.fullmatch(r"mine-[0-9a-f]{8}", loaded.name)
    assert loaded.name.partition("-")[2] != load_extractor(str(classifier), SHAPE).name.partition("-")[2]
    expected = predictions_of(classifier, images.test["image"])
    found = np.asarray(extract(loaded, images.test["image"])[1])
    np.testing.assert_array_equal(found, extract(exported, images.test["image"])[1])
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert np.abs(found - expected).max() > 0  # float16 it is


def test_pixels_are_those_of_a_small_picture_and_fit_every_shape():
    extractor = load_extractor("auto", (16, 24, 3))
    assert (extractor.name, extractor.features, extractor.classes) == ("pixels-8x8", 192, 0)
    plain = np.full((2, 16, 24, 3), 51, np.uint8)
    features, logits = extract(extractor, plain)
    assert logits.shape == (2, 0)
    np.testing.assert_allclose(features, np.full((2, 192), 0.2), rtol=1e-5)
    same = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    np.testing.assert_allclose(
        extract(load_extractor("pixels", SHAPE), same)[0], same.reshape(2, -1) / np.float32(255), rtol=1e-5
    )


def one_line(match, name, shape=SHAPE):
    with pytest.raises(ValueError, match=match) as error:
        load_extractor(str(name), shape)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_name_tells_those_there_are(tmp_path):
    for name in ("mnits", tmp_path, tmp_path / "missing.npz"):
        text = one_line("no extractor", name)
        assert str(name) in text
        assert all(known in text for known in ("auto", "mnist", "cifar10", "pixels", "a classifier's run"))


def test_images_of_another_shape_are_refused_with_both(classifier):
    for name in ("mnist", classifier):
        text = one_line("takes images of shape", name, (12, 12, 3))
        assert "[12, 12, 3]" in text
        assert str([28, 28, 1] if name == "mnist" else list(SHAPE)) in text


@pytest.mark.parametrize("experiment", [Adversarial(gan.Config()), Agent(dqn.Config())], ids=["gan", "dqn"])
def test_run_of_anything_but_a_classifier_is_refused(tmp_path, experiment):
    run = dataclasses.replace(experiment.run, workdir=str(tmp_path))
    RunFolder(tmp_path).open(dataclasses.replace(experiment, run=run))
    assert str(tmp_path) in one_line("no run of a classifier", tmp_path)
    with pytest.raises(ValueError, match="no run of a classifier"):
        export(tmp_path, tmp_path / "mine.npz")


def test_run_without_a_checkpoint_is_refused(classifier, tmp_path):
    (tmp_path / "config.json").write_text((classifier / "config.json").read_text())
    assert str(tmp_path) in one_line("has no latest checkpoint; train it first", tmp_path)


def test_arrays_that_are_no_extractor_are_refused(tmp_path):
    np.savez(tmp_path / "samples.npz", images=np.zeros(3))
    assert str(tmp_path) in one_line("it has no array config; give a file that", tmp_path / "samples.npz")
