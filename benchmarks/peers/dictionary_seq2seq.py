"""Spelling to pronunciation on the lengths that words have: jaxai in buckets, and on random batches.

pip install -e ".[text]"
python -m benchmarks.peers.dictionary_seq2seq --form random

A step is a pass over the same words in either form, and what counts is their real target tokens.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import jaxai_seq2seq, seq2seq_tasks
from benchmarks.peers.seq2seq_tasks import FIRST_WORD, Task
from benchmarks.peers.serving import Trainer

FORMS = ("buckets", "random")
"""Batches of words of about the same length in fixed shapes; of random words, padded to their longest."""
BUCKETS = 8
BATCHES = 32
"""About as many in a pass over buckets."""
PADDED_LENGTH = 16
"""Of a random batch, about; a batch of a bucket has as many padded tokens in all."""


class Words(NamedTuple):
    """Words as a train step takes them, `source`, `target` and their lengths, and what bucket each is of."""

    arrays: dict[str, np.ndarray]
    buckets: Any


@functools.cache
def words_of(task: Task) -> Words:
    """Words of the training split that fill whole batches of each bucket, the buckets as frequent as in all of it."""
    from jaxai.data import cmudict
    from jaxai.data.buckets import ROWS_MULTIPLE, Buckets, choose_buckets
    from jaxai.seq2seq.batches import pad
    from jaxai.seq2seq.vocabulary import END

    split = cmudict.load(None, every_pronunciation=False)[0]["train"]
    spoken = [text.split() for text in split.targets]
    sides = []
    for texts in (split.sources, spoken):
        ids = {symbol: FIRST_WORD + i for i, symbol in enumerate(sorted({each for text in texts for each in text}))}
        sides.append([[ids[each] for each in text] + [END] for text in texts])
    every = pad("source", sides[0]) | pad("target", sides[1])
    tokens = task.batch_size * PADDED_LENGTH
    buckets = choose_buckets(every["source_length"], every["target_length"], BUCKETS, tokens)
    shuffled = np.random.default_rng(0).permutation(len(buckets.of))
    members = [shuffled[buckets.of[shuffled] == index] for index in range(len(buckets.shapes))]
    batches = np.array([len(member) / shape.rows for member, shape in zip(members, buckets.shapes, strict=True)])
    shares = BATCHES * batches / batches.sum()
    # Rare lengths get a batch of fewer rows, so that they are no more frequent than they are.
    shapes = tuple(
        shape._replace(rows=min(shape.rows, ROWS_MULTIPLE * max(1, round(share * shape.rows / ROWS_MULTIPLE))))
        for shape, share in zip(buckets.shapes, shares, strict=True)
    )
    chosen = np.concatenate(
        [
            member[: max(1, round(share)) * shape.rows]
            for member, share, shape in zip(members, shares, shapes, strict=True)
        ]
    )
    return Words({name: array[chosen] for name, array in every.items()}, Buckets(shapes, buckets.of[chosen]))


def tokens_of_pass(task: Task) -> int:
    """Real target tokens."""
    return int(words_of(task).arrays["target_length"].sum())


def build(task: Task, form: str) -> Trainer:
    """The same workload, words and optimizer in either form."""
    import flax
    import jax
    import optax

    from jaxai import seq2seq

    words = words_of(task)
    workload = seq2seq.make(jaxai_seq2seq.config(task))
    state = jax.jit(workload.init)(jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    run, details = (in_buckets if form == "buckets" else at_random)(task, workload, state, words)
    return Trainer(run, parameters, {library.__name__: library.__version__ for library in (jax, flax, optax)}, details)


def in_buckets(task: Task, workload: Any, state: Any, words: Words) -> tuple[Callable[[int], None], dict[str, Any]]:
    """As `jaxai train` does: one program for all shapes, a call for a pass."""
    import jax

    from jaxai import seq2seq
    from jaxai.data.buckets import BucketedEpochs, padding
    from jaxai.runtime import parallel

    mesh = parallel.make_mesh(1)
    state = parallel.place_state(state, mesh)
    dataset = parallel.place_dataset(words.arrays | {"bucket": words.buckets.of}, mesh)
    order = BucketedEpochs(jax.random.key(1), words.buckets)
    batches = parallel.place_batches(order.host_indices(0, order.batches), mesh, steps_per_call=order.batches)
    shapes = [seq2seq.Shape(*shape) for shape in words.buckets.shapes]
    call = parallel.compile_step(seq2seq.bucketed(workload, shapes).train_step, mesh, steps_per_call=order.batches)

    def run(passes: int) -> None:
        nonlocal state
        for _ in range(passes):
            state, metrics = call(state, batches, dataset)
        jax.block_until_ready((state, metrics))

    source, target = padding(words.buckets, words.arrays["source_length"], words.arrays["target_length"])
    return run, {"padding": {"source": source, "target": target}, "shapes": len(shapes), "batches": order.batches}


def at_random(task: Task, workload: Any, state: Any, words: Words) -> tuple[Callable[[int], None], dict[str, Any]]:
    """A program for each shape that comes up, a call for each batch."""
    import jax

    order = np.random.default_rng(1).permutation(len(words.buckets.of))
    batches, padded = [], {"source": 0, "target": 0}
    for start in range(0, len(order), task.batch_size):
        batch = {name: array[order[start : start + task.batch_size]] for name, array in words.arrays.items()}
        for name in padded:
            batch[name] = batch[name][:, : batch[f"{name}_length"].max()]
            padded[name] += batch[name].size
        batches.append(jax.device_put(batch))
    train_step = jax.jit(workload.train_step, donate_argnums=0)

    def run(passes: int) -> None:
        nonlocal state
        for _ in range(passes):
            for batch in batches:
                state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))

    shapes = {(batch["source"].shape, batch["target"].shape) for batch in batches}
    over_real = {name: float(count / words.arrays[f"{name}_length"].sum()) for name, count in padded.items()}
    return run, {"padding": over_real, "shapes": len(shapes), "batches": len(batches)}


if __name__ == "__main__":
    seq2seq_tasks.main(build, FORMS, ("dictionary",), tokens_of_pass)
