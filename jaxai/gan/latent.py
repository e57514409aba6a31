"""The generator's input: labels, and interpolation between latents."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxai.core import Key


def draw_labels(key: Key, count: int, num_classes: int, frequencies: Sequence[float] = ()) -> jax.Array:
    """Random labels.

    Where the labels of the data are imbalanced, uniform labels would train and evaluate the generator on a distribution
    that differs from that of the data.

    Args:
      key: draws the labels.
      count: number of labels.
      num_classes: labels are 0 to num_classes - 1.
      frequencies: probability of each label, with the sum 1; (): uniform.

    Returns:
      [count] int32.
    """
    if not frequencies:
        return jax.random.randint(key, (count,), 0, num_classes)
    return jax.random.choice(key, num_classes, (count,), p=jnp.array(frequencies)).astype(jnp.int32)


def spherical_interpolation(start: jax.Array, end: jax.Array, share: jax.typing.ArrayLike) -> jax.Array:
    """Interpolation along the great circle between two latents (White 2016, arXiv:1609.04468).

    Points on the straight line between two normal samples have a norm that is too small for the distribution.

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
