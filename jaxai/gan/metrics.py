"""Declarations of the metrics of a generator and a discriminator."""

from jaxai.core import Metric

_LOSSES, _NORMS, _RATES = "Losses", "Gradient norms", "Learning rates"
_VIEW, _PENALTIES = "The discriminator's view", "Penalties"

METRICS = {
    "generator_loss": Metric("generator loss", group=_LOSSES, shown=True),
    "discriminator_loss": Metric("discriminator loss", group=_LOSSES, shown=True),
    "d_real": Metric("D(x)", group=_VIEW, shown=True),
    "d_fake": Metric("D(G(z))", group=_VIEW, shown=True),
    "discriminator_accuracy": Metric("discriminator accuracy", "%"),
    "gradient_penalty": Metric("gradient penalty", group=_PENALTIES, log=True),
    "r1": Metric("R1 penalty", group=_PENALTIES, log=True),
    "grad_norm": Metric("gradient norm", group=_NORMS, log=True),
    "generator_grad_norm": Metric("gradient norm, generator", group=_NORMS, log=True),
    "discriminator_grad_norm": Metric("gradient norm, discriminator", group=_NORMS, log=True),
    "generator_learning_rate": Metric("learning rate, generator", group=_RATES),
    "discriminator_learning_rate": Metric("learning rate, discriminator", group=_RATES),
}
