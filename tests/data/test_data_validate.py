import numpy as np
import pytest

from jaxai.data import check
from jaxai.data.image_checks import check_names

IMAGES = np.zeros((6, 4, 4, 3), np.uint8)
LABELS = np.arange(6, dtype=np.int32)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.astype(np.float32)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_sound_arrays_pass(images, dtype):
    check(images, LABELS.astype(dtype), 6, "arrays")


def test_memory_mapped_arrays_pass(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    check(np.load(tmp_path / "images.npy", mmap_mode="r"), LABELS, 6, "arrays")


@pytest.mark.parametrize(
    ("dtype", "fix"),
    [
        (np.float64, r": give images\.astype\(numpy\.float32\), in \[0, 1\]"),
        (np.float16, r": give images\.astype\(numpy\.float32\), in \[0, 1\]"),
        (">f4", r": give images\.astype\(numpy\.float32\), in \[0, 1\]"),
        (np.int8, r": if they are in \[0, 255\], give images\.astype\(numpy\.uint8\)"),
        (np.int32, r": if they are in \[0, 255\], give images\.astype\(numpy\.uint8\)"),
        (np.int64, r": if they are in \[0, 255\], give images\.astype\(numpy\.uint8\)"),
        (np.uint16, r": give \(images // 257\)\.astype\(numpy\.uint8\), or images\.astype\(numpy\.float32\) / 65535"),
        (object, ""),
    ],
)
def test_other_image_dtypes_are_refused_with_what_makes_them_right(dtype, fix):
    with pytest.raises(ValueError, match=rf"^mine: images have dtype .*; expected uint8 or float32{fix}$"):
        check(IMAGES.astype(dtype), LABELS, 6, "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda unit: unit * 255, r"expected floats in \[0, 1\]: divide by 255$"),
        (lambda unit: unit * 65535, r"expected floats in \[0, 1\]: divide by 65535$"),
        (lambda unit: unit * 2 - 1, r"expected floats in \[0, 1\]: give \(images \+ 1\) / 2$"),
        (lambda unit: unit * 1.02 - 0.01, r"expected floats in \[0, 1\]: give images\.clip\(0, 1\)$"),
        (
            lambda unit: (unit - 0.5) / 0.2,
            r"these are from -2\.5 to 2\.5; if they were standardised.*image_mean",
        ),
    ],
)
def test_floats_of_another_range_are_refused_with_the_index_and_what_makes_them_right(change, message):
    unit = np.linspace(0.25, 0.75, 5000 * 4, dtype=np.float32).reshape(5000, 2, 2, 1)
    unit[4321, 1, 0, 0], unit[4999] = 1, 0
    check(unit, np.zeros(5000, np.int32), 1, "mine")
    with pytest.raises(ValueError, match=rf"^mine: the pixel at index \[\d+, \d, \d, 0\] is .*{message}"):
        check(change(unit), np.zeros(5000, np.int32), 1, "mine")


def test_the_index_is_that_of_the_first_pixel_out_of_range():
    images = np.full((5000, 2, 3, 1), 0.5, np.float32)
    images[4321, 1, 2, 0] = 254
    with pytest.raises(ValueError, match=r"the pixel at index \[4321, 1, 2, 0\] is 254; expected floats"):
        check(images, np.zeros(5000, np.int32), 1, "mine")


def test_floats_that_were_divided_twice_are_refused():
    unit = np.linspace(0, 1, 6 * 48, dtype=np.float32).reshape(6, 4, 4, 3)
    for image in (unit, unit / 200, unit * 0):
        check(image, LABELS, 6, "mine")
    with pytest.raises(ValueError, match=r"^mine: the brightest pixel is 0.00392\d+; expected floats in \[0, 1\]: div"):
        check(unit / 255, LABELS, 6, "mine")


def test_floats_that_became_zeros_and_ones_are_refused():
    ones = np.random.default_rng(0).integers(0, 2, (6, 4, 4, 3))
    check(ones.astype(bool), LABELS, 6, "mine")
    with pytest.raises(
        ValueError, match=r"^mine: every pixel is 0 or 1; expected uint8 in \[0, 255\]: give images.astype\(bool\)"
    ):
        check(ones.astype(np.uint8), LABELS, 6, "mine")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "caf\udce9"), r"the name of class 1 is 'caf\\udce9'; expected printable text in UTF-8: rename it"),
        (("cat", "two\nlines"), r"the name of class 1 is 'two\\nlines'"),
        (("", "dog"), "the name of class 0 is ''"),
        (("cat", "dog", "cat"), "classes 0 and 2 are both called 'cat'; expected different names"),
        ((1, 2), r"classes are \(1, 2\); expected a tuple of names"),
        ("cat", "classes are 'cat'; expected a tuple of names"),
        (np.array(["a", "b"]), r"classes are array"),
        ((), r"classes are \(\); expected a tuple"),
    ],
)
def test_class_names_that_cannot_be_written_or_told_apart_are_refused(classes, message):
    with pytest.raises(ValueError, match=f"^mine: {message}"):
        check_names(classes, "mine")
    check_names(("🐈 cat", "a b", "犬", "$x$", "a\u00a0b"), "mine")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[..., 0], r"images have shape \[6, 4, 4\]; expected .*add the channel axis with images\[..., None\]"),
        (IMAGES.reshape(6, -1), r"images have shape \[6, 48\]; expected \[examples, height, width, channels\]"),
        (np.zeros((6, 3, 8, 9), np.uint8), r"images have shape \[6, 3, 8, 9\], .*images\.transpose\(0, 2, 3, 1\)"),
        (
            np.zeros((6, 1, 8, 8), np.uint8),
            r"images have shape .*, 8 channels; expected the channels last",
        ),
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
        (np.eye(6, dtype=np.int32), r"labels have shape \[6, 6\]; expected \[examples\]; from one-hot, give labels"),
        (LABELS.astype(np.float32), r"labels have dtype float32; expected integers, as int32: give labels\.astype"),
        (np.array(list("abcdef")), r"labels have dtype <U1; expected integers, as int32: give numpy\.unique"),
        (LABELS[:, None], r"labels have shape \[6, 1\]; expected \[examples\]; give labels\[:, 0\]"),
        (LABELS + 1, r"the label at index 5 is 6; expected 0 to 5, .*: they count from 1, give labels - 1"),
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
