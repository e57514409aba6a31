"""Every field of every configuration has a range, and each value outside is refused in one line at every door."""

import dataclasses
import importlib
import math
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxai.experiments
from jaxai import cnn, gan, optimizer, ranges, seq2seq
from jaxai.data import text
from jaxai.data.images import Data
from jaxai.data.load_images import load as load_images
from jaxai.dqn.environment import Environment, make_environment
from jaxai.experiments.qlearning.sweep import Sweep
from jaxai.optimizer import Optimizer
from jaxai.ranges import Range

EXPERIMENTS = [
    importlib.import_module(module.name).Experiment
    for module in pkgutil.walk_packages(jaxai.experiments.__path__, "jaxai.experiments.")
    if module.name.endswith(".experiment")
]


def configs(kind: Any) -> Iterator[Any]:
    """A configuration class and all that are inside it."""
    yield kind
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        if dataclasses.is_dataclass(hint):
            yield from configs(hint)


CONFIGS = sorted({each for kind in (*EXPERIMENTS, Sweep) for each in configs(kind)}, key=str)


def numbers(hint: Any) -> Iterator[tuple[Any, Range | None]]:
    """The kinds of number that a field takes, int or float, each with its range."""
    if typing.get_origin(hint) is typing.Annotated and typing.get_args(hint)[0] in (int, float):
        yield typing.get_args(hint)[0], next((each for each in hint.__metadata__ if isinstance(each, Range)), None)
    elif hint in (int, float):
        yield hint, None
    else:
        for each in typing.get_args(hint):
            yield from numbers(each)


FIELDS = [
    pytest.param(kind, name, number, allowed, id=f"{kind.__module__}.{kind.__qualname__}.{name}")
    for kind in CONFIGS
    for name, hint in ranges.hints(kind).items()
    for number, allowed in numbers(hint)
]


def outside(kind: type, allowed: Range) -> Iterator[Any]:
    """Values that a field of this range must not take."""
    yield from (math.nan, math.inf, -math.inf, "1", None)
    yield from (10**17, -(10**17), 10**400) if kind is int else (1e39, -1e39, 10**400)
    if kind is int:
        yield from (1.5, True)
    if allowed.least is not None:
        yield allowed.least - 1
    if allowed.most is not None:
        yield allowed.most + 1
    if allowed.above is not None:
        yield allowed.above
    if allowed.below is not None:
        yield from (allowed.below, allowed.below - 1e-12)  # which is `below` as float32


def test_configurations_of_every_workload_are_walked() -> None:
    assert {kind.__module__ for kind in EXPERIMENTS} == {
        f"jaxai.experiments.{name}.experiment" for name in ("classification", "qlearning", "generation", "translation")
    }
    assert {Optimizer, cnn.Augment, Data, text.TextData, Environment} <= set(CONFIGS)
    assert len(FIELDS) > 120


@pytest.mark.parametrize(("kind", "name", "number", "allowed"), FIELDS)
def test_every_number_has_a_range_and_nothing_outside_passes(
    kind: Any, name: str, number: type, allowed: Range | None
) -> None:
    assert allowed is not None, f"{name} has no range: write its type with one of jaxai.ranges"
    config = kind()
    ranges.check(config)
    default, hint = getattr(config, name), ranges.hints(kind)[name]
    for value in outside(number, allowed):
        if value is None and type(None) in typing.get_args(hint):
            continue
        if isinstance(value, str) and name == "params":  # an environment may take words too
            continue
        given: Any = value
        if typing.get_origin(hint) is tuple:
            given = (value,) * max(1, len(default))
        elif isinstance(default, dict):
            given = {"gravity": value}
        with pytest.raises(ValueError, match=rf"^{name}( gravity)? is .*; (it|every value) must be ") as error:
            ranges.check(dataclasses.replace(config, **{name: given}))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 200


@pytest.mark.parametrize("kind", CONFIGS, ids=str)
def test_every_choice_refuses_another_word(kind: Any) -> None:
    for name, hint in ranges.hints(kind).items():
        if typing.get_origin(hint) is typing.Literal:
            with pytest.raises(ValueError, match=f"^{name} is 'nonsense'; it must be one of "):
                ranges.check(dataclasses.replace(kind(), **{name: "nonsense"}))


@pytest.mark.parametrize("preset", sorted(Path("configs").glob("*.py")), ids=str)
def test_every_preset_is_in_range(preset: Path) -> None:
    from jaxai.runtime.presets import load_preset

    ranges.check(load_preset(str(preset))[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizer.make(Optimizer(clip_norm=math.nan)), "optimizer.clip_norm is nan; it must be finite and at"),
        (lambda: optimizer.schedule(Optimizer(b1=2.0)), "optimizer.b1 is 2.0; it must be at least 0 and below 1"),
        (lambda: cnn.make(cnn.Config(optimizer=Optimizer(eps=-1.0))), "optimizer.eps is -1.0; it must be at least 0"),
        (lambda: cnn.make(cnn.Config(augment=cnn.Augment(mixup=math.inf))), "augment.mixup is inf; it must be finite"),
        (
            lambda: cnn.build(cnn.Model(width=2**40), 10),
            "width is 1099511627776; it must be at most 2147483647",
        ),
        (
            lambda: gan.make(gan.Config(generator_optimizer=Optimizer(weight_decay=math.nan))),
            "generator_optimizer.weight_decay is nan; it must be finite and at least 0",
        ),
        (
            lambda: gan.make(gan.Config(discriminator_optimizer=Optimizer(momentum=0.5))),
            "discriminator_optimizer.momentum is 0.5, but adam takes none",
        ),
        (lambda: cnn.make(cnn.Config(depth=2**31 - 1)), "depth is 2147483647; it must be at most 1000"),
        (
            lambda: seq2seq.make(seq2seq.Config(5, 5, optimizer=Optimizer(final_fraction=-1.0))),
            "optimizer.final_fraction is -1.0; it must be at least 0",
        ),
        (lambda: make_environment(Environment(sticky_actions=math.nan)), "env.sticky_actions is nan; it must be at"),
        (lambda: make_environment(Environment(params={"gravity": math.nan})), "env.params gravity is nan; it must be"),
        (lambda: load_images(Data(examples=0)), "data.examples is 0; it must be at least 1"),
        (lambda: text.load(text.TextData(seed=-1)), "data.seed is -1; it must be at least 0"),
    ],
)
def test_doors_refuse_by_the_name_that_the_user_types(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda kind: kind.__module__)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, r"^run\.seed is -1; it must be at least 0$"),
        ({"seeds": 0}, r"^run\.seeds is 0; it must be at least 1$"),
        ({"steps_per_call": -1}, r"^run\.steps_per_call is -1; it must be at least 0$"),
        ({"mode": "pjit"}, r"^run\.mode is 'pjit'; it must be one of jit, "),
        ({"tensorboard": "yes"}, r"^run\.tensorboard is 'yes'; it must be True or False$"),
    ],
)
def test_an_experiment_refuses_before_anything_is_written(
    experiment: Any, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = dataclasses.replace(experiment().run, workdir=str(tmp_path / "run"), **change)
    with jax.log_compiles(), pytest.raises(ValueError, match=message):
        experiment(run=run).bind()
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_and_jax_count_as_numbers() -> None:
    ranges.check(cnn.Config(width=np.int64(8), dropout=np.float32(0.5)))
    ranges.check(Optimizer(learning_rate=jnp.float32(1e-3)))
    with pytest.raises(ValueError, match=r"^width is 0; "):
        ranges.check(cnn.Config(width=np.int64(0)))


def test_a_traced_learning_rate_passes() -> None:
    rates = jax.vmap(lambda rate: optimizer.schedule(Optimizer(learning_rate=rate))(0))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(rates, [0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (cnn.Config(optimizer=None), r"^optimizer is None; it must be of type jaxai\.optimizer\.Optimizer$"),
        (cnn.Config(image_shape=(28, 28)), r"^image_shape is \(28, 28\); it must have 3 values$"),
        (cnn.Config(image_shape=28), r"^image_shape is 28; it must be a tuple$"),
        (Data(source=3), r"^source is 3; it must be text, in quotes"),
        (Environment(params=[1]), r"^params is \[1\]; it must be a dict$"),
    ],
)
def test_a_value_of_another_type_is_named(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranges.check(config)
