"""What a source of images is: the files it stands on, and the function that decodes them."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Split = dict[str, np.ndarray]
"""{"image": uint8 [examples, height, width, channels], "label": int32 [examples]}."""

LABEL_BYTES = 16
"""Bytes of a label, and of what its order is drawn with."""


class Decoded(NamedTuple):
    """The splits as arrays.

    Attributes:
      train: to learn from.
      test: None where the source has no test set of its own.
      classes: the class names, in label order.
      validation: None where the source has none.
      notes: what was decided while the files were read, one sentence each, to be shown to the user.
    """

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    validation: Split | None = None
    notes: tuple[str, ...] = ()

    def splits(self) -> dict[str, Split]:
        """Name -> arrays, of the splits that are there."""
        named = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: split for name, split in named.items() if split is not None}


class Source(NamedTuple):
    """A set of images that was found, and is not read yet.

    Attributes:
      name: as the user calls it: "mnist5k", "tfds:mnist".
      files: every file that the arrays depend on; their sizes and times decide whether a cached copy is still good.
        Empty for data that is made, not read, which is never cached.
      options: whatever else the arrays depend on; numbers, strings and lists.
      decode: reads the files. Raises ValueError, in one line that names the file.
      where: the place whose content the source is, if `files` may become others there; "": the files are the source.
      notes: what was skipped or decided by the names of the files alone, one sentence each, to be shown to the user.
    """

    name: str
    files: tuple[Path, ...]
    options: Mapping[str, object]
    decode: Callable[[], Decoded]
    where: str = ""
    notes: tuple[str, ...] = ()


def split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Images and labels as contiguous uint8 and int32 arrays."""
    return {"image": np.ascontiguousarray(images), "label": np.ascontiguousarray(labels, dtype=np.int32)}


def new_images(examples: int, shape: tuple[int, ...]) -> np.ndarray:
    """Room for so many images of a shape, uint8; raises as `check_images_fit`."""
    check_images_fit(examples, shape)
    return np.empty((examples, *shape), np.uint8)


def check_images_fit(examples: int, shape: tuple[int, ...]) -> None:
    """Raises ValueError where so many uint8 images of a shape, and their labels, do not fit into memory."""
    check_memory(examples * (math.prod(shape) + LABEL_BYTES), f"{examples:,} images of shape {list(shape)}")


def check_memory(needed: int, what: str) -> None:
    """Raises ValueError where `needed` bytes are more than this machine has; `what` begins the message."""
    there = _memory()
    if needed > there:
        sizes = f"{needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f}"
        raise ValueError(f"{what} take {sizes}; take fewer or smaller ones")


def _memory() -> int:
    """Bytes of memory of this machine; what no machine has where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**50
