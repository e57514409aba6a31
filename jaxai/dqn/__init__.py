"""Deep Q-learning whose environments, replay and learner all live on the device, as pure functions.

>>> from jaxai import dqn
>>> dqn.Config(double=True, n_step=3).train_steps
49000
"""

from jaxai.dqn.config import Config, Hyperparameters
from jaxai.dqn.environment import Environment, make_environment
from jaxai.dqn.model import Network, build
from jaxai.dqn.policy import make_policy
from jaxai.dqn.spec import EnvironmentSpec, make_environment_spec
from jaxai.dqn.step import make
from jaxai.optimizer import Optimizer

__all__ = [
    "Config",
    "Environment",
    "EnvironmentSpec",
    "Hyperparameters",
    "Network",
    "Optimizer",
    "build",
    "make",
    "make_environment",
    "make_environment_spec",
    "make_policy",
]
