"""Input and output of `jaxai translate`: a line of text in, a line of translation out."""

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
"""Number of notes that are shown; further ones are counted."""


class Input(NamedTuple):
    """The text to translate, one sentence per line.

    Attributes:
      name: for messages.
      stream: of bytes.
      typed: whether it is a terminal; its lines are translated one at a time.
    """

    name: str
    stream: BinaryIO
    typed: bool


@contextlib.contextmanager
def open_input(path: Path | None) -> Iterator[Input]:
    """Opens a file, pipe or device, or standard input; a file is first checked to its end.

    Args:
      path: of the file; None: standard input.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a folder, a closed standard input, or a line that is not UTF-8; the message names the line.
    """
    with contextlib.ExitStack() as files:
        if path is not None:
            found = Input(str(path), files.enter_context(line_files.open_text(path)), False)
        elif sys.stdin is None:
            raise ValueError("standard input is closed; give --input FILE, a text with one sentence per line")
        else:
            found = Input("standard input", sys.stdin.buffer, sys.stdin.isatty())
        if found.stream.seekable():
            start = found.stream.tell()
            for _ in line_files.utf8_lines(found.stream, found.name):
                pass
            found.stream.seek(start)
        yield found


def check_output(path: Path | None, source: Input) -> None:
    """Refuses an output that cannot be written or is the input, before anything is opened.

    Args:
      path: of the output; None: standard output.
      source: the input.

    Raises:
      ValueError: one line with the reason.
    """
    if path is None:
        if sys.stdout is None:
            raise ValueError("standard output is closed; give --output FILE")
        if _same(source.stream, sys.stdout):
            raise ValueError("standard output is the input file; give --output another file")
        return
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; give a file of translations")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} for --output; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--output {path} cannot be written: no permission; give another file")
    if path.is_file():
        with path.open("rb") as there:
            if _same(source.stream, there):
                raise ValueError(f"--output {path} is the input file; give another file")


def translate(
    translator: Translator, source: Input, output: Path | None, batch_size: int, n_best: int, scores: bool
) -> None:
    """Writes the translations of each line as soon as they are ready, and notes on the lines to standard error.

    Args:
      translator: of the text.
      source: of the sentences.
      output: file of the translations in UTF-8; None for standard output.
      batch_size: lines in a batch.
      n_best: translations of each line, each on a line of its own.
      scores: write score, tab, log probability and tab before each translation.

    Raises:
      ValueError: a line is not UTF-8; the lines before it are translated.
      FloatingPointError: the model's probabilities are not finite.
      OSError: the output could not be written; the message has the number of lines that were translated.
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
                _note(f"line {number}: {translations[0].note}")
    if noted > NOTED:
        _note(f"further lines with such notes: {noted - NOTED:,}")


def _note(note: str) -> None:
    """Writes to standard error; an error there does not stop the translation."""
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
            sys.stdout.reconfigure(encoding="utf-8")  # in any locale, because the input is UTF-8 too
        return sys.stdout
    try:
        target = output.open("w", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--output {output} cannot be opened ({error.strerror}); give another file") from error
    files.callback(_close, target)
    return target


def _close(target: TextIO) -> None:
    # Closing writes the rest once more; an error there has been reported before.
    with contextlib.suppress(OSError):
        target.close()


def _same(one: BinaryIO, other: BinaryIO | TextIO) -> bool:
    """Whether both are one regular file."""
    try:
        first, second = os.fstat(one.fileno()), os.fstat(other.fileno())
    except (OSError, ValueError):  # not a file of the operating system
        return False
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)
