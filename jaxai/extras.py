"""Packages of the optional extras: imported where they are used, with an error of one line where they are missing."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any


class MissingExtraError(ImportError):
    """A package of an optional extra is not installed, or is installed and cannot be imported."""


def load(module: str, what: str, extra: str) -> Any:
    """Imports a module that an optional extra installs.

    Args:
      module: its full name, such as "PIL.Image".
      what: what needs it; the message begins with it.
      extra: the extra of jaxai that installs it.

    Returns:
      The module.

    Raises:
      MissingExtraError: the package is not installed, or one that it needs itself is missing or broken; one line.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ImportError as error:
        # "Not installed" only where the package itself is missing, and not one that it imports.
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise _missing(package, what, extra) from None
        reason = " ".join(str(error).split())
        raise MissingExtraError(
            f"{what} needs {package}, which is installed but cannot be imported ({reason}); {_install(extra)}"
        ) from error


def folder(package: str, what: str, extra: str) -> Path:
    """The folder of an installed package, found without importing it.

    Args:
      package: a top-level package.
      what: what needs it; the message begins with it.
      extra: the extra of jaxai that installs it.

    Raises:
      MissingExtraError: it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise _missing(package, what, extra)
    return Path(next(iter(found.submodule_search_locations)))


def _missing(package: str, what: str, extra: str) -> MissingExtraError:
    return MissingExtraError(f"{what} needs {package}, which is not installed; {_install(extra)}")


def _install(extra: str) -> str:
    return f"run pip install '.[{extra}]' in the checkout of jaxai"
