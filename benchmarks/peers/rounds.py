"""Frameworks in processes of their own that take turns, a block of steps each, and what their rounds say.

A round in which a stranger's process took part does not count, as long as enough others are undisturbed.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.machine import MOST_FOREIGN
from benchmarks.measure import spread

ROOT = Path(__file__).parents[2]
LEAST_QUIET = 3
OURS = "jaxai"


class Block(NamedTuple):
    """What a framework said of a block: its rate, and the share of the cores that others took meanwhile."""

    rate: float
    foreign_cpu_share: float | None

    @property
    def disturbed(self) -> bool:
        """Whether others took more than may be."""
        return (self.foreign_cpu_share or 0) > MOST_FOREIGN


Round = dict[str, Block]
"""A block of each worker, by the workers' names."""
Column = Callable[[str], str]
"""What a column of a table says of the worker with this name."""


class Runner(NamedTuple):
    """How to start a worker: `python -m module --serve options`.

    Attributes:
      framework: what is left out, with all of its workers, where it is not installed.
      name: of the worker: the framework, and after a space what sets it apart from the framework's others.
      module: its script.
      options: of the script.
      python: the interpreter that has the framework.
    """

    framework: str
    name: str
    module: str
    options: Sequence[str]
    python: Path


class Worker:
    """A framework's script in a process of its own, which trains a block when asked.

    Attributes:
      name: the runner's.
      about: what it said when it was warm: seconds until then, parameters, versions, steps of a block, details.
    """

    def __init__(self, runner: Runner):
        """Starts it and waits until it is warm.

        Raises:
          ModuleNotFoundError: the framework is not installed there; names the module.
          RuntimeError: it ended before it was warm.
        """
        self.name = runner.name
        self._process = subprocess.Popen(
            [str(runner.python), "-m", runner.module, "--serve", *runner.options],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()
        if "missing" in self.about:
            self.close()
            raise ModuleNotFoundError(f"{self.about['missing']} is not installed in {runner.python}")

    def block(self) -> Block:
        """Trains a block."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._read()
        return Block(answer["rate"], answer["foreign_cpu_share"])

    def close(self) -> None:
        """Ends the process by the end of its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # frameworks may print what they like
                answer: dict[str, Any] = json.loads(line)
                return answer
        code = self._process.wait()
        self.close()
        raise RuntimeError(f"{self.name} ended with exit code {code}; its last words are above")


def refuse(program: str, what: str, chosen: Iterable[str], known: Sequence[str], rounds: int, python: Path) -> None:
    """Exits 2 with a line for a user's mistake, if any: `what`, as frameworks, are `chosen` of those `known`."""
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        reason = f"{what} are {', '.join(known)}, not {', '.join(unknown)}"
    elif rounds < 1:
        reason = f"rounds is {rounds}; it must be at least 1"
    elif not python.is_file():
        reason = f"peers_python is {python}, which is no interpreter"
    else:
        return
    print(f"{program}: {reason}", file=sys.stderr)
    raise SystemExit(2)


def start(runners: Sequence[Runner], missing: set[str], install: str, console: Console) -> list[Worker]:
    """The workers whose framework is installed, warm; the other frameworks go to `missing` with one line each."""
    workers: list[Worker] = []
    try:
        for runner in runners:
            if runner.framework in missing:
                continue
            try:
                workers.append(Worker(runner))
            except ModuleNotFoundError as error:
                missing.add(runner.framework)
                line = f"{runner.framework} is left out: {error}; {install}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    except BaseException:
        close(workers)
        raise
    return workers


def close(workers: Sequence[Worker]) -> None:
    """Ends them all."""
    for worker in workers:
        worker.close()


def alternate(workers: Sequence[Worker], wanted: int, most: int) -> list[Round]:
    """Rounds of one block each, each round begun by the next worker, until enough of them are undisturbed."""
    rounds: list[Round] = []
    while len(rounds) < most and len(quiet(rounds)) < wanted:
        first = len(rounds) % len(workers)
        rounds.append({worker.name: worker.block() for worker in [*workers[first:], *workers[:first]]})
    return rounds


def quiet(rounds: Sequence[Round]) -> list[Round]:
    """The rounds in which no block was disturbed."""
    return [blocks for blocks in rounds if not any(block.disturbed for block in blocks.values())]


def choose(rounds: list[Round], wanted: int) -> tuple[list[Round], list[str]]:
    """The rounds that count, and what speaks against trusting them."""
    undisturbed = quiet(rounds)
    if len(undisturbed) >= min(LEAST_QUIET, wanted):
        return undisturbed, []
    shares = [block.foreign_cpu_share or 0 for blocks in rounds for block in blocks.values()]
    return rounds, [f"other processes took up to {max(shares):.0%} of the CPU, {statistics.median(shares):.0%} at half"]


def measured(runners: Sequence[Runner], missing: set[str], install: str, wanted: int, most: int, console: Console) -> (
    tuple[list[Worker], list[Round], list[str]]
):  # fmt: skip
    """Starts the workers, lets them take turns and ends them: (workers, the rounds that count, flags).

    Raises:
      SystemExit: with 1, nothing that was asked for is installed.
    """
    workers = start(runners, missing, install, console)
    if not workers:
        raise SystemExit(1)
    try:
        rounds = alternate(workers, wanted, most)
    finally:
        close(workers)
    return workers, *choose(rounds, wanted)


def counterpart(name: str) -> str:
    """jaxai's worker of the same kind: `rejax x8` -> `jaxai x8`."""
    _, space, kind = name.partition(" ")
    return OURS + space + kind


def ratios(rounds: Sequence[Round], name: str, of: str) -> list[float]:
    """How many times the rate of `name` the one of `of` is, round by round; empty where one took no part."""
    if not {of, name} <= rounds[0].keys():
        return []
    return [blocks[of].rate / blocks[name].rate for blocks in rounds]


def median(rounds: Sequence[Round], name: str) -> float:
    """The worker's median rate."""
    return statistics.median(blocks[name].rate for blocks in rounds)


def figures(worker: Worker, rounds: Sequence[Round], rate: str) -> dict[str, Any]:
    """What is recorded of a worker, its rate under the name `rate`."""
    blocks = [blocks[worker.name] for blocks in rounds]
    over = ratios(rounds, worker.name, of=counterpart(worker.name))
    allocator = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_") or key == "LD_PRELOAD"}
    return {
        "versions": worker.about["versions"],
        "steps_per_block": worker.about["steps"],
        rate: spread([block.rate for block in blocks]),
        "blocks": [block.rate for block in blocks],
        "foreign_cpu_share": [block.foreign_cpu_share for block in blocks],
        "jaxai_over_this": spread(over) if over else None,
        "warm_up_seconds": worker.about["ready"],
        "parameters": worker.about["parameters"],
        "allocator": allocator or "default",
        **worker.about["details"],
    }


def table(
    title: str,
    unit: str,
    rounds: Sequence[Round],
    names: Sequence[str],
    more: Sequence[tuple[str, Column]] = (),
) -> Table:
    """Medians, spread and ratios to jaxai's like of the workers that are named; `more` are columns with headings."""
    result = Table(title=title, title_justify="left")
    headings = ("framework", f"{unit}, median", "min", "max", "jaxai / this, median", "min", "max")
    for heading in (*headings, *(heading for heading, _ in more)):
        result.add_column(heading, justify="left" if heading == "framework" else "right")
    for name in names:
        rates, over = spread([blocks[name].rate for blocks in rounds]), ratios(rounds, name, of=counterpart(name))
        ratio = [f"{spread(over)[key]:.2f}" for key in ("median", "min", "max")] if over else [""] * 3
        cells = [f"{rates[key]:,.0f}" for key in ("median", "min", "max")]
        result.add_row(name, *cells, *ratio, *(cell(name) for _, cell in more))
    return result
