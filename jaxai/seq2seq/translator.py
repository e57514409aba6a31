"""Text in, text out: sentences in batches of a few fixed shapes through the decoder on the device."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxai import ranges
from jaxai.core import Key, PyTree
from jaxai.ranges import Count, Natural, NonNegative, Positive, Range
from jaxai.seq2seq import decode
from jaxai.seq2seq.model import Model, Seq2Seq
from jaxai.seq2seq.vocabulary import BEGIN, END, UNKNOWN, Vocabulary

Method = Literal["beam", "greedy", "sample"]
TopP = Annotated[float, Range(above=0, most=1)]
SHORTEST = 8
"""Sources are padded to this length, then to 1.5 and 2 times it and so on: few programs, little padding."""


@dataclass(frozen=True)
class Decoding:
    """How the target is searched for."""

    method: Method = "beam"  # beam, greedy, or sample
    beam: Count = 4  # hypotheses that the beam search goes on with
    length_penalty: NonNegative = 0.6  # exponent of the length that scores are divided by (Wu et al. 2016); 0: none
    coverage_penalty: NonNegative = 0.0  # weight of source tokens that nothing attended to (Wu et al. 2016); 0: none
    temperature: Positive = 1.0  # of sampling; below 1 takes likely tokens more often
    top_k: Natural = 0  # sampling takes one of so many of the likeliest tokens; 0: of all
    top_p: TopP = 1.0  # sampling takes one of the likeliest tokens that have this probability together; 1: of all
    longest_ratio: NonNegative = 2.0  # a translation has at most so many tokens for each of its source,
    longest_extra: Count = 10  # and so many more


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


class Translator:
    """Translates with one model, or with the mean of the probabilities of several (an ensemble).

    Args:
      config: of the network; the same for all models.
      params: of each model.
      source: vocabulary of what goes in.
      target: of what comes out.
      decoding: how to search.
      longest: source tokens beyond so many are cut off, END stays; 0: never.
      seed: of sampling. A sentence's draw depends on it and on the sentence's number alone.

    Attributes:
      cut: how many sources have been cut.

    Raises:
      ValueError: a field of `decoding` is out of its range.
    """

    def __init__(
        self,
        config: Model,
        params: Sequence[PyTree],
        source: Vocabulary,
        target: Vocabulary,
        decoding: Decoding = Decoding(),  # frozen
        longest: int = 0,
        seed: int = 0,
    ):
        ranges.check(decoding, "decoding.")
        self.source, self.target, self.decoding = source, target, decoding
        self.cut = 0
        self._params, self._longest, self._key = tuple(params), longest, jax.random.key(seed)
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
        """The `n_best` translations of each text, the best first, in the order of the texts, a batch at a time."""
        batch: list[str] = []
        number = 0
        for text in texts:
            batch.append(text)
            if len(batch) == batch_size:
                yield from self._batch(batch, number, batch_size, n_best, attention)
                number += len(batch)
                batch = []
        if batch:
            yield from self._batch(batch, number, batch_size, n_best, attention)

    def translate_all(
        self, texts: Sequence[str], batch_size: int = 128, n_best: int = 1, attention: bool = False
    ) -> list[list[Translation]]:
        """As `translate`, of sentences of about the same length at a time, which is faster."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[Any] = [None] * len(texts)
        results = self.translate((texts[i] for i in order), batch_size, n_best, attention)
        for place, result in zip(order, results, strict=True):
            found[place] = result
        return found

    def _batch(
        self, texts: Sequence[str], first: int, rows: int, n_best: int, attention: bool
    ) -> Iterator[list[Translation]]:
        sources = [[*self.source.encode(text), END] for text in texts]
        notes = [self._note(source) for source in sources]
        if self._longest:
            self.cut += sum(len(source) > self._longest for source in sources)
            sources = [[*cut(source, self._longest)] for source in sources]
        length = padded_length(max(map(len, sources)))
        tokens, lengths = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
        for row, source in enumerate(sources):
            tokens[row, : len(source)], lengths[row] = source, len(source)
        decoding = self.decoding
        limits = np.ceil(decoding.longest_ratio * lengths).astype(np.int32) + decoding.longest_extra
        limits[len(sources) :] = 0
        decoded = jax.device_get(
            self._search(
                self._params,
                tokens,
                lengths,
                limits,
                self._key,
                np.arange(first, first + rows, dtype=np.int32),
                max_length=int(np.ceil(decoding.longest_ratio * length)) + decoding.longest_extra,
                n_best=n_best,
                attention=attention,
            )
        )
        for row, (source, note) in enumerate(zip(sources, notes, strict=True)):
            if source == [END]:  # nothing has no translation
                yield [Translation("", 0.0, 0.0, [], self.source.pieces(source), None)] * n_best
            else:
                yield [self._translation(decoded, row, rank, source, note) for rank in range(n_best)]

    def _note(self, source: Sequence[int]) -> str:
        """What the network does not see of a sentence."""
        notes = []
        if unknown := source.count(UNKNOWN):
            notes.append(f"{unknown} of {len(source) - 1} tokens are not in the vocabulary")
        if self._longest and len(source) > self._longest:
            notes.append(f"cut to {self._longest - 1} of {len(source) - 1} tokens")
        return "; ".join(notes)

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
    if n_best > 1:
        raise ValueError(f"n_best is {n_best}, but {decoding.method} finds one translation; take decoding.method beam")
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
    """
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
