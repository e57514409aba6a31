"""Max-pooling: `lax.reduce_window`; on CPU the maximum of strided slices, first down the rows, then across."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def max_pool(
    x: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """The maximum of each window, as `flax.linen.max_pool`; its gradient is much faster on CPU.

    The value is the same on every backend. The gradient of a window whose maximum occurs more than once is not: on CPU
    it is divided among the largest pixels, on an accelerator the first of them gets all of it. Both are subgradients.
    After a ReLU most ties are at 0, where the gradient of the ReLU is 0.

    Args:
      x: [batch, height, width, channels], floating point; other dtypes use `lax.reduce_window`.
      window_shape: (height, width) of the window, in pixels.
      strides: of the window, in pixels; 1 by default, as in linen.
      padding: "VALID", "SAME" or (before, after) for each of the two axes, filled with minus infinity.

    Returns:
      [batch, rows, columns, channels], the dtype of `x`.
    """
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        return max_pool_lax(x, window_shape, strides, padding)
    return lax.platform_dependent(
        x,
        cpu=jax.checkpoint(lambda x: _maximum_of_slices(x, window_shape, strides, padding)),
        default=lambda x: max_pool_lax(x, window_shape, strides, padding),
    )


def max_pool_lax(
    x: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """`max_pool` as plain `lax.reduce_window`: the reference, and the form on accelerators.

    Args:
      x: [batch, ..., channels] of any dtype, with one axis between for each of the window's.
      window_shape, strides, padding: as in `max_pool`.
    """
    batch_axes = (1,) * (x.ndim - len(window_shape) - 1)
    strides = strides or (1,) * len(window_shape)
    if not isinstance(padding, str):
        padding = [*((0, 0) for _ in batch_axes), *padding, (0, 0)]
    # Not an array: lax recognises a maximum, which it can differentiate, by the concrete initial value.
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else np.iinfo(x.dtype).min
    return lax.reduce_window(x, lowest, lax.max, (*batch_axes, *window_shape, 1), (*batch_axes, *strides, 1), padding)


def _maximum_of_slices(
    x: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: str | Sequence[tuple[int, int]],
) -> jax.Array:
    strides = strides or (1, 1)
    pads = padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[1:3], window_shape, strides, pads)
    if any(before or after for before, after in pads):
        lowest = jnp.array(-jnp.inf, x.dtype)
        x = lax.pad(x, lowest, [(0, 0, 0), *((before, after, 0) for before, after in pads), (0, 0, 0)])
    for axis, size, stride in zip((1, 2), window_shape, strides, strict=True):
        count = (x.shape[axis] - size) // stride + 1
        slices = (
            lax.slice_in_dim(x, first, first + (count - 1) * stride + 1, stride, axis=axis) for first in range(size)
        )
        x = functools.reduce(jnp.maximum, slices)
    return x
