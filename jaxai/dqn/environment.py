"""Environments: gymnax's by name, sticky actions, and what deep Q-learning must know about any environment.

An environment is any object with the interface of gymnax 1.0, for one episode at a time:
`reset(key, params) -> (observation, state)`,
`step(key, state, action, params) -> (observation, state, reward, terminated, truncated, info)`, which begins the next
episode by itself and leaves the true successor in `info["final_observation"]`, and `action_space(params)` with `n`.
"""

import dataclasses
import difflib
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxai import extras, ranges
from jaxai.core import Key, PyTree
from jaxai.ranges import Finite, Rate

DISCRETE = (
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "MemoryChain-bsuite",
    "UmbrellaChain-bsuite",
    "DiscountingChain-bsuite",
    "SimpleBandit-bsuite",
    "FourRooms-misc",
    "MetaMaze-misc",
    "BernoulliBandit-misc",
    "GaussianBandit-misc",
    "Pong-misc",
    "FrozenLake-misc",
)
"""gymnax's environments with discrete actions, but for MNISTBandit-bsuite, which downloads its data."""
SIX_VALUES = "observation, state, reward, terminated, truncated, info"


@dataclass(frozen=True)
class Environment:
    """Which environment, and how it differs from its defaults."""

    name: str = "CartPole-v1"  # a gymnax environment, as Breakout-MinAtar
    # MutableMapping and not dict: of a preset's dict tyro would make options with its names and take no others.
    params: MutableMapping[str, Finite] = field(  # its parameters that differ, as max_steps_in_episode 1000
        default_factory=dict, hash=False
    )
    sticky_actions: Rate = 0.0  # probability that the last action is repeated instead of the chosen one


@dataclass(frozen=True)
class EnvironmentSpec:
    """What deep Q-learning must know about an environment.

    Attributes:
      observation_shape: of one observation, without a batch axis; `()` for a number, as FrozenLake's.
      observation_dtype: as the environment returns it.
      num_actions: actions are 0 to num_actions - 1, int32.
      max_steps: steps after which an episode is truncated; 0 where the parameters do not say.
      binary: observations hold only 0 and 1, whatever their dtype, so that a bit is enough for each number.
    """

    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    num_actions: int
    max_steps: int
    binary: bool


class StickyState(struct.PyTreeNode):
    """The environment's state and the action that it took last.

    Attributes:
      env_state: of the environment inside.
      last_action: [] int32; 0 where an episode begins.
    """

    env_state: PyTree
    last_action: jax.Array


class StickyActions:
    """Repeats the last action with some probability instead of the chosen one (Machado et al. 2018, section 5.2).

    As in the Arcade Learning Environment and in MinAtar, an episode begins with 0, the action that does nothing there,
    as the last one; gymnax's own wrapper carries the last action over into the next episode.
    """

    def __init__(self, env: Any, probability: float):
        self._env = env
        self._probability = probability

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle ask before `_env` is there
            raise AttributeError(name)
        return getattr(self._env, name)

    def reset(self, key: Key, params: PyTree = None) -> tuple[jax.Array, StickyState]:
        """Begins an episode."""
        observation, env_state = self._env.reset(key, params)
        return observation, StickyState(env_state, jnp.int32(0))

    def step(
        self, key: Key, state: StickyState, action: jax.Array, params: PyTree = None
    ) -> tuple[jax.Array, StickyState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """Takes the chosen action or the last one."""
        sticky_key, step_key = jax.random.split(key)
        repeated = jax.random.bernoulli(sticky_key, self._probability)
        action = jnp.where(repeated, state.last_action, jnp.asarray(action, jnp.int32))
        observation, env_state, reward, terminated, truncated, info = self._env.step(
            step_key, state.env_state, action, params
        )
        last_action = jnp.where(jnp.logical_or(terminated, truncated), 0, action)
        return observation, StickyState(env_state, last_action), reward, terminated, truncated, info


def make_environment(environment: Environment) -> tuple[Any, PyTree]:
    """The environment and its parameters.

    Raises:
      MissingExtraError: gymnax is not installed.
      ValueError: gymnax has no such environment, the environment has no such parameter or not
        with such a value, or a probability that is none.
    """
    ranges.check(environment, "env.")
    gymnax = extras.load("gymnax", f"environment {environment.name}", "rl")
    if environment.name not in gymnax.registered_envs:
        near = _nearest(environment.name, gymnax.registered_envs)
        raise ValueError(
            f"no environment {environment.name!r}; "
            + (f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(DISCRETE)}")
        )
    env, params = gymnax.make(environment.name)
    changes = {name: _parameter(environment.name, params, name, value) for name, value in environment.params.items()}
    if changes:
        params = params.replace(**changes)
    if environment.sticky_actions:
        _num_actions(env, params)
        env = StickyActions(env, environment.sticky_actions)
    return env, params


def make_environment_spec(env: Any, env_params: PyTree = None) -> EnvironmentSpec:
    """What deep Q-learning must know about an environment; by its shapes alone, so nothing is compiled or run.

    Args:
      env: any object with the interface of gymnax 1.0; see the module's docstring.
      env_params: its parameters; None: its defaults.

    Raises:
      ValueError: actions that are not discrete, a step that returns other than six values, no true successor in
        `info`, observations that are not one array, or several environments at once.
    """
    if env_params is None:
        env_params = getattr(env, "default_params", None)
    name = _name(env)
    num_actions = _num_actions(env, env_params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    observation, state = jax.eval_shape(lambda key: env.reset(key, env_params), key)
    if not isinstance(observation, jax.ShapeDtypeStruct):
        raise ValueError(
            f"{name} returns a {type(observation).__name__} as observation; "
            "DQN needs one array, so join its parts in a wrapper"
        )
    action = jax.ShapeDtypeStruct((), jnp.int32)
    returned = jax.eval_shape(lambda *arguments: env.step(*arguments, env_params), key, state, action)
    if len(returned) != 6:
        raise ValueError(
            f"step of {name} returns {len(returned)} values; expected 6, as in gymnax >= 1.0.1: {SIX_VALUES}"
        )
    _, _, reward, terminated, truncated, info = returned
    for value, what in ((reward, "reward"), (terminated, "terminated"), (truncated, "truncated")):
        if value.shape != ():
            raise ValueError(f"{what} of {name} has shape {value.shape}; expected (), the step of one environment")
    final = info.get("final_observation") if isinstance(info, dict) else None
    if final is None:
        raise ValueError(
            f"{name} gives no info['final_observation'], the observation before the next episode begins; "
            "DQN bootstraps from it where an episode is truncated"
        )
    if (final.shape, final.dtype) != (observation.shape, observation.dtype):
        raise ValueError(
            f"info['final_observation'] of {name} is {final.dtype}{list(final.shape)}; "
            f"expected {observation.dtype}{list(observation.shape)}, as its observations are"
        )
    return EnvironmentSpec(
        observation_shape=observation.shape,
        observation_dtype=np.dtype(observation.dtype),
        num_actions=num_actions,
        max_steps=int(getattr(env_params, "max_steps_in_episode", 0)),
        binary=observation.dtype == jnp.bool_ or _is_minatar(env),
    )


def _num_actions(env: Any, env_params: PyTree) -> int:
    space = env.action_space(env_params)
    if getattr(space, "n", None) is None:
        raise ValueError(
            f"{_name(env)} has continuous actions ({type(space).__name__}); DQN needs discrete actions, "
            f"which these have: {', '.join(DISCRETE)}"
        )
    return int(space.n)


def _parameter(environment: str, params: PyTree, name: str, value: float) -> float:
    """The value in the type of the default, since a limit of steps that becomes a float changes dtypes."""
    known = [field.name for field in dataclasses.fields(params)]
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.5)
        raise ValueError(
            f"{environment} has no parameter {name!r}; "
            + (f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}")
        )
    default = getattr(params, name)
    if not isinstance(default, bool | int | float):
        raise ValueError(f"{environment}'s parameter {name} is an array; set it in Python with env_params.replace")
    if value != type(default)(value):
        raise ValueError(f"{environment}'s parameter {name} is {value}; expected {type(default).__name__}")
    return type(default)(value)


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """Names that are near as they stand, or without what follows the dash: cartpole finds CartPole-v1."""
    spellings = {spelling: full for full in known for spelling in (full.lower(), full.lower().partition("-")[0])}
    stem = name.lower().replace("_", "").replace(" ", "")
    found = difflib.get_close_matches(stem, spellings, 3, 0.7)
    found += difflib.get_close_matches(stem.partition("-")[0], spellings, 3, 0.7)
    return list(dict.fromkeys(spellings[spelling] for spelling in found))[:3]


def _name(env: Any) -> str:
    return str(getattr(env, "name", type(env).__name__))


def _is_minatar(env: Any) -> bool:
    """One of gymnax's MinAtar games, which return 0 and 1 as float32, behind no wrapper that we do not know.

    Not by name: another's wrapper may forward the name and change the observations.
    """
    while type(env).__module__.startswith(("gymnax.wrappers.", __name__)):
        env = env._env
    return type(env).__module__.startswith("gymnax.environments.minatar.")
