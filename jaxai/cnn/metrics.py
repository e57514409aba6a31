"""Declarations of the metrics of an image classifier."""

from jaxai.core import Metric

METRICS = {
    "loss": Metric("loss", "nats", better="lower", shown=True, log=True),
    "accuracy": Metric("accuracy", "%", better="higher", shown=True),
    "top5_accuracy": Metric("top-5 accuracy", "%", better="higher"),
    "grad_norm": Metric("gradient norm", log=True),
    "learning_rate": Metric("learning rate"),
}
