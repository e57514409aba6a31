"""How good a generator's images are: features of real and generated ones, and every measure with its floor."""

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
"""A sample whose label has a higher probability is one that the classifier is sure of."""
LEAST_SHARE = 0.01
"""A label with a smaller share of the samples counts as one that the generator has lost."""
LOST_MODES = 0.8
"""The share of the real images' labels that a generator must make often enough, or it is said to have collapsed."""
TRUSTED = 0.8
"""The share of real images that a classifier must label right, or be sure of, before its word on samples is taken."""
SUBSET = 1_000
"""Images in a subset of the kernel distance, as usual."""


class Quality:
    """Measures images against a reference of real ones, in the features of one extractor.

    The reference and the floor come from two disjoint halves of the real images, each as large as the sample of
    generated ones: the floor is what a perfect generator would get.

    Args:
      extractor: what the features come from.
      real: uint8 [examples, height, width, channels].
      samples: how many images to measure; 0: 10,000, or half of the real ones where that is fewer.
      key: of the halves and of the subsets.
      labels: int [examples], of the real images, where they are what the extractor classifies into; None: unknown.

    Raises:
      ValueError: so few images that the Fréchet distance has no meaning; says how many are needed.
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
            said = classified(logits, None if labels is None else labels[second])
            self._classified = {f"{name}_floor": value for name, value in said.items()}
        self.statistics = fidelity.statistics(self.reference, extractor.name)
        self._floor = float(fidelity.frechet_distance(self.reference, self._held_out))

    def during_training(self, features: jax.Array, logits: jax.Array, labels: np.ndarray | None) -> dict[str, Any]:
        """What is cheap enough to be told again and again: Fréchet distance, and what the classifier says.

        Each has its floor as `NAME_floor`: what the held-out half of the real images gets. A classifier of other images
        than these says something of both, which only the comparison gives a meaning.

        Args:
          features: [samples, features] of generated images.
          logits: [samples, classes] of them; without classes where the extractor is no classifier.
          labels: [samples], what a conditional model was asked for; None without.
        """
        distance = fidelity.frechet_distance(self.reference, features[: self.samples])
        values: dict[str, Any] = {
            "frechet_distance": float(distance),
            "frechet_floor": self._floor,
            "extractor": self.extractor.name,
        }
        if not self.extractor.classes:
            return values
        said = classified(logits, labels) | self._classified
        return values | dict(sorted(said.items()))  # each beside its floor

    def at_the_end(self, features: jax.Array) -> dict[str, float]:
        """The measures that take longer, each with its floor as `NAME_floor`."""
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
        """The reference as it is kept in the run folder."""
        return {
            "mean": np.asarray(self.statistics.mean),
            "covariance": np.asarray(self.statistics.covariance),
            "count": np.asarray(self.statistics.count),
            "extractor": np.asarray(self.extractor.name),
        }

    def check_stored(self, stored: Mapping[str, np.ndarray], where: str) -> None:
        """Raises ValueError where stored statistics are of other features than this extractor's."""
        name, features = str(stored["extractor"]), len(stored["mean"])
        if name != self.extractor.name:
            raise ValueError(
                f"extractor {self.extractor.name} with {self.extractor.features} features, but {where} holds statistics"
                f" of {name} with {features}: distances of two extractors do not compare; use the one that the run has"
            )


def classified(logits: jax.Array, labels: np.ndarray | None = None) -> dict[str, Any]:
    """What a classifier says of samples.

    Returns:
      `inception_score` (of this classifier), `confident` (share of samples with a label of probability above 0.9),
      `modes_covered` (labels with a share above 0.01), `least_mode` (smallest share), `label_shares` (a list), and
      `label_accuracy` where the model was asked for labels.
    """
    said = logits.argmax(-1)
    shares = np.asarray(fidelity.mode_coverage(said, logits.shape[-1]))
    values: dict[str, Any] = {
        "inception_score": float(fidelity.inception_score(logits).mean),
        "confident": float(jnp.mean(jax.nn.softmax(logits).max(-1) > CONFIDENT)),
        "modes_covered": fidelity.covered(jnp.asarray(shares), LEAST_SHARE),
        "least_mode": float(shares.min()),
        "label_shares": shares.tolist(),
    }
    if labels is not None:
        values["label_accuracy"] = float(np.mean(np.asarray(said) == labels))
    return values


def found_wrong(values: Mapping[str, Any]) -> dict[str, str]:
    """What a person should know while it trains: a discriminator that has won, a generator that repeats itself."""
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
    """Whether the classifier knows such images: by its accuracy on real ones, or else by how sure it is of them."""
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
