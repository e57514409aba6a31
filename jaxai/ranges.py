"""The range of each number in a configuration: part of the type of its field, checked in one place.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Config:
...     width: Count = 32
...     dropout: Rate = 0.0
>>> check(Config(dropout=1.5))
Traceback (most recent call last):
ValueError: dropout is 1.5; it must be at least 0 and below 1
"""

import dataclasses
import difflib
import functools
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

INT32_MAX = 2**31 - 1
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Range:
    """The allowed numbers of a field: finite, and in the range of int32 or float32 unless `most` is larger."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether an int, or a float after conversion to float32, is in the range."""
        default = FLOAT32_MAX
        if isinstance(value, int):
            default = INT32_MAX
        else:
            value = _float32(value)
        return (
            abs(value) < math.inf
            and value <= (default if self.most is None else self.most)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self, value: float) -> str:
        """The expected range, for the error on `value`, as "at least 0 and below 1"."""
        if isinstance(value, int):
            too_low = self.least is not None and value < self.least
            return f"at least {self.least}" if too_low else f"at most {INT32_MAX if self.most is None else self.most}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
        if self.least is not None and self.most is not None:
            words = [f"between {self.least} and {self.most}"]
        if not math.isfinite(_float32(value)) and self.most is None and self.below is None:
            words = ["finite", *words]
        return " and ".join(words)


# Types of fields, in place of int and float. Rate: of dropout or decay, below 1.
Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
Rate = Annotated[float, Range(least=0, below=1)]
OpenShare = Annotated[float, Range(above=0, below=1)]
ImageShape = tuple[Count, Count, Count]


def check(config: Any, prefix: str = "") -> None:
    """Checks each field of a configuration, and of the configurations in it, against its type and range.

    Traced numbers, as in a sweep under `vmap`, are not checked, as they have no value yet.

    Args:
      config: an instance of a dataclass.
      prefix: path of the configuration in messages, as "optimizer.".

    Raises:
      ValueError: one line with the name of the field, its value, and what was expected.
    """
    kind: Any = type(config)
    for field, hint in hints(kind).items():
        _check(f"{prefix}{field}", hint, getattr(config, field))


def check_argument(name: str, hint: Any, value: Any) -> None:
    """Checks one value against its type, as `check` does for a field.

    Args:
      name: of the value, for the message.
      hint: a type, with its range, as `Count`.
      value: the value to check.

    Raises:
      ValueError: another type, or out of range.
    """
    _check(name, hint, value)


@functools.cache
def hints(kind: Any) -> dict[str, Any]:
    """The type of each field of a dataclass, ranges included."""
    found = typing.get_type_hints(kind, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def _check(name: str, hint: Any, value: Any) -> None:
    """Checks the value of one field, or the values in it."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Annotated and not any(isinstance(each, Range) for each in hint.__metadata__):
        hint = arguments[0]
        kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if dataclasses.is_dataclass(kind):
        _check_inside(name, kind, value)
    elif kind is tuple and isinstance(value, tuple | list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(value) != len(kinds):
            raise ValueError(f"{name} is {shown(value)}; it must have {len(kinds)} values")
        for each, element in zip(kinds, value, strict=True):
            if expected := _expected(each, element):
                raise ValueError(f"{name} is {shown(value)}; every value must be {expected}")
    elif isinstance(value, tuple | list) and any(typing.get_origin(each) is tuple for each in arguments):
        [option] = [each for each in arguments if typing.get_origin(each) is tuple]  # of a union
        _check(name, option, value)
    elif isinstance(value, Mapping) and len(arguments) == 2:
        for key, element in value.items():
            _check(f"{name} {key}", arguments[1], element)
    elif expected := _expected(hint, value):
        raise ValueError(f"{name} is {shown(value)}; it must be {expected}")


def _check_inside(name: str, kind: Any, value: Any) -> None:
    if not isinstance(value, kind):
        fields = {field.name for field in dataclasses.fields(kind)}
        function = getattr(value, "__name__", "function") if callable(value) else ""
        way = f": give {kind.__name__}(source={function})" if function and "source" in fields else ""
        raise ValueError(f"{name} is {shown(value)}; it must be of type {kind.__module__}.{kind.__name__}{way}")
    check(value, f"{name}.")


def _expected(hint: Any, value: Any) -> str:
    """The expected value, in words that follow "it must be"; "" where the value is right."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return ""
        found = [_expected(each, value) for each in arguments if each is not types.NoneType]
        return "" if "" in found else " or ".join(found)
    if kind is Annotated:
        [allowed] = [each for each in hint.__metadata__ if isinstance(each, Range)]
        return _expected_number(arguments[0], allowed, value)
    if kind is Literal and value not in arguments:
        near = difflib.get_close_matches(str(value), map(str, arguments), 1, 0.5)
        return f"one of {', '.join(map(str, arguments))}" + (f" (did you mean {near[0]}?)" if near else "")
    if kind is bool and not isinstance(value, bool):
        return "True or False"
    if kind is str and not isinstance(value, str):
        return "text, in quotes"
    if kind is tuple:
        return "a tuple"
    if kind is Callable and not callable(value):
        return "a function"
    return "a dict" if isinstance(kind, type) and issubclass(kind, Mapping) else ""


def _expected_number(kind: type, allowed: Range, value: Any) -> str:
    if (jax := sys.modules.get("jax")) and isinstance(value, jax.core.Tracer):  # without jax there are no tracers
        return ""
    number: Any = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(number, bool) or not isinstance(number, int if kind is int else int | float):
        return "a whole number" if kind is int else "a number"
    number = number if kind is int else _float32(number)
    return "" if allowed.holds(number) else allowed.describe(number)


def _float32(value: float) -> float:
    try:
        with np.errstate(over="ignore"):
            return float(np.float32(value))
    except OverflowError:  # an int that no float holds
        return math.inf


def shown(value: Any) -> str:
    """A value for an error message: its repr, shortened if it is long."""
    text = repr(value.item() if getattr(value, "shape", None) == () else value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"
