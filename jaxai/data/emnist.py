"""EMNIST (Cohen et al. 2017): its transposed images, its sets of classes, and its letters, which are labelled from 1.

The files are those that NIST published, in idx (emnist-letters-train-images-idx3-ubyte) and in tfds (emnist/letters).
"""

import string
from collections.abc import Mapping

import numpy as np

from jaxai.data.image_source import Split

MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
"""Lower-case letters that look like upper-case ones are in the same class."""
CLASSES = {
    "balanced": tuple(MERGED),
    "bymerge": tuple(MERGED),
    "byclass": tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase),
    "letters": tuple(string.ascii_uppercase),
    "digits": tuple(string.digits),
    "mnist": tuple(string.digits),
}
"""The class names of each set, in label order."""
TRAINING_IMAGES = (88_800, 112_800, 124_800, 240_000, 697_932)
"""Numbers of training images that only EMNIST has, to detect renamed files."""
RENAMED = "the number of images is EMNIST's, whose images are transposed: give its files their published names if so"
NOTE = "EMNIST: its transposed images are upright here{}"
FROM_ONE = ", and its labels, which count from 1, count from 0"


def variant(name: str) -> str | None:
    """The set in a name such as "emnist-letters" or "emnist/letters"; None where it is no set of EMNIST."""
    first, _, rest = name.casefold().replace("/", "-").partition("-")
    return rest if first == "emnist" and rest in CLASSES else None


def upright(variant: str, splits: Mapping[str, Split]) -> tuple[dict[str, Split], str]:
    """The splits with upright images and labels from 0, and a note on the changes."""
    # The published letters are 1 to 26; a copy with labels from 0 is not shifted again.
    shift = int(variant == "letters" and min(part["label"].min(initial=1) for part in splits.values()) > 0)
    turned = {
        name: {
            "image": np.ascontiguousarray(part["image"].transpose(0, 2, 1, 3)),
            "label": part["label"] - np.int32(shift),
        }
        for name, part in splits.items()
    }
    return turned, NOTE.format(FROM_ONE if shift else "")
