"""Standard output that may fail before the program ends: a closed pipe, as with `head`, or a full disk."""

import os
import sys
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console


def leave_standard_output() -> None:
    """Discards buffered output, so that Python exits without an error."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Lasting:
    """Standard output of a training. When it can no longer be written, training continues and reports this once.

    Args:
      stream: standard output.
    """

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, if it can."""
        try:
            return self._stream.write(text)
        except OSError as error:
            return self._lose(error, len(text))

    def flush(self) -> None:
        """Writes what is buffered, if it can."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError, length: int) -> int:
        leave_standard_output()
        if sys.stderr is not None:
            reason = f"standard output cannot be written any more ({error.strerror})"
            print(f"jaxai: {reason}; the run continues without it", file=sys.stderr)
        return length


def print_line(console: Console, text: str) -> None:
    """Prints a line without markup such as [red] and emoji such as :cat:, which paths and names may contain."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_notes(notes: Iterable[str], console: Console | None) -> None:
    """Prints the notes from loading data, one line each."""
    if console is None:
        return
    for note in notes:
        print_line(console, note)
