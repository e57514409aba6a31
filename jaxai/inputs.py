"""Inputs of a step: shapes and dtypes, checked while tracing.

Both are static, so that the checks cost nothing at run time and work under `jit`, `pmap`, `shard_map`, `vmap` and
`scan`. Values are checked where data is loaded (`jaxai.data`). Every error is a ValueError of one line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NEAR = {"image": ("images", "x", "inputs", "pixels"), "label": ("labels", "y", "target", "targets")}
"""Usual names of these arrays in other libraries, for hints in messages."""


def required(batch: Any, *names: str) -> list[jax.Array]:
    """The arrays of these names in a batch.

    Raises:
      ValueError: the batch is not a mapping, lacks a name, or has a value that is not an array.
    """
    if not isinstance(batch, Mapping):
        expected = ", ".join(f'"{name}": ...' for name in names)
        raise ValueError(f"the batch is a {type(batch).__name__}; expected a dict {{{expected}}} of arrays")
    found = []
    for name in names:
        if name not in batch:
            near = next((key for key in (*NEAR.get(name, ()), f"{name}s") if key in batch), None)
            hint = f'rename "{near}" to "{name}"' if near else f'add "{name}"'
            raise ValueError(f'the batch has no "{name}", only {", ".join(map(repr, batch)) or "nothing"}: {hint}')
        found.append(array(name, batch[name]))
    return found


def array(name: str, value: Any) -> jax.Array:
    """The value as a JAX array.

    Raises:
      ValueError: it is not an array of numbers, but a list, for example.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in (np.number, np.bool_)):
        given = f"a {type(value).__name__}" if dtype is None else f"an array of {dtype}"
        raise ValueError(f"{name} is {given}; expected an array of numbers: numpy.asarray({name})")
    return jnp.asarray(value)


def check_labels(labels: jax.Array | np.ndarray, examples: int, name: str = "labels") -> None:
    """Checks that labels are integers [examples], so that nothing is broadcast or rounded.

    Args:
      labels: the array to check.
      examples: number of examples.
      name: of the array, for the message.

    Raises:
      ValueError: another shape or dtype; one line with the fix.
    """
    if labels.shape != (examples,):
        hint = f"one for each of the {examples} examples"
        if labels.ndim == 2 and labels.shape[0] == examples:
            hint = f"take {name}[:, 0]" if labels.shape[1] == 1 else f"from one-hot, take {name}.argmax(-1)"
        elif labels.ndim == 2 and labels.shape == (1, examples):
            hint = f"take {name}[0]"
        raise ValueError(f"{name} have shape {list(labels.shape)}; expected [{examples}]: {hint}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"{name} are {labels.dtype}; expected integers: take {name}.astype(int32)")


def check_per_example(name: str, value: jax.Array, examples: int) -> None:
    """Checks that an array has one number for each example.

    Args:
      name: of the array, for the message.
      value: must be [examples].
      examples: number of examples.

    Raises:
      ValueError: another shape; one line with the fix.
    """
    if value.shape != (examples,):
        hint = f": take {name}[:, 0]" if value.shape == (examples, 1) else ""
        raise ValueError(f"{name} has shape {list(value.shape)}; expected [{examples}], a number an example{hint}")


def mask(batch: Mapping[str, Any] | None, examples: int) -> jax.Array:
    """The batch's `"mask"` as float32 [examples]; ones where there is none.

    Raises:
      ValueError: it has another shape.
    """
    if batch is None or "mask" not in batch:
        return jnp.ones(examples)
    value = array("mask", batch["mask"])
    check_per_example("mask", value, examples)
    return value.astype(jnp.float32)


def check_images(images: jax.Array | np.ndarray, image_shape: Sequence[int]) -> None:
    """Raises ValueError unless `images` are [batch, *image_shape] uint8 or float."""
    shape, expected = tuple(images.shape), tuple(image_shape)
    if len(shape) != 4 or shape[1:] != expected:
        height, width, channels = expected
        hint = ""
        if shape == expected:
            hint = ": add the batch axis with images[None]"
        elif channels == 1 and shape[1:] == (height, width):
            hint = ": add the channel axis with images[..., None]"
        elif shape[1:] == (channels, height, width):
            hint = ": put the channels last with images.transpose(0, 2, 3, 1)"
        elif len(shape) == 4:
            hint = f"; image_shape of the configuration is {list(expected)}"
        raise ValueError(
            f"images have shape {list(shape)}; expected [batch, height, width, channels] as"
            f" [batch, {height}, {width}, {channels}]{hint}"
        )
    if not shape[0]:
        raise ValueError("the batch has no images; expected at least 1")
    _check_pixels(images)


def scaled(images: jax.Array) -> jax.Array:
    """Images in [0, 1] as float32: uint8 divided by 255, floats as they are.

    Other integers are refused, because their range is unknown: an int32 may hold 0 to 255, a uint16 12 bits.

    Args:
      images: uint8 in [0, 255], or floats in [0, 1].

    Raises:
      ValueError: another dtype.
    """
    _check_pixels(images)
    floats = jnp.asarray(images, jnp.float32)
    return floats / 255 if images.dtype == jnp.uint8 else floats


def check_floats(name: str, value: jax.Array, expected: str) -> None:
    """Checks that an array has a floating-point dtype.

    Args:
      name: of the array, for the message.
      value: the array.
      expected: end of the message: the expected values, and the expression that gives them.

    Raises:
      ValueError: another dtype.
    """
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name} are {value.dtype}; expected {expected}")


def _check_pixels(images: jax.Array | np.ndarray) -> None:
    if images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating):
        return
    hint = "images.astype(float32)"
    if images.dtype != jnp.bool_:
        hint = "images.astype(uint8) where they are 0 to 255, else divide by the largest value that they can have"
    raise ValueError(f"images are {images.dtype}; expected uint8 in [0, 255] or floats in [0, 1]: {hint}")
