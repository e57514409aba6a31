"""Trains the textbook DCGAN in jaxai, PyTorch, Keras and plain flax side by side on the CPU, and prints the ratios.

    pip install -e ".[peers]"
    python -m benchmarks.peers.compare_gan

A step is one update of the discriminator on real images and as many generated ones, then one of the generator with
fresh noise; images/s counts the real ones. Each framework has a process of its own. They take turns, a block of steps
each, while the others idle; a round in which a stranger's process took part is run again.
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


@dataclass(frozen=True)
class Comparison:
    """What to compare, for how long, and where the figures go."""

    frameworks: tuple[str, ...] = ("jaxai", "torch", "keras", "flax", "flax-scan")  # in the order of the first round
    batch_sizes: tuple[int, ...] = (64, 128)  # real images a step
    rounds: int = 5  # blocks of each framework, undisturbed ones as far as the machine allows
    most_rounds: int = 15  # rounds after which a busy machine's figures are taken as they are, and flagged
    steps: int = 20  # updates of both networks in a block
    seconds: float = 20.0  # about the most for a block: a framework that is slower than that gets fewer steps in it
    peers_python: Path = Path(sys.executable)  # interpreter that has PyTorch and TensorFlow
    results: Path = records.RESULTS  # folder that gets <chip>/peers_gan.jsonl
    dry_run: bool = False  # prints only, writes no file


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 2 for a user's mistake, 1 if nothing that was asked for is installed or networks differ."""
    how = tyro.cli(Comparison, args=arguments, prog="python -m benchmarks.peers.compare_gan", description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    console = Console(width=None if sys.stdout.isatty() else 140)
    rounds.refuse("compare_gan", "frameworks", how.frameworks, Comparison.frameworks, how.rounds, how.peers_python)
    missing: set[str] = set()
    for batch_size in how.batch_sizes:
        workers, blocks, flags = rounds.measured(
            [runner(how, framework, batch_size) for framework in how.frameworks],
            missing, INSTALL, how.rounds, how.most_rounds, console,
        )  # fmt: skip
        refuse_unequal(workers)
        steps = {worker.name: worker.about["steps"] for worker in workers}
        title = f"DCGAN 28x28x1, batch {batch_size}, {len(blocks)} rounds, float32 on the CPU"
        more = [("steps a block", lambda name, steps=steps: str(steps[name]))]
        shown = rounds.table(title, "images/s", blocks, [worker.name for worker in workers], more)
        console.print(shown, *flags, sep="\n", highlight=False)
        if not how.dry_run:
            for worker in workers:
                figures = {"framework": worker.name, "batch_size": batch_size}
                figures |= rounds.figures(worker, blocks, "examples_per_second_per_chip")
                record = records.complete(f"peers gan {worker.name} batch={batch_size}", figures, flags)
                file = records.append(record, how.results, "peers_gan")
            console.print(f"written to {file}", highlight=False)


def runner(how: Comparison, framework: str, batch_size: int) -> rounds.Runner:
    """How to start a framework's script."""
    python = how.peers_python if framework in PEERS else Path(sys.executable)
    options = ("--batch-size", str(batch_size), "--steps", str(how.steps), "--seconds", str(how.seconds))
    return rounds.Runner(framework, framework, f"benchmarks.peers.{framework.replace('-', '_')}_gan", options, python)


def refuse_unequal(workers: Sequence[rounds.Worker]) -> None:
    """Exits 1 with a line where not all trained networks of the same size."""
    parameters = {worker.name: worker.about["parameters"] for worker in workers}
    if len(set(parameters.values())) > 1:
        said = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
        print(f"compare_gan: the frameworks' networks differ in parameters: {said}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
