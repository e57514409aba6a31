"""What a source of images is: the files it stands on, and the function that decodes them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Split = dict[str, np.ndarray]
"""{"image": uint8 [examples, height, width, channels], "label": int32 [examples]}."""


class Decoded(NamedTuple):
    """Both splits as arrays, and the class names in label order."""

    train: Split
    test: Split
    classes: tuple[str, ...]


class Source(NamedTuple):
    """A set of images that was found, and is not read yet.

    Attributes:
      name: as the user calls it: "mnist5k", "tfds:mnist".
      files: every file that the arrays depend on; their sizes and times decide whether a cached copy is still good.
        Empty for data that is made, not read, which is never cached.
      options: whatever else the arrays depend on; numbers, strings and lists.
      decode: reads the files. Raises ValueError, in one line that names the file.
    """

    name: str
    files: tuple[Path, ...]
    options: Mapping[str, object]
    decode: Callable[[], Decoded]


def split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Images and labels as contiguous uint8 and int32 arrays."""
    return {"image": np.ascontiguousarray(images), "label": np.ascontiguousarray(labels, dtype=np.int32)}
