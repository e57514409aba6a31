"""The source of data in a configuration: a name or a function, and how the command line reads it."""

from collections.abc import Callable
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from jaxai.dotted_names import dotted_name, imported, is_dotted

PREFIXES = ("idx", "tfds")
"""Prefixes of names of sources, as in `tfds:mnist`."""


def _read(values: list[str]) -> str | Callable[[], Any]:
    [text] = values
    if not is_function_name(text):
        return text
    try:
        return imported(text, "--data.source")
    except ValueError as error:
        # Not a ValueError, which tyro would print in its own form.
        raise FileNotFoundError(str(error)) from error


def is_function_name(source: Any) -> bool:
    """Whether the source of a configuration is the name of a function, `package.module:function`."""
    return isinstance(source, str) and is_dotted(source) and source.partition(":")[0] not in PREFIXES


Source = Annotated[
    str | Callable[[], Any],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=_read,
        is_instance=lambda value: isinstance(value, str) or callable(value),
        str_from_instance=lambda value: [value if isinstance(value, str) else dotted_name(value)],
    ),
]
"""The name of a source of data, or a function without arguments that returns the data.

Only names that a user types are imported: the name of a function in the `config.json` of a run folder stays a name.
"""
