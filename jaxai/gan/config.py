"""Adversarial image generation: the configuration, and functions of it alone."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from jaxai import inputs, ranges
from jaxai.gan.diffaugment import check as check_policy
from jaxai.gan.losses import Loss
from jaxai.gan.model import Model
from jaxai.optimizer import Optimizer
from jaxai.ranges import Count, ImageShape, NonNegative, Range, Rate, Share

__all__ = ["Config", "as_uint8", "check", "example_batch", "normalize", "penalty_weight"]

Updates = Literal["alternating", "simultaneous"]
Smoothing = Annotated[float, Range(least=0, below=0.5)]
WASSERSTEIN_PENALTY = 10.0
"""Default weight of the gradient penalty (Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1)."""
ADAM = Optimizer("adam", learning_rate=2e-4, b1=0.5)
"""Adam as Radford et al. 2016 (arXiv:1511.06434) use it for both networks."""


@dataclass(frozen=True)
class Config(Model):
    """Two networks (the fields of `Model`) and how they are trained against each other."""

    image_shape: ImageShape = (28, 28, 1)  # height, width and channels of an image; pixels
    num_classes: Count = 10  # labels of a conditional model are 0 to num_classes - 1
    label_frequencies: tuple[
        Share, ...
    ] = ()  # frequency of each label in generated images of a conditional model; (): as in the data
    loss: Loss = "non_saturating"  # adversarial loss of both networks
    smooth_real: Smoothing = 0.0  # one-sided label smoothing: the target of real images is 1 - smooth_real
    smooth_fake: Smoothing = 0.0  # target of generated images, for two-sided label smoothing
    gradient_penalty: NonNegative | None = None  # weight of the Wasserstein penalty; None: 10 with that loss, else 0
    r1: NonNegative = 0.0  # gamma of the R1 penalty on real images; 0: off
    r1_interval: Count = 1  # number of discriminator updates per R1 penalty; the penalty is scaled by it
    updates: Updates = "alternating"  # order in a step: alternating: discriminator, then generator; or simultaneous
    discriminator_steps: Count = 1  # discriminator updates per generator update
    generator_optimizer: Optimizer = ADAM
    discriminator_optimizer: Optimizer = ADAM
    ema_decay: Rate = 0.0  # decay of the moving average of the generator, used for samples; 0: no average
    diffaugment: tuple[str, ...] = ()  # augmentation of the discriminator's inputs: color, translation, cutout


def normalize(config: Config, images: jax.Array) -> jax.Array:
    """Images in the range of the networks: float32 in [-1, 1].

    Args:
      config: has the number of channels.
      images: [..., channels] uint8 in [0, 255], or floats in [0, 1].

    Raises:
      ValueError: another dtype (the largest value of an int32 or uint16 image is not known), or other channels.
    """
    if images.shape[-1:] != config.image_shape[-1:]:
        raise ValueError(f"images have shape {list(images.shape)}; expected [..., {config.image_shape[-1]}] channels")
    return 2 * inputs.scaled(images) - 1


def as_uint8(images: jax.Array) -> jax.Array:
    """The inverse of `normalize`.

    Args:
      images: floats in [-1, 1]; other values are clipped.

    Returns:
      The same shape, uint8 in [0, 255], rounded.

    Raises:
      ValueError: images of another dtype than float.
    """
    inputs.check_floats("images", images, "floats in [-1, 1], as make_predict returns them")
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def example_batch(config: Config, batch_size: int) -> dict[str, Any]:
    """Shapes and dtypes of a training batch, to lower a step or to count its operations.

    Args:
      config: of both networks.
      batch_size: real images in an update of the discriminator; a step takes `discriminator_steps` times this number.
    """
    images = batch_size * config.discriminator_steps
    return {
        "image": jax.ShapeDtypeStruct((images, *config.image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((images,), jnp.int32),
    }


def penalty_weight(config: Config, own_loss: bool = False) -> float:
    """The weight of the Wasserstein gradient penalty; 0 where it is off."""
    if config.gradient_penalty is None:
        return WASSERSTEIN_PENALTY if config.loss == "wasserstein" and not own_loss else 0.0
    return config.gradient_penalty


def check(config: Config, own_loss: bool = False) -> None:
    """Checks a configuration.

    Args:
      config: of both networks.
      own_loss: the loss is the caller's, not the one that the config names.

    Raises:
      ValueError: a field has a value that cannot be trained with; one line that names it.
    """
    ranges.check(config)
    for name in ("smooth_real", "smooth_fake"):
        if getattr(config, name) and config.loss in ("wasserstein", "hinge") and not own_loss:
            raise ValueError(
                f"{name} is {getattr(config, name)}, expected 0: the {config.loss} loss has no labels to smooth, take"
                " minimax, non_saturating or least_squares"
            )
    penalized = config.r1 or penalty_weight(config, own_loss)
    if penalized and config.discriminator_normalization == "batch":
        raise ValueError(
            "discriminator_normalization is 'batch', with which a gradient penalty, a function of single images, has no"
            " meaning (arXiv:1704.00028, section 4); choose layer or none"
        )
    if config.updates == "simultaneous" and config.discriminator_steps > 1:
        raise ValueError(
            f"updates is 'simultaneous' with discriminator_steps {config.discriminator_steps}; simultaneous"
            " updates need 1; choose alternating"
        )
    check_policy(config.diffaugment)
    frequencies = config.label_frequencies
    if frequencies and (len(frequencies) != config.num_classes or abs(sum(frequencies) - 1) > 1e-3):
        raise ValueError(
            f"label_frequencies are {len(frequencies)} numbers with the sum {sum(frequencies):.4g}; give one for each"
            f" of {config.num_classes} classes, with the sum 1"
        )
