"""Classic deep-learning workloads as pure-functional JAX train steps.

Import a workload by name, as in `from jaxai import cnn`. Importing this package loads nothing else.
"""

__version__ = "0.1.0"
