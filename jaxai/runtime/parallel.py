"""One step on many devices: compiled by `jit` over a mesh, by `shard_map` or by `pmap`, K steps in a call.

The placement of each part of the State depends on its field alone: `local` is split over the data axis, everything
else is the same on every device.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxai.core import Batch, Metrics, PyTree, State

__all__ = [
    "AXIS",
    "NONFINITE",
    "Call",
    "Mode",
    "Setup",
    "axis_name",
    "check_backend",
    "check_divides",
    "compile_evaluation",
    "compile_step",
    "gather_state",
    "make_mesh",
    "place_batches",
    "place_dataset",
    "place_state",
    "use_cpu_devices",
]

AXIS = "data"
Mode = Literal["jit", "shard_map", "pmap"]
Step = Callable[[State, Batch], tuple[State, Metrics]]

NONFINITE = "nonfinite_step"
"""The metric that every compiled call adds: the first step that produced a non-finite value, or -1."""


class Call(NamedTuple):
    """Several train steps in one call with a donated state: what `compile_step` and `Call.compile` return."""

    function: Any
    steps_per_call: int
    mesh: Mesh

    def __call__(
        self, state: State, batches: PyTree, dataset: PyTree = None, steps: int | None = None
    ) -> tuple[State, Metrics]:
        """Runs `steps` steps (default: `steps_per_call`); the given state is deleted."""
        return self.function(
            state, batches, dataset, _on_devices(self.steps_per_call if steps is None else steps, self.mesh)
        )

    def lower(self, state: State, batches: PyTree, dataset: PyTree = None) -> Any:
        """As `jax.jit(...).lower`: arguments may be `jax.ShapeDtypeStruct`s with shardings.

        Args:
          state: from `place_state`.
          batches: from `place_batches`.
          dataset: from `place_dataset`, or None.
        """
        steps = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(self.mesh, PartitionSpec()))
        return self.function.lower(state, batches, dataset, steps)

    def compile(self, state: State, batches: PyTree, dataset: PyTree = None) -> "Call":
        """Compiles now, for these shapes; the result takes no others.

        Args:
          state, batches, dataset: as for `lower`.
        """
        return self._replace(function=self.lower(state, batches, dataset).compile())


def use_cpu_devices(number: int, one_thread: bool = False) -> None:
    """Divides the CPU into this number of devices, before JAX first uses it; settings of the environment win.

    Args:
      number: of devices; each has its own thread for the operations that XLA does not spread over cores.
      one_thread: each device uses one thread, because its operations are too small to be worth dividing
        (benchmarks/README.md).
    """
    if one_thread:
        os.environ.setdefault("NPROC", "1")  # from which XLA sizes its pool of threads
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if number > 1 and not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # JAX has used its devices already and keeps them
            jax.config.update("jax_num_cpu_devices", number)


def check_backend() -> None:
    """Raises ValueError, in one line, if JAX cannot use the platform of JAX_PLATFORMS."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["there is none"])[0]
        raise ValueError(
            f"JAX finds no device, with JAX_PLATFORMS {os.environ.get('JAX_PLATFORMS')!r}: {reason:.200}; unset it"
        ) from error


def make_mesh(devices: Sequence[jax.Device] | int | None = None) -> Mesh:
    """A mesh of one axis, `data`, over these devices, over this number of them, or over all.

    Raises:
      ValueError: there are fewer devices.
    """
    available = jax.devices()
    if devices is None:
        devices = available
    elif isinstance(devices, int):
        if not 1 <= devices <= len(available):
            raise ValueError(f"devices is {devices}; this machine has {len(available)} ({available[0].device_kind})")
        devices = available[:devices]
    return Mesh(np.array(devices), (AXIS,))


def axis_name(mode: Mode) -> str | None:
    """The axis to make a workload with: None under `jit`, where the compiler derives the collectives."""
    return None if mode == "jit" else AXIS


@dataclasses.dataclass(frozen=True)
class Setup:
    """The engine, the devices and the number of steps in a call, in one place, for a training loop of your own.

    All data on the device, two steps per call:

    >>> import jax, numpy as np
    >>> from jaxai import cnn
    >>> setup = Setup("shard_map", devices=1, steps_per_call=2)
    >>> workload = cnn.make(cnn.Config(architecture="mlp", image_shape=(4, 4, 1)), setup.axis_name)
    >>> call, state = setup.compile_step(workload.train_step), setup.place_state(workload.init(jax.random.key(0)))
    >>> dataset = setup.place_dataset({"image": np.zeros((32, 4, 4, 1), np.uint8), "label": np.zeros(32, np.int32)})
    >>> for index in np.random.default_rng(0).permuted(np.arange(32)).reshape(2, 2, 8):
    ...     state, metrics = call(state, setup.place_batches(index.astype(np.int32)), dataset)
    >>> int(state.step)
    4

    Attributes:
      mode: the engine.
      devices: a number of devices, a list of them, or None for all.
      steps_per_call: largest number of steps in one call.

    Raises:
      ValueError: no such engine, or fewer devices.
    """

    mode: Mode = "jit"
    devices: Sequence[jax.Device] | int | None = None
    steps_per_call: int = 1

    def __post_init__(self) -> None:
        _check_mode(self.mode)
        if self.steps_per_call < 1:
            raise ValueError(f"steps_per_call is {self.steps_per_call}; it must be at least 1")
        make_mesh(self.devices)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices; see `make_mesh`."""
        return make_mesh(self.devices)

    @property
    def axis_name(self) -> str | None:
        """The axis to make a workload with; see `axis_name`."""
        return axis_name(self.mode)

    def compile_step(self, step: Step) -> "Call":
        """`call(state, batches, dataset=None, steps=None) -> (state, metrics)`; see `compile_step`."""
        return compile_step(step, self.mesh, self.mode, self.steps_per_call)

    def compile_evaluation(self, eval_step: Callable[[State, Batch], Metrics]) -> Callable[..., Metrics]:
        """`call(state, batches, dataset) -> sums`; see `compile_evaluation`."""
        return compile_evaluation(eval_step, self.mesh, self.mode)

    def place_state(self, state: State) -> State:
        """The state on the devices, for `compile_step` and `compile_evaluation`."""
        return place_state(state, self.mesh, self.mode)

    def gather_state(self, state: State) -> State:
        """The inverse of `place_state` in shape."""
        return gather_state(state, self.mode)

    def place_batches(self, batches: PyTree) -> PyTree:
        """Batches [batch, ...], or [steps_per_call, batch, ...] above one step, on the devices; see `place_batches`."""
        return place_batches(batches, self.mesh, self.mode, self.steps_per_call)

    def place_dataset(self, dataset: PyTree) -> PyTree:
        """Arrays [examples, ...], whole on every device; then batches are their indices."""
        return place_dataset(dataset, self.mesh)


def compile_step(step: Step, mesh: Mesh, mode: Mode = "jit", steps_per_call: int = 1) -> "Call":
    """`call(state, batches, dataset=None, steps=None) -> (state, metrics)`, with the state donated.

    Args:
      step: a pure train step, made with `axis_name(mode)`.
      mesh: devices, from `make_mesh`.
      mode: the engine. `shard_map` and `pmap` agree bitwise; `jit` agrees with them to rounding.
      steps_per_call: largest number of steps in a call. Above 1 the leaves of `batches` have a leading axis of this
        length: [steps_per_call, batch, ...]; at 1 they are [batch, ...].

    The call takes a state from `place_state` and batches from `place_batches`. With `dataset` (arrays
    [examples, ...] from `place_dataset`) the batches are int32 indices, [steps_per_call, batch], and every step
    gathers its examples on the device; the batch then also has the indices as `"index"`. `steps` runs fewer than
    `steps_per_call` steps in the same program: any split of a run into calls gives the same bits.

    Metrics are the means over the steps, and `nonfinite_step`: the first step (int32) after which a metric, a
    parameter or a floating-point leaf of `extra` was not finite, or -1. Under `shard_map` and `pmap` a metric that is
    a scalar is the same on every device; a metric that is an array is returned concatenated over the devices.
    """

    def call(state: State, batches: PyTree, dataset: PyTree, steps: jax.Array) -> tuple[State, Metrics]:
        def batch_at(i: jax.Array | int) -> Batch:
            row = batches if steps_per_call == 1 else jax.tree.map(lambda leaf: leaf[i], batches)
            if dataset is None:
                return row
            return _gather(dataset, row) | {"index": row}

        def checked(i: jax.Array | int, state: State) -> tuple[State, Metrics, jax.Array]:
            after, metrics = step(state, batch_at(i))
            ok = _all_finite((metrics, after.params, after.extra))
            return after, metrics, jnp.where(ok, -1, state.step)

        def accumulate(i: jax.Array | int, carry: tuple[State, Metrics, jax.Array]) -> tuple[State, Metrics, jax.Array]:
            state, totals, first = carry
            state, metrics, bad = checked(i, state)
            return state, jax.tree.map(jnp.add, totals, metrics), jnp.where(first < 0, bad, first)

        if steps_per_call == 1:
            # Outside of any loop: on CPU some operations have no threaded kernels in a loop body.
            state, metrics, first = checked(0, state)
        else:
            zeros = _zeros_like_output(lambda: step(state, batch_at(0))[1])
            state, totals, first = lax.fori_loop(0, steps, accumulate, (state, zeros, jnp.int32(-1)))
            metrics = {name: total / steps for name, total in totals.items()}
        return state, _gathered(metrics | {NONFINITE: first}, mode)

    return Call(_compile(call, mesh, mode, batched=steps_per_call > 1, trains=True), steps_per_call, mesh)


def compile_evaluation(eval_step: Callable[[State, Batch], Metrics], mesh: Mesh, mode: Mode) -> Callable[..., Metrics]:
    """`call(state, batches, dataset) -> sums` over all batches, in one program.

    `batches` has `index` and `mask`, both [steps, batch], from `place_batches`; `dataset` comes from `place_dataset`.
    Both are None for a workload that generates its own data: the call is then one `eval_step(state, None)`.

    Args:
      eval_step: a pure evaluation step, made with `axis_name(mode)`.
      mesh: devices, from `make_mesh`.
      mode: the engine.
    """

    def call(state: State, batches: PyTree, dataset: PyTree, steps: jax.Array) -> Metrics:
        if batches is None:
            return _gathered(eval_step(state, None), mode)

        def sums_at(i: jax.Array | int) -> Metrics:
            index, mask = batches["index"][i], batches["mask"][i]
            return eval_step(state, _gather(dataset, index) | {"mask": mask})

        zeros = _zeros_like_output(lambda: sums_at(0))
        return lax.fori_loop(0, steps, lambda i, total: jax.tree.map(jnp.add, total, sums_at(i)), zeros)

    compiled = _compile(call, mesh, mode, batched=True, trains=False)
    axis = 1 if mode == "pmap" else 0

    def evaluate(state: State, batches: PyTree, dataset: PyTree) -> Metrics:
        steps = 1 if batches is None else batches["index"].shape[axis]
        sums: Metrics = compiled(state, batches, dataset, _on_devices(steps, mesh))
        return sums

    return evaluate


def place_state(state: State, mesh: Mesh, mode: Mode = "jit") -> State:
    """The state on the devices, in the layout that `mode` needs.

    Args:
      state: on one device, or anywhere else. The leading axis of `local` divides by the number of devices.
      mesh: devices, from `make_mesh`.
      mode: the engine.
    """
    replicated, local = NamedSharding(mesh, PartitionSpec()), state.local
    if mode == "pmap":
        local = jax.tree.map(lambda leaf: leaf.reshape(mesh.size, -1, *leaf.shape[1:]), local)
    placed = jax.device_put(state.replace(local=None), replicated)
    return placed.replace(local=jax.device_put(local, NamedSharding(mesh, PartitionSpec(AXIS))))


def gather_state(state: State, mode: Mode = "jit") -> State:
    """The inverse of `place_state` in shape: the content of a checkpoint, in every mode and number of devices."""
    if mode != "pmap":
        return state
    return state.replace(local=jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), state.local))


def check_divides(what: str, number: int, mesh: Mesh) -> None:
    """Checks that a number divides by the number of devices.

    Args:
      what: the beginning of the message, as `a batch of`.
      number: to check.
      mesh: the devices.

    Raises:
      ValueError: it does not divide.
    """
    if number % mesh.size:
        raise ValueError(
            f"{what} {number} does not divide over {mesh.size} devices; choose a multiple of {mesh.size}, or"
            " fewer devices with --devices"
        )


def place_batches(batches: PyTree, mesh: Mesh, mode: Mode = "jit", steps_per_call: int = 1) -> PyTree:
    """Batches on the devices, in the layout that `mode` needs.

    Args:
      batches: leaves [batch, ...], or [steps_per_call, batch, ...] with more than one step per call.
      mesh: devices, from `make_mesh`.
      mode: the engine.
      steps_per_call: as for `compile_step`.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    lead = 1 if steps_per_call > 1 else 0
    for leaf in jax.tree.leaves(batches):
        check_divides("a batch of", leaf.shape[lead], mesh)
    if mode == "pmap":

        def split(leaf: jax.Array) -> jax.Array:
            parts = leaf.reshape(*leaf.shape[:lead], mesh.size, -1, *leaf.shape[lead + 1 :])
            return parts.swapaxes(0, lead)

        return jax.device_put(jax.tree.map(split, batches), NamedSharding(mesh, PartitionSpec(AXIS)))
    return jax.device_put(batches, NamedSharding(mesh, _batch_spec(lead == 1)))


def place_dataset(dataset: PyTree, mesh: Mesh) -> PyTree:
    """Arrays [examples, ...], whole on every device."""
    return jax.device_put(dataset, NamedSharding(mesh, PartitionSpec()))


@functools.lru_cache(maxsize=64)
def _on_devices(number: int, mesh: Mesh) -> jax.Array:
    """A number on every device, transferred once: calls then move nothing between host and devices."""
    return jax.device_put(np.int32(number), NamedSharding(mesh, PartitionSpec()))


def _compile(call: Callable[..., Any], mesh: Mesh, mode: Mode, batched: bool, trains: bool) -> Any:
    """Compiles `call(state, batches, dataset, steps) -> (state, metrics)`, or `-> sums` if it does not train."""
    _check_mode(mode)
    donated = (0,) if trains else ()
    spec = _batch_spec(batched)
    if mode == "jit":
        replicated = NamedSharding(mesh, PartitionSpec())
        states = _state_specs(replicated, NamedSharding(mesh, PartitionSpec(AXIS)))
        return jax.jit(
            call,
            in_shardings=(states, NamedSharding(mesh, spec), replicated, None),
            out_shardings=(states, replicated) if trains else replicated,
            donate_argnums=donated,
        )
    if mode == "shard_map":
        states = _state_specs(PartitionSpec(), PartitionSpec(AXIS))
        # check_vma=False: with it on, gradients of replicated parameters come back already summed over devices.
        mapped = jax.shard_map(
            call,
            mesh=mesh,
            in_specs=(states, spec, PartitionSpec(), PartitionSpec()),
            out_specs=(states, PartitionSpec()) if trains else PartitionSpec(),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donated)
    if mode == "pmap":
        states = _state_specs(None, 0)
        return jax.pmap(
            call,
            AXIS,
            in_axes=(states, 0, None, None),
            out_axes=(states, None) if trains else None,
            devices=list(mesh.devices.flat),
            donate_argnums=donated,
        )
    raise AssertionError(mode)


def _check_mode(mode: Mode) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}; choose {', '.join(get_args(Mode))}")


def _state_specs(replicated: Any, local: Any) -> State:
    return State(replicated, replicated, replicated, replicated, extra=replicated, local=local)


def _batch_spec(batched: bool) -> PartitionSpec:
    return PartitionSpec(None, AXIS) if batched else PartitionSpec(AXIS)


def _gather(dataset: PyTree, index: jax.Array) -> dict[str, jax.Array]:
    return {name: jnp.take(array, index, axis=0, mode="clip") for name, array in dataset.items()}


def _gathered(metrics: Metrics, mode: Mode) -> Metrics:
    """Arrays from all devices, one after another; and the first non-finite step of any device."""
    arrays = [name for name, value in metrics.items() if value.ndim]
    if mode == "jit" or not arrays:
        return metrics
    gathered = metrics | {name: lax.all_gather(metrics[name], AXIS, tiled=True) for name in arrays}
    if NONFINITE in metrics:
        never = jnp.iinfo(jnp.int32).max
        first = lax.pmin(jnp.where(metrics[NONFINITE] < 0, never, metrics[NONFINITE]), AXIS)
        gathered[NONFINITE] = jnp.where(first == never, -1, first)
    return gathered


def _zeros_like_output(function: Callable[[], Metrics]) -> Metrics:
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(function))


def _all_finite(tree: PyTree) -> jax.Array:
    floating = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floating]).all()
