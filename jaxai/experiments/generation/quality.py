"""The quality of a generator's images: all measures in the features of one network, each with its floor."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from jaxai.core import Key
from jaxai.experiments.generation.extractor import Extractor, extract
from jaxai.experiments.generation.metrics import METRICS
from jaxai.gan import fidelity
from jaxai.metrics import Meanings, is_number

CONFIDENT = 0.9
"""The classifier is sure of a sample if the probability of its label is higher than this."""
LEAST_SHARE = 0.01
"""A label with a smaller share of the samples counts as lost by the generator."""
LOST_MODES = 0.8
"""Share of the labels of real images below which a generator is reported to have collapsed."""
TRUSTED = 0.8
"""Share of real images that a classifier must label correctly, or be sure of, to be used for samples."""
SUBSET = 1_000
"""Number of images in a subset of the kernel distance, as usual."""


class Quality:
    """Measures images against a reference of real ones, in the features of one extractor.

    The reference and the floor come from two disjoint halves of the real images, each of the same size as the sample of
    generated ones: the floor is the value of a perfect generator.

    Args:
      extractor: the network of the features.
      real: uint8 [examples, height, width, channels].
      samples: number of images to measure; 0: 10,000, or half of the real ones if that is fewer.
      key: for the choice of the halves and of the subsets.
      labels: int [examples], of the real images, if the extractor classifies into these; None: unknown.

    Raises:
      ValueError: too few images for a Fréchet distance; the message has the number that is needed.
    """

    def __init__(
        self, extractor: Extractor, real: np.ndarray, samples: int, key: Key, labels: np.ndarray | None = None
    ):
        self.extractor = extractor
        self.samples = samples or min(10_000, len(real) // 2)
        least = fidelity.least_samples(extractor.features)
        if self.samples < least or len(real) < 2 * self.samples:
            asked = f"fidelity_samples is {samples}" if samples else f"half of the real images are {self.samples}"
            raise ValueError(
                f"{asked}, and there are {len(real)} real images: a Fréchet distance in the {extractor.features}"
                f" features of {extractor.name} needs at least {least} samples, and twice as many real images as"
                " samples, half of them for the floor; with fewer images train with --extractor none, which measures"
                " nothing, or take an extractor of fewer features"
            )
        order_key, self._key = jax.random.split(key)
        order = np.asarray(jax.random.permutation(order_key, len(real)))
        first, second = order[: self.samples], order[self.samples : 2 * self.samples]
        self.reference = extract(extractor, real[first])[0]
        self._held_out, logits = extract(extractor, real[second])
        self._classified: dict[str, Any] = {}
        if extractor.classes:
            real_ones = classified(logits, None if labels is None else labels[second])
            self._classified = {f"{name}_floor": value for name, value in real_ones.items()}
        self.statistics = fidelity.statistics(self.reference, extractor.name)
        self._floor = float(fidelity.frechet_distance(self.reference, self._held_out))

    def during_training(self, features: jax.Array, logits: jax.Array, labels: np.ndarray | None) -> dict[str, Any]:
        """The measures that are cheap enough for every evaluation: Fréchet distance and statistics of the classifier.

        The floor of each, `NAME_floor`, is its value on the held-out half of the real images. Statistics of a
        classifier that was trained on other images have a meaning in comparison with their floor alone.

        Args:
          features: [samples, features] of generated images.
          logits: [samples, classes] of them; [samples, 0] if the extractor is no classifier.
          labels: [samples], the labels that a conditional model was given; None for an unconditional one.
        """
        distance = fidelity.frechet_distance(self.reference, features[: self.samples])
        values: dict[str, Any] = {
            "frechet_distance": float(distance),
            "frechet_floor": self._floor,
            "extractor": self.extractor.name,
        }
        if not self.extractor.classes:
            return values
        statistics = classified(logits, labels) | self._classified
        return values | dict(sorted(statistics.items()))  # each next to its floor

    def at_the_end(self, features: jax.Array) -> dict[str, float]:
        """The slower measures, each with its floor as `NAME_floor`."""
        values = self._slow(features[: self.samples])
        return values | {f"{name}_floor": value for name, value in self._slow(self._held_out).items()}

    def _slow(self, features: jax.Array) -> dict[str, float]:
        size = min(SUBSET, self.samples)
        kernel = fidelity.kernel_distance(self.reference, features, self._key, subset_size=size)
        precision, recall = fidelity.precision_recall(self.reference, features)
        density, coverage = fidelity.density_coverage(self.reference, features)
        return {
            "kernel_distance": float(kernel.mean),
            "kernel_distance_error": float(kernel.standard_error),
            "precision": float(precision),
            "recall": float(recall),
            "density": float(density),
            "coverage": float(coverage),
        }

    def stored(self) -> dict[str, np.ndarray]:
        """The reference as the run folder stores it."""
        return {
            "mean": np.asarray(self.statistics.mean),
            "covariance": np.asarray(self.statistics.covariance),
            "count": np.asarray(self.statistics.count),
            "extractor": np.asarray(self.extractor.name),
        }

    def check_stored(self, stored: Mapping[str, np.ndarray], where: str) -> None:
        """Raises ValueError if stored statistics are of the features of another extractor."""
        name, features = str(stored["extractor"]), len(stored["mean"])
        if name != self.extractor.name:
            raise ValueError(
                f"extractor {self.extractor.name} with {self.extractor.features} features, but {where} holds statistics"
                f" of {name} with {features}: distances of two extractors do not compare; use the one that the run has"
            )


def classified(logits: jax.Array, labels: np.ndarray | None = None) -> dict[str, Any]:
    """Statistics of a classifier's labels of samples.

    Args:
      logits: [samples, classes].
      labels: [samples], the labels that the model was given, or the true ones of real images; None: unknown.

    Returns:
      `inception_score` (of this classifier), `confident` (share of samples with a label of probability above 0.9),
      `modes_covered` (number of labels with a share above 0.01), `least_mode` (smallest share), `label_shares` (a
      list), and with `labels` also `label_accuracy`.
    """
    predicted = logits.argmax(-1)
    shares = np.asarray(fidelity.mode_coverage(predicted, logits.shape[-1]))
    values: dict[str, Any] = {
        "inception_score": float(fidelity.inception_score(logits).mean),
        "confident": float(jnp.mean(jax.nn.softmax(logits).max(-1) > CONFIDENT)),
        "modes_covered": fidelity.covered(jnp.asarray(shares), LEAST_SHARE),
        "least_mode": float(shares.min()),
        "label_shares": shares.tolist(),
    }
    if labels is not None:
        values["label_accuracy"] = float(np.mean(np.asarray(predicted) == labels))
    return values


def found_wrong(values: Mapping[str, Any]) -> dict[str, str]:
    """Problems of the training: a collapsed discriminator, a generator that repeats itself."""
    found = {}
    if "discriminator_accuracy" in values:
        accuracy, norm = values["discriminator_accuracy"], values["discriminator_grad_norm"]
        found["discriminator"] = ""
        if accuracy > 0.999:
            found["discriminator"] = (
                f"the discriminator has collapsed: it recognised {accuracy:.2%} of a call's images, so the generator"
                " learns nothing from it; try a lower discriminator_optimizer.learning-rate, --r1 or --diffaugment"
            )
        elif norm < 1e-7:
            found["discriminator"] = (
                f"the discriminator has collapsed: its gradient's norm was {norm:.2g} over a whole call, and it learns"
                " nothing; try a lower discriminator_optimizer.learning-rate or another --loss"
            )
    if "modes_covered" in values and values["step"]:
        covered, real = values["modes_covered"], values["modes_covered_floor"]
        found["modes"] = ""
        if covered < LOST_MODES * real and _classifies(values):
            found["modes"] = (
                f"mode collapse: {covered} labels have more than {LEAST_SHARE:.0%} of the samples each, {real} of the"
                " real images"
            )
    return found


def _classifies(values: Mapping[str, Any]) -> bool:
    """Whether the classifier fits these images: by its accuracy on real ones, or the share that it is sure of."""
    known = "label_accuracy_floor" if "label_accuracy_floor" in values else "confident_floor"
    return bool(values[known] >= TRUSTED)


def table(result: Mapping[str, Any]) -> Table:
    """Every measure, and its value for real images at the same sample sizes."""
    meanings = Meanings(METRICS)
    title = f"Fidelity in the features of {result['extractor']}"
    measures = Table("measure", "generated", "real", title=Text(title, "table.title"))
    for name, metric in METRICS.items():
        if isinstance(metric.floor, str) and is_number(result.get(name)):
            real = result.get(metric.floor)
            texts = (meanings.text(key, value, percent=False) for key, value in ((name, result[name]), (name, real)))
            measures.add_row(metric.label, next(texts), "" if real is None else next(texts))
    return measures
