"""Image classification: the configuration, and functions of it alone."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxai import inputs, ranges
from jaxai.cnn.augment import Augment, TestTime
from jaxai.cnn.model import Model
from jaxai.optimizer import Optimizer
from jaxai.ranges import Count, Finite, ImageShape, Natural, NonNegative, Positive, Range, Rate

__all__ = ["ClassWeights", "Config", "balanced_class_weights", "check", "example_batch", "normalize"]

ClassWeights = Literal["none", "balanced"] | tuple[NonNegative, ...]


@dataclass(frozen=True)
class Config(Model):
    """A network (the fields of `Model`) and how it is trained."""

    image_shape: ImageShape = (32, 32, 3)  # height, width and channels of an image; pixels
    num_classes: Annotated[int, Range(least=2)] = 10  # labels are 0 to num_classes - 1
    image_mean: tuple[Finite, ...] = (0.5,)  # subtracted from images scaled to [0, 1], for each channel or for all
    image_std: tuple[Positive, ...] = (0.5,)  # the difference is divided by this, for each channel or for all
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    class_weights: ClassWeights = "none"  # factor of each class in the training loss; balanced: from their frequencies
    label_smoothing: Rate = 0.0  # share of the label spread evenly over all classes (Szegedy et al. 2016)
    ema_decay: Rate = 0.0  # decay of the moving average of weights and batch statistics that evaluation uses; 0: none
    gradient_blocks: Natural = 0  # number of blocks for gradient accumulation over a batch; 0: 1, on CPU blocks of 16
    steps_per_epoch: Count = 1  # optimizer steps in an epoch; filled in from the data
    test_time: TestTime = "none"  # views of a test image whose logits are averaged


def normalize(config: Config, images: jax.Array) -> jax.Array:
    """The input of the network: float32, scaled to [0, 1] if uint8, minus `image_mean`, divided by `image_std`.

    Args:
      config: has the mean and the deviation.
      images: [..., channels] uint8 in [0, 255], or floats in [0, 1], which are not scaled again.

    Raises:
      ValueError: another dtype (the largest value of an int32 or uint16 image is not known), or other channels.
    """
    if images.shape[-1:] != config.image_shape[-1:]:  # a mean for each channel would broadcast
        raise ValueError(f"images have shape {list(images.shape)}; expected [..., {config.image_shape[-1]}] channels")
    return (inputs.scaled(images) - jnp.array(config.image_mean)) / jnp.array(config.image_std)


def example_batch(config: Config, batch_size: int) -> dict[str, Any]:
    """Shapes and dtypes of a training batch, to lower a step or to count its operations."""
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *config.image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }


def balanced_class_weights(labels: jax.typing.ArrayLike, num_classes: int) -> tuple[float, ...]:
    """Class weights that give every class the same total weight in the training loss.

    `examples / (classes * examples of the class)`, as in scikit-learn, so that their mean over the examples is 1.
    Classes without examples get 0 and are not counted among `classes`.

    Args:
      labels: int [examples], of the training data.
      num_classes: number of classes.

    Raises:
      ValueError: no labels, labels that are not integers [examples], or one out of range.
    """
    given = np.asarray(labels)
    inputs.check_labels(given, len(given))
    if not len(given) or given.min() < 0 or given.max() >= num_classes:
        there = f"{given.min()} to {given.max()}" if len(given) else "none"
        raise ValueError(f"labels are {there}; expected 0 to {num_classes - 1}, for {num_classes} classes")
    counts = np.bincount(given, minlength=num_classes)
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return tuple(np.where(counts > 0, weights, 0).tolist())


def check(config: Config) -> None:
    """Checks a configuration.

    Raises:
      ValueError: a field has a value that cannot be trained with; one line that names it.
    """
    ranges.check(config)
    channels = config.image_shape[-1]
    for name, value in (("image_mean", config.image_mean), ("image_std", config.image_std)):
        if len(value) not in (1, channels):
            raise ValueError(f"{name} has {len(value)} values; give one for all channels or one for each of {channels}")
        if max(value) > 1:
            raise ValueError(f"{name} is {ranges.shown(value)}, and images are in [0, 1]: divide it by 255")
    weights = config.class_weights
    if weights == "balanced":
        raise ValueError(
            "class_weights is 'balanced', which an experiment computes from its data; here give the weights themselves:"
            " cnn.balanced_class_weights(labels, num_classes)"
        )
    if weights != "none" and (len(weights) != config.num_classes or not any(weights)):
        raise ValueError(
            f"class_weights are {ranges.shown(weights)}; give one for each of {config.num_classes} classes, not all of"
            " them 0"
        )
