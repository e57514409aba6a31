"""The check of labelled images, both those read from files and those given in Python."""

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Named", "check", "check_names"]

BLOCK = 4096
"""Number of images that are searched at a time, so that the whole set is not copied."""
OVERSHOOT = 0.05
"""Distance from [0, 1] that a resampling filter can cause; the message then suggests clipping."""
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories not allowed in class names: control characters, undecodable bytes, line separators."""


class Named(NamedTuple):
    """Names of arrays in messages.

    Attributes:
      images: beginning of a message about the images: a file, "mine train", or the user's argument `x_test`.
      labels: the same for the labels.
      image_array: the images in an expression that corrects them, as `images` in `images[..., None]`.
      label_array: the same for the labels.
    """

    images: str
    labels: str
    image_array: str = "images"
    label_array: str = "labels"


def check(images: np.ndarray, labels: np.ndarray, num_classes: int, source: str | Named) -> None:
    """Refuses arrays that would give wrong results without an error.

    Args:
      images: [examples, height, width, channels] uint8 in [0, 255], float32 in [0, 1], or bool.
      labels: [examples] of any integer dtype, each in [0, num_classes).
      num_classes: number of classes.
      source: of the arrays (a file name, "training arrays"), the beginning of the message; or `Named`.

    Raises:
      ValueError: one line that names the source, the index where there is one, the value, the expected value and the
        fix. uint8 images with only 0 and 1 are refused too: they would be nearly black.
    """
    named = source if isinstance(source, Named) else Named(source, source)
    for name, array, where, expression in (
        ("images", images, named.images, named.image_array),
        ("labels", labels, named.labels, named.label_array),
    ):
        if isinstance(array, np.ma.MaskedArray):
            raise ValueError(
                f"{where}: {name} are a masked array, whose mask would be lost; give {expression}.filled(...)"
            )
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{where}: {name} are a {type(array).__name__}; expected a NumPy array (numpy.asarray)")
    _check_shape_and_dtype(images, named.images, named.image_array)
    _check_labels(labels, num_classes, named.labels, named.label_array)
    if len(images) != len(labels):
        raise ValueError(
            f"{named.images}: {len(images)} images but {len(labels)} labels"
            f"{f' in {named.labels}' if named.labels != named.images else ''}; expected one label an image"
        )
    if len(images) == 0:
        raise ValueError(f"{named.images}: no examples; expected at least one")
    if images.dtype == np.float32:
        _check_floats(images, named.images, named.image_array)
    elif images.dtype == np.uint8:
        _check_bytes(images, named.images, named.image_array)


def check_names(classes: Sequence[str], source: str) -> None:
    """Refuses class names that are not printable or not unique.

    Args:
      classes: names in label order.
      source: of the names, the beginning of the message.

    Raises:
      ValueError: one line that names the source, the class and the fault.
    """
    if not isinstance(classes, tuple | list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{source}: classes are {classes!r:.80}; expected a tuple of names, one a label")
    first: dict[str, int] = {}
    for label, name in enumerate(classes):
        if not name.strip() or UNPRINTABLE & set(map(unicodedata.category, name)):
            raise ValueError(
                f"{source}: the name of class {label} is {name!a:.80}; expected printable text in UTF-8: rename it"
            )
        if name in first:
            raise ValueError(
                f"{source}: classes {first[name]} and {label} are both called {name!r:.80}; expected different names"
            )
        first[name] = label


def _check_shape_and_dtype(images: np.ndarray, source: str, name: str) -> None:
    if images.dtype not in (np.uint8, np.float32, np.bool_):
        raise ValueError(
            f"{source}: images have dtype {images.dtype}; expected uint8 or float32{_dtype_fix(images.dtype, name)}"
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        hint = f"; add the channel axis with {name}[..., None]" if images.ndim == 3 else ""
        if images.ndim == 2 and (side := math.isqrt(images.shape[1])) ** 2 == images.shape[1] > 1:
            hint = f"; if the images were flattened, give {name}.reshape(-1, {side}, {side}, 1)"
        raise ValueError(
            f"{source}: images have shape {list(images.shape)}; expected [examples, height, width, channels]{hint}"
        )
    _, height, width, channels = images.shape
    if min(width, channels) > 4 and (height == 3 or (height == 1 and width == channels)):
        raise ValueError(
            f"{source}: images have shape {list(images.shape)}, {channels} channels; expected the channels last: "
            f"give {name}.transpose(0, 2, 3, 1)"
        )


def _dtype_fix(dtype: np.dtype, name: str) -> str:
    """How to convert images of another dtype."""
    if dtype.name == "uint16":
        return f": give ({name} // 257).astype(numpy.uint8), or {name}.astype(numpy.float32) / 65535"
    if dtype.kind in "iu":
        return f": if they are in [0, 255], give {name}.astype(numpy.uint8)"
    return f": give {name}.astype(numpy.float32), in [0, 1]" if "float" in dtype.name else ""


def _check_floats(images: np.ndarray, source: str, name: str) -> None:
    # The minimum and maximum of a block with a NaN are NaN.
    ranges = [(float(block.min()), float(block.max())) for block in _blocks(images)]
    if all(least >= 0 and most <= 1 for least, most in ranges):
        brightest = max(most for _, most in ranges)
        if 0 < brightest < 1.01 / 255:
            raise ValueError(
                f"{source}: the brightest pixel is {brightest:g}; expected floats in [0, 1]: divide once only"
            )
        return
    if (found := _first(images, lambda block: ~np.isfinite(block))) is not None:
        raise ValueError(f"{source}: the pixel at index {found[0]} is {found[1]}; expected finite numbers")
    found = _first(images, lambda block: (block < 0) | (block > 1))
    assert found is not None
    fix = _fix(min(least for least, _ in ranges), max(most for _, most in ranges), name)
    raise ValueError(f"{source}: the pixel at index {found[0]} is {found[1]:g}; expected floats in [0, 1]: {fix}")


def _fix(least: float, most: float, name: str) -> str:
    """How to bring floats of this range into [0, 1]."""
    if least >= -OVERSHOOT and most <= 1 + OVERSHOOT:
        return f"give {name}.clip(0, 1)"
    if least >= 0:
        for top in (255, 65535):
            if top / 2 < most <= top:
                return f"divide by {top}"
        return f"divide by the value of white, {most:g} or more"
    if least >= -1 and most <= 1:
        return f"give ({name} + 1) / 2"
    return (
        f"these are from {least:g} to {most:g}; if they were standardised, give the images from before "
        "(image_mean and image_std standardise them)"
    )


def _check_bytes(images: np.ndarray, source: str, name: str) -> None:
    if any((block > 1).any() for block in _blocks(images)) or not images.any():
        return
    raise ValueError(
        f"{source}: every pixel is 0 or 1; expected uint8 in [0, 255]: give {name}.astype(bool), or multiply by 255 "
        "before the conversion to uint8"
    )


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), BLOCK):
        yield images[start : start + BLOCK]


def _first(images: np.ndarray, wrong: Callable[[np.ndarray], np.ndarray]) -> tuple[list[int], float] | None:
    """Index and value of the first pixel that is wrong."""
    for start, block in zip(range(0, len(images), BLOCK), _blocks(images), strict=True):
        where = wrong(block)
        if where.any():
            index = [int(position) for position in np.unravel_index(where.argmax(), where.shape)]
            return [start + index[0], *index[1:]], float(block[tuple(index)])
    return None


def _check_labels(labels: np.ndarray, num_classes: int, source: str, name: str) -> None:
    if labels.ndim != 1:
        hint = ""
        if labels.ndim == 2:
            hint = f"; give {name}[:, 0]" if labels.shape[1] == 1 else f"; from one-hot, give {name}.argmax(-1)"
        raise ValueError(f"{source}: labels have shape {list(labels.shape)}; expected [examples]{hint}")
    if labels.dtype.kind not in "iu":
        fix = f": give {name}.astype(numpy.int32)" if labels.dtype.kind in "fb" else ""
        if labels.dtype.kind in "USO":
            fix = f": give numpy.unique({name}, return_inverse=True)[1], and its names as classes"
        raise ValueError(f"{source}: labels have dtype {labels.dtype}; expected integers, as int32{fix}")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        from_one = labels.min() == 1 and labels.max() == num_classes
        raise ValueError(
            f"{source}: the label at index {wrong[0]} is {labels[wrong[0]]}; expected 0 to {num_classes - 1}, "
            f"for {num_classes} classes{f': they count from 1, give {name} - 1' if from_one else ''}"
        )
