"""The commands of a classifier's run; imports nothing heavy before one of them is called."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxai.runtime.registry import Commands

if TYPE_CHECKING:
    from jaxai.experiments.classification.experiment import Bound


def evaluate(
    bound: "Bound",
    checkpoint: Literal["best", "latest"] = "best",
    data_dir: str | None = None,
    data_source: Annotated[str | None, tyro.conf.arg(name="data.source")] = None,
    other_data: bool = False,
    recompute_statistics: bool = False,
) -> dict[str, Any]:
    """Measure a checkpoint on the test set: accuracy, loss, accuracy of each class, confusion matrix.

    Args:
      checkpoint: the best by its evaluations, or the latest
      data_dir: folder of the data, if it is not the folder of the training any more
      data_source: function that returned the data of the training, as package.module:name (it is imported only if given
        here)
      other_data: measure on the data that is there, even if it is not the data of the run
      recompute_statistics: compute the batch statistics from training images, instead of using the averages of the
        training
    """
    from rich.console import Console

    bound = bound.with_data_in(data_dir, data_source)
    return bound.evaluate(Console(), checkpoint, recompute_statistics, other_data)


COMMANDS = Commands({"evaluate": evaluate})
