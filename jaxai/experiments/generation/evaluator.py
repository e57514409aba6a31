"""Measures a generator at each evaluation of its training, and in full at the end."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxai.core import State
from jaxai.data import Images
from jaxai.experiments.generation.drawing import grid
from jaxai.experiments.generation.extractor import extract, load_extractor
from jaxai.experiments.generation.generator import MEASURED, Generator
from jaxai.experiments.generation.quality import Quality
from jaxai.files.array_files import read_arrays
from jaxai.files.unwritten import writing
from jaxai.report import mosaic, pictures
from jaxai.runtime import parallel
from jaxai.runtime.run_folder import RunFolder


class Evaluator:
    """The measures of a run's generator, and the frames of its progress.

    Args:
      experiment: the resolved configuration.
      images: that the generator learns from.

    Raises:
      ValueError: no such extractor, or too few images for its measures.
    """

    def __init__(self, experiment: Any, images: Images):
        self._experiment, self._images = experiment, images
        self._folder = RunFolder(experiment.run.workdir)
        self._generators: dict[Mesh, Generator] = {}
        self._draws = mosaic.available()
        # A mistake in the extractor or the number of samples is reported before anything is trained.
        self._quality = None if experiment.extractor == "none" else self._reference()

    def _reference(self) -> Quality:
        seen, labels = self._images.train["image"], self._images.train["label"]
        extractor = load_extractor(self._experiment.extractor, self._images.shape)
        place = extractor.labels_of(self._images.classes)
        known = None if place is None else place[labels]
        # They depend only on data and extractor, so they are the same for every seed.
        quality = Quality(extractor, seen, self._experiment.fidelity_samples, jax.random.key(0), known)
        path = self._folder.path / "reference.npz"
        if path.exists():
            remedy = "delete it, and training writes a new one"
            quality.check_stored(read_arrays(path, remedy, "extractor", "mean"), str(path))
        return quality

    def measure(self, mesh: Mesh, state: State, draw: bool = True) -> dict[str, Any]:
        """Fidelity during the training; writes a frame of the progress and the reference's statistics into the folder.

        Args:
          mesh: devices.
          state: of the training.
          draw: whether to write the frame and the statistics.

        Returns:
          The metrics of the evaluation; empty with the extractor "none".
        """
        generator = self._generators.setdefault(mesh, Generator(self._experiment.workload, mesh))
        if draw and self._quality:
            self._store_reference(self._quality)
        if draw and self._draws:
            self._draws = False  # a frame that fails is reported once
            with pictures.optional(None):
                frame = grid(self._experiment, generator, state)
                mosaic.write_png(frame, self._folder.pictures / "progress" / f"{int(state.step):08}.png", scale=1)
                self._draws = True
        return self._quality.during_training(*self._measured(self._quality, generator, state)) if self._quality else {}

    def _store_reference(self, quality: Quality) -> None:
        path = self._folder.path / "reference.npz"
        # Whole or not at all: a run that was killed here can resume.
        unfinished = path.with_name(".reference.npz")
        with writing(path):
            np.savez(unfinished, **quality.stored())  # type: ignore[arg-type]  # its parameter allow_pickle is not an array
            unfinished.replace(path)

    def in_full(self, state: State) -> dict[str, float]:
        """The slower measures."""
        if self._quality is None:
            return {}
        state = jax.device_put(state, jax.devices()[0])
        generator = Generator(self._experiment.workload, parallel.make_mesh(1))
        return self._quality.at_the_end(self._measured(self._quality, generator, state)[0])

    def _measured(
        self, quality: Quality, generator: Generator, state: State
    ) -> tuple[jax.Array, jax.Array, np.ndarray | None]:
        """Features, logits and labels of the samples; every evaluation draws them from the same latents."""
        key = jax.random.fold_in(jax.random.key(self._experiment.run.seed), MEASURED)
        samples = generator(state, max(self._experiment.samples, quality.samples), key)
        known = quality.extractor.labels_of(self._images.classes)
        asked = None if samples.label is None or known is None else known[samples.label]
        return *extract(quality.extractor, samples.image), asked
