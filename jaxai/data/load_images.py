"""Reads the images of a configuration: `load(Data(source="mnist5k"))`."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxai import ranges
from jaxai.data import cache, cifar, folder, idx, mnist5k, npz, synthetic, tfds
from jaxai.data.holdout import hold_out
from jaxai.data.image_decoding import resize_all
from jaxai.data.image_source import ImageSource, Splits
from jaxai.data.images import ARRAYS, Data, Images, check_images
from jaxai.data.source_option import is_function_name
from jaxai.data.split_names import HOLD_OUT
from jaxai.dotted_names import called, dotted_name
from jaxai.files.paths import given_path

__all__ = ["load"]

SOURCES = (
    *("mnist5k", "synthetic", "folder", "npz", "idx", "idx:NAME"),
    *("cifar", "cifar10", "cifar100", "mnist", "tfds:NAME", "package.module:function"),
)
WITHOUT_FILES = ("mnist5k", "synthetic")
SHORT_NAMES = {"mnist": "tfds:mnist", "cifar10": "tfds:cifar10", "cifar100": "tfds:cifar100"}
CLASSES = 10
"""Default number of classes of synthetic data and idx files."""
GIVEN_IN_PYTHON = (
    "data.source is {}: the data was given in Python, and no file holds it; give it again in Python, or train with"
    " a preset whose data.source is a function"
)
NAME_OF_FUNCTION = (
    "data.source is {0}, the name of a function, which is not imported because a file names it; give it again:"
    " --preset FILE, the preset that has it, --data.source {0}, or the function itself in Python"
)


def load(config: Data) -> Images:
    """Reads a set of images, from the cache of decoded arrays where possible.

    Args:
      config: the images and their location.

    Returns:
      The images, checked; their `origin` is `config`.

    Raises:
      FileNotFoundError: the data is missing; one line with the expected location and the command that prepares it.
      ValueError: a field of `config`, or the data, is wrong; one line names the file, the index and the value.
    """
    ranges.check(config, "data.")
    _check_fields(config)
    try:
        source = _source(config)
        found = cache.read(source, config.cache)
    except FileNotFoundError:
        raise
    except OSError as error:  # no permission, a name that is too long
        raise ValueError(
            f"{error.filename or config.source} cannot be read: {error.strerror}; check --data.dir"
        ) from error
    train, test, notes = found.train, found.test, [*source.notes, *found.notes, *_unused_fields(config)]
    if test is None:
        if not config.test_fraction:
            raise ValueError(f"{source.name} has no test split; {HOLD_OUT}")
        train, test, note = hold_out(train, "test", config.test_fraction, "test_fraction")
        notes.append(note)
    elif config.test_fraction:
        raise ValueError(
            f"data.test_fraction is {config.test_fraction}, but {source.name} has a test split: leave it out"
        )
    validation = found.validation
    if config.validation_fraction:
        if validation is not None:
            notes.append("the validation split of the data is not used: validation_fraction asks for another")
        train, validation, note = hold_out(train, "validation", config.validation_fraction, "validation_fraction")
        notes.append(note)
    return check_images(Images(train, test, found.classes, source.name, validation, tuple(notes), config))


def _check_fields(config: Data) -> None:
    for name in ("source", "dir", "cache"):
        text = getattr(config, name)
        if isinstance(text, str) and not text.strip():
            raise ValueError(f"data.{name} is empty; give --data.{name} a value, or leave it out")
    if config.dir is not None and config.source in WITHOUT_FILES:
        raise ValueError(
            f"data.dir is {config.dir!r}, but the source {config.source} reads no files of yours: choose another, as"
            " --data.source folder, or leave data.dir out"
        )


def _unused_fields(config: Data) -> list[str]:
    """Notes on fields that are set and have no effect."""
    if config.source == "synthetic":
        return ["data.classes is not used with synthetic data"] if config.classes else []
    name = "a function" if callable(config.source) else config.source
    unused = {"image_shape", "examples", "test_examples"}
    if callable(config.source):
        unused |= {"dir", "classes", "num_classes"}
    elif not (config.source == "npz" or config.source.startswith("idx")):
        unused |= {"classes", "num_classes"}
    found = sorted(field for field in unused if getattr(config, field) != getattr(Data, field))
    return [f"data.{field} is not used with {name}" for field in found]


def _source(config: Data) -> ImageSource:
    if not isinstance(config.source, str):
        found = _of_function(config.source)
        return found if config.resize is None else _resized(found, config.resize)
    name = SHORT_NAMES.get(config.source, config.source)
    if config.source in cifar.SETS and config.dir is not None and cifar.has(_dir(config), config.source):
        name = "cifar"
    if name.startswith("tfds:"):
        return tfds.source(name.removeprefix("tfds:"), config.dir, config.resize, config.test_fraction)
    match name:
        case "synthetic":
            if config.resize is not None:
                raise ValueError("resize does not apply to synthetic data; set image_shape")
            classes = config.num_classes or CLASSES
            return synthetic.source(config.image_shape, classes, config.examples, config.test_examples)
        case "folder":
            return folder.source(_dir(config), config.resize, config.test_fraction)
        case "mnist5k":
            found = mnist5k.source()
        case "idx":
            found = idx.source(_dir(config), _class_names(config), "", config.test_fraction)
        case _ if name.startswith("idx:"):
            found = idx.source(_dir(config), _class_names(config), name.removeprefix("idx:"), config.test_fraction)
        case "npz":
            names = _class_names(config) if config.classes or config.num_classes else ()
            found = npz.source(_dir(config), names, config.test_fraction)
        case "cifar":
            chosen = config.source if config.source in cifar.SETS else ""
            found = cifar.source(_dir(config), chosen, config.test_fraction)
        case _ if name == ARRAYS:
            raise ValueError(GIVEN_IN_PYTHON.format(name))
        case _ if is_function_name(name):
            raise ValueError(NAME_OF_FUNCTION.format(name))
        case _:
            near = difflib.get_close_matches(name.casefold(), SOURCES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no data source {config.source:.60}; expected one of {', '.join(SOURCES)}{hint}")
    return found if config.resize is None else _resized(found, config.resize)


def _of_function(function: Callable[[], Any]) -> ImageSource:
    name = dotted_name(function)

    def read_splits() -> Splits:
        images = called(function, "data.source")
        if not isinstance(images, Images):
            raise ValueError(
                f"data.source {name} returned {type(images).__name__}; expected jaxai.data.Images, as"
                " jaxai.data.arrays(x, y, x_test, y_test) and jaxai.data.from_dataset(train, test) give"
            )
        images = check_images(images)
        return Splits(images.train, images.test, images.classes, images.validation, images.notes)

    return ImageSource(name, (), {}, read_splits)


def _class_names(config: Data) -> tuple[str, ...]:
    """The class names of files without class names."""
    names, number = config.classes, config.num_classes
    if names and number not in (None, len(names)):
        raise ValueError(f"data.num_classes is {number}, but data.classes has {len(names)} names; give one of them")
    return names or tuple(str(label) for label in range(number or CLASSES))


def _dir(config: Data) -> Path:
    if config.dir is None:
        what = "its npz file" if config.source == "npz" else "the folder that holds its files"
        raise ValueError(f"data source {config.source} needs --data.dir: {what}")
    return given_path(config.dir, "--data.dir").resolve()


def _resized(source: ImageSource, size: int) -> ImageSource:
    def read_splits() -> Splits:
        whole = source.read()
        for name, split in whole.named().items():
            pixels = split["image"]
            if pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3):
                raise ValueError(
                    f"data.resize is {size}, but {name} images of {source.name} are {pixels.dtype} with"
                    f" {pixels.shape[-1]} channels; only uint8 images with 1 or 3 channels are resized"
                )
        splits = {name: {**split, "image": resize_all(split["image"], size)} for name, split in whole.named().items()}
        return Splits(splits["train"], splits.get("test"), whole.classes, splits.get("validation"), whole.notes)

    return source._replace(options={**source.options, "resize": size}, read=read_splits)
