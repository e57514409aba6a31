"""What an experiment is: a configuration, and its bound form, which alone can train.

The configuration is what the `config` of a preset is and what `config.json` holds. `Experiment.bind` loads the data and
fills in what follows from it, as the number of classes; only what it returns can train, so that no configuration with
defaults in place of the data's shapes builds another network unnoticed. The `config.json` of a run is bound already:
`open_run` gives its bound form without any data.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from rich.console import Console

from jaxai.core import Metric, State, Workload
from jaxai.dotted_names import dotted_name, is_dotted
from jaxai.runtime import parallel, registry
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.config import Run
from jaxai.runtime.continuation import Changes
from jaxai.runtime.loop import Outcome
from jaxai.runtime.presets import load_preset
from jaxai.runtime.registry import Commands
from jaxai.runtime.restore import trained_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Training

__all__ = ["Bound", "Experiment", "evaluate", "open_run"]


def evaluate(bound: "Bound", checkpoint: Literal["best", "latest"] = "best") -> dict[str, Any]:
    """Measure a checkpoint of a run.

    Args:
      checkpoint: the best by its evaluations, or the latest
    """
    return bound.evaluate(Console(), checkpoint)


class Bound(Protocol):
    """A resolved experiment, and its data where it needs any.

    Inherit from it for `restore`; the other methods are each experiment's own.

    Attributes:
      config: the resolved configuration.
    """

    config: "Experiment"

    def make(self) -> Workload:
        """The workload for one device."""
        ...

    def training(self) -> Training:
        """What the training loop needs; loads the data where it has not been given.

        Raises:
          ValueError: it cannot be trained.
        """
        ...

    def train(
        self,
        console: Console | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        measures: Sequence[Measure] = (),
        metrics: Mapping[str, Metric] | None = None,
    ) -> Outcome:
        """Trains or resumes in `config.run.workdir`, and leaves the results in this folder.

        Args:
          console: where progress goes; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> what a metric of one's own means.
        """
        ...

    def evaluate(self, console: Console, which: Which = "best") -> dict[str, Any]:
        """Measures a checkpoint of the run in `config.run.workdir`, and shows and returns the metrics.

        Args:
          console: where they are shown.
          which: checkpoint.

        Raises:
          ValueError: the run has no such checkpoint.
        """
        ...

    def trained(self, checkpoint: str = "best") -> Any:
        """A checkpoint of the run, to predict with: what `jaxai.load` returns.

        Args:
          checkpoint: best or latest.
        """
        return registry.imported(registry.TRAINED).read(self.config.run, self.make(), checkpoint, self.config)

    def restore(self, which: Which = "best") -> State:
        """The state of a checkpoint of the run, on one device.

        Raises:
          ValueError: the run has no such checkpoint.
        """
        one = dataclasses.replace(self.config.run, mode="jit")
        return trained_state(self.make(), one, parallel.make_mesh(1), which)


class Experiment(Protocol):
    """The configuration of a training: a frozen dataclass with a field `run`.

    Inherit from it: what is not defined has the defaults below.

    Attributes:
      changes: fields that `--resume-with-changes` may change in a run that goes on; None: every field.
      commands: that it adds to the command line.
      trains_seeds_together: whether several seeds are one program in one folder; else each has a folder of its own.
    """

    changes: ClassVar[Changes | None] = None
    commands: ClassVar[Commands] = Commands({"evaluate": evaluate})
    trains_seeds_together: ClassVar[bool] = False
    run: Run  # how it runs, and in which folder
    expected: float = 0.0  # score that the preset is known to reach; 0: unknown

    @property
    def cpu_devices(self) -> int:
        """Number of devices that a CPU is divided into, which trains fastest."""
        return 1

    @property
    def small_operations(self) -> bool:
        """Whether a CPU computes each operation fastest on one thread."""
        return False

    @property
    def task(self) -> Any:
        """What is learned: `expected` holds for this alone."""
        return None

    @property
    def from_preset(self) -> str:
        """What only the preset gives to a process, besides the class, as `registers Mine-v0`; "": nothing."""
        return ""

    @property
    def missing(self) -> str:
        """What a process lacks to open a run, and how to give it, as `was trained in 'Mine-v0', ...`; "": nothing."""
        return ""

    @property
    def named_again(self) -> str:
        """The options that give another process what the run folder may only name, as `--env.name x:make`; "": none."""
        return ""

    def provide(self, **needs: Any) -> None:
        """Makes known to this process what a user gives for a run, by the options `commands.needs`.

        Args:
          needs: parameter -> value, where one was given.

        Raises:
          ValueError: it is not what the run was trained with, or cannot be imported.
        """
        raise ValueError(f"{next(iter(needs))} is given, and {self.run.workdir} needs none; leave it out")

    def bind(self, data: Any = None, console: Console | None = None) -> Bound:
        """Loads and checks the data, and fills in what follows from it.

        Args:
          data: to use instead of what the configuration names.
          console: where notes on the data are shown; None: nowhere.

        Raises:
          ValueError: a field is out of its range or does not fit the data, or there is no such data; one line.
        """
        ...

    def of_run(self, data: Any = None) -> Bound:
        """The bound form of a configuration that is resolved already, as that of a run folder is.

        Args:
          data: to evaluate on instead of what the configuration names, which is loaded where it is needed.
        """
        ...


def open_run(
    folder: str | Path,
    experiments: tuple[type, ...] = (),
    preset: str | os.PathLike[str] | None = None,
    devices: int | None = None,
    **needs: Any,
) -> Bound:
    """The bound experiment of a run folder, wherever the folder is now. Writes nothing.

    The folder itself never decides what is imported or executed: it may be a stranger's.

    Args:
      folder: of the run.
      experiments: classes that its `config.json` may name besides the registered ones.
      preset: file that defines the class of the experiment, registers what it needs, or has the functions that the
        configuration names; executed only where one of them is missing.
      devices: number of devices to use; None: all.
      needs: see `Experiment.provide`; None where nothing was given.

    Raises:
      ValueError: the folder holds no run, or one of a class or with needs that this process does not have.
    """
    folder, file = Path(folder), RunFolder(folder)
    if preset is not None and not Path(preset).is_file():
        load_preset(os.fspath(preset))  # raises what is wrong with the path
    if preset is not None and not file.knows_class(*experiments):
        loaded = load_preset(os.fspath(preset))[0]
        config: Experiment = with_functions_of(loaded, file.load_config(*experiments, type(loaded)))
    else:
        config = file.load_config(*experiments)
        if preset is not None and (config.missing or has_function_names(config)):
            config = with_functions_of(load_preset(os.fspath(preset))[0], config)
    if given := {name: value for name, value in needs.items() if value is not None}:
        config.provide(**given)
    if config.missing:
        raise ValueError(f"{folder} {config.missing}{file.began_with(' (the run began with {})')}")
    return with_run(config, dataclasses.replace(config.run, workdir=str(folder), devices=devices)).of_run()


def has_function_names(config: Any) -> bool:
    """Whether a configuration, as read from a run folder, has names of functions in place of functions."""
    if isinstance(config, str):
        return is_dotted(config)
    return dataclasses.is_dataclass(config) and any(map(has_function_names, vars(config).values()))


def with_functions_of(preset: Any, config: Any) -> Any:
    """A configuration with the functions of a preset in place of their names; other fields stay."""
    if isinstance(config, str) and callable(preset) and dotted_name(preset) == config:
        return preset
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    names = [field.name for field in dataclasses.fields(config) if hasattr(preset, field.name)]
    changes = {name: with_functions_of(getattr(preset, name), getattr(config, name)) for name in names}
    changed = {name: value for name, value in changes.items() if value is not getattr(config, name)}
    return dataclasses.replace(config, **changed) if changed else config


def with_run(experiment: Experiment, run: Run) -> Experiment:
    """The same experiment, run in another way or folder."""
    changed: Experiment = dataclasses.replace(experiment, run=run)  # type: ignore[type-var]  # it is a dataclass
    return changed


def without_foreign_bound(preset: Experiment, experiment: Experiment) -> Experiment:
    """The experiment without the score that the preset is known to reach, where it learns something else."""
    if preset.expected != experiment.expected or preset.task == experiment.task:
        return experiment
    changed: Experiment = dataclasses.replace(experiment, expected=0.0)  # type: ignore[type-var]  # as above
    return changed
