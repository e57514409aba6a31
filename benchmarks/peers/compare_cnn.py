"""Trains the textbook CNN in jaxai, PyTorch, Keras and plain flax side by side on the CPU, and prints the ratios.

    pip install -e ".[peers]"
    python -m benchmarks.peers.compare_cnn

Each framework has a process of its own. They take turns, a block of steps each, while the others idle; a round in
which a stranger's process took part is run again.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.machine import MOST_FOREIGN
from benchmarks.measure import spread

ROOT = Path(__file__).parents[2]
PEERS = ("torch", "keras")
INSTALL = 'pip install -e ".[peers]", or name an interpreter that has it with --peers-python'
BLOCK_IMAGES = 2048
LEAST_QUIET = 3


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


class Block(NamedTuple):
    """What a framework said of a block: its rate, and the share of the cores that others took meanwhile."""

    examples_per_second: float
    foreign_cpu_share: float | None

    @property
    def disturbed(self) -> bool:
        """Whether others took more than may be."""
        return (self.foreign_cpu_share or 0) > MOST_FOREIGN


class Worker:
    """A framework's script in a process of its own, which trains a block when asked.

    Attributes:
      about: what it said when it was warm: seconds until then, parameters, versions.
    """

    def __init__(self, framework: str, batch_size: int, steps: int, python: Path):
        """Starts it and waits until it is warm.

        Raises:
          ModuleNotFoundError: the framework is not installed there; names the module.
          RuntimeError: it ended before it was warm.
        """
        self.framework = framework
        options = ["--serve", "--batch-size", str(batch_size), "--steps", str(steps)]
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.peers.{framework}_cnn", *options],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()
        if "missing" in self.about:
            self.close()
            raise ModuleNotFoundError(f"{self.about['missing']} is not installed in {python}")

    def block(self) -> Block:
        """Trains a block."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._read()
        return Block(answer["examples_per_second"], answer["foreign_cpu_share"])

    def close(self) -> None:
        """Ends the process by the end of its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # frameworks may print what they like
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"{self.framework} ended with exit code {self._process.wait()}; its last words are above")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 2 for a user's mistake, 1 if nothing that was asked for is installed."""
    how = tyro.cli(Comparison, args=arguments, prog="python -m benchmarks.peers.compare_cnn", description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    console = Console(width=None if sys.stdout.isatty() else 140)
    unknown = set(how.frameworks) - set(Comparison.frameworks)
    if unknown or how.rounds < 1 or not how.peers_python.is_file():
        reason = (
            f"frameworks are {', '.join(Comparison.frameworks)}, not {', '.join(sorted(unknown))}"
            if unknown
            else f"rounds is {how.rounds}; it must be at least 1"
            if how.rounds < 1
            else f"peers_python is {how.peers_python}, which is no interpreter"
        )
        print(f"compare_cnn: {reason}", file=sys.stderr)
        raise SystemExit(2)
    missing: set[str] = set()
    for batch_size in how.batch_sizes:
        steps = max(how.steps, BLOCK_IMAGES // batch_size)
        workers = start(how, batch_size, steps, missing, console)
        if not workers:
            raise SystemExit(1)
        try:
            rounds = alternate(workers, how)
        finally:
            for worker in workers:
                worker.close()
        rounds, flags = choose(rounds, how.rounds)
        console.print(table(batch_size, steps, rounds), *flags, sep="\n", highlight=False)
        if not how.dry_run:
            for worker in workers:
                record = records.complete(
                    f"peers {worker.framework} batch={batch_size}", figures(worker, batch_size, steps, rounds), flags
                )
                file = records.append(record, how.results, "peers_cnn")
            console.print(f"written to {file}", highlight=False)


def start(how: Comparison, batch_size: int, steps: int, missing: set[str], console: Console) -> list[Worker]:
    """The frameworks that are installed, warm; the others go to `missing` with one line each."""
    workers = []
    for framework in how.frameworks:
        if framework in missing:
            continue
        python = how.peers_python if framework in PEERS else Path(sys.executable)
        try:
            workers.append(Worker(framework, batch_size, steps, python))
        except ModuleNotFoundError as error:
            missing.add(framework)
            console.print(f"{framework} is left out: {error}; {INSTALL}", highlight=False, markup=False, soft_wrap=True)
    return workers


def alternate(workers: Sequence[Worker], how: Comparison) -> list[dict[str, Block]]:
    """Rounds of one block each, each round begun by the next framework, until enough of them are undisturbed."""
    rounds: list[dict[str, Block]] = []
    while len(rounds) < how.most_rounds and len(quiet(rounds)) < how.rounds:
        first = len(rounds) % len(workers)
        rounds.append({worker.framework: worker.block() for worker in [*workers[first:], *workers[:first]]})
    return rounds


def quiet(rounds: Sequence[dict[str, Block]]) -> list[dict[str, Block]]:
    """The rounds in which no block was disturbed."""
    return [blocks for blocks in rounds if not any(block.disturbed for block in blocks.values())]


def choose(rounds: list[dict[str, Block]], wanted: int) -> tuple[list[dict[str, Block]], list[str]]:
    """The rounds that count, and what speaks against trusting them."""
    undisturbed = quiet(rounds)
    if len(undisturbed) >= min(LEAST_QUIET, wanted):
        return undisturbed, []
    shares = [block.foreign_cpu_share or 0 for blocks in rounds for block in blocks.values()]
    return rounds, [f"other processes took up to {max(shares):.0%} of the CPU, {statistics.median(shares):.0%} at half"]


def ratios(rounds: Sequence[dict[str, Block]], framework: str) -> list[float]:
    """How many times as many images a second jaxai trained as the framework, round by round."""
    if "jaxai" not in rounds[0]:
        return []
    return [blocks["jaxai"].examples_per_second / blocks[framework].examples_per_second for blocks in rounds]


def figures(worker: Worker, batch_size: int, steps: int, rounds: Sequence[dict[str, Block]]) -> dict[str, Any]:
    """What is recorded of a framework."""
    blocks = [blocks[worker.framework] for blocks in rounds]
    over = ratios(rounds, worker.framework)
    allocator = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_") or key == "LD_PRELOAD"}
    return {
        "framework": worker.framework,
        "versions": worker.about["versions"],
        "batch_size": batch_size,
        "steps_per_block": steps,
        "examples_per_second_per_chip": spread([block.examples_per_second for block in blocks]),
        "blocks": [block.examples_per_second for block in blocks],
        "foreign_cpu_share": [block.foreign_cpu_share for block in blocks],
        "jaxai_over_this": spread(over) if over else None,
        "warm_up_seconds": worker.about["ready"],
        "parameters": worker.about["parameters"],
        "allocator": allocator or "default",
    }


def table(batch_size: int, steps: int, rounds: Sequence[dict[str, Block]]) -> Table:
    """Medians, spread and ratios of a batch size."""
    title = f"textbook CNN, batch {batch_size}, {len(rounds)} rounds of {steps} steps, float32 on the CPU"
    result = Table(title=title, title_justify="left")
    for column in ("framework", "images/s, median", "min", "max", "jaxai / this, median", "min", "max"):
        result.add_column(column, justify="left" if column == "framework" else "right")
    for framework in rounds[0]:
        rates = spread([blocks[framework].examples_per_second for blocks in rounds])
        over = ratios(rounds, framework)
        ratio = [f"{spread(over)[key]:.2f}" for key in ("median", "min", "max")] if over else [""] * 3
        result.add_row(framework, *(f"{rates[key]:,.0f}" for key in ("median", "min", "max")), *ratio)
    return result


if __name__ == "__main__":
    main()
