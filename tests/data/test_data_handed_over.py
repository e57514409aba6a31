"""Arrays handed to `Experiment.train` and `evaluate` pass the same check as files, before anything is written."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import cnn, gan
from jaxai.data import Images, check_images
from jaxai.experiments.classification.experiment import Experiment as Classifier
from jaxai.experiments.generation.experiment import Experiment as Generator
from jaxai.runtime.config import Run

UNIT = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
LABELS = np.arange(12, dtype=np.int32) % 3


def images(train=UNIT, labels=LABELS, test=UNIT, test_labels=LABELS, validation=None, classes=("a", "b", "c")):
    held_out = None if validation is None else {"image": validation, "label": LABELS}
    return Images(
        {"image": train, "label": labels}, {"image": test, "label": test_labels}, classes, "mine", validation=held_out
    )


def with_nan():
    pixels = UNIT.copy()
    pixels[7, 1, 2, 0] = np.nan
    return pixels


WRONG = {
    "int64": (images((UNIT * 255).astype(np.int64)), "mine train: images have dtype int64; expected uint8"),
    "float64": (images(test=UNIT.astype(np.float64)), "mine test: images have dtype float64; expected uint8"),
    "bytes": (images(UNIT * 255), r"mine train: the pixel at .* expected floats in \[0, 1\]: divide by 255"),
    "signed": (images(test=UNIT * 2 - 1), r"mine test: the pixel at .*: give \(images \+ 1\) / 2"),
    "nan": (
        images(validation=with_nan()),
        r"mine validation: the pixel at index \[7, 1, 2, 0\] is nan; exp",
    ),
    "jax": (images(jnp.asarray(UNIT)), r"mine train: images are a ArrayImpl; expected a NumPy array"),
    "keras labels": (
        images(labels=LABELS[:, None]),
        r"mine train: labels have shape \[12, 1\].* give labels\[:, 0\]",
    ),
    "one-hot": (images(test_labels=np.eye(3, dtype=np.int32)[LABELS]), "mine test: labels have shape .*from one-hot"),
    "class": (images(classes=("a", "b")), "mine train: the label at index 2 is 2; expected 0 to 1"),
    "shape": (images(test=UNIT[:, :6]), r"training images are \(8, 8, 1\), but test images \(6, 8, 1\)"),
    "channels": (images(validation=np.repeat(UNIT, 3, -1)), r"but validation images \(8, 8, 3\)"),
    "tuple": ((UNIT, LABELS), r"images are a tuple; expected jaxai\.data\.Images, as jaxai\.data\.arrays"),
    "pair": (Images((UNIT, LABELS), (UNIT, LABELS), ("a",), "mine"), "mine train is a tuple; expected a dict"),
    "keys": (
        dataclasses.replace(images(), test={"x": UNIT, "y": LABELS}),
        "mine test is x, y; expected a dict of image and label",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("kind", [Classifier, Generator])
def test_wrong_arrays_are_refused_before_anything_is_written(kind, case, tmp_path):
    given, message = WRONG[case]
    experiment = kind(run=Run(workdir=str(tmp_path / "run")))
    for bind in (experiment.bind, experiment.of_run):
        with pytest.raises(ValueError, match=message) as error:
            bind(given)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_bool_images_are_black_and_white_and_labels_become_int32():
    given = images(UNIT > 0.5, LABELS.astype(np.uint8), UNIT > 0.5, LABELS.astype(np.int64))
    taken = check_images(given)
    np.testing.assert_array_equal(taken.train["image"], np.where(UNIT > 0.5, 255, 0))
    for split in (taken.train, taken.test):
        assert split["image"].dtype == np.uint8
        assert split["label"].dtype == np.int32
    floats = np.asarray((UNIT > 0.5), np.float32)
    grey = cnn.Config(image_shape=(8, 8, 1))
    seen = cnn.normalize(grey, jnp.asarray(taken.train["image"]))
    np.testing.assert_array_equal(seen, cnn.normalize(grey, jnp.asarray(floats)))
    np.testing.assert_array_equal(
        gan.normalize(gan.Config(image_shape=(8, 8, 1)), jnp.asarray(taken.train["image"])), floats * 2 - 1
    )


def test_sound_arrays_are_not_copied():
    given = images()
    assert check_images(given).train["image"] is given.train["image"]


def test_what_looks_like_a_mistake_is_said_of_arrays_too():
    other = np.random.default_rng(1).random((12, 8, 8, 1), np.float32)
    assert check_images(images(test=other)).notes == ()
    assert check_images(images(labels=LABELS % 2, test=other)).notes == ("no training images of 1 of 3 classes: c",)
    copied = np.concatenate([UNIT[:3], other[3:]])
    twice = check_images(check_images(images(test=copied)))  # loaded, then handed over
    assert twice.notes == ("test: 3 of 12 images are among those of the training",)
    (note,) = check_images(images(test=other / 16)).notes
    assert note.startswith("test: the brightest pixel is 0.06")
    assert "where white is 1: multiply" in note
    (note,) = check_images(images((UNIT * 16).astype(np.uint8), test=other)).notes
    assert note.startswith("train: the brightest pixel is 15, where white is 255")


def test_arrays_whose_mask_or_range_would_be_lost_are_refused():
    with pytest.raises(ValueError, match=r"mine train: labels are a masked array.*labels.filled"):
        check_images(images(labels=np.ma.masked_array(LABELS, LABELS == 1)))
    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\]: divide by the value of white, 15.* or more"):
        check_images(images(UNIT * 16))
    with pytest.raises(ValueError, match=r"labels have dtype object; .*return_inverse"):
        check_images(images(labels=np.array(["a", "b", "c"] * 4, object)))
