"""The commands of a classifier's run; imports nothing heavy before one of them is called."""

from typing import TYPE_CHECKING, Any, Literal

from jaxai.runtime.registry import Commands

if TYPE_CHECKING:
    from jaxai.experiments.classification.experiment import Bound


def evaluate(
    bound: "Bound",
    checkpoint: Literal["best", "latest"] = "best",
    data_dir: str | None = None,
    recompute_statistics: bool = False,
) -> dict[str, Any]:
    """Measure a checkpoint on the test set: accuracy, loss, accuracy of each class, confusion matrix.

    Args:
      checkpoint: the best by its evaluations, or the latest
      data_dir: folder of the data, where it is no longer the one of the training
      recompute_statistics: compute the batch statistics anew from training images, instead of using the averages
        that training left
    """
    from rich.console import Console

    return bound.with_data_in(data_dir).evaluate(Console(), checkpoint, recompute_statistics)


COMMANDS = Commands({"evaluate": evaluate})
