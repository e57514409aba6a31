"""Draws any number of images from a trained generator, in chunks of one shape."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxai import gan
from jaxai.core import State
from jaxai.runtime import parallel

CHUNK = 500
"""Number of images in a chunk; the result does not depend on it."""
MEASURED = 1_000_000
"""Folded into the seed of a run for the latents of its evaluations, so that training draws others."""


class Samples(NamedTuple):
    """Images [n, height, width, channels] uint8, their latents, and their labels [n] int32 or None.

    The names are those of a batch of data.
    """

    image: np.ndarray
    latent: np.ndarray
    label: np.ndarray | None


class Generator:
    """Draws images from a state, on the devices of a mesh, in chunks of one shape."""

    def __init__(self, config: gan.Config, mesh: Mesh):
        self._config, self._chunk = config, -(-CHUNK // mesh.size) * mesh.size
        predict = gan.make_predict(config)
        shared = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
        self._generate = jax.jit(
            lambda state, latents, labels: gan.as_uint8(predict(state, {"latent": latents, "label": labels})),
            in_shardings=(None, shared, shared if config.conditional else None),
        )

    def __call__(self, state: State, count: int, key: jax.Array, label: int | None = None) -> Samples:
        """`count` samples, of one label or of the labels that `labels` returns."""
        latents = self.latents(key, count)
        labels = self.labels(count) if label is None else np.full(count, label)
        images = self.images(state, latents, labels)
        return Samples(images, latents, labels.astype(np.int32) if self._config.conditional else None)

    def labels(self, count: int) -> np.ndarray:
        """[count] int32, the labels of a conditional model: classes in turn, or with the frequencies of the data.

        The first labels do not depend on `count`.
        """
        if not self._config.label_frequencies:
            return (np.arange(count) % self._config.num_classes).astype(np.int32)
        # Multiples of the golden ratio fill the interval evenly at any count (Weyl 1916).
        ends = np.cumsum(self._config.label_frequencies)
        places = (np.arange(count) + 0.5) * (math.sqrt(5) - 1) / 2 % 1 * ends[-1]
        return np.searchsorted(ends, places, side="right").astype(np.int32)

    def latents(self, key: jax.Array, count: int) -> np.ndarray:
        """[count, latent_size] float32; the first latents do not depend on `count`."""
        draw = jax.vmap(lambda index: jax.random.normal(jax.random.fold_in(key, index), (self._config.latent_size,)))
        return np.asarray(draw(jnp.arange(count)))

    def images(self, state: State, latents: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The images of given latents.

        Args:
          state: of the training.
          latents: [n, latent_size] float32.
          labels: [n] int32; an unconditional model does not use them.

        Returns:
          [n, height, width, channels] uint8.
        """
        parts = []
        for first in range(0, len(latents), self._chunk):
            latent, label = (each[first : first + self._chunk] for each in (latents, labels))
            missing = self._chunk - len(latent)
            latent, label = np.pad(latent, [(0, missing), (0, 0)]), np.pad(label, (0, missing)).astype(np.int32)
            images = self._generate(state, latent, label if self._config.conditional else None)
            parts.append(np.asarray(images)[: self._chunk - missing])
        return np.concatenate(parts)
