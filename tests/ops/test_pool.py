import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import ndimage

from jaxai import ops

HALF = (2, 2), (2, 2)

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
    return jnp.asarray(((np.random.default_rng(0).permutation(size) - size / 2) / 64).reshape(shape), dtype)


def value_and_gradient(pool, *arguments):
    """The output, and the gradient of a scalar that meets every output with a different weight."""

    def evaluate(x):
        output, pull_back = jax.vjp(lambda x: pool(x, *arguments), x)
        return output, pull_back(jnp.cos(jnp.arange(output.size)).reshape(output.shape))[0]

    return jax.jit(evaluate)


def assert_equal(got, expected):
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("arguments", COMBINATIONS)
def test_value_and_gradient_equal_linen_where_no_two_pixels_tie(arguments):
    x = distinct((2, 9, 7, 3))
    pools = (nn.max_pool, ops.max_pool, ops.max_pool_lax)
    expected, *got = jax.jit(lambda x: [value_and_gradient(pool, *arguments)(x) for pool in pools])(x)
    for one in got:
        assert_equal(one, expected)


def test_value_equals_scipy_maximum_filter():
    x = distinct((1, 9, 8, 1))
    got = ops.max_pool(x, (3, 3), (1, 1), "SAME")[0, :, :, 0]
    np.testing.assert_array_equal(got, ndimage.maximum_filter(x[0, :, :, 0], 3, mode="constant", cval=-np.inf))


def test_after_relu_ties_at_zero_change_no_gradient():
    x = distinct((4, 8, 8, 3))
    assert np.mean(np.asarray(nn.max_pool(nn.relu(x), *HALF)) == 0) > 0.02
    ours, plain = (value_and_gradient(lambda x, f=f: f(nn.relu(x), *HALF))(x) for f in (ops.max_pool, nn.max_pool))
    assert_equal(ours, plain)


def test_gradient_of_a_tie_is_shared_and_sums_to_that_of_the_window():
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x, *HALF)))(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 4, 4, 1), 0.25))


def test_bfloat16_picks_the_same_pixels():
    x = distinct((2, 4, 4, 3), jnp.bfloat16)
    ours, plain = (jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x, *HALF)))) for f in (ops.max_pool, nn.max_pool))
    assert ours(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours(x), plain(x))


def test_other_ranks_and_integers_are_reduce_window():
    line, image = distinct((2, 9, 3)), jnp.arange(32).reshape(1, 8, 4, 1)
    np.testing.assert_array_equal(ops.max_pool(line, (3,), (2,)), nn.max_pool(line, (3,), (2,)))
    np.testing.assert_array_equal(ops.max_pool(image, *HALF)[0, :, :, 0], image[0, 1::2, 1::2, 0])
    assert ops.max_pool(jnp.ones((1, 1, 4, 1)), (2, 2)).shape == (1, 0, 3, 1)


def test_forward_mode_and_second_derivative_equal_linen():
    x = distinct((2, 6, 6, 2))

    def derivatives(pool):
        def penalty(x):
            return jnp.sum(jax.grad(lambda x: jnp.sum(pool(x, *HALF) ** 3))(x) ** 2)

        return jax.jit(lambda x: (jax.jvp(lambda x: pool(x, *HALF), (x,), (jnp.sin(x),))[1], jax.grad(penalty)(x)))

    assert_equal(derivatives(ops.max_pool)(x), derivatives(nn.max_pool)(x))


def test_gradient_in_vmap_and_scan_equals_linen():
    x = distinct((3, 2, 6, 6, 2))
    ours, plain = (value_and_gradient(f, *HALF) for f in (ops.max_pool, nn.max_pool))
    one_by_one = [jnp.stack(leaves) for leaves in zip(*map(plain, x), strict=True)]
    assert_equal(jax.jit(jax.vmap(ours))(x), one_by_one)
    assert_equal(lax.scan(lambda carry, one: (carry, ours(one)), None, x)[1], one_by_one)


def test_form_is_chosen_by_the_platform_of_the_program():
    x = distinct((2, 6, 6, 2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ops.max_pool(x, *HALF) ** 2)))
    accelerator, host = (
        jax.export.export(gradient, platforms=[platform])(x).mlir_module() for platform in ("tpu", "cpu")
    )
    assert "stablehlo.reduce_window" in accelerator
    assert "stablehlo.select_and_scatter" in accelerator
    assert "stablehlo.slice" not in accelerator
    assert "stablehlo.reduce_window" not in host
    assert "stablehlo.slice" in host
