"""Sequence to sequence: text, scores, pictures, commands."""

from typing import TYPE_CHECKING

from jaxai.lazy import attributes

if TYPE_CHECKING:
    from jaxai.experiments.translation.corpus import Tokens
    from jaxai.experiments.translation.experiment import Experiment

__all__ = ["Experiment", "Tokens"]
PLACES = {
    "Experiment": "jaxai.experiments.translation.experiment",
    "Tokens": "jaxai.experiments.translation.corpus",
}
__getattr__, __dir__ = attributes(__name__, PLACES)
