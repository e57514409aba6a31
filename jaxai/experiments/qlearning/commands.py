"""The commands of deep Q-learning; imports nothing heavy before one of them is called."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxai.ranges import Count, Natural, Seed
from jaxai.runtime.registry import Commands

if TYPE_CHECKING:
    from jaxai.experiments.qlearning.experiment import Bound, Experiment


def evaluate(bound: "Bound", checkpoint: Literal["best", "latest"] = "best", episodes: Count = 100) -> dict[str, Any]:
    """Measure the return over greedy episodes.

    Args:
      checkpoint: the best by its evaluations, or the latest
      episodes: number of greedy episodes of each training
    """
    from rich.console import Console

    return bound.evaluate(Console(), checkpoint, episodes)


def play(
    bound: "Bound",
    checkpoint: Literal["best", "latest"] = "best",
    seed: Seed = 0,
    member: Natural | None = None,
    output: Path | None = None,
) -> None:
    """Render a greedy episode of a trained agent to a GIF, and print its return.

    Args:
      checkpoint: the best by its evaluations, or the latest
      seed: of the episode
      member: number of the training, from 0; None: the best by the evaluation of that checkpoint
      output: the GIF; default: pictures/episode.gif in the run's folder

    Raises:
      ValueError: the output is not named *.gif, or is a folder.
    """
    path = output or Path(bound.config.run.workdir) / "pictures" / "episode.gif"
    if path.suffix.lower() != ".gif" or path.is_dir():
        raise ValueError(f"output is {path}; give a file named *.gif")
    played = bound.trained(checkpoint, member).play(path, seed)
    print(f"return {played['return']:g} in {played['length']} steps (training {played['member']}): wrote {path}")


def sweep(preset: "Experiment") -> "Experiment":
    """Train every combination of values in one program, as --grid.discount 0.9 0.99."""
    import dataclasses

    from jaxai.experiments.qlearning.sweep import Sweep

    return Sweep(**{field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)})


NEEDS = {
    "env_name": (
        Annotated[str | None, tyro.conf.arg(name="env.name")],
        None,
        "your environment of the training, as my_package.my_module:make (it is imported only if given here)",
    )
}
COMMANDS = Commands({"evaluate": evaluate, "play": play}, {"sweep": sweep}, NEEDS)
