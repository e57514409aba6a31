"""Adversarial image generation, as pure functions.

>>> from jaxai import gan
>>> workload = gan.make(gan.Config(width=32))
>>> workload._fields
('init', 'train_step', 'eval_step', 'gradients')
"""

from jaxai.gan import fidelity, losses
from jaxai.gan.diffaugment import diffaugment
from jaxai.gan.generate import make_generate, make_recompute
from jaxai.gan.latent import spherical_interpolation
from jaxai.gan.metrics import METRICS
from jaxai.gan.model import Model, build
from jaxai.gan.step import Config, Players, as_uint8, make, normalize
from jaxai.optimizer import Optimizer

__all__ = [
    "METRICS",
    "Config",
    "Model",
    "Optimizer",
    "Players",
    "as_uint8",
    "build",
    "diffaugment",
    "fidelity",
    "losses",
    "make",
    "make_generate",
    "make_recompute",
    "normalize",
    "spherical_interpolation",
]
