"""Differentiable augmentation of the discriminator's inputs, real and fake (Zhao et al. 2020, arXiv:2006.10738).

Pure functions of a key on images [batch, height, width, channels] float, usually in [-1, 1], so that 0 is mid-grey.
Random numbers are drawn for each example separately, and the gradient passes through to the images.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxai import inputs
from jaxai.core import Key

TRANSLATION = 1 / 8  # largest shift, as a share of the side
CUTOUT = 1 / 2  # side of the blanked box, as a share of the image's side


def diffaugment(policy: Sequence[str], key: Key, images: Array) -> Array:
    """The images augmented by each part of the policy in turn; an empty policy is the identity.

    Args:
      policy: of "color", "translation" and "cutout"; the paper's is these three in this order.
      key: of this step, device and call.
      images: [batch, height, width, channels] float.

    Returns:
      Images of the same shape and dtype, not clipped to [-1, 1].

    Raises:
      ValueError: an unknown name in the policy, or images of another dtype than float.
    """
    check(policy)
    inputs.check_floats("images", images, "floats in [-1, 1]: gan.normalize(config, images)")
    for part, name in enumerate(policy):
        images = POLICIES[name](jax.random.fold_in(key, part), images)
    return images


def check(policy: Sequence[str]) -> None:
    """Raises ValueError unless every name of the policy is known."""
    for name in policy:
        if name not in POLICIES:
            raise ValueError(f"diffaugment has {name!r}, expected names among {', '.join(POLICIES)}")


def color(key: Key, images: Array) -> Array:
    """Brightness, then saturation, then contrast, each with one random number per example.

    `x + U(-0.5, 0.5)`; `(x - m) * U(0, 2) + m`, m the mean over channels of each pixel; `(x - m) * U(0.5, 1.5) + m`, m
    the mean over pixels and channels.
    """
    uniform = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1)).astype(images.dtype)
    brightness, saturation, contrast = uniform[0] - 0.5, 2.0 * uniform[1], uniform[2] + 0.5
    images = images + brightness
    images = _about(jnp.mean(images, axis=3, keepdims=True), images, saturation)
    return _about(jnp.mean(images, axis=(1, 2, 3), keepdims=True), images, contrast)


def translation(key: Key, images: Array) -> Array:
    """Shifts each image by up to an eighth of the side in each direction, filled with 0.

    The eighth is rounded to whole pixels, half a pixel up.
    """
    height, width, channels = images.shape[1:]
    rows, columns = _share(TRANSLATION, height), _share(TRANSLATION, width)
    padded = jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, jnp.array([2 * rows + 1, 2 * columns + 1]))
    # A gather, as in the classifier's crop: the fastest of its forms on CPU.
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), (height, width, channels)))(
        padded, offsets
    )


def cutout(key: Key, images: Array) -> Array:
    """Sets a box of half the sides to 0 at a random position of each image, clipped at the border.

    The centre is any pixel, or, where the side of the box is even, any edge between pixels including the border.
    """
    inside = []
    for axis_key, pixels in zip(jax.random.split(key), images.shape[1:3], strict=True):
        side = _share(CUTOUT, pixels)
        middle = jax.random.randint(axis_key, (images.shape[0], 1), 0, pixels + 1 - side % 2)
        start = middle - side // 2
        inside.append((jnp.arange(pixels) >= start) & (jnp.arange(pixels) < start + side))
    box = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return jnp.where(box, jnp.zeros((), images.dtype), images)


POLICIES: Mapping[str, Callable[[Key, Array], Array]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def _about(mean: Array, images: Array, scale: Array) -> Array:
    return (images - mean) * scale + mean


def _share(ratio: float, pixels: int) -> int:
    return int(ratio * pixels + 0.5)
