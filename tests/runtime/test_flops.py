from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxai.runtime import flops

NHWC = ("NHWC", "HWIO", "NHWC")


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolve(x, kernel, strides=(1, 1), padding="VALID", **options):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC, **options)


def test_matrix_product_is_exact():
    assert flops.count(jnp.dot, array(3, 5), array(5, 7)) == 2 * 3 * 5 * 7


def test_batched_product_with_several_contracted_axes_is_exact():
    assert flops.count(partial(jnp.einsum, "bijk,bjkl->bil"), array(2, 3, 4, 5), array(2, 4, 5, 6)) == (
        2 * 2 * 3 * 4 * 5 * 6
    )


def test_matrix_product_agrees_with_xla():
    x, y = jnp.ones((64, 96)), jnp.ones((96, 32))
    analysis = jax.jit(jnp.dot).lower(x, y).compile().cost_analysis()
    assert flops.count(jnp.dot, x, y) == pytest.approx(analysis["flops"], rel=0.01)


def test_elementwise_work_is_free():
    assert flops.count(lambda x: jnp.tanh(x + 1) * x, array(100)) == 0


@pytest.mark.parametrize(("stride", "dilation", "out"), [(1, 1, 10), (2, 1, 5), (3, 1, 4), (1, 2, 8), (2, 2, 4)])
def test_valid_convolution_is_exact(stride, dilation, out):
    one = partial(convolve, strides=(stride, stride), rhs_dilation=(dilation, dilation))
    assert flops.count(one, array(4, 12, 12, 3), array(3, 3, 3, 8)) == 2 * 4 * out * out * 9 * 3 * 8


def test_same_convolution_counts_the_taps_on_padding():
    one = partial(convolve, padding="SAME")
    assert flops.count(one, array(1, 8, 8, 1), array(5, 5, 1, 1)) == 2 * 64 * 25


def test_feature_groups_divide_the_inputs_of_each_output():
    depthwise = partial(convolve, feature_group_count=6)
    assert flops.count(depthwise, array(2, 8, 8, 6), array(3, 3, 1, 12)) == 2 * 2 * 36 * 9 * 12


def test_batch_groups_divide_the_batch():
    grouped = partial(convolve, batch_group_count=2)
    assert flops.count(grouped, array(4, 8, 8, 3), array(3, 3, 3, 6)) == 2 * 2 * 36 * 9 * 3 * 6


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("taps", "stride"), [(2, 2), (4, 2), (5, 2), (3, 3)])
def test_transposed_convolution_counts_each_input_with_each_tap_once(padding, taps, stride):
    def transposed(x, kernel):
        return lax.conv_transpose(x, kernel, (stride, stride), padding, dimension_numbers=NHWC)

    # Each of the 6 x 6 inputs is spread over the whole kernel, once for each pair of features.
    assert flops.count(transposed, array(2, 6, 6, 3), array(taps, taps, 3, 4)) == 2 * 2 * (6 * taps) ** 2 * 3 * 4


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("argument", [0, 1])
def test_gradient_of_a_convolution_costs_as_much_as_the_convolution(padding, stride, argument):
    def loss(x, kernel):
        return convolve(x, kernel, (stride, stride), padding).sum()

    x, kernel = array(2, 12, 12, 3), array(3, 3, 3, 4)
    forward = flops.count(loss, x, kernel)
    # The forward pass is linear, so that XLA, as the count, leaves it out of the gradient.
    assert flops.count(jax.grad(loss, argument), x, kernel) == forward


def test_gradient_of_a_network_agrees_with_the_count_by_hand():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, images):
            x = nn.relu(nn.Conv(8, (3, 3), padding="VALID")(images))
            x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.relu(nn.Conv(16, (3, 3), strides=2, padding="SAME")(x))
            return nn.Dense(10)(x.reshape(len(x), -1))

    def loss(params, images, labels):
        logits = Network().apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    images = array(4, 18, 18, 3)
    params = jax.eval_shape(Network().init, jax.random.key(0), images)
    first, second, dense = 16 * 16 * 9 * 3 * 8, 4 * 4 * 9 * 8 * 16, 4 * 4 * 16 * 10
    # The gradient of the first layer's input is never asked for.
    by_hand = 2 * 4 * (2 * first + 3 * second + 3 * dense)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    assert flops.count(jax.value_and_grad(loss), params, images, labels) == by_hand


def test_scanned_lstm_counts_every_step():
    cell = nn.RNN(nn.LSTMCell(32))
    tokens = array(4, 50, 16)
    params = jax.eval_shape(cell.init, jax.random.key(0), tokens)
    assert flops.count(cell.apply, params, tokens) == 2 * 4 * 50 * (16 + 32) * 4 * 32


def test_loop_with_static_bounds_counts_every_turn():
    assert flops.count(lambda x: lax.fori_loop(2, 9, lambda _, y: y @ x, x), array(4, 4)) == 7 * 128


def test_while_loop_with_a_product_is_refused():
    def grow(x):
        return lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ y, x)

    with pytest.raises(ValueError, match="while_loop") as error:
        flops.count(grow, array(4, 4))
    assert "\n" not in str(error.value)


def test_while_loop_without_a_product_counts_nothing():
    assert flops.count(lambda x: lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), array(4)) == 0


def test_branches_count_as_the_dearest():
    def choose(flag, x):
        return lax.cond(flag, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert flops.count(choose, jax.ShapeDtypeStruct((), bool), array(4, 4)) == 2 * 128


def test_platform_dependent_counts_the_dearest():
    def choose(x):
        return lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    assert flops.count(choose, array(4, 4)) == 2 * 128


def test_calls_are_followed():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))

    @jax.custom_jvp
    def cube(x):
        return x @ x @ x

    cube.defjvp(lambda primals, tangents: (cube(*primals), tangents[0]))
    for function, products in ((jax.jit(square), 1), (square, 1), (jax.grad(lambda x: square(x).sum()), 2), (cube, 2)):
        assert flops.count(function, array(4, 4)) == products * 128


def test_recomputation_counts_again():
    def loss(x):
        return (jnp.sin(x @ x) @ x).sum()

    twice, once = (flops.count(jax.value_and_grad(f), array(4, 4)) for f in (jax.checkpoint(loss), loss))
    assert twice - once == 128  # the product inside the sine


def test_results_that_nobody_reads_are_free():
    @jax.jit
    def two(x):
        return x @ x, x @ x @ x

    assert flops.count(lambda x: two(x)[0], array(4, 4)) == 128


@pytest.mark.parametrize("devices", [1, 4])
def test_sharded_step_counts_all_devices(devices):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))

    def step(x, y):
        return lax.psum(x @ y, "data")

    sharded = jax.shard_map(step, mesh=mesh, in_specs=(P("data"), P()), out_specs=P(), check_vma=False)
    assert flops.count(jax.jit(sharded), array(8, 4), array(4, 4)) == 2 * 8 * 4 * 4


def test_pmap_counts_all_devices():
    assert flops.count(jax.pmap(lambda x: x @ x, devices=jax.devices()[:2]), array(2, 4, 4)) == 2 * 128


def test_no_array_is_needed_and_arrays_count_the_same():
    x = np.ones((3, 4, 4), np.float32)
    assert (
        flops.count(jax.vmap(lambda y: y @ y), x) == flops.count(jax.vmap(lambda y: y @ y), array(3, 4, 4)) == 3 * 128
    )


def test_muon_update_can_be_counted():
    optimizer = optax.contrib.muon(1e-3)
    params = {"kernel": array(8, 4)}
    state = jax.eval_shape(optimizer.init, params)
    # Newton-Schulz, 5 steps: X Xᵀ, its square, and one product with X, on the short side.
    assert flops.count(optimizer.update, params, state, params) == 5 * 2 * (4 * 4 * 8 + 4**3 + 4 * 4 * 8)
