"""Adversarial image generation: data, fidelity, pictures, commands."""

from typing import TYPE_CHECKING

from jaxai.lazy import attributes

if TYPE_CHECKING:
    from jaxai.experiments.generation.experiment import Experiment

__all__ = ["Experiment"]
__getattr__, __dir__ = attributes(__name__, {"Experiment": "jaxai.experiments.generation.experiment"})
