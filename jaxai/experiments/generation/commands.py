"""The commands of a generator's run; imports nothing heavy before one of them is called."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxai.ranges import Count, Seed
from jaxai.runtime.registry import Commands

if TYPE_CHECKING:
    from jaxai.experiments.generation.experiment import Bound


def evaluate(
    bound: "Bound",
    checkpoint: Literal["best", "latest"] = "best",
    data_dir: str | None = None,
    data_source: Annotated[str | None, tyro.conf.arg(name="data.source")] = None,
    other_data: bool = False,
    extractor: str | None = None,
    recompute_statistics: bool = False,
) -> dict[str, Any]:
    """Measure generated images against real ones: Fréchet and kernel distance, precision, recall.

    Args:
      checkpoint: the best by its evaluations, or the latest
      data_dir: folder of the data, if it is not the folder of the training any more
      data_source: function that returned the data of the training, as package.module:name (it is imported only if given
        here)
      other_data: measure on the data that is there, even if it is not the data of the run
      extractor: network whose features are compared; None: that of the run
      recompute_statistics: compute the generator's batch statistics from latents, instead of using the averages of the
        training
    """
    from rich.console import Console

    bound = bound.with_data_in(data_dir, data_source).with_extractor(extractor)
    return bound.evaluate(Console(), checkpoint, recompute_statistics, other_data)


def sample(
    bound: "Bound",
    count: Count = 64,
    seed: Seed = 0,
    label: str | None = None,
    grid: bool = False,
    checkpoint: Literal["best", "latest"] = "best",
    output: Path | None = None,
) -> None:
    """Draw images from a trained generator, as PNG and npz.

    samples.npz also holds their latents and labels.

    Args:
      count: number of images
      seed: of the latents
      label: class of the images of a conditional model: its name, or else its number; None: labels with
        the frequencies of the data
      grid: one PNG of all images instead of one PNG for each
      checkpoint: the best by its evaluations, or the latest
      output: folder; default: samples/seed-SEED in the run's folder

    Raises:
      ValueError: the output is a file, or the model has no such label.
    """
    from jaxai.experiments.generation.trained import label_number
    from jaxai.report import mosaic

    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"output is {output}, a file; give a folder")
    label_number(bound.config, label)  # raises an error before anything is read
    samples = bound.trained(checkpoint).samples(count, label, seed)
    folder = output or Path(bound.config.run.workdir) / "samples" / f"seed-{seed}"
    print(f"wrote {mosaic.write_samples(samples._asdict(), folder, grid)}")


COMMANDS = Commands({"evaluate": evaluate, "sample": sample})
