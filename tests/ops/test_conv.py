import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from scipy import signal

from jaxai import ops

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
EXPLICIT = ((2, 0), (1, 3))

COMBINATIONS = [
    ((3, 3), (1, 1), "VALID"),
    ((3, 3), (1, 1), "SAME"),
    ((3, 3), (2, 2), "SAME"),
    ((3, 3), (2, 1), "SAME_LOWER"),
    ((3, 3), (1, 2), EXPLICIT),
    ((1, 1), (1, 1), "VALID"),
    ((1, 1), (2, 2), "SAME"),
    ((5, 5), (1, 1), "SAME"),
    ((5, 5), (2, 2), "VALID"),
    ((2, 4), (1, 1), "SAME"),
    ((5, 2), (3, 2), EXPLICIT),
    ((3, 3), (1, 1), ((-1, 0), (0, -2))),
]


def draw(image_shape, kernel_shape, dtype=np.float32):
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.normal(size=shape), dtype) for shape in (image_shape, kernel_shape))


def value_and_gradients(convolution):
    """The output, and the gradients of a scalar that meets every output with a different weight."""

    def evaluate(images, kernel):
        output, pull_back = jax.vjp(convolution, images, kernel)
        weights = jnp.cos(jnp.arange(output.size)).reshape(output.shape).astype(output.dtype)
        return output, pull_back(weights)

    return jax.jit(evaluate)


def pair(strides, padding):
    options = {"window_strides": strides, "padding": padding, "dimension_numbers": DIMENSIONS}
    return (
        functools.partial(ops.conv_general_dilated, **options),
        functools.partial(lax.conv_general_dilated, **options),
    )


def assert_close(got, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance * np.abs(b).max()
        ),
        got,
        expected,
    )


@pytest.mark.parametrize(("window", "strides", "padding"), COMBINATIONS)
def test_value_and_gradients_equal_lax_in_float32(window, strides, padding):
    arrays = draw((3, 11, 9, 4), (*window, 4, 5))
    both = [value_and_gradients(convolution) for convolution in pair(strides, padding)]
    ours, plain = jax.jit(lambda *arrays: [evaluate(*arrays) for evaluate in both])(*arrays)
    assert_close(ours, plain, 1e-5)


@pytest.mark.parametrize(("window", "strides", "padding"), COMBINATIONS[1:4])
def test_bfloat16_stays_within_its_rounding_of_a_float32_reference(window, strides, padding):
    arrays = draw((3, 11, 9, 4), (*window, 4, 5), jnp.bfloat16)
    ours, plain = pair(strides, padding)
    value, gradients = value_and_gradients(ours)(*arrays)
    exact, exact_gradients = value_and_gradients(plain)(*(array.astype(jnp.float32) for array in arrays))
    assert {array.dtype for array in (value, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(value, exact, 2**-7)
    assert_close(gradients, exact_gradients, 2**-5)  # a pixel adds up to nine taps, each rounded to 8 bits


def test_value_equals_scipy_correlation():
    images, kernel = draw((1, 8, 7, 1), (3, 2, 1, 1))
    got = pair((1, 1), "VALID")[0](images, kernel)[0, :, :, 0]
    np.testing.assert_allclose(got, signal.correlate2d(images[0, :, :, 0], kernel[:, :, 0, 0], "valid"), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel_shape", "options"),
    [
        ((3, 3, 2, 6), {"feature_group_count": 2}),
        ((3, 3, 4, 6), {"batch_group_count": 2}),
        ((3, 3, 4, 6), {"rhs_dilation": (2, 1)}),
        ((3, 3, 4, 6), {"lhs_dilation": (1, 2), "padding": EXPLICIT}),
        ((6, 4, 3, 3), {"dimension_numbers": ("NHWC", "OIHW", "NHWC")}),
        ((3, 3, 4, 6), {"preferred_element_type": jnp.float32}),
        ((3, 3, 4, 6), {"precision": "highest"}),
    ],
)
def test_every_option_means_what_it_means_in_lax(kernel_shape, options):
    images, kernel = draw((4, 9, 8, 4), kernel_shape)
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": DIMENSIONS, **options}
    got = ops.conv_general_dilated(images, kernel, **options)
    expected = lax.conv_general_dilated(images, kernel, **options)
    assert got.dtype == expected.dtype
    assert_close(got, expected, 1e-5)


def test_other_ranks_dtypes_and_empty_outputs_are_lax():
    line, taps = draw((2, 9, 3), (3, 3, 4))
    arguments = ((1,), "SAME", None, None, ("NWC", "WIO", "NWC"))
    assert_close(
        ops.conv_general_dilated(line, taps, *arguments), lax.conv_general_dilated(line, taps, *arguments), 1e-6
    )
    whole = jnp.arange(2 * 5 * 5 * 1).reshape(2, 5, 5, 1), jnp.arange(9).reshape(3, 3, 1, 1)
    ours, plain = pair((1, 1), "VALID")
    np.testing.assert_array_equal(ours(*whole), plain(*whole))
    small = draw((2, 2, 2, 1), (3, 3, 1, 1))
    assert ours(*small).shape == plain(*small).shape == (2, 0, 0, 1)
    no_images = draw((0, 5, 5, 1), (3, 3, 1, 1))
    assert ours(*no_images).shape == (0, 3, 3, 1)


def test_wrong_shapes_raise_what_lax_raises():
    ours, plain = pair((1, 1), "VALID")
    wrong = draw((2, 5, 5, 3), (3, 3, 4, 1))
    with pytest.raises(ValueError, match="feature_group_count") as expected:
        plain(*wrong)
    with pytest.raises(ValueError, match="feature_group_count") as got:
        ours(*wrong)
    assert str(got.value) == str(expected.value)


def test_forward_mode_and_second_derivatives_equal_lax():
    images, kernel = draw((2, 7, 6, 3), (3, 3, 3, 4))
    tangents = jnp.asarray(np.cos(images)), jnp.asarray(np.sin(kernel))

    def penalty(convolution):
        def slope(images, kernel):
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.tanh(convolution(x, kernel))))(images) ** 2)

        return jax.grad(slope, argnums=(0, 1))

    forward, second = [], []
    for convolution in pair((1, 1), "SAME"):
        forward.append(jax.jit(functools.partial(jax.jvp, convolution))((images, kernel), tangents))
        second.append(jax.jit(penalty(convolution))(images, kernel))
    assert_close(*forward, 1e-5)
    assert_close(*second, 1e-4)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap_equals_a_python_loop(axes):
    images, kernels = draw((2, 2, 6, 5, 2), (2, 3, 3, 2, 4))
    arrays = tuple(a if axis == 0 else a[0] for a, axis in zip((images, kernels), axes, strict=True))
    ours, plain = (value_and_gradients(convolution) for convolution in pair((1, 1), "SAME"))
    got = jax.jit(jax.vmap(ours, axes))(*arrays)
    for i in range(2):
        one = plain(*(a[i] if axis == 0 else a for a, axis in zip(arrays, axes, strict=True)))
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], got), one, 1e-5)


def descend(convolution):
    def step(kernel, images):
        value, gradient = jax.value_and_grad(lambda k: jnp.mean(convolution(images, k) ** 2))(kernel)
        return kernel - 0.1 * gradient, value

    return step


def test_gradient_steps_in_scan_and_while_equal_lax_outside():
    images, kernel = draw((3, 4, 8, 8, 2), (3, 3, 2, 3))
    ours, plain = pair((1, 1), "VALID")
    scanned, _ = jax.jit(functools.partial(lax.scan, descend(ours)))(kernel, images)
    looped = jax.jit(lambda k, x: lax.fori_loop(0, 3, lambda i, k: descend(ours)(k, x[i])[0], k))(kernel, images)
    expected = kernel
    for batch in images:
        expected, _ = jax.jit(descend(plain))(expected, batch)
    assert_close(scanned, expected, 1e-5)
    assert_close(looped, expected, 1e-5)


def test_gradient_of_a_scan_equals_lax():
    images, kernels = draw((2, 6, 6, 3), (3, 3, 3, 3, 3))

    def deep(convolution, unroll):
        def layer(x, kernel):
            return jnp.tanh(convolution(x, kernel)), None

        return jax.grad(lambda kernels: jnp.sum(lax.scan(layer, images, kernels, unroll=unroll)[0]))

    ours, plain = pair((1, 1), "SAME")
    assert_close(jax.jit(deep(ours, 1))(kernels), jax.jit(deep(plain, 3))(kernels), 1e-4)


@pytest.mark.parametrize("engine", ["shard_map", "pmap", "jit"])
def test_each_parallel_engine_equals_lax_on_one_device(engine):
    images, kernel = draw((8, 8, 7, 2), (3, 3, 2, 4))
    ours, plain = pair((1, 1), "SAME")
    gradient = jax.grad(lambda k, x, convolution: jnp.mean(convolution(x, k) ** 2))
    expected = jax.jit(functools.partial(gradient, convolution=plain))(kernel, images)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    batch, everywhere = PartitionSpec("data"), PartitionSpec()

    def local(kernel, images):
        return lax.pmean(gradient(kernel, images, ours), "data")

    if engine == "shard_map":
        mapped = jax.shard_map(local, mesh=mesh, in_specs=(everywhere, batch), out_specs=everywhere, check_vma=False)
        got = jax.jit(mapped)(kernel, images)
    elif engine == "pmap":
        devices = jax.devices()[:4]
        got = jax.pmap(local, "data", in_axes=(None, 0), out_axes=None, devices=devices)(
            kernel, images.reshape(4, 2, 8, 7, 2)
        )
    else:
        sharded = jax.device_put(images, jax.sharding.NamedSharding(mesh, batch))
        got = jax.jit(functools.partial(gradient, convolution=ours))(kernel, sharded)
    assert_close(got, expected, 1e-5)


def linen_layer():
    return nn.Conv(4, (3, 3), padding="SAME", conv_general_dilated=ops.conv_general_dilated)


def test_linen_takes_it_in_place_of_lax():
    images, _ = draw((2, 6, 6, 3), ())
    params = linen_layer().init(jax.random.key(0), images)
    assert_close(linen_layer().apply(params, images), nn.Conv(4, (3, 3)).apply(params, images), 1e-6)


def scanned_training(kernel, images):
    return lax.scan(descend(pair((1, 1), "VALID")[0]), kernel, images)


def deep_gradient(kernel, images):
    """Through a scan: what the way back needs is stacked by one loop and read by the other."""
    ours = pair((1, 1), "SAME")[0]

    def deep(kernel):
        return jnp.sum(lax.scan(lambda x, _: (jnp.tanh(ours(x, kernel)), None), images, None, length=3)[0])

    return jax.grad(deep)(kernel)


def exported(function, arguments, platform):
    return jax.export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_program_for_an_accelerator_has_convolutions_and_no_trace_of_patches(platform):
    images, kernel = draw((3, 4, 8, 8, 2), (3, 3, 2, 7))
    module = exported(scanned_training, (kernel, images), platform)
    assert module.count("stablehlo.convolution") == 2  # the value and the gradient of the kernel
    assert "stablehlo.dot_general" not in module
    assert "stablehlo.concatenate" not in module
    assert "optimization_barrier" not in module
    assert "x18x" not in module  # patches of 3 * 3 * 2
    assert "6x18" not in module


def test_program_for_an_accelerator_keeps_no_patches_for_the_way_back():
    images, kernel = draw((2, 6, 6, 3), (3, 3, 3, 3))
    module = exported(deep_gradient, (kernel, images), "tpu")
    assert "stablehlo.dot_general" not in module
    assert "x27x" not in module


def test_program_for_cpu_is_made_of_matmuls():
    images, kernel = draw((3, 4, 8, 8, 2), (3, 3, 2, 7))
    module = exported(scanned_training, (kernel, images), "cpu")
    assert module.count("stablehlo.dot_general") == 2
    assert "stablehlo.convolution" not in module


def test_one_by_one_convolution_on_cpu_copies_no_patches():
    images, kernel = draw((4, 8, 8, 2), (1, 1, 2, 7))
    module = exported(pair((1, 1), "VALID")[0], (images, kernel), "cpu")
    assert "stablehlo.concatenate" not in module
    assert module.count("stablehlo.dot_general") == 1


def test_one_program_for_two_platforms_runs_here():
    images, kernel = draw((2, 6, 6, 3), (3, 3, 3, 3))
    ours, plain = pair((1, 1), "SAME")
    both = jax.export.export(jax.jit(ours), platforms=["cpu", "tpu"])(images, kernel)
    assert_close(both.call(images, kernel), plain(images, kernel), 1e-5)
