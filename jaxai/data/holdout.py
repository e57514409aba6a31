"""Stratified splits that no run's seed changes."""

import numpy as np


def stratified(labels: np.ndarray, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split positions so that every class gives the same share.

    Args:
      labels: [examples] integers.
      fraction: share of each class to hold out, in [0, 1); rounded to whole examples class by class.
      seed: of the permutation inside each class.

    Returns:
      Positions kept and positions held out, both in ascending order.
    """
    # RandomState is frozen for good, Generator is not: the split must be the same under every NumPy.
    random = np.random.RandomState(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        held_out[random.permutation(positions)[: round(fraction * len(positions))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
