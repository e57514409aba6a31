"""Labelled images as NumPy arrays, whatever they come from: `load(Data(source="mnist5k"))`."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxai import ranges
from jaxai.data import cache, cifar, folder, idx, mnist5k, synthetic, tfds
from jaxai.data.holdout import stratified
from jaxai.data.image_checks import check, check_names
from jaxai.data.image_decoding import resize_all
from jaxai.data.image_source import ImageSource, Split, Splits
from jaxai.data.split_names import HOLD_OUT
from jaxai.files.paths import given_path
from jaxai.ranges import Count, ImageShape, Rate

SOURCES = ("mnist5k", "synthetic", "folder", "idx", "idx:NAME", "cifar", "cifar10", "cifar100", "mnist", "tfds:NAME")
WITHOUT_FILES = ("mnist5k", "synthetic")
SHORT_NAMES = {"mnist": "tfds:mnist", "cifar10": "tfds:cifar10", "cifar100": "tfds:cifar100"}

DARK = 0.25
"""Where no pixel of a split has this share of white, the user is told."""


@dataclass(frozen=True)
class Data:
    """Which images to learn from, and where they are."""

    source: str = "mnist5k"  # mnist5k, synthetic, folder, cifar, cifar10, cifar100, mnist, idx, idx:NAME or tfds:NAME
    dir: str | None = None  # folder that holds the files of folder, idx and cifar, or the tfds data_dir
    cache: str = "auto"  # folder for decoded arrays; auto: $JAXAI_CACHE or the user's cache folder; off: keep none
    resize: Count | None = None  # pixels a side: the shorter side of each image is scaled to it, the centre cropped
    test_fraction: Rate = 0.0  # share of the training images of each class to test on, where there is no test split
    validation_fraction: Rate = 0.0  # share of the training images of each class to hold out for validation, below 1
    image_shape: ImageShape = (32, 32, 3)  # height, width and channels of synthetic images
    num_classes: Count = 10  # number of classes of synthetic data and of idx files, which do not tell it
    examples: Count = 50_000  # number of synthetic training images
    test_examples: Count = 10_000  # number of synthetic test images


@dataclass(frozen=True, eq=False)
class Images:
    """One labelled set for image classification.

    Each split is {"image": uint8 in [0, 255], or float32 in [0, 1], [examples, height, width, channels], "label":
    integers [examples]}.

    Attributes:
      train: to learn from.
      test: to measure the result on.
      classes: the class names, in label order.
      name: the source that it was loaded from.
      validation: to choose by; None unless the source has one, or `validation_fraction` asks for it.
      notes: what loading skipped or decided, one sentence each, to be shown to the user.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    name: str
    validation: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train["image"].shape[1:]
        return height, width, channels


def check_images(images: Images) -> Images:
    """What every set passes before anything is learnt from it, wherever it comes from.

    Returns:
      The same, with labels as int32, images of bool as uint8, black and white, and notes on what looks like a mistake.

    Raises:
      ValueError: an array would train silently wrong, or the splits do not fit together; one line that names the
        split, the index, the value and the fix.
    """
    if not isinstance(images, Images):
        raise ValueError(
            f"images are a {type(images).__name__}; expected jaxai.data.Images(train, test, classes, name)"
        )
    check_names(images.classes, images.name)
    splits = {name: getattr(images, name) for name in ("train", "test", "validation")}
    for name, split in splits.items():
        where = f"{images.name} {name}"
        if split is None and name == "validation":
            continue
        if not isinstance(split, dict) or set(split) != {"image", "label"}:
            found = ", ".join(map(str, split)) if isinstance(split, dict) else f"a {type(split).__name__}"
            raise ValueError(f"{where} is {found}; expected a dict of image and label")
        check(split["image"], split["label"], len(images.classes), where)
        shape, expected = split["image"].shape[1:], images.shape
        if shape != expected:
            raise ValueError(
                f"{images.name}: training images are {expected}, but {name} images {shape}; bring them to one size "
                "(--data.resize)"
            )
        splits[name] = _as_the_steps_take_it(split)
    notes = [*images.notes, *_without_examples(images.classes, splits), *_dark(splits), *_seen_in_training(splits)]
    return replace(images, **splits, notes=tuple(dict.fromkeys(notes)))


def _as_the_steps_take_it(split: Split) -> Split:
    pixels, labels = split["image"], split["label"].astype(np.int32, copy=False)
    return {"image": pixels * np.uint8(255) if pixels.dtype == np.bool_ else pixels, "label": labels}


def load(config: Data) -> Images:
    """Read a set of images, from the cache of decoded arrays where it can.

    Raises:
      FileNotFoundError: the data is not there; one line says where it was looked for and what prepares it.
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
        train, test = _held_out(train, "test", config.test_fraction, notes)
    elif config.test_fraction:
        raise ValueError(
            f"data.test_fraction is {config.test_fraction}, but {source.name} has a test split: leave it out"
        )
    validation = found.validation
    if config.validation_fraction:
        if validation is not None:
            notes.append("the validation split of the data is not used: validation_fraction asks for another")
        train, validation = _held_out(train, "validation", config.validation_fraction, notes)
    return check_images(Images(train, test, found.classes, source.name, validation, tuple(notes)))


def _check_fields(config: Data) -> None:
    for name in ("source", "dir", "cache"):
        if (text := getattr(config, name)) is not None and not text.strip():
            raise ValueError(f"data.{name} is empty; give --data.{name} a value, or leave it out")
    if config.dir is not None and config.source in WITHOUT_FILES:
        raise ValueError(
            f"data.dir is {config.dir!r}, but the source {config.source} reads no files of yours: choose another, as"
            " --data.source folder, or leave data.dir out"
        )


def _unused_fields(config: Data) -> list[str]:
    """A set that was read is as large as it is; who asks for 100 examples of it should know."""
    fields = {"image_shape", "num_classes", "examples", "test_examples"}
    if config.source == "synthetic":
        return []
    if config.source.startswith("idx"):
        fields.remove("num_classes")
    unused = sorted(name for name in fields if getattr(config, name) != getattr(Data, name))
    return [f"data.{name} is of synthetic data, and not used with {config.source}" for name in unused]


def _without_examples(classes: tuple[str, ...], splits: dict[str, Split | None]) -> list[str]:
    notes = [f"one class only: {classes[0]}"] if len(classes) == 1 else []
    for part, split in splits.items():
        if split is None:
            continue
        name = "training" if part == "train" else part
        there = set(np.unique(split["label"]).tolist())
        if absent := [each for label, each in enumerate(classes) if label not in there]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(f"no {name} images of {len(absent)} of {len(classes)} classes: {', '.join(absent[:5])}{more}")
    return notes


def _dark(splits: dict[str, Split | None]) -> list[str]:
    """Digits of scikit-learn go to 16, and floats may have been divided once too often."""
    notes = []
    for name, split in splits.items():
        if split is not None:
            white = 255 if split["image"].dtype == np.uint8 else 1
            brightest = float(split["image"].max())
            if brightest < DARK * white:
                notes.append(
                    f"{name}: the brightest pixel is {brightest:g}, where white is {white}: multiply if these are of"
                    " another range"
                )
    return notes


def _seen_in_training(splits: dict[str, Split | None]) -> list[str]:
    def hashes(images: np.ndarray) -> list[int]:
        return [hash(image.tobytes()) for image in images]

    notes, trained = [], splits["train"]
    known = set(hashes(trained["image"])) if trained else set()
    for name in ("validation", "test"):
        if (split := splits[name]) and (seen := sum(each in known for each in hashes(split["image"]))):
            notes.append(f"{name}: {seen} of {len(split['image'])} images are among those of the training")
    return notes


def _source(config: Data) -> ImageSource:
    name = SHORT_NAMES.get(config.source, config.source)
    if config.source in cifar.SETS and config.dir is not None and cifar.has(_dir(config), config.source):
        name = "cifar"
    if name.startswith("tfds:"):
        return tfds.source(name.removeprefix("tfds:"), config.dir, config.resize, config.test_fraction)
    match name:
        case "synthetic":
            if config.resize is not None:
                raise ValueError("resize does not apply to synthetic data; set image_shape")
            return synthetic.source(config.image_shape, config.num_classes, config.examples, config.test_examples)
        case "folder":
            return folder.source(_dir(config), config.resize, config.test_fraction)
        case "mnist5k":
            found = mnist5k.source()
        case "idx":
            found = idx.source(_dir(config), config.num_classes, "", config.test_fraction)
        case _ if name.startswith("idx:"):
            found = idx.source(_dir(config), config.num_classes, name.removeprefix("idx:"), config.test_fraction)
        case "cifar":
            chosen = config.source if config.source in cifar.SETS else ""
            found = cifar.source(_dir(config), chosen, config.test_fraction)
        case _:
            near = difflib.get_close_matches(name.casefold(), SOURCES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no data source {config.source:.60}; expected one of {', '.join(SOURCES)}{hint}")
    return found if config.resize is None else _resized(found, config.resize)


def _dir(config: Data) -> Path:
    if config.dir is None:
        raise ValueError(f"data source {config.source} needs --data.dir: the folder that holds its files")
    return given_path(config.dir, "--data.dir").resolve()


def _resized(source: ImageSource, size: int) -> ImageSource:
    def read_splits() -> Splits:
        whole = source.read()
        splits = {name: {**split, "image": resize_all(split["image"], size)} for name, split in whole.named().items()}
        return Splits(splits["train"], splits.get("test"), whole.classes, splits.get("validation"), whole.notes)

    return source._replace(options={**source.options, "resize": size}, read=read_splits)


def _held_out(train: Split, part: str, fraction: float, notes: list[str]) -> tuple[Split, Split]:
    """What is left of the training images, and what is held out of each class; always the same ones."""
    examples = len(train["label"])
    kept, held_out = stratified(train["label"], fraction)
    if not len(kept) or not len(held_out):
        raise ValueError(
            f"{part}_fraction {fraction} of {examples} training images holds out {len(held_out)} "
            f"and keeps {len(kept)}; expected at least one of each"
        )
    notes.append(f"{part} split: {len(held_out)} of the {examples} training images, as {part}_fraction asks")
    first, second = ({key: array[positions] for key, array in train.items()} for positions in (kept, held_out))
    return first, second
