"""The first layer of the airbench network: decorrelates 2x2 patches, with a kernel that is computed and not trained.

Jordan 2024, arXiv:2404.00498, section 3.2. The kernel is in the collection "constants", so that no gradient is
taken; `whiten` computes it from training images.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import inputs, ops
from jaxai.core import PyTree


class Whitening(nn.Module):
    """A 2x2 VALID convolution whose kernel is a constant, set by `whiten`; only its bias is trained.

    Before that the kernel is the identity on a patch's pixels and its negative, which the network can learn with too.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height - 1, width - 1, 8 * channels]."""
        channels = images.shape[-1]
        kernel = self.variable("constants", "kernel", lambda: signed(jnp.eye(4 * channels), channels))
        bias = self.param("bias", nn.initializers.zeros, (8 * channels,))
        layout = ("NHWC", "HWIO", "NHWC")
        constant = jax.lax.stop_gradient(kernel.value).astype(self.dtype)
        x = ops.conv_general_dilated(images.astype(self.dtype), constant, (1, 1), "VALID", dimension_numbers=layout)
        return x + bias.astype(self.dtype)


def signed(filters: jax.Array, channels: int) -> jax.Array:
    """Filters [4 * channels, n], rows in the order of `patches`, and their negatives: [2, 2, channels, 2 * n]."""
    return jnp.concatenate([filters, -filters], axis=1).reshape(2, 2, channels, -1)


def patches(images: jax.Array) -> jax.Array:
    """All 2x2 patches of [batch, height, width, channels]: [batch * (height - 1) * (width - 1), 4 * channels]."""
    corners = [images[:, :-1, :-1], images[:, :-1, 1:], images[:, 1:, :-1], images[:, 1:, 1:]]
    return jnp.concatenate(corners, axis=-1).reshape(-1, 4 * images.shape[-1])


def whitening_kernel(images: jax.Array, eps: float = 5e-4) -> jax.Array:
    """The eigenvectors of the covariance of 2x2 patches, each divided by the square root of its eigenvalue.

    Args:
      images: normalised floats [batch, height, width, channels]; a few thousand are enough.
      eps: added to the eigenvalues, so that directions of small variance are not amplified too much.

    Returns:
      float32 [2, 2, channels, 8 * channels]: the whitening filters and their negatives (arXiv:2404.00498, 3.2).

    Raises:
      ValueError: images of integers, which are not normalised.
    """
    inputs.check_floats("images", images, "normalised floats: cnn.normalize(config, images)")
    samples = patches(images.astype(jnp.float32))
    samples = samples - jnp.mean(samples, axis=0)
    covariance = jnp.matmul(samples.T, samples, precision=jax.lax.Precision.HIGHEST) / samples.shape[0]
    eigenvalues, eigenvectors = jnp.linalg.eigh(covariance)
    # Rounding can leave the eigenvalue of a direction that never varies below zero.
    return signed(eigenvectors / jnp.sqrt(jnp.maximum(eigenvalues, 0) + eps), images.shape[-1])


def whiten(variables: PyTree, images: jax.Array, eps: float = 5e-4) -> PyTree:
    """The variables of an `Airbench`, with the whitening kernel computed from `images`.

    Args:
      variables: a dict of collections, "constants" among them.
      images: normalised floats [batch, height, width, channels].
      eps: as for `whitening_kernel`.

    Raises:
      ValueError: the network has no whitening layer.
    """
    constants = variables.get("constants", {})
    if "whitening" not in constants:
        raise ValueError(f"no whitening layer among the collections {sorted(variables)}: only airbench has one")
    kernel = whitening_kernel(images, eps)
    return {**variables, "constants": {**constants, "whitening": {**constants["whitening"], "kernel": kernel}}}
