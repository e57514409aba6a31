"""Deep Q-learning: environments by name, sweeps, evaluation, pictures, commands."""

from typing import TYPE_CHECKING

from jaxai.lazy import attributes

if TYPE_CHECKING:
    from jaxai.experiments.qlearning.experiment import Experiment
    from jaxai.experiments.qlearning.sweep import Sweep

__all__ = ["Experiment", "Sweep"]
PLACES = {
    "Experiment": "jaxai.experiments.qlearning.experiment",
    "Sweep": "jaxai.experiments.qlearning.sweep",
}
__getattr__, __dir__ = attributes(__name__, PLACES)
