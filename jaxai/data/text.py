"""Reads pairs of texts from any source: `load(TextData(source="dates"))`."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from jaxai import ranges
from jaxai.data import cmudict, holdout, line_files, sequence_tasks, tfds_text
from jaxai.data.load_images import GIVEN_IN_PYTHON, NAME_OF_FUNCTION
from jaxai.data.memory import check_memory
from jaxai.data.source_option import Source, is_function_name
from jaxai.data.text_pairs import PAIRS, Pairs, PairSplit, ReadSplit, check_pairs
from jaxai.dotted_names import called, dotted_name
from jaxai.files.paths import given_path
from jaxai.normalisation import normalise
from jaxai.ranges import Count, OpenShare, Range, Seed

__all__ = ["KINDS", "SOURCES", "Task", "TextData", "load", "origin"]

SOURCES = ("files", "tsv", "cmudict", "tfds:NAME", "dates", "reverse", "addition")

PAIR_BYTES = 300
"""Bytes of memory per pair of short texts during generation."""

Task = Literal["auto", "translation", "pronunciation", "transformation"]
KINDS = {
    "cmudict": "pronunciation",
    "dates": "transformation",
    "reverse": "transformation",
    "addition": "transformation",
}
"""The task of a source, which determines the scores; all others are translation."""


@dataclass(frozen=True)
class TextData:
    """The pairs of texts to train on, and their location.

    In a preset `source` may also be a function without arguments that returns `Pairs`, as `jaxai.data.pairs` does; on
    the command line it is `package.module:function`.
    """

    source: Source = "dates"  # files, tsv, cmudict, dates, reverse, addition, tfds:NAME/CONFIG, or module:function
    dir: str | None = None  # folder of files and tsv (or one tsv file), a dictionary file, or the tfds data_dir
    task: Task = "auto"  # determines the scores; auto: the task of the source
    train: str = "train"  # prefix of the training files: DIR/train.en and DIR/train.de, or DIR/train.tsv
    validation: str = "val"  # prefix of the validation files; empty: hold out a part of the training pairs
    test: str = "test"  # prefix of the test files; empty: hold out a part of the training pairs
    source_language: str = "en"  # suffix of the source files, or the tfds feature
    target_language: str = "de"  # suffix of the target files, or the tfds feature
    empty: Literal["drop", "error"] = "drop"  # pairs with an empty side: drop and count them, or stop
    validation_fraction: OpenShare = 0.05  # share of the different sources held out where there is no validation split
    test_fraction: OpenShare = 0.05  # share of the different sources held out where there is no test split
    pronunciations: Literal["all", "first"] = "all"  # of a training word; all: one pair for each
    limit: Count | None = None  # number of training pairs to keep, drawn at random; none: all
    examples: Count = 50_000  # number of training pairs of dates, reverse and addition
    validation_examples: Count = 1_000  # number of their validation pairs
    test_examples: Count = 2_000  # number of their test pairs
    longest: Count = 12  # letters of the longest string to reverse
    digits: Annotated[int, Range(least=1, most=17)] = 3  # digits of the largest number to add
    seed: Seed = 0  # seed for generated pairs, for pairs that are held out, and for limit


def load(config: TextData) -> Pairs:
    """Reads or generates a set of pairs.

    Args:
      config: the pairs and their location.

    Returns:
      The pairs, checked; their `origin` is `config`.

    Raises:
      FileNotFoundError: the data, or the package that reads it, is missing; one line with the expected place.
      ValueError: a field of `config`, or the data, is wrong; one line names the file, the line and the value.
    """
    ranges.check(config, "data.")
    if not isinstance(config.source, str):
        return _finished(_of_function(config), config)
    if config.source.startswith("tfds:"):
        pairs = _tfds(config)
    else:
        match config.source:
            case "files" | "tsv":
                pairs = _files(config)
            case "cmudict":
                file = None if config.dir is None else _path(config)
                splits, notes = cmudict.load(file, config.pronunciations == "all")
                pairs = _pairs(splits, config, notes)
            case "dates" | "reverse" | "addition":
                pairs = _made(config)
            case name if name == PAIRS:
                raise ValueError(GIVEN_IN_PYTHON.format(name))
            case name if is_function_name(name):
                raise ValueError(NAME_OF_FUNCTION.format(name))
            case name:
                near = difflib.get_close_matches(name, SOURCES, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"no text source {name}; expected one of {', '.join(SOURCES)}{hint}")
    return _finished(pairs, config)


def _of_function(config: TextData) -> Pairs:
    assert callable(config.source)
    name = dotted_name(config.source)
    pairs = called(config.source, "data.source")
    if not isinstance(pairs, Pairs):
        raise ValueError(
            f"data.source {name} returned {type(pairs).__name__}; expected jaxai.data.Pairs, as"
            " jaxai.data.pairs(sources, targets) gives"
        )
    task = pairs.task if config.task == "auto" else config.task
    return replace(check_pairs(pairs), name=name, task=task)


def _path(config: TextData) -> Path:
    if config.dir is None:
        raise ValueError(f"text source {config.source} needs --data.dir: where its files are")
    return given_path(config.dir, "--data.dir").resolve()


def _made(config: TextData) -> Pairs:
    if config.dir is not None:
        raise ValueError(
            f"data.dir is {config.dir!r}, but the source {config.source} reads no files: choose another, as"
            " --data.source files, or leave data.dir out"
        )
    counts = {"train": config.examples, "validation": config.validation_examples, "test": config.test_examples}
    total = sum(counts.values())
    check_memory(total * PAIR_BYTES, f"{total:,} pairs of {config.source}")
    match config.source:
        case "dates":
            splits = sequence_tasks.dates(counts, config.seed)
        case "reverse":
            splits = sequence_tasks.reverse(counts, config.seed, config.longest)
        case _:
            splits = sequence_tasks.addition(counts, config.seed, config.digits)
    return _pairs(splits, config, ())


def _files(config: TextData) -> Pairs:
    path, found = _path(config), {}
    prefixes = {"train": config.train, "validation": config.validation, "test": config.test}
    if config.source == "tsv" and not path.is_dir():
        found["train"] = line_files.columns(path, config.empty)
    else:
        if not path.is_dir():
            raise FileNotFoundError(f"no folder {path}; expected the folder of the text files; check --data.dir")
        if not config.train:
            raise ValueError("train is empty; expected the prefix of the training files, such as train")
        for split, prefix in prefixes.items():
            if prefix:
                found[split] = _split_files(path, prefix, config)
    return _translation(found, config)


def _split_files(folder: Path, prefix: str, config: TextData) -> ReadSplit:
    if config.source == "tsv":
        return line_files.columns(folder / f"{prefix}.tsv", config.empty)
    files = [folder / f"{prefix}.{language}" for language in _languages(config)]
    return line_files.aligned(files[0], files[1], config.empty)


def _tfds(config: TextData) -> Pairs:
    name = str(config.source).removeprefix("tfds:")
    return _translation(tfds_text.load(name, config.dir, _languages(config), config.empty), config)


def _languages(config: TextData) -> tuple[str, str]:
    languages = config.source_language, config.target_language
    if languages[0] == languages[1]:
        raise ValueError(
            f"--data.source-language and --data.target-language are both {languages[0]!r}; give two languages"
        )
    return languages


def _translation(found: dict[str, ReadSplit], config: TextData) -> Pairs:
    notes = [f"{split}: {part.note}" for split, part in found.items() if part.note]
    splits = {split: part.split for split, part in found.items()}
    known = {*map(normalise, splits["train"].sources)} if len(splits) > 1 else set()
    for name, split in splits.items():
        if name != "train" and (seen := sum(normalise(source) in known for source in split.sources)):
            notes.append(f"{name}: {seen} of {len(split.sources)} sources are among those of the training")
    return _held_out(splits, tuple(notes), config)


def _held_out(splits: dict[str, PairSplit], notes: tuple[str, ...], config: TextData) -> Pairs:
    """Holds out missing splits from the training pairs; sources with the same normalised form are in one split."""
    whole = splits["train"]
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    missing = {split: share for split, share in fractions.items() if split not in splits}
    if missing:
        options = "--data.validation-fraction and --data.test-fraction"
        splits |= holdout.by_source(whole, missing, config.seed, str(config.source), options)
        sizes = " and ".join(f"{len(splits[split].sources)} for {split}" for split in missing)
        notes += (f"held out of {len(whole.sources)} training pairs: {sizes}",)
    return _pairs(splits, config, notes)


def _pairs(splits: dict[str, PairSplit], config: TextData, notes: tuple[str, ...]) -> Pairs:
    source = str(config.source)
    task = KINDS.get(source, "translation") if config.task == "auto" else config.task
    return Pairs(splits["train"], splits["validation"], splits["test"], source, task, notes)


def _finished(pairs: Pairs, config: TextData) -> Pairs:
    train, notes = pairs.train, pairs.notes
    there = len(train.sources)
    if config.limit is not None and config.limit < there:
        kept = np.random.default_rng(config.seed).permutation(there)[: config.limit]
        train = train.take(np.sort(kept))
        notes += (f"train: {config.limit} of {there} pairs kept, as limit asks",)
    return replace(pairs, train=train, notes=notes, origin=config)


def origin(pairs: Pairs) -> TextData:
    """The data configuration of a run on these pairs, with their task where the source does not determine it."""
    if pairs.origin is None:
        return TextData(source=PAIRS, task=pairs.task)  # type: ignore[arg-type]  # `check_pairs` allows only tasks
    named = isinstance(pairs.origin.source, str)
    return pairs.origin if named else replace(pairs.origin, task=pairs.task)
