"""The JSON files of a run folder; damage is reported in one line: file, damage and remedy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxai.ranges import shown

__all__ = ["SUPERSEDED", "parse", "read_lines", "read_object", "require_numbers"]

SUPERSEDED = "superseded"
"""Key in the line of an evaluation that used other data or other measures than later ones."""
REMEDIES = {
    "config.json": "put a copy of it back, or train again in another --workdir",
    "result.json": "delete it, and the command that trained the run writes a new one",
}


DEEPEST = 30
"""Largest depth of objects and lists; jaxai writes no more than five levels."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
      ValueError: the file cannot be read or is damaged; one line with its name and the remedy.
    """
    try:
        value = parse(_read(path))
        if not isinstance(value, dict):
            raise ValueError(f"it holds {shown(value)}, not an object in {{}}")
    except ValueError as damage:
        remedy = REMEDIES.get(path.name, "put a copy of it back, or delete it")
        raise ValueError(f"cannot read {path}: {damage}; {remedy}") from None
    return value


def read_lines(path: Path, damaged: list[str] | None = None) -> list[dict[str, Any]]:
    """The objects of a file with one object in each line, which has a `step`; none if there is no file.

    A last line that a kill, a full disk or a power cut left unfinished is ignored.

    Args:
      path: of the file.
      damaged: a sentence is added to it for each line that cannot be read and is skipped; None: such a line raises.

    Raises:
      ValueError: the file cannot be read, or a line of it is damaged.
    """
    if not path.exists():
        return []
    try:
        *whole, rest = _read(path).split(b"\n")
    except ValueError as damage:
        raise ValueError(f"cannot read {path}: {damage}; put a copy of it back, or move it away") from None
    found = []
    for number, line in enumerate([*whole, rest], start=1):
        try:
            found.append(_with_step(parse(line)))
        except ValueError as damage:
            if number > len(whole) and _cut_off(line, after=whole):
                break
            remedy = f"remove the line, as by: sed -i {number}d {path}"
            if damaged is None:
                raise ValueError(f"cannot read line {number} of {path}: {damage}; {remedy}") from None
            damaged.append(f"line {number}: {damage}")
    return found


def require_numbers(path: Path, lines: Sequence[Mapping[str, Any]], *names: str) -> None:
    """Checks the types in lines: fields that must be numbers, and others that must have one type in all lines.

    Args:
      path: of their file, for the message.
      lines: from `read_lines`.
      names: fields that must be numbers or null.

    Raises:
      ValueError: a value of another type; one line.
    """
    kinds: dict[str, str] = dict.fromkeys(names, "number")
    for line in lines:
        for name, value in line.items():
            kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
            if value is not None and kinds.setdefault(name, kind) != kind:
                raise ValueError(
                    f"cannot continue with {path}: at step {line['step']} {name} is {shown(value)}, not a"
                    f" {kinds[name]}; correct or remove the line"
                )


def parse(content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: a short description of the damage.
    """
    if not content.strip():
        raise ValueError("it is empty")
    if b"\0" in content:
        raise ValueError(f"it has NUL bytes from byte {content.index(0)} on")
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
        if _deeper(value, DEEPEST):
            raise RecursionError
        return value
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON at line {error.lineno}, column {error.colno} ({error.msg})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(str(error.strerror)) from None


def _deeper(value: Any, depth: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_deeper(each, depth - 1) for each in inside)


def _with_step(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it holds {shown(value)}, not an object in {{}}")
    step = value.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"its step is {shown(step)}, not a whole number of at least 0")
    return value


def _cut_off(rest: bytes, after: Sequence[bytes]) -> bool:
    """Whether the bytes after the last line end are an unfinished line."""
    begun = rest.startswith(b"{") and not rest.rstrip().endswith(b"}")
    return not rest or begun or (bool(after) and not rest.strip(b"\0"))


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return values
