"""Image classification with convolutional networks, as pure functions.

>>> from jaxai import cnn
>>> workload = cnn.make(cnn.Config(width=32))
>>> workload._fields
('init', 'train_step', 'eval_step', 'gradients')
"""

from jaxai.cnn.augment import Augment, augment
from jaxai.cnn.model import Model, build
from jaxai.cnn.step import (
    Config,
    balanced_class_weights,
    evaluated_variables,
    example_batch,
    make,
    make_features,
    make_predict,
    make_recompute,
    normalize,
)
from jaxai.optimizer import Optimizer

__all__ = [
    "Augment",
    "Config",
    "Model",
    "Optimizer",
    "augment",
    "balanced_class_weights",
    "build",
    "evaluated_variables",
    "example_batch",
    "make",
    "make_features",
    "make_predict",
    "make_recompute",
    "normalize",
]
