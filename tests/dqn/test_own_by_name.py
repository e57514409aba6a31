"""Environments of one's own, by a class in Python or by `module:name`."""

import dataclasses
import re
import sys

import jax
import pytest

from jaxai import dqn
from jaxai.dqn import own
from jaxai.dqn.environment import Environment, make_environment
from tests.dqn.chain import TINY, Chain

MODULE = """
import jax.numpy as jnp
from tests.dqn.chain import Chain

class Mine(Chain):
    def __init__(self, limit: int = 5):
        super().__init__(limit)

def make(limit: int = 7):
    env = Mine(limit)
    return env, env.default_params

ready, number = Mine(), 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_envs.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("import jax\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = dict(own.REGISTERED)
    yield tmp_path
    own.REGISTERED.clear()
    own.REGISTERED.update(known)
    for name in ("own_envs", "own_broken"):
        sys.modules.pop(name, None)


class Local(Chain):
    def __init__(self, limit: int = 4):
        super().__init__(limit)


def test_a_class_is_an_environment_with_arguments():
    environment = Environment(Local, {"limit": 9})
    assert environment.name == f"{__name__}:Local"
    env, params = make_environment(environment)
    assert (type(env), env.limit, params.max_steps_in_episode) == (Local, 9, 9)
    assert dataclasses.replace(environment, sticky_actions=0.5).name == environment.name
    state = jax.eval_shape(dqn.make(TINY, env, params).init, jax.random.key(0))
    assert state.params["q"]["kernel"].shape == (8, 2)


@pytest.mark.parametrize(("name", "limit"), [("Mine", 5), ("make", 7), ("ready", 5)])
def test_a_module_and_a_name_are_imported_once_a_user_asks(name, limit):
    environment = Environment(f"own_envs:{name}")
    with pytest.raises(
        ValueError, match=f"'own_envs:{name}' is not registered in this process: give --env.name own_env"
    ):
        make_environment(environment)
    assert "own_envs" not in sys.modules  # a name alone imports nothing
    own.load(environment.name)
    assert make_environment(environment)[0].limit == limit
    if name != "ready":
        assert make_environment(Environment(environment.name, {"limit": 11}))[0].limit == 11
    with pytest.raises(ValueError, match="has no parameter 'limits'; "):
        make_environment(Environment(environment.name, {"limits": 11}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_env:make", "--env.name is own_env:make: No module named 'own_env'; expected package.module:name of"),
        ("own_envs:mak", "--env.name is own_envs:mak: module 'own_envs' has no attribute 'mak'; check the name after"),
        ("own_envs:number", "--env.name is own_envs:number, of type int; expected a class, a function or an environ"),
        (
            "own_broken:make",
            "--env.name is own_broken:make: ZeroDivisionError: division by zero (own_broken.py, line 2",
        ),
    ],
)
def test_what_cannot_be_imported_is_named_in_one_line(name, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        own.load(name)
    assert "\n" not in str(error.value)


def test_what_a_function_returns_must_be_an_environment():
    def make():
        return 3

    with pytest.raises(
        ValueError, match="make returns a value of type int; expected an environment with reset and step"
    ):
        make_environment(Environment(make))


PRESET = '''"""A preset with a small agent."""

from jaxai.dqn import Config, Environment
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        hidden=(8,), total_steps=132, num_envs=4, train_every=4, learning_starts=36, batch_size=16, capacity=256,
        target_every=16, epsilon_steps=200, evaluation_episodes=4,
    ),
    run=Run(mode="shard_map", devices=1, steps_per_call=4, evaluate_every=8),
)
'''


def test_an_environment_named_on_the_command_line_trains_and_has_to_be_named_again(module, jaxai):
    (module / "small.py").write_text(PRESET)
    train = ("train", "small.py", "--env.name", "own_envs:make", "--env.params", "limit", "6", "--workdir", "run")
    code, out, err = jaxai(*train)
    assert (code, err) == (0, "")
    assert "evaluate, play and replay take --env.name own_envs:make" in out
    own.REGISTERED.clear()  # as another process
    sys.modules.pop("own_envs")
    for command in ("evaluate", "play", "replay"):
        code, _, err = jaxai(command, "run")
        assert (code, err.count("\n")) == (2, 1)
        assert (
            "run was trained in 'own_envs:make', which this process does not know; add --env.name own_envs:make" in err
        )
    assert "own_envs" not in sys.modules
    code, out, err = jaxai("evaluate", "run", "--env.name", "own_envs:make", "--episodes", "4")
    assert (code, err) == (0, "")
    code, out, err = jaxai("play", "run", "--env.name", "own_envs:make")
    assert (code, "in 6 steps" in out) == (0, True)
    code, _, err = jaxai("play", "run", "--env.name", "own_envs:Mine")
    assert (code, "jaxai: --env.name is own_envs:Mine, and the run was trained in own_envs:make" in err) == (2, True)
    code, out, err = jaxai(*train)  # resumes what has ended
    assert (code, err) == (0, "")
    code, _, err = jaxai("train", "small.py", "--env.name", "own_env:make", "--workdir", "other")
    assert (code, err.count("\n"), "No module named 'own_env'" in err) == (2, 1, True)
    assert not (module / "other").exists()


def test_a_class_in_a_preset_is_an_environment(module, jaxai):
    text = PRESET.replace("config =", "class Mine(own_envs.Mine):\n    pass\n\n\nconfig =")
    text = text.replace("    run=", "    env=Environment(Mine, {'limit': 3}),\n    run=")
    text = text.replace("from jaxai.runtime", "import own_envs\nfrom jaxai.runtime")
    (module / "with_class.py").write_text(text)
    code, out, err = jaxai("train", "with_class.py", "--workdir", "run")
    assert (code, err) == (0, "")
    assert "evaluate, play and replay take --preset with_class.py, which registers with_class:Mine" in out
    own.REGISTERED.clear()
    code, _, err = jaxai("play", "run")
    assert (code, "was trained in 'with_class:Mine'" in err, "--preset FILE" in err) == (2, True, True)
    code, out, err = jaxai("play", "run", "--preset", "with_class.py")
    assert (code, "in 3 steps" in out) == (0, True)
