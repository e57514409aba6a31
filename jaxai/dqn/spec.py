"""The shapes of an environment, and a check of its interface: nothing is compiled or run."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxai.core import Key, PyTree
from jaxai.dqn import spaces
from jaxai.dqn.environment import DISCRETE, StickyActions, is_minatar, name_of
from jaxai.tracing import ExpectationError, place, trace

__all__ = ["EnvironmentSpec", "make_environment_spec"]

RESET_VALUES = "reset(key, params) -> (observation, state)"
STEP_VALUES = "observation, state, reward, terminated, truncated, info"
INTERFACE = f"{RESET_VALUES} and step(key, state, action, params) -> ({STEP_VALUES})"
MASK = "bool, True where an action is legal"
PURE = "keep what changes in the state that reset and step return, and draw random numbers from the key"


@dataclass(frozen=True)
class EnvironmentSpec:
    """Shapes and properties of an environment; write one by hand for a learner without an environment.

    >>> EnvironmentSpec(observation_shape=(4,), observation_dtype="float32", num_actions=2).observation_dtype
    dtype('float32')

    Attributes:
      observation_shape: of one observation, without a batch axis; `()` for a number, as FrozenLake's.
      observation_dtype: as the environment returns it.
      num_actions: the learner's actions are 0 to num_actions - 1, int32.
      max_steps: steps after which an episode is truncated; 0: unknown.
      binary: observations hold only 0 and 1, whatever their dtype, so that one bit stores each number.
      first_action: the environment's number of the learner's action 0.
      masked: `info["action_mask"]` contains the legal actions.
      name: of the environment, for messages.
      observation_space: as gymnasium's or gymnax's, or a function without arguments that returns one; None: unknown.
    """

    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    num_actions: int
    max_steps: int = 0
    binary: bool = False
    first_action: int = 0
    masked: bool = False
    name: str = "the environment"
    observation_space: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation_shape", tuple(self.observation_shape))
        object.__setattr__(self, "observation_dtype", np.dtype(self.observation_dtype))

    @functools.cached_property
    def space(self) -> Any:
        """The observation space; None: unknown. On demand, since gymnax's compute their bounds with JAX."""
        return self.observation_space() if callable(self.observation_space) else self.observation_space

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest number of an observation; None if they are unknown."""
        return spaces.bounds(self.space)

    @property
    def categories(self) -> tuple[tuple[int, int], ...]:
        """(first, count) of each number of an observation that is a category; empty for quantities."""
        return spaces.categories(self.space, self.observation_shape)


def make_environment_spec(env: Any, env_params: PyTree = None) -> EnvironmentSpec:
    """The spec of an environment, by tracing it: nothing is compiled or run.

    Args:
      env: any object with the interface of gymnax 1.0; see `jaxai.dqn.environment`.
      env_params: its parameters; None: its defaults.

    Raises:
      ValueError: in one line, where `reset` or `step` cannot be traced or do not return the values of the interface,
        actions are not discrete, or the parameters are those of several environments.
    """
    if env_params is None:
        env_params = getattr(env, "default_params", None)
    if isinstance(env, type):
        raise ValueError(f"{env.__name__} is a class; expected an environment, as {env.__name__}()")
    if env is None or isinstance(env, str | tuple):
        given = repr(env) if isinstance(env, str) else f"a {type(env).__name__}"
        raise ValueError(
            f"the environment is {given}; expected an object with reset and step, the first of what "
            "make_environment(Environment(name)) and gymnax.make(name) return"
        )
    name = name_of(env)
    try:
        space = spaces.action_space(env, env_params)
    except Exception as error:
        text = str(error).partition("\n")[0]
        raise ValueError(f"action_space of {name} fails{place(error)} with {type(error).__name__}: {text}") from error
    first_action, num_actions = spaces.discrete_actions(space, name, DISCRETE)
    _check_params(env, env_params, name)
    key = jax.eval_shape(lambda: jax.random.key(0))
    reset = functools.partial(_reset, env, env_params=env_params, name=name)
    observation, state, *more = trace(f"reset of {name}", reset, key, expected=INTERFACE)
    _check_observation(observation, name)
    action = jax.ShapeDtypeStruct((), jnp.int32)
    returned = trace(
        f"step of {name}",
        lambda key, state, action: _step(env, key, state, action, env_params, name),
        key,
        state,
        action,
        expected=INTERFACE + (": not gymnasium's info in the place of state" if isinstance(state, dict) else ""),
    )
    _check_pure(env, env_params, name, key, state, action)
    following, next_state, reward, terminated, truncated, info = returned
    _check_same(following, observation, f"the observation that step of {name} returns", "the one from reset")
    _check_state(state, next_state, name)
    for value, what in ((reward, "reward"), (terminated, "terminated"), (truncated, "truncated")):
        _check_scalar(value, what, name)
    final = info.get("final_observation")
    if final is None:
        raise ValueError(
            f"{name} gives no info['final_observation'], the observation before the next episode begins; "
            "DQN bootstraps from it where an episode is truncated"
        )
    _check_same(final, observation, f"info['final_observation'] of {name}", "its observations")
    masks = {f"info[{key!r}]": info[key] for key in ("action_mask", "final_action_mask") if key in info}
    if more:
        masks["info['action_mask'] from reset"] = more[0]["action_mask"]
    if callable(method := getattr(env, "action_mask", None)):
        what = "action_mask(state, params)"
        masks[what] = None  # sticky actions are refused with masks, and their state is not that of the method
        if not isinstance(env, StickyActions):
            masks[what] = trace(f"{what} of {name}", lambda state: method(state, env_params), state, expected=MASK)
    _check_masks(env, masks, num_actions, name)
    shape, dtype = observation.shape, np.dtype(observation.dtype)
    limit = getattr(env_params, "max_steps_in_episode", 0)
    if np.ndim(limit) or isinstance(limit, str) or not limit >= 0:
        raise ValueError(f"max_steps_in_episode of {name} is {limit}; expected a number of steps")
    return EnvironmentSpec(
        observation_shape=shape,
        observation_dtype=dtype,
        num_actions=num_actions,
        max_steps=int(limit) if np.isfinite(limit) else 0,
        binary=dtype == jnp.bool_ or is_minatar(env),
        first_action=first_action,
        masked="action_mask" in info,
        name=name,
        observation_space=functools.partial(spaces.observation_space, env, env_params),
    )


def _reset(env: Any, key: Key, env_params: PyTree, name: str) -> Sequence[Any]:
    returned = env.reset(key, env_params)
    if not _is_plain(returned) or len(returned) not in (2, 3):
        raise ExpectationError(f"reset of {name} returns {_described(returned)}; expected {RESET_VALUES}")
    if len(returned) == 3 and not (isinstance(returned[2], Mapping) and "action_mask" in returned[2]):
        raise ExpectationError(
            f"reset of {name} returns 3 values, the last a {type(returned[2]).__name__}; expected {RESET_VALUES}, "
            "or a dict with action_mask as the third"
        )
    return [*returned[:2], *({"action_mask": info["action_mask"]} for info in returned[2:])]


def _step(env: Any, key: Key, state: PyTree, action: jax.Array, env_params: PyTree, name: str) -> Sequence[Any]:
    returned = env.step(key, state, action, env_params)
    if not _is_plain(returned) or len(returned) != 6:
        number = "6" if _is_plain(returned) else "6 values"
        raise ExpectationError(
            f"step of {name} returns {_described(returned)}; expected {number}, as in gymnax >= 1.0.1: {STEP_VALUES}"
        )
    for value, what in zip(returned[2:5], ("reward", "terminated", "truncated"), strict=True):
        if value is None:
            raise ExpectationError(f"{what} of {name} is None; expected a number of shape ()")
    *values, info = returned
    needed = ("final_observation", "action_mask", "final_action_mask")
    kept = {key: info[key] for key in needed if key in info} if isinstance(info, Mapping) else {}
    return [*values, kept]


def _is_plain(returned: Any) -> bool:
    """A tuple or list, and not a named tuple, as dm_env's TimeStep."""
    return isinstance(returned, tuple | list) and not hasattr(returned, "_fields")


def _described(returned: Any) -> str:
    if isinstance(returned, jax.Array):
        return "one array"
    return f"{len(returned)} values" if _is_plain(returned) else f"a {type(returned).__name__}"


def _check_pure(env: Any, env_params: PyTree, name: str, *shapes: Any) -> None:
    """Refuses an environment that changes values outside its state, or draws random numbers without its key.

    Such values become constants of the compiled program. An earlier trace may have filled caches; the two programs that
    are compared are traced after it.
    """

    def program(function: Callable[..., Any], *shapes: Any) -> tuple[str, list[Any]]:
        jaxpr = jax.make_jaxpr(lambda *values: function(*values))(*shapes)  # a new function: nothing is cached
        return re.sub(r"0x[0-9a-f]+", "", str(jaxpr.jaxpr)), jaxpr.consts

    def step(key: Key, state: PyTree, action: jax.Array) -> Any:
        return _step(env, key, state, action, env_params, name)

    def reset(key: Key) -> Any:
        return _reset(env, key, env_params, name)

    try:
        # If reset changes a hidden value, the second trace of step differs from the first.
        first, *resets, last = (
            program(step, *shapes), program(reset, shapes[0]), program(reset, shapes[0]), program(step, *shapes),
        )  # fmt: skip
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(f"{name} keeps values outside of its state{place(error)}; {PURE}") from error
    for what, ((one, constants), (other, others)) in (("step", (first, last)), ("reset", resets)):
        same = len(constants) == len(others) and all(map(np.array_equal, constants, others))
        if one != other or not same:
            raise ValueError(f"{what} of {name} is a different program each time it is traced; {PURE}")


def _check_params(env: Any, env_params: PyTree, name: str) -> None:
    """Refuses parameters with an axis of environments before what the defaults have."""
    expected = getattr(env, "default_params", None)
    if jax.tree.structure(env_params) != jax.tree.structure(expected):  # type: ignore[operator]  # jaxlib's stubs
        return
    leaves = jax.tree_util.tree_leaves_with_path(env_params)
    for (path, given), default in zip(leaves, jax.tree.leaves(expected), strict=True):
        if np.ndim(given) == np.ndim(default) + 1 and np.shape(given)[1:] == np.shape(default):
            raise ValueError(
                f"parameter {jax.tree_util.keystr(path).strip('.')} of {name} has shape {np.shape(given)}; expected "
                f"{np.shape(default)}, as in default_params: all environments share one set of parameters"
            )


def _check_observation(observation: Any, name: str) -> None:
    if not isinstance(observation, jax.ShapeDtypeStruct):
        raise ValueError(
            f"{name} returns a {type(observation).__name__} as observation; "
            f"DQN needs one array, so join its parts in a wrapper, and {RESET_VALUES}"
        )
    if not any(jnp.issubdtype(observation.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)):
        raise ValueError(f"observations of {name} are {observation.dtype}; expected numbers or bool")
    if not observation.size:
        raise ValueError(f"observations of {name} have shape {observation.shape}: nothing to learn from")


def _check_same(given: Any, expected: Any, what: str, like: str) -> None:
    if not isinstance(given, jax.ShapeDtypeStruct):
        raise ValueError(f"{what} is a {type(given).__name__}; expected an array, as {like}")
    if (given.shape, given.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"{what} is {given.dtype}{list(given.shape)}; expected {expected.dtype}{list(expected.shape)}, as {like}"
        )


def _check_state(before: PyTree, after: PyTree, name: str) -> None:
    old, new = jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after)
    if jax.tree.structure(before) != jax.tree.structure(after):  # type: ignore[operator]  # jaxlib's stubs
        raise ValueError(
            f"step of {name} returns a state of another structure than reset ({len(new)} arrays, not {len(old)}); "
            "a state keeps its structure, shapes and dtypes"
        )
    for (path, leaf), following in zip(old, new, strict=True):
        if leaf.weak_type and leaf.shape == following.shape:  # Python's 0 becomes whatever it is added to
            continue
        part = f"state{jax.tree_util.keystr(path)}"
        _check_same(following, leaf, f"{part} that step of {name} returns", "in the state from reset")


def _check_scalar(value: Any, what: str, name: str) -> None:
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(f"{what} of {name} is a {type(value).__name__}; expected a number of shape ()")
    if value.shape != ():
        raise ValueError(f"{what} of {name} has shape {value.shape}; expected (), the step of one environment")
    if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)):
        raise ValueError(f"{what} of {name} is {value.dtype}; expected a number of shape ()")


def _check_masks(env: Any, masks: Mapping[str, Any], num_actions: int, name: str) -> None:
    if masks and "info['action_mask']" not in masks:
        raise ValueError(f"{name} gives {next(iter(masks))} but no info['action_mask'] in step; give both or neither")
    if masks and isinstance(env, StickyActions):
        raise ValueError(f"sticky_actions would repeat actions that are not legal in {name}; leave it at 0")
    for what, mask in masks.items():
        if not isinstance(mask, jax.ShapeDtypeStruct):
            raise ValueError(f"{what} of {name} is a {type(mask).__name__}; expected an array, {MASK}")
        if mask.shape != (num_actions,):
            raise ValueError(f"{what} of {name} has shape {mask.shape}; expected ({num_actions},), {MASK}")
        # A float mask may be meant to be added to the logits: 0 where an action is legal.
        if not (mask.dtype == jnp.bool_ or jnp.issubdtype(mask.dtype, jnp.integer)):
            raise ValueError(f"{what} of {name} is {mask.dtype}; expected {MASK}")
