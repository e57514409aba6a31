"""Bind workloads to data, evaluation, pictures and commands: what the commands of `jaxai` run."""

from typing import TYPE_CHECKING

from jaxai.runtime.registry import register

if TYPE_CHECKING:  # that each has all that an experiment must have
    from jaxai.experiments.arrays import ArraysExperiment
    from jaxai.experiments.classification.experiment import Experiment as Classification
    from jaxai.experiments.generation.experiment import Experiment as Generation
    from jaxai.experiments.qlearning.experiment import Experiment as QLearning
    from jaxai.experiments.qlearning.sweep import Sweep
    from jaxai.experiments.translation.experiment import Experiment as Translation
    from jaxai.runtime.experiment import Bound, Experiment

    ALL: list[Experiment] = [
        Classification(), Generation(), Translation(), QLearning(), Sweep(), ArraysExperiment(),
    ]  # fmt: skip
    BOUND: list[Bound] = [
        Classification().bind(), Generation().bind(), Translation().bind(), QLearning().bind(), Sweep().bind(),
    ]  # fmt: skip

HERE = "jaxai.experiments"
register(
    "classification",
    f"{HERE}.classification.experiment:Experiment",
    f"{HERE}.classification.commands:COMMANDS",
    former=("jaxai.cnn.experiment:Experiment",),
)
register(
    "generation",
    f"{HERE}.generation.experiment:Experiment",
    f"{HERE}.generation.commands:COMMANDS",
    former=("jaxai.gan.experiment:Experiment",),
)
register(
    "translation",
    f"{HERE}.translation.experiment:Experiment",
    f"{HERE}.translation.commands:COMMANDS",
    former=("jaxai.seq2seq.experiment:Experiment",),
)
register(
    "qlearning",
    f"{HERE}.qlearning.experiment:Experiment",
    f"{HERE}.qlearning.commands:COMMANDS",
    former=("jaxai.dqn.experiment:Experiment",),
)
register(
    "qlearning_sweep",
    f"{HERE}.qlearning.sweep:Sweep",
    f"{HERE}.qlearning.commands:COMMANDS",
    former=("jaxai.dqn.sweep:Sweep",),
)
