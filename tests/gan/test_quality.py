import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from jaxai import gan
from jaxai.data import Data, load
from jaxai.experiments.generation import experiment as generation
from jaxai.experiments.generation.extractor import Extractor, extract
from jaxai.experiments.generation.quality import Quality, classified
from jaxai.runtime.config import Run

FEATURES, SAMPLES = 6, 150
MATRIX = np.random.default_rng(9).normal(size=(16, FEATURES)).astype(np.float32)


def linear(images):
    """Six sums of the pixels of 4x4 images, and three of them as logits."""
    scaled = images.astype(jnp.float32) / (255 if images.dtype == jnp.uint8 else 1)
    features = scaled.reshape(len(images), -1) @ MATRIX
    return features, features[:, :3]


LINEAR = Extractor("linear-01", (4, 4, 1), FEATURES, 3, linear)


def drawn(count, seed):
    """Images whose pixels hang together, [count, 4, 4, 1] uint8."""
    random = np.random.default_rng(seed)
    spread = np.random.default_rng(8).normal(size=(5, 16))
    pixels = 128 + 25 * random.normal(size=(count, 5)) @ spread + 5 * random.normal(size=(count, 16))
    return pixels.clip(0, 255).round().astype(np.uint8).reshape(count, 4, 4, 1)


REAL = drawn(2 * SAMPLES + 20, 0)


@pytest.fixture(scope="module")
def quality():
    return Quality(LINEAR, REAL, SAMPLES, jax.random.key(3))


def features_of(images):
    return extract(LINEAR, images)[0]


def frechet_distance(first, second):
    """Heusel et al. 2017, in float64, with SciPy's root of a matrix."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    root = linalg.sqrtm(np.cov(first.T) @ np.cov(second.T)).real
    return np.sum((first.mean(0) - second.mean(0)) ** 2) + np.trace(np.cov(first.T) + np.cov(second.T) - 2 * root)


def measured(quality, images):
    features, logits = extract(LINEAR, images)
    return quality.during_training(features, logits, None)


def test_floor_is_the_distance_of_two_disjoint_halves_of_the_real_images(quality):
    real = np.asarray(features_of(REAL))
    places = [
        np.abs(real[:, None] - np.asarray(half)[None]).max(-1).argmin(0)
        for half in (quality.reference, quality._held_out)
    ]
    for place, half in zip(places, (quality.reference, quality._held_out), strict=True):
        np.testing.assert_allclose(half, real[place], rtol=1e-6)
    assert len({*places[0].tolist(), *places[1].tolist()}) == 2 * SAMPLES
    floor = measured(quality, drawn(SAMPLES, 1))["frechet_floor"]
    assert floor == pytest.approx(frechet_distance(*(real[place] for place in places)), rel=1e-3)


def test_real_images_measure_about_the_floor_and_noise_far_above_it(quality):
    real, again = measured(quality, drawn(SAMPLES, 1)), drawn(SAMPLES, 2)
    noise = np.random.default_rng(0).integers(0, 256, (SAMPLES, 4, 4, 1), np.uint8)
    assert real["frechet_distance"] == pytest.approx(
        frechet_distance(quality.reference, features_of(drawn(SAMPLES, 1))), rel=1e-3
    )
    assert real["extractor"] == "linear-01"
    assert real["frechet_distance"] < 3 * real["frechet_floor"]
    assert measured(quality, noise)["frechet_distance"] > 20 * real["frechet_floor"]
    likely, unlikely = (quality.at_the_end(features_of(images)) for images in (again, noise))
    for name in ("precision", "recall", "density", "coverage"):
        assert likely[f"{name}_floor"] == unlikely[f"{name}_floor"] > 0.5
        assert likely[name] == pytest.approx(likely[f"{name}_floor"], abs=0.15)
    assert unlikely["precision"] < 0.5 * likely["precision"]
    assert unlikely["kernel_distance"] > 5 * abs(likely["kernel_distance"])
    assert {f"{name}_floor" for name in likely if not name.endswith("_floor")} <= likely.keys()


def test_the_halves_follow_from_the_key_alone(quality):
    again = Quality(LINEAR, REAL, SAMPLES, jax.random.key(3))
    other = Quality(LINEAR, REAL, SAMPLES, jax.random.key(4))
    np.testing.assert_array_equal(again.reference, quality.reference)
    assert (np.asarray(other.reference) != np.asarray(quality.reference)).any()


def test_as_many_samples_are_measured_as_real_images_however_many_are_given(quality):
    images = drawn(2 * SAMPLES, 1)
    assert measured(quality, images)["frechet_distance"] == measured(quality, images[:SAMPLES])["frechet_distance"]
    assert Quality(LINEAR, REAL, 0, jax.random.key(0)).samples == len(REAL) // 2


@pytest.mark.parametrize(("real", "samples"), [(12, 0), (len(REAL), FEATURES), (200, 101)], ids=str)
def test_too_few_images_are_refused_in_one_line_that_says_how_many_are_needed(real, samples):
    with pytest.raises(
        ValueError, match=rf"are {real} real images.* at least {FEATURES + 1} samples, and twice as many"
    ) as error:
        Quality(LINEAR, REAL[:real], samples, jax.random.key(0))
    asked = f"fidelity_samples is {samples}," if samples else f"half of the real images are {real // 2},"
    assert str(error.value).startswith(asked)
    assert "linear-01" in str(error.value)
    assert "\n" not in str(error.value)


def test_stored_statistics_are_those_of_the_reference_and_another_extractors_are_refused(quality, tmp_path):
    np.savez(tmp_path / "reference.npz", **quality.stored())
    with np.load(tmp_path / "reference.npz") as stored:
        quality.check_stored(stored, "reference.npz")
        reference = np.asarray(quality.reference, np.float64)
        np.testing.assert_allclose(stored["mean"], reference.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stored["covariance"], np.cov(reference.T), rtol=1e-3, atol=1e-4)
        assert int(stored["count"]) == SAMPLES
        other = Quality(LINEAR._replace(name="other-02"), REAL, SAMPLES, jax.random.key(3))
        with pytest.raises(ValueError, match=r"other-02.*here\.npz.*linear-01") as error:
            other.check_stored(stored, "here.npz")
    assert "\n" not in str(error.value)


def test_an_extractor_without_labels_says_nothing_of_labels(quality):
    blind = Quality(LINEAR._replace(classes=0), REAL, SAMPLES, jax.random.key(3))
    features, logits = extract(LINEAR, drawn(SAMPLES, 1))
    assert blind.during_training(features, logits[:, :0], None).keys() == {
        "frechet_distance",
        "frechet_floor",
        "extractor",
    }
    assert {"inception_score", "modes_covered"} <= quality.during_training(features, logits, None).keys()


def certain(labels, classes, logit=50.0):
    return logit * jax.nn.one_hot(jnp.asarray(labels), classes)


def test_labels_in_turn_and_certain_have_the_highest_scores():
    labels = np.arange(200) % 4
    found = classified(certain(labels, 4), labels)
    assert found["inception_score"] == pytest.approx(4, rel=1e-5)
    assert (found["confident"], found["modes_covered"], found["label_accuracy"]) == (1, 4, 1)
    assert found["least_mode"] == pytest.approx(0.25)
    assert found["label_shares"] == pytest.approx([0.25] * 4)


def test_confident_is_the_share_of_samples_with_a_label_of_a_probability_above_nine_tenths():
    # Of two labels, a difference of log 9 is a probability of 0.9.
    margins = np.log(9) + np.array([-2.0, -0.01, 0.01, 2.0, 9.0] * 10)
    logits = jnp.stack([jnp.asarray(margins), jnp.zeros(len(margins))], axis=1)
    assert classified(logits)["confident"] == pytest.approx(0.6)


def test_a_label_of_one_sample_in_a_hundred_is_not_covered_and_one_of_more_is():
    labels = np.repeat([0, 1, 2], [195, 3, 2])
    found = classified(certain(labels, 4))
    assert found["label_shares"] == pytest.approx([0.975, 0.015, 0.01, 0])
    assert (found["modes_covered"], found["least_mode"]) == (2, 0)
    assert "label_accuracy" not in found


def test_label_accuracy_is_the_share_that_the_classifier_takes_for_what_was_asked():
    asked = np.arange(40) % 4
    said = np.where(np.arange(40) < 10, (asked + 1) % 4, asked)
    assert classified(certain(said, 4), asked)["label_accuracy"] == pytest.approx(0.75)


def test_a_classifier_that_knows_nothing_gives_the_lowest_inception_score():
    found = classified(jnp.zeros((100, 5)))
    assert found["inception_score"] == pytest.approx(1)
    assert found["confident"] == 0


def test_what_the_classifier_says_of_samples_stands_beside_what_it_says_of_held_out_real_images():
    _, logits = extract(LINEAR, REAL)
    labels = np.asarray(logits.argmax(-1))
    labels = np.where(np.arange(len(labels)) % 4 == 0, (labels + 1) % 3, labels)  # a quarter is labelled otherwise
    found = Quality(LINEAR, REAL, SAMPLES, jax.random.key(3), labels)
    order = np.asarray(jax.random.permutation(jax.random.split(jax.random.key(3))[0], len(REAL)))
    held_out = order[SAMPLES : 2 * SAMPLES]
    expected = classified(extract(LINEAR, REAL[held_out])[1], labels[held_out])
    values = measured(found, drawn(SAMPLES, 1))
    assert {name: values[f"{name}_floor"] for name in expected} == expected
    assert expected["label_accuracy"] == pytest.approx(0.75, abs=0.1)
    unknown = measured(Quality(LINEAR, REAL, SAMPLES, jax.random.key(3)), drawn(SAMPLES, 1))
    assert "label_accuracy_floor" not in unknown
    assert unknown["confident_floor"] == expected["confident"]


def test_the_features_of_the_real_images_are_computed_once_a_training(tmp_path, monkeypatch):
    built = []

    class Counted(Quality):
        def __init__(self, *arguments):
            built.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr("jaxai.experiments.generation.evaluator.Quality", Counted)
    data = load(Data("synthetic", image_shape=(8, 8, 1), num_classes=3, examples=200, test_examples=40))
    run = Run(workdir=str(tmp_path / "run"))
    workload = gan.Config(width=2, latent_size=4)
    bound = generation.Experiment(workload, batch_size=8, extractor="pixels", run=run).bind(data)
    bound.training()
    bound.training()
    assert bound.evaluator is bound.evaluator
    assert len(built) == 1
