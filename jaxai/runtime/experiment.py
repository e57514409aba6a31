"""An experiment: a configuration, and its bound form; only the bound form can train.

The configuration is the `config` of a preset and the content of `config.json`. `Experiment.bind` loads the data and
fills in the fields that follow from it, such as the number of classes. Only the bound form can train, so that a
configuration without the data's shapes cannot build a different network unnoticed. The `config.json` of a run is bound
already: `open_run` returns its bound form without any data.
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
    """A resolved experiment, and its data if it needs any.

    Inherit from it for `restore`; each experiment defines the other methods.

    Attributes:
      config: the resolved configuration.
    """

    config: "Experiment"

    def make(self) -> Workload:
        """The workload for one device."""
        ...

    def training(self) -> Training:
        """The parts of the training loop; loads the data unless it was given.

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
          console: for progress; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> declaration of a metric of your own.
        """
        ...

    def evaluate(self, console: Console | None = None, which: Which = "best") -> dict[str, Any]:
        """Measures a checkpoint of the run in `config.run.workdir`, and shows and returns the metrics.

        Args:
          console: for the metrics; None: standard output.
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

    Inherit from it; the defaults are below.

    Attributes:
      changes: fields that `--resume-with-changes` may change; None: every field.
      commands: that it adds to the command line.
      trains_seeds_together: whether several seeds are one program in one folder; otherwise each has its own folder.
    """

    changes: ClassVar[Changes | None] = None
    commands: ClassVar[Commands] = Commands({"evaluate": evaluate})
    trains_seeds_together: ClassVar[bool] = False
    run: Run  # its settings and folder
    expected: float = 0.0  # score that the preset reaches; 0: not known

    @property
    def cpu_devices(self) -> int:
        """Number of devices that a CPU is divided into for the fastest training."""
        return 1

    @property
    def small_operations(self) -> bool:
        """Whether a CPU computes each operation fastest on one thread."""
        return False

    @property
    def task(self) -> Any:
        """The fields that define what is learned: `expected` is valid only for these."""
        return None

    @property
    def from_preset(self) -> str:
        """What only the preset provides to a process in addition to the class, as `registers Mine-v0`; "": nothing."""
        return ""

    @property
    def missing(self) -> str:
        """What this process lacks to open a run, and the remedy, as `was trained in 'Mine-v0', ...`; "": nothing."""
        return ""

    @property
    def named_again(self) -> str:
        """The options that provide what the run folder only names, as `--env.name x:make`; "": none."""
        return ""

    def provide(self, **needs: Any) -> None:
        """Registers in this process what the user provides for a run by the options `commands.needs`.

        Args:
          needs: parameter -> value, if one was given.

        Raises:
          ValueError: the run was trained with something else, or it cannot be imported.
        """
        raise ValueError(f"{next(iter(needs))} is given, and {self.run.workdir} needs none; leave it out")

    def bind(self, data: Any = None, console: Console | None = None) -> Bound:
        """Loads and checks the data, and fills in the fields that follow from it.

        Args:
          data: to use instead of what the configuration names.
          console: for notes on the data; None: they are not shown.

        Raises:
          ValueError: a field is out of its range or does not fit the data, or there is no such data; one line.
        """
        ...

    def of_run(self, data: Any = None) -> Bound:
        """The bound form of a configuration that is resolved already, such as that of a run folder.

        Args:
          data: to evaluate on; None: the data of the configuration, which is loaded when it is needed.
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

    Nothing is imported or executed because the folder names it: it may come from a stranger.

    Args:
      folder: of the run.
      experiments: further classes that its `config.json` may name.
      preset: file that defines the class of the experiment, registers what it needs, or has the functions that the
        configuration names; executed only if one of them is missing.
      devices: number of devices to use; None: all.
      needs: see `Experiment.provide`; None if nothing was given.

    Raises:
      ValueError: the folder holds no run, or one of a class or with needs that this process does not have.
    """
    folder, file = Path(folder), RunFolder(folder)
    if preset is not None and not Path(preset).is_file():
        load_preset(os.fspath(preset))  # raises an error if the path is wrong
    if preset is not None and not file.knows_class(*experiments):
        loaded = load_preset(os.fspath(preset))[0]
        config: Experiment = with_functions_of(loaded, file.load_config(*experiments, type(loaded)))
    else:
        config = file.load_config(*experiments)
        if preset is not None and (config.missing or has_function_names(config)):
            config = with_functions_of(load_preset(os.fspath(preset))[0], config)
    config = with_run(config, dataclasses.replace(config.run, workdir=str(folder), devices=devices))
    if given := {name: value for name, value in needs.items() if value is not None}:
        config.provide(**given)
    if config.missing:
        raise ValueError(f"{folder} {config.missing}{file.began_with(' (the run began with {})')}")
    return config.of_run()


def has_function_names(config: Any) -> bool:
    """Whether a configuration read from a run folder has names of functions in place of functions."""
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
    """The same experiment with other settings of the run."""
    changed: Experiment = dataclasses.replace(experiment, run=run)  # type: ignore[type-var]  # it is a dataclass
    return changed


def without_foreign_bound(preset: Experiment, experiment: Experiment) -> Experiment:
    """The experiment without its expected score if it learns something else than the preset."""
    if preset.expected != experiment.expected or preset.task == experiment.task:
        return experiment
    changed: Experiment = dataclasses.replace(experiment, expected=0.0)  # type: ignore[type-var]  # as above
    return changed
