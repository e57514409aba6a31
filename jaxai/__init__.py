"""Classic deep-learning workloads as pure-functional JAX train steps.

Import a workload by name, as in `from jaxai import cnn`. Importing this package loads nothing else: each of its names
loads what it needs when it is first used.
"""

from typing import TYPE_CHECKING

from jaxai.lazy import attributes

if TYPE_CHECKING:
    from jaxai.core import State, Workload
    from jaxai.metrics import Metric
    from jaxai.runtime.train import train
    from jaxai.trained import load, load_params

__version__ = "0.1.0"
__all__ = ["Metric", "State", "Workload", "load", "load_params", "train"]

PLACES = {
    "Metric": "jaxai.metrics",
    "State": "jaxai.core",
    "Workload": "jaxai.core",
    "load": "jaxai.trained",
    "load_params": "jaxai.trained",
    "train": "jaxai.runtime.train",
}
"""Public names -> the modules that they are in, which are imported when a name is first used."""
PACKAGES = ("cnn", "data", "dqn", "gan", "population", "seq2seq")
"""Packages and modules that are imported when they are first used, as in `jaxai.data.arrays(...)`."""

__getattr__, __dir__ = attributes(__name__, PLACES, PACKAGES)
