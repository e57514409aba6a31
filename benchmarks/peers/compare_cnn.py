"""Trains the textbook CNN in jaxai, PyTorch, Keras and plain flax side by side on the CPU, and prints the ratios.

    pip install -e ".[peers]"
    python -m benchmarks.peers.compare_cnn

Each framework has a process of its own. They take turns, a block of steps each, while the others idle; a round in
which a stranger's process took part is run again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro
from rich.console import Console

from benchmarks import records
from benchmarks.peers import rounds

PEERS = ("torch", "keras")
INSTALL = 'pip install -e ".[peers]", or name an interpreter that has it with --peers-python'
BLOCK_IMAGES = 2048


@dataclass(frozen=True)
class Comparison:
    """What to compare, for how long, and where the figures go."""

    frameworks: tuple[str, ...] = ("jaxai", "torch", "keras", "flax")  # in the order of the first round
    batch_sizes: tuple[int, ...] = (32, 128, 512)  # images a step
    rounds: int = 5  # blocks of each framework, undisturbed ones as far as the machine allows
    most_rounds: int = 15  # rounds after which a busy machine's figures are taken as they are, and flagged
    steps: int = 20  # optimizer steps in a block, at least; a small batch gets more
    peers_python: Path = Path(sys.executable)  # interpreter that has PyTorch and TensorFlow
    results: Path = records.RESULTS  # folder that gets <chip>/peers_cnn.jsonl
    dry_run: bool = False  # prints only, writes no file


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 2 for a user's mistake, 1 if nothing that was asked for is installed."""
    how = tyro.cli(Comparison, args=arguments, prog="python -m benchmarks.peers.compare_cnn", description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    console = Console(width=None if sys.stdout.isatty() else 140)
    rounds.refuse("compare_cnn", "frameworks", how.frameworks, Comparison.frameworks, how.rounds, how.peers_python)
    missing: set[str] = set()
    for batch_size in how.batch_sizes:
        steps = max(how.steps, BLOCK_IMAGES // batch_size)
        workers, blocks, flags = rounds.measured(
            [runner(how, framework, batch_size, steps) for framework in how.frameworks],
            missing, INSTALL, how.rounds, how.most_rounds, console,
        )  # fmt: skip
        title = f"textbook CNN, batch {batch_size}, {len(blocks)} rounds of {steps} steps, float32 on the CPU"
        shown = rounds.table(title, "images/s", blocks, [worker.name for worker in workers])
        console.print(shown, *flags, sep="\n", highlight=False)
        if not how.dry_run:
            for worker in workers:
                figures = {"framework": worker.name, "batch_size": batch_size}
                figures |= rounds.figures(worker, blocks, "examples_per_second_per_chip")
                record = records.complete(f"peers {worker.name} batch={batch_size}", figures, flags)
                file = records.append(record, how.results, "peers_cnn")
            console.print(f"written to {file}", highlight=False)


def runner(how: Comparison, framework: str, batch_size: int, steps: int) -> rounds.Runner:
    """How to start a framework's script."""
    python = how.peers_python if framework in PEERS else Path(sys.executable)
    options = ("--batch-size", str(batch_size), "--steps", str(steps))
    return rounds.Runner(framework, framework, f"benchmarks.peers.{framework}_cnn", options, python)


if __name__ == "__main__":
    main()
