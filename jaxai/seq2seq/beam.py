"""Beam search over any step function, entirely on the device.

Live hypotheses of the same length are ranked by their log probability. A candidate that is the end token, or that
reaches its sentence's limit, leaves the beam; it is kept if it is among the `n_best` finished hypotheses by the score
of Wu et al. 2016 (arXiv:1609.08144, equation 14). The search of a sentence stops when no live hypothesis can reach a
score above the worst kept one, so that stopping early never changes the result. Histories are not copied: each step
stores one integer for each hypothesis (its parent and its token), and the kept hypotheses are read back at the end.
"""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxai.core import PyTree
from jaxai.seq2seq.checks import check_first_state, check_step

__all__ = ["Decoded", "Step", "beam_search", "best_continuations", "largest"]

_LEAST_COVERAGE = 1e-9  # a source position without attention gets a finite penalty


class Step(Protocol):
    """One step of a decoder.

    It takes tokens [batch, beam] int32, the last of each hypothesis, and the state, with leaves [batch, beam, ...]. It
    returns logits [batch, beam, vocabulary], the next state, and attention [batch, beam, source] or None. A token with
    the logit -inf is never chosen; at least one token of a row must have another.
    """

    def __call__(self, tokens: Array, state: PyTree, /) -> tuple[Array, PyTree, Array | None]:
        """The logits of the tokens after `tokens`."""


class Decoded(NamedTuple):
    """The hypotheses of each sentence, best first, without the begin token and the end token.

    A hypothesis was cut at its limit if and only if its length equals the limit. Missing hypotheses of a sentence are
    empty, with the score -inf.
    """

    tokens: Array  # [batch, n_best, max_length] int32, 0 from `lengths` on
    lengths: Array  # [batch, n_best] int32, without the end token
    scores: Array  # [batch, n_best] float32, by which they are ranked: with length and coverage penalty
    log_probability: Array  # [batch, n_best] float32, the sum over the tokens and the end token
    attention: Array | None  # [batch, n_best, max_length, source], the end token's row included; 0 after it


def length_penalty_of(length: Array, length_penalty: float) -> Array:
    """`((5 + length) / 6) ** length_penalty` of equation 14; `length` counts the end token."""
    return ((5.0 + length) / 6.0) ** length_penalty


def starting_limits(limits: Array | None, batch: int, max_length: int) -> Array:
    """The largest number of tokens of each sentence, at most `max_length`: [batch] int32.

    Args:
      limits: [batch] integers, the end token included; None: `max_length` for all.
      batch: number of sentences, at least 1.
      max_length: at least 1.

    Raises:
      ValueError: `batch` or `max_length` is below 1, or `limits` has another shape or dtype.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}, expected at least 1 sentence")
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}, expected at least 1: a sentence needs room for its end token")
    if limits is None:
        return jnp.full(batch, max_length, jnp.int32)
    if jnp.shape(limits) != (batch,):
        raise ValueError(f"limits has shape {jnp.shape(limits)}, expected ({batch},): one number for each sentence")
    if not jnp.issubdtype(jnp.result_type(limits), jnp.integer):
        raise ValueError(f"limits has dtype {jnp.result_type(limits)}, expected integers: take limits.astype('int32')")
    return jnp.minimum(limits, max_length).astype(jnp.int32)


def check_beam(
    beam: int, n_best: int, length_penalty: float, coverage_penalty: float, vocabulary: int | None = None
) -> None:
    """Refuses numbers that `beam_search` cannot use.

    Args:
      beam: number of live hypotheses, 1 to `vocabulary`.
      n_best: number of returned hypotheses, 1 to `beam`.
      length_penalty: 0 or more, finite.
      coverage_penalty: 0 or more, finite.
      vocabulary: its size; None: not known yet.

    Raises:
      ValueError: a number is out of its range; the line begins with its name.
    """
    if beam < 1:
        raise ValueError(f"beam is {beam}, expected at least 1 live hypothesis; 1 is greedy search")
    if not 1 <= n_best <= beam:
        raise ValueError(f"n_best is {n_best}, expected 1 to {beam}: a beam of {beam} keeps no more, widen it")
    if vocabulary is not None and beam > vocabulary:
        raise ValueError(f"beam is {beam}, expected at most {vocabulary}, the vocabulary's size: narrow it")
    check_length_penalty(length_penalty)
    if not 0 <= coverage_penalty < math.inf:
        raise ValueError(f"coverage_penalty is {coverage_penalty}, expected at least 0 and finite; 0 switches it off")


def check_length_penalty(length_penalty: float) -> None:
    """Refuses a length penalty that is negative or not finite.

    Raises:
      ValueError: it is negative or not finite.
    """
    if not 0 <= length_penalty < math.inf:
        raise ValueError(f"length_penalty is {length_penalty}, expected at least 0 and finite; 0 switches it off")


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest of values [batch, width] in decreasing order, and their indices; ties by the lower index."""
    if count > 1:
        # XLA's CPU kernel needs a matrix and a count above 1; otherwise XLA sorts, which is 30 times slower.
        return lax.top_k(values, count)
    best = jnp.max(values, 1, keepdims=True)
    places = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    return best, jnp.min(jnp.where(values == best, places, values.shape[1] - 1), 1, keepdims=True)


def best_continuations(logits: Array, log_probability: Array, count: int) -> tuple[Array, Array]:
    """The `count` most probable hypotheses that are one token longer.

    Args:
        logits: [batch, beam, vocabulary].
        log_probability: [batch, beam] of the hypotheses so far.
        count: number of continuations.

    Returns:
        Log probabilities [batch, count], decreasing, and [batch, count] int32 `beam index * vocabulary + token`.
    """
    batch, beam, vocabulary = logits.shape
    logits = logits.astype(jnp.float32)
    # The best are in the blocks with the largest maxima: the wide array is read twice, and never written or sorted. On
    # CPU this is 2 to 7 times as fast as top_k over all, and not slower for one sentence.
    size = 8 if vocabulary < 2048 else 64
    blocks = -(-vocabulary // size)
    wide = jnp.pad(logits, ((0, 0), (0, 0), (0, blocks * size - vocabulary)), constant_values=-jnp.inf)
    wide = wide.reshape(batch, beam, blocks, size)
    maxima = jnp.max(wide, 3)
    top = jnp.max(maxima, 2)
    normalizer = top + jnp.log(jnp.sum(jnp.exp(logits - top[..., None]), 2))
    offset = log_probability - normalizer
    chosen = largest((maxima + offset[..., None]).reshape(batch, beam * blocks), count)[1]
    inside = jnp.take_along_axis(wide.reshape(batch, beam * blocks, size), chosen[..., None], 1)
    inside += jnp.take_along_axis(offset, chosen // blocks, 1)[..., None]
    values, places = largest(inside.reshape(batch, count * size), count)
    block = jnp.take_along_axis(chosen, places // size, 1)
    # Padding is chosen only where too few candidates are left, and must not index a hypothesis that does not exist.
    token = jnp.minimum(block % blocks * size + places % size, vocabulary - 1)
    return values, block // blocks * vocabulary + token


def _follow(leaf: Array, parents: Array) -> Array:
    """The rows of leaf [batch, beam, ...] at the indices parents [batch, beam]."""
    return jnp.take_along_axis(leaf, parents.reshape(parents.shape + (1,) * (leaf.ndim - 2)), 1)


class _Finished(NamedTuple):
    """The best finished hypotheses of each sentence, [batch, n_best], best first."""

    scores: Array  # -inf for a missing hypothesis
    log_probability: Array
    at: Array  # int32: step * beam + beam index of its last token


class _Search(NamedTuple):
    """The state of the search between two steps."""

    time: Array
    tokens: Array  # [batch, beam]
    state: PyTree
    log_probability: Array  # [batch, beam], -inf without a live hypothesis
    history: Array  # [max_length, batch, beam] int32: parent * vocabulary + token
    finished: _Finished
    coverage: Array | None  # [batch, beam, source], the sum of the attention so far
    attention: Array | None  # [max_length, batch, beam, source], by parent


def beam_search(
    step: Step,
    state: PyTree,
    *,
    batch: int,
    beam: int,
    max_length: int,
    begin: int,
    end: int,
    length_penalty: float = 0.6,
    coverage_penalty: float = 0.0,
    n_best: int = 1,
    limits: Array | None = None,
    source_mask: Array | None = None,
    attention: bool = False,
) -> Decoded:
    """The `n_best` hypotheses of each sentence by beam search.

    A finished hypothesis Y has the score `log P(Y) / ((5 + |Y|) / 6) ** length_penalty + coverage_penalty * sum over
    source positions of log(min(attention received, 1))`, where `|Y|` counts its tokens and the end token (Wu et al.
    2016, arXiv:1609.08144, equation 14). Sentences are independent: a result depends neither on the other sentences nor
    on the size of the batch nor, for a sentence with a limit, on `max_length`. A beam of 1 is greedy search.

    Args:
        step: one step of the decoder, see `Step`.
        state: its first state, leaves [batch, 1, ...]. Arrays that all hypotheses share, such as the encoder's output,
            belong in the closure of `step` instead, so that they are never tiled.
        batch: number of sentences.
        beam: number of live hypotheses.
        max_length: largest number of tokens of a hypothesis, the end token included.
        begin: the first input token.
        end: token that ends a hypothesis; -1 for none: every hypothesis then has the length of its limit.
        length_penalty: at least 0; larger values prefer longer hypotheses; 0: none. A Python number.
        coverage_penalty: at least 0; larger values prefer hypotheses that attend to more of the source; 0: none. A
            Python number.
        n_best: number of hypotheses returned.
        limits: [batch] int32, largest number of tokens for each sentence, the end token included. A hypothesis that
            reaches it is cut there and ranked by its score so far. A sentence with the limit 0 has no hypothesis.
        source_mask: [batch, source] bool, true for real source positions; needed by the coverage penalty.
        attention: return the attention too, if `step` returns it.

    Raises:
        ValueError: a number is out of its range, an array or a result of the step has another shape or dtype, or the
            coverage penalty lacks attention or mask.
    """
    limits = starting_limits(limits, batch, max_length)
    check_first_state(state, batch)
    check_beam(beam, n_best, length_penalty, coverage_penalty)
    tokens = jnp.full((batch, beam), begin, jnp.int32)
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, beam, *leaf.shape[2:])), state)
    vocabulary, source = check_step(step, tokens, state, begin, end)
    check_beam(beam, n_best, length_penalty, coverage_penalty, vocabulary)
    if coverage_penalty and (source is None or source_mask is None):
        raise ValueError(f"coverage_penalty is {coverage_penalty}, but needs attention and source_mask: set it to 0")
    if (
        source_mask is not None
        and source is not None
        and (source_mask.shape != (batch, source) or source_mask.dtype != jnp.bool)
    ):
        raise ValueError(
            f"source_mask is {source_mask.dtype}{list(source_mask.shape)}, expected bool[{batch}, {source}], true where"
            " the source is real"
        )
    rows = None if source is None else (batch, beam, source)
    # The log probability only decreases, so that the largest divisor bounds the score that a hypothesis can reach.
    divisor = length_penalty_of(limits, length_penalty)

    def advance(search: _Search) -> _Search:
        time = search.time
        logits, state, weights = step(search.tokens, search.state)
        log_probability, chosen = best_continuations(logits, search.log_probability, beam)
        parents, tokens = chosen // vocabulary, chosen % vocabulary
        length = time + 1
        scores = log_probability / length_penalty_of(length, length_penalty)
        coverage = search.coverage
        if coverage is not None and weights is not None and source_mask is not None:
            coverage = coverage + weights
            received = jnp.log(jnp.clip(coverage, _LEAST_COVERAGE, 1.0))
            penalty = jnp.sum(jnp.where(source_mask[:, None], received, 0.0), 2)
            scores += coverage_penalty * jnp.take_along_axis(penalty, parents, 1)
            coverage = _follow(coverage, parents)
        ended = (tokens == end) | (length >= limits)[:, None]
        finished = _keep_best(search.finished, jnp.where(ended, scores, -jnp.inf), log_probability, time * beam)
        alive = jnp.where(ended, -jnp.inf, log_probability)
        hopeless = jnp.max(alive, 1) / divisor <= finished.scores[:, -1]
        state = state if beam == 1 else jax.tree.map(lambda leaf: _follow(leaf, parents), state)
        history = search.history.at[time].set(chosen)
        rows = None if search.attention is None else search.attention.at[time].set(weights)
        alive = jnp.where(hopeless[:, None], -jnp.inf, alive)
        return _Search(length, tokens, state, alive, history, finished, coverage, rows)

    first = jnp.where((jnp.arange(beam) == 0) & (limits > 0)[:, None], 0.0, -jnp.inf)
    nothing = jnp.full((batch, n_best), -jnp.inf)
    search = lax.while_loop(
        lambda search: (search.time < max_length) & jnp.any(search.log_probability > -jnp.inf),
        advance,
        _Search(
            time=jnp.int32(0),
            tokens=tokens,
            state=state,
            log_probability=first,
            history=jnp.zeros((max_length, batch, beam), jnp.int32),
            finished=_Finished(nothing, nothing, jnp.full((batch, n_best), -1, jnp.int32)),
            coverage=jnp.zeros(rows) if rows and coverage_penalty else None,
            attention=jnp.zeros((max_length, *rows)) if rows and attention else None,
        ),
    )
    return _read_out(search, vocabulary, end)


def _keep_best(finished: _Finished, scores: Array, log_probability: Array, first: Array) -> _Finished:
    """The best of the kept hypotheses and of the candidates [batch, beam], whose indices start at `first`."""
    n_best = finished.scores.shape[1]
    at = jnp.broadcast_to(first + jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
    best, places = largest(jnp.concatenate([finished.scores, scores], 1), n_best)
    log_probability = jnp.concatenate([finished.log_probability, log_probability], 1)
    at = jnp.concatenate([finished.at, at], 1)
    return _Finished(best, jnp.take_along_axis(log_probability, places, 1), jnp.take_along_axis(at, places, 1))


def _read_out(search: _Search, vocabulary: int, end: int) -> Decoded:
    """Follows the finished hypotheses from their last token back to their first one."""
    finished = search.finished
    max_length, batch, beam = search.history.shape
    last = finished.at // beam  # -1 for a missing hypothesis
    n_best = last.shape[1]

    def back(carry: tuple[Array, Array, Array | None, Array]) -> tuple[Array, Array, Array | None, Array]:
        time, slots, rows, tokens = carry
        inside = time <= last
        chosen = jnp.take_along_axis(search.history[time], slots, 1)
        parents = chosen // vocabulary
        tokens = tokens.at[time].set(jnp.where(inside, chosen % vocabulary, 0))
        if rows is not None and search.attention is not None:
            row = _follow(search.attention[time], parents)
            rows = rows.at[time].set(jnp.where(inside[..., None], row, 0.0))
        return time - 1, jnp.where(inside, parents, slots), rows, tokens

    rows = None
    if search.attention is not None:
        rows = jnp.zeros((max_length, batch, n_best, search.attention.shape[-1]))
    tokens = jnp.zeros((max_length, batch, n_best), jnp.int32)
    start = (search.time - 1, finished.at % beam, rows, tokens)
    _, _, rows, tokens = lax.while_loop(lambda carry: carry[0] >= 0, back, start)
    tokens = jnp.transpose(tokens, (1, 2, 0))
    ended = jnp.take_along_axis(tokens, jnp.maximum(last, 0)[..., None], 2)[..., 0] == end
    lengths = last + 1 - (ended & (last >= 0))
    return Decoded(
        tokens=jnp.where(jnp.arange(max_length) < lengths[..., None], tokens, 0),
        lengths=lengths,
        scores=finished.scores,
        log_probability=finished.log_probability,
        attention=None if rows is None else jnp.transpose(rows, (1, 2, 0, 3)),
    )
