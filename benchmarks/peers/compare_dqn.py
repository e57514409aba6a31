"""Trains deep Q-learners of jaxai, rejax, Stable-Baselines3 and SBX side by side on the CPU, and prints the ratios.

    pip install -e ".[rl]"
    python3.11 -m venv peers
    peers/bin/pip install stable-baselines3 sbx-rl rejax "gymnax>=1.0.1" "jax>=0.10,<0.12"
    python -m benchmarks.peers.compare_dqn --peers-python peers/bin/python

Every learner makes one update in 10 environment steps, of the same network and batch, so the rates of environment
steps and those of updates have the same ratios. Each has a process of its own, whose blocks get steps to last equally
long. They take turns while the others idle; a round in which a stranger's process took part is run again. Learning is
on in every block, evaluation in none, and compilation is apart. Stable-Baselines3 and SBX play CartPole only: gymnasium
has no MinAtar.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro
from rich.console import Console

from benchmarks import records
from benchmarks.measure import spread
from benchmarks.peers import rounds
from benchmarks.peers.dqn_tasks import TASKS

ON_DEVICE = ("jaxai", "rejax")
"""Frameworks that vmap whole trainings, and play MinAtar."""
INSTALL = "install it as the first lines of --help say, or name an interpreter that has it with --peers-python"


@dataclass(frozen=True)
class Comparison:
    """What to compare, for how long, and where the figures go."""

    frameworks: tuple[str, ...] = ("jaxai", "rejax", "sb3", "sbx")  # in the order of the first round
    tasks: tuple[str, ...] = tuple(TASKS)  # cartpole (MLP 64 64, batch 128), breakout (MinAtar; conv 16, batch 32)
    seeds: int = 8  # trainings side by side in one program, measured beside single ones; 1: single ones only
    rounds: int = 5  # blocks of each learner, undisturbed ones as far as the machine allows
    most_rounds: int = 15  # rounds after which a busy machine's figures are taken as they are, and flagged
    seconds: float = 2.0  # length of a block
    peers_python: Path = Path(sys.executable)  # interpreter that has rejax, Stable-Baselines3 and SBX
    results: Path = records.RESULTS  # folder that gets <chip>/dqn.jsonl
    quick: bool = False  # one short round with a small replay, to see whether everything runs; flagged
    dry_run: bool = False  # prints only, writes no file


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 2 for a user's mistake, 1 if nothing that was asked for is installed."""
    how = tyro.cli(Comparison, args=arguments, prog="python -m benchmarks.peers.compare_dqn", description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    console = Console(width=None if sys.stdout.isatty() else 160)
    rounds.refuse("compare_dqn", "frameworks", how.frameworks, Comparison.frameworks, how.rounds, how.peers_python)
    rounds.refuse("compare_dqn", "tasks", how.tasks, tuple(TASKS), how.rounds, how.peers_python)
    wanted, most = (1, 1) if how.quick else (how.rounds, how.most_rounds)
    missing: set[str] = set()
    for task in how.tasks:
        runners = [runner(how, task, *learner) for learner in learners(how, task)]
        if not runners:
            print(f"compare_dqn: none of {', '.join(how.frameworks)} plays {task}; see --help", file=sys.stderr)
            raise SystemExit(2)
        workers, blocks, flags = rounds.measured(runners, missing, INSTALL, wanted, most, console)
        if how.quick:
            flags.append("quick: one short round with a small replay")
        show(task, workers, blocks, flags, console)
        if not how.dry_run:
            for worker in workers:
                file = records.append(record(task, worker, blocks, flags), how.results, "dqn")
            console.print(f"written to {file}", highlight=False)


def learners(how: Comparison, task: str) -> list[tuple[str, int]]:
    """(framework, seeds side by side) of all that can take part in a task."""
    able = [name for name in how.frameworks if name in ON_DEVICE or not TASKS[task].features]
    many = [(name, how.seeds) for name in able if name in ON_DEVICE and how.seeds > 1]
    return [(name, 1) for name in able] + many


def name_of(framework: str, seeds: int) -> str:
    """What a learner is called."""
    return framework if seeds == 1 else f"{framework} x{seeds}"


def runner(how: Comparison, task: str, framework: str, seeds: int) -> rounds.Runner:
    """How to start a framework's script."""
    python = Path(sys.executable) if framework == rounds.OURS else how.peers_python
    seconds = 0.05 if how.quick else how.seconds
    options = ["--task", task, "--seeds", str(seeds), "--seconds", str(seconds), *(["--quick"] if how.quick else [])]
    return rounds.Runner(framework, name_of(framework, seeds), f"benchmarks.peers.{framework}_dqn", options, python)


def record(task: str, worker: rounds.Worker, blocks: Sequence[rounds.Round], flags: Sequence[str]) -> dict[str, object]:
    """What is written of a learner."""
    framework, _, seeds = worker.name.partition(" x")
    figures = rounds.figures(worker, blocks, "env_steps_per_second_per_chip")
    updates = figures["env_steps_per_second_per_chip"]["median"] / TASKS[task].train_every
    over_one = rounds.ratios(blocks, framework, of=worker.name) if seeds else []
    return records.complete(
        f"dqn peers {task} {worker.name}",
        {
            "framework": framework,
            "task": TASKS[task].environment,
            "seeds": int(seeds or 1),
            "batch_size": TASKS[task].batch_size,
            **figures,
            "updates_per_second_per_chip": updates,
            "this_over_one_seed": spread(over_one) if over_one else None,
        },
        flags,
    )


def show(
    task: str, workers: Sequence[rounds.Worker], blocks: Sequence[rounds.Round], flags: Sequence[str], console: Console
) -> None:
    """Prints a task's table; the rate of trainings side by side is that of all of them together."""
    about = {worker.name: worker.about for worker in workers}

    def detail(field: str, digits: int) -> rounds.Column:
        def cell(name: str) -> str:
            value = about[name]["details"].get(field)
            return "" if value is None else f"{value:,.{digits}f}"

        return cell

    more = [
        ("updates/s", lambda name: f"{rounds.median(blocks, name) / TASKS[task].train_every:,.0f}"),
        ("trace s", detail("trace_seconds", 1)),
        ("compile s", detail("compile_seconds", 1)),
        ("bytes/transition", detail("bytes_per_transition", 0)),
    ]
    title = f"{TASKS[task].environment}, {len(blocks)} rounds, learning, float32 on the CPU"
    console.print(rounds.table(title, "env steps/s", blocks, list(about), more), *flags, sep="\n", highlight=False)


if __name__ == "__main__":
    main()
