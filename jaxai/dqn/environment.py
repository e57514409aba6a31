"""Environments: gymnax's by name, one's own, and sticky actions.

An environment is any object with the interface of gymnax 1.0, for one episode at a time:
`reset(key, params) -> (observation, state)`,
`step(key, state, action, params) -> (observation, state, reward, terminated, truncated, info)`, which begins the next
episode by itself and leaves the true successor in `info["final_observation"]`, and `action_space(params)` with `n`.
Optional are:

- `observation_space(params)`: decides how observations are encoded for the network; see `jaxai.dqn.observations`.
- `info["action_mask"]`, [actions] bool: the legal actions; no other action is taken or bootstrapped from. It belongs to
  the observation that `step` returns, and `info["final_action_mask"]` to the true successor, where the two differ; in a
  subclass of gymnax's Environment it belongs to the true successor. The legal actions of an episode's first step come
  from a method `action_mask(state, params)`, or from a third value of `reset`, a dict with `action_mask`; without
  either, all are legal there.

An environment of one's own needs no gymnax: `Environment(MyEnvironment)`, or `--env.name my_package.my_module:make`.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxai import extras, ranges
from jaxai.core import Key, PyTree
from jaxai.dqn import own, spaces
from jaxai.ranges import INT32_MAX, Finite, Rate

__all__ = [
    "Environment",
    "Setting",
    "StickyActions",
    "StickyState",
    "is_gymnaxs",
    "is_minatar",
    "is_registered",
    "make_environment",
    "name_of",
]

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
"""gymnax's environments with discrete actions, except MNISTBandit-bsuite, which downloads its data."""
Setting = Finite | bool | str


@dataclass(frozen=True)
class Environment:
    """Which environment, and how it differs from its defaults.

    In Python the name may also be a class or a function of `**params` that returns an environment, or a pair of an
    environment and its parameters. It is registered in this process, and the name becomes `module:name`.

    >>> class Mine:
    ...     "An environment."
    >>> Environment(Mine).name.partition(":")[2]
    'Mine'
    """

    name: str = "CartPole-v1"  # of gymnax, as Breakout-MinAtar, or one's own, as my_package.my_module:make
    # MutableMapping, not dict: tyro would turn the keys of a preset's dict into options and accept no other keys.
    params: MutableMapping[str, Setting] = field(  # its parameters and constructor arguments that differ, as size 20
        default_factory=dict, hash=False
    )
    sticky_actions: Rate = 0.0  # probability that the last action is repeated instead of the chosen one

    def __post_init__(self) -> None:
        if callable(self.name):
            object.__setattr__(self, "name", own.register(self.name))


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
        if name.startswith("_"):  # copy and pickle look attributes up before `_env` exists
            raise AttributeError(name)
        return getattr(self._env, name)

    def reset(self, key: Key, params: PyTree = None) -> tuple[Any, ...]:
        """Begins an episode."""
        observation, env_state, *more = self._env.reset(key, params)
        return observation, StickyState(env_state, jnp.int32(0)), *more

    def step(
        self, key: Key, state: StickyState, action: jax.Array, params: PyTree = None
    ) -> tuple[jax.Array, StickyState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """Takes the chosen action or the last one.

        Args:
          key: of this step.
          state: from `reset` or the previous `step`.
          action: [] int, the chosen one.
          params: of the environment inside.

        Returns:
          What the `step` of the environment inside returns, with a `StickyState`.
        """
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

    Args:
      environment: which; one's own must be registered in this process, see `jaxai.dqn.own`.

    Raises:
      MissingExtraError: the environment is one of gymnax, which is not installed.
      ValueError: there is no such environment, the environment has no such parameter or constructor argument, or not
        with such a value, it cannot be made, or `sticky_actions` is no probability.
    """
    ranges.check(environment, "env.")
    maker = _maker(environment.name)
    env, params = _construct(maker, environment.name, {})
    fields, arguments = _settings(maker, env, params)
    known = [*fields, *arguments]
    for name in environment.params:
        if name not in known:
            near = list(dict.fromkeys(difflib.get_close_matches(name, known, 3, 0.5)))
            takes = f", and its constructor takes {', '.join(arguments)}" if arguments else ""
            raise ValueError(
                f"{environment.name} has no parameter {name!r}; "
                + (f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(fields) or 'none'}{takes}")
            )
    values = {
        name: _typed(f"{environment.name}'s parameter {name}", value, fields.get(name, arguments.get(name)))
        for name, value in environment.params.items()
    }
    if given := {name: value for name, value in values.items() if name not in fields}:
        env, params = _construct(maker, environment.name, given)
    if changes := {name: value for name, value in values.items() if name in fields}:
        params = dataclasses.replace(params, **changes)
    if environment.sticky_actions:
        spaces.discrete_actions(spaces.action_space(env, params), environment.name, DISCRETE)
        env = StickyActions(env, environment.sticky_actions)
    return env, params


def _maker(name: str) -> Callable[..., Any]:
    """(**arguments) -> the environment of this name, or a pair of it and its parameters."""
    if name in own.REGISTERED:
        return own.REGISTERED[name]
    if own.is_dotted(name):
        raise ValueError(
            f"the environment {name!r} is not registered in this process: give --env.name {name} again, or a --preset"
            " that defines it; in Python jaxai.dqn.own.load(name)"
        )
    gymnax = extras.load("gymnax", f"environment {name}", "rl")
    if name not in gymnax.registered_envs:
        near = _nearest(name, [*gymnax.registered_envs, *own.REGISTERED])
        raise ValueError(
            f"no environment {name!r}; "
            + (f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(DISCRETE)}")
            + ", or one's own, as my_package.my_module:make" * (not near)
        )
    return functools.partial(gymnax.make, name)


def is_registered(name: str) -> bool:
    """Whether this process knows an environment of this name: of gymnax, by `gymnax.register`, or one's own.

    Raises:
      MissingExtraError: gymnax is not installed, and it is not one's own.
    """
    if own.is_dotted(name):
        return name in own.REGISTERED
    return name in extras.load("gymnax", f"environment {name}", "rl").registered_envs


def is_gymnaxs(environment: Environment) -> bool:
    """Whether gymnax itself has the environment, so that another process finds it by its name."""
    return environment.name in (*DISCRETE, "MNISTBandit-bsuite")


def name_of(env: Any) -> str:
    """The name of an environment in messages."""
    while isinstance(env, StickyActions):
        env = env._env
    return str(getattr(env, "name", type(env).__name__))


def is_minatar(env: Any) -> bool:
    """Whether it is one of gymnax's MinAtar games, which return 0 and 1 as float32, without an unknown wrapper.

    Not by name: a user's wrapper may forward the name and change the observations.
    """
    while type(env).__module__.startswith(("gymnax.wrappers.", __name__)):
        env = env._env
    return type(env).__module__.startswith("gymnax.environments.minatar.")


def _construct(maker: Callable[..., Any], name: str, arguments: Mapping[str, Setting]) -> tuple[Any, PyTree]:
    try:
        returned = maker(**arguments)
    except Exception as error:
        given = "".join(f" with {key} {value}" for key, value in arguments.items())
        why = "; it downloads its data when it is made" if isinstance(error, OSError) else ""
        text = str(error).partition("\n")[0]
        raise ValueError(f"{name} cannot be made{given}: {type(error).__name__}: {text}{why}") from error
    env, params = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        raise ValueError(
            f"{name} returns a value of type {type(env).__name__}; expected an environment with reset and"
            " step, or a pair of it and its parameters"
        )
    return env, getattr(env, "default_params", None) if params is None else params


def _settings(maker: Callable[..., Any], env: Any, params: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults of the parameters, and of the arguments of the constructor, or of one's own function."""
    fields = dataclasses.fields(params) if dataclasses.is_dataclass(params) else ()
    constructor = type(env) if isinstance(maker, functools.partial) else maker
    parameters = inspect.signature(constructor).parameters.values()
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return {each.name: getattr(params, each.name) for each in fields}, {each.name: each.default for each in named}


def _typed(what: str, value: Setting, default: Any) -> Setting:
    """The value in the type of the default: a step limit that becomes a float would change dtypes."""
    if default is inspect.Parameter.empty:
        return value
    if not isinstance(default, bool | int | float | str):
        raise ValueError(f"{what} is an array or a sequence; set it in Python")
    kind = type(default)
    try:
        typed: Setting = kind(value)
    except (ValueError, OverflowError):  # text, or an infinite integer
        typed = ""
    if isinstance(value, str) != (kind is str) or (isinstance(value, bool) and kind is not bool) or value != typed:
        raise ValueError(f"{what} is {value}; expected {kind.__name__}")
    if kind is int and not -INT32_MAX <= value <= INT32_MAX:  # type: ignore[operator]  # no text, as checked above
        raise ValueError(f"{what} is {value}; it is an int32, at most {INT32_MAX}")
    if what.endswith(" max_steps_in_episode") and value < 1:  # type: ignore[operator]  # as above
        raise ValueError(f"{what} is {value}; it must be at least 1")
    return typed


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """Similar names, with or without the part after the dash: cartpole finds CartPole-v1."""
    spellings = {spelling: full for full in known for spelling in (full.lower(), full.lower().partition("-")[0])}
    stem = name.lower().replace("_", "").replace(" ", "")
    found = difflib.get_close_matches(stem, spellings, 3, 0.7)
    found += difflib.get_close_matches(stem.partition("-")[0], spellings, 3, 0.7)
    return list(dict.fromkeys(spellings[spelling] for spelling in found))[:3]
