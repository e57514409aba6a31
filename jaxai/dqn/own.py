"""Environments of one's own, by name: those that Python code has given, and `module:name` that a user has typed.

`config.json` of a run has the name alone, and nothing is imported because a file names it: another process has to give
the environment again, by `load`, by `--env.name`, or by a preset that defines it.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from jaxai.dqn.tracing import place

__all__ = ["REGISTERED", "is_place", "load", "register"]

REGISTERED: dict[str, Callable[..., Any]] = {}
"""Name -> (**arguments) -> the environment, or a pair of it and its parameters; of this process."""


def is_place(name: str) -> bool:
    """Whether a name has the form `module:name`, which no environment of gymnax has."""
    module, colon, attribute = name.partition(":")
    return bool(colon and module and attribute)


def register(maker: Callable[..., Any]) -> str:
    """Makes an environment known in this process.

    Args:
      maker: a class or function, (**arguments) -> an environment, or a pair of it and its parameters.

    Returns:
      Its name, `module:name`; of a preset, whose module has no stable name, `file:name`.
    """
    module = str(getattr(maker, "__module__", type(maker).__module__))
    # Presets are executed as modules with a number in the name, which another process does not have.
    module = module if module in sys.modules and _importable(module) else module.rpartition(".")[2]
    name = f"{module}:{getattr(maker, '__qualname__', type(maker).__qualname__)}"
    REGISTERED[name] = maker
    return name


def load(name: str) -> Callable[..., Any]:
    """Imports an environment that a user names, and makes it known in this process.

    Args:
      name: `my_package.my_module:make`, a class, a function (**arguments) -> an environment, or an environment. Modules
        in the working folder are found too.

    Raises:
      ValueError: there is no such module, the import fails, or the module has no such name; in one line.
    """
    if name in REGISTERED:
        return REGISTERED[name]
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109  # as text
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"env.name is {name}, and there is no module {error.name}; install it, or run in the folder that has it"
        ) from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"env.name is {name}: the import fails{place(error)} with {type(error).__name__}: {text}"
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), 1, 0.5)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"env.name is {name}, and {module_name} has no {attribute}{advice}")
        found = getattr(found, part)
    if not callable(found) and not (hasattr(found, "reset") and hasattr(found, "step")):
        raise ValueError(
            f"env.name is {name}, of type {type(found).__name__}; expected a class, a function or an environment"
        )
    REGISTERED[name] = found if callable(found) else lambda: found
    return REGISTERED[name]


def _importable(module: str) -> bool:
    """Whether another process finds a module by this name."""
    spec = getattr(sys.modules[module], "__spec__", None)
    try:
        return spec is not None and importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
