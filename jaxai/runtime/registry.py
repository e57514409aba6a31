"""Experiments that `config.json` may name, and the commands that they add; imports nothing heavy."""

import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["Commands", "Entry", "register"]

NONE: Mapping[str, Callable[..., Any]] = MappingProxyType({})


class Commands(NamedTuple):
    """The commands of an experiment.

    The parameters of a function after the first are its options, and its docstring explains them; see `jaxai.options`.

    Attributes:
      of_run: name -> (bound experiment of a run folder, options) -> None; `evaluate` returns the metrics, which are
        written to `evaluation.json`.
      of_preset: name -> (the preset's config) -> the experiment that is trained instead, with options of its own.
      needs: options of every command of a run that provide what the run folder only names, such as an environment:
        parameter -> (type, default, explanation). `Experiment.provide` gets the values.
    """

    of_run: Mapping[str, Callable[..., Any]] = NONE
    of_preset: Mapping[str, Callable[..., Any]] = NONE
    needs: Mapping[str, tuple[Any, Any, str]] = MappingProxyType({})


NO_COMMANDS = Commands()


class Entry(NamedTuple):
    """A registered experiment.

    Attributes:
      place: its class, as `package.module:Class`.
      commands: its `Commands`, as `package.module:NAME`, in a module that imports nothing heavy.
      former: names of its class in the `config.json` of earlier versions.
    """

    place: str
    commands: str
    former: tuple[str, ...] = ()


TRAINED = "jaxai.trained:Trained"
"""The class that `jaxai.load` returns for an experiment without its own class."""
EXPERIMENTS: dict[str, Entry] = {"jaxai.train": Entry("jaxai.runtime.train:Own", "jaxai.runtime.registry:NO_COMMANDS")}
"""Registered experiments: the `type` in config.json -> its place and commands."""


def register(name: str, place: str, commands: str, former: tuple[str, ...] = ()) -> None:
    """Registers an experiment.

    Args:
      name: the `type` in `config.json`.
      place, commands, former: see `Entry`.
    """
    EXPERIMENTS[name] = Entry(place, commands, former)


def name_of(path: str) -> str:
    """The registered name of a class, given as `package.module:Class`; the path itself if there is none."""
    return next((name for name, entry in EXPERIMENTS.items() if entry.place == path), path)


def current_name(name: Any) -> Any:
    """The current name for a `type` in `config.json`."""
    return next((current for current, entry in EXPERIMENTS.items() if name in entry.former), name)


def imported(place: str) -> Any:
    """The object at a place `package.module:name`."""
    module, _, attribute = place.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def offers(command: str) -> list[str]:
    """Names of the registered experiments that have a command of presets; the first of those that share it."""
    found: dict[str, str] = {}
    for name, entry in EXPERIMENTS.items():
        if command in imported(entry.commands).of_preset:
            found.setdefault(entry.commands, name)
    return list(found.values())


def summaries(of_preset: bool = False) -> dict[str, str]:
    """Each command of the registered experiments, of runs or of presets -> the first line of its docstring."""
    found: dict[str, str] = {}
    for entry in EXPERIMENTS.values():
        commands: Commands = imported(entry.commands)
        for name, function in (commands.of_preset if of_preset else commands.of_run).items():
            found.setdefault(name, (function.__doc__ or "").partition("\n")[0].rstrip("."))
    return found
