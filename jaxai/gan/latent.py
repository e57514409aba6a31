"""The generator's input: standard normal vectors, the way from one to another, and labels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxai.core import Key


def draw_labels(key: Key, count: int, num_classes: int, frequencies: Sequence[float] = ()) -> jax.Array:
    """Random labels, [count] int32, with the probabilities `frequencies` [num_classes], which sum to 1; (): uniform.

    Where the labels of the data are imbalanced, uniform labels would train and measure the generator against another
    distribution than that of the data.
    """
    if not frequencies:
        return jax.random.randint(key, (count,), 0, num_classes)
    return jax.random.choice(key, num_classes, (count,), p=jnp.array(frequencies)).astype(jnp.int32)


def spherical_interpolation(start: jax.Array, end: jax.Array, share: jax.typing.ArrayLike) -> jax.Array:
    """Interpolation along the great circle between two latents (White 2016, arXiv:1609.04468).

    Points on the straight line between two draws of a normal distribution have too small a norm for it.

    Args:
      start, end: [..., latent_size].
      share: position between the ends, 0 to 1; broadcast against [...].

    Returns:
      [..., latent_size]; on the straight line where both have the same direction.
    """
    share = jnp.asarray(share, start.dtype)[..., None]
    lengths = jnp.linalg.norm(start, axis=-1, keepdims=True) * jnp.linalg.norm(end, axis=-1, keepdims=True)
    cosine = jnp.sum(start * end, -1, keepdims=True) / jnp.maximum(lengths, jnp.finfo(start.dtype).tiny)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    sine = jnp.sin(angle)
    small = sine < 1e-4
    sine = jnp.where(small, 1, sine)
    curved = (jnp.sin((1 - share) * angle) * start + jnp.sin(share * angle) * end) / sine
    return jnp.where(small, (1 - share) * start + share * end, curved)
