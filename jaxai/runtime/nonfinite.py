"""When a gradient or a parameter stops being finite: what, where, and a dump that can be run again.

The loss is no guide: a NaN can come out of a relu as 0 and leave a healthy loss over dead weights.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxai.core import PyTree, State, Workload
from jaxai.runtime.checkpoint import restore_once, save_once
from jaxai.runtime.run_folder import RunFolder

MOST_NAMED = 20
"""Indices and parameters that a message names; the dump has all."""


class NonFiniteError(FloatingPointError):
    """A step left something non-finite behind.

    Attributes:
      step: the first such step, counted from 0.
    """

    def __init__(self, step: int, message: str = ""):
        super().__init__(message or f"step {step} left something non-finite behind")
        self.step = step


def dump(folder: RunFolder, state: State, batch: Mapping[str, np.ndarray] | None, workload: Workload) -> NonFiniteError:
    """Writes the state and the batch of the step that went wrong, and returns the error that says what did.

    Args:
      folder: of the run; the dump goes to `nonfinite/`.
      state: before the step.
      batch: of the step, on the host.
      workload: made for one device.
    """
    step = int(state.step)
    names, what = _find(state, batch, workload)
    indices = [] if batch is None or "index" not in batch else [int(i) for i in batch["index"]]
    folder.nonfinite.mkdir(parents=True, exist_ok=True)
    save_once(folder.nonfinite / "state", state)
    np.savez(folder.nonfinite / "batch.npz", **dict(batch or {}))  # type: ignore[arg-type]  # its allow_pickle is no array
    folder.write_json("nonfinite/report.json", {"step": step, "what": what, "names": names, "indices": indices})
    examples = f" on the examples {_some(indices)}" if indices else ""
    return NonFiniteError(
        step,
        f"step {step}: non-finite {what} {_some(names)}{examples}; the state before it and the batch are in"
        f" {folder.nonfinite}, run `jaxai replay {folder.path}` to see where it begins",
    )


def replay(folder: RunFolder, workload: Workload) -> str:
    """Runs the dumped step again on one device, with NaN checks on every operation.

    Args:
      folder: of the run.
      workload: made for one device, with the run's configuration.

    Returns:
      What was found, in a line or more; with the operation that made the first NaN where there is one.

    Raises:
      ValueError: the run left no dump.
    """
    if not (folder.nonfinite / "report.json").is_file():
        raise ValueError(f"{folder.path} has no dump of a non-finite step: nothing in it to replay")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    state = restore_once(folder.nonfinite / "state", like)
    with np.load(folder.nonfinite / "batch.npz") as arrays:
        batch = dict(arrays) or None
    names, what = _find(state, batch, workload)
    found = f"step {int(state.step)} again on one device: non-finite {what} {_some(names)}" if names else ""
    try:
        with jax.debug_nans(True), jax.debug_infs(True):
            jax.block_until_ready(jax.jit(workload.train_step)(state, batch))
    except FloatingPointError as error:
        found += f"\nfirst seen in: {error}"
    return found or f"step {int(state.step)} again on one device: everything is finite, so it needs several devices"


def _find(state: State, batch: Mapping[str, np.ndarray] | None, workload: Workload) -> tuple[list[str], str]:
    """Paths of what is not finite: inputs before gradients before the parameters that the step makes."""
    if names := _nonfinite(batch):
        return names, "input"
    if names := _nonfinite(state.params):
        return names, "parameter"
    if workload.gradients is not None and (names := _nonfinite(jax.jit(workload.gradients)(state, batch))):
        return names, "gradient of"
    after, metrics = jax.jit(workload.train_step)(state, batch)
    if names := _nonfinite(after.params):
        return names, "parameter"
    return _nonfinite(after.extra) + _nonfinite(metrics), "value"


def _nonfinite(tree: PyTree) -> list[str]:
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all())
    ]


def _some(items: list[str] | list[int]) -> str:
    rest = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(map(str, items[:MOST_NAMED])) + rest
