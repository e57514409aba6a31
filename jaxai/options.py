"""Options of the command line: from the parameters of a function; reading numbers; names of options in errors."""

import collections
import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from jaxai import ranges

WIDE = 10_000
"""Columns of a terminal in which no message of tyro is broken."""

NAME = r"[A-Za-z_][\w.]*"


def parse(
    function: Callable[..., Any], common: Mapping[str, tuple[Any, Any, str]], arguments: Sequence[str], prog: str
) -> dict[str, Any]:
    """The values of a function's parameters, read from the command line.

    Args:
      function: its parameters after the first become options; its docstring explains them.
      common: parameters added to them: name -> (type, default, explanation); `inspect.Parameter.empty`: no default.
      arguments: of the command line.
      prog: the command, for the help.

    Raises:
      ValueError: a value is out of the range of its type; the message names the option as it is typed.
      SystemExit: the arguments do not match the options, or help was requested.
    """
    require_values(arguments)
    own = list(inspect.signature(function).parameters.values())[1:]
    hints = _hints(function, common)

    def read(**named: Any) -> dict[str, Any]:
        return named

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default, _) in common.items()
    ]
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name]) for each in own]
    positional = [each for each in added if each.default is inspect.Parameter.empty]
    rest = [each for each in added if each.default is not inspect.Parameter.empty]
    read.__signature__ = inspect.Signature([*positional, *own, *rest])  # type: ignore[attr-defined]
    read.__annotations__ = hints
    read.__doc__ = _documented(function.__doc__ or "", {name: text for name, (_, _, text) in common.items()})
    with in_one_line(arguments):
        found: dict[str, Any] = tyro.cli(read, args=list(arguments), prog=prog, registry=values())
    with as_typed(of_function(function, common)):
        for name, value in found.items():
            ranges.check_argument(name, hints[name], value)
    return found


def of_function(function: Callable[..., Any], common: Mapping[str, tuple[Any, Any, str]]) -> dict[str, str]:
    """Each parameter of a command, by its name and as errors name it, as `data.source` -> the option as it is typed."""
    found: dict[str, str] = {}
    for name, hint in _hints(function, common).items():
        marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
        typed = next((mark.name for mark in marks if getattr(mark, "name", None)), name)
        found |= dict.fromkeys((name, typed), f"--{typed.replace('_', '-')}")
    return found


def _hints(function: Callable[..., Any], common: Mapping[str, tuple[Any, Any, str]]) -> dict[str, Any]:
    """The types of a command's parameters: those of a function after its first, and the common ones; see `parse`."""
    own = list(inspect.signature(function).parameters.values())[1:]
    module = SimpleNamespace(__annotations__={each.name: each.annotation for each in own})
    hints = get_type_hints(module, function.__globals__, include_extras=True)
    return hints | {name: kind for name, (kind, _, _) in common.items()}


@contextlib.contextmanager
def in_one_line(arguments: Sequence[str]) -> Iterator[None]:
    """Raises ValueError, in one line, in place of the box that `tyro.cli` prints for arguments that do not fit.

    Args:
      arguments: of the command line; with `--help` among them nothing changes.
    """
    if {"-h", "--help"} & {*arguments}:
        yield
        return
    box, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDE)  # so that the box breaks no line
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as error:
        if error.code != 2 or not box.getvalue():
            raise
        raise ValueError(_line_of_box(box.getvalue())) from None
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    print(box.getvalue(), end="", file=sys.stderr)


def _line_of_box(box: str) -> str:
    """What a box of tyro states, in one line, with the options that it proposes."""
    plain = re.sub(r"\x1b\[[\d;]*m|[│╭╰╯╮]", "", box)
    sections = re.split(r"^[ ─-]+$", plain.partition("\n")[2].strip(" ─-\n"), flags=re.MULTILINE)
    message, *others = (" ".join(section.split()) for section in sections)
    message = message.rstrip(".")
    message = re.sub(r"^Error parsing (?=-)", "", message)
    message = re.sub(r"^(invalid choice '.*') for argument '(--\S+)'\. Expected", r"\2: \1; expected", message)
    message = re.sub(r"^Missing value for argument '(--\S+)'\. Expected", r"\1 has no value; expected", message)
    message = re.sub(r"\b1 values$", "1 value", message.replace("Unrecognized options:", "no such options:"))
    near = re.findall(r"^ *(--[^\s,]+)", sections[1], re.MULTILINE) if others else []
    if message.startswith("no such options:") and near:
        message += f"; did you mean {' or '.join(dict.fromkeys(near[:2]))}?"
    prog = re.search(r"(?:run|see) (.* --help)$", others[-1] if others else "")
    return f"{message}; options: {prog[1]}" if prog else message


def require_values(arguments: Sequence[str]) -> None:
    """Raises ValueError for an empty argument, as of a shell variable that is not set."""
    if not all(argument.strip() for argument in arguments):
        raise ValueError("an argument is empty; give it a value, or leave it out")


def _documented(doc: str, common: Mapping[str, str]) -> str:
    """A docstring with explanations of further arguments."""
    text = inspect.cleandoc(doc)
    if "\nArgs:\n" not in text:
        text += "\n\nArgs:\n"
    return text.replace("\nArgs:\n", "\nArgs:\n" + "".join(f"  {name}: {what}\n" for name, what in common.items()), 1)


def of_config(kind: type) -> dict[str, str]:
    """Each field of a configuration, as errors name it -> the option as it is typed.

    Errors name a field by its path, as `data.test_fraction`, or by the last part of the path, as `test_fraction`, where
    only a part of the configuration is checked. A last part that several paths share is left out.

    Args:
      kind: a dataclass.
    """
    found = _paths(kind)
    ends = collections.Counter(option.rpartition(".")[2].removeprefix("--") for option in dict.fromkeys(found.values()))
    for option in dict.fromkeys(found.values()):
        end = option.rpartition(".")[2].removeprefix("--")
        if ends[end] == 1:
            found.setdefault(end.replace("-", "_"), option)
    return found


def _paths(kind: type, path: str = "", typed: str = "") -> dict[str, str]:
    """The full path of each field, and the path as it is typed -> the option."""
    found: dict[str, str] = {}
    for name, hint in ranges.hints(kind).items():
        marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
        inside = typed if any(getattr(mark, "name", None) == "" for mark in marks) else f"{typed}{name}."
        inner = get_args(hint)[0] if marks else hint
        group = next((each for each in (inner, *get_args(inner)) if hasattr(each, "__dataclass_fields__")), None)
        option = f"--{typed}{name}".replace("_", "-")
        if group is not None:
            found |= _paths(group, f"{path}{name}.", inside)
            option = f"--{inside}".rstrip(".").replace("_", "-")
        found |= {f"{path}{name}": option, f"{typed}{name}": option}
    return found


@contextlib.contextmanager
def as_typed(options: Mapping[str, str]) -> Iterator[None]:
    """Replaces the names of fields in each ValueError by options as they are typed.

    Args:
      options: field as errors name it, as `optimizer.learning_rate` -> option, as `--optimizer.learning-rate`.

    Raises:
      ValueError: with the changed message.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError or len(error.args) != 1:
            raise
        raise ValueError(named(str(error), options)) from error


def named(message: str, options: Mapping[str, str]) -> str:
    """A message in which fields are named by their options.

    A name of several words, as `batch_size` or `optimizer.name`, is replaced everywhere. A single word, which may be an
    ordinary word too, is replaced where the message begins with it or shows its change.
    """

    def replaced(found: re.Match[str]) -> str:
        name = found[0]
        ending = name[len(name.rstrip(".")) :]
        return options.get(name.rstrip("."), name.rstrip(".")) + ending

    def several(found: re.Match[str]) -> str:
        return replaced(found) if re.search(r"[_.]\w", found[0]) else found[0]

    message = re.sub(rf"(?<![\w./\-'\"=(]){NAME}(?![\w(/=])", several, message)
    message = re.sub(rf"(?<=\(){NAME}(?=: .* -> )", several, message)
    message = re.sub(rf"^{NAME}(?= (?:is|are|has|have|needs|of|\S+ (?:is|cannot))\b)", replaced, message)
    return re.sub(rf"(?:(?<=^)|(?<=[(;] )|(?<=\()){NAME}(?=: [^;]* -> )", replaced, message)


def values() -> tyro.constructors.ConstructorRegistry:
    """Rules for tyro: integers may also be written as 1e6 or 2.5e3."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def whole(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda values: _whole(values[0]),
            is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _whole(text: str) -> int:
    """The integer that a user has typed.

    Raises:
      ValueError: it is no integer.
    """
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE]\+?\d{1,2}", text) and (number := Decimal(text)) == int(number):
        return int(number)
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None
