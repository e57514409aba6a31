"""Gated recurrent units over padded batches, with PyTorch's parameters and gates.

Source: Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), in the form of cuDNN and
PyTorch: the reset gate scales the product with the recurrent weights, not the state before it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxai.ops.lstm import product, require_shapes


class Weights(NamedTuple):
    """Weights of one layer in one direction; the gates are along the last axis in PyTorch's order r, z, n."""

    input: jax.Array  # [features, 3 * hidden]
    recurrent: jax.Array  # [hidden, 3 * hidden]
    bias: jax.Array  # [3 * hidden], added to the product with the input
    recurrent_bias: jax.Array  # [3 * hidden], added to the product with the state, which r scales


def zeros(x: jax.Array, weights: Weights) -> jax.Array:
    """The state [batch, hidden] before the first step; x is [batch, ...]."""
    return jnp.zeros((len(x), weights.recurrent.shape[0]), jnp.result_type(x, *weights))


def cell(x: jax.Array, h: jax.Array, weights: Weights) -> jax.Array:
    """One step of every sequence; the gates are computed in float32 or wider, and h keeps its dtype.

    Args:
      x: [batch, features].
      h: [batch, hidden], the state before the step.
      weights: of the layer.
    """
    from_input = jnp.split(product(x, weights.input) + weights.bias, 3, axis=-1)
    from_state = jnp.split(product(h, weights.recurrent) + weights.recurrent_bias, 3, axis=-1)
    r = jax.nn.sigmoid(from_input[0] + from_state[0])
    z = jax.nn.sigmoid(from_input[1] + from_state[1])
    n = jnp.tanh(from_input[2] + r * from_state[2])
    return (n + z * (h - n)).astype(h.dtype)


def gru(
    x: jax.Array,
    weights: Weights,
    h: jax.Array | None = None,
    lengths: jax.Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The outputs of every step, and the state after each sequence's last step.

    Args:
      x: [batch, time, features], padded on the right.
      weights: of the layer.
      h: [batch, hidden], the state before the first step; None: zeros.
      lengths: [batch] int32, 0 to `time`, the number of steps without padding; None: all.
      reverse: reads each sequence from its last real step to its first.

    Returns:
      Outputs [batch, time, hidden], 0 where the input is padding, and the state [batch, hidden]; that of an empty
      sequence is the one before the first step.

    Raises:
      ValueError: shapes that do not fit.
    """
    first = zeros(x, weights) if h is None else h
    check(x, weights, first, lengths)
    real = None if lengths is None else (jnp.arange(x.shape[1])[:, None] < lengths)[..., None]

    def step(h: jax.Array, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, jax.Array]:
        x, real = inputs
        following = cell(x, h, weights)
        if real is None:
            return following, following
        return jnp.where(real, following, h), jnp.where(real, following, 0)

    last, outputs = lax.scan(step, first, (x.swapaxes(0, 1), real), reverse=reverse)
    return outputs.swapaxes(0, 1), last


def check(x: jax.Array, weights: Weights, h: jax.Array, lengths: jax.Array | None) -> None:
    """Checks that the shapes of the arguments of `gru` agree.

    Args:
      x, weights, h, lengths: as in `gru`, `h` not None.

    Raises:
      ValueError: they do not; one line that names the argument.
    """
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}: a GRU reads [batch, time, features]")
    (batch, _, features), hidden = x.shape, weights.recurrent.shape[0]
    expected = {
        "weights.input": (weights.input, (features, 3 * hidden)),
        "weights.recurrent": (weights.recurrent, (hidden, 3 * hidden)),
        "weights.bias": (weights.bias, (3 * hidden,)),
        "weights.recurrent_bias": (weights.recurrent_bias, (3 * hidden,)),
        "h": (h, (batch, hidden)),
    }
    require_shapes(expected, lengths, x, hidden)
