"""Errors name options as they are typed: what a message names, the command line takes."""

import contextlib
import dataclasses
import io
import math
import os
import re
import sys
import typing

import pytest
import tyro

from jaxai import options, ranges
from jaxai.experiments.classification.experiment import Experiment as Classification
from jaxai.experiments.generation.experiment import Experiment as Generation
from jaxai.experiments.qlearning.experiment import Experiment as QLearning
from jaxai.experiments.qlearning.sweep import Sweep
from jaxai.experiments.translation.experiment import Experiment as Translation
from jaxai.runtime import config as configs
from jaxai.runtime.config import check_experiment

KINDS = [Classification, Generation, Translation, QLearning, Sweep]
BAD = (-7, -7.5, 10**40, math.nan, "a word that no field has")


def accepted(kind):
    """The options of the command line, as its help lists them."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        tyro.cli(kind, default=kind(), args=["--help"], config=(tyro.conf.OmitSubcommandPrefixes,))
    lines = [line.strip("│ ") for line in shown.getvalue().splitlines()]
    return {option for line in lines if line.startswith("-") for option in re.findall(r"--[a-z][\w.-]*", line)}


def wrong(config, path=""):
    """(path of a field, the configuration with a bad value in it) for every field that has bad values."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            for inside, changed in wrong(value, f"{path}{field.name}."):
                yield inside, dataclasses.replace(config, **{field.name: changed})
            continue
        several = typing.get_origin(ranges.hints(type(config))[field.name]) is tuple
        for bad in BAD:
            changed = dataclasses.replace(config, **{field.name: (bad, *value[1:]) if several else bad})
            try:
                ranges.check(changed)
            except ValueError:
                yield f"{path}{field.name}", changed
                break


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__module__)
def test_every_bad_field_is_named_by_an_option_that_the_command_line_takes(kind):
    known, named = accepted(kind), options.of_config(kind)
    found = dict(wrong(kind()))
    assert len(found) > 40
    for path, config in found.items():
        with pytest.raises(ValueError, match=r"^--") as error, options.as_typed(named):
            check_experiment(config)
        option = re.match(r"--[\w.-]+", str(error.value))[0]
        assert option in known, (path, str(error.value))
        assert option.replace("-", "_").removeprefix("__") in path
        with pytest.raises(ValueError, match=rf"^{re.escape(path)}\b"):
            check_experiment(config)  # from Python by the field's path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__module__)
def test_every_option_stands_for_a_field_and_every_field_for_an_option(kind):
    known, named = accepted(kind), options.of_config(kind)
    leaves = configs.flatten(configs.to_dict(kind())).keys() - {"type"}
    fields = {path: option for path, option in named.items() if path in leaves}
    assert set(fields.values()) <= known
    negated = {f"--{path}no-{name}" for path, name in (re.match(r"--(.*\.)?(.*)", each).groups("") for each in known)}
    assert known - {"--help"} - negated - set(named.values()) == set()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch_size is 65; expected 1 to 64", "--batch-size is 65; expected 1 to 64"),
        ("workload.width is 0", "--width is 0"),
        ("test_fraction is 0.2, but synthetic has", "--data.test-fraction is 0.2, but synthetic has"),
        ("source is empty", "--data.source is empty"),
        ("epochs is 0.0; it must be above 0", "--epochs is 0.0; it must be above 0"),
        ("the epochs follow from it", "the epochs follow from it"),
        ("raise learning_starts, or lower batch_size.", "raise learning_starts, or lower --batch-size."),
        ("optimizer.name is 'x'", "--optimizer.name is 'x'"),
        (
            "runs/batch_size holds a run (workload.optimizer.learning_rate: 0.1 -> 0.2; epochs: 1 -> 2)",
            "runs/batch_size holds a run (--optimizer.learning-rate: 0.1 -> 0.2; --epochs: 1 -> 2)",
        ),
        ("run.mode: jit -> pmap cannot change", "--mode: jit -> pmap cannot change"),
        ("may change: workload.augment.*, epochs", "may change: --augment.*, epochs"),
        ("give --batch-size, or batch_size=3", "give --batch-size, or batch_size=3"),
    ],
)
def test_a_message_names_options(message, expected):
    with (
        pytest.raises(ValueError, match=f"^{re.escape(expected)}$"),
        options.as_typed(options.of_config(Classification)),
    ):
        raise ValueError(message)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("--width", "0"), "--width is 0; it must be at least 1"),
        (("--optimizer.learning-rate", "-1"), "--optimizer.learning-rate is -1.0; it must be at least 0"),
        (("--data.test-examples", "0"), "--data.test-examples is 0; it must be at least 1"),
        (("--optimizer.name", "adamm"), "--optimizer.name is 'adamm'"),
        (("--optimizer.nesterov", "True", "--optimizer.name", "adagrad"), "--optimizer.nesterov is True"),
    ],
)
def test_the_command_line_names_what_was_typed(command, message, jaxai, tmp_path):
    code, _, err = jaxai("train", "configs/mnist_cnn.py", "--workdir", tmp_path / "run", *command)
    assert code == 2
    assert err.startswith(f"jaxai: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class Small:
    width: int = 3  # of a layer
    kind: typing.Literal["sgd", "adam"] = "sgd"  # of the optimizer
    rate: float = 0.1  # of learning


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widht", "3"], "no such options: --widht, 3; did you mean --width?"),
        (["--a-word-that-nothing-resembles", "3"], "no such options: --a-word-that-nothing-resembles, 3"),
        (["--width", "x"], "--width: 'x' is no whole number"),
        (["--rate", "x"], "--rate: could not convert string to float: 'x'"),
        (["--kind", "rms"], "--kind: invalid choice 'rms'; expected one of ('sgd', 'adam')"),
        (["--width"], "--width has no value; expected 1 value"),
    ],
)
def test_what_does_not_fit_the_options_is_one_line_and_no_box(arguments, message, encoding, capsys, monkeypatch):
    prog = f"jaxai train {'a_long_folder/' * 20}preset.py"
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(ValueError, match="options: jaxai train") as error, options.in_one_line(arguments):
        tyro.cli(Small, args=arguments, prog=prog, registry=options.values())
    assert str(error.value) == f"{message}; options: {prog} --help"
    assert capsys.readouterr().err == ""
    assert os.environ["COLUMNS"] == "40"
