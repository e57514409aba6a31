"""Generators and discriminators in linen: DCGAN, and the residual networks of SNGAN.

A generator takes latents [batch, latent_size] and returns float32 images [batch, height, width, channels] in (-1, 1);
a discriminator takes such images and returns float32 logits [batch], above 0 for images that it classifies as real.
Both take labels [batch] int32, which an unconditional network ignores. Parameters and batch statistics are always
float32.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import inputs, ranges
from jaxai.gan.layers import (
    BatchNorm,
    ConvTranspose,
    Initializer,
    SelfAttention,
    call,
    check_images,
    convolution,
    downsample,
    leaky_relu,
    upsample,
    with_minibatch_std,
)
from jaxai.networks import Dtype, activation_dtype
from jaxai.ranges import Count, Natural, Rate

Architecture = Literal["dcgan", "residual"]
SpectralNormalization = Literal["none", "discriminator", "both"]
DiscriminatorNormalization = Literal["none", "batch", "layer"]

DIVISOR = {"dcgan": 4, "residual": 8}  # of the images' sides: the smallest grid of each generator is 1x1

DCGAN_KERNEL: Initializer = nn.initializers.normal(0.02)  # Radford et al. 2016
# From SNGAN's published code: Glorot's uniform distribution, wider by sqrt(2) inside a residual branch.
GLOROT: Initializer = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
GLOROT_BRANCH: Initializer = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


@dataclass(frozen=True)
class Model:
    """The two networks: architecture, size and regularisation."""

    architecture: Architecture = "dcgan"  # of both networks: DCGAN, or the residual networks of SNGAN
    latent_size: Count = 100  # dimensions of the latent vector (SNGAN: 128)
    width: Count = 64  # channels of dcgan's last hidden layer, or of each residual block (SNGAN: 256 and 128)
    discriminator_width: Natural = 0  # channels of the discriminator's first layer; 0: width
    discriminator_hidden: Natural = 0  # units of a dense layer before the logit of dcgan (InfoGAN: 1024); 0: none
    conditional: bool = False  # both networks get the label: by conditional BatchNorm and by projection
    spectral_normalization: SpectralNormalization = "none"  # networks whose matrices are spectrally normalised
    attention: Natural = 0  # height in pixels of the feature maps with self-attention, in both networks; 0: none
    minibatch_std: Natural = 0  # group size of the minibatch standard deviation in the discriminator; 0: off
    dropout: Rate = 0.0  # share of units dropped in the discriminator
    discriminator_normalization: DiscriminatorNormalization = "none"  # after its hidden layers, except the first
    self_modulation: Natural = 0  # hidden units of the generator's self-modulation by the latent (paper: 32); 0: off
    polyphase: bool = False  # dcgan: replace transposed convolutions by plain ones, for accelerators slow at them
    dtype: Dtype = "auto"  # of activations; auto: float32 on CPU, bfloat16 on accelerators


class Network(nn.Module):
    """The base class of the four networks.

    Attributes:
      image_shape: (height, width, channels).
      width: channels, as in `Model`.
      num_classes: 0 for an unconditional network.
      spectral: divide the matrices by their largest singular value.
      attention: height of the feature maps with self-attention; 0: none.
      dtype: of activations.
      axis_name: of the devices that batch statistics are averaged over.
    """

    image_shape: tuple[int, int, int]
    width: int = 64
    num_classes: int = 0
    spectral: bool = False
    attention: int = 0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def layer(self, layer: nn.Module, *inputs: jax.Array, train: bool) -> jax.Array:
        """Applies `layer`, spectrally normalised if `spectral`; stored vectors change only where they are mutable."""
        return call(layer, *inputs, spectral=self.spectral, update=train and self.is_mutable_collection("batch_stats"))

    def attend(self, x: jax.Array, kernel_init: Initializer, *, train: bool) -> jax.Array:
        """Self-attention where the height of `x` is `attention`, else `x`.

        Args:
          x: [batch, height, width, channels].
          kernel_init: of all kernels.
          train: update the vectors of the spectral normalisation.
        """
        if x.shape[1] != self.attention:
            return x
        update = train and self.is_mutable_collection("batch_stats")
        return SelfAttention(self.spectral, self.dtype, kernel_init, name="attention")(x, update=update)

    def check_labels(self, labels: jax.Array | None, batch: int) -> jax.Array | None:
        """The labels, checked for a conditional network.

        Args:
          labels: [batch] int32, or None.
          batch: number of examples.

        Raises:
          ValueError: a conditional network gets no labels, or labels of another shape or dtype.
        """
        if not self.num_classes:
            return labels
        if labels is None:
            raise ValueError(f"a conditional model was given no labels; expected integers [{batch}]")
        inputs.check_labels(labels, batch)
        # A negative index would count from the end; an index beyond the last class gives NaN.
        return jnp.where(labels < 0, self.num_classes, labels)


class Generator(Network):
    """A network from latents [batch, latent_size] to images; see `Network`.

    Attributes:
      modulation: hidden units of the self-modulation, as in `BatchNorm`; 0: none.
      polyphase: form of the transposed convolutions on accelerators, as in `ops.conv_transpose`.
    """

    modulation: int = 0
    polyphase: bool = False

    def condition(self, latents: jax.Array, labels: jax.Array | None) -> jax.Array | None:
        """The condition of batch normalisation: latents with self-modulation, else labels; see `BatchNorm`."""
        return latents if self.modulation else labels

    def normalize(self, x: jax.Array, condition: jax.Array | None, *, train: bool) -> jax.Array:
        """Batch normalisation, conditional on labels or latents where the network is.

        Args:
          x: [batch, height, width, channels].
          condition: from `condition`.
          train: normalise with the statistics of the batch.
        """
        return BatchNorm(self.num_classes, self.dtype, self.axis_name, self.modulation)(x, condition, train=train)


class Discriminator(Network):
    """A network from images to logits; see `Network`.

    Attributes:
      minibatch_std: images in a group, as in `with_minibatch_std`; 0: none.
      dropout: share of units.
      normalization: "none", "batch" or "layer".
      hidden: units of a dense layer before the logit, only for dcgan; 0: none.
    """

    minibatch_std: int = 0
    dropout: float = 0.0
    normalization: str = "none"
    hidden: int = 0

    def normalize(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises over the batch or over each pixel's channels, or not at all."""
        if self.normalization == "batch":
            return BatchNorm(0, self.dtype, self.axis_name)(x, None, train=train)
        return nn.LayerNorm(dtype=self.dtype)(x) if self.normalization == "layer" else x

    def drop(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Dropout, in training."""
        return nn.Dropout(self.dropout)(x, deterministic=not train)

    def with_spread(self, x: jax.Array) -> jax.Array:
        """Appends the minibatch standard deviation where `minibatch_std` is set; `init` takes a batch of any size."""
        if not self.minibatch_std:
            return x
        return with_minibatch_std(x, 1 if self.is_initializing() else self.minibatch_std)

    def logits(
        self, features: jax.Array, labels: jax.Array | None, kernel_init: Initializer, *, train: bool
    ) -> jax.Array:
        """The last layer, in float32: a dense layer, and for a conditional network the projection.

        Miyato and Koyama 2018 (arXiv:1802.05637): `psi(f) + <embed(y), f>`.

        Args:
          features: [batch, inputs] of the dense layer and of the product with the label's embedding.
          labels: [batch] int32 or None.
          kernel_init: of the dense layer and the embedding.
          train: update the vectors of the spectral normalisation.
        """
        dense = nn.Dense(1, kernel_init=kernel_init, name="logit")
        features = features.astype(jnp.float32)
        logits = self.layer(dense, features, train=train)[:, 0]
        if labels is None or not self.num_classes:
            return logits
        embedding = nn.Embed(self.num_classes, features.shape[-1], embedding_init=kernel_init, name="embedding")
        return logits + jnp.sum(self.layer(embedding, labels, train=train) * features, axis=-1)


class DCGANGenerator(Generator):
    """Transposed convolutions of 5x5 with strides 1, 2 and 2, from a quarter of the height and width.

    Radford, Metz and Chintala 2016 (arXiv:1511.06434). At width 64, for 28x28x1: Dense 7x7x256, then 128, 64, 1. A
    conditional one has a learned embedding of the label concatenated to the latent, and conditional BatchNorm.
    """

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Latents [batch, latent_size], labels [batch] -> float32 images [batch, *image_shape] in (-1, 1)."""
        labels = self.check_labels(labels, latents.shape[0])
        height, width, channels = self.image_shape
        z, condition = latents.astype(self.dtype), self.condition(latents, labels)
        if self.num_classes and labels is not None:
            embed = nn.Embed(self.num_classes, latents.shape[1], embedding_init=nn.initializers.normal(1.0))
            z = jnp.concatenate([z, embed(labels).astype(self.dtype)], axis=-1)

        grid = (height // 4, width // 4, 4 * self.width)
        dense = nn.Dense(grid[0] * grid[1] * grid[2], use_bias=False, dtype=self.dtype, kernel_init=DCGAN_KERNEL)
        x = self.layer(dense, z, train=train).reshape(z.shape[0], *grid)
        x = leaky_relu(self.normalize(x, condition, train=train))
        for features, stride in ((2 * self.width, 1), (self.width, 2)):
            x = self.layer(self.transposed(features, stride, use_bias=False), x, train=train)
            x = leaky_relu(self.normalize(x, condition, train=train))
            x = self.attend(x, DCGAN_KERNEL, train=train)
        x = self.layer(self.transposed(channels, 2), x, train=train)
        return jnp.tanh(x.astype(jnp.float32))

    def transposed(self, features: int, stride: int, **options: Any) -> ConvTranspose:
        """A transposed convolution of 5x5."""
        options |= {"dtype": self.dtype, "kernel_init": DCGAN_KERNEL, "polyphase": self.polyphase}
        return ConvTranspose(features, (5, 5), (stride, stride), **options)


class DCGANDiscriminator(Discriminator):
    """Convolutions of 5x5 with stride 2, to `width` and `2 * width` channels, and a dense layer."""

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Images [batch, *image_shape] in [-1, 1], labels [batch] -> float32 logits [batch]."""
        check_images(images, self.image_shape)
        labels = self.check_labels(labels, len(images))
        options = {"dtype": self.dtype, "kernel_init": DCGAN_KERNEL}
        x = self.layer(convolution(self.width, 5, 2, **options), images.astype(self.dtype), train=train)
        x = self.drop(self.attend(leaky_relu(x), DCGAN_KERNEL, train=train), train=train)
        second = convolution(2 * self.width, 5, 2, use_bias=self.normalization != "batch", **options)
        x = self.normalize(self.layer(second, x, train=train), train=train)
        x = self.drop(self.attend(leaky_relu(x), DCGAN_KERNEL, train=train), train=train)
        features = self.with_spread(x).reshape(len(x), -1)
        if self.hidden:
            features = leaky_relu(self.layer(nn.Dense(self.hidden, **options), features, train=train))
        return self.logits(features, labels, DCGAN_KERNEL, train=train)


class ResidualGenerator(Generator):
    """Three residual blocks that double the height and width.

    Miyato et al. 2018 (arXiv:1802.05957), table 4 of the appendix, for 32x32x3 images: Dense 4x4x256, three blocks of
    256, BatchNorm, ReLU, a 3x3 convolution and tanh.
    """

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Latents [batch, latent_size], labels [batch] -> float32 images [batch, *image_shape] in (-1, 1)."""
        labels = self.check_labels(labels, latents.shape[0])
        condition = self.condition(latents, labels)
        height, width, channels = self.image_shape
        grid = (height // 8, width // 8, self.width)
        dense = nn.Dense(grid[0] * grid[1] * grid[2], dtype=self.dtype, kernel_init=GLOROT)
        x = self.layer(dense, latents.astype(self.dtype), train=train).reshape(latents.shape[0], *grid)
        for _ in range(3):
            x = self.attend(self.block(x, condition, train=train), GLOROT, train=train)
        x = nn.relu(self.normalize(x, condition, train=train))
        x = self.layer(convolution(channels, 3, dtype=self.dtype, kernel_init=GLOROT), x, train=train)
        return jnp.tanh(x.astype(jnp.float32))

    def block(self, x: jax.Array, condition: jax.Array | None, *, train: bool) -> jax.Array:
        """Doubles height and width: BatchNorm, ReLU, upsampling, 3x3, BatchNorm, ReLU, 3x3; a 1x1 shortcut.

        Args:
          x: [batch, height, width, channels].
          condition: from `condition`.
          train: normalise with the statistics of the batch.
        """
        options = {"dtype": self.dtype, "kernel_init": GLOROT_BRANCH}
        branch = upsample(nn.relu(self.normalize(x, condition, train=train)))
        branch = self.layer(convolution(self.width, 3, use_bias=False, **options), branch, train=train)
        branch = nn.relu(self.normalize(branch, condition, train=train))
        branch = self.layer(convolution(self.width, 3, **options), branch, train=train)
        # A 1x1 convolution and upsampling commute: before it, the convolution needs a quarter of the operations.
        return branch + upsample(
            self.layer(convolution(self.width, 1, dtype=self.dtype, kernel_init=GLOROT), x, train=train)
        )


class ResidualDiscriminator(Discriminator):
    """Two residual blocks that halve the height and width, two that do not, ReLU, the sum over pixels, a dense layer.

    Miyato et al. 2018 (arXiv:1802.05957), table 4 of the appendix; the paper's width is 128.
    """

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Images [batch, *image_shape] in [-1, 1], labels [batch] -> float32 logits [batch]."""
        check_images(images, self.image_shape)
        labels = self.check_labels(labels, len(images))
        x = images.astype(self.dtype)
        for index in range(4):
            x = self.block(x, index, train=train)
            if index < 2:  # once at each height; the last two blocks keep the height
                x = self.attend(x, GLOROT, train=train)
        x = self.drop(nn.relu(x), train=train)
        features = self.with_spread(x)
        return self.logits(jnp.sum(features, axis=(1, 2), dtype=jnp.float32), labels, GLOROT, train=train)

    def block(self, x: jax.Array, index: int, *, train: bool) -> jax.Array:
        """(ReLU, 3x3) twice; the first two blocks halve height and width and have a 1x1 shortcut.

        Args:
          x: [batch, height, width, channels].
          index: of the block, from 0.
          train: normalise with the statistics of the batch.
        """
        options = {"dtype": self.dtype, "kernel_init": GLOROT_BRANCH}
        # The input of the first block is the image, whose negative values ReLU must not remove; it is not normalised.
        branch = x if index == 0 else nn.relu(self.normalize(x, train=train))
        branch = self.layer(convolution(self.width, 3, **options), branch, train=train)
        branch = nn.relu(branch if index == 0 else self.normalize(branch, train=train))
        branch = self.layer(convolution(self.width, 3, **options), branch, train=train)
        if index > 1:
            return branch + x
        # Pooling and a 1x1 convolution commute: after it, the convolution needs a quarter of the operations.
        shortcut = convolution(self.width, 1, dtype=self.dtype, kernel_init=GLOROT)
        return downsample(branch) + self.layer(shortcut, downsample(x), train=train)


GENERATORS: dict[str, type[Generator]] = {"dcgan": DCGANGenerator, "residual": ResidualGenerator}
DISCRIMINATORS: dict[str, type[Discriminator]] = {"dcgan": DCGANDiscriminator, "residual": ResidualDiscriminator}


def build(
    model: Model, image_shape: tuple[int, int, int], num_classes: int, axis_name: str | None = None
) -> tuple[Generator, Discriminator]:
    """The linen modules (generator, discriminator) of a config.

    Args:
      model: the config.
      image_shape: (height, width, channels).
      num_classes: of the labels; not used by an unconditional model.
      axis_name: of the devices that batch statistics are averaged over; None for one device or `jit` over a mesh.

    Raises:
      ValueError: a field of the config is out of its range, or the generator cannot produce images of this shape; the
        message names it.
    """
    check(model, image_shape, num_classes)
    shared: dict[str, Any] = {
        "image_shape": tuple(image_shape),
        "width": model.width,
        "num_classes": num_classes if model.conditional else 0,
        "attention": model.attention,
        "dtype": activation_dtype(model.dtype),
        "axis_name": axis_name,
    }
    generator = GENERATORS[model.architecture](
        spectral=model.spectral_normalization == "both",
        modulation=model.self_modulation,
        polyphase=model.polyphase,
        **shared,
    )
    discriminator = DISCRIMINATORS[model.architecture](
        spectral=model.spectral_normalization != "none",
        minibatch_std=model.minibatch_std,
        dropout=model.dropout,
        normalization=model.discriminator_normalization,
        hidden=model.discriminator_hidden,
        **shared | {"width": model.discriminator_width or model.width},
    )
    return generator, discriminator


def check(model: Model, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Checks that `build` can build these networks.

    Args:
      model, image_shape, num_classes: as in `build`.

    Raises:
      ValueError: a field is out of its range or does not fit the images; one line that names it.
    """
    ranges.check(model)
    if model.discriminator_hidden and model.architecture != "dcgan":
        raise ValueError(
            f"discriminator_hidden is {model.discriminator_hidden}, which only dcgan has; set 0, or take"
            " architecture dcgan"
        )
    if model.polyphase and model.architecture != "dcgan":
        raise ValueError("polyphase is True, but only dcgan has transposed convolutions; leave it False")
    if model.conditional and num_classes < 2:
        raise ValueError(f"conditional needs labels of at least 2 classes, the data has {num_classes}")
    if model.conditional and model.self_modulation:
        raise ValueError(
            f"self_modulation is {model.self_modulation}, but a conditional generator's scales and biases are its"
            " label's; set 0, or leave conditional out"
        )
    divisor = DIVISOR[model.architecture]
    if len(image_shape) != 3 or min(image_shape) < 1 or any(side % divisor for side in image_shape[:2]):
        size = "x".join(map(str, image_shape))
        raise ValueError(
            f"images are {size}, but the {model.architecture} generator makes height x width x channels whose sides "
            f"are multiples of {divisor}: crop or resize them, or take another architecture"
        )
    heights = (image_shape[0] // 4, image_shape[0] // 2)
    if model.attention and model.attention not in heights:
        raise ValueError(
            f"attention is {model.attention}, but the feature maps of both networks are "
            f"{heights[0]} or {heights[1]} pixels high: choose one of them, or 0 for no attention"
        )
