"""Datasets of other libraries as `Images`, by their common interface: Hugging Face `datasets`, torch and others."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxai.data.image_checks import Named, check_names
from jaxai.data.images import Images
from jaxai.data.in_memory import images_of, is_share
from jaxai.data.memory import new_images
from jaxai.data.split_names import NAMES, parts
from jaxai.ranges import shown

__all__ = ["from_dataset"]

COLUMNS = {"image": ("image", "img", "images", "pixel_values", "x"), "label": ("label", "labels", "fine_label", "y")}
"""Names of the columns of images and labels; the first that exists is used."""
CHANNELS = (1, 3, 4)
"""Sizes by which a first axis is recognised as the channels, as in torch."""


def from_dataset(
    train: Any,
    test: Any = None,
    *,
    validation: Any = None,
    image: str | int | None = None,
    label: str | int | None = None,
    classes: Any = None,
    test_fraction: float = 0.0,
    name: str = "dataset",
) -> Images:
    """The images of a Hugging Face `datasets.Dataset`, a `torch.utils.data.Dataset`, or another with their interface.

    A dataset has a length, and its items, by index from 0, are dicts (`{"image": ..., "label": ...}`) or tuples
    (image, label). An image is a PIL image, or an array or tensor [height, width, channels], [height, width], or
    [channels, height, width]; uint8 in [0, 255], or float32 in [0, 1] as torchvision's `ToTensor` gives. All items are
    read once, into memory.

    Args:
      train: training set; or a mapping of splits, as `datasets.load_dataset(...)` returns, with train and test.
      test: test set; None: a share of the training set is held out, see `test_fraction`.
      validation: set to choose the best checkpoint by, or the share of the training images to hold out for it.
      image: column or position of the image in an item; None: `image`, `img` or `pixel_values`, or the first.
      label: the same of the label; None: `label` or `labels`, or the second.
      classes: class names in label order; None: those that the training set states (`features[label].names` or
        `.classes`), or else numbers.
      test_fraction: share of the training images of each class to hold out where there is no test set.
      name: of the data, in messages and the run folder.

    Returns:
      The images, checked.

    Raises:
      ValueError: a set or an item of another form, or as for `arrays`; one line.
    """
    sets = _splits(train, test, validation, test_fraction)
    columns: list[str | int | None] = [image, label]
    given = {
        part: (*_read(each, part, columns), Named(f"{part} images", f"{part} labels"))
        for part, each in sets.items()
        if not is_share(each)
    }
    fractions = {"test": (test_fraction, "test_fraction")} if test_fraction else {}
    if is_share(validation):
        fractions["validation"] = validation, "validation"
    return images_of(given, fractions, classes or _class_names(sets["train"], columns[1]), name)


def _splits(train: Any, test: Any, validation: Any, test_fraction: float) -> dict[str, Any]:
    sets = {"train": train, "test": test, "validation": validation}
    if isinstance(train, Mapping):
        if test is not None:
            raise ValueError("train is a mapping of splits, and test is given too; give one of them")
        names, _ = parts(map(str, train), test_fraction, "train")
        if "train" not in names:
            raise ValueError(
                f"train has the splits {', '.join(map(str, train))}; expected {' or '.join(NAMES['train'])}"
            )
        held_out = {} if validation is None else {"validation": validation}
        sets = {part: train[key] for part, key in names.items()} | held_out
    sets = {part: each for part, each in sets.items() if each is not None}
    if "test" in sets and test_fraction:
        raise ValueError(f"test_fraction is {test_fraction}, but there is a test set: leave one of them out")
    if "test" not in sets and not test_fraction:
        raise ValueError("test is None; give a test set, or hold out a part of train: test_fraction=0.2")
    return sets


def _read(dataset: Any, part: str, columns: list[str | int | None]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all items; fills in unknown columns."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        kind = type(dataset).__name__
        raise ValueError(f"{part} is a {kind} without length or items; expected a dataset with len() and [index]")
    if not len(dataset):
        raise ValueError(f"{part} has no items; expected at least one")
    images, labels = np.empty(0, np.uint8), np.empty(len(dataset), np.int64)
    for index in range(len(dataset)):
        item = dataset[index]
        if None in columns:
            columns[:] = _columns(item, columns, part)
        picture, number = (_field(item, column, f"{part}[{index}]") for column in columns)
        pixels = _pixels(picture, f"{part}[{index}]", None if index == 0 else images.shape[-1])
        if index == 0:
            images = new_images(len(dataset), pixels.shape) if pixels.dtype == np.uint8 else images
            if images.shape[1:] != pixels.shape:
                images = np.empty((len(dataset), *pixels.shape), pixels.dtype)
        if pixels.shape != images.shape[1:] or pixels.dtype != images.dtype:
            raise ValueError(
                f"{part}[{index}]: the image is {pixels.dtype} {list(pixels.shape)}, but the first one is"
                f" {images.dtype} {list(images.shape[1:])}; bring them to one size"
            )
        images[index], labels[index] = pixels, _number(number, f"{part}[{index}]")
    return images, labels


def _columns(item: Any, columns: list[str | int | None], part: str) -> list[str | int | None]:
    if isinstance(item, tuple | list):
        return [position if column is None else column for position, column in enumerate(columns)]
    if not isinstance(item, Mapping):
        raise ValueError(f"{part}[0] is a {type(item).__name__}; expected a dict, or a tuple of image and label")
    found: list[str | int | None] = []
    for kind, column in zip(COLUMNS, columns, strict=True):
        known = next((each for each in COLUMNS[kind] if each in item), None) if column is None else column
        if known is None:
            there = ", ".join(map(str, item))
            raise ValueError(f"{part} has the columns {there}; name that of the {kind}s: {kind}=...")
        found.append(known)
    return found


def _field(item: Any, column: str | int | None, where: str) -> Any:
    try:
        return item[column]
    except (KeyError, IndexError, TypeError) as error:
        there = f"the columns {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"{len(item)} fields"
        raise ValueError(f"{where} has no {column!r}; it has {there}") from error


def _pixels(image: Any, where: str, channels: int | None) -> np.ndarray:
    """[height, width, channels]; `arrays` refuses dtypes other than uint8 and float32."""
    if hasattr(image, "convert") and hasattr(image, "getbands"):  # a PIL image
        from jaxai.data.image_decoding import pixels_of

        return pixels_of(image, channels, where)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.ndim != 3:
        raise ValueError(f"{where}: the image has shape {list(pixels.shape)}; expected [height, width, channels]")
    if pixels.shape[0] in CHANNELS and pixels.shape[-1] not in CHANNELS:
        return pixels.transpose(1, 2, 0)
    return pixels


def _number(label: Any, where: str) -> int:
    value = np.asarray(label)
    if value.dtype.kind not in "iu" or value.size != 1:
        raise ValueError(f"{where}: the label is {shown(label)}; expected an integer")
    return int(value.reshape(()))


def _class_names(train: Any, label: str | int | None) -> tuple[str, ...] | None:
    while not hasattr(train, "classes") and hasattr(train, "dataset"):  # torch.utils.data.Subset
        train = train.dataset
    features = getattr(train, "features", None)
    names = getattr(features.get(label), "names", None) if isinstance(features, Mapping) else None
    names = getattr(train, "classes", None) if names is None else names
    if names is None or isinstance(names, str):
        return None
    found = tuple(map(str, names))
    check_names(found, "the class names of train")
    return found
