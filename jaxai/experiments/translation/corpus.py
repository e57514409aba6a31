"""From pairs of texts to the arrays of training: vocabularies, lengths, buckets, and notes on what was left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from jaxai import ranges
from jaxai.data.buckets import Buckets, choose_buckets, padding
from jaxai.data.text_pairs import Pairs, PairSplit
from jaxai.normalisation import control_characters
from jaxai.ranges import Count, Natural
from jaxai.seq2seq import vocabulary
from jaxai.seq2seq.batches import pad
from jaxai.seq2seq.checks import check_values
from jaxai.seq2seq.decoding import Decoding
from jaxai.seq2seq.translator import cut
from jaxai.seq2seq.vocabulary import END, RESERVED, UNKNOWN, Vocabulary

Kind = Literal["character", "word", "subword"]
Array = np.ndarray


@dataclass(frozen=True)
class Tokens:
    """How text becomes tokens, and how the tokens are batched."""

    kind: Kind = "subword"  # of the tokens: character, word or subword
    target_kind: Kind | None = None  # kind of the target's tokens; None: the same as the source's
    size: Count = 8_000  # largest number of tokens in a vocabulary
    joint: bool = False  # one vocabulary for both sides
    lowercase: bool = False  # lower-case all text; BLEU is then not case-sensitive
    min_frequency: Count = 1  # characters and words with fewer occurrences are unknown
    algorithm: Literal["bpe", "unigram"] = "bpe"  # of subwords
    longest_source: Natural = 0  # largest number of tokens of a source, END included; 0: that of a batch
    longest_target: Natural = 0  # largest number of tokens of a target, END included; 0: that of a batch
    overlong: Literal["drop", "cut"] = "drop"  # what happens to training pairs that are longer
    buckets: Count = 8  # number of shapes of batches, by length
    batch: Count = 4_096  # tokens of a batch on its longer side, padding included, over all devices
    digests: tuple[str, ...] = ()  # of the vocabularies of a run; filled in


class Corpus(NamedTuple):
    """The data of a run as arrays.

    Attributes:
      source: vocabulary of the sources.
      target: vocabulary of the targets.
      train: source [pairs, S], target [pairs, T], their lengths and bucket [pairs], all int32.
      buckets: shapes of training batches.
      validation: the same arrays of the held-out pairs, without bucket.
      notes: sentences on what was left out, cut or unknown, and on the share of padding.
    """

    source: Vocabulary
    target: Vocabulary
    train: dict[str, Array]
    buckets: Buckets
    validation: dict[str, Array]
    notes: tuple[str, ...]

    def too_short(self, decoding: Decoding) -> list[str]:
        """A note if validation targets are longer than decoding allows."""
        limits = np.ceil(decoding.longest_ratio * self.validation["source_length"]) + decoding.longest_extra
        if not (longer := int((self.validation["target_length"] > limits).sum())):
            return []
        return [
            f"{longer} of {len(limits)} validation targets are longer than a translation may be; raise "
            "decoding.longest_ratio or decoding.longest_extra"
        ]


def vocabularies(config: Tokens, pairs: Pairs) -> tuple[Vocabulary, Vocabulary]:
    """The vocabularies of the training text.

    Raises:
      ValueError: the text or the size do not allow them; see `vocabulary.build`.
    """
    kinds = config.kind, config.target_kind or config.kind
    texts = pairs.train.sources, pairs.train.targets
    if config.joint:
        if kinds[0] != kinds[1]:
            raise ValueError(f"tokens.joint is on, but the kinds are {kinds[0]} and {kinds[1]}; give one kind")
        both = _build(config, kinds[0], (*texts[0], *texts[1]))
        return both, both
    source, target = (_build(config, kind, side) for kind, side in zip(kinds, texts, strict=True))
    return source, target


def _build(config: Tokens, kind: Kind, texts: Sequence[str]) -> Vocabulary:
    return vocabulary.build(
        kind,
        texts,
        config.size,
        min_frequency=config.min_frequency,
        lowercase=config.lowercase,
        algorithm=config.algorithm,
    )


def make_corpus(config: Tokens, pairs: Pairs) -> Corpus:
    """Encodes the pairs and assigns them to buckets.

    Args:
      config: how text becomes tokens.
      pairs: the text.

    Raises:
      ValueError: nothing is left to train on, or a field of `config` is out of its range.
    """
    ranges.check(config, "tokens.")
    for name in ("longest_source", "longest_target"):
        if getattr(config, name) == 1:
            raise ValueError(f"tokens.{name} is {getattr(config, name)}; it must be at least 2, or 0 for no limit")
    source, target = vocabularies(config, pairs)
    notes = [*pairs.notes, *_odd_characters(source, "sources", pairs.train.sources)]
    notes += _odd_characters(target, "targets", pairs.train.targets)
    train = _encoded(config, "training", pairs.train, source, target, notes)
    validation = _encoded(config, "validation", pairs.validation, source, target, notes)
    for name, encoded in (("training", train), ("validation", validation)):
        check_values(encoded, len(source), len(target), f"{name} pairs")
    buckets = choose_buckets(train["source_length"], train["target_length"], config.buckets, config.batch)
    wasted = padding(buckets, train["source_length"], train["target_length"])
    shapes = ", ".join(f"{shape.source}x{shape.target} ({shape.rows} rows)" for shape in buckets.shapes)
    notes.append(f"{len(buckets.shapes)} shapes of batches, compiled in one program: {shapes}")
    notes.append(f"padded tokens over real ones: source {wasted[0]:.2f}, target {wasted[1]:.2f}")
    return Corpus(source, target, train | {"bucket": buckets.of}, buckets, validation, tuple(notes))


def _odd_characters(known: Vocabulary, side: str, texts: Sequence[str]) -> list[str]:
    """Notes on characters that cannot be learnt."""
    notes = []
    if lost := sum(map(control_characters, texts)):
        notes.append(f"control characters, such as NUL, left out of the training {side}: {lost:,}")
    if known.kind == "subword" and (lines := sum(RESERVED in text for text in texts)):
        notes.append(f"training {side} with U+2585, which sentencepiece reserves, so that it stays unknown: {lines:,}")
    return notes


def _encoded(
    config: Tokens, name: str, split: PairSplit, source: Vocabulary, target: Vocabulary, notes: list[str]
) -> dict[str, Array]:
    """The arrays of one split; remarks are added to `notes`."""
    sides = [[[*side.encode(text), END] for text in texts] for side, texts in ((source, split[0]), (target, split[1]))]
    for which, side, known in zip(("sources", "targets"), sides, (source, target), strict=True):
        unknown = sum(tokens.count(UNKNOWN) for tokens in side)
        if unknown:
            share = unknown / sum(map(len, side))
            what = f"{unknown:,} tokens of the {name} {which} ({share:.2%})"
            notes.append(f"{what} are not in the vocabulary of {len(known):,}")
    limits = config.longest_source, config.longest_target
    if any(limits):
        most = tuple(limit or 10**9 for limit in limits)
        long = [len(read) > most[0] or len(written) > most[1] for read, written in zip(*sides, strict=True)]
        if any(long):
            done = "dropped" if config.overlong == "drop" else "cut"
            over = f"{limits[0] or 'any number of'} source or {limits[1] or 'any number of'} target tokens"
            which = f"{sum(long):,} of {len(long):,} {name} pairs"
            notes.append(f"{which} are longer than {over}: {done} (tokens.overlong)")
        if config.overlong == "drop":
            sides = [[tokens for tokens, over in zip(side, long, strict=True) if not over] for side in sides]
        else:
            sides = [[[*cut(tokens, limit)] for tokens in side] for side, limit in zip(sides, most, strict=True)]
    if not sides[0]:
        raise ValueError(f"no {name} pairs are left; expected at least one: check the data and tokens.longest_source")
    if name == "training":
        _require_room(config, *sides)
    return pad("source", sides[0]) | pad("target", sides[1])


def _require_room(config: Tokens, *sides: Sequence[Sequence[int]]) -> None:
    """Refuses a pair that is too long for a batch, before all pairs are padded to its length."""
    for side, sequences in zip(("source", "target"), sides, strict=True):
        lengths = [len(tokens) for tokens in sequences]
        if (longest := max(lengths)) > config.batch:
            raise ValueError(
                f"tokens.batch is {config.batch}, too few for the training {side} of {longest:,} tokens in pair "
                f"{lengths.index(longest) + 1}; raise it, or set tokens.longest_{side} to leave out what is longer"
            )


def unknown_references(target: Vocabulary, split: PairSplit) -> list[str]:
    """A note if references have tokens that are not in the target's vocabulary."""
    encoded = [target.encode(answer) for answers in split.answers() for answer in answers]
    unknown = sum(tokens.count(UNKNOWN) for tokens in encoded)
    if not unknown:
        return []
    return [f"{unknown:,} of {sum(map(len, encoded)):,} tokens of the references are not in the target's vocabulary"]
