"""Action and observation spaces: of gymnax, of gymnasium, or others with the same attributes."""

import inspect
from typing import Any

import numpy as np

from jaxai.core import PyTree
from jaxai.ranges import INT32_MAX

__all__ = ["action_space", "bounds", "categories", "discrete_actions", "dtype", "observation_space"]

SEVERAL = {
    "MultiDiscrete": "several discrete actions at once",
    "MultiBinary": "several binary actions at once",
    "Dict": "several actions at once",
    "Tuple": "several actions at once",
}


def action_space(env: Any, env_params: PyTree) -> Any:
    """The action space: a method that takes the parameters, one that takes nothing, or a property."""
    return _call(getattr(env, "action_space", None), env_params)


def discrete_actions(space: Any, name: str, known: tuple[str, ...]) -> tuple[int, int]:
    """The first action and the number of actions of a Discrete space.

    Args:
      space: the action space.
      name: of the environment, for errors.
      known: environments that have discrete actions, for errors.

    Raises:
      ValueError: the space is missing, or is not Discrete.
    """
    if space is None:
        raise ValueError(f"{name} has no action_space; expected action_space(params) with n, as gymnax's Discrete has")
    kind, count = type(space).__name__, getattr(space, "n", None)
    # MultiBinary has an n too, but its actions are vectors.
    if count is not None and np.ndim(count) == 0 and not getattr(space, "shape", ()):
        if isinstance(count, str) or count != int(count) or not 1 <= count <= INT32_MAX:
            raise ValueError(f"{name} has {count} actions; expected at least 1, at most {INT32_MAX} and whole")
        return int(getattr(space, "start", 0)), int(count)
    if kind in SEVERAL:
        raise ValueError(
            f"{name} has {SEVERAL[kind]} ({kind}); DQN needs one Discrete: number the combinations in a wrapper"
        )
    if kind != "Box":
        raise ValueError(f"{name} has an action_space of type {kind}; expected one with n, as gymnax's Discrete has")
    continuous = np.issubdtype(getattr(space, "dtype", None) or np.float32, np.floating)
    what = "continuous actions" if continuous else "arrays of integers as actions"
    raise ValueError(f"{name} has {what} ({kind}); DQN needs discrete actions, which these have: {', '.join(known)}")


def observation_space(env: Any, env_params: PyTree) -> Any:
    """The observation space, or None where the environment does not describe one."""
    try:
        return _call(getattr(env, "observation_space", None), env_params)
    except Exception:  # a failing description counts as none: training may work without it
        return None


def categories(space: Any, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(first, count) of each number of an observation that is a category; empty for quantities.

    Discrete: one number, or each of an array. MultiDiscrete: `nvec` has the shape of the observation.
    """
    size = int(np.prod(shape))
    counts = getattr(space, "nvec", None)
    if counts is None and not getattr(space, "shape", ()):  # MultiBinary's n is a length
        counts = getattr(space, "n", None)
    if counts is None or np.size(counts) not in (1, size):
        return ()
    firsts = np.broadcast_to(np.ravel(getattr(space, "start", 0)), size)
    counts = np.broadcast_to(np.ravel(counts), size)
    return tuple(zip(firsts.astype(int).tolist(), counts.astype(int).tolist(), strict=True))


def dtype(space: Any) -> np.dtype | None:
    """The dtype of the observations; None where the space has none that NumPy knows."""
    try:
        return np.dtype(space.dtype)
    except (AttributeError, TypeError):
        return None


def bounds(space: Any) -> tuple[float, float] | None:
    """The smallest and the largest number of an observation, from a space with `low` and `high`; None without them."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not np.size(low) or not np.size(high):
        return None
    return float(np.min(np.asarray(low))), float(np.max(np.asarray(high)))


def _call(space: Any, env_params: PyTree) -> Any:
    if not callable(space):
        return space
    return space(env_params) if inspect.signature(space).parameters else space()
