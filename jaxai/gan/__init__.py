"""Adversarial image generation, as pure functions.

>>> from jaxai import gan
>>> workload = gan.make(gan.Config(width=32))
>>> workload.train_step.__name__
'train_step'
"""

from jaxai.gan import fidelity, losses
from jaxai.gan.config import Config, as_uint8, example_batch, normalize
from jaxai.gan.diffaugment import diffaugment
from jaxai.gan.game import Players
from jaxai.gan.latent import spherical_interpolation
from jaxai.gan.losses import AdversarialLoss
from jaxai.gan.metrics import METRICS
from jaxai.gan.model import Model, build
from jaxai.gan.predict import make_predict, make_recompute, parameters, variables
from jaxai.gan.step import make
from jaxai.optimizer import Optimizer

__all__ = [
    "METRICS",
    "AdversarialLoss",
    "Config",
    "Model",
    "Optimizer",
    "Players",
    "as_uint8",
    "build",
    "diffaugment",
    "example_batch",
    "fidelity",
    "losses",
    "make",
    "make_predict",
    "make_recompute",
    "normalize",
    "parameters",
    "spherical_interpolation",
    "variables",
]
