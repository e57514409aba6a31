"""An environment that a preset registers: trained, and then evaluated, played and replayed in another process."""

import json

import gymnax
import pytest

from jaxai import cli
from jaxai.dqn.environment import Environment, make_environment

PRESET = '''"""Catch, registered under a name of one's own."""

import gymnax
import jax.numpy as jnp
from gymnax.environments.bsuite.catch import Catch

from jaxai.dqn import Config, Environment
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.runtime.config import Run


class Mine(Catch):
    def step_env(self, key, state, action, params):
        observation, state, reward, terminated, info = super().step_env(key, state, action, params)
        return observation, state, jnp.where(terminated, REWARD, 0.0), terminated, info


gymnax.register("Mine-v0", Mine)
config = Experiment(
    workload=Config(
        hidden=(8,), total_steps=132, num_envs=4, train_every=4, learning_starts=36, batch_size=16, capacity=256,
        target_every=16, epsilon_steps=200, evaluation_episodes=4,
    ),
    env=Environment("Mine-v0", {"rows": 6}),
    run=Run(mode="shard_map", devices=1, steps_per_call=4, evaluate_every=8),
)
'''


def forget() -> None:
    """As in another process."""
    gymnax.registered_envs.remove("Mine-v0")
    gymnax.registration._registry.pop("Mine-v0")


def trained(folder, reward):
    preset, workdir = folder / "mine.py", folder / "run"
    preset.write_text(PRESET.replace("REWARD", reward))
    try:
        cli.main(["train", str(preset), "--workdir", str(workdir)])
    finally:
        forget()
    return str(preset), str(workdir)


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return stopped.value.code, message


def test_a_run_in_an_environment_of_ones_own_is_found_by_its_preset(tmp_path, capsys):
    preset, workdir = trained(tmp_path, "7.0")
    assert f"evaluate, play and replay take --preset {preset}, which registers Mine-v0" in capsys.readouterr().out
    for command in ("evaluate", "play", "replay"):
        code, message = refused([command, workdir], capsys)
        assert code == 2
        assert "was trained in 'Mine-v0', which gymnax does not have; add --preset FILE" in message
    try:
        cli.main(["evaluate", workdir, "--preset", preset])
        cli.main(["play", workdir, "--preset", preset])
        said = capsys.readouterr().out
        code, message = refused(["play", workdir, "--preset", f"{preset}.nowhere"], capsys)  # though it is registered
        assert (code, f"{preset}.nowhere" in message) == (2, True)
    finally:
        forget()
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["return_mean"] == 7
    assert "return 7 in 5 steps" in said


def test_a_reward_that_is_not_finite_is_named_and_no_gradient_is(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        trained(tmp_path, "jnp.nan")
    message = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "a reward of Mine is not finite; the state before it" in message.replace("Catch-bsuite", "Mine")
    assert "gradient" not in message
    try:
        cli.main(["replay", str(tmp_path / "run"), "--preset", str(tmp_path / "mine.py")])
    finally:
        forget()
    assert "again on one device: a reward of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("environment", "shape", "max_steps"),
    [
        (Environment("DeepSea-bsuite", {"size": 20.0}), (20, 20), 20),
        (Environment("DeepSea-bsuite", {"size": 5, "max_steps_in_episode": 3}), (5, 5), 3),
        (Environment("FrozenLake-misc", {"map_name": "8x8", "is_slippery": False}), (), 200),
        (Environment("Catch-bsuite", {"rows": 7, "columns": 3}), (7, 3), 1000),
    ],
)
def test_constructor_arguments_are_parameters_too(environment, shape, max_steps):
    env, params = make_environment(environment)
    assert env.observation_space(params).shape == shape
    assert params.max_steps_in_episode == max_steps


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Environment("DeepSea-bsuite", {"siz": 20}), "no parameter 'siz'; did you mean size"),
        (
            Environment("DeepSea-bsuite", {"zzz": 20}),
            "it has max_steps_in_episode, .*, and its constructor takes size, action_",
        ),
        (Environment("DeepSea-bsuite", {"size": 2.5}), "parameter size is 2.5; expected int"),
        (Environment("DeepSea-bsuite", {"size": "ten"}), "parameter size is ten; expected int"),
        (Environment("DeepSea-bsuite", {"action_mapping_key": 1}), "action_mapping_key is an array or a sequence"),
        (Environment("FrozenLake-misc", {"map_name": "9x9"}), "cannot be made with map_name 9x9: ValueError: map_name"),
        (
            Environment("MetaMaze-misc", {"maze_size": 4}),
            "MetaMaze-misc cannot be made with maze_size 4: AssertionError",
        ),
        (Environment("CartPole-v1", {"gravity": "low"}), "parameter gravity is low; expected float"),
        (Environment("CartPole-v1", {"gravity": True}), "parameter gravity is True; expected float"),
        (Environment("CartPole-v1", {"max_steps_in_episode": 0}), "max_steps_in_episode is 0; it must be at least 1"),
        (Environment("CartPole-v1", {"max_steps_in_episode": 1e12}), "is 1000000000000.0; it is an int32, at most 21"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(environment, message):
    with pytest.raises(ValueError, match=message) as error:
        make_environment(environment)
    assert "\n" not in str(error.value)


def test_an_environment_that_cannot_be_made_says_why(monkeypatch):
    def make(name, **arguments):
        raise OSError("no network\nat all")

    monkeypatch.setattr(gymnax, "make", make)
    with pytest.raises(
        ValueError, match="MNISTBandit-bsuite cannot be made: OSError: no network; it downloads its dat"
    ):
        make_environment(Environment("MNISTBandit-bsuite"))
