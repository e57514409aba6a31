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
