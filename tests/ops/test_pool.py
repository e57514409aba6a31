import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import ndimage

from jaxai import ops

COMBINATIONS = [
    ((2, 2), (2, 2), "VALID"),
    ((2, 2), (2, 2), "SAME"),
    ((3, 3), (2, 2), "SAME"),
    ((3, 3), (1, 1), "SAME"),
    ((3, 3), None, "VALID"),
    ((2, 3), (1, 2), "VALID"),
    ((3, 2), (2, 1), ((1, 0), (0, 1))),
    ((1, 1), (1, 1), "VALID"),
]


def distinct(shape, dtype=jnp.float32):
    """Images without a tie: a permutation of evenly spaced values around 0."""
    size = int(np.prod(shape))
    return ((jax.random.permutation(jax.random.key(0), size) - size / 2) / 64).reshape(shape).astype(dtype)


def weighted(pool):
    def scalar(x):
        output = pool(x)
        return jnp.sum(output * jnp.cos(jnp.arange(output.size)).reshape(output.shape))

    return scalar


@pytest.mark.parametrize(("window", "strides", "padding"), COMBINATIONS)
def test_value_and_gradient_equal_linen_where_no_two_pixels_tie(window, strides, padding):
    x = distinct((2, 9, 7, 3))
    ours = functools.partial(ops.max_pool, window_shape=window, strides=strides, padding=padding)
    plain = functools.partial(nn.max_pool, window_shape=window, strides=strides, padding=padding)
    np.testing.assert_array_equal(jax.jit(ours)(x), plain(x))
    np.testing.assert_allclose(jax.jit(jax.grad(weighted(ours)))(x), jax.grad(weighted(plain))(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("window", "strides", "padding"), COMBINATIONS)
def test_the_plain_form_equals_linen(window, strides, padding):
    x = distinct((2, 9, 7, 3))
    got = jax.value_and_grad(weighted(lambda x: ops.max_pool_lax(x, window, strides, padding)))(x)
    expected = jax.value_and_grad(weighted(lambda x: nn.max_pool(x, window, strides, padding)))(x)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_value_equals_scipy_maximum_filter():
    x = distinct((1, 9, 8, 1))
    got = ops.max_pool(x, (3, 3), (1, 1), "SAME")[0, :, :, 0]
    np.testing.assert_array_equal(got, ndimage.maximum_filter(x[0, :, :, 0], 3, mode="constant", cval=-np.inf))


def test_after_relu_ties_at_zero_change_no_gradient():
    x = distinct((4, 8, 8, 3))
    assert np.mean(np.asarray(nn.max_pool(nn.relu(x), (2, 2), (2, 2))) == 0) > 0.02
    gradient = jax.grad(weighted(lambda x: ops.max_pool(nn.relu(x), (2, 2), (2, 2))))(x)
    expected = jax.grad(weighted(lambda x: nn.max_pool(nn.relu(x), (2, 2), (2, 2))))(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_gradient_of_a_tie_is_shared_and_sums_to_that_of_the_window():
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x, (2, 2), (2, 2))))(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 4, 4, 1), 0.25))


def test_bfloat16_picks_the_same_pixels():
    x = distinct((2, 4, 4, 3), jnp.bfloat16)
    ours, plain = (functools.partial(f, window_shape=(2, 2), strides=(2, 2)) for f in (ops.max_pool, nn.max_pool))
    assert ours(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours(x), plain(x))
    np.testing.assert_array_equal(*(jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (ours, plain)))


def test_other_ranks_and_integers_are_reduce_window():
    line, image = distinct((2, 9, 3)), jnp.arange(32).reshape(1, 8, 4, 1)
    np.testing.assert_array_equal(ops.max_pool(line, (3,), (2,)), nn.max_pool(line, (3,), (2,)))
    np.testing.assert_array_equal(ops.max_pool(image, (2, 2), (2, 2))[0, :, :, 0], image[0, 1::2, 1::2, 0])
    assert ops.max_pool(jnp.ones((1, 1, 4, 1)), (2, 2)).shape == (1, 0, 3, 1)


def test_forward_mode_and_second_derivative_equal_linen():
    x = distinct((2, 6, 6, 2))
    ours, plain = (lambda x, f=f: f(x, (2, 2), (2, 2)) for f in (ops.max_pool, nn.max_pool))
    got, expected = (jax.jvp(f, (x,), (jnp.sin(x),)) for f in (ours, plain))
    jax.tree.map(np.testing.assert_array_equal, got, expected)

    def penalty(pool):
        return jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(pool(x) ** 3))(x) ** 2))

    np.testing.assert_allclose(penalty(ours)(x), penalty(plain)(x), rtol=1e-5)


def test_gradient_in_vmap_and_scan_equals_linen():
    x = distinct((3, 2, 6, 6, 2))
    ours, plain = (weighted(lambda x, f=f: f(x, (2, 2), (2, 2))) for f in (ops.max_pool, nn.max_pool))
    expected = jnp.stack([jax.grad(plain)(one) for one in x])
    np.testing.assert_allclose(jax.vmap(jax.grad(ours))(x), expected, rtol=1e-6, atol=1e-6)
    scanned = lax.scan(lambda carry, one: (carry, jax.grad(ours)(one)), None, x)[1]
    np.testing.assert_allclose(scanned, expected, rtol=1e-6, atol=1e-6)


def test_form_is_chosen_by_the_platform_of_the_program():
    x = distinct((2, 6, 6, 2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ops.max_pool(x, (2, 2), (2, 2)) ** 2)))
    accelerator, host = (
        jax.export.export(gradient, platforms=[platform])(x).mlir_module() for platform in ("tpu", "cpu")
    )
    assert "stablehlo.reduce_window" in accelerator
    assert "stablehlo.select_and_scatter" in accelerator
    assert "stablehlo.slice" not in accelerator
    assert "stablehlo.reduce_window" not in host
    assert "stablehlo.slice" in host
