"""Image classification with convolutional networks, as pure functions.

>>> from jaxai import cnn
>>> workload = cnn.make(cnn.Config(width=32))
>>> workload.train_step.__name__
'train_step'
"""

from jaxai.averages import parameters, variables
from jaxai.cnn.augment import Augment, augment
from jaxai.cnn.config import Config, balanced_class_weights, example_batch, normalize
from jaxai.cnn.metrics import METRICS
from jaxai.cnn.model import Model, build
from jaxai.cnn.predict import make_feature_maps, make_features, make_predict, make_recompute
from jaxai.cnn.step import Loss, cross_entropy, make, make_gradients
from jaxai.optimizer import Optimizer

__all__ = [
    "METRICS",
    "Augment",
    "Config",
    "Loss",
    "Model",
    "Optimizer",
    "augment",
    "balanced_class_weights",
    "build",
    "cross_entropy",
    "example_batch",
    "make",
    "make_feature_maps",
    "make_features",
    "make_gradients",
    "make_predict",
    "make_recompute",
    "normalize",
    "parameters",
    "variables",
]
