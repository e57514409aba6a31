"""A conditional generator of data whose labels are not equally frequent, and data of too few images to be measured."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxai import gan
from jaxai.data import Images
from jaxai.experiments.generation.experiment import Bound, Experiment
from jaxai.experiments.generation.generator import Generator
from jaxai.gan.latent import draw_labels
from jaxai.runtime import parallel
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder

SHARES = (0.7, 0.2, 0.0, 0.1)  # no image of the third class
WORKLOAD = gan.Config(width=2, latent_size=4, conditional=True, num_classes=4, image_shape=(8, 8, 1))


def pixels(labels, seed):
    """Images whose brightness is their label's."""
    noise = np.random.default_rng(seed).normal(0, 8, (len(labels), 8, 8, 1))
    return (60 * labels[:, None, None, None] + 30 + noise).clip(0, 255).round().astype(np.uint8)


def split(count, seed):
    labels = np.random.default_rng(seed).permutation(
        np.repeat(np.arange(4), np.multiply(SHARES, count).round().astype(int))
    )
    return {"image": pixels(labels, seed), "label": labels.astype(np.int32)}


IMAGES = Images(split(400, 0), split(100, 1), ("a", "b", "c", "d"), "made here")


def experiment(workdir, **changes):
    run = Run(workdir=str(workdir), devices=1, steps_per_call=2, evaluate_every=2)
    settings = {"extractor": "pixels", "samples": 200, "epochs": 0.16, "batch_size": 16} | changes
    return Experiment(WORKLOAD, run=run, **settings)


def test_labels_are_drawn_as_often_as_the_data_has_them():
    drawn = np.bincount(draw_labels(jax.random.key(0), 20_000, 4, SHARES), minlength=4) / 20_000
    np.testing.assert_allclose(drawn, SHARES, atol=0.01)
    assert drawn[2] == 0
    equal = np.bincount(draw_labels(jax.random.key(0), 20_000, 4), minlength=4) / 20_000
    np.testing.assert_allclose(equal, 0.25, atol=0.01)


def test_both_networks_are_trained_with_the_datas_labels(tmp_path, monkeypatch):
    config = experiment(tmp_path).bind(IMAGES).config.workload
    assert config.label_frequencies == pytest.approx(SHARES)
    asked = []

    def recorded(key, count, num_classes, frequencies):
        asked.append((num_classes, frequencies))
        return draw_labels(key, count, num_classes, frequencies)

    monkeypatch.setattr("jaxai.gan.game.draw_labels", recorded)
    workload = gan.make(config)
    batch = {name: array[:16] for name, array in IMAGES.train.items()}
    jax.eval_shape(workload.train_step, jax.eval_shape(workload.init, jax.random.key(0)), batch)
    assert len(asked) >= 2
    assert set(asked) == {(4, config.label_frequencies)}


def test_what_a_generator_is_asked_for_when_it_is_measured_is_what_the_data_has():
    generator = Generator(dataclasses.replace(WORKLOAD, label_frequencies=SHARES), parallel.make_mesh(1))
    for count in (10, 57, 1000):  # any first part, as fewer may be measured than are drawn
        labels = generator.labels(1000)[:count]
        np.testing.assert_allclose(np.bincount(labels, minlength=4), np.multiply(SHARES, count), atol=3)
    equally = Generator(WORKLOAD, parallel.make_mesh(1)).labels(6)
    assert equally.tolist() == [0, 1, 2, 3, 0, 1]


def test_a_perfect_generator_is_measured_near_the_floor(tmp_path, monkeypatch):
    monkeypatch.setattr(Generator, "images", lambda self, state, latents, labels: pixels(np.asarray(labels), 2))
    resolved = experiment(tmp_path).bind(IMAGES)
    state = jax.jit(resolved.make().init)(jax.random.key(0))
    (tmp_path / "pictures").mkdir()

    def distance(kind):
        values = kind.training().scoring.measure(parallel.make_mesh(1), state)
        return values["frechet_distance"] / values["frechet_floor"]

    assert distance(resolved) < 2
    uniform = dataclasses.replace(resolved.config.workload, label_frequencies=())
    assert distance(dataclasses.replace(resolved.config, workload=uniform).of_run(IMAGES)) > 5


def test_samples_are_as_frequent_as_the_data_and_a_label_without_images_is_refused(tmp_path, monkeypatch):
    resolved = experiment(tmp_path).bind(IMAGES)
    monkeypatch.setattr("jaxai.trained.read_state", lambda run, workload, checkpoint: None)
    monkeypatch.setattr(Generator, "images", lambda self, state, latents, labels: pixels(np.asarray(labels), 2))
    generator = resolved.trained()
    counts = np.bincount(generator.samples(100).label, minlength=4)
    np.testing.assert_allclose(counts, np.multiply(SHARES, 100), atol=3)
    assert generator.samples(2, label=3).label.tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"label is 2, which no training image has.* choose one of 0, 1, 3") as error:
        generator.samples(1, label=2)
    assert "\n" not in str(error.value)


def test_a_class_is_asked_for_by_its_name_before_its_number(tmp_path, monkeypatch):
    names = ("1", "10", "2", "cat")  # folders in alphabetical order
    resolved = experiment(tmp_path).bind(dataclasses.replace(IMAGES, classes=names))
    RunFolder(tmp_path).write_json("data.json", {"source": "made here", "classes": names, "splits": {}})
    monkeypatch.setattr("jaxai.trained.read_state", lambda run, workload, checkpoint: None)
    monkeypatch.setattr(Generator, "images", lambda self, state, latents, labels: pixels(np.asarray(labels), 2))
    for asked, label in (("1", 0), ("10", 1), ("cat", 3), ("0", 0), ("3", 3)):
        assert resolved.trained().samples(1, label=asked).label.tolist() == [label]
    with pytest.raises(ValueError, match=r"label is cta; .*did you mean cat\?$"):
        resolved.trained().samples(1, label="cta")


def test_other_data_is_measured_with_its_own_frequencies_and_another_shape_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Generator, "images", lambda self, state, latents, labels: pixels(np.asarray(labels), 2))
    even = {"label": np.arange(400, dtype=np.int32) % 4}
    even["image"] = pixels(even["label"], 0)
    resolved = experiment(tmp_path).bind(dataclasses.replace(IMAGES, train=even))
    state = jax.jit(resolved.make().init)(jax.random.key(0))
    monkeypatch.setattr(Bound, "restore", lambda self, which: state)
    data = {"train": {"examples": 400, "digest": "of even ones"}}
    RunFolder(tmp_path).write_json("data.json", {"source": "made here", "classes": IMAGES.classes, "splits": data})
    console = Console(file=io.StringIO(), width=200)
    found = resolved.config.of_run(IMAGES).evaluate(console, "latest")
    assert found["frechet_distance"] < 2 * found["frechet_floor"]
    wide = {"image": np.repeat(even["image"], 2, axis=2), "label": even["label"]}
    with pytest.raises(ValueError, match=r"has images \[8, 16, 1\], but .* makes images \[8, 8, 1\]; give"):
        resolved.config.of_run(dataclasses.replace(IMAGES, train=wide, test=wide)).evaluate(console, "latest")


def test_classes_of_one_size_need_no_frequencies(tmp_path):
    labels = np.arange(40, dtype=np.int32) % 4
    even = {"image": pixels(labels, 0), "label": labels}
    resolved = experiment(tmp_path).bind(Images(even, even, IMAGES.classes, "even"))
    assert resolved.config.workload.label_frequencies == ()


@pytest.mark.parametrize("frequencies", [(0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (-0.5, 0.5, 0.5, 0.5)], ids=str)
def test_frequencies_that_are_none_are_refused(frequencies):
    with pytest.raises(ValueError, match="label_frequencies") as error:
        gan.make(dataclasses.replace(WORKLOAD, label_frequencies=frequencies))
    assert "\n" not in str(error.value)


def test_few_images_train_without_measures_and_the_refusal_says_how(tmp_path):
    # Of two channels, which no picture has: it shows their mean.
    train, test = ({name: array[:40] for name, array in each.items()} for each in (IMAGES.train, IMAGES.test))
    for each in (train, test):
        each["image"] = np.concatenate([each["image"], each["image"] // 2], axis=-1)
    few = dataclasses.replace(IMAGES, train=train, test=test)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(ValueError, match=r"at least 129 samples.*--extractor none") as error:
        experiment(tmp_path / "refused").bind(few).train(console)
    assert "\n" not in str(error.value)
    outcome = experiment(tmp_path / "run", extractor="none", epochs=1.6).bind(few).train(console)
    assert outcome.result["steps"] == outcome.result["best_step"] == 3
    assert not [name for name in outcome.result if name.startswith(("frechet", "kernel", "precision"))]
    run = RunFolder(tmp_path / "run").load_config()
    assert run.of_run(few).evaluate(console, "best").keys() == {"test_d_real", "step", "checkpoint", "measured_on"}
    assert (tmp_path / "run" / "pictures" / "samples.png").exists()


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_makes_no_image(label):
    state = jax.jit(gan.make(WORKLOAD).init)(jax.random.key(0))
    latents = jax.random.normal(jax.random.key(1), (2, 4))
    made = jax.jit(gan.make_predict(WORKLOAD))(state, {"latent": latents, "label": np.array([label, 3])})
    assert np.isnan(made[0]).all()
    assert np.isfinite(made[1]).all()
