"""Text in, text out: sentences in batches of a few fixed shapes through the decoder on the device."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxai.core import Key, PyTree
from jaxai.normalisation import control_characters
from jaxai.seq2seq import decode
from jaxai.seq2seq.checks import SOURCE, check_batch
from jaxai.seq2seq.decoding import Decoding, check_decoding
from jaxai.seq2seq.model import Model, Seq2Seq
from jaxai.seq2seq.vocabulary import BEGIN, END, UNKNOWN, Vocabulary

SHORTEST = 8
"""Sources are padded to this length, then to 1.5 and 2 times it and so on: few programs, little padding."""
TOKEN_CHARACTERS = 64
"""A token has fewer characters, by far: what stands behind this many times the most tokens is not even read."""
AT_ONCE = 65_536
"""Source tokens times hypotheses of a batch at most, padding included: longer sentences are translated fewer at a time,
so that memory is bounded by a single sentence's need."""
ATTENTION_STEPS = 256
"""Where attention is returned, which takes memory at every step of the target, so many steps count once."""


class Translation(NamedTuple):
    """One hypothesis for a sentence.

    Attributes:
      text: detokenized.
      score: what the search ranks by: the log probability under the length and coverage penalties.
      log_probability: sum over the tokens, in nats.
      pieces: its tokens as text, without END.
      source_pieces: those of the source, END last.
      attention: [pieces, source pieces] float32, the weights of the attention; None where there is none.
      note: what became of the source that a person should know, as that it was cut; "" where nothing did.
    """

    text: str
    score: float
    log_probability: float
    pieces: list[str]
    source_pieces: list[str]
    attention: np.ndarray | None
    note: str = ""

    def require_finite(self, where: str) -> None:
        """Refuses a translation by a model whose probabilities are not finite.

        Raises:
          FloatingPointError: one line, which begins with `where`.
        """
        if not math.isfinite(self.score):
            raise FloatingPointError(
                f"{where} was translated with the score {self.score}: the model has parameters that are not finite; "
                "take another checkpoint, or train again with a lower learning rate"
            )


class Translator:
    """Translates with one model, or with the mean of the probabilities of several (an ensemble).

    Args:
      config: of the network; the same for all models.
      params: of each model.
      source: vocabulary of what goes in.
      target: of what comes out.
      decoding: how to search; None: by the defaults.
      longest: source tokens beyond so many are cut off, END stays; 0: never.
      seed: of sampling. A sentence's draw depends on it, on the sentence and on its number among the texts, and not on
        the batch size or on the other texts.

    Attributes:
      cut: how many sources have been cut.
      longest: as given.

    Raises:
      ValueError: a field of `decoding` is out of its range.
    """

    def __init__(
        self,
        config: Model,
        params: Sequence[PyTree],
        source: Vocabulary,
        target: Vocabulary,
        decoding: Decoding | None = None,
        longest: int = 0,
        seed: int = 0,
    ):
        decoding = decoding or Decoding()
        check_decoding(decoding, config)
        self.source, self.target, self.decoding = source, target, decoding
        self.cut, self.longest = 0, longest
        self._params, self._key = tuple(params), jax.random.key(seed)
        self._config = config
        self._search = jax.jit(
            partial(_search, config, decoding), static_argnames=("max_length", "n_best", "attention")
        )

    def with_params(self, params: Sequence[PyTree]) -> "Translator":
        """The same with other parameters; nothing is compiled anew."""
        self._params = tuple(params)
        return self

    def translate(
        self, texts: Iterable[str], batch_size: int = 64, n_best: int = 1, attention: bool = False
    ) -> Iterator[list[Translation]]:
        """The `n_best` translations of each text, the best first, in the order of the texts, a batch at a time.

        Raises:
          ValueError: `n_best` is more than the search keeps.
        """
        return self._translate(enumerate(texts), batch_size, n_best, attention)

    def translate_all(
        self, texts: Sequence[str], batch_size: int = 128, n_best: int = 1, attention: bool = False
    ) -> list[list[Translation]]:
        """As `translate`, of sentences of about the same length at a time, which is faster."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[Any] = [None] * len(texts)
        results = self._translate(((i, texts[i]) for i in order), batch_size, n_best, attention)
        for place, result in zip(order, results, strict=True):
            found[place] = result
        return found

    def _translate(
        self, numbered: Iterable[tuple[int, str]], batch_size: int, n_best: int, attention: bool
    ) -> Iterator[list[Translation]]:
        """The translations of texts, each with the number that its random key follows from."""
        check_decoding(self.decoding, self._config, n_best)
        numbered = iter(numbered)
        while batch := list(itertools.islice(numbered, batch_size)):
            yield from self._batch(batch, batch_size, n_best, attention)

    def _batch(
        self, numbered: Sequence[tuple[int, str]], batch_size: int, n_best: int, attention: bool
    ) -> list[list[Translation]]:
        numbers, texts = zip(*numbered, strict=True)
        sources, notes = zip(*map(self._read, texts), strict=True)
        # Nothing has no translation.
        found = [
            [Translation("", 0.0, 0.0, [], self.source.pieces(source), None, note)] * n_best
            for source, note in zip(sources, notes, strict=True)
        ]
        left = sorted((place for place in range(len(texts)) if sources[place] != [END]), key=lambda i: len(sources[i]))
        while left:
            length = padded_length(len(sources[left[-1]]))
            rows = self._rows(length, batch_size, attention)
            left, places = left[:-rows], left[-rows:]
            decoded = self._decode(
                [sources[i] for i in places], [numbers[i] for i in places], length, rows, n_best, attention
            )
            for row, place in enumerate(places):
                source, note = sources[place], notes[place]
                found[place] = [self._translation(decoded, row, rank, source, note) for rank in range(n_best)]
        return found

    def _rows(self, length: int, batch_size: int, attention: bool) -> int:
        """Sentences of a padded length that are translated at a time."""
        hypotheses = self.decoding.beam if self.decoding.method == "beam" else 1
        steps = max(1, self._steps(length) // ATTENTION_STEPS) if attention else 1
        return max(1, min(batch_size, AT_ONCE // (length * hypotheses * steps)))

    def _steps(self, length: int) -> int:
        """Tokens that the translation of so many tokens has at most."""
        return math.ceil(self.decoding.longest_ratio * length) + self.decoding.longest_extra

    def _decode(
        self,
        sources: Sequence[Sequence[int]],
        numbers: Sequence[int],
        length: int,
        rows: int,
        n_best: int,
        attention: bool,
    ) -> decode.Decoded:
        """Searches for at most `rows` sentences as a batch of `rows`, padded to `length`; on the host."""
        tokens, lengths = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
        limits, keys = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        for row, (source, number) in enumerate(zip(sources, numbers, strict=True)):
            tokens[row, : len(source)], lengths[row] = source, len(source)
            limits[row], keys[row] = self._steps(len(source)), number
        decoded: decode.Decoded = jax.device_get(
            self._search(
                self._params,
                tokens,
                lengths,
                limits,
                self._key,
                keys,
                max_length=self._steps(length),
                n_best=n_best,
                attention=attention,
            )
        )
        return decoded

    def _read(self, text: str) -> tuple[list[int], str]:
        """The tokens of a sentence, END last, and what the network does not see of it."""
        notes, more = [], ""
        if self.longest and len(text) > self.longest * TOKEN_CHARACTERS:
            text, more = text[: self.longest * TOKEN_CHARACTERS], "more than "
        source = [*self.source.encode(text), END]
        if lost := control_characters(text):
            notes.append(f"control characters left out: {lost}")
        if unknown := source.count(UNKNOWN):
            notes.append(f"{unknown} of {len(source) - 1} tokens are not in the vocabulary")
        if self.longest and (more or len(source) > self.longest):
            self.cut += 1
            notes.append(f"cut to {min(len(source), self.longest) - 1} of {more}{len(source) - 1} tokens")
            source = [*cut(source, self.longest)]
        return source, "; ".join(notes)

    def _translation(
        self, decoded: decode.Decoded, row: int, rank: int, source: Sequence[int], note: str
    ) -> Translation:
        ids = decoded.tokens[row, rank, : decoded.lengths[row, rank]].tolist()
        weights = decoded.attention
        return Translation(
            self.target.decode(ids),
            float(decoded.scores[row, rank]),
            float(decoded.log_probability[row, rank]),
            self.target.pieces(ids),
            self.source.pieces(source),
            None if weights is None else np.asarray(weights[row, rank, : len(ids), : len(source)]),
            note,
        )


def cut(tokens: Sequence[int], longest: int) -> Sequence[int]:
    """A sequence that ends with END, cut to `longest` tokens of which the last is END still."""
    return tokens if len(tokens) <= longest else [*tokens[: longest - 1], END]


def padded_length(length: int) -> int:
    """The least of 8, 12, 16, 24, 32, 48, ... that is not below `length`."""
    size = SHORTEST
    while size < length:
        if size * 3 // 2 >= length:
            return size * 3 // 2
        size *= 2
    return size


def _search(
    config: Model,
    decoding: Decoding,
    params: Sequence[PyTree],
    tokens: jax.Array,
    lengths: jax.Array,
    limits: jax.Array,
    key: Key,
    sentences: jax.Array,
    *,
    max_length: int,
    n_best: int,
    attention: bool,
) -> decode.Decoded:
    """Searches for the targets of a batch: tokens [batch, S], lengths, limits and sentence numbers [batch]."""
    step, state = make_step(config, params, tokens, lengths)
    common: dict[str, Any] = {
        "batch": len(tokens),
        "max_length": max_length,
        "begin": BEGIN,
        "end": END,
        "limits": limits,
        "length_penalty": decoding.length_penalty,
        "attention": attention and config.attention != "none",
    }
    if decoding.method == "beam":
        return decode.beam_search(
            step,
            state,
            beam=decoding.beam,
            coverage_penalty=decoding.coverage_penalty,
            source_mask=jnp.arange(tokens.shape[1]) < lengths[:, None],
            n_best=n_best,
            **common,
        )
    if decoding.method == "greedy":
        return decode.greedy(step, state, **common)
    return decode.sample(
        step,
        state,
        jax.vmap(jax.random.fold_in, (None, 0))(key, sentences),
        temperature=decoding.temperature,
        top_k=decoding.top_k,
        top_p=decoding.top_p,
        **common,
    )


def make_step(config: Model, params: Sequence[PyTree], source: jax.Array, lengths: jax.Array) -> tuple[Any, PyTree]:
    """The step function of `jaxai.seq2seq.decode` for these sources, of one model or of several, and its first state.

    Args:
      config: of the network.
      params: of each model.
      source: [batch, S] int32, each ended by END and padded with 0.
      lengths: [batch] int32, END included.

    Raises:
      ValueError: the arrays have other shapes or dtypes.
    """
    check_batch({"source": source, "source_length": lengths}, SOURCE)
    network = Seq2Seq(config)
    steps, states = [], []
    for each in params:
        memory, state = network.apply({"params": each}, source, lengths, method="encode")

        def step(tokens: jax.Array, state: PyTree, params: PyTree = each, memory: PyTree = memory) -> Any:
            return network.apply({"params": params}, tokens, state, memory, method="step")

        steps.append(step)
        states.append(state)
    if len(steps) == 1:
        return steps[0], states[0]
    return decode.ensemble(steps), tuple(states)
