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
      data_dir: folder of the data, where it is no longer the one of the training
      data_source: function that returned the data of the training, package.module:name: a run folder imports nothing
      other_data: measure on what is there, also if it is not the data of the run
      extractor: features to measure in; None: those of the run
      recompute_statistics: compute the generator's batch statistics anew from latents, instead of using the averages
        that training left
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
      label: class of the images of a conditional model: its name, or else its number; None: labels as frequent as in
        the data, in turn where all are
      grid: one PNG of all images instead of one for each
      checkpoint: the best by its evaluations, or the latest
      output: folder; default: samples/seed-SEED in the run's folder

    Raises:
      ValueError: the output is a file, or the model has no such label.
    """
    from jaxai.experiments.generation.trained import label_number
    from jaxai.report import mosaic

    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"output is {output}, a file; give a folder")
    label_number(bound.config, label)  # raises what is wrong with it before anything is read
    samples = bound.trained(checkpoint).samples(count, label, seed)
    folder = output or Path(bound.config.run.workdir) / "samples" / f"seed-{seed}"
    print(f"wrote {mosaic.write_samples(samples._asdict(), folder, grid)}")


COMMANDS = Commands({"evaluate": evaluate, "sample": sample})
