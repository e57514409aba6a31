"""From text to tokens and back: character, word and subword vocabularies, each saved as one JSON file.

Every vocabulary starts with the same four special tokens. Text is normalized first (`jaxai.normalisation`).
`decode(encode(text)) == normalise(text)` for text without unknown tokens.
"""

import base64
import binascii
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxai import extras
from jaxai.normalisation import WORD_START, normalise

__all__ = ["BEGIN", "END", "PAD", "SPECIALS", "UNKNOWN", "Vocabulary", "build", "load"]

PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3
"""The special tokens: padding, first input of the decoder, end of a sequence, unknown token."""
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
KINDS = ("character", "word", "subword")
ALGORITHMS = ("bpe", "unigram")
FORMAT = 1
RESERVED = "\u2585"
"""Reserved by sentencepiece, which skips every line with this character, so that no subword contains it."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one side of a task; make it with `build` or `load`.

    Attributes:
      kind: "character", "word" (split at white space) or "subword" (sentencepiece).
      tokens: the text of every token, by id; the first four are `SPECIALS`.
      lowercase: whether text is lower-cased first.
      model: the sentencepiece model of a subword vocabulary; empty for the other kinds.
    """

    kind: str
    tokens: tuple[str, ...]
    lowercase: bool = False
    model: bytes = b""

    def __len__(self) -> int:
        return len(self.tokens)

    def normalise(self, text: str) -> str:
        """`text` in the form that is encoded; see `jaxai.normalisation.normalise`."""
        return normalise(text, self.lowercase)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without begin and end marks; `UNKNOWN` for tokens that are not in the vocabulary."""
        text = self.normalise(text)
        if self.kind == "subword":
            return list(self._processor.encode(text))
        return [self._ids.get(token, UNKNOWN) for token in _split(self.kind, text)]

    def decode(self, ids: Iterable[int], unknown: str = "") -> str:
        """The text of `ids` up to the first `END`, without special tokens.

        Args:
          ids: tokens.
          unknown: text for `UNKNOWN`.

        Raises:
          ValueError: an id is not in the vocabulary.
        """
        kept: list[str] = []
        for token in map(int, ids):
            if token == END:
                break
            if token == UNKNOWN:
                kept += [unknown] if unknown else []
            elif token not in (PAD, BEGIN):
                kept.append(self._text(token))
        if self.kind == "subword":
            return "".join(kept).replace(WORD_START, " ").strip(" ")
        return (" " if self.kind == "word" else "").join(kept)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """A readable text for each id, special tokens included, as labels of attention heat maps; a space is `␣`."""
        return ["␣" if (text := self._text(int(token))) == " " else text for token in ids]

    def unknown(self, text: str) -> int:
        """Number of tokens of `text` (characters, words or subwords) that are not in the vocabulary."""
        return self.encode(text).count(UNKNOWN)

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits that change with everything on which `encode` and `decode` depend."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()[:12]

    def require(self, digest: str, where: str) -> None:
        """Refuses use with a model that was trained with another vocabulary.

        Args:
          digest: the `digest` that was saved with the model.
          where: name of the model's folder, for the message.

        Raises:
          ValueError: the digests differ.
        """
        if digest != self.digest:
            raise ValueError(
                f"the {self.kind} vocabulary of {len(self)} tokens ({self.digest}) does not belong to {where}, "
                f"which was trained with {digest}; use the vocabulary file of its run folder"
            )

    def save(self, path: str | Path) -> None:
        """Writes one JSON file, sentencepiece model included; whole or not at all."""
        text = json.dumps({**self._content(), "digest": self.digest}, ensure_ascii=False, indent=1)
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": self.kind,
            "lowercase": self.lowercase,
            "tokens": list(self.tokens),
            "model": base64.b64encode(self.model).decode("ascii"),
        }

    def _text(self, token: int) -> str:
        if not 0 <= token < len(self.tokens):
            raise ValueError(f"token {token} is not in the vocabulary; expected 0 to {len(self.tokens) - 1}")
        return self.tokens[token]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens) if index >= len(SPECIALS)}

    @cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=self.model)


def build(
    kind: str,
    texts: Iterable[str],
    size: int | None = None,
    *,
    min_frequency: int = 1,
    lowercase: bool = False,
    algorithm: str = "bpe",
) -> Vocabulary:
    """Builds the vocabulary of `texts`; the same texts give the same vocabulary.

    For one vocabulary over both languages, pass the texts of both sides.

    Args:
      kind: "character", "word" or "subword".
      texts: the sentences of the training text.
      size: largest number of tokens, the four special ones included; the most frequent are kept, ties in Unicode order.
        None: no limit. A subword vocabulary needs a size; it is smaller where the text has fewer subwords.
      min_frequency: characters and words with fewer occurrences are left out; no effect on subwords.
      lowercase: lower-case all text first.
      algorithm: of subwords: "bpe" or "unigram".

    Raises:
      ValueError: an unknown kind or algorithm, a size too small, or no text at all.
      MissingExtraError: a subword vocabulary is asked for and sentencepiece is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"no vocabulary kind {kind}; expected one of {', '.join(KINDS)}")
    if min_frequency < 1:
        raise ValueError(f"min_frequency is {min_frequency}; expected at least 1")
    if size is not None and size <= len(SPECIALS):
        raise ValueError(
            f"a vocabulary of {size} tokens has room for the {len(SPECIALS)} special tokens only; raise size"
        )
    if kind == "subword":
        return _build_subword(texts, size, lowercase, algorithm)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_split(kind, normalise(text, lowercase)))
    if not counts:
        raise ValueError(
            f"no text to build the {kind} vocabulary from; expected at least one sentence that is not empty"
        )
    frequent = [token for token, count in counts.items() if count >= min_frequency]
    if not frequent:
        raise ValueError(f"no {kind} occurs {min_frequency} times; lower min_frequency")
    ordered = sorted(frequent, key=lambda token: (-counts[token], token))
    limit = None if size is None else size - len(SPECIALS)
    return Vocabulary(kind, SPECIALS + tuple(ordered[:limit]), lowercase)


def load(path: str | Path) -> Vocabulary:
    """Reads the vocabulary that `Vocabulary.save` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is no vocabulary, or was changed after it was written.
    """
    path = Path(path)
    again = "restore it, or give the run's train command again, which writes it from the same data"
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary file {path}; {again}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tokens = tuple(map(str, content["tokens"]))
        model = base64.b64decode(content["model"], validate=True)
        vocabulary = Vocabulary(str(content["kind"]), tokens, bool(content["lowercase"]), model)
        version, digest = content["format"], content["digest"]
    except KeyError as error:
        raise ValueError(f"{path} is no vocabulary file: it has no {error}; {again}") from error
    except (ValueError, TypeError, OSError, RecursionError, binascii.Error) as error:
        raise ValueError(f"{path} is no vocabulary file: {' '.join(str(error).split())}; {again}") from error
    if version != FORMAT:
        raise ValueError(f"{path} has vocabulary format {version}; expected {FORMAT}, so use the jaxai that wrote it")
    if digest != vocabulary.digest or tokens[: len(SPECIALS)] != SPECIALS or vocabulary.kind not in KINDS:
        raise ValueError(f"{path} was changed since it was written (its digest differs); {again}")
    return vocabulary


def _split(kind: str, text: str) -> Sequence[str]:
    return text.split() if kind == "word" else text


def _sentencepiece() -> Any:
    return extras.load("sentencepiece", "a subword vocabulary", "text")


def _build_subword(texts: Iterable[str], size: int | None, lowercase: bool, algorithm: str) -> Vocabulary:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"no subword algorithm {algorithm}; expected one of {', '.join(ALGORITHMS)}")
    if size is None:
        raise ValueError("a subword vocabulary needs a size, such as 8000")
    library = _sentencepiece()
    lines = [line for text in texts if (line := normalise(text.replace(RESERVED, " "), lowercase))]
    if not lines:
        raise ValueError(
            "no text to build the subword vocabulary from; expected at least one sentence that is not empty"
        )
    needed = len({*WORD_START, *"".join(lines)} - {" "}) + len(SPECIALS)
    if size < needed:
        raise ValueError(
            f"a subword vocabulary of {size} tokens cannot hold every character; expected at least {needed}"
        )
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=algorithm,
        vocab_size=size,
        # Small texts may have fewer subwords than `size`.
        hard_vocab_limit=False,
        character_coverage=1.0,
        # `normalise` has done this already; decode then inverts encode exactly.
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        pad_id=PAD,
        bos_id=BEGIN,
        eos_id=END,
        unk_id=UNKNOWN,
        pad_piece=SPECIALS[PAD],
        # Longer sentences would be left out silently.
        max_sentence_length=max(len(line.encode()) for line in lines) + 10,
        # Several threads sum in a different order each time.
        num_threads=1,
        minloglevel=2,
    )
    processor = library.SentencePieceProcessor(model_proto=model.getvalue())
    tokens = tuple(processor.id_to_piece(index) for index in range(processor.get_piece_size()))
    return Vocabulary("subword", tokens, lowercase, model.getvalue())
