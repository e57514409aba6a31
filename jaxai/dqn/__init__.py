"""Deep Q-learning whose environments, replay and learner all live on the device, as pure functions.

>>> from jaxai import dqn
>>> dqn.Config(double=True, n_step=3).train_steps
49000
"""

from jaxai.dqn.batches import example_batch
from jaxai.dqn.bellman import Networks, bellman_loss
from jaxai.dqn.config import Config, Hyperparameters
from jaxai.dqn.environment import Environment, make_environment
from jaxai.dqn.host import HostEnvironments
from jaxai.dqn.learner import Learner, make_learner
from jaxai.dqn.losses import td_loss
from jaxai.dqn.metrics import METRICS
from jaxai.dqn.model import Network, QNetwork, build
from jaxai.dqn.observations import Encoding, make_encoding
from jaxai.dqn.policy import make_policy, make_predict, parameters
from jaxai.dqn.spec import EnvironmentSpec, make_environment_spec
from jaxai.dqn.step import make
from jaxai.optimizer import Optimizer

__all__ = [
    "METRICS",
    "Config",
    "Encoding",
    "Environment",
    "EnvironmentSpec",
    "HostEnvironments",
    "Hyperparameters",
    "Learner",
    "Network",
    "Networks",
    "Optimizer",
    "QNetwork",
    "bellman_loss",
    "build",
    "example_batch",
    "make",
    "make_encoding",
    "make_environment",
    "make_environment_spec",
    "make_learner",
    "make_policy",
    "make_predict",
    "parameters",
    "td_loss",
]
