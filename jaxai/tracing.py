"""Traces a user's function for the shapes that it returns; any error in it becomes one line that names the place."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

__all__ = ["ExpectationError", "place", "trace"]

LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "optax")
"""Packages whose lines are not the user's."""


class ExpectationError(ValueError):
    """An error that jaxai raises while it traces a user's function: its message is one line already."""


def trace(what: str, function: Callable[..., Any], *shapes: Any, expected: str) -> Any:
    """The shapes that a function returns; nothing is compiled or run.

    Args:
      what: the function in a message, as `step of Catch`.
      function: of the user.
      shapes: its arguments, arrays or `jax.ShapeDtypeStruct`.
      expected: what the function should be, for a message.

    Raises:
      ValueError: it is no function, raises, or cannot be traced; in one line.
    """
    if not callable(function):
        raise ValueError(f"{what} is a {type(function).__name__}; expected a function {expected}")
    try:
        return jax.eval_shape(function, *shapes)
    except ExpectationError:
        raise
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise ValueError(
            f"{what} cannot be traced by JAX ({type(error).__name__}{place(error)}); write it with jax.numpy, "
            "jnp.where and lax.cond: no NumPy and no Python `if` on values of its arguments"
        ) from error
    except Exception as error:
        text = " ".join(str(error).partition("\n")[0].split())
        raise ValueError(
            f"{what} fails{place(error)} with {type(error).__name__}: {text}; expected {expected}"
        ) from error


def place(error: Exception) -> str:
    """` at file.py:12`, the last line of the user's code that the error went through; "" if there is none."""
    package = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if package not in file.parents and not set(LIBRARIES) & set(file.parts):
            return f" at {file.name}:{frame.lineno}"
    return ""
