"""Checks, before allocation, that data fits into the memory of this machine."""

import math
import os

import numpy as np

LABEL_BYTES = 16
"""Bytes of a label and of its index in the order of an epoch."""


def new_images(examples: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised uint8 images [examples, *shape]; raises as `check_images_fit`."""
    check_images_fit(examples, shape)
    return np.empty((examples, *shape), np.uint8)


def check_images_fit(examples: int, shape: tuple[int, ...]) -> None:
    """Raises ValueError where this number of uint8 images of a shape, with their labels, does not fit into memory."""
    check_memory(examples * (math.prod(shape) + LABEL_BYTES), f"{examples:,} images of shape {list(shape)}")


def check_memory(needed: int, what: str) -> None:
    """Raises ValueError where `needed` bytes are more than this machine has; `what` begins the message."""
    there = _memory()
    if needed > there:
        sizes = f"{needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f}"
        raise ValueError(f"{what} take {sizes}; take fewer or smaller ones")


def _memory() -> int:
    """Bytes of memory of this machine; 1 PiB where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**50
