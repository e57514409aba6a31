"""Commands of a run: those of its experiment, whose class is found from the run folder or from a preset."""

from collections.abc import Sequence
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import tyro

from jaxai import options
from jaxai.runtime import registry

if TYPE_CHECKING:
    from jaxai.runtime.experiment import Bound, Experiment

__all__ = ["PRESET", "RUN", "class_of", "commands", "listed", "name_of", "run_among", "run_command"]

RUN = {
    "run": (Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")], Parameter.empty, "folder of the run")
}
PRESET = {
    "preset": (
        Path | None,
        None,
        "the run's preset, where it defines the experiment's class or registers what it needs",
    )
}


def commands() -> dict[str, tuple[str, str]]:
    """Each command -> its usage and its summary."""
    found = {"train": ("train PRESET [options]", "train a preset, as configs/mnist_cnn.py, or resume its run")}
    for command, summary in registry.summaries(of_preset=True).items():
        found[command] = (f"{command} PRESET [options]", _as_in_a_list(summary))
    found["evaluate"] = ("evaluate RUN", "measure a checkpoint of a run: on the test set, or over episodes")
    for command, summary in registry.summaries().items():
        found.setdefault(command, (f"{command} RUN", _as_in_a_list(summary)))
    found["report"] = ("report RUN...", "write one page with the curves, pictures and metrics of runs")
    found["replay"] = ("replay RUN", "run the step that became non-finite again, with checks on every operation")
    return found


def _as_in_a_list(summary: str) -> str:
    return summary[:1].lower() + summary[1:]


def run_command(command: str, arguments: Sequence[str], further: dict[str, Any] | None = None) -> "tuple[Bound, Any]":
    """Runs a command of the experiment of a run folder.

    Args:
      command: its name.
      arguments: of the command line, after the command.
      further: additional options, for `open_run`.

    Returns:
      The bound experiment, and what the command returned.

    Raises:
      ValueError: there is no such command, or not for this run; one line with the commands that exist.
    """
    options.require_values(arguments)
    folder, known = run_among(arguments), commands()
    if command not in known and not (folder and (folder / "config.json").is_file()):
        raise ValueError(f"no command {command!r}; choose {', '.join(known)}")
    if folder is None and {"-h", "--help"} & {*arguments}:
        _help(command)
    if folder is None:
        raise ValueError(f"give the folder of a run, as in: jaxai {command} runs/a")
    from jaxai.runtime.experiment import open_run

    kind, kinds = class_of(folder, arguments)
    offered = kind.commands.of_run
    if command not in offered:
        there = listed([*offered, "report", "replay"])
        raise ValueError(f"{folder} is a run of {name_of(kind)}, which has no {command}; it has {there}")
    opening = PRESET | dict(kind.commands.needs) | (further or {})
    values = options.parse(offered[command], RUN | opening, arguments, f"jaxai {command} {folder}")
    from jaxai.runtime import parallel

    parallel.check_backend()
    opened = {name: values.pop(name) for name in opening}
    with options.as_typed(options.of_function(offered[command], opening)):
        bound = open_run(values.pop("run"), kinds, **opened)
        return bound, offered[command](bound, **values)


def class_of(folder: Path, arguments: Sequence[str]) -> "tuple[type[Experiment], tuple[type, ...]]":
    """The class of a run's experiment, and the classes that only the preset in the arguments defines."""
    from jaxai.runtime.presets import load_preset
    from jaxai.runtime.run_folder import RunFolder

    preset = _value_of("--preset", arguments)
    kinds: tuple[type, ...] = ()
    if preset and not RunFolder(folder).knows_class():
        kinds = (type(load_preset(preset)[0]),)
    return RunFolder(folder).load_class(*kinds), kinds


def run_among(arguments: Sequence[str]) -> Path | None:
    """The first argument that is a run folder, or else the first that is no option."""
    given = [argument for argument in arguments if argument and not argument.startswith("-")]
    preset = _value_of("--preset", arguments)
    folders = [each for each in given if (Path(each) / "config.json").is_file()]
    return next((Path(each) for each in (*folders, *given) if each != preset), None)


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option; None where it is not given."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def _help(command: str) -> NoReturn:
    """Prints the options of a command where no run is given."""
    functions: dict[Any, str] = {}
    for name, entry in registry.EXPERIMENTS.items():
        offered = registry.imported(entry.commands).of_run
        if command in offered:
            functions.setdefault(offered[command], name)
    if len(functions) == 1:
        options.parse(next(iter(functions)), RUN | PRESET, ["--help"], f"jaxai {command}")
    print(f"usage: jaxai {command} RUN [options]\n\nIts options are those of the run's experiment:\n")
    for function, name in functions.items():
        print(f"  {name:<16}{(function.__doc__ or '').partition(chr(10))[0]}")
    print(f"\nOptions: jaxai {command} RUN --help")
    raise SystemExit(0)


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence, as `evaluate, sample and replay`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def name_of(kind: type) -> str:
    """The name of an experiment's class in `config.json`."""
    from jaxai.runtime.config import type_name

    return type_name(kind)
