"""The only training loop: it serves every workload, and knows none."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxai.core import Key, Metric, PyTree, State, Workload
from jaxai.data.epochs import Epochs, Order
from jaxai.files.json_files import SUPERSEDED
from jaxai.metrics import Declarations
from jaxai.output import say, show_notes
from jaxai.runtime import chips, continuation, flops, nonfinite, parallel, progress
from jaxai.runtime.checkpoint import Checkpoints, Which
from jaxai.runtime.config import Run
from jaxai.runtime.evaluation import Evaluations
from jaxai.runtime.feed import Feed, data_key, example_batch, make_feed
from jaxai.runtime.lock import only_training
from jaxai.runtime.nonfinite import NonFiniteError
from jaxai.runtime.recorder import Recorder, scalars
from jaxai.runtime.restore import keep_best, newest_state, restored_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.schedule import STEPS_PER_CALL, Schedule
from jaxai.runtime.signals import Stop, stop_on_signal
from jaxai.runtime.timing import declarations


@dataclass(frozen=True)
class Training:
    """What an experiment hands to the loop.

    Attributes:
      make: axis name -> workload.
      steps: train steps in all.
      batch_size: examples in a step, over all devices; or what else `unit` counts.
      units_per_step: as many of `unit` are in a step, where that is not `batch_size`.
      steps_per_epoch: train steps that see the data once; after as many it evaluates, unless the run says otherwise.
      data: arrays [examples, ...] to train on; None for a workload that makes its own.
      order: key -> which examples each step learns from; default: all of them, permuted anew in each epoch.
      identity: what the data is, see `jaxai.data.digests`, which is kept and compared where a run goes on; None: not.
      apply: a restored state -> the same with what the configuration says now, where the state keeps a copy of it.
      keep: writes into the run folder what belongs to the configuration, as vocabularies.
      flops_per_step: of a train step, where steps differ and counting the dearest would say too much.
      splits: name -> arrays to evaluate on, as `test` or `validation`; None for a workload that makes its own.
      score: the evaluation metric that the best checkpoint and early stopping go by.
      prepare: what the data sets in a fresh state, as whitening does.
      unit: what the speed counts.
      steps_per_call: about as many train steps in a call where the run does not say.
      shares: name -> number of what devices share evenly besides batches of data.
      position: step -> what stands beside it in every line of metrics; default: the epoch.
      describe: one call's metrics, and its number of steps -> what is written down of them.
      describe_evaluation: an evaluation's metrics, named `<split>_<metric>` -> what is written down of them.
      summarize: (final figures, all lines of metrics) -> the final figures as they are written down.
      parameters: state -> the parameters of the network, for the table at the start.
      metrics: name -> what a metric of the steps or of an evaluation means. The declaration of the score says whether
        higher or lower values are better; what is not declared is shown by its name.
      measure: (mesh, state) -> the metrics of an evaluation, beside or instead of `splits`.
      evaluates_untrained: whether the fresh state is evaluated too, for what is told against it.
      warnings: what a call or an evaluation wrote down -> kind -> what a person should know of it, in a line, or ""
        where that is well; said once for as long as it goes on. It may raise FloatingPointError to end the run.
      opening: a line that is shown below the table of the parameters, before anything is allocated; "": none.
      renewed: what checkpoints do not hold and a run that goes on makes anew, as `the replay`; "": nothing.
    """

    make: Callable[[str | None], Workload]
    steps: int
    batch_size: int
    steps_per_epoch: int
    data: Mapping[str, np.ndarray] | None
    splits: Mapping[str, Mapping[str, np.ndarray] | None]
    score: str
    prepare: Callable[[State], State] = lambda state: state
    unit: str = "examples"
    steps_per_call: int = STEPS_PER_CALL
    shares: Mapping[str, int] = field(default_factory=dict)
    position: Callable[[int], dict[str, float]] | None = None
    describe: Callable[[Mapping[str, np.ndarray], int], dict[str, Any]] = scalars
    describe_evaluation: Callable[[Mapping[str, np.ndarray]], dict[str, Any]] = scalars
    summarize: Callable[[dict[str, Any], list[dict[str, Any]]], dict[str, Any]] = lambda result, lines: result
    parameters: Callable[[State], PyTree] = lambda state: state.params
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    measure: Callable[[Mesh, State], dict[str, Any]] = lambda mesh, state: {}
    units_per_step: float | None = None
    order: Callable[[Key], Order] | None = None
    flops_per_step: float | None = None
    identity: Mapping[str, Any] | None = None
    apply: Callable[[State], State] = lambda state: state
    keep: Callable[[Path], None] = lambda folder: None
    evaluates_untrained: bool = False
    warnings: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda values: {}
    opening: str = ""
    renewed: str = ""

    @property
    def units(self) -> float:
        """How many of what `unit` counts a step has."""
        return self.batch_size if self.units_per_step is None else self.units_per_step

    def batches(self, seed: int) -> Order | None:
        """Which examples each step of a run with this seed learns from; None for a workload that makes its own.

        Raises:
          ValueError: the batch is larger than the data.
        """
        if self.data is None:
            return None
        if self.order is not None:
            return self.order(data_key(seed))
        return Epochs(data_key(seed), len(next(iter(self.data.values()))), self.batch_size)

    @property
    def declarations(self) -> Declarations:
        """What `metrics.json` of the run folder holds.

        Raises:
          ValueError: a declaration that is none, or a score that does not say which values are better.
        """
        positions = tuple(self.beside(0))
        return declarations(self.metrics, self.score, self.unit, positions)

    def beside(self, step: int) -> dict[str, float]:
        """What stands beside a step in every line of metrics."""
        return {"epoch": step / self.steps_per_epoch} if self.position is None else self.position(step)


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
    declared = training.declarations
    schedule = Schedule.of(run, training.steps, training.steps_per_epoch, training.steps_per_call)
    # Before the folder is made or changed: a configuration that cannot run leaves no run behind.
    folder = RunFolder(run.workdir, run.tensorboard)
    differences = folder.compare(config, training.identity)
    if training.data is not None:
        parallel.check_divides("a batch of", training.batch_size, mesh)
    for name, number in training.shares.items():
        parallel.check_divides(name, number, mesh)
    check_memory(training, mesh)
    flops_per_unit = flops_per_step(training) / training.units
    saved = Checkpoints(folder.checkpoints, training.make(None).stored)
    with only_training(folder.path), stop_on_signal() as stop, saved as checkpoints:
        state = newest_state(training.make(None), run, mesh, checkpoints, training.apply, training.steps)
        first_step = 0 if state is None else int(state.step)
        # From here on everything is accepted, and what the folder holds may be replaced.
        show_notes(differences.lines, console)
        if differences.measured:
            folder.supersede(training.score)
        measured_on = continuation.measured_on(config, training.identity)
        finished = folder.result(measured_on, first_step)
        folder.open(config, training.identity)
        folder.write_json("metrics.json", declared.to_dict())
        training.keep(folder.path)
        checkpoints.verify("best")
        checkpoints.set_aside()
        if state is None:
            _announce(training, flops_per_unit, console)
            state = _new_state(training, run, mesh, checkpoints)
        folder.rewind(first_step)
        recorder = _recorder(training, declared, folder, mesh, flops_per_unit, started)
        if first_step:
            anew = f"; {training.renewed} is made anew, so that it ends in other bits" if training.renewed else ""
            say(console, f"going on at step {first_step} of {training.steps}{anew}")
        feed = make_feed(training.data, training.batches(run.seed), run, mesh, schedule, first_step)
        with feed, progress.Display(console, declared.meanings, first_step, training.steps) as display:
            recorder.display = display
            state = _Trainer(training, run, mesh, schedule, feed, recorder, checkpoints).train(state, stop)
        checkpoints.save(parallel.gather_state(state, run.mode))
    folder.close()
    step = int(state.step)
    if step < training.steps and not recorder.stale(run.early_stopping):
        say(console, f"{stop.name}: saved at step {step}; the same command goes on from there")
        return Outcome(state, {}, interrupted=stop.name)
    result = finished
    if result is None or step != first_step or result.get("best_step", recorder.best_step) != recorder.best_step:
        lines = [line for line in folder.lines("metrics.jsonl") if not line.get(SUPERSEDED)]
        result = training.summarize(recorder.result(), lines)
        result |= {"steps": step, "chip": chips.name(mesh.devices.flat[0]), "devices": mesh.size}
        result |= {"measured_on": measured_on}
        folder.write_json("result.json", result)
    console.print(progress.results(result, declared.meanings))
    return Outcome(state, result)


@dataclass(frozen=True)
class _Trainer:
    """The loop itself, with what it needs at hand."""

    training: Training
    run: Run
    mesh: Mesh
    schedule: Schedule
    feed: Feed
    recorder: Recorder
    checkpoints: Checkpoints

    def train(self, state: State, stop: Stop) -> State:
        """From the state's step to the last, or to where a signal or early stopping ends it."""
        training, run, recorder, schedule = self.training, self.run, self.recorder, self.schedule
        first_step = int(state.step)
        if first_step or recorder.measured(0):
            self._measure_again(state)
        if first_step >= training.steps or recorder.stale(run.early_stopping):
            return state
        call = parallel.compile_step(self._workload.train_step, self.mesh, run.mode, schedule.steps_per_call)
        recorder.compiling()
        call = call.compile(state, self.feed.batches(first_step), self.feed.dataset)
        recorder.compiled(f"{self.mesh.size} x {self.mesh.devices.flat[0].device_kind}")
        if training.evaluates_untrained and first_step == 0 and not recorder.measured(0):
            # Nothing may ever be better; and before it is measured, as a run that is resumed measures it no more.
            self._save(state, "best")
            self._evaluate(state)
        try:
            for start, steps in schedule.calls(first_step):
                if stop.requested:
                    break
                batches, waited = self.feed.next(start)
                state, metrics = call(state, batches, self.feed.dataset, steps)
                step = start + steps
                recorder.submit(step, steps, metrics, waited)
                if schedule.evaluates(step):
                    recorder.flush()
                    self._evaluate(state)
                    if recorder.improved(step):
                        self._save(state, "best")
                    if recorder.stale(run.early_stopping):
                        break
                if schedule.checkpoints(step):
                    recorder.flush()
                    self._save(state)
            recorder.flush()
        except NonFiniteError as found:
            self.checkpoints.wait()
            if training.renewed:
                unseen = f"{found}; {training.renewed} is not in its checkpoints, so that the step cannot be run again"
                unseen += nonfinite.cause(state, training.make(None))
                raise NonFiniteError(found.step, unseen) from None
            before = self._state_before(found.step, call)
            workload = training.make(None)
            raise nonfinite.dump(recorder.folder, before, self._batch(found.step), workload) from None
        except FloatingPointError as found:
            # All of several trainings have diverged, maybe by what the environment gave.
            raise FloatingPointError(f"{found}{nonfinite.cause(state, training.make(None))}") from None
        return state

    def _measure_again(self, state: State) -> None:
        """Measures the best and the restored state where no figures of theirs are left that compare with later ones."""
        step, recorder = int(state.step), self.recorder
        for best in self.checkpoints.steps("best"):
            if not recorder.measured(best):
                held = restored_state(self.training.make(None), self.run, self.mesh, self.checkpoints, "best")
                if held is not None:
                    self._evaluate(held)
        keep_best(state, self.run, recorder, self.checkpoints)
        ends = step >= self.training.steps or recorder.stale(self.run.early_stopping)
        if (ends or self.schedule.evaluates(step)) and not recorder.measured(step):
            self._evaluate(state)
            if recorder.improved(step):
                self._save(state, "best")

    @functools.cached_property
    def _workload(self) -> Workload:
        return self.training.make(parallel.axis_name(self.run.mode))

    @functools.cached_property
    def _evaluations(self) -> Evaluations:
        return Evaluations(self._workload, self.training.splits, self.mesh, self.run.mode, self.training.batch_size)

    def _evaluate(self, state: State) -> None:
        measured = self.training.describe_evaluation(self._evaluations(state))
        self.recorder.evaluated(int(state.step), measured | self.training.measure(self.mesh, state))

    def _save(self, state: State, which: Which = "latest") -> None:
        self.checkpoints.save(parallel.gather_state(state, self.run.mode), which)

    def _state_before(self, step: int, call: parallel.Call) -> State:
        """The state right before `step`: the last checkpoint, and the same program again, which gives the same bits."""
        make, apply = self.training.make, self.training.apply
        state = restored_state(make(None), self.run, self.mesh, self.checkpoints, None, apply)
        assert state is not None
        while (start := int(state.step)) < step:
            steps = min(call.steps_per_call, step - start)
            state, _ = call(state, self.feed.batches(start), self.feed.dataset, steps)
        return parallel.gather_state(state, self.run.mode)

    def _batch(self, step: int) -> dict[str, np.ndarray] | None:
        """The batch of a step, on the host."""
        data, order = self.training.data, self.training.batches(self.run.seed)
        if data is None or order is None:
            return None
        index = order.host_indices(step, 1)[0]
        return {name: array[index] for name, array in data.items()} | {"index": index}


def _announce(training: Training, flops_per_unit: float, console: Console) -> None:
    """Shows what is going to be trained, by its shapes alone."""
    init = training.make(None).init
    parameters = jax.eval_shape(lambda key: training.parameters(init(key)), jax.random.key(0))
    console.print(progress.summary(parameters, flops_per_unit, training.unit))
    if training.opening:
        say(console, training.opening)


def _new_state(training: Training, run: Run, mesh: Mesh, checkpoints: Checkpoints) -> State:
    # Jitted: an eager init compiles its operations one by one, which takes twice as long.
    state = training.prepare(jax.jit(training.make(None).init)(jax.random.key(run.seed)))
    state = parallel.place_state(state, mesh, run.mode)
    # A run that goes wrong before its first checkpoint needs a place to be run again from.
    checkpoints.save(parallel.gather_state(state, run.mode))
    checkpoints.wait()
    return state


def check_memory(training: Training, mesh: Mesh) -> None:
    """Raises ValueError, in one line, for a state that no device holds; XLA would end the process without one."""
    shapes = jax.eval_shape(training.make(None).init, jax.random.key(0))
    needed = sum(leaf.size * getattr(leaf.dtype, "itemsize", 1) for leaf in jax.tree.leaves(shapes))
    memory = chips.memory(mesh)
    if memory is not None and needed > memory:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
        raise ValueError(
            f"the state takes {chips.shown_bytes(needed)}, with {parameters:,} parameters, and there are"
            f" {chips.shown_bytes(memory)} of memory; make the network smaller"
        )


def flops_per_step(training: Training) -> float:
    """FLOPs of a train step over all devices: what the training says, or counted."""
    if training.flops_per_step is not None:
        return training.flops_per_step
    workload = training.make(None)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    batch = example_batch(training.data, training.batch_size)
    return flops.count(workload.train_step, state, batch)


def _recorder(
    training: Training, declared: Declarations, folder: RunFolder, mesh: Mesh, flops_per_unit: float, started: float
) -> Recorder:
    return Recorder(
        folder,
        score=training.score,
        lower_is_better=declared.meanings.better(training.score) == "lower",
        warnings=training.warnings,
        batch_size=training.units,
        unit=training.unit,
        beside=training.beside,
        describe=training.describe,
        chips=chips.count(mesh),
        flops_per_example=flops_per_unit,
        peak_flops=chips.peak_flops(mesh.devices.flat[0]),
        started=started,
    )
