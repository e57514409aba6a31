"""Encoding of observations for the network: pixels scaled, categories one-hot, everything else cast to float32."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxai.dqn import spaces
from jaxai.dqn.spec import EnvironmentSpec

__all__ = ["Encoding", "Observations", "check_storage", "make_encoding", "not_bits"]

Observations = Literal["auto", "scale", "cast", "one_hot"]

PIXEL_RANGE = (0.0, 255.0)
PIXEL_SIDE = 36
"""Without a space, uint8 images of at least this height and width are pixels; smaller ones may be symbols."""
MOST_CATEGORIES = 65_536
"""Largest number of one-hot inputs of a network; each costs a row of its first layer."""


@dataclass(frozen=True)
class Encoding:
    """The input of the network for an observation.

    Attributes:
      scale: factor of the numbers.
      categories: (first, count) of each number of an observation, in order; all become one-hot. Empty: none do.
    """

    scale: float = 1.0
    categories: tuple[tuple[int, int], ...] = ()

    def shape(self, observation: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the input for an observation of this shape, without the batch axis.

        One-hot numbers are concatenated to a vector. An image with the same number of categories everywhere stays an
        image: [height, width, channels * count].
        """
        if not self.categories:
            return observation
        counts = [count for _, count in self.categories]
        if len(observation) not in (2, 3) or len(set(counts)) > 1:
            return (sum(counts),)
        return (*observation[:2], int(np.prod(observation[2:], initial=1)) * counts[0])

    def __call__(self, observations: jax.Array) -> jax.Array:
        """Observations [batch, ...] -> float32 [batch, *shape]; a number outside its categories becomes zeros."""
        if not self.categories:
            return observations.astype(jnp.float32) * self.scale
        number = np.repeat(np.arange(len(self.categories)), [count for _, count in self.categories])
        category = np.concatenate([first + np.arange(count) for first, count in self.categories])
        numbers = observations.reshape(observations.shape[0], -1).astype(jnp.int32)
        hot = (numbers[:, number] == category).astype(jnp.float32)
        return hot.reshape(hot.shape[0], *self.shape(observations.shape[1:]))


def make_encoding(observations: Observations, spec: EnvironmentSpec, frame_stack: int = 1) -> Encoding:
    """The encoding of a configuration, for an environment and its observation space.

    - `auto`: uint8 in 0 to 255 is scaled, and so are images of another dtype whose space has it and these bounds; a
      Discrete or MultiDiscrete space is one-hot, everything else is cast.
    - `scale`: divided by 255. `cast`: as they are.
    - `one_hot`: the categories of the space, or all integers between its bounds.

    Args:
      observations: the field of the configuration.
      spec: of the environment.
      frame_stack: frames that an observation of the network has.

    Raises:
      ValueError: the space does not determine the encoding (the message names the choices), or has too many categories.
    """
    shape, dtype = spec.observation_shape, spec.observation_dtype
    integers = not jnp.issubdtype(dtype, jnp.floating)
    if observations == "scale":
        return Encoding(1 / 255)
    if observations == "cast":
        return Encoding()
    found, bounds, name = spec.categories, spec.bounds, spec.name
    image = len(shape) in (2, 3) and min(shape[:2]) >= PIXEL_SIDE
    # A wrapper may have scaled the pixels without changing the space: then the dtypes differ.
    if observations == "auto" and image and bounds == PIXEL_RANGE and spaces.dtype(spec.space) == dtype:
        return Encoding(1 / 255)
    if observations == "auto" and not integers and shape:
        return Encoding()
    if observations == "one_hot" and not found:
        low, high = (0.0, 1.0) if dtype == jnp.bool_ else bounds or (-math.inf, math.inf)
        if not integers or not high - low < MOST_CATEGORIES:
            raise ValueError(
                f"observations is one_hot, but those of {name} are {dtype.name} from {low:g} to {high:g}; "
                "it needs a Discrete observation_space, or integers between near bounds"
            )
        found = ((int(low), int(high - low) + 1),) * math.prod(shape)
    if found:
        return Encoding(categories=_stacked(found, shape, frame_stack, name))
    if dtype == np.uint8 and bounds == PIXEL_RANGE:
        return Encoding(1 / 255)
    if dtype == np.uint8 and bounds is None:
        if image:
            return Encoding(1 / 255)
        raise ValueError(
            f"{name} observes uint8{list(shape)} and has no observation_space with bounds; choose --observations "
            "scale for pixels from 0 to 255, or cast for symbols"
        )
    if shape == () and bounds is None and jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"{name} observes one {dtype.name} and has no observation_space; give it one (Discrete(n) for the number "
            "of a state), or choose --observations cast for a quantity"
        )
    return Encoding()


def check_storage(spec: EnvironmentSpec) -> None:
    """Raises ValueError where a bit cannot hold a number of an observation, by the observation space."""
    low, high = spec.bounds or (0.0, 1.0)
    for first, count in spec.categories:
        low, high = min(low, first), max(high, first + count - 1)
    # Infinite bounds are no information; then the values are checked while training.
    if (math.isfinite(low) and low < 0) or (math.isfinite(high) and high > 1):
        raise ValueError(
            f"storage is bits, but observations of {spec.name} are from {low:g} to {high:g}, and a bit holds 0 "
            "or 1; choose dtype, or auto"
        )


def not_bits(frames: jax.Array) -> jax.Array:
    """Frames [batch, ...] -> [batch] bool: whether a frame has other values than 0 and 1."""
    return ~((frames == 0) | (frames == 1)).reshape(len(frames), -1).all(1)


def _stacked(
    categories: tuple[tuple[int, int], ...], shape: tuple[int, ...], frame_stack: int, name: str
) -> tuple[tuple[int, int], ...]:
    """The categories of `frame_stack` frames, in the order of `frames.stack`."""
    axes = shape if len(shape) in (1, 3) else (*shape, 1)
    each = np.array(categories).reshape(*axes, 2)
    each = np.concatenate([each] * frame_stack, axis=-2).reshape(-1, 2)
    if each[:, 1].sum() > MOST_CATEGORIES:
        raise ValueError(
            f"observations of {name} have {each[:, 1].sum()} categories, and one-hot at most {MOST_CATEGORIES}; "
            "choose --observations cast"
        )
    return tuple((first, count) for first, count in each.tolist())
