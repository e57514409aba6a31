"""Pairs of sequences in length buckets: a fixed set of shapes, and batches of about the same number of tokens.

Padding every pair to the longest one wastes most of the computation, and a shape for each length compiles a program for
each. A few shapes that fit the lengths need only a few per cent of padding.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxai.core import Key
from jaxai.data.epochs import permutation

__all__ = ["Bucket", "BucketedEpochs", "Buckets", "choose_buckets", "most_rows", "padding", "row_positions"]

ROWS_MULTIPLE = 8
"""The number of rows is a multiple of this where possible, so that a batch can be split over this number of devices."""


class Bucket(NamedTuple):
    """The shape of a batch.

    Attributes:
      source: maximum number of tokens of a source.
      target: maximum number of tokens of a target.
      rows: number of pairs.
    """

    source: int
    target: int
    rows: int


class Buckets(NamedTuple):
    """Buckets, and the index of the bucket of each pair.

    Attributes:
      shapes: the buckets.
      of: [pairs] int32, index into `shapes`.
    """

    shapes: tuple[Bucket, ...]
    of: np.ndarray


def choose_buckets(sources: np.ndarray, targets: np.ndarray, number: int, tokens: int) -> Buckets:
    """Splits pairs by length into at most `number` buckets with little padding.

    Starts with one bucket for all pairs, and repeatedly splits the bucket whose best cut, along the length of sources
    or targets, saves the most padding.

    Args:
      sources: [pairs] int, number of tokens of each source.
      targets: [pairs] int, number of tokens of each target.
      number: maximum number of buckets.
      tokens: number of tokens of a batch, with padding, on its longer side; it determines the rows of a bucket.

    Raises:
      ValueError: no pairs, fewer than one bucket, or too few tokens for the longest pair.
    """
    if number < 1:
        raise ValueError(f"buckets is {number}; it must be at least 1")
    if not len(sources):
        raise ValueError("there are no pairs to train on; expected at least one")
    longest = int(max(sources.max(), targets.max()))
    if tokens < longest:
        raise ValueError(f"tokens is {tokens}, too few for the longest sequence of {longest}; give at least {longest}")
    groups = [np.arange(len(sources))]
    cuts = [_best_cut(groups[0], sources, targets)]
    while len(groups) < number:
        widest = int(np.argmax([saved for saved, _ in cuts]))
        saved, parts = cuts[widest]
        if not saved:
            break
        del groups[widest], cuts[widest]
        groups += parts
        cuts += [_best_cut(part, sources, targets) for part in parts]
    groups.sort(key=lambda group: (int(targets[group].max()), int(sources[group].max())))
    of = np.empty(len(sources), np.int32)
    shapes = []
    for index, group in enumerate(groups):
        of[group] = index
        source, target = int(sources[group].max()), int(targets[group].max())
        rows = min(tokens // max(source, target), len(group))
        shapes.append(Bucket(source, target, rows - rows % ROWS_MULTIPLE or rows))
    return Buckets(tuple(shapes), of)


def _best_cut(group: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> tuple[int, list[np.ndarray]]:
    """The padding that the best cut of a bucket saves, and its two parts; 0 where it cannot be cut."""
    source, target = sources[group], targets[group]
    whole = len(group) * int(source.max() + target.max())
    best: tuple[int, list[np.ndarray]] = (0, [])
    for along in (source, target):
        order = np.argsort(along, kind="stable")
        cuts = np.flatnonzero(np.diff(along[order])) + 1
        # A part that cannot fill a batch would never be trained on.
        cuts = cuts[(cuts >= ROWS_MULTIPLE) & (len(group) - cuts >= ROWS_MULTIPLE)]
        if not len(cuts):
            continue
        below = [np.maximum.accumulate(side[order])[cuts - 1] for side in (source, target)]
        above = [np.maximum.accumulate(side[order][::-1])[::-1][cuts] for side in (source, target)]
        costs = cuts * (below[0] + below[1]) + (len(group) - cuts) * (above[0] + above[1])
        if whole - (cost := int(costs.min())) > best[0]:
            cut = cuts[costs.argmin()]
            best = whole - cost, [group[order[:cut]], group[order[cut:]]]
    return best


def padding(buckets: Buckets, sources: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Number of tokens with padding, divided by the number without; 1: no padding.

    Args:
      buckets: from `choose_buckets`.
      sources, targets: [pairs] int, number of tokens of each.

    Returns:
      The ratios of the sources and of the targets.
    """
    shapes = np.array([shape[:2] for shape in buckets.shapes])
    padded = shapes[buckets.of].sum(0)
    return float(padded[0] / sources.sum()), float(padded[1] / targets.sum())


class BucketedEpochs:
    """`data.Epochs` for buckets: every batch has pairs of one bucket, and the order of batches is random in each epoch.

    A batch always has `batch_size` rows of indices. Where its bucket has fewer rows, they are at `row_positions`, so
    that each device gets the same number of them. The other rows repeat the first pair of the batch and must not be
    read.

    Attributes:
      examples: number of pairs.
      batch_size: largest number of rows of a bucket.
      batches: number of steps in an epoch; pairs that do not fill a batch are left out of that epoch.
    """

    def __init__(self, key: Key, buckets: Buckets) -> None:
        members = [np.flatnonzero(buckets.of == index) for index in range(len(buckets.shapes))]
        counts = [len(member) // shape.rows for member, shape in zip(members, buckets.shapes, strict=True)]
        self.examples, self.batches = len(buckets.of), sum(counts)
        self.batch_size = most_rows(buckets.shapes)

        @functools.lru_cache(maxsize=2)
        def batches_of(epoch: int) -> np.ndarray:
            order = np.asarray(permutation(key, epoch, self.examples))
            shuffled = [order[buckets.of[order] == index] for index in range(len(buckets.shapes))]
            batches = np.empty((self.batches, self.batch_size), np.int32)
            start = 0
            for shape, count, pairs in zip(buckets.shapes, counts, shuffled, strict=True):
                chosen = pairs[: count * shape.rows].reshape(count, shape.rows)
                batches[start : start + count] = chosen[:, :1]
                batches[start : start + count, row_positions(shape.rows, self.batch_size)] = chosen
                start += count
            return batches[np.asarray(permutation(key, epoch, self.batches))]

        self._batches_of = batches_of

    def host_indices(self, step: int, steps: int) -> np.ndarray:
        """The pairs of the steps [step, step + steps): [steps, batch_size] int32 on the host.

        Raises:
          ValueError: `step` is below 0, or `steps` below 1.
        """
        if step < 0 or steps < 1:
            raise ValueError(f"step is {step} and steps {steps}; expected at least 0 and 1")
        places = [divmod(each, self.batches) for each in range(step, step + steps)]
        return np.stack([self._batches_of(epoch)[batch] for epoch, batch in places])


def most_rows(shapes: Sequence[Bucket]) -> int:
    """The largest number of rows of these buckets."""
    return max(shape.rows for shape in shapes)


def row_positions(rows: int, of: int) -> np.ndarray:
    """Positions of `rows` rows among `of` rows, spread evenly: [rows] int.

    Each of `n` devices with `of / n` consecutive rows finds its `rows / n` at `row_positions(rows / n, of / n)`.
    """
    return np.arange(rows) * of // rows
