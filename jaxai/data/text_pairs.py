"""Pairs of a source text and a target text, in three splits, and the check of a complete set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxai.normalisation import normalise

__all__ = ["PAIRS", "TASKS", "PairSplit", "Pairs", "ReadSplit", "check_pairs", "without_empty"]

PAIRS = "pairs"
"""The source of pairs that were given in Python."""
TASKS = ("translation", "pronunciation", "transformation")


class PairSplit(NamedTuple):
    """Aligned texts.

    Attributes:
      sources: input texts.
      targets: output texts, one for each source.
      references: all correct targets of each source, where there are several; else None.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    references: tuple[tuple[str, ...], ...] | None = None

    def answers(self) -> tuple[tuple[str, ...], ...]:
        """The correct targets of each source: its references, or else its target."""
        return tuple((target,) for target in self.targets) if self.references is None else self.references

    def take(self, positions: Sequence[int] | np.ndarray) -> "PairSplit":
        """The pairs at `positions`, in that order."""
        fields = (None if field is None else tuple(field[index] for index in positions) for field in self)
        return PairSplit(*fields)  # type: ignore[arg-type]  # mypy takes the three fields for one type


@dataclass(frozen=True, eq=False)
class Pairs:
    """One set of pairs.

    Attributes:
      train: training pairs; vocabularies are built from them.
      validation: pairs for choosing the best checkpoint.
      test: pairs for the final scores.
      name: of the source.
      task: "translation", "pronunciation" or "transformation": determines the scores.
      notes: what loading left out or decided, one sentence each, to show to the user.
      origin: the `TextData` that loads the same pairs again; None for pairs given in Python.
    """

    train: PairSplit
    validation: PairSplit
    test: PairSplit
    name: str
    task: str
    notes: tuple[str, ...] = ()
    origin: Any = None


def check_pairs(pairs: Pairs) -> Pairs:
    """Checks pairs from any source, before training or evaluation, and returns them.

    Args:
      pairs: texts in three splits.

    Raises:
      ValueError: a split is empty, its sides differ in number, a text is not a string, or the task is unknown.
    """
    if not isinstance(pairs, Pairs):
        raise ValueError(
            f"the pairs are a {type(pairs).__name__}; expected jaxai.data.Pairs, as"
            " jaxai.data.pairs(sources, targets) gives"
        )
    if pairs.task not in TASKS:
        raise ValueError(f"the pairs' task is {pairs.task!r}; expected one of {', '.join(TASKS)}")
    for name in ("train", "validation", "test"):
        split = getattr(pairs, name)
        counts = {side: len(texts) for side, texts in zip(split._fields, split, strict=True) if texts is not None}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count} {side}" for side, count in counts.items())
            raise ValueError(f"the {name} pairs have {found}; expected the same number of each")
        if not split.sources:
            raise ValueError(f"there are no {name} pairs; expected at least one")
        for side, texts in (("source", split.sources), ("target", split.targets)):
            if isinstance(texts, str):
                raise ValueError(f"the {name} {side}s are one str; expected a tuple of texts")
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    raise ValueError(f"{name} {side} {index} is a {type(text).__name__}; expected a str")
        for index, answers in enumerate(split.references or ()):
            if isinstance(answers, str) or not answers:
                raise ValueError(f"{name} references {index} are {answers!r}; expected a tuple of at least one text")
    return pairs


class ReadSplit(NamedTuple):
    """One split, with a note from reading it.

    Attributes:
      split: the pairs, at least one.
      note: number of pairs that were left out because a side was empty; None: no pair.
    """

    split: PairSplit
    note: str | None


def without_empty(pairs: Sequence[tuple[str, str]], place: Callable[[int, int], str], empty: str) -> ReadSplit:
    """The pairs with text on both sides, without surrounding white space.

    Args:
      pairs: sources and targets.
      place: (index of a pair, 0 for source or 1 for target) -> location of that text, for the message.
      empty: "error" or "drop".

    Raises:
      ValueError: an empty text with `empty="error"`, or nothing left.
    """
    kept, first = [], ""
    for index, pair in enumerate(pairs):
        source, target = pair[0].strip(), pair[1].strip()
        side = 0 if not normalise(source) else 1 if not normalise(target) else None
        if side is None:
            kept.append((source, target))
        elif empty == "error":
            raise ValueError(
                f"{place(index, side)}: empty; expected text (training can drop such pairs: --data.empty drop)"
            )
        else:
            first = first or place(index, side)
    if not kept:
        raise ValueError(f"{place(max(len(pairs) - 1, 0), 0)}: no pair of texts up to here; expected at least one")
    dropped = len(pairs) - len(kept)
    note = f"{dropped} of {len(pairs)} pairs dropped for an empty side, the first at {first}" if dropped else None
    sources, targets = zip(*kept, strict=True)
    return ReadSplit(PairSplit(sources, targets), note)
