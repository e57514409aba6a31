"""Checks of a user's workload, from shapes alone, before anything compiles or is written."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxai.core import PyTree, State, Workload
from jaxai.ranges import shown
from jaxai.runtime import parallel

UNBOUND = "unbound axis name"
"""JAX's message for an axis name outside of the program that has this axis."""
EXPECTED = "expected a jaxai.Workload, or a function axis_name -> Workload"


def made_for(
    workload: Workload | Callable[[str | None], Workload], batch: Any, mode: parallel.Mode, mesh: Mesh
) -> Callable[[str | None], Workload]:
    """axis name -> workload, of a workload or of a function that makes it.

    Args:
      workload: a workload, or such a function.
      batch: shapes and dtypes of the batch of one step; None for a workload that generates its own data.
      mode: the engine.
      mesh: the devices.

    Raises:
      ValueError: neither of them; or a workload without an axis name on several devices, which would train separate
        models.
    """
    if not isinstance(workload, Workload):
        if not callable(workload):
            raise ValueError(f"workload is {shown(workload)}; {EXPECTED}")
        returned = workload(None)
        if not isinstance(returned, Workload):
            raise ValueError(f"workload is a function that returns {shown(returned)}; {EXPECTED}")
        return workload
    given = workload
    if not _has_axis(given, batch):
        if mode != "jit" and mesh.size > 1:
            raise ValueError(
                f"mode is {mode}, and the workload was made without an axis name, so that its step cannot average over"
                f" {mesh.size} devices; give the function axis_name -> Workload, or mode='jit'"
            )
        return lambda axis_name: given
    alone = _on_one_device(given)
    return lambda axis_name: alone if axis_name is None else given


def check_workload(workload: Workload, batch: Any) -> None:
    """Checks what `init` and `train_step` return.

    Args:
      workload: made for one device.
      batch: shapes and dtypes of the batch of one step; None for a workload that generates its own data.

    Raises:
      ValueError: one line that names the function, what was found, and what was expected.
    """
    state = _initial(workload)
    returned = jax.eval_shape(workload.train_step, state, batch)
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], State)):
        raise ValueError(f"train_step returns a {type(returned).__name__}; expected (state, metrics)")
    after, metrics = returned
    _check_same_arrays(state, after)
    if not isinstance(metrics, Mapping) or not metrics:
        raise ValueError("train_step returns no metrics; expected a dict of float32 scalars: {'loss': loss}")
    if taken := sorted(metrics.keys() & {"step", parallel.NONFINITE}):
        raise ValueError(f"train_step returns a metric called {taken[0]}, which jaxai writes itself; rename it")
    counted = jax.jit(lambda key, batch: workload.train_step(workload.init(key), batch)[0].step)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)
    if (step := int(counted(jax.random.key(0), zeros))) != 1:
        raise ValueError(f"after the first train_step, step is {step}; expected state.replace(step=state.step + 1)")


def evaluation_metrics(workload: Workload, splits: Mapping[str, Mapping[str, np.ndarray] | None]) -> list[str]:
    """Names of the metrics of an evaluation on each split, the split `validation` first.

    Raises:
      ValueError: there is no `eval_step`, or it returns no count.
    """
    if not splits:
        return []
    if workload.eval_step is None:
        raise ValueError("evaluate_on is given, but the workload has no eval_step")
    state = jax.eval_shape(workload.init, jax.random.key(0))
    found = []
    for split in sorted(splits, key=lambda name: name != "validation"):
        sums = jax.eval_shape(workload.eval_step, state, _evaluation_batch(splits[split]))
        if not isinstance(sums, Mapping) or "count" not in sums:
            raise ValueError(
                "eval_step returns no count; expected sums over the batch and the number of its examples:"
                " {'loss': (loss * mask).sum(), 'count': mask.sum()}"
            )
        found += [f"{split}_{name}" for name, value in sums.items() if name != "count" and not value.shape]
    return found


def _evaluation_batch(arrays: Mapping[str, np.ndarray] | None) -> Any:
    if arrays is None:
        return None
    batch = {name: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    return batch | {"mask": jax.ShapeDtypeStruct((1,), jnp.float32)}


def _initial(workload: Workload) -> State:
    """Shapes and dtypes of the initial state."""
    state = jax.eval_shape(workload.init, jax.random.key(0))
    if not isinstance(state, State):
        raise ValueError(f"init returns a {type(state).__name__}; expected a jaxai.State")
    if state.step.shape != () or state.step.dtype != jnp.int32:
        raise ValueError(f"init returns step {_array(state.step)}; expected int32[]: jnp.int32(0)")
    return state


def _check_same_arrays(state: State, after: State) -> None:
    before, found = (
        {jax.tree_util.keystr(path): _array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(each)}
        for each in (state, after)
    )
    for name in dict.fromkeys((*before, *found)):
        one, other = before.get(name, "nothing"), found.get(name, "nothing")
        if one != other:
            raise ValueError(
                f"train_step got state{name} as {one} and returns {other}; expected the same shape and dtype"
            )


def _array(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _has_axis(workload: Workload, batch: Any) -> bool:
    """Whether a workload was made with an axis name, which is unbound here."""
    state = _initial(workload)
    try:
        jax.eval_shape(workload.train_step, state, batch)
    except NameError as error:
        if UNBOUND not in str(error):
            raise
        if f"{UNBOUND}: {parallel.AXIS}" not in str(error):
            raise ValueError(f"the workload was made with another axis name than {parallel.AXIS!r}: {error}") from None
        return True
    return False


def _on_one_device(workload: Workload) -> Workload:
    """A workload with an axis name, on one device: the axis has the length 1."""

    def alone(function: Callable[..., PyTree] | None) -> Any:
        if function is None:
            return None
        given = function

        def call(*arguments: Any) -> PyTree:
            mapped = jax.vmap(given, in_axes=(None,) * len(arguments), axis_name=parallel.AXIS, axis_size=1)
            return jax.tree.map(lambda leaf: leaf[0], mapped(*arguments))

        return call

    functions = {name: alone(getattr(workload, name)) for name in ("train_step", "eval_step", "gradients")}
    return workload._replace(**functions)


__all__ = ["check_workload", "evaluation_metrics", "made_for"]
