import numpy as np
import pytest

from jaxai.data import check

IMAGES = np.zeros((6, 4, 4, 3), np.uint8)
LABELS = np.arange(6, dtype=np.int32)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.astype(np.float32)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_sound_arrays_pass(images, dtype):
    check(images, LABELS.astype(dtype), 6, "arrays")


def test_memory_mapped_arrays_pass(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    check(np.load(tmp_path / "images.npy", mmap_mode="r"), LABELS, 6, "arrays")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, bool, object])
def test_other_image_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=r"^mine: images have dtype .*; expected uint8 or float32$"):
        check(IMAGES.astype(dtype), LABELS, 6, "mine")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[..., 0], r"images have shape \[6, 4, 4\]; expected .*add the channel axis with images\[..., None\]"),
        (IMAGES.reshape(6, -1), r"images have shape \[6, 48\]; expected \[examples, height, width, channels\]"),
        (IMAGES[:, :0], r"images have shape \[6, 0, 4, 3\]"),
        (IMAGES[:5], "5 images but 6 labels"),
        (IMAGES.tolist(), "images are a list; expected a NumPy array"),
    ],
)
def test_wrong_image_shapes_are_refused(images, message):
    with pytest.raises(ValueError, match=f"mine: {message}"):
        check(images, LABELS, 6, "mine")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(6, dtype=np.int32), r"labels have shape \[6, 6\]; expected \[examples\]; from one-hot, take labels"),
        (LABELS.astype(np.float32), "labels have dtype float32; expected integers"),
        (np.array(list("abcdef")), "labels have dtype <U1; expected integers"),
        (LABELS - 1, "the label at index 0 is -1; expected 0 to 5"),
        (LABELS * 2, "the label at index 3 is 6; expected 0 to 5, for 6 classes"),
        (np.array([0, 255, 1, 1, 1, 1], np.uint8), "the label at index 1 is 255"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"mine: {message}"):
        check(IMAGES, labels, 6, "mine")


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="mine: no examples"):
        check(IMAGES[:0], LABELS[:0], 6, "mine")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_images_that_are_not_finite_are_refused_with_the_index(value):
    images = np.zeros((5000, 2, 2, 1), np.float32)
    images[4321, 1, 0, 0] = value
    with pytest.raises(ValueError, match=rf"the pixel at index \[4321, 1, 0, 0\] is {value}; expected finite"):
        check(images, np.zeros(5000, np.int32), 1, "mine")
