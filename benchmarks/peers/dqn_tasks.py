"""The two tasks of the deep Q-learners, alike for everyone, and the command line of their scripts.

This file runs in the peers' interpreter too, so it needs the standard library and NumPy alone.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers import serving
from benchmarks.peers.serving import Trainer


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment and how it is learnt. Steps are environment steps, over all environments.

    The discount is 0.99 and the optimizer Adam. Each learner keeps its own loss, gradient clipping and way to treat
    a truncated episode: they cost next to nothing.
    """

    environment: str  # by gymnax's name, which is gymnasium's where both have it
    hidden: tuple[int, ...]  # widths of the dense layers, with relu
    features: int  # of one 3x3 convolution (stride 1, no padding) before them; 0: none
    batch_size: int
    capacity: int  # transitions in the replay
    learning_starts: int  # steps at random that fill the replay before the first update
    target_every: int  # steps between copies of the network to the target
    num_envs: int = 10
    train_every: int = 10  # steps between updates
    learning_rate: float = 2.5e-4
    discount: float = 0.99
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_steps: int = 250_000  # steps over which the share of random actions falls
    total_steps: int = 500_000  # of a whole training, which the schedules are made for


TASKS = {
    "cartpole": Task("CartPole-v1", (64, 64), 0, 128, 10_000, 10_000, 500),
    "breakout": Task("Breakout-MinAtar", (128,), 16, 32, 100_000, 5_000, 1_000),
}


def quick(task: Task) -> Task:
    """The task with a small replay, to see whether everything runs."""
    return dataclasses.replace(task, capacity=1_000, learning_starts=200)


def main(build: Callable[[Task, int], Trainer]) -> None:
    """The command line of a framework's deep Q-learner.

    Args:
      build: (task, seeds that train side by side) -> the trainer, whose replay is filled and whose next step learns;
        its `run` takes environment steps of each seed. Imports its framework inside.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--task", choices=TASKS, default="cartpole", help="what to learn")
    parser.add_argument("--seeds", type=int, default=1, help="trainings side by side in one program")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a block, which gets steps to match")
    parser.add_argument("--quick", action="store_true", help="with a small replay, to see whether it runs")
    parser.add_argument("--learn", type=int, help="train so many steps instead, and print what an episode then brings")
    serving.add_block_options(parser)
    options = parser.parse_args()
    task = quick(TASKS[options.task]) if options.quick else TASKS[options.task]
    if options.learn is not None:
        learn(build(task, options.seeds), options.learn)
        return

    def warm() -> tuple[Trainer, int]:
        trainer = build(task, options.seeds)
        return trainer, block_steps(trainer.run, task.train_every, options.seconds)

    serving.serve(warm, options.seeds, None if options.serve else options.blocks)


def learn(trainer: Trainer, steps: int) -> None:
    """Trains, and prints what an episode brings before and after."""
    assert trainer.mean_return is not None
    before = trainer.mean_return()
    started = time.perf_counter()
    trainer.run(steps)
    seconds = time.perf_counter() - started
    serving.write({"steps": steps, "seconds": seconds, "return_before": before, "return": trainer.mean_return()})


def block_steps(run: Callable[[int], None], train_every: int, seconds: float) -> int:
    """Environment steps that last about so long, a multiple of `train_every`; `run` is at speed afterwards."""
    updates, elapsed = 1, 0.0
    run(train_every)  # compiles what has not been compiled
    while elapsed < seconds / 2:
        updates *= 2
        began = time.perf_counter()
        run(updates * train_every)
        elapsed = time.perf_counter() - began
    return max(1, round(updates * seconds / elapsed)) * train_every


def timed_compile(lower: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The program that `lower` traces, compiled; and the seconds of each: trace_seconds, compile_seconds."""
    started = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()
    seconds = {"trace_seconds": round(traced - started, 3), "compile_seconds": round(compiled - traced, 3)}
    return program, seconds
