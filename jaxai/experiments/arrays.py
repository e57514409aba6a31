"""A base for experiments of your own on arrays: you define the workload and the data, the rest is here.

::

    @dataclass(frozen=True)
    class Logistic(ArraysExperiment):
        features: Natural = 0  # filled in from the data
        score = "test_accuracy"
        metrics = METRICS

        def load(self):
            return {"train": {"x": ..., "y": ...}, "test": {"x": ..., "y": ...}}

        def resolve(self, data):
            return dataclasses.replace(self, features=data["train"]["x"].shape[1])

        def make(self, axis_name=None):
            return make(self.features, axis_name)

    config = Logistic(run=Run(workdir="runs/logistic"))

As a preset it trains, resumes, evaluates, and reports: `jaxai train logistic.py`, and `jaxai evaluate runs/logistic
--preset logistic.py`.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import tyro
from rich.console import Console

from jaxai.core import Metric, Workload
from jaxai.data.epochs import steps_in
from jaxai.data.named_arrays import check_named_arrays, describe_named_arrays
from jaxai.metrics import Meanings
from jaxai.output import print_line, show_notes
from jaxai.ranges import Finite, Natural, Positive
from jaxai.runtime import experiment, model_card, parallel, progress
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.continuation import measured_on
from jaxai.runtime.evaluation import Evaluations
from jaxai.runtime.loop import Outcome, fit
from jaxai.runtime.registry import Commands
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Log, Program, Scoring, Storage, Training, position_in_epochs, scalars
from jaxai.runtime.workload_checks import check_workload

__all__ = ["ArraysExperiment", "BoundArrays"]

Splits = Mapping[str, Mapping[str, np.ndarray]]
"""Name of a split, `train` among them -> name -> array [examples, ...]."""


def evaluate(
    bound: "BoundArrays", checkpoint: Literal["best", "latest"] = "best", other_data: bool = False
) -> dict[str, Any]:
    """Measure a checkpoint on the splits that were not trained on.

    Args:
      checkpoint: the best by its evaluations, or the latest
      other_data: measure on the data that is there, even if it is not the data of the run
    """
    return bound.evaluate(Console(), checkpoint, other_data)


@dataclass(frozen=True)
class ArraysExperiment(experiment.Experiment):
    """Trains a workload on arrays; subclass it as a frozen dataclass, with `load` and `make`.

    Attributes:
      score: metric of an evaluation that selects the best checkpoint, as `test_accuracy`; None: the latest is the best.
      metrics: name, without a split -> declaration of a metric; for `score` it states whether higher or lower is
        better.
    """

    epochs: Positive = 10.0  # number of passes over the training data
    batch_size: Natural = 64  # examples in a step over all devices; 0: all of them
    expected: Finite = 0.0  # score that the preset reaches; 0: not known
    run: Annotated[Run, tyro.conf.arg(name="")] = Run()

    commands: ClassVar[Commands] = Commands({"evaluate": evaluate})
    score: ClassVar[str | None] = None
    metrics: ClassVar[Mapping[str, Metric]] = {}

    def load(self) -> Mapping[str, Mapping[str, Any]]:
        """The data: `train` and splits to evaluate on, as {"train": {"x": ..., "y": ...}, "test": ...}.

        Raises:
          NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError

    def resolve(self, data: Splits) -> "ArraysExperiment":
        """The experiment with the fields that follow from the data, as the number of classes; default: unchanged."""
        del data
        return self

    def make(self, axis_name: str | None = None) -> Workload:
        """The workload of a resolved experiment; its gradients are averaged over `axis_name`, see `jaxai.core`.

        Raises:
          NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError

    def bind(self, data: Any = None, console: Console | None = None) -> "BoundArrays":
        """Loads and checks the data, and fills in what follows from it.

        Args:
          data: splits to use instead of those of `load`.
          console: unused.

        Raises:
          ValueError: a field is out of its range or does not fit the data; one line.
        """
        del console
        check_experiment(self)
        splits = _checked(self.load() if data is None else data)
        resolved = self.resolve(splits)
        examples = len(next(iter(splits["train"].values())))
        if self.batch_size > examples:
            raise ValueError(f"batch_size is {self.batch_size}; expected 1 to {examples}, or 0 for all examples")
        return BoundArrays(resolved, splits)

    def of_run(self, data: Any = None) -> "BoundArrays":
        """The bound form of the configuration of a run folder.

        Args:
          data: splits to evaluate on instead of those of `load`.
        """
        return BoundArrays(self, None if data is None else _checked(data))


class BoundArrays(experiment.Bound):
    """A resolved experiment on arrays, which are loaded when they are needed."""

    def __init__(self, config: ArraysExperiment, splits: Splits | None = None):
        self.config: ArraysExperiment = config
        self._splits = splits

    @functools.cached_property
    def splits(self) -> Splits:
        """The given splits, or those that `load` returns."""
        return _checked(self.config.load()) if self._splits is None else self._splits

    def make(self) -> Workload:
        """The workload for one device."""
        return self.config.make()

    def training(self) -> Training:
        """The parts of the training loop."""
        config, (train, held_out) = self.config, _parted(self.splits)
        examples = len(next(iter(train.values())))
        data = Examples(train, config.batch_size or examples)
        batches = max(1, examples // data.batch_size)
        check_workload(self.make(), {name: array[: data.batch_size] for name, array in train.items()})
        return Training(
            Program(config.make),
            steps_in(config.epochs, batches),
            data,
            Scoring(batches, config.score, held_out),
            Log(position=position_in_epochs(batches)),
            Storage(identity=describe_named_arrays(self.splits)),
            metrics=config.metrics,
        )

    def train(
        self,
        console: Console | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        measures: Sequence[Measure] = (),
        metrics: Mapping[str, Metric] | None = None,
    ) -> Outcome:
        """Trains or resumes; see `jaxai.runtime.experiment.Bound.train`.

        Args:
          console: where progress is shown; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> meaning of a metric that a measure returns.
        """
        config = self.config
        outcome = fit(self.training().measuring(measures, metrics), config, console, callbacks)
        if console and config.expected and config.score and not outcome.interrupted:
            value = outcome.result[config.score]
            print_line(console, progress.expectation(config.score, config.expected, value, Meanings(config.metrics)))
        arguments, commands = f"experiments=[{type(config).__name__}]", ("jaxai evaluate RUN --preset PRESET",)
        model = model_card.of_arrays(outcome.state.params, describe_named_arrays(self.splits), arguments, commands)
        model_card.write(RunFolder(config.run.workdir), model, bool(outcome.interrupted))
        return outcome

    def evaluate(
        self, console: Console | None = None, which: Which = "best", other_data: bool = False
    ) -> dict[str, Any]:
        """Measures a checkpoint on every split but `train`, and shows and returns the metrics.

        Args:
          console: for the metrics; None: standard output.
          which: checkpoint.
          other_data: measure on what `load` returns, even if it is not the data of the run any more.

        Raises:
          ValueError: the run has no such checkpoint, or the data is no longer that of the run.
        """
        config, folder, console = self.config, RunFolder(self.config.run.workdir), console or Console()
        identity, held_out = describe_named_arrays(self.splits), _parted(self.splits)[1]
        given = other_data or self._splits is not None
        show_notes(folder.data_notes(identity, *held_out, given=given), console)
        state, mesh = self.restore(which), parallel.make_mesh(1)
        measured = Evaluations(self.make(), held_out, mesh, "jit", config.batch_size or 1_000)(state)
        result: dict[str, Any] = scalars(measured) | {"step": int(state.step), "checkpoint": which}
        console.print(progress.results(result, Meanings(config.metrics), title=f"The {which} checkpoint"))
        return result | {"measured_on": measured_on(config, identity)}


def _parted(splits: Splits) -> tuple[Mapping[str, np.ndarray], dict[str, Mapping[str, np.ndarray]]]:
    """The training split, and the splits to evaluate on."""
    return splits["train"], {name: arrays for name, arrays in splits.items() if name != "train"}


def _checked(data: Any) -> Splits:
    if not isinstance(data, Mapping) or "train" not in data:
        kind = f"splits {', '.join(map(str, data))}" if isinstance(data, Mapping) else f"a {type(data).__name__}"
        raise ValueError(
            f"the data is {kind}; expected splits of arrays with train among them: {{'train': {{'x': ..., 'y': ...}}}}"
        )
    return {name: check_named_arrays(name, arrays) for name, arrays in data.items()}
