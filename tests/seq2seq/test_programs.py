"""Programs of ten lines that users of seq2seq write."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxai import population, seq2seq
from jaxai.runtime.checkpoint import Checkpoints

TOKENS = np.random.default_rng(0).integers(4, 12, (16, 4))
BATCH = seq2seq.make_batch(TOKENS, TOKENS[:, ::-1])
CONFIG = seq2seq.Config(source_vocabulary=12, target_vocabulary=12, hidden=8, embed=6, dropout=0.1)


def test_train_and_decode_in_a_loop_of_ones_own():
    workload = seq2seq.make(CONFIG, transformation=optax.adam(3e-2))
    state = jax.jit(workload.init)(jax.random.key(0))
    step = jax.jit(workload.train_step, donate_argnums=0)
    for _ in range(200):
        state, metrics = step(state, BATCH)
    source = seq2seq.make_batch(TOKENS)
    advance, first = seq2seq.make_step(CONFIG, [seq2seq.variables(state)], source["source"], source["source_length"])
    ends = {"begin": seq2seq.BEGIN, "end": seq2seq.END}
    found = seq2seq.decode.beam_search(advance, first, batch=len(TOKENS), beam=3, max_length=6, **ends)

    assert metrics["loss"] < 0.5
    assert (found.tokens[:, 0, :4] == TOKENS[:, ::-1]).all(1).mean() > 0.8


def test_freeze_an_embedding_and_train_the_rest_at_two_rates():
    def label(path, leaf):
        return "slow" if "encoder" in str(path) else "frozen" if "embedding" in str(path) else "fast"

    rates = {"slow": optax.adam(1e-3), "fast": optax.adam(1e-2), "frozen": optax.set_to_zero()}
    mine = optax.multi_transform(rates, lambda params: jax.tree_util.tree_map_with_path(label, params))
    workload = seq2seq.make(CONFIG, transformation=mine)
    before = jax.jit(workload.init)(jax.random.key(0))
    after, _ = jax.jit(workload.train_step)(before, BATCH)

    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.params, after.params)
    assert set(jax.tree.leaves((moved["source_embedding"], moved["target_embedding"]))) == {0.0}
    # Adam's first step has the size of the rate.
    assert max(jax.tree.leaves(moved["encoder"])) < 1.01e-3 < 0.9e-2 < max(jax.tree.leaves(moved["decoder"])) < 1.01e-2


def test_attention_of_ones_own_is_a_class_with_scores():
    class Nearest(seq2seq.attention.Attention):
        def scores(self, query, keys):
            return -jnp.square(query[:, :, None] - keys[:, None]).sum(-1)

    config = seq2seq.Config(source_vocabulary=12, target_vocabulary=12, hidden=8, embed=6, bidirectional=False)
    network = seq2seq.Seq2Seq(config, attention=Nearest(config.hidden))
    workload = seq2seq.make(config, network=network)
    state, _ = jax.jit(workload.train_step)(jax.jit(workload.init)(jax.random.key(0)), BATCH)
    step, first = seq2seq.make_step(config, [state.params], *seq2seq.make_batch(TOKENS).values(), network=network)
    _, _, weights = step(jnp.full((16, 1), seq2seq.BEGIN), first)

    chex.assert_shape(weights, (16, 1, 5))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


class Statistics(nn.Module):
    """Batch-normalized embeddings and dropout: collections and random numbers that a checkpoint has to hold."""

    @nn.compact
    def __call__(self, source, source_lengths, inputs, *, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Embed(12, 8)(inputs))
        return nn.Dense(12)(nn.Dropout(0.5)(x, deterministic=not train))


def test_save_and_resume_in_a_loop_of_ones_own(tmp_path):
    workload = seq2seq.make(CONFIG, network=Statistics())
    step, state = jax.jit(workload.train_step), jax.jit(workload.init)(jax.random.key(0))
    for _ in range(3):
        state, _ = step(state, BATCH)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    resumed = Checkpoints(tmp_path).restore(jax.eval_shape(workload.init, jax.random.key(0)))

    straight, again = step(state, BATCH)[0], step(resumed, BATCH)[0]
    chex.assert_trees_all_equal(*(each.replace(key=jax.random.key_data(each.key)) for each in (straight, again)))


def test_seeds_train_in_one_program():
    member = seq2seq.make(CONFIG, network=Statistics())
    workload = population.make(member, [0, 1])
    state = jax.jit(workload.init)(jax.random.key(0))
    state, metrics = jax.jit(workload.train_step)(state, BATCH)

    _, expected = jax.jit(member.train_step)(jax.jit(member.init)(jax.random.key(1)), BATCH)
    np.testing.assert_allclose(metrics["loss"][1], expected["loss"], rtol=1e-5)
