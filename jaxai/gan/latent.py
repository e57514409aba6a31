"""The generator's input: standard normal vectors, and the way from one to another."""

import jax
import jax.numpy as jnp


def spherical_interpolation(start: jax.Array, end: jax.Array, share: jax.typing.ArrayLike) -> jax.Array:
    """Along the great circle, whose points are as long as what lies between the ends (White 2016, arXiv:1609.04468).

    A straight line between two draws of a normal distribution leads through vectors that are too short for it.

    Args:
      start, end: [..., latent_size].
      share: of the way, 0 to 1; broadcast against [...].

    Returns:
      [..., latent_size]; on a straight line where the two point the same way.
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
