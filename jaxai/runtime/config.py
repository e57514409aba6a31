"""Configurations: how to run, presets from files, and their JSON in the run folder."""

import dataclasses
import difflib
import importlib
import importlib.util
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxai.ranges import Count, Natural, Seed, check, shown
from jaxai.runtime.parallel import Mode

Placement = Literal["auto", "device", "host"]
T = TypeVar("T")

NOT_PART_OF_THE_RUN = (
    "run.workdir",
    "run.devices",
    "run.resume_with_changes",
    "run.tensorboard",
    "data.cache",
    "data.dir",
)
"""Fields that may differ between a run and its continuation: they change where and not what."""


EXPERIMENTS = (
    "jaxai.cnn.experiment:Experiment",
    "jaxai.gan.experiment:Experiment",
    "jaxai.seq2seq.experiment:Experiment",
    "jaxai.dqn.experiment:Experiment",
    "jaxai.dqn.sweep:Sweep",
)
"""What the `type` of a run folder's configuration may name."""


@dataclass(frozen=True)
class Run:
    """How to run, whatever the workload."""

    workdir: str = "runs/run"  # folder of the run; a second training in the same folder resumes
    seed: Seed = 0  # everything random follows from it
    seeds: Count = 1  # repeats with seeds seed, seed + 1, ...: in workdir/seed-0, ..., or for DQN all in one program
    mode: Mode = "jit"  # engine: jit over a mesh, shard_map or pmap
    devices: Count | None = None  # how many devices; None: all
    steps_per_call: Natural = 0  # optimizer steps in one call of the compiled program; 0: about 50
    evaluate_every: Natural = 0  # steps between evaluations; 0: an epoch
    checkpoint_every: Natural = 0  # steps between checkpoints; 0: as often as it evaluates
    early_stopping: Natural = 0  # evaluations without a better score after which training stops; 0: never
    placement: Placement = "auto"  # data on the device or streamed from the host; auto: on the device if it fits
    tensorboard: bool = False  # writes TensorBoard event files too; needs the tensorboard extra
    resume_with_changes: bool = False  # goes on in a workdir whose run had another configuration


def load_preset(path: str) -> tuple[Any, str]:
    """The `config` that a preset file defines, and the file's docstring.

    Raises:
      ValueError: there is no such file (names the nearest), or it defines no `config`.
    """
    file = Path(path)
    if not file.is_file():
        known = sorted({*file.parent.glob("*.py"), *Path("configs").glob("*.py")})
        stems = difflib.get_close_matches(file.stem, {preset.stem for preset in known}, 3)
        near = [str(preset) for stem in stems for preset in known if preset.stem == stem] or [*map(str, known)]
        raise ValueError(
            f"no preset {path}; " + (f"did you mean {', '.join(near)}?" if near else "give a configs/*.py")
        )
    spec = importlib.util.spec_from_file_location("jaxai_preset", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "config"):
        raise ValueError(f"preset {path} defines no `config`; see configs/mnist_cnn.py")
    return module.config, module.__doc__ or ""


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON takes it; `"type"` names its class, so that `from_dict` finds it again."""
    kind = type(config)
    return {"type": f"{kind.__module__}:{kind.__qualname__}"} | json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any], *kinds: type) -> Any:
    """The inverse of `to_dict`. Nothing is imported because a file names it, but what jaxai trains.

    Args:
      values: what `to_dict` returned.
      kinds: classes that `type` may name besides the experiments of jaxai.

    Raises:
      ValueError: `type` names another class, there is a field that the class does not have, or a value of another type
        or out of its range.
    """
    name = values.get("type")
    known = {f"{kind.__module__}:{kind.__qualname__}": kind for kind in kinds}
    if name in EXPERIMENTS:
        module, _, attribute = str(name).partition(":")
        known[str(name)] = getattr(importlib.import_module(module), attribute)
    if not isinstance(name, str) or name not in known:
        expected = ", ".join([*known, *EXPERIMENTS])
        raise ValueError(f"type is {shown(name)}, which jaxai does not know; expected one of {expected}")
    return from_dict_as(known[name], values)


def from_dict_as(kind: type[T], values: Mapping[str, Any]) -> T:
    """The same of a known class.

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


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each field in which two configurations differ, leaving out those that say only where to run."""
    old, new = flatten(before), flatten(now)
    return [f"{name}: {old.get(name, 'nothing')} -> {new.get(name, 'nothing')}" for name in changed(old, new)]


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names in which two flat configurations differ, leaving out those that say only where to run."""
    names = sorted((old.keys() | new.keys()) - set(NOT_PART_OF_THE_RUN))
    return [name for name in names if old.get(name) != new.get(name)]


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # kind is a dataclass
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
