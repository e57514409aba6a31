"""The parts of a training that an experiment passes to the loop: program, data, scoring, log and files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxai.core import Key, Metric, PyTree, State, Workload
from jaxai.data.epochs import Epochs, Order
from jaxai.metrics import Declarations
from jaxai.runtime.callbacks import Measure, check_measures
from jaxai.runtime.feed import Feed
from jaxai.runtime.plan import STEPS_PER_CALL
from jaxai.runtime.timing import declarations

__all__ = ["Examples", "Log", "Program", "Scoring", "Storage", "Training", "position_in_epochs", "scalars"]

Arrays = Mapping[str, np.ndarray]
"""Arrays of examples, leaves [examples, ...]."""


def scalars(metrics: Mapping[str, np.ndarray], steps: int = 1) -> dict[str, Any]:
    """The metrics that are single numbers, as Python floats; they are means, so the number of steps has no effect."""
    del steps
    return {name: np.asarray(value).item() for name, value in metrics.items() if np.ndim(value) == 0}


def data_key(seed: int) -> jax.Array:
    """The key of the order of the data; `State.key` starts from `key(seed)` itself."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def position_in_epochs(steps_per_epoch: float) -> Callable[[int], dict[str, float]]:
    """step -> `{"epoch": ...}`, for `Log.position`."""
    return lambda step: {"epoch": step / steps_per_epoch}


@dataclass(frozen=True)
class Program:
    """The program to train: a workload, its initial state, and the size of its compiled calls.

    Attributes:
      make: axis name, or None on one device -> workload.
      prepare: initial state -> the state with the parts that the data determines, such as a whitening kernel.
      parameters: state -> the parameters of the network, for the table shown at the start.
      steps_per_call: default number of train steps in one call, approximately.
      divided: name -> number that must divide by the number of devices, in addition to the batch.
      flops_per_step: of a train step over all devices; None: counted in the program. Needed if steps differ.
    """

    make: Callable[[str | None], Workload]
    prepare: Callable[[State], State] = lambda state: state
    parameters: Callable[[State], PyTree] = lambda state: state.params
    steps_per_call: int = STEPS_PER_CALL
    divided: Mapping[str, int] = field(default_factory=dict)
    flops_per_step: float | None = None


@dataclass(frozen=True)
class Examples:
    """The arrays of the training data, and the examples of each step.

    Attributes:
      arrays: name -> [examples, ...].
      batch_size: number of examples in a step, over all devices.
      order: key -> the examples of each step; None: all of them, in a new random order in each epoch.
    """

    arrays: Arrays
    batch_size: int
    order: Callable[[Key], Order] | None = None

    def batches(self, seed: int) -> Order:
        """The examples of each step of a run with this seed.

        Raises:
          ValueError: the batch is larger than the data.
        """
        if self.order is not None:
            return self.order(data_key(seed))
        return Epochs(data_key(seed), len(next(iter(self.arrays.values()))), self.batch_size)


@dataclass(frozen=True)
class Scoring:
    """How the state is evaluated, and which metric decides on the best checkpoint.

    Attributes:
      every: default number of steps between evaluations.
      score: the evaluation metric that selects the best checkpoint and stops early, whose declaration in
        `Training.metrics` states whether higher or lower values are better; None: the latest is the best.
      splits: name -> arrays that `eval_step` runs on, as `test`; its metrics are called `test_loss`. None instead of
        arrays for a workload that generates its own data.
      measure: (mesh, state) -> more metrics of an evaluation, as `{"frechet_distance": 12.5}`.
      measures: functions of a user, state -> {name: value}, which add to the metrics of an evaluation; see
        `jaxai.runtime.callbacks`.
      initial: whether the initial state is evaluated too, as a baseline.
    """

    every: int
    score: str | None
    splits: Mapping[str, Arrays | None] = field(default_factory=dict)
    measure: Callable[[Mesh, State], dict[str, Any]] = lambda mesh, state: {}
    measures: Sequence[Measure] = ()
    initial: bool = False

    @property
    def selected_on(self) -> str:
        """The split whose metric selects the best checkpoint; "" if it is not the metric of a split."""
        split = (self.score or "").partition("_")[0]
        return split if split in ("validation", *self.splits) else ""

    def is_evaluation(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of `metrics.jsonl` is of an evaluation, and not of a call."""
        return self.score in line or any(name.startswith(f"{split}_") for split in self.splits for name in line)


@dataclass(frozen=True)
class Log:
    """The logged and shown values of the training.

    Attributes:
      position: step -> values that every line of metrics also has, as `{"epoch": 1.5}`.
      unit: counted by the speed.
      units_per_step: number of `unit` in a step, over all devices; None: the batch size.
      describe: (metrics of a call, number of its steps) -> values to log.
      describe_evaluation: metrics of an evaluation, called `<split>_<metric>` -> values to log.
      summarize: (final values, all lines of metrics) -> the values of `result.json`.
      warnings: logged values -> kind of problem -> a line for the user, or "" if there is none; shown once while the
        problem lasts. May raise FloatingPointError to end the run.
      opening: a line that is shown below the table of the parameters, before anything is allocated; "": none.
    """

    position: Callable[[int], dict[str, float]] = lambda step: {}
    unit: str = "examples"
    units_per_step: float | None = None
    describe: Callable[[Mapping[str, np.ndarray], int], dict[str, Any]] = scalars
    describe_evaluation: Callable[[Mapping[str, np.ndarray]], dict[str, Any]] = scalars
    summarize: Callable[[dict[str, Any], list[dict[str, Any]]], dict[str, Any]] = lambda result, lines: result
    warnings: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda values: {}
    opening: str = ""


@dataclass(frozen=True)
class Storage:
    """Further files of a run folder, and how a run resumes from it.

    Attributes:
      identity: description of the data, from `jaxai.data.digests`; other data is refused on resume. None: not compared.
      write: writes files that belong to the configuration into the run folder, such as vocabularies.
      apply: restored state -> the state with the current configuration, if the state contains a copy of it.
      recreated: name of the part that checkpoints lack and a resumed run creates again, as `the replay`; "": none. A
        resumed run then differs from an uninterrupted one.
    """

    identity: Mapping[str, Any] | None = None
    write: Callable[[Path], None] = lambda folder: None
    apply: Callable[[State], State] = lambda state: state
    recreated: str = ""


@dataclass(frozen=True)
class Training:
    """A training in its parts.

    Attributes:
      program: to train.
      steps: train steps of the whole run.
      data: arrays, or a feed; None for a workload that generates its own data.
      scoring: how it is evaluated.
      log: logged and shown values.
      storage: files of the run folder, and how a run resumes.
      metrics: name -> declaration of a metric of the steps or of an evaluation, for progress and report. Other
        metrics are shown by their names.
    """

    program: Program
    steps: int
    data: Examples | Feed | None
    scoring: Scoring
    log: Log = Log()
    storage: Storage = Storage()
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def measuring(self, measures: Sequence[Measure], metrics: Mapping[str, Metric] | None = None) -> "Training":
        """The training with further measures, and the declarations of their metrics.

        Raises:
          ValueError: no sequence of functions that take a state.
        """
        scoring = replace(self.scoring, measures=(*self.scoring.measures, *check_measures(measures)))
        return replace(self, scoring=scoring, metrics={**self.metrics, **(metrics or {})})

    @property
    def declarations(self) -> Declarations:
        """The content of `metrics.json` of the run folder.

        Raises:
          ValueError: an invalid declaration, or a score that does not declare which values are better.
        """
        return declarations(self.metrics, self.scoring.score, self.log.unit, tuple(self.log.position(0)))

    @property
    def batch_size(self) -> int:
        """Number of examples in a step, over all devices; 1 for a workload that generates its own data."""
        if self.data is None or isinstance(self.data, Examples):
            return 1 if self.data is None else self.data.batch_size
        return int(np.shape(next(iter(self.data.example.values())))[0])

    @property
    def units_per_step(self) -> float:
        """Number of `log.unit` in a step, over all devices."""
        return self.batch_size if self.log.units_per_step is None else self.log.units_per_step
