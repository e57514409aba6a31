"""Measures images that anything has made as a GAN run measures its own: `python -m benchmarks.fidelity SAMPLES.npz`.

The same extractor, the same real images, the same floor. Appends a line to `benchmarks/results/<chip>/learning.jsonl`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import records
from jaxai.data import Data, load
from jaxai.experiments.generation.extractor import extract, load_extractor
from jaxai.experiments.generation.quality import Quality
from jaxai.runtime import environment


def measure(samples: np.ndarray, data: Data, extractor: str = "auto", fidelity_samples: int = 0) -> dict[str, Any]:
    """Every measure of uint8 samples [n, height, width, channels] against the training images of some data.

    Raises:
      ValueError: too few samples, or of another shape than the data.
    """
    images = load(data)
    if samples.dtype != np.uint8 or samples.shape[1:] != images.shape:
        raise ValueError(
            f"samples are {samples.dtype} {list(samples.shape)}, expected uint8 [samples, *{list(images.shape)}]"
        )
    found = load_extractor(extractor, images.shape)
    quality = Quality(found, images.train["image"], fidelity_samples, jax.random.key(0))
    if len(samples) < quality.samples:
        raise ValueError(f"there are {len(samples)} samples, expected {quality.samples} or more, as of a run")
    features, logits = extract(found, samples)
    return quality.during_training(features, logits, None) | quality.at_the_end(features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path, help="npz with uint8 `image`, as torch_gan_learning writes it")
    parser.add_argument("--case", default="torch_dcgan", help="what the line is called")
    parser.add_argument("--source", default="mnist5k", help="data, as --data.source of jaxai train")
    parser.add_argument("--dir", default=None, help="where the data is, as --data.dir")
    parser.add_argument("--training", type=Path, help="a file whose last line is JSON that says how they were made")
    parser.add_argument("--results", type=Path, default=records.RESULTS, help="folder of the result files")
    arguments = parser.parse_args()
    with np.load(arguments.samples) as arrays:
        samples = arrays["image"]
    try:
        result = measure(samples, Data(arguments.source, dir=arguments.dir))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    described = environment.describe()
    line = {"case": arguments.case, "result": result, "git": described.pop("git"), "environment": described}
    if arguments.training:
        line["training"] = json.loads(arguments.training.read_text().splitlines()[-1])
        line["training"].pop("samples", None)
    print(f"Fréchet distance {result['frechet_distance']:.2f}, floor {result['frechet_floor']:.2f}", end=" -> ")
    print(records.append(line, arguments.results, "learning"))


if __name__ == "__main__":
    main()
