"""Greedy search, sampling and beam search over any step function, jittable and entirely on the device.

A step function takes tokens [batch, beam] and a state with leaves [batch, beam, ...], and returns logits, the next
state and attention; see `Step`. `ensemble` combines step functions, `average` averages the parameters of checkpoints.

>>> import jax.numpy as jnp
>>> def counts(tokens, state):  # the next token is the last one plus 1, and after 5 comes END, which is 2
...     following = jnp.where(tokens == 1, 3, jnp.where(tokens == 5, 2, tokens + 1))
...     return jnp.where(jnp.arange(6) == following[..., None], 0.0, -9.0), state, None
>>> greedy(counts, (), batch=1, max_length=8, begin=1, end=2).tokens.tolist()
[[[3, 4, 5, 0, 0, 0, 0, 0]]]
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxai.core import PyTree
from jaxai.seq2seq.beam import (
    Decoded,
    Step,
    beam_search,
    best_continuations,
    check_length_penalty,
    largest,
    length_penalty_of,
    starting_limits,
)
from jaxai.seq2seq.checks import check_first_state, check_step

__all__ = ["Decoded", "Step", "average", "beam_search", "ensemble", "greedy", "sample"]

# (logits [batch, 1, vocabulary], step number) -> log probability [batch], token [batch] int32
Choose = Callable[[Array, Array], tuple[Array, Array]]
LOWEST_TEMPERATURE = 1e-30
"""Lower values would be 0 in float32; sampling is greedy at much higher temperatures already."""


class _Walk(NamedTuple):
    """The state of greedy search or sampling between two steps."""

    time: Array
    tokens: Array  # [batch], the last ones
    state: PyTree
    log_probability: Array  # [batch]
    history: Array  # [max_length, batch]
    lengths: Array  # [batch], without the end token
    counted: Array  # [batch], with it
    done: Array  # [batch] bool
    attention: Array | None  # [max_length, batch, source]


def _walk(
    choose: Choose,
    step: Step,
    state: PyTree,
    batch: int,
    max_length: int,
    begin: int,
    end: int,
    limits: Array | None,
    length_penalty: float,
    with_attention: bool,
) -> Decoded:
    """Chooses one token at a time until every sentence has its end token or its limit."""
    limits = starting_limits(limits, batch, max_length)
    check_length_penalty(length_penalty)
    check_first_state(state, batch)
    tokens = jnp.full(batch, begin, jnp.int32)
    source = check_step(step, tokens[:, None], state, begin, end)[1]
    rows = jnp.zeros((max_length, batch, source)) if with_attention and source is not None else None

    def advance(walk: _Walk) -> _Walk:
        time, going = walk.time, ~walk.done
        logits, state, attention = step(walk.tokens[:, None], walk.state)
        log_probability, tokens = choose(logits, time)
        word = going & (tokens != end)
        rows = walk.attention
        if rows is not None and attention is not None:
            rows = rows.at[time].set(jnp.where(going[:, None], attention[:, 0], 0.0))
        return _Walk(
            time=time + 1,
            tokens=tokens,
            state=state,
            log_probability=walk.log_probability + jnp.where(going, log_probability, 0.0),
            history=walk.history.at[time].set(jnp.where(word, tokens, 0)),
            lengths=walk.lengths + word,
            counted=walk.counted + going,
            done=~word | (time + 1 >= limits),
            attention=rows,
        )

    walk = lax.while_loop(
        lambda walk: (walk.time < max_length) & ~jnp.all(walk.done),
        advance,
        _Walk(
            time=jnp.int32(0),
            tokens=tokens,
            state=state,
            log_probability=jnp.zeros(batch),
            history=jnp.zeros((max_length, batch), jnp.int32),
            lengths=jnp.zeros(batch, jnp.int32),
            counted=jnp.zeros(batch, jnp.int32),
            done=limits <= 0,
            attention=rows,
        ),
    )
    log_probability = jnp.where(limits > 0, walk.log_probability, -jnp.inf)
    return Decoded(
        tokens=walk.history.T[:, None],
        lengths=walk.lengths[:, None],
        scores=(log_probability / length_penalty_of(walk.counted, length_penalty))[:, None],
        log_probability=log_probability[:, None],
        attention=None if walk.attention is None else jnp.swapaxes(walk.attention, 0, 1)[:, None],
    )


def greedy(
    step: Step,
    state: PyTree,
    *,
    batch: int,
    max_length: int,
    begin: int,
    end: int,
    limits: Array | None = None,
    length_penalty: float = 0.6,
    attention: bool = False,
) -> Decoded:
    """Chooses the most probable token at each step; one hypothesis for each sentence.

    Args:
        step: one step of the decoder, see `Step`.
        state: its first state, leaves [batch, 1, ...].
        batch: number of sentences.
        max_length: largest number of tokens of a hypothesis, the end token included.
        begin: the first input token.
        end: token that ends a hypothesis; -1 for none.
        limits: [batch] int32, largest number of tokens for each sentence, the end token included.
        length_penalty: for the scores; see `beam_search`.
        attention: return the attention too, if `step` returns it.

    Raises:
        ValueError: a number is out of its range, or an array or a result of the step has another shape or dtype.
    """

    def choose(logits: Array, time: Array) -> tuple[Array, Array]:
        log_probability, token = best_continuations(logits, jnp.zeros((batch, 1)), 1)
        return log_probability[:, 0], token[:, 0]

    return _walk(choose, step, state, batch, max_length, begin, end, limits, length_penalty, attention)


def sample(
    step: Step,
    state: PyTree,
    keys: Array,
    *,
    batch: int,
    max_length: int,
    begin: int,
    end: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    limits: Array | None = None,
    length_penalty: float = 0.6,
    attention: bool = False,
) -> Decoded:
    """Draws one random hypothesis for each sentence.

    The temperature is applied first, then `top_k`, then `top_p` to the remaining probability. `scores` and
    `log_probability` are the model's, without any of the three.

    Args:
        step: one step of the decoder, see `Step`.
        state: its first state, leaves [batch, 1, ...].
        keys: [batch] random keys, one for each sentence, such as `jax.vmap(jax.random.fold_in, (None, 0))(key,
            numbers)`. Each step folds its number in. A hypothesis depends on the key of its own sentence only.
        batch: number of sentences.
        max_length: largest number of tokens of a hypothesis, the end token included.
        begin: the first input token.
        end: token that ends a hypothesis; -1 for none.
        temperature: above 0; the logits are divided by it. A Python number.
        top_k: number of the most probable tokens that are drawn from (Fan et al. 2018, arXiv:1805.04833); 0: all.
        top_p: only the smallest set of most probable tokens with at least this probability is drawn from (nucleus
            sampling, Holtzman et al. 2020, arXiv:1904.09751); above 0 to 1; 1: all. A Python number.
        limits: [batch] int32, largest number of tokens for each sentence, the end token included.
        length_penalty: for the scores; see `beam_search`.
        attention: return the attention too, if `step` returns it.

    Raises:
        ValueError: a number is out of its range, or an array or a result of the step has another shape or dtype.
    """
    check_sampling(temperature, top_k, top_p)
    kind = getattr(keys, "dtype", type(keys).__name__)
    if kind == jnp.uint32:
        keys = jax.random.wrap_key_data(keys)
    elif not hasattr(keys, "dtype") or not jnp.issubdtype(kind, jax.dtypes.prng_key):
        raise ValueError(f"keys is {kind}, expected random keys, as from jax.random.split")
    if keys.shape != (batch,):
        raise ValueError(f"keys has shape {keys.shape}, expected ({batch},): one random key for each sentence")

    def choose(logits: Array, time: Array) -> tuple[Array, Array]:
        logits = logits[:, 0].astype(jnp.float32)
        vocabulary = logits.shape[1]
        check_sampling(temperature, top_k, top_p, vocabulary)
        # Relative to the largest, so that no temperature overflows.
        kept, places = (logits - logits.max(1, keepdims=True)) / max(temperature, LOWEST_TEMPERATURE), None
        if top_k or top_p < 1:
            kept, places = largest(kept, top_k or vocabulary)
        if top_p < 1:
            probability = jax.nn.softmax(kept)
            # A token is in the nucleus if the more probable tokens have less than top_p; the first token always is.
            kept = jnp.where(jnp.cumsum(probability, 1) - probability < top_p, kept, -jnp.inf)
        at_time = jax.vmap(jax.random.fold_in, (0, None))(keys, time)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, kept.shape[1:]))(at_time)
        token = largest(kept + noise, 1)[1]
        if places is not None:
            token = jnp.take_along_axis(places, token, 1)
        log_probability = jnp.take_along_axis(logits, token, 1)[:, 0] - jax.nn.logsumexp(logits, axis=1)
        return log_probability, token[:, 0]

    return _walk(choose, step, state, batch, max_length, begin, end, limits, length_penalty, attention)


def check_sampling(temperature: float, top_k: int, top_p: float, vocabulary: int | None = None) -> None:
    """Refuses numbers that `sample` cannot use.

    Args:
      temperature: above 0, finite.
      top_k: 0 to `vocabulary`; 0: all tokens.
      top_p: above 0, at most 1.
      vocabulary: its size; None: not known yet.

    Raises:
      ValueError: a number is out of its range; the line begins with its name.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, expected above 0 and finite; use greedy for the limit of 0")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected above 0 and at most 1; 1 switches nucleus sampling off")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}, expected at least 0; 0 draws from the whole vocabulary")
    if vocabulary is not None and top_k > vocabulary:
        raise ValueError(f"top_k is {top_k}, expected at most {vocabulary}, the vocabulary's size; 0 draws from all")


def ensemble(steps: Sequence[Step]) -> Step:
    """A step function with the mean probabilities of several models that share a vocabulary.

    Its state is the tuple of their states. Its attention is the mean of theirs; None unless all return one.

    Args:
        steps: the step functions of the models.

    Raises:
        ValueError: there is none; from the returned step: another number of states, or vocabularies of different sizes.
    """
    steps = tuple(steps)
    if not steps:
        raise ValueError("an ensemble got 0 steps, expected at least 1: one step function for each model")

    def step(tokens: Array, state: PyTree) -> tuple[Array, PyTree, Array | None]:
        if len(state) != len(steps):
            raise ValueError(f"an ensemble of {len(steps)} steps got {len(state)} states, expected one for each step")
        logits, states, attention = zip(*(one(tokens, own) for one, own in zip(steps, state, strict=True)), strict=True)
        if len(sizes := {one.shape[-1] for one in logits}) > 1:
            raise ValueError(f"an ensemble's models have vocabularies of {sorted(sizes)} tokens, expected one for all")
        log_probability = jnp.stack([jax.nn.log_softmax(one.astype(jnp.float32)) for one in logits])
        mean = jax.nn.logsumexp(log_probability, axis=0) - jnp.log(len(steps))
        rows = None if any(row is None for row in attention) else sum(attention) / len(steps)
        return mean, states, rows

    return step


def average(trees: Sequence[Any]) -> Any:
    """The mean of the parameters of several checkpoints, with their structure, shapes and dtypes.

    Args:
        trees: the parameters of each checkpoint.

    Raises:
        ValueError: there is none, they differ in structure or shape, or a leaf is not floating point.
    """
    if not trees:
        raise ValueError("an average got 0 checkpoints, expected at least 1: give parameter pytrees")
    structures: list[Any] = [jax.tree.structure(tree) for tree in trees]
    for number, structure in enumerate(structures):
        if structure != structures[0]:
            raise ValueError(f"checkpoint {number} has other parameters than checkpoint 0: average one model only")

    def mean(path: tuple[Any, ...], *leaves: Array) -> Array:
        first, name = jnp.asarray(leaves[0]), jax.tree_util.keystr(path)
        if not jnp.issubdtype(first.dtype, jnp.floating):
            raise ValueError(f"parameter {name} is {first.dtype}, expected floating point: leave it out of the average")
        shapes = {jnp.shape(leaf) for leaf in leaves}
        if len(shapes) > 1:
            raise ValueError(f"parameter {name} has shapes {sorted(shapes)}: average one model's checkpoints only")
        wide = jnp.promote_types(first.dtype, jnp.float32)
        return jnp.mean(jnp.stack([jnp.asarray(leaf, wide) for leaf in leaves]), 0).astype(first.dtype)

    return jax.tree_util.tree_map_with_path(mean, *trees)
