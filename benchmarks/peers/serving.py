"""What every framework's script has in common: the images, the command line, and blocks of steps on request.

This file runs in the peers' interpreter too, so it needs NumPy alone.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import ForeignCpu

EXAMPLES = 2048
"""Images in memory, at least; a multiple of the batch."""


class Trainer(NamedTuple):
    """A framework, ready to train.

    Attributes:
      run: trains so many steps and waits until they are done.
      parameters: how many the network has, as the framework counts them.
      versions: of the libraries that do the work.
      details: what else is to be recorded of it, as the seconds that compiling took.
      mean_return: of a learner in an environment: what an episode brings it now.
    """

    run: Callable[[int], None]
    parameters: int
    versions: Mapping[str, str]
    details: Mapping[str, Any] | None = None
    mean_return: Callable[[], float] | None = None


def random_data(batch_size: int, image_shape: tuple[int, int, int] = (32, 32, 3)) -> tuple[np.ndarray, np.ndarray]:
    """(images [examples, *image_shape] float32 in [0, 1), labels [examples] int32 in 0 to 9), the same for everyone."""
    examples = -(-EXAMPLES // batch_size) * batch_size
    generator = np.random.default_rng(0)
    images = generator.random((examples, *image_shape), dtype=np.float32)
    return images, generator.integers(0, 10, examples, dtype=np.int32)


def main(build: Callable[[int, int], Trainer]) -> None:
    """The command line of a framework's script about images.

    Args:
      build: (batch size, steps in a block) -> the trainer; imports its framework inside.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--batch-size", type=int, default=128, help="images a step")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps in a block")
    parser.add_argument("--seconds", type=float, help="about the most for a block: a slow framework gets fewer steps")
    add_block_options(parser)
    options = parser.parse_args()

    def warm() -> tuple[Trainer, int]:
        trainer, steps = build(options.batch_size, options.steps), options.steps
        if options.seconds is None:
            trainer.run(steps)  # compiles; the second is at speed
        else:
            trainer.run(1)
            began = time.perf_counter()
            trainer.run(1)
            steps = max(1, min(steps, int(options.seconds / (time.perf_counter() - began))))
        trainer.run(steps)
        return trainer, steps

    serve(warm, options.batch_size, None if options.serve else options.blocks)


def add_block_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how many blocks `serve` runs."""
    parser.add_argument("--blocks", type=int, default=5, help="timed blocks")
    parser.add_argument("--serve", action="store_true", help="run a block for each line on standard input instead")


def serve(warm: Callable[[], tuple[Trainer, int]], per_step: int, blocks: int | None) -> None:
    """Prints a line of JSON when warm, then one for each block; their `rate` is per second.

    Args:
      warm: builds a trainer and brings it to speed; returns it and the steps of a block. A framework that is not
        installed becomes a line `{"missing": name}`.
      per_step: what a step counts in the rate, as the images of a batch.
      blocks: how many to run; None: one for each line on standard input.
    """
    started = time.perf_counter()
    try:
        trainer, steps = warm()
    except ModuleNotFoundError as error:
        write({"missing": error.name})
        return
    write(
        {
            "ready": round(time.perf_counter() - started, 2),
            "parameters": trainer.parameters,
            "versions": dict(trainer.versions),
            "steps": steps,
            "details": dict(trainer.details or {}),
        }
    )
    for _ in sys.stdin if blocks is None else range(blocks):
        with ForeignCpu() as foreign:
            began = time.perf_counter()
            trainer.run(steps)
            seconds = time.perf_counter() - began
        write({"seconds": seconds, "rate": steps * per_step / seconds, "foreign_cpu_share": foreign.share})


def write(line: dict[str, Any]) -> None:
    """Prints a line of JSON at once."""
    print(json.dumps(line), flush=True)
