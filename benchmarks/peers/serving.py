"""What every framework's script has in common: the data, the command line, and blocks of steps on request.

This file runs in the peers' interpreter too, so it needs NumPy alone.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
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
    """

    run: Callable[[int], None]
    parameters: int
    versions: dict[str, str]


def random_data(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(images [examples, 32, 32, 3] float32 in [0, 1), labels [examples] int32 in 0 to 9), the same for everyone."""
    examples = -(-EXAMPLES // batch_size) * batch_size
    generator = np.random.default_rng(0)
    images = generator.random((examples, 32, 32, 3), dtype=np.float32)
    return images, generator.integers(0, 10, examples, dtype=np.int32)


def main(build: Callable[[int, int], Trainer]) -> None:
    """Prints a line of JSON when warm, then one for each block.

    Args:
      build: (batch size, steps in a block) -> the trainer; imports its framework inside, so that a framework that is
        not installed becomes a line `{"missing": name}`.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--batch-size", type=int, default=128, help="images a step")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps in a block")
    parser.add_argument("--blocks", type=int, default=5, help="timed blocks")
    parser.add_argument("--serve", action="store_true", help="run a block for each line on standard input instead")
    options = parser.parse_args()
    started = time.perf_counter()
    try:
        trainer = build(options.batch_size, options.steps)
    except ModuleNotFoundError as error:
        _print({"missing": error.name})
        return
    trainer.run(options.steps)  # compiles; the second is at speed
    trainer.run(options.steps)
    _print(
        {
            "ready": round(time.perf_counter() - started, 2),
            "parameters": trainer.parameters,
            "versions": trainer.versions,
        }
    )
    for _ in sys.stdin if options.serve else range(options.blocks):
        with ForeignCpu() as foreign:
            began = time.perf_counter()
            trainer.run(options.steps)
            seconds = time.perf_counter() - began
        rate = options.steps * options.batch_size / seconds
        _print({"seconds": seconds, "examples_per_second": rate, "foreign_cpu_share": foreign.share})


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
