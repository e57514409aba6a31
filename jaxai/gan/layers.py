"""Layers of both networks that linen does not have, or has in another form."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import batch_statistics, inputs, ops

Initializer = Callable[..., jax.Array]
SLOPE = 0.2  # of LeakyReLU below 0 (Radford et al. 2016)
DEFAULT_KERNEL: Initializer = nn.initializers.lecun_normal()


def convolution(features: int, window: int, stride: int = 1, **arguments: Any) -> nn.Conv:
    """A square convolution with SAME padding and `jaxai.ops.conv_general_dilated`, which is faster on CPU.

    Args:
      features: number of output channels.
      window: side of the kernel, in pixels.
      stride: in pixels, for both axes.
      **arguments: further fields of `nn.Conv`.
    """
    return nn.Conv(
        features, (window, window), (stride, stride), conv_general_dilated=ops.conv_general_dilated, **arguments
    )


class ConvTranspose(nn.Module):
    """Transposed convolution, SAME: [batch, height, width, channels] -> [batch, strides x the pixels, features].

    Its kernel is [window, window, channels, features], as in `nn.ConvTranspose`, applied by `ops.conv_transpose`.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = DEFAULT_KERNEL
    polyphase: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the feature maps in `dtype`."""
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features), jnp.float32)
        kernel = kernel.astype(self.dtype)
        x = ops.conv_transpose(x.astype(self.dtype), kernel, self.strides, "SAME", polyphase=self.polyphase)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return x


def call(layer: nn.Module, *inputs: jax.Array, spectral: bool, update: bool) -> jax.Array:
    """Applies `layer`, with its matrices divided by their largest singular value if `spectral`.

    Miyato et al. 2018 (arXiv:1802.05957), algorithm 1: one power iteration per call, with gradients through the
    singular value but not through the vectors. A kernel is the matrix [window * window * channels, features].

    Args:
      layer: created inside a compact method.
      inputs: of the layer.
      spectral: False: the layer without normalisation.
      update: store the iteration's vector in the collection "batch_stats". It depends only on the parameters, so that
        it is the same on all devices.
    """
    if not spectral:
        return layer(*inputs)
    return nn.SpectralNorm(layer)(*inputs, update_stats=update)


class BatchNorm(nn.Module):
    """Batch normalisation over the batch, the pixels and the devices of `axis_name`.

    With `num_classes`, each class has its own scale and bias: Dumoulin et al. 2017 (arXiv:1610.07629), de Vries et al.
    2017 (arXiv:1707.00683). With `modulation`, a network with one hidden layer of `modulation` units computes them from
    each latent: Chen et al. 2019 (arXiv:1810.01365), equations 1 to 4; the bias of the scale is initialised with 1.
    """

    num_classes: int = 0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    modulation: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None, *, train: bool) -> jax.Array:
        """Normalises [batch, ..., channels].

        `condition` determines scales and biases: labels [batch] int32 with `num_classes`, latents [batch, latent_size]
        with `modulation`; otherwise it is not used.
        """
        learned = not (self.num_classes or self.modulation)
        options = batch_statistics.options(self, x, self.axis_name, 0.9, train=train)
        x = nn.BatchNorm(dtype=self.dtype, use_bias=learned, use_scale=learned, **options)(x)
        if learned:
            return x
        channels = x.shape[-1]
        if self.modulation:
            hidden = nn.relu(nn.Dense(self.modulation, dtype=self.dtype, name="hidden")(condition))
            scale = nn.Dense(channels, dtype=self.dtype, bias_init=nn.initializers.ones, name="scale")(hidden)
            bias = nn.Dense(channels, dtype=self.dtype, name="bias")(hidden)
        else:
            table = (self.num_classes, channels)
            scale = self.param("scale", nn.initializers.ones, table, jnp.float32)[condition].astype(x.dtype)
            bias = self.param("bias", nn.initializers.zeros, table, jnp.float32)[condition].astype(x.dtype)
        rows = (x.shape[0], *[1] * (x.ndim - 2), channels)
        return x * scale.reshape(rows) + bias.reshape(rows)


class SelfAttention(nn.Module):
    """Self-attention over pixels: `x + gamma * o`, with gamma initialised with 0.

    Zhang et al. 2019 (arXiv:1805.08318), equations 1 to 3. Queries, keys and values have an eighth of the channels.
    """

    spectral: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = DEFAULT_KERNEL

    @nn.compact
    def __call__(self, x: jax.Array, *, update: bool) -> jax.Array:
        """[batch, height, width, channels] -> the same shape; `update` as in `call`."""
        batch, height, width, channels = x.shape

        def project(name: str, inputs: jax.Array, features: int) -> jax.Array:
            layer = nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=self.kernel_init, name=name)
            return call(layer, inputs, spectral=self.spectral, update=update)

        pixels = x.reshape(batch, height * width, channels)
        inner = max(1, channels // 8)
        query, key, value = (project(name, pixels, inner) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqc,bkc->bqk", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        output = project("output", jnp.einsum("bqk,bkc->bqc", weights, value), channels)
        gamma = self.param("gamma", nn.initializers.zeros, (), jnp.float32)
        return x + gamma.astype(x.dtype) * output.reshape(x.shape)


def with_minibatch_std(x: jax.Array, group: int) -> jax.Array:
    """Appends a channel with the mean standard deviation of the images in a group.

    Karras et al. 2018 (arXiv:1710.10196), section 3: the standard deviation over the group, of each channel and pixel,
    averaged over both. A group is `group` consecutive images, so that splitting a batch between devices
    keeps its groups.

    Args:
      x: [batch, height, width, channels].
      group: number of images in a group; must divide the batch.

    Returns:
      [batch, height, width, channels + 1], of the dtype of `x`.

    Raises:
      ValueError: `group` does not divide the batch.
    """
    batch, height, width, _ = x.shape
    if batch % group:
        raise ValueError(
            f"minibatch_std is {group}, which does not divide the {batch} images on a device; "
            "choose a divisor of the batch size on each device, or 0 for none"
        )
    groups = x.astype(jnp.float32).reshape(batch // group, group, *x.shape[1:])
    deviation = jnp.sqrt(jnp.var(groups, axis=1) + 1e-8)  # the square root has an infinite gradient at 0
    statistic = jnp.repeat(jnp.mean(deviation, axis=(1, 2, 3)), group).astype(x.dtype)
    channel = jnp.broadcast_to(statistic[:, None, None, None], (batch, height, width, 1))
    return jnp.concatenate([x, channel], axis=-1)


def leaky_relu(x: jax.Array) -> jax.Array:
    """`x` where it is positive, else `SLOPE * x`."""
    return nn.leaky_relu(x, SLOPE)


def upsample(x: jax.Array) -> jax.Array:
    """Twice the height and width of [batch, height, width, channels], by the nearest pixel."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample(x: jax.Array) -> jax.Array:
    """Half the height and width of [batch, height, width, channels], by the mean of 2x2 pixels."""
    batch, height, width, channels = x.shape
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def check_images(images: jax.Array, image_shape: Sequence[int]) -> None:
    """Raises ValueError unless `images` are [batch, *image_shape] floats."""
    inputs.check_images(images, image_shape)
    inputs.check_floats("images", images, "floats in [-1, 1]: gan.normalize(config, images)")
