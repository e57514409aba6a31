import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.ops import gru as ops

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "seq2seq_lstm.npz"


@functools.cache
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def weights_of(arrays, dtype=np.float32):
    return ops.Weights(*(jnp.asarray(arrays[f"gru_{name}"], dtype) for name in ops.Weights._fields))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_packed_sequences_and_their_gradients_are_those_of_torch(direction):
    arrays = golden()

    @jax.jit
    def evaluate(x, weights, h):
        gru = functools.partial(ops.gru, lengths=arrays["lengths"], reverse=direction == "reverse")
        results, pull_back = jax.vjp(gru, x, weights, h)
        return results, pull_back((arrays["outputs_cotangent"], arrays["h_cotangent"]))

    (outputs, h), (x, weights, first) = evaluate(arrays["x"], weights_of(arrays), arrays["h"])
    gradients = {f"gradient_{name}": value for name, value in {"x": x, "h": first, **weights._asdict()}.items()}
    for name, value in {"outputs": outputs, "h": h, **gradients}.items():
        np.testing.assert_allclose(value, arrays[f"gru_{direction}_{name}"], 1e-5, 1e-5, err_msg=name)


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_never_looked_at(reverse):
    arrays = golden()
    x, lengths = jnp.asarray(arrays["x"]), jnp.array([3, 0, 3, 3, 3])
    gru = jax.jit(functools.partial(ops.gru, reverse=reverse))
    padded = jnp.where(jnp.arange(x.shape[1])[:, None] < lengths[:, None, None], x, jnp.nan)
    outputs, h = gru(padded, weights_of(arrays), arrays["h"], lengths)
    expected, last = gru(x[:, :3], weights_of(arrays), arrays["h"])
    np.testing.assert_allclose(outputs[:, :3], expected.at[1].set(0), 1e-5, 1e-5)
    np.testing.assert_array_equal(outputs[:, 3:], 0)
    np.testing.assert_allclose(h, last.at[1].set(arrays["h"][1]), 1e-5, 1e-5)


def test_cell_by_cell_equals_the_sequence():
    arrays = golden()

    @jax.jit
    def both(x, weights):
        whole, h, steps = ops.gru(x, weights), jnp.zeros_like(arrays["h"]), []
        for t in range(x.shape[1]):
            h = ops.cell(x[:, t], h, weights)
            steps.append(h)
        return whole, (jnp.stack(steps, 1), h)

    whole, stepwise = both(jnp.asarray(arrays["x"]), weights_of(arrays))
    chex.assert_trees_all_close(whole, stepwise, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_close_to_float32():
    arrays = golden()
    gru = jax.jit(functools.partial(ops.gru, lengths=arrays["lengths"]))
    given = jnp.asarray(arrays["x"], jnp.bfloat16), weights_of(arrays, jnp.bfloat16)
    outputs, h = gru(*given)
    assert outputs.dtype == h.dtype == jnp.bfloat16
    exact, _ = gru(*jax.tree.map(lambda a: a.astype(jnp.float32), given))
    np.testing.assert_allclose(outputs.astype(jnp.float32), exact, 0, 0.03)


def test_what_does_not_fit_is_one_clear_line():
    arrays = golden()
    x, weights = jnp.asarray(arrays["x"]), weights_of(arrays)
    with pytest.raises(ValueError, match=r"^x has shape \(5, 3\): a GRU reads \[batch, time, features\]"):
        ops.gru(x[:, 0], weights)
    with pytest.raises(ValueError, match=r"^h has shape \(5, 4\): \(4, 4\) fits x of \(4, 6, 3\) and 4 hidden units"):
        ops.gru(x[1:], weights, jnp.asarray(arrays["h"]))
    with pytest.raises(ValueError, match=r"^lengths has shape \(4,\): \(5,\) fits"):
        ops.gru(x, weights, lengths=arrays["lengths"][1:])
