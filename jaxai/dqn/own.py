"""Environments of one's own, by name: those that Python code has given, and `module:name` that a user has typed.

`config.json` of a run has the name alone, and nothing is imported because a file names it: another process has to give
the environment again, by `load`, by `--env.name`, or by a preset that defines it.
"""

from collections.abc import Callable
from typing import Any

from jaxai.dotted_names import dotted_name, imported, is_dotted

__all__ = ["IMPORTED", "REGISTERED", "is_dotted", "load", "register"]

REGISTERED: dict[str, Callable[..., Any]] = {}
"""Name -> (**arguments) -> the environment, or a pair of it and its parameters; of this process."""
IMPORTED: set[str] = set()
"""Those among them that `load` has imported by their names."""


def register(maker: Callable[..., Any]) -> str:
    """Makes an environment known in this process.

    Args:
      maker: a class or function, (**arguments) -> an environment, or a pair of it and its parameters.

    Returns:
      Its name, `module:name`; in a preset, `file:name`.
    """
    name = dotted_name(maker)
    REGISTERED[name] = maker
    return name


def load(name: str) -> Callable[..., Any]:
    """Imports an environment that a user names, and makes it known in this process.

    Args:
      name: `my_package.my_module:make`, a class, a function (**arguments) -> an environment, or an environment. Modules
        in the working directory are found too.

    Returns:
      The class or function.

    Raises:
      ValueError: there is no such module, the import fails, or the module has no such name; in one line.
    """
    if name in REGISTERED:
        return REGISTERED[name]
    found = imported(name, "--env.name")
    if not callable(found) and not (hasattr(found, "reset") and hasattr(found, "step")):
        raise ValueError(
            f"--env.name is {name}, of type {type(found).__name__}; expected a class, a function or an environment"
        )
    REGISTERED[name] = found if callable(found) else lambda: found
    IMPORTED.add(name)
    return REGISTERED[name]
