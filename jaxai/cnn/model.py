"""Image classifiers in linen: an MLP, the textbook CNN, a small residual network, and the airbench network.

All take normalised float images [batch, height, width, channels] and return float32 logits [batch, num_classes].
Parameters and batch statistics are always float32; batch statistics are averaged over the devices of `axis_name` where
one is given.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import batch_statistics, ops, ranges
from jaxai.cnn.whitening import Whitening
from jaxai.cnn.whitening import whiten as whiten
from jaxai.cnn.whitening import whitening_kernel as whitening_kernel
from jaxai.networks import Dtype, activation_dtype
from jaxai.ranges import Count, Range, Rate

Architecture = Literal["mlp", "textbook", "resnet", "airbench"]
Normalization = Literal["auto", "none", "batch", "layer", "group"]
Initializer = Callable[..., jax.Array]

DEPTH = {"mlp": 2, "textbook": 3, "resnet": 2, "airbench": 2}
NORMALIZATION = {"mlp": "none", "textbook": "none", "resnet": "batch", "airbench": "batch"}


Depth = Annotated[int, Range(least=0, most=1000)]


@dataclass(frozen=True)
class Model:
    """The network: architecture, size and regularisation."""

    architecture: Architecture = "textbook"  # mlp, textbook, resnet or airbench
    width: Count = 32  # channels of the first block; mlp: units of a hidden layer (airbench94 in the paper: 64)
    depth: Depth = 0  # hidden layers, convolutions, blocks per stage, or convolutions per block; 0: 2, 3, 2, 2
    normalization: Normalization = "auto"  # after each layer; auto: none for mlp and textbook, batch for the others
    dropout: Rate = 0.0  # share of units dropped before the last layer, for mlp after each hidden layer
    dtype: Dtype = "auto"  # of activations; auto: float32 on CPU, bfloat16 on accelerators


class Norm(nn.Module):
    """Normalises [batch, ..., channels]: batch, layer or group normalisation, or none.

    `batch` normalises over the batch, `layer` over the channels of each position, `group` over groups of up to 16
    channels, the best fixed size in Wu and He 2018 (arXiv:1803.08494, table 3).
    """

    kind: str
    dtype: Any = jnp.float32
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns `x` normalised, the same shape; the identity for the kind "none"."""
        shared = {
            "dtype": self.dtype,
            "epsilon": self.epsilon,
            "use_scale": self.use_scale,
            "scale_init": self.scale_init,
        }
        if self.kind == "batch":
            return nn.BatchNorm(
                **batch_statistics.options(self, x, self.axis_name, self.momentum, train=train), **shared
            )(x)
        if self.kind == "layer":
            return nn.LayerNorm(**shared)(x)
        if self.kind == "group":
            return nn.GroupNorm(num_groups=None, group_size=math.gcd(16, x.shape[-1]), **shared)(x)
        return x


def convolution(features: int, window: int, **arguments: Any) -> nn.Conv:
    """A square convolution with `jaxai.ops.conv_general_dilated`, which is faster on CPU."""
    return nn.Conv(features, (window, window), conv_general_dilated=ops.conv_general_dilated, **arguments)


def check_images(images: jax.Array, least: int, network: str) -> None:
    """Checks the input of a network.

    Args:
      images: [batch, height, width, channels] float.
      least: smallest height and width, in pixels.
      network: its name, for the message.

    Raises:
      ValueError: images of another shape or dtype, or smaller ones.
    """
    if images.ndim != 4 or min(images.shape[1:3]) < least:
        raise ValueError(
            f"images of shape {images.shape} do not fit {network}: it needs [batch, height, width, channels] "
            f"of at least {least}x{least} pixels"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}, expected normalised floats: divide by 255 and standardise first")


class MLP(nn.Module):
    """Dense layers on the flattened image, ReLU between."""

    num_classes: int
    width: int = 32
    depth: int = 2
    normalization: str = "none"
    dropout: float = 0.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [batch, height, width, channels] -> float32 logits [batch, num_classes]."""
        check_images(images, 1, "the mlp")
        x = images.astype(self.dtype).reshape(images.shape[0], -1)
        for _ in range(self.depth):
            x = nn.Dense(self.width, use_bias=self.normalization == "none", dtype=self.dtype)(x)
            x = nn.relu(Norm(self.normalization, self.dtype, self.axis_name)(x, train=train))
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


class TextbookCNN(nn.Module):
    """3x3 VALID convolutions with 2x2 max-pooling between them, then one hidden layer: the usual tutorial network.

    At width 32 and depth 3, on 32x32x3 images and 10 classes: 122,570 parameters.
    """

    num_classes: int
    width: int = 32
    depth: int = 3
    normalization: str = "none"
    dropout: float = 0.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [batch, height, width, channels] -> float32 logits [batch, num_classes]."""
        # The last convolution needs 3 pixels; each one before it needs twice what follows, and 2 more.
        check_images(images, 5 * 2 ** (self.depth - 1) - 2, f"the textbook CNN of {self.depth} convolutions")
        x = images.astype(self.dtype)
        for index in range(self.depth):
            if index > 0:
                x = ops.max_pool(x, (2, 2), (2, 2), "VALID")
            features = self.width if index == 0 else 2 * self.width
            use_bias = self.normalization == "none"
            x = convolution(features, 3, padding="VALID", use_bias=use_bias, dtype=self.dtype)(x)
            x = nn.relu(Norm(self.normalization, self.dtype, self.axis_name)(x, train=train))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(2 * self.width, dtype=self.dtype)(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


class ResidualBlock(nn.Module):
    """conv3x3 - norm - ReLU - conv3x3 - norm, plus the shortcut, ReLU (He et al. 2015, arXiv:1512.03385).

    Its residual branch starts as zero: the last scale is zero (Goyal et al. 2017, arXiv:1706.02677), or the last kernel
    where there is no normalisation.
    """

    features: int
    stride: int = 1
    normalization: str = "batch"
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, features]."""
        bare = self.normalization == "none"
        normal, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        strides = (self.stride, self.stride)
        shared = {"use_bias": bare, "dtype": self.dtype}
        y = convolution(self.features, 3, strides=strides, kernel_init=normal, **shared)(x)
        y = nn.relu(Norm(self.normalization, self.dtype, self.axis_name)(y, train=train))
        y = convolution(self.features, 3, kernel_init=zeros if bare else normal, **shared)(y)
        y = Norm(self.normalization, self.dtype, self.axis_name, scale_init=zeros)(y, train=train)
        if x.shape != y.shape:
            x = convolution(self.features, 1, strides=strides, kernel_init=normal, **shared)(x)
            x = Norm(self.normalization, self.dtype, self.axis_name)(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A small residual network: three stages of widths w, 2w, 4w, global average pooling, one dense layer."""

    num_classes: int
    width: int = 32
    depth: int = 2
    normalization: str = "batch"
    dropout: float = 0.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [batch, height, width, channels] -> float32 logits [batch, num_classes]."""
        check_images(images, 4, "the residual network")
        x = images.astype(self.dtype)
        x = convolution(self.width, 3, use_bias=self.normalization == "none", dtype=self.dtype)(x)
        x = nn.relu(Norm(self.normalization, self.dtype, self.axis_name)(x, train=train))
        for stage in range(3):
            for block in range(self.depth):
                x = ResidualBlock(
                    self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.normalization,
                    self.dtype,
                    self.axis_name,
                )(x, train=train)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


def torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Uniform in [-1 / sqrt(fan-in), 1 / sqrt(fan-in)]: PyTorch's default, with which airbench was tuned.

    Args:
      key: draws the values.
      shape: of the kernel; the last axis has the outputs.
      dtype: of the kernel.
    """
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Kernel whose first `in` outputs copy the input; the others are random (arXiv:2404.00498, section 3.3).

    Args:
      key: draws the other outputs.
      shape: (height, width, in, out).
      dtype: of the kernel.
    """
    height, width, features_in, features_out = shape
    copied = min(features_in, features_out)
    identity = jnp.zeros((height, width, features_in, copied), dtype)
    identity = identity.at[height // 2, width // 2, jnp.arange(copied), jnp.arange(copied)].set(1)
    return torch_uniform(key, shape, dtype).at[..., :copied].set(identity)


class Airbench(nn.Module):
    """The network of airbench94 (Jordan 2024, arXiv:2404.00498): 94 % on CIFAR-10 in seconds on one GPU.

    Whitening, then three blocks of conv3x3 - max-pool 2 - norm - GELU - conv3x3 - norm - GELU of widths w, 4w, 4w (the
    paper's w is 64), the maximum over what remains (3x3 for 28 to 32 pixels a side), and a linear layer scaled by 1/9.
    """

    num_classes: int
    width: int = 64
    depth: int = 2
    normalization: str = "batch"
    dropout: float = 0.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [batch, height, width, channels] -> float32 logits [batch, num_classes]."""
        check_images(images, 9, "the airbench network")
        x = nn.gelu(Whitening(self.dtype, name="whitening")(images), approximate=False)
        for features in (self.width, 4 * self.width, 4 * self.width):
            for index in range(self.depth):
                use_bias = self.normalization == "none"
                x = convolution(features, 3, use_bias=use_bias, kernel_init=dirac, dtype=self.dtype)(x)
                if index == 0:
                    x = ops.max_pool(x, (2, 2), (2, 2), "VALID")
                # As in the paper: a low momentum, as the run lasts only ten epochs, and constant scales of 1.
                norm = Norm(self.normalization, self.dtype, self.axis_name, momentum=0.6, use_scale=False)
                x = nn.gelu(norm(x, train=train), approximate=False)
        x = jnp.max(x, axis=(1, 2))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        self.sow("intermediates", "features", x)
        x = nn.Dense(self.num_classes, use_bias=False, kernel_init=torch_uniform, dtype=self.dtype)(x)
        return x.astype(jnp.float32) / 9


MODULES: dict[str, type[MLP | TextbookCNN | ResNet | Airbench]] = {
    "mlp": MLP,
    "textbook": TextbookCNN,
    "resnet": ResNet,
    "airbench": Airbench,
}


def build(model: Model, num_classes: int, axis_name: str | None = None) -> nn.Module:
    """The linen module of a config.

    Args:
      model: the config.
      num_classes: of the logits.
      axis_name: of the devices that batch statistics are averaged over; None for one device or `jit` over a mesh.

    Raises:
      ValueError: a field of the config is out of its range; the message names it.
    """
    ranges.check(model)
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
    return MODULES[model.architecture](
        num_classes=num_classes,
        width=model.width,
        depth=model.depth or DEPTH[model.architecture],
        normalization=NORMALIZATION[model.architecture] if model.normalization == "auto" else model.normalization,
        dropout=model.dropout,
        dtype=activation_dtype(model.dtype),
        axis_name=axis_name,
    )
