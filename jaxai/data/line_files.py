"""Parallel text: two files whose lines belong together, or one file with two columns."""

from pathlib import Path

from jaxai.data.pairs import Found, without_empty


def aligned(source: Path, target: Path, empty: str) -> Found:
    """The pairs of two text files: line i of `source` belongs to line i of `target`.

    Args:
      source: UTF-8 text, one sentence a line; white space around a line is not kept.
      target: the same in the other language.
      empty: of an empty line: "error", or "drop" the pair.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: not UTF-8, unequal line counts, an empty line with `empty="error"`, or nothing left.
    """
    missing = [path for path in (source, target) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"no file {' and no file '.join(map(str, missing))}; expected one sentence a line; check --data.dir, "
            "the split's prefix and the language suffixes"
        )
    sources, targets = lines(source), lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source} has {len(sources)} lines, but {target} has {len(targets)}; expected equally many, "
            "line i of one being the translation of line i of the other"
        )
    pairs = list(zip(sources, targets, strict=True))
    return without_empty(pairs, lambda index, side: f"{(source, target)[side]}, line {index + 1}", empty)


def columns(path: Path, empty: str) -> Found:
    """The pairs of one text file: source, a tab, target; raises as `aligned`, and ValueError for other columns."""
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
    r"""The lines of a UTF-8 file, which end in "\n" or "\r\n" and in nothing else that Unicode calls a line's end.

    Raises:
      ValueError: not UTF-8; the message names the file and the line.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Not of `content`: the codec counts from behind a byte order mark.
        number = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}: not UTF-8 ({error.reason}, byte 0x{error.object[error.start]:02x}); "
            "convert it with iconv -f ENCODING -t utf-8"
        ) from error
    found = text.split("\n")
    if not found[-1]:
        found.pop()
    return [line.removesuffix("\r") for line in found]
