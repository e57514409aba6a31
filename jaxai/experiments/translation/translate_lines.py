"""Lines in, translations out: the input and the output of `jaxai translate`."""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from jaxai.data import line_files
from jaxai.seq2seq.translator import Translation, Translator

NOTED = 20
"""Lines whose notes are shown; further ones are counted."""


class Input(NamedTuple):
    """Where sentences come from, one a line.

    Attributes:
      name: for messages.
      stream: of bytes.
      typed: it is a terminal, whose lines are translated one by one.
    """

    name: str
    stream: BinaryIO
    typed: bool


@contextlib.contextmanager
def open_input(path: Path | None) -> Iterator[Input]:
    """A file, pipe or device, or standard input. What can be read twice is checked to its end at once.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a folder, a closed standard input, or a line that is not UTF-8; the message names the line.
    """
    with contextlib.ExitStack() as files:
        if path is not None:
            found = Input(str(path), files.enter_context(line_files.open_text(path)), False)
        elif sys.stdin is None:
            raise ValueError("standard input is closed; give --input FILE, a text of one sentence a line")
        else:
            found = Input("standard input", sys.stdin.buffer, sys.stdin.isatty())
        if found.stream.seekable():
            start = found.stream.tell()
            for _ in line_files.utf8_lines(found.stream, found.name):
                pass
            found.stream.seek(start)
        yield found


def check_output(path: Path | None, source: Input) -> None:
    """Refuses an output that could not be written, or that is the input; nothing is opened yet.

    Raises:
      ValueError: one line that says so.
    """
    if path is None:
        if sys.stdout is None:
            raise ValueError("standard output is closed; give --output FILE")
        if _same(source.stream, sys.stdout):
            raise ValueError("standard output is the file that is read; give --output another file")
        return
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; give a file of translations")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} for --output; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--output {path} may not be written; give another file")
    if path.is_file():
        with path.open("rb") as there:
            if _same(source.stream, there):
                raise ValueError(f"--output {path} is the file that is read; give another file")


def translate(
    translator: Translator, source: Input, output: Path | None, batch_size: int, n_best: int, scores: bool
) -> None:
    """Writes the translations of each line as they come, and to standard error what became of a line.

    Args:
      translator: of the text.
      source: the sentences.
      output: file of the translations in UTF-8; None for standard output.
      batch_size: lines in a batch.
      n_best: translations of each line, a line each.
      scores: score, a tab, log probability and a tab before each translation.

    Raises:
      ValueError: a line is not UTF-8; those before it are translated.
      FloatingPointError: the model's probabilities are not finite.
      OSError: the output could not be written; its message says how many lines were translated.
    """
    unreadable: list[ValueError] = []
    texts = _until_unreadable(line_files.utf8_lines(source.stream, source.name), unreadable)
    found = translator.translate(texts, 1 if source.typed else batch_size, n_best)
    with contextlib.ExitStack() as files:
        _write(found, _opened(output, files), output, scores)
    if unreadable:
        raise unreadable[0]


def _write(found: Iterable[list[Translation]], target: TextIO, output: Path | None, scores: bool) -> None:
    noted = 0
    for number, translations in enumerate(found, start=1):
        translations[0].require_finite(f"line {number}")
        try:
            for each in translations:
                before = f"{each.score:.4f}\t{each.log_probability:.4f}\t" if scores else ""
                print(f"{before}{each.text}", file=target, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            text = f"cannot write {output or 'standard output'} ({error.strerror}); lines translated: {number - 1}"
            raise OSError(error.errno, text) from error
        if translations[0].note:
            noted += 1
            if noted <= NOTED:
                _say(f"line {number}: {translations[0].note}")
    if noted > NOTED:
        _say(f"further lines with such notes: {noted - NOTED:,}")


def _say(note: str) -> None:
    """To standard error; a closed or full one does not spoil the translation."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"jaxai: {note}", file=sys.stderr)


def _until_unreadable(lines: Iterator[str], unreadable: list[ValueError]) -> Iterator[str]:
    try:
        yield from lines
    except ValueError as error:
        unreadable.append(error)


def _opened(output: Path | None, files: contextlib.ExitStack) -> TextIO:
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # whatever the terminal's locale: the input is UTF-8 too
        return sys.stdout
    try:
        target = output.open("w", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--output {output} cannot be opened ({error.strerror}); give another file") from error
    files.callback(_close, target)
    return target


def _close(target: TextIO) -> None:
    # What could not be written is tried once more, and has been told of.
    with contextlib.suppress(OSError):
        target.close()


def _same(one: BinaryIO, other: BinaryIO | TextIO) -> bool:
    """Whether both are one regular file."""
    try:
        first, second = os.fstat(one.fileno()), os.fstat(other.fileno())
    except (OSError, ValueError):  # no file of the system
        return False
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)
