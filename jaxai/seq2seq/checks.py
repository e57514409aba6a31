"""Checks of batches and of step functions: shapes and dtypes while tracing, at no cost; values on the host.

All raise a ValueError of one line that names the array, what it is and what was expected.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxai.seq2seq.vocabulary import END

__all__ = ["check_batch", "check_first_state", "check_sequences", "check_step", "check_values"]

SOURCE, TARGET = ("source", "source_length"), ("target", "target_length")
PAIRS = SOURCE + TARGET
_AXES = {
    "source": ("batch", "S"),
    "source_length": ("batch",),
    "target": ("batch", "T"),
    "target_length": ("batch",),
    "inputs": ("batch", "T"),
    "bucket": ("batch",),
    "mask": ("batch",),
}


def check_batch(batch: Any, needed: Sequence[str] = PAIRS) -> None:
    """Refuses a batch whose arrays have another shape or dtype than a step reads; it does not check values.

    Args:
      batch: arrays by name. Tokens and lengths have any integer dtype; an optional "mask" is [batch] of any dtype.
      needed: the names that must be there.

    Raises:
      ValueError: an array is missing, or has another shape or dtype.
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"the batch is a {type(batch).__name__}; expected a dict of {_listed(needed)}")
    if missing := [name for name in needed if name not in batch]:
        there = ", ".join(map(str, batch)) or "nothing"
        raise ValueError(f"the batch has no {missing[0]}, it has {there}; expected {_listed(needed)}")
    checked = [*needed, *(name for name in ("mask",) if name in batch)]
    for name in checked:
        _check_array(name, batch[name])
    rows = {name: batch[name].shape[0] for name in checked}
    first = checked[0]
    for name, count in rows.items():
        if count != rows[first]:
            raise ValueError(f"{first} has {rows[first]} rows but {name} has {count}; expected one for each sentence")


def _check_array(name: str, array: Any) -> None:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise ValueError(f"{name} is a {type(array).__name__}; expected an array {_axes(name)} (numpy.asarray)")
    shape, rank = tuple(array.shape), len(_AXES[name])
    if len(shape) != rank:
        if len(shape) > rank and shape[-1] == 1:
            fix = f"take {name}[..., 0]"
        elif len(shape) == rank + 1:
            fix = f"from one-hot, take {name}.argmax(-1)" if rank == 2 else "give one number for each sentence"
        else:
            fix = f"a batch of one sentence is {name}[None]"
        raise ValueError(f"{name} has shape {list(shape)}; expected {_axes(name)}: {fix}")
    if 0 in shape:
        raise ValueError(f"{name} has shape {list(shape)}; expected {_axes(name)}, none of them 0")
    if name != "mask" and not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {array.dtype}; expected integers: take {name}.astype('int32')")


def check_values(
    batch: Mapping[str, Any], source_vocabulary: int, target_vocabulary: int, where: str = "the batch"
) -> None:
    """Refuses, on the host, pairs whose values would be learned wrongly without an error.

    Args:
      batch: source [pairs, S], source_length [pairs], target [pairs, T], target_length [pairs], NumPy arrays.
      source_vocabulary: size of the source's vocabulary; 0: not known.
      target_vocabulary: size of the target's vocabulary; 0: not known.
      where: what the arrays are, as "my pairs"; the message begins with it.

    Raises:
      ValueError: a shape or dtype that a step refuses, a token outside the vocabulary, a length outside 1 to the width,
        or a sequence in which END is not the last token and only there.
    """
    try:
        check_batch(batch)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for side, size in (("source", source_vocabulary), ("target", target_vocabulary)):
        try:
            check_sequences(side, batch[side], batch[f"{side}_length"], size or None)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def check_sequences(side: str, tokens: Any, lengths: Any, vocabulary: int | None = None) -> None:
    """Refuses, on the host, sequences that do not end with END or have tokens outside the vocabulary.

    Args:
      side: "source" or "target", for the message.
      tokens: [batch, time] integers.
      lengths: [batch] integers, END included.
      vocabulary: its size; None: not known.

    Raises:
      ValueError: one line that names the row.
    """
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    width = tokens.shape[1]
    if len(wrong := np.flatnonzero((lengths < 1) | (lengths > width))):
        row = wrong[0]
        raise ValueError(f"{side}_length of row {row} is {lengths[row]}; expected 1 to {width}")
    outside = (tokens < 0) if vocabulary is None else (tokens < 0) | (tokens >= vocabulary)
    if len(found := np.argwhere(outside)):
        row, place = map(int, found[0])
        expected = "at least 0" if vocabulary is None else f"0 to {vocabulary - 1}, for a vocabulary of {vocabulary}"
        raise ValueError(f"the {side} token at [{row}, {place}] is {tokens[row, place]}; expected {expected}")
    ends = tokens == END
    real = np.arange(width) < lengths[:, None]
    last = ends[np.arange(len(tokens)), lengths - 1]
    if len(wrong := np.flatnonzero(~last | ((ends & real).sum(1) != 1))):
        row = wrong[0]
        raise ValueError(
            f"the {side} of row {row} ends with {tokens[row, lengths[row] - 1]} after {lengths[row]} "
            f"tokens; expected END, which is {END}, there and only there"
        )


def check_step(step: Any, tokens: jax.Array, state: Any, begin: int, end: int) -> tuple[int, int | None]:
    """Refuses a step function that does not fit a search; traces the step once.

    Args:
      step: one step of a decoder, see `jaxai.seq2seq.decode.Step`.
      tokens: [batch, beam] int32.
      state: leaves [batch, beam, ...].
      begin: token that is fed first.
      end: token that ends a hypothesis; -1 for none.

    Returns:
      The size of the vocabulary, and the width of the attention or None.

    Raises:
      ValueError: logits, attention or state have other shapes or dtypes, or `begin` or `end` is no token.
    """
    batch, beam = tokens.shape
    logits, after, attention = jax.eval_shape(step, tokens, state)
    if len(logits.shape) != 3 or logits.shape[:2] != (batch, beam) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"the step returned logits {logits.dtype}{list(logits.shape)}; expected floats [{batch}, {beam}, "
            "vocabulary]"
        )
    if attention is not None and (len(attention.shape) != 3 or attention.shape[:2] != (batch, beam)):
        raise ValueError(
            f"the step returned attention {list(attention.shape)}; expected [{batch}, {beam}, source] or None"
        )
    before = jax.eval_shape(lambda state: state, state)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (before, after)]
    if structures[0] != structures[1]:
        raise ValueError("the step returned a state of another structure; expected the structure of the state it got")
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"the step returned {other.dtype}{list(other.shape)} for the state's leaf {name or '()'}; expected "
                f"{one.dtype}{list(one.shape)} as before the step"
            )
    vocabulary = logits.shape[2]
    for name, token, least in (("begin", begin, 0), ("end", end, -1)):
        if not least <= token < vocabulary:
            raise ValueError(f"{name} is {token}; expected a token of the vocabulary, {least} to {vocabulary - 1}")
    return vocabulary, None if attention is None else attention.shape[2]


def check_first_state(state: Any, batch: int) -> None:
    """Checks that the leaves of a first state are [batch, 1, ...]: a search repeats the second axis for hypotheses.

    Raises:
      ValueError: a leaf has another shape.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.shape(leaf)[:2] != (batch, 1):
            raise ValueError(
                f"the state's leaf {jax.tree_util.keystr(path) or '()'} has shape {list(jnp.shape(leaf))}; expected "
                f"[{batch}, 1, ...], one row for each sentence"
            )


def _axes(name: str) -> str:
    return f"[{', '.join(_AXES[name])}]"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_axes(name)}" for name in names)
