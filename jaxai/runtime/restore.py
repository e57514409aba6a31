"""The state that a run continues from, or that is evaluated, read from its checkpoints."""

import logging
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxai.core import State, Workload, whole
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints, Which
from jaxai.runtime.config import Run
from jaxai.runtime.recorder import Recorder
from jaxai.runtime.run_folder import RunFolder

__all__ = ["newest_state", "restored_state", "trained_state"]

logger = logging.getLogger(__name__)


def restored_state(
    workload: Workload,
    run: Run,
    mesh: Mesh,
    checkpoints: Checkpoints,
    which: Which | None = "latest",
    apply: Callable[[State], State] = lambda state: state,
    renew: bool = False,
) -> State | None:
    """The checkpointed state of a workload after `apply`, placed for `run.mode`; None if there is no checkpoint.

    Args:
      workload: made for one device.
      run: its mode is read.
      mesh: the devices.
      checkpoints: of the run.
      which: as for `Checkpoints.restore`.
      apply: restored state -> the state to place.
      renew: compute again what checkpoints leave out, so that training can continue.
    """
    shapes = workload.stored(jax.eval_shape(workload.init, jax.random.key(0)))
    specs = jax.tree.map(lambda _: PartitionSpec(), shapes)
    if shapes.local is not None:
        specs = specs.replace(local=jax.tree.map(lambda _: PartitionSpec(parallel.AXIS), shapes.local))
    like = jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)),
        shapes,
        specs,
    )
    state = checkpoints.restore(like, which)
    if state is None:
        return None
    state = apply(state)
    if renew and workload.renewed is not whole:
        # On one device, as `init` does it, and then distributed.
        state = jax.jit(workload.renewed)(jax.device_put(state, jax.local_devices()[0]))
    return parallel.place_state(state, mesh, run.mode)


def trained_state(workload: Workload, run: Run, mesh: Mesh, which: Which = "latest") -> State:
    """The state that a run's checkpoint holds, placed for `run.mode`. Changes nothing in the run folder.

    Args:
      workload: made for one device.
      run: its folder and mode are read.
      mesh: the devices.
      which: "best" or "latest".

    Raises:
      ValueError: the run has no such checkpoint, or only damaged ones.
    """
    with Checkpoints(RunFolder(run.workdir).checkpoints) as checkpoints:
        state = restored_state(workload, run, mesh, checkpoints, which)
    if state is None:
        other: Which = "best" if which == "latest" else "latest"
        there = checkpoints.inventory()
        if not there:
            raise ValueError(f"{run.workdir} has no {which} checkpoint; train it first with jaxai train")
        way = f"choose checkpoint {other}" if checkpoints.steps(other) else "train it again"
        raise ValueError(f"{run.workdir} has no undamaged {which} checkpoint; there is {there}; {way}")
    for folder, damage in checkpoints.damaged.items():
        logger.warning("checkpoint %s is damaged (%s); taking that of step %d", folder, damage, int(state.step))
    return state


def newest_state(
    workload: Workload,
    run: Run,
    mesh: Mesh,
    checkpoints: Checkpoints,
    apply: Callable[[State], State],
    steps: int,
) -> State | None:
    """The state that training continues from: the newest undamaged checkpoint; None if there is none. Writes nothing.

    Args:
      workload: made for one device.
      run: its settings and folder.
      mesh: the devices.
      checkpoints: of the run.
      apply: restored state -> the same with the current configuration.
      steps: train steps of the whole run.

    Raises:
      ValueError: training went beyond step 0, and no checkpoint of it is left; or beyond the steps of this
        configuration.
    """
    folder = RunFolder(run.workdir)
    state = restored_state(workload, run, mesh, checkpoints, None, apply, renew=True)
    step = 0 if state is None else int(state.step)
    lost, lines = [int(damaged.name) for damaged in checkpoints.damaged], folder.lines("metrics.jsonl")
    if state is None:
        lost += [line["step"] for line in lines]
    elif step and not any(line["step"] <= step for line in lines):
        logger.warning("%s/metrics.jsonl has no line up to step %d: its curves begin there", folder.path, step)
    if step == 0 and max(lost, default=0):
        there = checkpoints.inventory()
        raise ValueError(
            f"{folder.path} was trained to step {max(lost)}, but has no undamaged checkpoint to continue from"
            f"{f' (there is {there})' if there else ''}; put a copy of {folder.checkpoints} back, or start again in"
            " another --workdir"
        )
    if step > steps:
        raise ValueError(
            f"{folder.path} is at step {step}, and this configuration ends at step {steps}; train longer, or"
            " choose another --workdir"
        )
    return state


def keep_best(state: State, run: Run, recorder: Recorder, checkpoints: Checkpoints) -> None:
    """Restores the agreement of the best checkpoint and the evaluations after a kill or a deletion.

    Args:
      state: that training continues from.
      run: its mode is read.
      recorder: of the run, with its evaluations.
      checkpoints: of the run.
    """
    step, held = int(state.step), max(checkpoints.steps("best"), default=None)
    wanted = recorder.best_step
    if wanted in (None, held):
        return
    if wanted != step:
        recorder.lose({held, step})
        logger.warning(
            "the best checkpoint, of step %d, is missing; the best is now %s or a later one",
            wanted,
            "that of the next evaluation" if recorder.best_step is None else f"that of step {recorder.best_step}",
        )
    if recorder.best_step == step:
        checkpoints.save(parallel.gather_state(state, run.mode), "best")
