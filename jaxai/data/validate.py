"""The one check that every labelled image passes, whether it was read from a file or handed over in Python."""

import numpy as np

FINITE_BLOCK = 4096
"""Float images are searched for NaN in blocks of this many, so that the search costs no copy of the whole set."""


def check(images: np.ndarray, labels: np.ndarray, num_classes: int, source: str) -> None:
    """Refuse arrays that would train silently wrong.

    Args:
      images: [examples, height, width, channels] uint8 in [0, 255], or float32, all finite.
      labels: [examples] of any integer dtype, each in [0, num_classes).
      num_classes: number of classes.
      source: where the arrays come from (a file name, "training arrays"); it begins the message.

    Raises:
      ValueError: one line that names the source, the index where there is one, the value and what was expected.
    """
    for name, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{source}: {name} are a {type(array).__name__}; expected a NumPy array (numpy.asarray)")
    _check_images(images, source)
    _check_labels(labels, num_classes, source)
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels; expected one label an image")
    if len(images) == 0:
        raise ValueError(f"{source}: no examples; expected at least one")


def _check_images(images: np.ndarray, source: str) -> None:
    if images.dtype not in (np.uint8, np.float32):
        raise ValueError(f"{source}: images have dtype {images.dtype}; expected uint8 or float32")
    if images.ndim != 4 or 0 in images.shape[1:]:
        hint = "; add the channel axis with images[..., None]" if images.ndim == 3 else ""
        raise ValueError(
            f"{source}: images have shape {list(images.shape)}; expected [examples, height, width, channels]{hint}"
        )
    if images.dtype != np.float32:
        return
    for start in range(0, len(images), FINITE_BLOCK):
        finite = np.isfinite(images[start : start + FINITE_BLOCK])
        if not finite.all():
            first = np.argwhere(~finite)[0]
            value = images[start + first[0], first[1], first[2], first[3]]
            index = [int(start + first[0]), *map(int, first[1:])]
            raise ValueError(f"{source}: the pixel at index {index} is {value}; expected finite numbers")


def _check_labels(labels: np.ndarray, num_classes: int, source: str) -> None:
    if labels.ndim != 1:
        hint = "; from one-hot, take labels.argmax(-1)" if labels.ndim == 2 else ""
        raise ValueError(f"{source}: labels have shape {list(labels.shape)}; expected [examples]{hint}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{source}: labels have dtype {labels.dtype}; expected integers, as int32")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{source}: the label at index {wrong[0]} is {labels[wrong[0]]}; expected 0 to {num_classes - 1}, "
            f"for {num_classes} classes"
        )
