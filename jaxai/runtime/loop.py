"""The only training loop: it works with every workload and depends on none."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxai.core import State, Workload
from jaxai.files.json_files import SUPERSEDED
from jaxai.output import print_line, show_notes
from jaxai.runtime import chips, continuation, flops, nonfinite, parallel, progress
from jaxai.runtime.batches import CallBatches, example_batch, make_batches
from jaxai.runtime.callbacks import Callback, CallbackError, call_back, check_callbacks, measured
from jaxai.runtime.checkpoint import Checkpoints, Which
from jaxai.runtime.config import Run
from jaxai.runtime.evaluation import Evaluations
from jaxai.runtime.history import history
from jaxai.runtime.lock import only_training
from jaxai.runtime.nonfinite import NonFiniteError
from jaxai.runtime.plan import Plan
from jaxai.runtime.recorder import Machine, Recorder
from jaxai.runtime.restore import keep_best, newest_state, restored_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.signals import Stop, stop_on_signal
from jaxai.runtime.training import Examples, Training

__all__ = ["Outcome", "fit", "flops_per_step"]

SELECTED_ON_TEST = (
    "the best checkpoint is selected on the test split, as there is no validation split: its test metrics are"
    " optimistic; those above are of the latest checkpoint"
)


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
      state: the final state.
      result: the final values, as in `result.json`; empty if a signal interrupted the run.
      interrupted: name of the signal that interrupted the run; "": none.
      stopped_by: name of the callback that ended the run; "": none.
      history: the metrics of the whole run as arrays, ready to be plotted; see `jaxai.runtime.history`.
    """

    state: State
    result: dict[str, Any]
    interrupted: str = ""
    stopped_by: str = ""
    history: dict[str, np.ndarray] = field(default_factory=dict)


def fit(training: Training, config: Any, console: Console | None = None, callbacks: Sequence[Callback] = ()) -> Outcome:
    """Trains to the end, or continues the run in `config.run.workdir`.

    Args:
      training: program, data, scoring, log and storage.
      config: the resolved configuration, which is saved: a dataclass with a field `run`, a `Run`, and an attribute
        `changes`, see `jaxai.runtime.experiment.Experiment`.
      console: for progress; None: standard output.
      callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.

    Raises:
      ValueError: the workdir holds a run with another configuration, the batch does not fit the devices, or a callback
        is not such a function.
      CallbackError: a callback failed; everything is saved.
      FloatingPointError: a gradient or a parameter became non-finite; a dump for `jaxai replay` is written.
    """
    started, console, callbacks = time.monotonic(), console or Console(), check_callbacks(callbacks)
    run: Run = config.run
    mesh = parallel.make_mesh(run.devices)
    plan = Plan.of(run, training.steps, training.scoring.every, training.program.steps_per_call)
    # Before the folder is made or changed: a configuration that cannot run leaves no run behind.
    folder, identity = RunFolder(run.workdir, run.tensorboard), training.storage.identity
    differences = folder.compare(config, identity)
    if training.data is not None:
        parallel.check_divides("a batch of", training.batch_size, mesh)
    for name, number in training.program.divided.items():
        parallel.check_divides(name, number, mesh)
    check_memory(training, mesh)
    machine, declared = _machine(training, mesh), training.declarations
    one_device = training.program.make(None)
    saved = Checkpoints(folder.checkpoints, one_device.stored)
    with only_training(folder.path), stop_on_signal() as stop, saved as checkpoints:
        state = newest_state(one_device, run, mesh, checkpoints, training.storage.apply, training.steps)
        first_step = 0 if state is None else int(state.step)
        # From here on everything is valid, and files in the folder may be replaced.
        show_notes(differences.lines, console)
        if differences.measured:
            folder.supersede(training.scoring.is_evaluation)
        measured_on = continuation.measured_on(config, identity)
        finished = folder.result(measured_on, first_step)
        folder.open(config, identity)
        folder.write_json("metrics.json", declared.to_dict())
        training.storage.write(folder.path)
        checkpoints.verify("best")
        checkpoints.set_aside()
        if state is None:
            _announce(training, machine, console)
            state = _new_state(training, run, mesh, checkpoints)
        folder.rewind(first_step)
        stopped_by = folder.stopped_by(first_step, goes_on=run.resume_with_changes)
        if first_step:
            print_line(console, _resumes(training, first_step, stopped_by))
        batches = make_batches(training.data, run, mesh, plan, first_step)
        with batches, progress.Display(console, declared.meanings, first_step, training.steps) as display:
            recorder = Recorder(folder, training, machine, display, started)
            trainer = _Trainer(training, run, mesh, plan, batches, recorder, checkpoints, callbacks)
            state, stopped_by = trainer.train(state, stop, stopped_by)
        checkpoints.save(parallel.gather_state(state, run.mode))
        step = int(state.step)
        if recorder.best_step is None and (step >= training.steps or stopped_by):
            checkpoints.save(parallel.gather_state(state, run.mode), "best")  # no evaluations: the latest is it
        checkpoints.wait()
        if stopped_by:
            folder.write_stopped(step, stopped_by)
    folder.close()
    lines = [line for line in folder.lines("metrics.jsonl") if not line.get(SUPERSEDED)]
    curves = history(lines, training.scoring.is_evaluation)
    if step < training.steps and not stopped_by and not recorder.stale(run.early_stopping):
        print_line(console, f"{stop.name}: saved at step {step}; the same command continues from there")
        return Outcome(state, {}, interrupted=stop.name, history=curves)
    result = finished
    if result is None or step != first_step or result.get("best_step", recorder.best_step) != recorder.best_step:
        result = training.log.summarize(recorder.result(), lines)
        result |= {"steps": step, "chip": chips.name(mesh.devices.flat[0]), "devices": mesh.size}
        result |= {"stopped_by": stopped_by} if stopped_by else {}
        result |= {"measured_on": measured_on}
        folder.write_json("result.json", result)
    console.print(progress.results(result, declared.meanings))
    if result.get("selected_on") == "test":
        print_line(console, SELECTED_ON_TEST)
    return Outcome(state, result, stopped_by=stopped_by, history=curves)


@dataclass(frozen=True)
class _Trainer:
    """The loop and its parts."""

    training: Training
    run: Run
    mesh: Mesh
    plan: Plan
    batches: CallBatches
    recorder: Recorder
    checkpoints: Checkpoints
    callbacks: Sequence[Callback]

    def train(self, state: State, stop: Stop, stopped_by: str) -> tuple[State, str]:
        """From the state's step to the last, or until a signal, early stopping or a callback ends it.

        Args:
          state: to train on.
          stop: set by a signal.
          stopped_by: the callback that has ended the run already; "": none.

        Returns:
          The state, and the name of the callback that ended the run; "": none.
        """
        recorder, first_step = self.recorder, int(state.step)
        if first_step or recorder.measured(0):
            stopped_by = self._measure_again(state) or stopped_by
        if stopped_by or first_step >= self.training.steps or recorder.stale(self.run.early_stopping):
            return state, stopped_by
        call = self._compiled(state)
        if self.training.scoring.initial and first_step == 0 and not recorder.measured(0):
            # Saved as the best, since later states may all be worse. It is saved before its evaluation is logged,
            # because a run that resumes does not evaluate it again.
            self._save(state, "best")
            if stopped_by := self._evaluate(state):
                return state, stopped_by
        return self._loop(call, state, stop)

    def _loop(self, call: parallel.Call, state: State, stop: Stop) -> tuple[State, str]:
        recorder, plan, stopped_by = self.recorder, self.plan, ""
        try:
            for start, steps in plan.calls(int(state.step)):
                if stop.requested:
                    break
                batches, waited = self.batches.next(start, steps, state)
                state, metrics = call(state, batches, self.batches.dataset, steps)
                step = start + steps
                recorder.submit(step, steps, metrics, waited)
                if self.callbacks:
                    stopped_by = self._call_back(recorder.flush(), state)
                if plan.evaluates(step) or stopped_by:
                    recorder.flush()
                    stopped_by = self._evaluate(state) or stopped_by
                if stopped_by or (plan.evaluates(step) and recorder.stale(self.run.early_stopping)):
                    break
                if plan.checkpoints(step):
                    recorder.flush()
                    self._save(state)
            recorder.flush()
        except NonFiniteError as found:
            self.checkpoints.wait()
            raise self._explained(found, state, call) from None
        except FloatingPointError as found:
            # All trainings have diverged, possibly because of a value that the environment returned.
            raise FloatingPointError(f"{found}{nonfinite.cause(state, self._on_one_device)}") from None
        return state, stopped_by

    def _compiled(self, state: State) -> parallel.Call:
        call = parallel.compile_step(self._workload.train_step, self.mesh, self.run.mode, self.plan.steps_per_call)
        self.recorder.compiling()
        call = call.compile(state, self.batches.at(int(state.step)), self.batches.dataset)
        self.recorder.compiled(f"{self.mesh.size} x {self.mesh.devices.flat[0].device_kind}")
        return call

    def _measure_again(self, state: State) -> str:
        """Evaluates the best and the restored state if their metrics cannot be compared with later ones.

        Returns the name of a callback that ends the run here; "": none.
        """
        step, recorder = int(state.step), self.recorder
        for best in self.checkpoints.steps("best"):
            if not recorder.measured(best):
                held = restored_state(self._on_one_device, self.run, self.mesh, self.checkpoints, "best")
                if held is not None:
                    self._record_evaluation(held)
        keep_best(state, self.run, recorder, self.checkpoints)
        ends = step >= self.training.steps or recorder.stale(self.run.early_stopping)
        if (ends or self.plan.evaluates(step)) and not recorder.measured(step):
            return self._evaluate(state)
        return ""

    @functools.cached_property
    def _on_one_device(self) -> Workload:
        return self.training.program.make(None)

    @functools.cached_property
    def _workload(self) -> Workload:
        return self.training.program.make(parallel.axis_name(self.run.mode))

    @functools.cached_property
    def _evaluations(self) -> Evaluations:
        scoring = self.training.scoring
        return Evaluations(self._workload, scoring.splits, self.mesh, self.run.mode, self.training.batch_size)

    def _evaluate(self, state: State) -> str:
        """Evaluates, keeps the best, and calls back. Returns the name of a callback that ends the run; "": none."""
        if not (metrics := self._record_evaluation(state)):
            return ""
        if self.recorder.improved(int(state.step)):
            self._save(state, "best")
        return self._call_back(metrics, state)

    def _record_evaluation(self, state: State) -> dict[str, Any]:
        scoring, step = self.training.scoring, int(state.step)
        found = self.training.log.describe_evaluation(self._evaluations(state)) | scoring.measure(self.mesh, state)
        with self._saved_on_failure(state):
            found = measured(scoring.measures, step, parallel.gather_state(state, self.run.mode), found)
        return self.recorder.evaluated(step, found) if found else {}

    def _call_back(self, metrics: Mapping[str, Any], state: State) -> str:
        """Runs the callbacks; their time does not count for the next call. If one fails, everything is saved first."""
        if not self.callbacks:
            return ""
        with self._saved_on_failure(state):
            stopped_by = call_back(
                self.callbacks, int(state.step), metrics, parallel.gather_state(state, self.run.mode)
            )
        self.recorder.restart_clock()
        return stopped_by

    @contextlib.contextmanager
    def _saved_on_failure(self, state: State) -> Iterator[None]:
        """Saves the state if a callback or a measure inside fails."""
        try:
            yield
        except CallbackError as error:
            self._save(state)
            self.checkpoints.wait()
            saved = f"step {int(state.step)} is saved, and the same command continues from there"
            raise CallbackError(f"{error}; {saved}") from error.__cause__

    def _save(self, state: State, which: Which = "latest") -> None:
        self.checkpoints.save(parallel.gather_state(state, self.run.mode), which)

    def _explained(self, found: NonFiniteError, state: State, call: parallel.Call) -> NonFiniteError:
        """The error of a non-finite step; writes a dump of the step if it can be run again."""
        lacking = self.training.storage.recreated
        if not lacking and not isinstance(self.training.data, Examples | None):
            lacking = "the state of a feed"
        if lacking:
            unseen = f"{found}; {lacking} is not in the checkpoints, so the step cannot be run again"
            return NonFiniteError(found.step, unseen + nonfinite.cause(state, self._on_one_device))
        before = self._state_before(found.step, call)
        return nonfinite.dump(self.recorder.folder, before, self._batch(found.step), self._on_one_device)

    def _state_before(self, step: int, call: parallel.Call) -> State:
        """The state before `step`: from the last checkpoint by the same program, which gives the same bits."""
        apply = self.training.storage.apply
        state = restored_state(self._on_one_device, self.run, self.mesh, self.checkpoints, None, apply)
        assert state is not None
        while (start := int(state.step)) < step:
            steps = min(call.steps_per_call, step - start)
            state, _ = call(state, self.batches.at(start), self.batches.dataset, steps)
        return parallel.gather_state(state, self.run.mode)

    def _batch(self, step: int) -> dict[str, np.ndarray] | None:
        """The batch of a step, on the host."""
        data = self.training.data
        if not isinstance(data, Examples):
            return None
        index = data.batches(self.run.seed).host_indices(step, 1)[0]
        return {name: array[index] for name, array in data.arrays.items()} | {"index": index}


def _announce(training: Training, machine: Machine, console: Console) -> None:
    """Shows the model before the training, from its shapes alone."""
    program, log = training.program, training.log
    init = program.make(None).init
    parameters = jax.eval_shape(lambda key: program.parameters(init(key)), jax.random.key(0))
    console.print(progress.summary(parameters, machine.flops_per_unit, log.unit))
    if log.opening:
        print_line(console, log.opening)


def _resumes(training: Training, step: int, stopped_by: str) -> str:
    if stopped_by:
        return (
            f"callback {stopped_by} stopped this run at step {step} of {training.steps}; it continues only with"
            " --resume-with-changes (in Python resume_with_changes=True)"
        )
    recreated = training.storage.recreated
    note = f"; {recreated} starts empty, so the result differs from that of an uninterrupted run" if recreated else ""
    return f"continuing at step {step} of {training.steps}{note}"


def _new_state(training: Training, run: Run, mesh: Mesh, checkpoints: Checkpoints) -> State:
    # Jitted: an eager init compiles its operations one by one, which takes twice as long.
    init = jax.jit(training.program.make(None).init)
    state = training.program.prepare(init(jax.random.key(run.seed)))
    state = parallel.place_state(state, mesh, run.mode)
    # If the run fails before its first checkpoint, the failing step is run again from this state.
    checkpoints.save(parallel.gather_state(state, run.mode))
    checkpoints.wait()
    return state


def check_memory(training: Training, mesh: Mesh) -> None:
    """Raises ValueError for a state that exceeds the memory; XLA would end the process without a message."""
    shapes = jax.eval_shape(training.program.make(None).init, jax.random.key(0))
    needed = sum(leaf.size * getattr(leaf.dtype, "itemsize", 1) for leaf in jax.tree.leaves(shapes))
    memory = chips.memory(mesh)
    if memory is not None and needed > memory:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
        raise ValueError(
            f"the state takes {chips.shown_bytes(needed)}, with {parameters:,} parameters, and there are"
            f" {chips.shown_bytes(memory)} of memory; make the network smaller"
        )


def flops_per_step(training: Training) -> float:
    """FLOPs of a train step over all devices: as the program declares it, or counted."""
    program = training.program
    if program.flops_per_step is not None:
        return program.flops_per_step
    workload = program.make(None)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    return flops.count(workload.train_step, state, example_batch(training.data))


def _machine(training: Training, mesh: Mesh) -> Machine:
    flops_per_unit = flops_per_step(training) / training.units_per_step
    return Machine(chips.count(mesh), flops_per_unit, chips.peak_flops(mesh.devices.flat[0]))
