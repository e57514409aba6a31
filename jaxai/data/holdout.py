"""Splits of training data, the same in every run."""

from collections.abc import Mapping

import numpy as np

from jaxai.data.image_source import Split
from jaxai.data.text_pairs import PairSplit
from jaxai.normalisation import normalise


def stratified(labels: np.ndarray, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits positions so that every class has the same share.

    Args:
      labels: [examples] integers.
      fraction: share of each class to hold out, in [0, 1); rounded to whole examples class by class.
      seed: of the permutation inside each class.

    Returns:
      Positions kept and positions held out, both in ascending order.
    """
    # RandomState never changes, Generator may: the split must be the same in every version of NumPy.
    random = np.random.RandomState(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        held_out[random.permutation(positions)[: round(fraction * len(positions))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def hold_out(train: Split, part: str, fraction: float, argument: str) -> tuple[Split, Split, str]:
    """Holds out a share of the training images of each class; always the same images.

    Args:
      train: the training images.
      part: "test" or "validation", for the note.
      fraction: share of each class to hold out, in [0, 1).
      argument: the user's name of the fraction, for the messages.

    Returns:
      The remaining training images, those held out, and a note on their numbers.

    Raises:
      ValueError: one of the two parts would be empty.
    """
    examples = len(train["label"])
    kept, held_out = stratified(train["label"], fraction)
    if not len(kept) or not len(held_out):
        raise ValueError(
            f"{argument} {fraction} of {examples} training images holds out {len(held_out)} "
            f"and keeps {len(kept)}; expected at least one of each"
        )
    first, second = ({key: array[positions] for key, array in train.items()} for positions in (kept, held_out))
    return first, second, f"{part} split: {len(held_out)} of the {examples} training images, as {argument} asks"


def by_source(
    pairs: PairSplit, fractions: Mapping[str, float], seed: int, where: str, options: str
) -> dict[str, PairSplit]:
    """Holds out pairs so that sources with the same normalised form are in the same split.

    Args:
      pairs: the training pairs.
      fractions: split -> share of the different sources to hold out; at least one source is.
      seed: of the random choice.
      where: name of the pairs, for the message.
      options: the user's names of the fractions, for the message.

    Returns:
      `train` and each split of `fractions`.

    Raises:
      ValueError: there are too few different sources.
    """
    forms = [*map(normalise, pairs.sources)]
    different = list(dict.fromkeys(forms))
    order = np.random.default_rng(seed).permutation(len(different)).tolist()
    belongs, start = dict.fromkeys(different, "train"), 0
    for split, fraction in fractions.items():
        stop = start + max(1, round(fraction * len(different)))
        belongs.update((different[index], split) for index in order[start:stop])
        start = stop
    if start >= len(different):
        raise ValueError(
            f"{where}: {len(different)} different sources are too few to hold out {' and '.join(fractions)}; "
            f"give more pairs, or smaller {options}"
        )
    return {
        split: pairs.take([index for index, form in enumerate(forms) if belongs[form] == split])
        for split in ("train", *fractions)
    }
