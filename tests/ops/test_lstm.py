import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from jax.sharding import PartitionSpec

from jaxai.ops import lstm as ops

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "seq2seq_lstm.npz"
FORMS = "scan", "custom_gradient", "hoisted"
BATCH, TIME, FEATURES, HIDDEN = 4, 5, 3, 2
LENGTHS = np.array([5, 0, 2, 3], np.int32)


@functools.cache
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def draw(dtype=np.float32, batch=BATCH):
    rng = np.random.default_rng(0)
    shapes = (FEATURES, 4 * HIDDEN), (HIDDEN, 4 * HIDDEN), (4 * HIDDEN,)
    x, h, c = (rng.normal(size=shape) for shape in ((batch, TIME, FEATURES), (batch, HIDDEN), (batch, HIDDEN)))
    weights = ops.Weights(*(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes))
    return jnp.asarray(x, dtype), weights, ops.Carry(jnp.asarray(h, dtype), jnp.asarray(c, np.float32))


def scalar(x, weights, carry, lengths, **options):
    """Meets every output and every final state with a different weight."""
    outputs, last = ops.lstm(x, weights, carry, lengths, **options)
    total = sum((leaf * jnp.cos(1 + jnp.arange(leaf.size)).reshape(leaf.shape)).sum() for leaf in (outputs, *last))
    return total.astype(jnp.float32), (outputs, last)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def alone(x, weights, h, c, reverse):
    """One sequence [time, features] without padding, step by step in NumPy's float64."""
    outputs = np.zeros((len(x), len(h)))
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        i, f, g, o = np.split(x[t] @ weights.input + h @ weights.recurrent + weights.bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = outputs[t] = sigmoid(o) * np.tanh(c)
    return outputs, h, c


@functools.cache
def golden_results(direction):
    """Form -> outputs, final states and gradients of ours, under the names of the golden file; one program for all."""
    arrays = golden()
    weights = ops.Weights(*(jnp.asarray(arrays[f"lstm_{name}"]) for name in ops.Weights._fields))

    def evaluate(form, x, weights, carry):
        def lstm(x, weights, carry):
            outputs, last = ops.lstm(x, weights, carry, arrays["lengths"], reverse=direction == "reverse", form=form)
            return {"outputs": outputs, "h": last.h, "c": last.c}

        results, pull_back = jax.vjp(lstm, x, weights, carry)
        x, weights, carry = pull_back({name: arrays[f"{name}_cotangent"] for name in results})
        gradients = {"x": x} | weights._asdict() | carry._asdict()
        return results | {f"gradient_{name}": gradient for name, gradient in gradients.items()}

    every = jax.jit(lambda *arguments: {form: evaluate(form, *arguments) for form in FORMS})
    return every(arrays["x"], weights, ops.Carry(arrays["h"], arrays["c"]))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_packed_sequences_of_torch_and_their_gradients(form, direction):
    for name, value in golden_results(direction)[form].items():
        np.testing.assert_allclose(value, golden()[f"lstm_{direction}_{name}"], 1e-5, 1e-5, err_msg=name)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS[:2])
def test_padded_batch_gives_what_each_sequence_gives_alone(form, reverse):
    x, weights, carry = draw()
    x = jnp.where(jnp.arange(TIME)[:, None] < LENGTHS[:, None, None], x, jnp.nan)  # padding is never looked at
    outputs, last = jax.jit(functools.partial(ops.lstm, reverse=reverse, form=form))(x, weights, carry, LENGTHS)
    for n, length in enumerate(LENGTHS):
        expected, h, c = alone(*jax.tree.map(np.asarray, (x[n, :length], weights, carry.h[n], carry.c[n])), reverse)
        chex.assert_trees_all_close((outputs[n, :length], last.h[n], last.c[n]), (expected, h, c), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(outputs[n, length:], 0)


def test_without_lengths_or_carry_every_step_is_real_and_the_carry_is_zero():
    x, weights, carry = draw()
    zero = jax.tree.map(jnp.zeros_like, carry)

    @jax.jit
    def pairs(x, weights):
        given = jnp.full(BATCH, TIME)
        return [(ops.lstm(x, weights, form=form), ops.lstm(x, weights, zero, given, form=form)) for form in FORMS]

    for absent, given in pairs(x, weights):
        chex.assert_trees_all_close(absent, given, rtol=1e-6, atol=1e-6)


def test_cell_by_cell_equals_the_sequence():
    x, weights, carry = draw()

    @jax.jit
    def both(x, weights, carry):
        whole, steps = ops.lstm(x, weights, carry), []
        for t in range(TIME):
            carry = ops.cell(x[:, t], carry, weights)
            steps.append(carry.h)
        return whole, (jnp.stack(steps, 1), carry)

    chex.assert_trees_all_close(*both(x, weights, carry), rtol=1e-5, atol=1e-5)


@functools.cache
def gradients(form):
    return jax.jit(jax.grad(functools.partial(scalar, reverse=True, form=form), (0, 1, 2), has_aux=True))


def test_gradients_under_vmap_remat_and_shard_map_are_those_of_the_scan():
    x, weights, carry = draw(batch=8)
    lengths = jnp.arange(8) % (TIME + 1)
    expected, _ = gradients("scan")(x, weights, carry, lengths)

    one = jax.checkpoint(functools.partial(scalar, reverse=True))

    def mapped(x, weights, carry, lengths):
        def of_models(x, weights, carry):
            return jax.vmap(lambda *a: one(*a, lengths)[0])(x, weights, carry)[1]

        two = jax.tree.map(lambda a: jnp.stack((a + 1, a)), (x, weights, carry))
        return jax.tree.map(lambda a: a[1], jax.grad(of_models, (0, 1, 2))(*two))

    def sharded(x, weights, carry, lengths):
        def local(x, weights, carry, lengths, scale):
            def loss(x, weights, carry):
                outputs, last = ops.lstm(x, weights, carry, lengths, reverse=True)
                return sum((a * b).sum() for a, b in zip((outputs, *last), scale, strict=True))

            x, weights, carry = jax.grad(loss, (0, 1, 2))(x, weights, carry)
            return x, jax.lax.psum(weights, "data"), carry

        shapes = (8, TIME, HIDDEN), (8, HIDDEN), (8, HIDDEN)
        scale = tuple(jnp.cos(1 + jnp.arange(np.prod(shape))).reshape(shape) for shape in shapes)
        split, whole = PartitionSpec("data"), PartitionSpec()
        return jax.shard_map(
            local,
            mesh=jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=(split, whole, split, split, split),
            out_specs=(split, whole, split),
            check_vma=False,
        )(x, weights, carry, lengths, scale)

    chex.assert_trees_all_close(jax.jit(mapped)(x, weights, carry, lengths), expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(jax.jit(sharded)(x, weights, carry, lengths), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS[:2])
def test_bfloat16_stays_close_to_float32(form):
    x, weights, carry = draw(jnp.bfloat16)
    got, (outputs, last) = gradients(form)(x, weights, carry, LENGTHS)
    assert outputs.dtype == last.h.dtype == jnp.bfloat16
    assert last.c.dtype == jnp.float32  # a sum over many steps
    assert [leaf.dtype for leaf in jax.tree.leaves(got)] == [jnp.bfloat16] * 5 + [jnp.float32]
    exact, expected = gradients("scan")(*jax.tree.map(lambda a: a.astype(jnp.float32), (x, weights, carry)), LENGTHS)
    chex.assert_trees_all_close((outputs, last), expected, rtol=0.02, atol=0.02)
    chex.assert_trees_all_close(got, exact, rtol=0.05, atol=0.05)


def matmuls(form):
    """Of every loop in the program of a gradient, and outside of them."""
    x, weights, carry = draw()
    program = jax.make_jaxpr(jax.grad(lambda *given: scalar(*given, None, form=form)[0], (0, 1, 2)))(x, weights, carry)
    loops = [e.params["jaxpr"].jaxpr for e in program.eqns if e.primitive.name == "scan"]
    return [[e.primitive.name for e in body.eqns].count("dot_general") for body in (*loops, program)]


def test_loop_on_the_way_back_holds_only_the_recurrent_matmul():
    assert matmuls("custom_gradient") == [2, 1, 3]  # there, back, then for dx, dW and dU
    assert matmuls("hoisted") == [1, 1, 4]


def test_backend_is_known_only_where_the_program_is_lowered():
    x, weights, carry = draw()
    lowered = {
        platform: jax.jit(ops.lstm).trace(x, weights, carry).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    row, whole = f"tensor<{BATCH}x{FEATURES}xf32>", f"tensor<{TIME}x{BATCH}x{FEATURES}xf32>"
    products = {
        platform: [line for line in text.splitlines() if "dot_general" in line] for platform, text in lowered.items()
    }
    assert not any(whole in line for line in products["cpu"])
    assert any(row in line for line in products["cpu"])
    assert any(whole in line for line in products["tpu"])
    assert not any(row in line for line in products["tpu"])


@pytest.fixture
def reference_for_cudnn(monkeypatch):
    """Stands in for the kernels with jax.experimental.rnn's own reference, which runs here."""

    def forward(x, h, c, packed, lengths, **sizes):
        def reference(x, h, c, packed):
            features, hidden = sizes["input_size"], sizes["hidden_size"]
            split = rnn.unpack_lstm_weights(packed, features, hidden, 1, False)
            return rnn.lstm_ref(x, h, c, *split, lengths, features, hidden, 1, 0.0, False)

        return jax.vjp(reference, x, h, c, packed)

    def fwd(x, h, c, packed, lengths, **sizes):
        assert int(lengths.dtype == jnp.int32)
        return forward(x, h, c, packed, lengths, **sizes)[0], (x, h, c, packed, lengths)

    def bwd(*, residuals, gradients, **sizes):
        *arrays, lengths = residuals
        return *forward(*arrays, lengths, **sizes)[1](gradients), None

    monkeypatch.setattr(ops, "cudnn_refusal", lambda *arguments: None)
    monkeypatch.setattr(rnn, "lstm_fwd", fwd)
    monkeypatch.setattr(rnn, "lstm_bwd", bwd)


def test_layout_for_cudnn_reversal_and_models_give_what_the_scan_gives(reference_for_cudnn):
    x, weights, carry = draw()
    models = jax.tree.map(lambda a: jnp.stack((a, a / 2)), weights)

    def of_models(form):
        one = jax.grad(functools.partial(scalar, reverse=True, form=form), (0, 1, 2), has_aux=True)
        return jax.jit(jax.vmap(one, (None, 0, None, None)))(x, models, carry, LENGTHS)

    assert rnn.get_num_params_in_lstm(FEATURES, HIDDEN, 1, False) == ops.cudnn_weights(weights).size
    chex.assert_trees_all_close(of_models("auto"), of_models("scan"), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN can be had here")
def test_cudnn_without_a_gpu_is_one_clear_line():
    with pytest.raises(ValueError, match=r"^form 'cudnn' of the LSTM is not possible: the backend is \w+, not a GPU"):
        ops.lstm(*draw(), form="cudnn")


@pytest.mark.accelerator
@pytest.mark.parametrize("reverse", [False, True])
def test_cudnn_equals_the_scan_on_a_gpu(reverse):
    with jax.default_matmul_precision("highest"):
        for lengths in LENGTHS, None:
            cudnn, scan = (
                jax.jit(jax.grad(functools.partial(scalar, reverse=reverse, form=form), (0, 1, 2), has_aux=True))
                for form in ("cudnn", "scan")
            )
            chex.assert_trees_all_close(cudnn(*draw(), lengths), scan(*draw(), lengths), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_one_clear_line():
    x, weights, carry = draw()
    with pytest.raises(ValueError, match=r"^form 'fast' of the LSTM is unknown: choose one of auto, scan"):
        ops.lstm(x, weights, form="fast")
    with pytest.raises(ValueError, match=r"^x has shape \(4, 3\): an LSTM reads \[batch, time, features\]"):
        ops.lstm(x[:, 0], weights)
    with pytest.raises(
        ValueError, match=r"^weights.input has shape \(3, 8\): \(2, 8\) fits x of \(4, 5, 2\) and 2 hid"
    ):
        ops.lstm(x[..., 1:], weights)
    with pytest.raises(ValueError, match=r"^carry.h has shape \(4, 2\): \(3, 2\) fits"):
        ops.lstm(x[1:], weights, carry)
    with pytest.raises(ValueError, match=r"^lengths has shape \(3,\): \(4,\) fits"):
        ops.lstm(x, weights, lengths=LENGTHS[1:])
