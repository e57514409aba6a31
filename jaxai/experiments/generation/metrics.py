"""Declarations of the metrics of image generation."""

from jaxai import gan
from jaxai.core import Metric

_LABELS = {
    "label_accuracy": Metric("samples labelled as asked", "%", better="higher"),
    "inception_score": Metric("inception score", better="higher"),
    "confident": Metric("samples that the classifier is sure of", "%"),
    "modes_covered": Metric("labels covered", better="higher"),
    "least_mode": Metric("share of the rarest label", "%", better="higher"),
    "label_shares": Metric("shares of the labels", "%"),
}
"""Statistics of the classifier over samples."""
_SLOW = {
    "kernel_distance": Metric("kernel distance", better="lower"),
    "precision": Metric("precision", better="higher", group="Precision and recall"),
    "recall": Metric("recall", better="higher", group="Precision and recall"),
    "density": Metric("density", better="higher", group="Density and coverage"),
    "coverage": Metric("coverage", better="higher", group="Density and coverage"),
}
"""Metrics of the final evaluation only."""

METRICS = (
    {
        "frechet_distance": Metric("Fréchet distance", better="lower", floor="frechet_floor", log=True, shown=True),
        "extractor": Metric("extractor"),
    }
    | {name: metric._replace(floor=f"{name}_floor") for name, metric in (_LABELS | _SLOW).items()}
    | {
        "frechet_floor": Metric("Fréchet distance of real images"),
        "confident_floor": Metric("real images that the classifier is sure of", "%"),
        "modes_covered_floor": Metric("labels covered by real images"),
        "least_mode_floor": Metric("share of the rarest label of real images", "%"),
        "label_shares_floor": Metric("shares of the labels of real images", "%"),
        "label_accuracy_floor": Metric("real images that the classifier labels right", "%"),
        "frechet_untrained": Metric("Fréchet distance before training"),
        "frechet_improvement": Metric("Fréchet distance fell by a factor of"),
        "kernel_distance_error": Metric("kernel distance, standard error"),
    }
    | gan.METRICS
)
