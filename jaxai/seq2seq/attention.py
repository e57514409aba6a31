"""Attention: a weighted mean of the encoder's outputs for each query.

An attention is a linen module with two functions: `project` computes keys from the memory, once for each sentence, and
the call computes the context of each query. In training the queries are the steps of the target, in decoding the
hypotheses of the beam; neither copies the memory.

An attention of your own is a subclass of `Attention` with `scores` and, if the keys are not the memory itself,
`project`:

>>> class Cosine(Attention):
...     def scores(self, query, keys):
...         unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
...         return 10 * dot(unit(query), unit(keys))
>>> from jaxai import seq2seq
>>> config = seq2seq.Config(source_vocabulary=30, target_vocabulary=40, hidden=32, bidirectional=False)
>>> network = seq2seq.Seq2Seq(config, attention=Cosine(config.hidden))
>>> workload = seq2seq.make(config, network=network)
"""

import difflib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

__all__ = ["ATTENTIONS", "Additive", "Attention", "Dot", "General", "ScaledDot", "attend", "dot", "find"]


def dot(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """The products of every query with every key, summed in float32.

    Args:
      queries: [batch, queries, size].
      keys: [batch, source, size].

    Returns:
      [batch, queries, source] float32.
    """
    return jnp.einsum("bqh,bsh->bqs", queries, keys, preferred_element_type=jnp.float32)


def attend(scores: jax.Array, memory: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of the memory, weighted by the softmax of the scores.

    Args:
      scores: [batch, queries, source] float32.
      memory: [batch, source, size].
      mask: [batch, source] bool, false where the source is padding.

    Returns:
      Context [batch, queries, size] in the dtype of the memory, and weights [batch, queries, source] float32, exactly 0
      where the mask is false. Both are 0 for a source that has only padding.

    Raises:
      ValueError: the mask or the scores have another shape or dtype.
    """
    if mask.shape != (scores.shape[0], scores.shape[2]) or mask.dtype != jnp.bool:
        raise ValueError(
            f"mask is {mask.dtype}{list(mask.shape)}; expected bool[{scores.shape[0]}, {scores.shape[2]}], true where "
            "the source is real"
        )
    mask = mask[:, None, :]
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)
    return jnp.einsum("bqs,bsh->bqh", weights.astype(memory.dtype), memory), weights


class Attention(nn.Module):
    """The base class of every attention; a subclass has `scores`, and `project` where keys are not the memory itself.

    Attributes:
      hidden: size of a query, and of a key after `project`.
      dtype: of the matmuls.
    """

    hidden: int
    dtype: Any = jnp.float32

    def dense(self, features: int, *, use_bias: bool = False) -> nn.Dense:
        """A linear map in the dtype of the matmuls."""
        kernel_init = nn.initializers.glorot_uniform()
        return nn.Dense(features, use_bias=use_bias, dtype=self.dtype, kernel_init=kernel_init)

    def project(self, memory: jax.Array) -> jax.Array:
        """Memory [batch, source, size] -> keys [batch, source, any size], once for each sentence; here: the memory."""
        return memory

    def scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Query [batch, queries, hidden] and keys [batch, source, hidden] -> float32 [batch, queries, source].

        Raises:
          NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError  # each kind of attention has its own

    def __call__(
        self, query: jax.Array, memory: jax.Array, keys: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The context of each query.

        Args:
          query: [batch, queries, hidden], states of the decoder.
          memory: [batch, source, size], outputs of the encoder.
          keys: [batch, source, hidden], from `project`.
          mask: [batch, source] bool, false where the source is padding.

        Returns:
          Context [batch, queries, size] and weights [batch, queries, source] float32 that sum to 1 over the source.

        Raises:
          ValueError: `scores` returned another shape.
        """
        scores, expected = self.scores(query, keys), (*query.shape[:2], memory.shape[1])
        if scores.shape != expected:
            raise ValueError(
                f"{type(self).__name__}.scores returned shape {list(scores.shape)}; expected {list(expected)}, [batch, "
                "queries, source]"
            )
        return attend(scores, memory, mask)


class Additive(Attention):
    """`v^T tanh(W q + U k)`: Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473, appendix A.1.2)."""

    def setup(self) -> None:
        """Declares the parameters."""
        self.key = self.dense(self.hidden, use_bias=True)
        self.query = self.dense(self.hidden)
        self.energy = self.param("energy", nn.initializers.normal(self.hidden**-0.5), (self.hidden,))

    def project(self, memory: jax.Array) -> jax.Array:
        """Memory [batch, source, size] -> keys [batch, source, hidden]."""
        return self.key(memory)

    def scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Sums over hidden units; takes the memory of all pairs, [batch, queries, source, hidden]."""
        units = jnp.tanh(self.query(query)[:, :, None] + keys[:, None])
        return jnp.einsum("bqsh,h->bqs", units, self.energy.astype(units.dtype), preferred_element_type=jnp.float32)


class Dot(Attention):
    """`q^T k`: Luong, Pham and Manning 2015 (arXiv:1508.04025, eq. 8); the memory must be as large as the query."""

    def scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Products of the queries with the memory itself.

        Raises:
          ValueError: the memory and the queries have different sizes.
        """
        if query.shape[-1] != keys.shape[-1]:
            raise ValueError(
                f"dot attention multiplies queries of size {query.shape[-1]} with a memory of size {keys.shape[-1]}: "
                "they must have the same size; general attention has a matrix between them"
            )
        return dot(query.astype(keys.dtype), keys)


class General(Attention):
    """`q^T W k`: Luong, Pham and Manning 2015 (arXiv:1508.04025, eq. 8)."""

    def setup(self) -> None:
        """Declares the parameters."""
        self.key = self.dense(self.hidden)

    def project(self, memory: jax.Array) -> jax.Array:
        """Memory [batch, source, size] -> keys [batch, source, hidden]."""
        return self.key(memory)

    def scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Products of the queries with the keys."""
        return dot(query.astype(keys.dtype), keys)


class ScaledDot(Attention):
    """`(W q)^T (U k) / sqrt(hidden)`: Vaswani et al. 2017 (arXiv:1706.03762, eq. 1), one head, values as they are."""

    def setup(self) -> None:
        """Declares the parameters."""
        self.key = self.dense(self.hidden)
        self.query = self.dense(self.hidden)

    def project(self, memory: jax.Array) -> jax.Array:
        """Memory [batch, source, size] -> keys [batch, source, hidden]."""
        return self.key(memory)

    def scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Products with variance 1 if the units of both projections have variance 1."""
        return dot(self.query(query), keys) * self.hidden**-0.5


ATTENTIONS: dict[str, type[Attention]] = {
    "additive": Additive,
    "dot": Dot,
    "general": General,
    "scaled_dot": ScaledDot,
}
SYNONYMS = {"bahdanau": "additive", "luong": "general", "concat": "additive"}  # other names in papers and tutorials


def find(name: str) -> type[Attention] | None:
    """The class of the attention with this name; None for "none".

    Raises:
      ValueError: there is no such attention; the message lists the names, the nearest one first.
    """
    if name == "none":
        return None
    if name not in ATTENTIONS:
        names = [*ATTENTIONS, "none"]
        near = [SYNONYMS[name]] if name in SYNONYMS else difflib.get_close_matches(name, names, 1, 0.5)
        hint = f"did you mean {near[0]}? Expected" if near else "expected"
        raise ValueError(f"attention is {name!r}, {hint} one of {', '.join(names)}")
    return ATTENTIONS[name]
