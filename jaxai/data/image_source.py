"""A source of images: its files, and the function that reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Split = dict[str, np.ndarray]
"""{"image": uint8 [examples, height, width, channels], "label": int32 [examples]}."""


class Splits(NamedTuple):
    """The splits as arrays.

    Attributes:
      train: training images.
      test: test images; None where the source has none.
      classes: class names, in label order.
      validation: None where the source has none.
      notes: decisions made while reading the files, one sentence each, to show to the user.
    """

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    validation: Split | None = None
    notes: tuple[str, ...] = ()

    def named(self) -> dict[str, Split]:
        """Name -> arrays, for the splits that exist."""
        named = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: split for name, split in named.items() if split is not None}


class ImageSource(NamedTuple):
    """A set of images that was found and is not read yet.

    Attributes:
      name: as in the configuration: "mnist5k", "tfds:mnist".
      files: all files that the arrays depend on; their sizes and times determine whether a cached copy is valid. Empty
        for data that is not cached.
      options: other values that the arrays depend on: numbers, strings and lists.
      read: reads the files. Raises ValueError, in one line that names the file.
      where: folder of the source, where files may be added later; "": the source is the files alone.
      notes: what was skipped or decided from the names of the files, one sentence each, to show to the user.
    """

    name: str
    files: tuple[Path, ...]
    options: Mapping[str, object]
    read: Callable[[], Splits]
    where: str = ""
    notes: tuple[str, ...] = ()


def split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Images and labels as contiguous uint8 and int32 arrays."""
    return {"image": np.ascontiguousarray(images), "label": np.ascontiguousarray(labels, dtype=np.int32)}
