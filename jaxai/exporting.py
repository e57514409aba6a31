"""A pure function with its weights in one file that only needs JAX to run (`jax.export`)."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export

from jaxai import extras
from jaxai.core import PyTree
from jaxai.ranges import Count, check_argument
from jaxai.weights import write_whole

__all__ = ["write"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write(
    path: str | os.PathLike[str],
    function: Callable[..., PyTree],
    inputs: Sequence[PyTree],
    platforms: Sequence[str],
    batch_size: int | None,
) -> Path:
    """Writes a function of batches; see `Trained.export`.

    Args:
      path: of the file; written completely or not at all.
      function: pure; the arrays in its closure become constants of the program.
      inputs: its arguments: trees of arrays or `jax.ShapeDtypeStruct`s [batch, ...].
      platforms: to lower the program for: "cpu", "cuda", "rocm", "tpu".
      batch_size: number of examples in a call; None: any number.

    Returns:
      The path of the file.

    Raises:
      ValueError: unknown platforms, a batch size below 1, a function that cannot be compiled for any batch size, or a
        path that is no file in an existing folder.
      MissingExtraError: flatbuffers is not installed (the extra `export`).
    """
    extras.load("flatbuffers", "an exported program", "export")
    platforms = (platforms,) if isinstance(platforms, str) else platforms
    if not isinstance(platforms, Sequence):
        raise ValueError(f"platforms is {platforms!r}; expected a list of some of {', '.join(PLATFORMS)}")
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise ValueError(f"platforms has {unknown[0]!r}; expected some of {', '.join(PLATFORMS)}")
    if not platforms:
        raise ValueError(f"platforms is empty; give some of {', '.join(PLATFORMS)}")
    if batch_size is not None:
        check_argument("batch_size", Count, batch_size)
    _check_inputs(inputs)
    batch: Any = export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), tuple(inputs))
    try:
        exported = export.export(jax.jit(function), platforms=list(platforms))(*shapes)
    except Exception as error:
        if batch_size is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the network cannot be compiled for a batch of any size ({reason:.120}); give batch_size=..."
        ) from error
    path = Path(path).expanduser()
    write_whole(path, bytes(exported.serialize()))
    return path


def _check_inputs(inputs: Any) -> None:
    leaves = jax.tree.leaves(inputs) if isinstance(inputs, tuple | list) else []
    if not leaves or not all(getattr(leaf, "shape", ()) and hasattr(leaf, "dtype") for leaf in leaves):
        raise ValueError(
            f"inputs is a {type(inputs).__name__}; expected a tuple of the arguments, arrays [batch, ...] or their"
            " jax.ShapeDtypeStruct: inputs=(array,)"
        )
