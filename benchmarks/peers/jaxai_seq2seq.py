"""Sequence to sequence in jaxai: trained as `jaxai train` does, decoded wholly on the device, float32, on the CPU.

python -m benchmarks.peers.jaxai_seq2seq --task beam
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import seq2seq_tasks
from benchmarks.peers.seq2seq_tasks import BEGIN, Task
from benchmarks.peers.serving import Trainer

NEVER = -1
"""A token that no model chooses: no sentence ends before its last step."""


def build(task: Task, form: str) -> Trainer:
    """`seq2seq.make` under `compile_step`, or `seq2seq.decode` under `jit`, over data on the device."""
    import flax
    import jax
    import optax

    from jaxai import seq2seq

    workload = seq2seq.make(config(task))
    state = jax.jit(workload.init)(jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    run = trained(task, workload, state) if task.what == "train" else decoded(task, state.params)
    return Trainer(run, parameters, {library.__name__: library.__version__ for library in (jax, flax, optax)})


def config(task: Task) -> Any:
    """The model of the task, and its optimizer."""
    from jaxai import seq2seq

    return seq2seq.Config(
        source_vocabulary=task.vocabulary,
        target_vocabulary=task.vocabulary,
        hidden=task.hidden,
        embed=task.embed,
        bidirectional=False,
        attention="general",
        dtype="float32",
        optimizer=seq2seq.Optimizer(name="adam", learning_rate=seq2seq_tasks.LEARNING_RATE),
    )


def trained(task: Task, workload: Any, state: Any) -> Callable[[int], None]:
    """Runs so many updates, as many in a call as `jaxai train` takes."""
    import jax

    from jaxai.runtime import parallel
    from jaxai.runtime.plan import STEPS_PER_CALL

    mesh = parallel.make_mesh(1)
    state = parallel.place_state(state, mesh)
    sentences = [array.reshape(-1, task.length) for array in seq2seq_tasks.random_data(task)]
    lengths = np.full(len(sentences[0]), task.length, np.int32)
    arrays = dict(zip(("source", "target"), sentences, strict=True))
    dataset = parallel.place_dataset(arrays | {"source_length": lengths, "target_length": lengths}, mesh)
    indices = np.arange(STEPS_PER_CALL * task.batch_size, dtype=np.int32).reshape(STEPS_PER_CALL, -1) % len(lengths)
    batches = parallel.place_batches(indices, mesh, steps_per_call=STEPS_PER_CALL)
    call = parallel.compile_step(workload.train_step, mesh, steps_per_call=STEPS_PER_CALL)

    def run(steps: int) -> None:
        nonlocal state
        for done in range(0, steps, STEPS_PER_CALL):
            state, metrics = call(state, batches, dataset, min(steps - done, STEPS_PER_CALL))
        jax.block_until_ready((state, metrics))

    return run


def decoded(task: Task, params: Any) -> Callable[[int], None]:
    """Decodes so many batches, one after another."""
    import jax

    from jaxai import seq2seq

    model, lengths = config(task), np.full(task.batch_size, task.length, np.int32)

    @jax.jit
    def decode(params: Any, source: jax.Array, lengths: jax.Array) -> Any:
        step, state = seq2seq.make_step(model, [params], source, lengths)
        sizes: dict[str, Any] = {"batch": task.batch_size, "max_length": task.length, "begin": BEGIN, "end": NEVER}
        if task.what == "greedy":
            return seq2seq.decode.greedy(step, state, **sizes)
        return seq2seq.decode.beam_search(step, state, beam=task.beam, **sizes)

    sources, _ = seq2seq_tasks.random_data(task)
    batches = itertools.cycle(jax.device_put(list(sources)))
    lengths = jax.device_put(lengths)

    def run(steps: int) -> None:
        for source in itertools.islice(batches, steps):
            jax.block_until_ready(decode(params, source, lengths))

    return run


def flops_per_token(task: Task) -> float:
    """Of the model's matrix products, for a target token; nothing is compiled."""
    import jax
    import jax.numpy as jnp

    from jaxai import seq2seq
    from jaxai.runtime import flops

    workload, network = seq2seq.make(config(task)), seq2seq.Seq2Seq(config(task))
    state = jax.eval_shape(workload.init, jax.random.key(0))
    batch = seq2seq.example_batch(config(task), task.batch_size, task.length, task.length)
    tokens = seq2seq_tasks.tokens_of_batch(task)
    if task.what == "train":
        return flops.count(workload.train_step, state, batch) / tokens

    def encode(params: Any, source: jax.Array, lengths: jax.Array) -> Any:
        return network.apply({"params": params}, source, lengths, method="encode")

    def step(params: Any, memory: Any, decoder: Any) -> Any:
        rows = task.rows // task.batch_size
        decoder = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, 1), decoder)
        begin = jnp.full((task.batch_size, rows), BEGIN)
        return network.apply({"params": params}, begin, decoder, memory, method="step")

    read = state.params, batch["source"], batch["source_length"]
    steps = task.length * flops.count(step, state.params, *jax.eval_shape(encode, *read))
    return (flops.count(encode, *read) + steps) / tokens


if __name__ == "__main__":
    seq2seq_tasks.main(build)
