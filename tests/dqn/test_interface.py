"""Environments written in Python: what is taken as it is meant, and what is refused in one line that says why."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from flax.core import FrozenDict

from jaxai import dqn
from jaxai.dqn.interface import connect
from jaxai.dqn.spec import make_environment_spec

Spaces = gymnasium.spaces


class Walk:
    """Four steps, each worth 1, that observe (time, action); `change` is of what step returns, `changes` of others."""

    def __init__(self, change: Any = None, **changes: Any):
        self._change = change
        vars(self).update(changes)

    def reset(self, key: jax.Array, params: Any = None) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(2), jnp.int32(0)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any = None) -> Any:
        final = jnp.stack([state + 1.0, action * 1.0])
        ended = state + 1 >= 4
        values = (jnp.where(ended, 0.0, final), jnp.where(ended, 0, state + 1), jnp.float32(1), jnp.bool_(False), ended)
        values = (*values, {"final_observation": final})
        return self._change(*values) if self._change else values

    def action_space(self, params: Any) -> Any:
        return SimpleNamespace(n=3)


@struct.dataclass
class Brax:
    obs: jax.Array
    reward: jax.Array
    done: jax.Array


class TimeStep(NamedTuple):
    step_type: Any
    reward: Any
    discount: Any
    observation: Any


class Gravity(NamedTuple):
    gravity: Any
    max_steps_in_episode: int = 4


BRAX = Brax(jnp.zeros(2), jnp.zeros(()), jnp.zeros(()))
TIMESTEP = TimeStep(0, 0.0, 1.0, jnp.zeros(2))


def branches(o, s, r, t, u, i):
    return (o, s, r if s > 2 else 2 * r, t, u, i)


def one_step(env: Any, action: int = 0) -> Any:
    interface = connect(env)
    start = interface.reset(jax.random.key(0), interface.env_params)
    return jax.jit(interface.step)(jax.random.key(0), start.state, jnp.int32(action), interface.env_params)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32, jnp.uint8])
def test_ends_of_other_dtypes_are_ends(dtype):
    env = Walk(lambda o, s, r, t, u, i: (o, s, r, t.astype(dtype), (~t).astype(dtype), i))
    step = one_step(env)
    assert (step.terminated.dtype, bool(step.terminated)) == (jnp.bool_, False)
    assert (step.truncated.dtype, bool(step.truncated)) == (jnp.bool_, True)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(np.uint8(255), 255), (np.int8(-128), -128), (np.bool_(True), 1), (1.5, 1.5), (7, 7), (np.float16(0.5), 0.5)],
)
def test_rewards_are_float32_whatever_the_environment_returns(reward, expected):
    step = one_step(Walk(lambda o, s, r, t, u, i: (o, s, reward, t, u, i)))
    assert (step.reward.dtype, float(step.reward)) == (jnp.float32, expected)


def test_narrow_rewards_do_not_wrap_in_returns_and_sums():
    config = dqn.Config(
        hidden=(4,), total_steps=100, num_envs=2, learning_starts=20, train_every=8, batch_size=4, capacity=100,
        n_step=3, epsilon_steps=10, target_every=40, evaluation_episodes=2, discount=0.5,
    )  # fmt: skip
    env = Walk(lambda o, s, r, t, u, i: (o, s, jnp.uint8(200), t, u, i), default_params=Gravity(0.0))
    workload = dqn.make(config, env)
    state = jax.jit(workload.init)(jax.random.key(0))
    _, metrics = jax.jit(workload.train_step)(state, None)
    sums = jax.jit(workload.eval_step)(state, None)
    assert float(sums["return"] / sums["count"]) == 800
    assert float(metrics["return_sum"] / metrics["episodes"]) == 800
    replay = dqn.config.make_replay_buffer(config, make_environment_spec(env))
    batch = replay.sample(state.local.memory, jax.random.key(0), jnp.int32(10), 32, jnp.float32(0.5)).batch
    assert set(np.asarray(batch["reward"]).tolist()) == {200.0, 300.0, 350.0}  # 200 (1 + 1/2 + 1/4), cut at the end


@pytest.mark.parametrize(
    "space", [SimpleNamespace(n=3), Spaces.Discrete(3), lambda: SimpleNamespace(n=3), lambda params: Spaces.Discrete(3)]
)
def test_an_action_space_may_be_a_property_or_a_method(space):
    assert make_environment_spec(Walk(action_space=space)).num_actions == 3


def test_actions_that_begin_elsewhere_are_counted_from_there():
    env = Walk(action_space=Spaces.Discrete(3, start=-1))
    assert [float(one_step(env, action).final_observation[1]) for action in range(3)] == [-1, 0, 1]


def test_an_environment_without_default_params_is_given_none():
    assert connect(Walk()).env_params is None
    assert dqn.make_policy(dqn.Config(hidden=(4,)), Walk()) is not None


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Walk(action_space=Spaces.MultiDiscrete([3, 2])), r"several discrete actions at once \(MultiDiscrete\)"),
        (Walk(action_space=Spaces.MultiBinary(3)), r"several binary actions at once \(MultiBinary\); DQN needs one"),
        (Walk(action_space=Spaces.Tuple((Spaces.Discrete(2),))), r"several actions at once \(Tuple\)"),
        (Walk(action_space=Spaces.Box(-1, 1, (2,))), r"continuous actions \(Box\); DQN needs discrete actions"),
        (Walk(action_space=Spaces.Box(0, 3, (2,), np.int32)), "arrays of integers as actions"),
        (Walk(action_space=4), "an action_space of type int; expected one with n"),
        (Walk(action_space=None), r"no action_space; expected action_space\(params\) with n"),
        (Walk(action_space=SimpleNamespace(n=0)), "has 0 actions; expected at least 1"),
        (Walk(reset=lambda key, params: BRAX), r"reset of Walk returns a Brax; expected reset\(key"),
        (Walk(reset=lambda key, params: TIMESTEP), "reset of Walk returns a TimeStep"),
        (Walk(reset=lambda key, params: (BRAX, TIMESTEP)), "Walk returns a Brax as observation; DQN needs one array"),
        (Walk(reset=lambda key: (jnp.zeros(2), 0)), "fails with TypeError: .* takes 1 positional argument"),
        (Walk(reset=lambda key, params: (jnp.zeros(2), {})), "step of Walk fails at .*: not gymnasium's info"),
        (Walk(reset=lambda key, params: ({"a": 0.0}, 0)), "Walk returns a dict as observation; DQN needs one array"),
        (Walk(reset=lambda key, params: (jnp.zeros(2), 0, 1)), "returns 3 values, the last a int"),
        (Walk(reset=lambda key, params: (key, 0)), r"observations of Walk are key<fry>; expected numbers or bool"),
        (Walk(lambda o, s, r, t, u, i: TIMESTEP), "step of Walk returns a TimeStep; expected 6 values"),
        (Walk(lambda o, s, r, t, u, i: (o, r, t, u, i)), "step of Walk returns 5 values; expected 6, as in gymnax"),
        (Walk(lambda o, s, r, t, u, i: (o[:1], s, r, t, u, i)), r"returns is float32\[1\]; expected float32\[2\]"),
        (Walk(lambda o, s, r, t, u, i: (o.astype(int), s, r, t, u, i)), r"is int32\[2\]; expected float32\[2\]"),
        (Walk(lambda o, s, r, t, u, i: ({"a": o}, s, r, t, u, i)), "step of Walk returns is a dict"),
        (Walk(lambda o, s, r, t, u, i: (o, s * 1.0, r, t, u, i)), r"state that step of Walk returns is float32\[\]"),
        (Walk(lambda o, s, r, t, u, i: (o, (s, s), r, t, u, i)), "state of another structure than reset"),
        (Walk(lambda o, s, r, t, u, i: (o, s, None, t, u, i)), "reward of Walk is None; expected a number"),
        (Walk(lambda o, s, r, t, u, i: (o, s, {"a": r}, t, u, i)), "reward of Walk is a dict; expected a number"),
        (Walk(lambda o, s, r, t, u, i: (o, s, r, t, u, None)), r"no info\['final_observation'\]"),
        (Walk(branches), r"cannot be traced by JAX \(TracerBoolConversionError at test_interface.py:\d+\)"),
        (Walk(lambda o, s, r, t, u, i: (np.array(o), s, r, t, u, i)), "TracerArrayConversionError at test_"),
        (Walk(lambda o, s, r, t, u, i: (o, s, r, t, u, i.nothing)), "fails at test_interface.py:.* AttributeError"),
        (Walk, r"Walk is a class; expected an environment, as Walk\(\)"),
        (gymnasium.make("CartPole-v1"), "reset of TimeLimit fails with TypeError"),
        ("CartPole-v1", "the environment is 'CartPole-v1'; expected an object with reset and step"),
        ((Walk(), None), "the environment is a tuple; expected an object with reset and step, the first of what"),
        (Walk(action_space=SimpleNamespace(n=2.5)), "has 2.5 actions; expected at least 1, at most .* whole"),
        (Walk(action_space=SimpleNamespace(n=2**31)), "has 2147483648 actions; expected at least 1, at most 214748364"),
        (Walk(default_params=Gravity(1.0, -5)), "max_steps_in_episode of Walk is -5; expected a number of steps"),
        (Walk(default_params=Gravity(1.0, np.array([4, 4]))), r"max_steps_in_episode of Walk is \[4 4\]; expected"),
        (
            Walk(reset=lambda key, params: (jnp.zeros(0), 0)),
            r"observations of Walk have shape \(0,\): nothing to learn",
        ),
        (Walk(reset=lambda key, params: jnp.zeros((2, 2))), "reset of Walk returns one array; expected reset"),
        (Walk(lambda o, s, r, t, u, i: (o, s, r * 1j, t, u, i)), "reward of Walk is complex64; expected a number"),
        (Walk(lambda o, s, r, t, u, i: (o, s, np.random.rand(), t, u, i)), "of Walk is a different program each time"),
        (Walk(action_mask=lambda state, params: jnp.ones(3, bool)), r"gives action_mask\(state, params\) but no info"),
    ],
)
def test_what_is_missing_is_said_in_one_line(env, message):
    with pytest.raises(ValueError, match=message) as error:
        dqn.make(dqn.Config(hidden=(4,)), env)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("counter", [0, jnp.int32(0)])
def test_a_state_that_the_environment_keeps_in_itself_is_refused(counter):
    class Remembers(Walk):
        def reset(self, key, params=None):
            self.count = counter
            return jnp.zeros(2), jnp.int32(0)

        def step(self, key, state, action, params=None):
            self.count = self.count + (1 if isinstance(counter, int) else action)
            observation = jnp.zeros(2) + self.count
            return observation, state, 1.0, False, self.count >= 4, {"final_observation": observation}

    with pytest.raises(ValueError, match="keep what changes in the state"):
        dqn.make(dqn.Config(hidden=(4,)), Remembers())


def test_any_mapping_may_be_the_info():
    env = Walk(lambda o, s, r, t, u, i: (o, s, r, t, u, FrozenDict(i)))
    np.testing.assert_array_equal(one_step(env, 2).final_observation, [1, 2])


def test_parameters_of_several_environments_are_refused():
    env = Walk(default_params=Gravity(1.0))
    assert make_environment_spec(env, Gravity(jnp.float32(2.0))).max_steps == 4
    with pytest.raises(ValueError, match=r"parameter gravity of Walk has shape \(5,\); expected \(\), as in"):
        make_environment_spec(env, Gravity(jnp.ones(5)))


@pytest.mark.parametrize("name", ["reward", "observation"])
def test_what_is_not_finite_is_named_with_its_environment(name):
    def change(o, s, r, t, u, i):
        bad = s == 2
        if name == "reward":
            return o, s, jnp.where(bad, jnp.nan, r), t, u, i
        return jnp.where(bad, jnp.nan, o), s, r, t, u, i

    config = dqn.Config(
        hidden=(4,), total_steps=100, num_envs=2, learning_starts=20, train_every=8, batch_size=4, capacity=100,
        evaluation_episodes=2,
    )  # fmt: skip
    workload = dqn.make(config, Walk(change))
    state = jax.jit(workload.init)(jax.random.key(0))
    wrong = {words for words, where in workload.faults(state).items() if any(map(jnp.any, jax.tree.leaves(where)))}
    article = "a" if name == "reward" else "an"
    assert wrong == {f"{article} {name} of Walk is not finite"}
