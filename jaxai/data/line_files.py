"""Parallel text: two files with corresponding lines, or one file with two columns."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from jaxai.data.text_pairs import ReadSplit, without_empty
from jaxai.normalisation import normalise


def aligned(
    source: Path,
    target: Path,
    empty: str,
    options: str = "--data.dir, the split's prefix and the language suffixes",
) -> ReadSplit:
    """The pairs of two text files: line i of `source` corresponds to line i of `target`.

    Args:
      source: UTF-8 text, one sentence per line; white space around lines and empty lines at the end are removed.
      target: the same in the other language.
      empty: for an empty line: "error", or "drop" the pair.
      options: the options that name the files, for the message.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: not UTF-8, unequal line counts, an empty line with `empty="error"`, or nothing left.
    """
    missing = [path for path in (source, target) if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"no file {' and no file '.join(map(str, missing))}; expected one sentence a line; check {options}"
        )
    sources, targets = lines(source), lines(target)
    _trim(sources, targets)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source} has {len(sources)} lines, but {target} has {len(targets)}; expected equally many, "
            "line i of one being the translation of line i of the other"
        )
    pairs = list(zip(sources, targets, strict=True))
    return without_empty(pairs, lambda index, side: f"{(source, target)[side]}, line {index + 1}", empty)


def _trim(sources: list[str], targets: list[str]) -> None:
    """Removes empty lines at the end: first the surplus ones of one file, then those of both."""
    for longer, shorter in ((sources, targets), (targets, sources)):
        while len(longer) > len(shorter) and not normalise(longer[-1]):
            longer.pop()
    while sources and len(sources) == len(targets) and not normalise(sources[-1] + targets[-1]):
        sources.pop()
        targets.pop()


def columns(path: Path, empty: str) -> ReadSplit:
    """The pairs of one text file with lines of source, a tab, and target.

    Args:
      path: of the file.
      empty: for an empty side: "error", or "drop" the pair.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not UTF-8, a line without exactly two columns, an empty side with `empty="error"`, or nothing left.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected lines of source, a tab, and target; check --data.dir")
    pairs = []
    for number, line in enumerate(lines(path), 1):
        fields = line.split("\t") if line.strip() else ["", ""]
        if len(fields) != 2:
            raise ValueError(
                f"{path}, line {number}: {len(fields)} {'column' if len(fields) == 1 else 'columns'}; "
                "expected 2, a source and a target with one tab between"
            )
        pairs.append((fields[0], fields[1]))
    return without_empty(pairs, lambda index, side: f"{path}, line {index + 1}", empty)


def lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file; see `utf8_lines`."""
    with open_text(path) as stream:
        return list(utf8_lines(stream, str(path)))


def open_text(path: Path) -> BinaryIO:
    """A file, a pipe or a device to read lines from.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, or cannot be read.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}; expected text, one sentence a line") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); expected text, one sentence a line") from error


def utf8_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    r"""Decoded lines of UTF-8, one by one; only "\n" and "\r\n" end a line, not other line separators of Unicode.

    Args:
      stream: lines of bytes, as from a binary file; a byte-order mark at the beginning is removed.
      name: of the file, for the message.

    Raises:
      ValueError: not UTF-8, or lines that end in "\r" alone; the message names the place.
    """
    number, source = 0, iter(stream)
    while True:
        try:
            line = next(source, b"")
        except OSError as error:
            raise ValueError(f"{name} cannot be read beyond line {number} ({error.strerror})") from error
        if not line:
            return
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1 and b"\r" in content and not line.endswith(b"\n"):
            raise ValueError(f"{name}: lines end in a carriage return alone; convert it with tr '\\r' '\\n'")
        try:
            yield content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: not UTF-8 ({error.reason}, byte 0x{content[error.start]:02x}); "
                "convert it with iconv -f ENCODING -t utf-8"
            ) from error
