"""Non-finite gradients and parameters: which, where, and a dump of the step that can be run again.

The loss is not enough: a relu turns a NaN into 0, which leaves a normal loss over useless weights.
"""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxai.core import PyTree, State, Workload
from jaxai.files.array_files import read_arrays
from jaxai.files.unwritten import writing
from jaxai.runtime.checkpoint import restore_once, save_once
from jaxai.runtime.run_folder import RunFolder

__all__ = ["NonFiniteError", "dump", "rerun"]

FAULT = "fault"
"""The kind of problem that an environment causes."""
MOST_NAMED = 20
"""Largest number of indices or names of one kind in a message; the dump has all."""


class NonFiniteError(FloatingPointError):
    """A step produced a non-finite value.

    Attributes:
      step: the first such step, counted from 0.
    """

    def __init__(self, step: int, message: str = ""):
        super().__init__(message or f"step {step} produced a non-finite value")
        self.step = step


def dump(folder: RunFolder, state: State, batch: Mapping[str, np.ndarray] | None, workload: Workload) -> NonFiniteError:
    """Writes the state and the batch of the failed step, and returns an error that describes it.

    Args:
      folder: of the run; the dump goes to `nonfinite/`.
      state: before the step.
      batch: of the step, on the host.
      workload: made for one device.
    """
    step = int(state.step)
    found = _find(state, batch, workload)
    indices = [] if batch is None or "index" not in batch else [int(i) for i in batch["index"]]
    save_once(folder.nonfinite / "state", state)
    with writing(folder.nonfinite / "batch.npz"):
        np.savez(folder.nonfinite / "batch.npz", **dict(batch or {}))  # type: ignore[arg-type]  # allow_pickle is no array
    folder.write_json("nonfinite/report.json", {"step": step, "nonfinite": found, "indices": indices})
    examples = f" on the examples {_some(indices)}" if indices else ""
    return NonFiniteError(
        step,
        f"step {step}: {_words(found)}{examples}; the state before it and the batch are in"
        f" {folder.nonfinite}, run `jaxai replay {folder.path}` to see where it begins",
    )


def rerun(folder: RunFolder, workload: Workload) -> str:
    """Runs the dumped step again on one device, with NaN checks on every operation.

    Args:
      folder: of the run.
      workload: made for one device, with the run's configuration.

    Returns:
      A description in one or more lines, with the operation that produced the first NaN, if there is one.

    Raises:
      ValueError: the run has no dump.
    """
    if not (folder.nonfinite / "report.json").is_file():
        raise ValueError(f"{folder.path} has no dump of a non-finite step: nothing in it to replay")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    state = restore_once(folder.nonfinite / "state", like)
    batch: Any = read_arrays(folder.nonfinite / "batch.npz", "train again, which leaves a new one") or None
    names = _find(state, batch, workload)
    found = f"step {int(state.step)} again on one device: {_words(names)}" if names else ""
    batch = jax.device_put(batch)  # before the checks: non-finite inputs are in the message already
    try:
        # Without jit, where the check would name a whole loop.
        with jax.debug_nans(True), jax.debug_infs(True), jax.disable_jit():
            jax.block_until_ready(workload.train_step(state, batch))
    except FloatingPointError as error:
        found += f"\nfirst seen in: {error}{_place(error)}"
    return found or f"step {int(state.step)} again on one device: everything is finite, so it needs several devices"


def _place(error: FloatingPointError) -> str:
    """The line of a workload at which an operation failed, as ` at cnn/model.py:141: x = ...`; "" if unknown."""
    package = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        # The mistake is neither in jaxai's operations nor in the loop.
        if file.is_relative_to(package) and file.relative_to(package).parts[0] not in ("ops", "runtime"):
            return f" at {file.relative_to(package)}:{frame.lineno}: {frame.line}"
    return ""


def _find(state: State, batch: Mapping[str, np.ndarray] | None, workload: Workload) -> dict[str, list[str]]:
    """Kind -> names of non-finite arrays: inputs and gradients of the step, otherwise its outputs."""
    found = {
        FAULT: _faults(state, workload),
        "input": _nonfinite_inputs(batch or {}),
        "parameter": _nonfinite(state.params),
    }
    if workload.gradients is not None:
        found["gradient of"] = _nonfinite(jax.jit(workload.gradients)(state, batch))
    if not any(found.values()):
        after, metrics = jax.jit(workload.train_step)(state, batch)
        found["updated parameter"] = _nonfinite(after.params)
        found["value"] = _nonfinite(after.extra) + _nonfinite(metrics)
        found[FAULT] = _faults(after, workload)
    return {what: names for what, names in found.items() if names}


def cause(state: State, workload: Workload) -> str:
    """`; a reward of X is not finite`, according to the state after the step; "" for none."""
    return "".join(f"; {fault}" for fault in _faults(state, workload))


def _faults(state: State, workload: Workload) -> list[str]:
    """Problems that the environment caused, as text."""
    if workload.faults is None:
        return []
    return [words for words, wrong in workload.faults(state).items() if any(map(jnp.any, jax.tree.leaves(wrong)))]


def _nonfinite_inputs(batch: Mapping[str, np.ndarray]) -> list[str]:
    """`image of example 37`, by the example's index in the data."""
    inexact = {name: array for name, array in batch.items() if jnp.issubdtype(array.dtype, jnp.inexact)}
    rows = {name: ~np.isfinite(array).reshape(len(array), -1).all(1) for name, array in inexact.items()}
    places = batch.get("index", np.arange(len(next(iter(batch.values()), []))))
    return [f"{name} of example {place}" for name, bad in rows.items() for place in places[bad]]


def _nonfinite(tree: PyTree) -> list[str]:
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all())
    ]


def _words(found: Mapping[str, list[str]]) -> str:
    """As text; if the environment is the cause, only that, because the rest follows from it."""
    if FAULT in found:
        return "; ".join(found[FAULT])
    return "non-finite " + "; ".join(f"{what} {_some(names)}" for what, names in found.items())


def _some(items: list[str] | list[int]) -> str:
    rest = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(map(str, items[:MOST_NAMED])) + rest
