"""Configurations: how to run, their checks, and their JSON in the run folder."""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from jaxai import ranges
from jaxai.dotted_names import PRESET_MODULE, dotted_name
from jaxai.files.paths import given_path, is_utf8
from jaxai.ranges import Count, Natural, Range, Seed, check, shown
from jaxai.runtime import registry
from jaxai.runtime.parallel import Mode

__all__ = ["Placement", "Run", "check_experiment", "from_dict", "to_dict"]

Placement = Literal["auto", "device", "host"]
Seeds = Annotated[int, Range(least=1, most=100_000)]
T = TypeVar("T")

RENAMED = {"compute_dtype": "dtype"}
"""Fields of earlier versions -> their current names, in any class that has the new name and lacks the old one."""

NOT_PART_OF_THE_RUN = (
    "run.workdir",
    "run.devices",
    "run.resume_with_changes",
    "run.tensorboard",
    "data.cache",
    "data.dir",
)
"""Fields that may differ when a run resumes: they define where it runs or reads, not what it computes."""


@dataclass(frozen=True)
class Run:
    """Settings of a run, the same for every workload."""

    workdir: str = "runs/run"  # folder of the run; a second training in the same folder resumes
    seed: Seed = 0  # of all random numbers
    seeds: Seeds = 1  # number of repeats, with seed, seed + 1, ...: in workdir/seed-0, ...; for DQN in one program
    mode: Mode = "jit"  # engine: jit over a mesh, shard_map or pmap
    devices: Count | None = None  # number of devices; None: all
    steps_per_call: Natural = 0  # optimizer steps in one call of the compiled program; 0: about 50
    evaluate_every: Natural = 0  # steps between evaluations; 0: an epoch
    checkpoint_every: Natural = 0  # steps between checkpoints; 0: one at each evaluation
    early_stopping: Natural = 0  # number of evaluations without a better score after which it stops; 0: never
    placement: Placement = "auto"  # data on the device or streamed from the host; auto: on the device if it fits
    init_from: str = ""  # folder of a run whose parameters training starts with, to fine-tune them; empty: random ones
    tensorboard: bool = False  # write TensorBoard event files too; needs the tensorboard extra
    resume_with_changes: bool = False  # resume a run that had another configuration or other data


def check_experiment(experiment: Any) -> None:
    """Checks an experiment before anything compiles or is written: its fields, and whether its folder can be created.

    Raises:
      ValueError: one line that names the field, its value, and what was expected.
    """
    ranges.check(experiment)
    run = experiment.run
    if run.seed + run.seeds > 2**32:
        raise ValueError(f"seed is {run.seed} and seeds {run.seeds}; the last seed must be at most {2**32 - 1}")
    folder = given_path(run.workdir, "workdir")
    if not is_utf8(folder):
        raise ValueError(f"workdir {run.workdir!r:.80} is not UTF-8, which checkpoints need; choose another folder")
    if run.init_from and not folder.exists() and not given_path(run.init_from, "init_from").is_dir():
        raise ValueError(f"init_from: the run folder {run.init_from} does not exist; give the workdir of a training")
    try:
        nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    except OSError as error:
        raise ValueError(f"workdir {folder} cannot be made: {error.strerror}") from error
    if not nearest.is_dir():
        raise ValueError(f"workdir {folder} cannot be made: {nearest} is a file; choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"workdir {folder} cannot be written: no permission in {nearest}; choose another folder")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as a dict for JSON; `"type"` names its class for `from_dict`."""
    return {"type": type_name(type(config))} | json.loads(json.dumps(_plain(config), default=dotted_name))


def _plain(value: Any) -> Any:
    """A configuration as dicts and lists. A function in it is not copied, as `dataclasses.asdict` copies its object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def type_name(kind: type) -> str:
    """The name of an experiment's class in `config.json`: the registered one, or else its dotted path.

    The module of a preset's class is named as its file, whether it was executed as a preset or imported.
    """
    module = kind.__module__
    if module.startswith(PRESET_MODULE):
        module = module.partition(".")[2]
    return registry.name_of(f"{module}:{kind.__qualname__}")


def from_dict(values: Mapping[str, Any], *kinds: type) -> Any:
    """The inverse of `to_dict`. A `type` that is neither registered nor passed is refused, not imported.

    Args:
      values: what `to_dict` returned.
      kinds: further classes that `type` may name, in addition to the registered experiments.

    Raises:
      ValueError: `type` names another class, there is a field that the class does not have, or a value of another type
        or out of its range.
    """
    return from_dict_as(class_of(values.get("type"), *kinds), values)


def class_of(name: Any, *kinds: type) -> type:
    """The class of an experiment that `config.json` names.

    Raises:
      ValueError: it is neither registered nor among `kinds`.
    """
    name = registry.current_name(name)
    for kind in kinds:
        # Its module may have another name if it was executed as a script or imported by another path.
        if isinstance(name, str) and name not in registry.EXPERIMENTS and name.endswith(f":{kind.__qualname__}"):
            return kind
    if isinstance(name, str) and name in registry.EXPERIMENTS:
        found: type = registry.imported(registry.EXPERIMENTS[name].place)
        return found
    expected = ", ".join(dict.fromkeys([*map(type_name, kinds), *registry.EXPERIMENTS]))
    raise ValueError(
        f"type is {shown(name)}, which jaxai does not know; expected one of {expected}; for a class of your"
        " own give --preset FILE, or from Python jaxai.load(folder, experiments=[...])"
    )


def from_dict_as(kind: type[T], values: Mapping[str, Any]) -> T:
    """`from_dict` for a known class.

    Raises:
      ValueError: a field that the class does not have, or a value of another type or out of its range.
    """
    built = _build(kind, {key: value for key, value in values.items() if key != "type"}, kind.__qualname__)
    check(built)
    return built


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"optimizer.learning_rate": 0.001, ...}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differences(previous: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line for each field in which two configurations differ, except `NOT_PART_OF_THE_RUN`."""
    old, new = flatten(previous), flatten(current)
    return [f"{name}: {old.get(name, 'nothing')} -> {new.get(name, 'nothing')}" for name in changed(old, new)]


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of the fields in which two flat configurations differ, except `NOT_PART_OF_THE_RUN`."""
    names = sorted((old.keys() | new.keys()) - set(NOT_PART_OF_THE_RUN))
    return [name for name in names if old.get(name) != new.get(name)]


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # kind is a dataclass
    values = {name if name in fields else RENAMED.get(name, name): value for name, value in values.items()}
    if unknown := sorted(values.keys() - fields):
        raise ValueError(f"{where} has no field {unknown[0]!r}; it was saved by another version of jaxai")
    return kind(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if isinstance(value, dict) and dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if isinstance(value, list):
        return tuple(value)
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and isinstance(value, dict):
        options = [option for option in typing.get_args(hint) if dataclasses.is_dataclass(option)]
        return _build(typing.cast(type, options[0]), value, where)
    return value
