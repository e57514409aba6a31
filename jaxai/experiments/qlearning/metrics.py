"""Declarations of the metrics of deep Q-learning."""

from jaxai import dqn, population
from jaxai.core import Metric
from jaxai.experiments.qlearning.figures import LAST_EPISODES

METRICS = (
    dqn.METRICS
    | population.METRICS
    | {
        "episode_length": Metric("episode length", "steps"),
        f"training_return_last_{LAST_EPISODES}": Metric(
            f"return of the last {LAST_EPISODES} training episodes", better="higher"
        ),
        "env_steps": Metric("environment steps", shown=True),
        "seeds": Metric("seeds"),
    }
)
