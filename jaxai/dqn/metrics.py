"""What the metrics of a deep Q-learner's steps mean."""

from jaxai.core import Metric

__all__ = ["METRICS"]

METRICS = {
    "return": Metric("return", better="higher", shown=True),
    "length": Metric("episode length", "steps"),
    "unfinished": Metric("episodes cut off at the step limit", "%"),
    "return_sum": Metric("sum of returns of finished episodes"),
    "length_sum": Metric("sum of lengths of finished episodes", "steps"),
    "episodes": Metric("finished episodes"),
    "loss": Metric("loss", better="lower", shown=True, log=True),
    "q_mean": Metric("mean Q value of the actions taken"),
    "epsilon": Metric("epsilon", "%"),
    "discarded": Metric("discarded draws", "%"),
    "grad_norm": Metric("gradient norm", log=True),
    "learning_rate": Metric("learning rate"),
}
