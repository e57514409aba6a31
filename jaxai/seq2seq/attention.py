"""Attention: where in the source to look, as a weighted mean of the encoder's outputs.

Every attention is a linen module of two functions: `project` makes keys of the memory, once a sentence, and the call
weighs the memory for each query. The queries are the steps of the target in training and the hypotheses of the beam in
decoding, so that neither copies the memory.
"""

import difflib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def dot(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Products of every query with every key, summed in float32.

    Args:
      queries: [batch, queries, size].
      keys: [batch, source, size].

    Returns:
      [batch, queries, source] float32.
    """
    return jnp.einsum("bqh,bsh->bqs", queries, keys, preferred_element_type=jnp.float32)


def attend(scores: jax.Array, memory: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of the memory under the softmax of the scores.

    Args:
      scores: [batch, queries, source] float32.
      memory: [batch, source, size].
      mask: [batch, source] bool, false where the source is padding.

    Returns:
      Context [batch, queries, size] in the dtype of the memory and weights [batch, queries, source] float32, exactly 0
      where the mask is false; both are 0 for a source that is padding alone.

    Raises:
      ValueError: a mask of another shape or dtype, such as lengths.
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
    """What every attention shares.

    Attributes:
      hidden: size of a query, and of what the scores are computed in.
      dtype: of the matmuls.
    """

    hidden: int
    dtype: Any = jnp.float32

    def dense(self, features: int, *, use_bias: bool = False) -> nn.Dense:
        """A linear map in the dtype of the matmuls."""
        kernel_init = nn.initializers.glorot_uniform()
        return nn.Dense(features, use_bias=use_bias, dtype=self.dtype, kernel_init=kernel_init)

    def project(self, memory: jax.Array) -> jax.Array:
        """Memory [batch, source, size] -> keys [batch, source, hidden]."""
        return memory

    def scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Query [batch, queries, hidden] and keys [batch, source, hidden] -> float32 [batch, queries, source]."""
        raise NotImplementedError  # each kind of attention has its own

    def __call__(
        self, query: jax.Array, memory: jax.Array, keys: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What the queries find in the memory.

        Args:
          query: [batch, queries, hidden], states of the decoder.
          memory: [batch, source, size], outputs of the encoder.
          keys: [batch, source, hidden], what `project` made of the memory.
          mask: [batch, source] bool, false where the source is padding.

        Returns:
          Context [batch, queries, size] and weights [batch, queries, source] float32 that sum to 1 over the source.
        """
        return attend(self.scores(query, keys), memory, mask)


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
        """The sum over hidden units; all pairs of query and key are in memory, [batch, queries, source, hidden]."""
        units = jnp.tanh(self.query(query)[:, :, None] + keys[:, None])
        return jnp.einsum("bqsh,h->bqs", units, self.energy.astype(units.dtype), preferred_element_type=jnp.float32)


class Dot(Attention):
    """`q^T k`: Luong, Pham and Manning 2015 (arXiv:1508.04025, eq. 8); the memory must be as large as the query."""

    def scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Products of the queries with the memory itself."""
        if query.shape[-1] != keys.shape[-1]:
            raise ValueError(
                f"dot attention holds queries of {query.shape[-1]} against a memory of {keys.shape[-1]}: they must be "
                "of one size; general attention has a matrix between them"
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
        """Products that have variance 1 where the projections' units have."""
        return dot(self.query(query), keys) * self.hidden**-0.5


ATTENTIONS: dict[str, type[Attention]] = {
    "additive": Additive,
    "dot": Dot,
    "general": General,
    "scaled_dot": ScaledDot,
}
SYNONYMS = {"bahdanau": "additive", "luong": "general", "concat": "additive"}  # what papers and listings call them


def find(name: str) -> type[Attention] | None:
    """The module of an attention's name; None for "none", the model without.

    Raises:
      ValueError: there is no such attention; the message lists the names, the nearest first.
    """
    if name == "none":
        return None
    if name not in ATTENTIONS:
        names = [*ATTENTIONS, "none"]
        near = [SYNONYMS[name]] if name in SYNONYMS else difflib.get_close_matches(name, names, 1, 0.5)
        hint = f"did you mean {near[0]}? Expected" if near else "expected"
        raise ValueError(f"model.attention is {name!r}, {hint} one of {', '.join(names)}")
    return ATTENTIONS[name]
