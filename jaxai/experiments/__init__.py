"""Bind workloads to data, evaluation, pictures and commands: what the commands of `jaxai` run."""

from jaxai.runtime.registry import register

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
register("own", "jaxai.runtime.train:Own", "jaxai.runtime.registry:NO_COMMANDS")
