"""The one model of all frameworks, its sizes, its data, and the command line of their sequence-to-sequence scripts.

This file runs in the peers' interpreter too, so it needs the standard library and NumPy alone.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Literal

import numpy as np

from benchmarks.peers import serving
from benchmarks.peers.dqn_tasks import block_steps
from benchmarks.peers.serving import Trainer

BEGIN = 1
FIRST_WORD = 4
"""Of the vocabulary; before it come the special tokens."""
LEARNING_RATE = 1e-3  # of Adam
BATCHES = 8
"""That differ, and take turns."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is measured, on which sizes.

    The model: embedding, LSTM encoder of one layer; embedding, LSTM decoder that begins in the encoder's last state;
    attention of each decoder state h over the encoder's outputs m with the score h W m, tanh(U [context; h]), and a
    dense layer with bias to the vocabulary. No input feeding, no dropout, one vocabulary size on both sides.
    Training takes the mean cross-entropy of all target tokens and Adam.
    """

    what: Literal["train", "greedy", "beam"]
    batch_size: int  # sentences
    embed: int = 128
    hidden: int = 256
    vocabulary: int = 100
    length: int = 20  # tokens of every source and of every target, the end mark included
    beam: int = 4  # hypotheses of each sentence

    @property
    def rows(self) -> int:
        """Rows that a matrix product of a decoder's step has."""
        return self.batch_size * (self.beam if self.what == "beam" else 1)

    @property
    def parameters(self) -> int:
        """Of the model; each LSTM with one bias."""
        embeddings = 2 * self.vocabulary * self.embed
        lstms = 2 * 4 * self.hidden * (self.embed + self.hidden + 1)
        return embeddings + lstms + 3 * self.hidden**2 + (self.hidden + 1) * self.vocabulary


LARGE = {"embed": 256, "hidden": 512, "vocabulary": 8_000}
TASKS = {
    "train": Task("train", 128),
    "train-16": Task("train", 16),
    "train-large": Task("train", 128, **LARGE),
    "greedy": Task("greedy", 128),
    "beam": Task("beam", 128),
    "greedy-1": Task("greedy", 1),
    "beam-1": Task("beam", 1),
    "dictionary": Task("train", 128, vocabulary=43),  # 39 phonemes and the special tokens; lengths are the words' own
}


def quick(task: Task) -> Task:
    """The task with a small model and short sentences, to see whether everything runs."""
    batch_size, vocabulary = min(task.batch_size, 4), min(task.vocabulary, 50)
    return dataclasses.replace(task, batch_size=batch_size, embed=8, hidden=16, vocabulary=vocabulary, length=5)


def random_data(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """(sources, targets), each [batches, batch, length] int32 words, the same for everyone."""
    generator = np.random.default_rng(0)
    shape = (BATCHES, task.batch_size, task.length)
    sources, targets = (generator.integers(FIRST_WORD, task.vocabulary, shape, dtype=np.int32) for _ in range(2))
    return sources, targets


def shifted(targets: np.ndarray) -> np.ndarray:
    """The decoder's inputs: targets [..., length] one later, after the begin mark."""
    inputs = np.roll(targets, 1, axis=-1)
    inputs[..., 0] = BEGIN
    return inputs


def tokens_of_batch(task: Task) -> int:
    """Target tokens."""
    return task.batch_size * task.length


def main(
    build: Callable[[Task, str], Trainer],
    forms: tuple[str, ...] = ("default",),
    tasks: tuple[str, ...] = tuple(TASKS)[:-1],
    per_step: Callable[[Task], int] = tokens_of_batch,
) -> None:
    """The command line of a framework's script.

    Args:
      build: (task, form) -> the trainer, whose steps are batches: updates, or batches decoded. Imports its framework
        inside.
      forms: in which the framework can run it.
      tasks: in which it takes part; the first is the default.
      per_step: what a step counts in the rate.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--task", choices=tasks, default=tasks[0], help="what to do, on which sizes")
    parser.add_argument("--form", choices=forms, default=forms[0], help="how the framework does it")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a block, which gets steps to match")
    parser.add_argument("--quick", action="store_true", help="with a small model, to see whether it runs")
    serving.add_block_options(parser)
    options = parser.parse_args()
    task = quick(TASKS[options.task]) if options.quick else TASKS[options.task]

    def warm() -> tuple[Trainer, int]:
        trainer = build(task, options.form)
        return trainer, block_steps(trainer.run, 1, options.seconds)

    serving.serve(warm, per_step(task), None if options.serve else options.blocks)
