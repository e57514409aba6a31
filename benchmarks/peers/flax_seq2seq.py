"""Sequence to sequence in plain flax: `nn.RNN(nn.OptimizedLSTMCell)` in jitted steps, float32, on the CPU.

python -m benchmarks.peers.flax_seq2seq --task train
"""

import functools
import itertools
from typing import Any

from benchmarks.peers import seq2seq_tasks
from benchmarks.peers.seq2seq_tasks import Task
from benchmarks.peers.serving import Trainer


def build(task: Task, form: str) -> Trainer:
    """The model and the loop as flax's own examples write them, with batches that wait on the device."""
    import flax
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, source: jax.Array, inputs: jax.Array) -> jax.Array:
            encoder, decoder = (
                nn.RNN(nn.OptimizedLSTMCell(task.hidden), return_carry=True, name=name)
                for name in ("encoder", "decoder")
            )
            carry, memory = encoder(nn.Embed(task.vocabulary, task.embed)(source))
            _, states = decoder(nn.Embed(task.vocabulary, task.embed)(inputs), initial_carry=carry)
            keys = nn.Dense(task.hidden, use_bias=False)(memory)
            weights = nn.softmax(jnp.einsum("bth,bsh->bts", states, keys))
            context = jnp.einsum("bts,bsh->bth", weights, memory)
            combine = nn.Dense(task.hidden, use_bias=False)
            return nn.Dense(task.vocabulary)(jnp.tanh(combine(jnp.concatenate([context, states], -1))))

    model, adam = Model(), optax.adam(seq2seq_tasks.LEARNING_RATE)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: tuple[Any, Any], source: jax.Array, inputs: jax.Array, targets: jax.Array) -> Any:
        params, opt_state = state

        def cross_entropy(params: Any) -> jax.Array:
            logits: Any = model.apply(params, source, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        loss, grads = jax.value_and_grad(cross_entropy)(params)
        updates, opt_state = adam.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    words, wanted = seq2seq_tasks.random_data(task)
    sets = zip(words, seq2seq_tasks.shifted(wanted), wanted, strict=True)
    batches = itertools.cycle([jax.device_put(batch) for batch in sets])
    params = jax.jit(model.init)(jax.random.key(0), words[0], wanted[0])
    state = (params, adam.init(params))

    def run(steps: int) -> None:
        nonlocal state
        for batch in itertools.islice(batches, steps):
            state, loss = train_step(state, *batch)
        jax.block_until_ready((state, loss))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Trainer(run, parameters, {library.__name__: library.__version__ for library in (jax, flax, optax)})


if __name__ == "__main__":
    seq2seq_tasks.main(build, tasks=("train", "train-16", "train-large"))
