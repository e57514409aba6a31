"""A user's environments by name: objects passed from Python, and `module:name` from the command line.

The `config.json` of a run has only the name, and a name in a file never causes an import: another process must provide
the environment again, by `load`, by `--env.name`, or by a preset that defines it.
"""

from collections.abc import Callable
from typing import Any

from jaxai.dotted_names import dotted_name, imported, is_dotted

__all__ = ["IMPORTED", "REGISTERED", "is_dotted", "load", "register"]

REGISTERED: dict[str, Callable[..., Any]] = {}
"""Name -> (**arguments) -> the environment, or a pair of it and its parameters; of this process."""
IMPORTED: set[str] = set()
"""Names in `REGISTERED` that `load` has imported."""


def register(maker: Callable[..., Any]) -> str:
    """Registers an environment in this process.

    Args:
      maker: a class or function, (**arguments) -> an environment, or a pair of it and its parameters.

    Returns:
      Its name, `module:name`; in a preset, `file:name`.
    """
    name = dotted_name(maker)
    REGISTERED[name] = maker
    return name


def load(name: str) -> Callable[..., Any]:
    """Imports an environment that the user names, and registers it in this process.

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
