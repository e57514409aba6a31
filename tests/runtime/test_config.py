import dataclasses
import json
import types
import typing
from pathlib import Path

import pytest

from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime import config as configs
from jaxai.runtime import presets
from jaxai.runtime.config import NOT_PART_OF_THE_RUN, Run
from jaxai.runtime.run_folder import RunFolder

PRESETS = sorted(Path(__file__).parents[2].glob("configs/*.py"))


def other(hint, value):
    """A value of the field's type that is not the one it has."""
    if dataclasses.is_dataclass(hint):
        return all_changed(value)
    if typing.get_origin(hint) is typing.Annotated:
        return other(typing.get_args(hint)[0], value)
    if typing.get_origin(hint) is typing.Literal:
        return next(option for option in typing.get_args(hint) if option != value)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return other(next(option for option in typing.get_args(hint) if option is not type(None)), value)
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return (*value, other(kind, None)) if ... in typing.get_args(hint) else tuple(other(kind, v) for v in value)
    return {
        bool: lambda: not value,
        int: lambda: (value or 0) + 3,
        float: lambda: (value or 0.0) + 0.1,
        str: lambda: f"{value}é",
    }[hint]()


def all_changed(config):
    hints = typing.get_type_hints(type(config), include_extras=True)
    return dataclasses.replace(
        config,
        **{field.name: other(hints[field.name], getattr(config, field.name)) for field in dataclasses.fields(config)},
    )


def paths(config, prefix=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from paths(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def with_field(config, path, value):
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: with_field(getattr(config, name), rest, value) if rest else value})


def field(config, path):
    for name in path.split("."):
        config = getattr(config, name)
    return config


DEFAULT, CHANGED = Experiment(), all_changed(Experiment())


def test_every_field_survives_its_file(tmp_path):
    for path in paths(CHANGED):
        assert field(CHANGED, path) != field(DEFAULT, path), path
    for experiment in (DEFAULT, CHANGED):
        RunFolder(tmp_path).write_json("config.json", configs.to_dict(experiment))
        assert RunFolder(tmp_path).load_config() == experiment


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_survives_its_file(preset):
    config, description, _ = presets.load_preset(str(preset))
    assert description.strip()
    values = json.loads(json.dumps(configs.to_dict(config)))
    assert configs.from_dict(values) == config
    assert configs.differences(values, configs.to_dict(config)) == []


@pytest.mark.parametrize("path", list(paths(DEFAULT)))
def test_every_changed_field_is_told_unless_it_only_says_where(path):
    changed = with_field(DEFAULT, path, field(CHANGED, path))
    lines = configs.differences(configs.to_dict(DEFAULT), configs.to_dict(changed))
    if path in NOT_PART_OF_THE_RUN:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"{path}: ")
        assert " -> " in line


def test_names_that_may_change_are_fields():
    assert set(NOT_PART_OF_THE_RUN) <= set(paths(DEFAULT))


def test_changed_configuration_is_refused_with_what_differs_and_the_flag(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open(DEFAULT)
    changed = with_field(with_field(DEFAULT, "workload.optimizer.learning_rate", 3e-4), "batch_size", 32)
    with pytest.raises(ValueError, match="another configuration") as error:
        folder.compare(changed)
    message = str(error.value)
    assert "workload.optimizer.learning_rate: 0.001 -> 0.0003" in message
    assert "batch_size: 64 -> 32" in message
    assert "--resume-with-changes" in message
    assert "\n" not in message
    assert folder.load_config() == DEFAULT


def test_a_run_may_go_on_elsewhere(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open(DEFAULT)
    moved = with_field(DEFAULT, "run", dataclasses.replace(Run(), workdir="elsewhere", devices=2, tensorboard=True))
    moved = with_field(moved, "data.dir", "/mnt/data")
    assert folder.compare(moved).lines == []


def test_field_of_another_version_is_named():
    values = configs.to_dict(DEFAULT)
    values["workload"]["optimizer"]["momentun"] = 0.9
    with pytest.raises(ValueError, match=r"^Experiment\.workload\.optimizer has no field 'momentun'; "):
        configs.from_dict(values)


@dataclasses.dataclass(frozen=True)
class Renamed:
    dtype: str = "auto"


@dataclasses.dataclass(frozen=True)
class Kept:
    compute_dtype: str = "auto"
    dtype: str = "auto"


def test_a_field_of_an_earlier_version_is_read_under_its_new_name():
    old = {"type": "anything", "compute_dtype": "bfloat16"}
    assert configs.from_dict_as(Renamed, old) == Renamed("bfloat16")
    assert configs.from_dict_as(Kept, old) == Kept("bfloat16")


def test_class_of_another_version_is_named():
    with pytest.raises(ValueError, match=r"'jaxai\.experiments\.classification\.experiment:Nothing'"):
        configs.from_dict({"type": "jaxai.experiments.classification.experiment:Nothing"})
    with pytest.raises(ValueError, match=r"'jaxai\.nowhere:Experiment'"):
        configs.from_dict({"type": "jaxai.nowhere:Experiment"})


def test_folder_of_version_0_1_names_its_experiment_by_the_class_of_then():
    values = configs.to_dict(DEFAULT)
    assert values["type"] == "classification"
    assert configs.from_dict(values | {"type": "jaxai.cnn.experiment:Experiment"}) == DEFAULT


def test_unknown_preset_gives_the_nearest_names(tmp_path):
    for name in ("mnist_cnn.py", "mnist_best.py"):
        (tmp_path / name).write_text("config = 1")
    missing = tmp_path / "mnist_cn.py"
    with pytest.raises(ValueError, match="no preset") as error:
        presets.load_preset(str(missing))
    assert str(error.value).startswith(f"no preset {missing}; did you mean {tmp_path / 'mnist_cnn.py'}")
    assert "\n" not in str(error.value)


def test_preset_without_a_config_is_told_what_it_lacks(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"empty\.py defines no `config`"):
        presets.load_preset(str(tmp_path / "empty.py"))
