"""Presets: Python files that define a `config`, and may define classes and import their neighbours.

A preset may also define `callbacks`, `measures` and `metrics`, which `jaxai train` passes to the training of its
experiment; see `jaxai.runtime.callbacks`.
"""

import ast
import dataclasses
import difflib
import importlib.util
import itertools
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxai import metrics, ranges
from jaxai.dotted_names import PRESET_MODULE
from jaxai.files.paths import given_path
from jaxai.runtime.callbacks import check_callbacks, check_measures
from jaxai.runtime.config import Run

MOST_NAMED = 5
"""Largest number of presets that a message lists if none has a similar name."""

CHECKS: dict[str, Callable[[Any], object]] = {
    "callbacks": check_callbacks,
    "measures": check_measures,
    "metrics": metrics.check,
}
"""Names that a preset may define in addition to its `config` -> their checks."""

_numbers = itertools.count(1)
_folders: list[Path] = []
"""Folders of the presets that this process has executed; presets may import their files."""


class Preset(NamedTuple):
    """The definitions in a preset file.

    Attributes:
      config: the experiment.
      description: docstring of the file.
      hooks: those of `callbacks`, `measures` and `metrics` that it defines: arguments of the experiment's training.
    """

    config: Any
    description: str
    hooks: dict[str, Any]


def load_preset(path: str) -> Preset:
    """Executes a preset file.

    It is executed as a separate module, so that its dataclasses work, and with its folder first on `sys.path`, as with
    `python FILE`, so that it can import files of its folder.

    Args:
      path: the file.

    Raises:
      ValueError: there is no such file (the message has similar names), it cannot be executed, its `config` is no
        experiment or has a field out of its range, or its callbacks are invalid; the message has the file and, if it
        is known, the line.
    """
    file = given_path(path, "the preset")
    if file.is_dir() or (file.exists() and file.suffix != ".py"):
        raise ValueError(f"preset {path} is {'a folder' if file.is_dir() else 'no Python file'}; give a *.py")
    if not file.is_file():
        known = sorted(each for each in {*file.parent.glob("*.py"), *Path("configs").glob("*.py")} if each.is_file())
        stems = difflib.get_close_matches(file.stem, {preset.stem for preset in known}, 3)
        near = [str(preset) for stem in stems for preset in known if preset.stem == stem]
        choices = ", ".join(map(str, known[:MOST_NAMED])) + (", ..." if len(known) > MOST_NAMED else "")
        advice = f"did you mean {', '.join(near)}?" if near else f"give one of {choices or 'configs/*.py'}"
        raise ValueError(f"no preset {path}; {advice}")
    module = _executed(file)
    if not hasattr(module, "config"):
        raise ValueError(f"preset {path} defines no `config`; see configs/mnist_cnn.py")
    try:
        _check_preset(module.config)
    except ValueError as error:
        line = _line_of(file, "config")
        raise ValueError(f"preset {path}{f', line {line}' if line else ''}: {error}") from None
    hooks = {name: getattr(module, name) for name in CHECKS if hasattr(module, name)}
    for name, value in hooks.items():
        try:
            CHECKS[name](value)
        except ValueError as error:
            raise ValueError(f"preset {path}, line {_line_of(file, name)}: {error}") from None
    return Preset(module.config, module.__doc__ or "", hooks)


def _executed(file: Path) -> types.ModuleType:
    """The module of a preset file. Any error in it becomes one line of text with the file and the line number."""
    # A unique number: one process may load two presets of the same name from different folders.
    name = f"{PRESET_MODULE}{next(_numbers)}.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _make_neighbours_importable(file.absolute().parent)
    sys.modules[name] = module  # where dataclasses and get_type_hints look names up
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:
        del sys.modules[name]
        places = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in places if frame.f_code.co_filename == spec.origin]
        reason = str(error)
        if isinstance(error, SyntaxError) and error.filename == spec.origin:
            lines, reason = [error.lineno or 1], error.msg
        where = f"{file}, line {lines[-1]}" if lines else f"{file}"
        reason = " ".join(f"{type(error).__name__}: {reason}".split())
        raise ValueError(f"preset {where}: {reason:.300}") from error
    return module


def _make_neighbours_importable(folder: Path) -> None:
    """Puts the folder first on `sys.path`, and forgets modules of the same name from other presets' folders."""
    path = str(folder)
    sys.path[:] = [path, *(each for each in sys.path if each != path)]
    for name, module in list(sys.modules.items()):
        top, file = name.partition(".")[0], getattr(module, "__file__", None)
        if not file or top == "jaxai" or not ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            continue
        of_others = (place for other in _folders if other != folder for place in (other / f"{top}.py", other / top))
        if any(Path(file).is_relative_to(place) for place in of_others):
            del sys.modules[name]
    if folder not in _folders:
        _folders.append(folder)


def _check_preset(config: Any) -> None:
    """Raises ValueError unless `config` can be trained: an experiment whose fields are in their ranges."""
    if isinstance(config, type | types.FunctionType):
        kind = "class" if isinstance(config, type) else "function"
        raise ValueError(f"config is the {kind} {config.__name__}; call it: config = {config.__name__}(...)")
    if not (dataclasses.is_dataclass(config) and isinstance(getattr(config, "run", None), Run)):
        raise ValueError(
            f"config is {ranges.shown(config)}; it must be an Experiment of a workload, as in configs/mnist_cnn.py"
        )
    ranges.check(config)


def _line_of(file: Path, variable: str) -> int:
    """Number of the line that assigns a variable in the file; 0 if there is none."""
    lines = [0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == variable
        if defined or any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            lines.append(node.lineno)  # type: ignore[attr-defined]  # a node with a target has a line
    return max(lines)
