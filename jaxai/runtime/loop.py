"""The only training loop: it serves every workload, and knows none."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from jaxai.core import State, Workload
from jaxai.data.epochs import Epochs
from jaxai.runtime import chips, flops, nonfinite, parallel, progress
from jaxai.runtime.checkpoint import Checkpoints, Which
from jaxai.runtime.config import Run
from jaxai.runtime.evaluation import Evaluations
from jaxai.runtime.feed import Feed, data_key, example_batch, make_feed
from jaxai.runtime.nonfinite import NonFiniteError
from jaxai.runtime.recorder import Recorder
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.schedule import Schedule
from jaxai.runtime.signals import Stop, stop_on_signal


@dataclass(frozen=True)
class Training:
    """What an experiment hands to the loop.

    Attributes:
      make: axis name -> workload.
      steps: optimizer steps in all.
      batch_size: examples in a step, over all devices.
      steps_per_epoch: optimizer steps that see the data once.
      data: arrays [examples, ...] to train on; None for a workload that makes its own.
      splits: name -> arrays to evaluate on, as `test` or `validation`.
      score: the evaluation metric that the best checkpoint and early stopping go by; more is better.
      prepare: what the data sets in a fresh state, as whitening does.
    """

    make: Callable[[str | None], Workload]
    steps: int
    batch_size: int
    steps_per_epoch: int
    data: Mapping[str, np.ndarray] | None
    splits: Mapping[str, Mapping[str, np.ndarray]]
    score: str
    prepare: Callable[[State], State] = lambda state: state


@dataclass(frozen=True)
class Outcome:
    """A run's end: the state as it is then, the final figures, and the signal that cut it short, if one did."""

    state: State
    result: dict[str, Any]
    interrupted: str = ""


def fit(training: Training, config: Any, console: Console | None = None) -> Outcome:
    """Trains to the end, or goes on where the run in `config.run.workdir` stopped.

    Args:
      training: the workload and its data.
      config: the resolved configuration, which is saved; its field `run` is a `Run`.
      console: where progress goes; default: standard output.

    Raises:
      ValueError: the workdir holds a run with another configuration, or the batch does not fit the devices.
      FloatingPointError: a gradient or a parameter became non-finite; a dump for `jaxai replay` is left behind.
    """
    started, console = time.monotonic(), console or Console()
    run: Run = config.run
    mesh = parallel.make_mesh(run.devices)
    schedule = Schedule.of(run, training.steps, training.steps_per_epoch)
    # Before the folder is made: a configuration that cannot run leaves no run behind.
    if training.data is not None:
        parallel.check_batch(training.batch_size, mesh)
    flops_per_example = _flops_per_example(training)
    folder = RunFolder(run.workdir, run.tensorboard)
    folder.open(config, run.resume_with_changes)
    with stop_on_signal() as stop, Checkpoints(folder.checkpoints) as checkpoints:
        state = _first_state(training, run, mesh, checkpoints)
        first_step = int(state.step)
        folder.rewind(first_step)
        checkpoints.rewind(first_step)
        recorder = _recorder(training, folder, mesh, flops_per_example, started)
        if first_step:
            console.print(f"going on at step {first_step} of {training.steps}", highlight=False)
        else:
            console.print(progress.summary(state.params, recorder.flops_per_example))
        feed = make_feed(training.data, training.batch_size, run, mesh, schedule, first_step)
        with feed, progress.Display(console, first_step, training.steps) as display:
            recorder.display = display
            state = _train(training, run, mesh, schedule, state, feed, recorder, checkpoints, stop)
        checkpoints.save(parallel.gather_state(state, run.mode))
    folder.close()
    step = int(state.step)
    if step < training.steps and not recorder.stale(run.early_stopping):
        console.print(f"{stop.name}: saved at step {step}; the same command goes on from there", highlight=False)
        return Outcome(state, {}, interrupted=stop.name)
    if step == first_step and (folder.path / "result.json").exists():  # it had finished before; the figures stand
        result = folder.read_json("result.json")
    else:
        result = recorder.result() | {"steps": step, "chip": chips.name(mesh.devices.flat[0]), "devices": mesh.size}
        folder.write_json("result.json", result)
    console.print(progress.results(result))
    return Outcome(state, result)


def _train(
    training: Training,
    run: Run,
    mesh: Mesh,
    schedule: Schedule,
    state: State,
    feed: Feed,
    recorder: Recorder,
    checkpoints: Checkpoints,
    stop: Stop,
) -> State:
    """The loop itself: from the state's step to the last, or to where a signal or early stopping ends it."""
    first_step = int(state.step)
    if first_step >= training.steps or recorder.stale(run.early_stopping):
        return state
    workload = training.make(parallel.axis_name(run.mode))
    evaluate = Evaluations(workload, training.splits, mesh, run.mode, training.batch_size)
    call = parallel.compile_step(workload.train_step, mesh, run.mode, schedule.steps_per_call)
    recorder.compiling()
    call = call.compile(state, feed.batches(first_step), feed.dataset)
    recorder.compiled(f"{mesh.size} x {mesh.devices.flat[0].device_kind}")
    try:
        for start, steps in schedule.calls(first_step):
            if stop.requested:
                break
            batches, waited = feed.next(start)
            state, metrics = call(state, batches, feed.dataset, steps)
            step = start + steps
            recorder.submit(step, steps, metrics, waited)
            if schedule.evaluates(step):
                recorder.flush()
                recorder.evaluated(step, evaluate(state))
                if recorder.improved(step):
                    checkpoints.save(parallel.gather_state(state, run.mode), "best")
                if recorder.stale(run.early_stopping):
                    break
            if schedule.checkpoints(step):
                recorder.flush()
                checkpoints.save(parallel.gather_state(state, run.mode))
        recorder.flush()
    except NonFiniteError as found:
        checkpoints.wait()
        state = _state_before(found.step, training, run, mesh, checkpoints, call, feed)
        raise nonfinite.dump(recorder.folder, state, _batch(training, run, found.step), training.make(None)) from None
    return state


def restored_state(
    training: Training, run: Run, mesh: Mesh, checkpoints: Checkpoints, which: Which = "latest"
) -> State | None:
    """The checkpointed state, placed for `run.mode`; None where there is no checkpoint."""
    shapes = jax.eval_shape(training.make(None).init, jax.random.key(0))
    specs = jax.tree.map(lambda _: PartitionSpec(), shapes)
    if shapes.local is not None:
        specs = specs.replace(local=jax.tree.map(lambda _: PartitionSpec(parallel.AXIS), shapes.local))
    like = jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)),
        shapes,
        specs,
    )
    state = checkpoints.restore(like, which)
    return None if state is None else parallel.place_state(state, mesh, run.mode)


def _first_state(training: Training, run: Run, mesh: Mesh, checkpoints: Checkpoints) -> State:
    state = restored_state(training, run, mesh, checkpoints)
    if state is None:
        # Jitted: an eager init compiles its operations one by one, which takes twice as long.
        state = training.prepare(jax.jit(training.make(None).init)(jax.random.key(run.seed)))
        state = parallel.place_state(state, mesh, run.mode)
        # A run that goes wrong before its first checkpoint needs a place to be run again from.
        checkpoints.save(parallel.gather_state(state, run.mode))
        checkpoints.wait()
    return state


def _state_before(
    step: int,
    training: Training,
    run: Run,
    mesh: Mesh,
    checkpoints: Checkpoints,
    call: parallel.Call,
    feed: Feed,
) -> State:
    """The state right before `step`: the last checkpoint, and the same program again, which gives the same bits."""
    state = restored_state(training, run, mesh, checkpoints)
    assert state is not None
    while (start := int(state.step)) < step:
        state, _ = call(state, feed.batches(start), feed.dataset, min(call.steps_per_call, step - start))
    return parallel.gather_state(state, run.mode)


def _batch(training: Training, run: Run, step: int) -> dict[str, np.ndarray] | None:
    """The batch of a step, on the host."""
    if training.data is None:
        return None
    examples = len(next(iter(training.data.values())))
    index = Epochs(data_key(run.seed), examples, training.batch_size).host_indices(step, 1)[0]
    return {name: array[index] for name, array in training.data.items()} | {"index": index}


def _flops_per_example(training: Training) -> float:
    workload = training.make(None)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    batch = example_batch(training.data, training.batch_size)
    return flops.count(workload.train_step, state, batch) / training.batch_size


def _recorder(training: Training, folder: RunFolder, mesh: Mesh, flops_per_example: float, started: float) -> Recorder:
    return Recorder(
        folder,
        score=training.score,
        batch_size=training.batch_size,
        steps_per_epoch=training.steps_per_epoch,
        devices=mesh.size,
        flops_per_example=flops_per_example,
        peak_flops=chips.peak_flops(mesh.devices.flat[0]),
        started=started,
    )
