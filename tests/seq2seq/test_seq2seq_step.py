import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxai import seq2seq
from jaxai.runtime import parallel
from jaxai.seq2seq.bucketed import Shape, bucketed

ROWS, VOCABULARY = 8, 11
SMALL = seq2seq.Config(
    source_vocabulary=VOCABULARY,
    target_vocabulary=VOCABULARY,
    hidden=8,
    embed=6,
    optimizer=seq2seq.Optimizer("sgd", 0.5),
)


def batch(source=5, target=4, rows=ROWS, seed=0):
    """Sentences of unequal lengths, so that devices have unequal numbers of tokens."""
    random = np.random.default_rng(seed)
    lengths = {
        "source_length": random.integers(1, source + 1, rows),
        "target_length": random.integers(1, target + 1, rows),
    }
    lengths["target_length"][: rows // 2] = 1
    arrays = dict(lengths)
    for name, width in (("source", source), ("target", target)):
        tokens = random.integers(4, VOCABULARY, (rows, width))
        arrays[name] = np.where(np.arange(width) < lengths[f"{name}_length"][:, None], tokens, 0)
    return {name: jnp.asarray(array, jnp.int32) for name, array in arrays.items()}


@functools.cache
def state_of(config):
    return jax.jit(seq2seq.make(config).init)(jax.random.key(0))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def losses(config, state, data):
    """Cross-entropy and smoothed cross-entropy of every real token, from the formulas, in float64."""
    logp = log_softmax(jax.jit(seq2seq.make_predict(config))(state, data))
    target = np.asarray(data["target"])
    real = np.arange(target.shape[1]) < np.asarray(data["target_length"])[:, None]
    truth = np.eye(VOCABULARY)[target]
    smooth = (1 - config.label_smoothing) * truth + config.label_smoothing / VOCABULARY
    right = logp.argmax(-1) == target
    return [-(weights * logp).sum(-1)[real] for weights in (truth, smooth)], right[real]


def test_loss_is_the_mean_over_real_tokens():
    config = seq2seq.Config(**{**vars(SMALL), "label_smoothing": 0.2})
    state, data = state_of(config), batch()
    (plain, smooth), right = losses(config, state, data)
    workload = seq2seq.make(config)
    _, metrics = jax.jit(workload.train_step)(state, data)
    assert metrics["loss"] == pytest.approx(smooth.mean(), rel=1e-5)
    assert metrics["token_accuracy"] == pytest.approx(right.mean())
    sums = jax.jit(workload.eval_step)(state, data)
    assert sums["count"] == len(plain) == int(data["target_length"].sum())
    assert sums["loss"] == pytest.approx(plain.sum(), rel=1e-5)
    assert sums["token_accuracy"] == right.sum()


def test_padding_changes_nothing():
    step = jax.jit(seq2seq.make(SMALL).train_step)
    state, data = state_of(SMALL), batch()
    wide = {name: jnp.pad(array, ((0, 0), (0, 3))) if array.ndim == 2 else array for name, array in data.items()}
    wide["target"] = wide["target"].at[:, 4:].set(5)  # what stands in the padding is not read
    after, metrics = step(state, data)
    padded, same = step(state, wide)
    assert metrics["loss"] == pytest.approx(float(same["loss"]), rel=1e-6)
    chex.assert_trees_all_close(after.params, padded.params, atol=1e-6)


def test_masked_examples_count_nothing():
    evaluate = jax.jit(seq2seq.make(SMALL).eval_step)
    state, data = state_of(SMALL), batch()
    mask = jnp.arange(ROWS) < 5
    sums = evaluate(state, data | {"mask": mask.astype(jnp.float32)})
    first = evaluate(state, {name: array[:5] for name, array in data.items()} | {"mask": jnp.ones(5)})
    for name, value in first.items():
        assert sums[name] == pytest.approx(float(value), rel=1e-5)


def test_target_is_never_its_own_input():
    predict = jax.jit(seq2seq.make_predict(SMALL))
    state, data = state_of(SMALL), batch()
    changed = data | {"target": data["target"].at[:, 2].set(9)}
    before, after = predict(state, data), predict(state, changed)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (np.asarray(before[:, 3]) != np.asarray(after[:, 3])).any()


def test_devices_with_unequal_numbers_of_tokens_give_the_gradient_of_one():
    state, data = state_of(SMALL), batch()
    expected, _ = jax.jit(seq2seq.make(SMALL).train_step)(state, data)
    mesh = parallel.make_mesh(4)
    results = []
    for mode in ("shard_map", "pmap"):
        workload = seq2seq.make(SMALL, parallel.axis_name(mode))
        call = parallel.compile_step(workload.train_step, mesh, mode)
        placed = parallel.place_state(jax.tree.map(jnp.copy, state), mesh, mode)
        after, metrics = call(placed, parallel.place_batches(data, mesh, mode))
        results.append((parallel.gather_state(after, mode).params, metrics["loss"]))
    chex.assert_trees_all_close(results[0][0], expected.params, atol=2e-6)
    chex.assert_trees_all_equal(*results)


def test_bucketed_step_is_the_step_on_what_the_bucket_holds():
    shapes = [Shape(3, 4, ROWS), Shape(5, 4, ROWS // 2)]
    workload = bucketed(seq2seq.make(SMALL), shapes)
    step, plain = jax.jit(workload.train_step), jax.jit(seq2seq.make(SMALL).train_step)
    state, whole = state_of(SMALL), batch()
    for index, shape in enumerate(shapes):
        kept = np.arange(shape.rows) * ROWS // shape.rows
        data = {name: array[kept] for name, array in whole.items()}
        data["source_length"] = jnp.minimum(data["source_length"], shape.source)
        data["source"] = data["source"][:, : shape.source]
        filled = dict(whole) | {"source_length": jnp.minimum(whole["source_length"], shape.source)}
        after, metrics = step(state, filled | {"bucket": jnp.full(ROWS, index, jnp.int32)})
        expected, same = plain(state, data)
        assert metrics["loss"] == pytest.approx(float(same["loss"]), rel=1e-6)
        chex.assert_trees_all_close(after.params, expected.params, atol=1e-6)
    assert workload.gradients is not None


def test_rows_that_do_not_divide_over_the_devices_are_reported():
    workload = bucketed(seq2seq.make(SMALL), [Shape(5, 4, 8), Shape(3, 4, 2)])
    cut = batch(rows=2) | {"bucket": jnp.zeros(2, jnp.int32)}
    with pytest.raises(ValueError, match="a bucket of 2 rows does not divide over 4 devices"):
        jax.eval_shape(workload.train_step, state_of(SMALL), cut)


def test_scheduled_sampling_draws_the_share_of_inputs_that_is_asked():
    state, data = state_of(SMALL), batch()
    plain = jax.jit(seq2seq.make(SMALL).train_step)(state, data)[1]["loss"]

    def loss(**fields):
        config = seq2seq.Config(**{**vars(SMALL), **fields})
        return jax.jit(seq2seq.make(config).train_step)(state, data)[1]["loss"]

    assert loss(scheduled_sampling=1.0, scheduled_sampling_steps=1_000) == plain  # at step 0 nothing is drawn yet
    assert loss(scheduled_sampling=1.0) != plain


def test_average_follows_the_parameters_and_is_what_translates():
    config = seq2seq.Config(**{**vars(SMALL), "ema_decay": 0.9})
    state = state_of(config)
    after, _ = jax.jit(seq2seq.make(config).train_step)(state, batch())
    decay = min(0.9, 1 / 10)
    expected = optax.incremental_update(after.params, state.params, 1 - decay)
    chex.assert_trees_all_close(seq2seq.parameters(after), expected, atol=1e-6)
    assert seq2seq.parameters(state_of(SMALL)) is state_of(SMALL).params


@pytest.mark.parametrize(
    ("field", "value"),
    [("label_smoothing", 1.0), ("scheduled_sampling", 1.5), ("ema_decay", -0.1), ("scheduled_sampling_steps", -1)],
)
def test_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        seq2seq.make(seq2seq.Config(**{**vars(SMALL), field: value}))
