"""Labelled images as NumPy arrays, their configuration, and the check of a complete set."""

from dataclasses import dataclass, replace

import numpy as np

from jaxai.data.image_checks import check, check_names
from jaxai.data.image_source import Split
from jaxai.data.source_option import Source
from jaxai.ranges import Count, ImageShape, Rate

__all__ = ["ARRAYS", "Data", "Images", "check_images"]

ARRAYS = "arrays"
"""The source of data that was given in Python."""
DARK = 0.25
"""Share of white below which the brightest pixel of a split causes a note."""


@dataclass(frozen=True)
class Data:
    """The images to train on, and their location.

    In a preset `source` may also be a function without arguments that returns `Images`, as `jaxai.data.arrays` and
    `jaxai.data.from_dataset` do; on the command line it is `package.module:function`.
    """

    source: Source = "mnist5k"  # mnist5k, synthetic, folder, npz, idx[:NAME], cifar10, tfds:NAME, or module:function
    dir: str | None = None  # folder with the files of folder, idx and cifar; the npz file; or the tfds data_dir
    cache: str = "auto"  # folder for decoded arrays; auto: $JAXAI_CACHE or the user's cache folder; off: no cache
    resize: Count | None = None  # pixels per side: scale the shorter side of each image to it, crop the centre
    test_fraction: Rate = 0.0  # share of the training images of each class to test on, where there is no test split
    validation_fraction: Rate = 0.0  # share of the training images of each class to hold out for validation, below 1
    classes: tuple[str, ...] = ()  # class names of npz and idx files, in label order; none: the file's, or numbers
    image_shape: ImageShape = (32, 32, 3)  # height, width and channels of synthetic images
    num_classes: Count | None = None  # number of classes of synthetic, idx and npz data; None: 10, npz: from its labels
    examples: Count = 50_000  # number of synthetic training images
    test_examples: Count = 10_000  # number of synthetic test images


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images: a training split, a test split and an optional validation split; see `arrays` and `load`.

    Each split is {"image": uint8 in [0, 255], or float32 in [0, 1], [examples, height, width, channels], "label":
    integers [examples]}.

    Attributes:
      train: training images.
      test: images for the final results.
      classes: class names, in label order.
      name: of the source.
      validation: images for choosing the best checkpoint; None unless the source has them or a fraction is held out.
      notes: what loading skipped or decided, one sentence each, to show to the user.
      origin: the configuration that loads the same images again; `Data("arrays")` for arrays given in Python.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    name: str
    validation: Split | None = None
    notes: tuple[str, ...] = ()
    origin: Data = Data(source=ARRAYS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train["image"].shape[1:]
        return height, width, channels


def check_images(images: Images) -> Images:
    """Checks a set of images from any source, before training or evaluation.

    Args:
      images: splits as described in `Images`; labels of any integer dtype, and images of bool, are converted.

    Returns:
      The same, with labels as int32, images of bool as uint8 (0 and 255), and notes on probable mistakes.

    Raises:
      ValueError: an array would give wrong results without an error, or the splits do not fit together; one line that
        names the split, the index, the value and the fix.
    """
    if not isinstance(images, Images):
        raise ValueError(
            f"images are a {type(images).__name__}; expected jaxai.data.Images, as"
            " jaxai.data.arrays(x, y, x_test, y_test) gives"
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
    """Notes on dark splits: the digits of scikit-learn are 0 to 16, and floats may have been divided twice."""
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
