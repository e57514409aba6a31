"""A trained generator: new images, of a class where the model is conditional."""

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxai import averages, gan, transfer
from jaxai.core import PyTree, State
from jaxai.experiments.generation.experiment import Experiment
from jaxai.experiments.generation.generator import Generator, Samples
from jaxai.ranges import Count, Seed, check_argument
from jaxai.runtime import parallel
from jaxai.runtime.run_folder import RunFolder
from jaxai.trained import Trained, portable

__all__ = ["TrainedGenerator", "label_number"]


class TrainedGenerator(Trained):
    """A run of adversarial training; see `jaxai.load`."""

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels; numbers if the run has no names; empty if unconditional."""
        return _classes(self.config)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The generator's collections that evaluation applies it with."""
        return gan.variables(self.state)

    def sample(self, count: int, label: int | str | None = None, seed: int = 0) -> np.ndarray:
        """Draws images.

        Args:
          count: number of images.
          label: class of the images of a conditional model: its name, or its number if no class has that name;
            None: labels with the frequencies of the training data, in turn if all are equally frequent.
          seed: of the latents; the first images do not depend on `count`.

        Returns:
          [count, height, width, channels] uint8.

        Raises:
          ValueError: count is below 1, there is no such label, no training image had it, or the model takes none.
        """
        return self.samples(count, label, seed).image

    def samples(self, count: int, label: int | str | None = None, seed: int = 0) -> Samples:
        """As `sample`, with the latents and labels that the images were drawn from.

        Args:
          count: number of images, at least 1.
          label: as for `sample`.
          seed: of the latents.

        Raises:
          ValueError: as for `sample`.
        """
        check_argument("count", Count, count)
        check_argument("seed", Seed, seed)
        return self._generator(self.state, count, jax.random.key(seed), label_number(self.config, label))

    def predict(self, latents: Any, labels: Any = None) -> np.ndarray:
        """The images of given latents.

        Args:
          latents: [n, latent_size] float32, standard normal; or `{"latent": latents, "label": labels}`.
          labels: [n] int32 of a conditional model.

        Returns:
          [n, height, width, channels] float32 in [-1, 1].
        """
        if isinstance(latents, Mapping):  # as `gan.make_predict` takes both
            latents, labels = latents.get("latent"), latents.get("label", labels)
        return np.asarray(self._generate(self.state, _inputs(jnp.asarray(latents), labels)))

    @property
    def starting_point(self) -> transfer.Start:
        """The last parameters of both networks, which belong together, and the averages of the generator."""
        extra = {"variables": self.state.extra["variables"]} | averages.start(self.variables)
        return transfer.Start(self.state.params, extra, self._sizes, str(self.folder))

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(self.config.workload, parallel.make_mesh(1))

    @functools.cached_property
    def _generate(self) -> Callable[[State, Any], jax.Array]:
        return jax.jit(gan.make_predict(self.config.workload))

    def _exported(self) -> tuple[Callable[..., PyTree], tuple[PyTree, ...]]:
        """Latents [batch, latent_size] float32 (and labels [batch] int32) -> images uint8."""
        config = portable(self.config.workload)
        predict = gan.make_predict(config)
        latents = jax.ShapeDtypeStruct((1, config.latent_size), np.float32)
        labels = (jax.ShapeDtypeStruct((1,), np.int32),) if config.conditional else ()
        return lambda *inputs: gan.as_uint8(predict(self.state, _inputs(*inputs))), (latents, *labels)

    @property
    def _pure_predict(self) -> Callable[[State, Any], PyTree]:
        return gan.make_predict(self.config.workload)

    @property
    def _description(self) -> str:
        config = self.config.workload
        kind = f"{len(self.classes)} classes of " if config.conditional else ""
        return f"{config.architecture}, {kind}images {list(config.image_shape)}"

    @property
    def _sizes(self) -> Mapping[str, int]:
        return {"classes": self.config.workload.num_classes}

    @property
    def _metadata(self) -> dict[str, Any]:
        return super()._metadata | {"classes": list(self.classes)}


def _inputs(latents: Any, labels: Any = None) -> dict[str, Any]:
    """The inputs of `gan.make_predict`."""
    return {"latent": latents} if labels is None else {"latent": latents, "label": jnp.asarray(labels)}


def label_number(config: Experiment, label: int | str | None) -> int | None:
    """The number of a label that a run was trained for; see `TrainedGenerator.sample`.

    Raises:
      ValueError: there is no such label, no training image had it, or the model takes none.
    """
    workload = config.workload
    if label is None:
        return None
    if not workload.conditional:
        raise ValueError(f"label is {label}, but this model takes none; leave it out, or train one with --conditional")
    number = _named(config, label) if isinstance(label, str) else label
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise ValueError(f"label is {label!r:.60}; expected one number or one name; predict takes one for each latent")
    if not 0 <= number < workload.num_classes:
        raise ValueError(f"label is {number}; this model has the labels 0 to {workload.num_classes - 1}")
    if number not in (learned := config.learned_labels):
        raise ValueError(
            f"label is {number}, which no training image has, so the generator did not learn it; choose one of"
            f" {', '.join(map(str, learned))}"
        )
    return int(number)


def _named(config: Experiment, text: str) -> int:
    # By name first: of folders 1, 2 and 10, the first is called 1 and has the label 0.
    classes = _classes(config)
    if text in classes:
        return classes.index(text)
    try:
        return int(text)
    except ValueError:
        near = difflib.get_close_matches(text, classes, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"label is {text}; this model has the labels 0 to {config.workload.num_classes - 1}, or the names of its"
            f" classes{hint}"
        ) from None


def _classes(config: Experiment) -> tuple[str, ...]:
    if not config.workload.conditional:
        return ()
    names = (RunFolder(config.run.workdir).data() or {}).get("classes")
    return tuple(map(str, names or range(config.workload.num_classes)))
