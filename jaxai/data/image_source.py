"""A source of images: the files that it consists of, and the function that reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Split = dict[str, np.ndarray]
"""{"image": uint8 [examples, height, width, channels], "label": int32 [examples]}."""


class Splits(NamedTuple):
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

    def named(self) -> dict[str, Split]:
        """Name -> arrays, of the splits that are there."""
        named = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: split for name, split in named.items() if split is not None}


class ImageSource(NamedTuple):
    """A set of images that was found and is not read yet.

    Attributes:
      name: as in the configuration: "mnist5k", "tfds:mnist".
      files: every file that the arrays depend on; their sizes and times decide whether a cached copy is still good.
        Empty for data that needs no cache.
      options: whatever else the arrays depend on; numbers, strings and lists.
      read: reads the files. Raises ValueError, in one line that names the file.
      where: the folder of the source, where files may be added to it later; "": the files are the source.
      notes: what was skipped or decided by the names of the files alone, one sentence each, to be shown to the user.
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
