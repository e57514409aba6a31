"""Text in, text out: sentences in batches of a few fixed shapes through the decoder on the device."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxai.core import Key, PyTree
from jaxai.normalisation import control_characters
from jaxai.seq2seq import decode
from jaxai.seq2seq.checks import SOURCE, check_batch, check_sequences
from jaxai.seq2seq.decoding import Decoding, check_decoding
from jaxai.seq2seq.model import Model, own_or_built
from jaxai.seq2seq.vocabulary import BEGIN, END, UNKNOWN, Vocabulary

__all__ = ["Translation", "Translator", "cut", "make_step", "padded_length"]

SHORTEST = 8
"""Sources are padded to this length, to 1.5 and 2 times it, and so on: few programs and little padding."""
TOKEN_CHARACTERS = 64
"""Upper bound on the characters of a token: text beyond `longest` times this number is not read."""
AT_ONCE = 65_536
"""Upper bound on source tokens times hypotheses in a batch, padding included. Longer sentences are translated in
smaller batches, so that memory is bounded by the need of a single sentence."""
ATTENTION_STEPS = 256
"""Returned attention takes memory at every target step: this number of steps counts as one more batch."""


class Translation(NamedTuple):
    """One hypothesis for a sentence.

    Attributes:
      text: detokenized.
      score: the log probability with length and coverage penalties, by which hypotheses are ranked.
      log_probability: sum over the tokens, in nats.
      pieces: its tokens as text, without END.
      source_pieces: the tokens of the source as text, END last.
      attention: [pieces, source pieces] float32, the attention weights; None if there are none.
      note: a remark on the source, for example that it was cut; "" for none.
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

        Args:
          where: what was translated, as "line 7"; the message begins with it.

        Raises:
          FloatingPointError: the score is not finite.
        """
        if not math.isfinite(self.score):
            raise FloatingPointError(
                f"{where} was translated with the score {self.score}: the model has parameters that are not finite; "
                "take another checkpoint, or train again with a lower learning rate"
            )


class Translator:
    """Translates with one model, or with the mean of the probabilities of several models (an ensemble).

    Args:
      config: of the network; the same for all models.
      params: of each model, its parameters, or its variables (`seq2seq.variables(state)`) where the network has other
        collections.
      source: the source's vocabulary.
      target: the target's vocabulary.
      decoding: how to search; None: the defaults.
      longest: largest number of source tokens, END included; longer sources are cut. 0: no limit.
      seed: of sampling. A sentence's sample depends on the seed, on the sentence and on its number among the texts, and
        not on the batch size or on the other texts.
      network: one of your own, as `seq2seq.make` takes it; None: `build(config)`.

    Attributes:
      cut: number of sources that were cut.
      longest: as given.

    Raises:
      ValueError: a field of `decoding` is out of its range, or the network cannot decode.
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
        *,
        network: nn.Module | None = None,
    ):
        decoding = decoding or Decoding()
        # The config does not describe a user's network; its vocabulary is known, and the search checks its attention.
        config = config if network is None else Model(target_vocabulary=len(target))
        network = own_or_built(config, network, decodes=True)
        check_decoding(decoding, config)
        self.source, self.target, self.decoding = source, target, decoding
        self.cut, self.longest = 0, longest
        self._params, self._key = tuple(params), jax.random.key(seed)
        self._config = config
        self._search = jax.jit(
            partial(_search, network, decoding), static_argnames=("max_length", "n_best", "attention")
        )

    def with_params(self, params: Sequence[PyTree]) -> "Translator":
        """This translator with other parameters; nothing is compiled again."""
        self._params = tuple(params)
        return self

    def translate(
        self, texts: Iterable[str], batch_size: int = 64, n_best: int = 1, attention: bool = False
    ) -> Iterator[list[Translation]]:
        """The `n_best` translations of each text, the best first, in the order of the texts.

        Args:
          texts: sentences; one batch is read at a time.
          batch_size: sentences that are translated together.
          n_best: translations of each sentence.
          attention: return the attention weights too.

        Raises:
          ValueError: `n_best` is more than the search keeps.
        """
        return self._translate(enumerate(texts), batch_size, n_best, attention)

    def translate_all(
        self, texts: Sequence[str], batch_size: int = 128, n_best: int = 1, attention: bool = False
    ) -> list[list[Translation]]:
        """As `translate`, but with sentences of similar length in a batch, which is faster.

        Args:
          texts: sentences.
          batch_size: number of sentences that are translated together.
          n_best: number of translations of each sentence.
          attention: return the attention weights too.

        Returns:
          The translations of each text, in the order of the texts.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[Any] = [None] * len(texts)
        results = self._translate(((i, texts[i]) for i in order), batch_size, n_best, attention)
        for place, result in zip(order, results, strict=True):
            found[place] = result
        return found

    def _translate(
        self, numbered: Iterable[tuple[int, str]], batch_size: int, n_best: int, attention: bool
    ) -> Iterator[list[Translation]]:
        """Translates numbered texts; the random key of a text is derived from its number."""
        check_decoding(self.decoding, self._config, n_best)
        numbered = iter(numbered)
        while batch := list(itertools.islice(numbered, batch_size)):
            yield from self._batch(batch, batch_size, n_best, attention)

    def _batch(
        self, numbered: Sequence[tuple[int, str]], batch_size: int, n_best: int, attention: bool
    ) -> list[list[Translation]]:
        numbers, texts = zip(*numbered, strict=True)
        sources, notes = zip(*map(self._read, texts), strict=True)
        # A source without text has no translation.
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
        """Number of sentences of a padded length that are translated together."""
        hypotheses = self.decoding.beam if self.decoding.method == "beam" else 1
        steps = max(1, self._steps(length) // ATTENTION_STEPS) if attention else 1
        return max(1, min(batch_size, AT_ONCE // (length * hypotheses * steps)))

    def _steps(self, length: int) -> int:
        """Largest number of tokens in the translation of a source with this number of tokens."""
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
        """The tokens of a sentence, END last, and a note on what is left out."""
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
    """A sequence that ends with END, cut to `longest` tokens; the last one is still END."""
    return tokens if len(tokens) <= longest else [*tokens[: longest - 1], END]


def padded_length(length: int) -> int:
    """The smallest of 8, 12, 16, 24, 32, 48, ... that is at least `length`."""
    size = SHORTEST
    while size < length:
        if size * 3 // 2 >= length:
            return size * 3 // 2
        size *= 2
    return size


def _search(
    network: nn.Module,
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
    step, state = _make_step(network, params, tokens, lengths)
    common: dict[str, Any] = {
        "batch": tokens.shape[0],
        "max_length": max_length,
        "begin": BEGIN,
        "end": END,
        "limits": limits,
        "length_penalty": decoding.length_penalty,
        "attention": attention,
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


def make_step(
    config: Model,
    params: Sequence[PyTree],
    source: jax.Array | np.ndarray,
    lengths: jax.Array | np.ndarray,
    *,
    network: nn.Module | None = None,
) -> tuple[decode.Step, PyTree]:
    """The step function that `jaxai.seq2seq.decode` searches with, of one model or of an ensemble, and its first state.

    Args:
      config: of the network.
      params: of each model, its parameters, or its variables (`seq2seq.variables(state)`) where the network has other
        collections.
      source: [batch, S] integers, each row ended by END and padded with PAD.
      lengths: [batch] integers, END included.
      network: one of your own, as `seq2seq.make` takes it; None: `build(config)`.

    Raises:
      ValueError: the arrays have other shapes or dtypes, NumPy arrays have a row that does not end with END, there is
        no model, or the network has no method `encode` or `step`.
    """
    return _make_step(own_or_built(config, network, decodes=True), params, source, lengths)


def _make_step(
    network: nn.Module, params: Sequence[PyTree], source: jax.Array | np.ndarray, lengths: jax.Array | np.ndarray
) -> tuple[decode.Step, PyTree]:
    check_batch({"source": source, "source_length": lengths}, SOURCE)
    if isinstance(source, np.ndarray) and isinstance(lengths, np.ndarray):
        check_sequences("source", source, lengths)
    # A module of nnx, bridged to linen, takes the name of its method as an argument.
    keyword, apply = "nnx_method" if hasattr(network, "nnx_class") else "method", cast(Any, network.apply)
    encode, decode_step = (partial(apply, **{keyword: method}) for method in ("encode", "step"))
    steps, states = [], []
    for each in params:
        # A module cannot be called "params", so that this key is a collection's name.
        variables = each if isinstance(each, Mapping) and "params" in each else {"params": each}
        memory, state = encode(variables, source, lengths)

        def step(tokens: jax.Array, state: PyTree, variables: PyTree = variables, memory: PyTree = memory) -> Any:
            return decode_step(variables, tokens, state, memory)

        steps.append(step)
        states.append(state)
    if len(steps) == 1:
        return steps[0], states[0]
    return decode.ensemble(steps), tuple(states)
