import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.dqn.environment import DISCRETE, Environment, StickyActions, make_environment
from jaxai.dqn.spec import make_environment_spec
from jaxai.runtime.config import from_dict, to_dict

ACTIONS = {"CartPole-v1": 2, "Acrobot-v1": 3, "MountainCar-v0": 3, "Asterix-MinAtar": 5, "Breakout-MinAtar": 3}
ACTIONS |= {"Freeway-MinAtar": 3, "Seaquest-MinAtar": 6, "SpaceInvaders-MinAtar": 4, "Catch-bsuite": 3}
ACTIONS |= {"DeepSea-bsuite": 2, "MemoryChain-bsuite": 2, "UmbrellaChain-bsuite": 2, "DiscountingChain-bsuite": 5}
ACTIONS |= {"SimpleBandit-bsuite": 11, "FourRooms-misc": 4, "MetaMaze-misc": 4, "BernoulliBandit-misc": 2}
ACTIONS |= {"GaussianBandit-misc": 2, "Pong-misc": 3, "FrozenLake-misc": 4}
MINATAR = [name for name in DISCRETE if name.endswith("MinAtar")]


class Counter:
    """Counts its steps, ends after four, and observes (steps, the action that was taken)."""

    default_params = SimpleNamespace(max_steps_in_episode=4)

    def reset(self, key: jax.Array, params: Any = None) -> tuple[jax.Array, jax.Array]:
        return jnp.array([0, -1], jnp.int32), jnp.int32(0)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any = None) -> tuple[Any, ...]:
        final = jnp.stack([state + 1, action])
        truncated = state + 1 >= 4
        observation = jnp.where(truncated, jnp.array([0, -1], jnp.int32), final)
        info = {"final_observation": final}
        return observation, jnp.where(truncated, 0, state + 1), jnp.float32(1), jnp.bool_(False), truncated, info

    def action_space(self, params: Any) -> Any:
        return SimpleNamespace(n=3)


class Changed(Counter):
    """A Counter whose step returns what `change` makes of its six values."""

    def __init__(self, change: Any):
        self.change = change

    def step(self, *arguments: Any) -> Any:
        return self.change(*super().step(*arguments))


@pytest.mark.parametrize("name", DISCRETE)
def test_every_discrete_environment_is_understood_and_never_compiled(name, caplog):
    env, params = make_environment(Environment(name))
    caplog.clear()
    with jax.log_compiles():
        spec = make_environment_spec(env, params)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
    assert spec.num_actions == ACTIONS[name]
    assert spec.max_steps == params.max_steps_in_episode
    assert spec.binary == (name in MINATAR)


def test_the_list_of_discrete_environments_is_gymnaxs():
    import gymnax

    spaces = {name: type(env.action_space(env.default_params)).__name__ for name, env in _all(gymnax)}
    assert [name for name, space in spaces.items() if space == "Discrete"] == [
        name for name in spaces if name in DISCRETE
    ]


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-misc"])
def test_the_spec_is_what_the_environment_returns(name):
    env, params = make_environment(Environment(name, sticky_actions=0.1))
    spec = make_environment_spec(env, params)
    observation, state = env.reset(jax.random.key(0), params)
    observation, *_ = env.step(jax.random.key(1), state, 1, params)
    assert (observation.shape, observation.dtype) == (spec.observation_shape, spec.observation_dtype)


@pytest.mark.parametrize(
    "name",
    [name if name == "Breakout-MinAtar" else pytest.param(name, marks=pytest.mark.slow) for name in MINATAR],
)
def test_binary_observations_hold_only_zeros_and_ones(name):
    env, params = make_environment(Environment(name, sticky_actions=0.1))
    assert make_environment_spec(env, params).binary

    def step(state, key):
        action_key, step_key = jax.random.split(key)
        action = jax.random.randint(action_key, (), 0, ACTIONS[name])
        observation, state, *_ = env.step(step_key, state, action, params)
        return state, observation

    _, state = env.reset(jax.random.key(0), params)
    _, observations = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 500))
    assert set(np.unique(observations)) == {0.0, 1.0}


def test_an_unknown_wrapper_that_forwards_the_name_is_not_taken_for_binary():
    class Scaled:
        name = "Breakout-MinAtar"

        def __init__(self, env):
            self._env = env

        def __getattr__(self, name):
            return getattr(self._env, name)

    env, params = make_environment(Environment("Breakout-MinAtar"))
    assert not make_environment_spec(Scaled(env), params).binary


def test_an_environment_written_in_python_is_understood():
    spec = make_environment_spec(Counter())
    assert dataclasses.astuple(spec)[:5] == ((2,), np.dtype("int32"), 3, 4, False)


def test_bool_observations_are_binary():
    env = Changed(lambda o, s, r, te, tr, i: (o > 0, s, r, te, tr, {"final_observation": i["final_observation"] > 0}))
    env.reset = lambda key, params: (jnp.zeros(2, bool), jnp.int32(0))  # type: ignore[method-assign]  # one test's own
    assert make_environment_spec(env).binary


def test_parameters_change_and_keep_their_type():
    changed = {"max_steps_in_episode": 1000.0, "gravity": 5.0}
    _, params = make_environment(Environment("CartPole-v1", changed))
    assert (params.max_steps_in_episode, params.gravity, params.masscart) == (1000, 5.0, 1.0)
    assert isinstance(params.max_steps_in_episode, int)
    _, params = make_environment(Environment("Asterix-MinAtar", {"ramping": 0.0}))
    assert params.ramping is False


def test_a_changed_limit_truncates():
    env, params = make_environment(Environment("MountainCar-v0", {"max_steps_in_episode": 2.0}))
    _, state = env.reset(jax.random.key(0), params)
    for expected in (False, True):
        _, state, _, _, truncated, _ = env.step(jax.random.key(1), state, 0, params)
        assert bool(truncated) == expected


def test_the_config_survives_its_json_and_can_be_hashed():
    environment = Environment("Breakout-MinAtar", {"max_steps_in_episode": 500.0}, 0.1)
    assert from_dict(json.loads(json.dumps(to_dict(environment))), Environment) == environment
    assert from_dict(to_dict(Environment()), Environment) == Environment()
    assert hash(environment) == hash(dataclasses.replace(environment, params={"max_steps_in_episode": 500.0}))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Environment("breakout"), "no environment 'breakout'; did you mean Breakout-MinAtar"),
        (Environment("CartPole"), "did you mean CartPole-v1"),
        (Environment("CartPole-v0"), "did you mean CartPole-v1"),
        (Environment("space_invaders"), "did you mean SpaceInvaders-MinAtar"),
        (Environment("Qbert-v5"), "no environment 'Qbert-v5'; choose CartPole-v1, Acrobot-v1"),
        (Environment(params={"max_steps": 9}), "no parameter 'max_steps'; did you mean max_steps_in_episode"),
        (Environment(params={"zzz": 9}), "no parameter 'zzz'; it has max_steps_in_episode, gravity"),
        (Environment(params={"max_steps_in_episode": 9.5}), "max_steps_in_episode is 9.5; expected int"),
        (Environment("Acrobot-v1", {"available_torque": 2}), "available_torque is an array"),
        (Environment(sticky_actions=1.0), "env.sticky_actions is 1.0; it must be at least 0 and below 1"),
        (Environment(sticky_actions=-0.1), "sticky_actions is -0.1"),
        (Environment(sticky_actions=float("nan")), "sticky_actions is nan"),
        (Environment("Pendulum-v1", sticky_actions=0.1), "Pendulum-v1 has continuous actions"),
    ],
)
def test_a_mistake_is_named_in_one_line(environment, message):
    with pytest.raises(ValueError, match=message) as error:
        make_environment(environment)
    assert "\n" not in str(error.value)


def test_importing_the_environments_does_not_import_gymnax():
    program = "import sys, jaxai.dqn.environment; sys.exit('gymnax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_continuous_actions_are_refused_with_those_that_have_discrete_ones():
    env, params = make_environment(Environment("Pendulum-v1"))
    with pytest.raises(
        ValueError, match=r"Pendulum-v1 has continuous actions \(Box\); DQN needs discrete.*CartPole-v1"
    ):
        make_environment_spec(env, params)


def test_five_values_are_refused():
    from gymnax.wrappers import LegacyStepAPIWrapper

    env, params = make_environment(Environment())
    with pytest.raises(ValueError, match=r"CartPole-v1 returns 5 values; expected 6, as in gymnax >= 1\.0\.1: observ"):
        make_environment_spec(LegacyStepAPIWrapper(env), params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda *v: (*v[:5], {}), r"Changed gives no info\['final_observation'\]"),
        (lambda *v: (*v[:5], {"final_observation": v[0][:1]}), r"is int32\[1\]; expected int32\[2\]"),
        (lambda *v: (*v[:2], v[2][None], *v[3:]), r"reward of Changed has shape \(1,\); expected \(\)"),
        (lambda *v: (*v[:3], v[3][None], *v[4:]), r"terminated of Changed has shape \(1,\)"),
    ],
)
def test_a_step_that_lacks_something_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_environment_spec(Changed(change))


def test_observations_of_several_arrays_are_refused():
    env = Counter()
    env.reset = lambda key, params: ({"a": jnp.zeros(2)}, jnp.int32(0))  # type: ignore[method-assign]  # one test's own
    with pytest.raises(ValueError, match="Counter returns a dict as observation; DQN needs one array"):
        make_environment_spec(env)


def test_sticky_actions_repeat_as_often_as_asked_and_forget_at_the_end_of_an_episode():
    probability = 0.3
    env = StickyActions(Counter(), probability)
    # Action 1 + the episode's number modulo 2, so that what was carried over from the last episode would show.
    steps = 4 * 10_000
    actions = 1 + (jnp.arange(steps) // 4) % 2

    def step(state, inputs):
        key, action = inputs
        _, state, *_, info = env.step(key, state, action)
        return state, info["final_observation"][1]

    _, state = env.reset(jax.random.key(0))
    _, taken = jax.lax.scan(step, state, (jax.random.split(jax.random.key(1), steps), actions))
    taken, actions = np.asarray(taken).reshape(-1, 4), np.asarray(actions).reshape(-1, 4)
    # The first step repeats 0, and nothing but 0; the second is still 0 where both were repeated, and so on.
    assert set(np.unique(taken[taken != actions])) == {0}
    spread = 4 * np.sqrt(probability / len(taken))
    for position in range(4):
        assert np.mean(taken[:, position] == 0) == pytest.approx(probability ** (position + 1), abs=spread)


def test_sticky_actions_repeat_the_action_that_was_taken():
    env = StickyActions(Counter(), 0.5)
    keys = jax.random.split(jax.random.key(2), 1_000)
    _, state = env.reset(jax.random.key(0))
    _, state, *_ = jax.vmap(lambda key: env.step(key, state.replace(last_action=jnp.int32(2)), 1))(keys)
    assert set(np.asarray(state.last_action).tolist()) == {1, 2}
    assert np.mean(np.asarray(state.last_action) == 2) == pytest.approx(0.5, abs=0.07)


def test_sticky_actions_forward_what_they_wrap_and_can_be_copied():
    env, params = make_environment(Environment("Breakout-MinAtar", sticky_actions=0.25))
    assert env.name == "Breakout-MinAtar"
    assert env.observation_space(params).shape == (10, 10, 4)
    assert copy.deepcopy(env).name == env.name
    assert pickle.loads(pickle.dumps(StickyActions(Counter(), 0.1))).default_params.max_steps_in_episode == 4


def _all(gymnax: Any) -> list[tuple[str, Any]]:
    return [(name, gymnax.make(name)[0]) for name in gymnax.registered_envs if name != "MNISTBandit-bsuite"]
