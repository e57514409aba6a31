"""Pictures of a generator: samples, the progress of training, interpolations, nearest training images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxai import gan
from jaxai.core import State
from jaxai.data import Images
from jaxai.experiments.generation.generator import MEASURED, Generator
from jaxai.gan import fidelity
from jaxai.gan.latent import spherical_interpolation
from jaxai.report import mosaic
from jaxai.runtime import parallel
from jaxai.runtime.run_folder import RunFolder

NEIGHBOURS, ROWS, COLUMNS = 5, 8, 8


def draw(config: Any, images: Images, state: State, folder: RunFolder) -> None:
    """The pictures of a trained state: its progress, the way between latents, and the nearest training images.

    Args:
      config: the resolved configuration.
      images: that it was trained on.
      state: trained.
      folder: of the run.
    """
    if not mosaic.available():
        return
    generator, key = Generator(config.workload, parallel.make_mesh(1)), jax.random.key(config.run.seed)
    state = jax.device_put(state, jax.devices()[0])
    by_column = "; a column for each label" if config.workload.conditional else ""
    captions = {"samples.png": "Samples of the trained generator, from fixed latents" + by_column}
    mosaic.write_png(grid(config, generator, state), folder.pictures / "samples.png")
    frames = sorted((folder.pictures / "progress").glob("*.png"))
    if frames:
        steps = [f"step {int(frame.stem):,}" for frame in frames]
        mosaic.write_gif([mosaic.read_png(frame) for frame in frames], folder.pictures / "progress.gif", captions=steps)
        captions["progress.gif"] = "The same latents during training"
    ends = generator.latents(jax.random.fold_in(key, MEASURED + 1), 2 * ROWS).reshape(2, ROWS, 1, -1)
    ways = spherical_interpolation(ends[0], ends[1], np.linspace(0, 1, COLUMNS + 2))
    labels = np.repeat(np.resize(config.learned_labels, ROWS), COLUMNS + 2)
    between = generator.images(state, np.asarray(ways).reshape(-1, ways.shape[-1]), labels)
    mosaic.write_png(mosaic.tile(mosaic.visible(between), COLUMNS + 2), folder.pictures / "interpolation.png")
    captions["interpolation.png"] = "From one latent to another along the sphere, a row each"
    samples = generator(state, ROWS * COLUMNS, jax.random.fold_in(key, MEASURED + 2)).image
    nearest, ratio = nearest_images(config.workload, samples, images)
    mosaic.write_png(nearest, folder.pictures / "neighbours.png")
    captions["neighbours.png"] = (
        f"Is it copying? Left: samples; right: their {NEIGHBOURS} nearest training images, by pixels. The nearest"
        f" is {ratio:.2f} times as far from a sample as from a test image (medians); far below 1 would be copies"
    )
    folder.write_json("pictures/captions.json", captions)


def grid(config: Any, generator: Generator, state: State) -> np.ndarray:
    """Images of the same latents at every call, a column for each label of a conditional model.

    Args:
      config: the resolved configuration.
      generator: of it.
      state: of the training.

    Returns:
      One picture, [height, width, channels] uint8.
    """
    shown = config.learned_labels[:20] if config.workload.conditional else [0] * COLUMNS
    columns = len(shown)
    latents = generator.latents(jax.random.key(config.run.seed), ROWS * columns)
    labels = np.resize(shown, ROWS * columns)
    return mosaic.tile(mosaic.visible(generator.images(state, latents, labels)), columns)


def nearest_images(config: gan.Config, samples: np.ndarray, images: Images) -> tuple[np.ndarray, float]:
    """A picture of samples and their nearest training images, and how near they are.

    Args:
      config: of the networks.
      samples: [n, height, width, channels] uint8.
      images: that the generator was trained on.

    Returns:
      The picture, and the median distance of a sample to its nearest training image, divided by that of a test image.
    """
    # Samples are uint8; floats in [0, 1] would be compared with values 255 times as large.
    trained, tested = (
        each if each.dtype == np.uint8 else np.asarray(gan.as_uint8(gan.normalize(config, jnp.asarray(each))))
        for each in (images.train["image"], images.test["image"])
    )
    flat = [
        jnp.asarray(each.reshape(len(each), -1), jnp.float32) for each in (samples, tested[: len(samples)], trained)
    ]
    neighbours = min(NEIGHBOURS, len(trained))
    distances, indices = fidelity.neighbours(flat[0], flat[2], neighbours)
    usual, _ = fidelity.neighbours(flat[1], flat[2], 1)
    shown = [
        np.stack([sample, *trained[row]]) for sample, row in zip(samples[:ROWS], np.asarray(indices), strict=False)
    ]
    ratio = float(np.median(distances[:, 0]) / max(np.median(usual), 1e-9))
    return mosaic.tile(mosaic.visible(np.concatenate(shown)), neighbours + 1), ratio
