"""Names under which a configuration records functions and classes: `package.module:name`."""

import functools
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRESET_MODULE = "jaxai_preset_"
"""Beginning of the name of a preset's module: `jaxai_preset_<number>.<name of the file>`."""


def dotted_name(function: Any) -> str:
    """`package.module:name` of a function or class, independent of the process and the working directory.

    The module of a preset or a script has the name of its file. An object without a name gets the name of its class,
    and a `functools.partial` that of its function.
    """
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or "builtins"
    if module.startswith(PRESET_MODULE):
        module = module.partition(".")[2]
    if module == "__main__" and (file := getattr(sys.modules["__main__"], "__file__", None)):
        module = Path(file).stem
    return f"{module}:{named.__qualname__}"


def defined_in_preset(function: Any) -> bool:
    """Whether a function was defined by a preset while it was executed."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "")).startswith(PRESET_MODULE)


def is_dotted(text: str) -> bool:
    """Whether a text has the form `package.module:name`."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def imported(text: str, option: str) -> Any:
    """The object that `package.module:name` names. Only for names that the user has typed: importing executes code.

    Args:
      text: the name.
      option: the option with the name, as "--data.source", for the message.

    Raises:
      ValueError: no such module or name, or the module fails while it is imported; one line.
    """
    module, _, name = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:  # last, so that no file here hides an installed package
        sys.path.append(here)
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except AttributeError as error:
        raise ValueError(f"{option} is {text}: {error}; check the name after the colon") from error
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{option} is {text}: {error}; expected package.module:name of an installed package, or of a file in this"
            " folder or in that of the preset"
        ) from error
    except Exception as error:
        raise ValueError(f"{option} is {text}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception that a user's function raised, in one line with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {reason:.200}' if reason else ''}{where}"


def called(function: Callable[[], Any], option: str) -> Any:
    """The value that a user's function returns.

    Args:
      function: called without arguments.
      option: the field of the configuration with the function, for the message.

    Raises:
      ValueError: the function raised an exception; one line with its name, the exception and the place.
    """
    try:
        return function()
    except (ValueError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{option} {dotted_name(function)}: {reason}") from error
    except Exception as error:
        raise ValueError(f"{option} {dotted_name(function)} failed: {described(error)}") from error
