import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxai import ops
from jaxai.ops.conv_transpose import polyphase_convolution

STRIDES = [(1, 1), (2, 2), (1, 2), (3, 3)]
KERNELS = [(1, 1), (2, 2), (3, 4), (5, 5), (2, 3)]
PADDINGS = ["SAME", "VALID", ((2, 0), (1, 3)), ((-1, 2), (0, -1)), ((6, 5), (5, 7))]
TRAINED = [((1, 1), (5, 5), "SAME"), ((2, 2), (5, 5), "SAME"), ((2, 2), (4, 4), "VALID"), ((3, 3), (2, 2), "SAME")]


def draw(image_shape, kernel_shape, dtype=np.float32):
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.normal(size=shape), dtype) for shape in (image_shape, kernel_shape))


def assert_close(got, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance * np.abs(b).max()
        ),
        got,
        expected,
    )


def by_definition(images, kernel, strides, padding):
    """The sum over taps that the dilated, padded image meets, in NumPy."""
    if isinstance(padding, str):
        padding = [
            (k - 1, s - 1 + max(k - s, 0))
            if padding == "VALID"
            else ((k - 1, s - 1) if s > k - 1 else ((k + s - 1) // 2, (k + s - 2) // 2))
            for k, s in zip(kernel.shape, strides, strict=False)
        ]
    batch, height, width, channels = images.shape
    dilated = np.zeros((batch, (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1, channels))
    dilated[:, :: strides[0], :: strides[1]] = images
    room = 9  # wider than any padding here, so that a negative one is a smaller offset
    dilated = np.pad(dilated, ((0, 0), (room, room), (room, room), (0, 0)))
    (top, bottom), (left, right) = padding
    dilated = dilated[:, room - top : dilated.shape[1] - room + bottom, room - left : dilated.shape[2] - room + right]
    rows, columns = (dilated.shape[1 + i] - kernel.shape[i] + 1 for i in range(2))
    return sum(
        dilated[:, y : y + rows, x : x + columns] @ np.asarray(kernel[y, x], np.float64)
        for y in range(kernel.shape[0])
        for x in range(kernel.shape[1])
    )


def value_and_gradients(convolution):
    """The output, and the gradients of a scalar that meets every output with a different weight."""

    def evaluate(images, kernel):
        output, pull_back = jax.vjp(convolution, images, kernel)
        weights = jnp.cos(jnp.arange(output.size)).reshape(output.shape).astype(output.dtype)
        return output, pull_back(weights)

    return jax.jit(evaluate)


def pair(strides, padding, **options):
    return (
        functools.partial(ops.conv_transpose, strides=strides, padding=padding, **options),
        functools.partial(lax.conv_transpose, strides=strides, padding=padding, **options),
    )


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("strides", STRIDES, ids=str)
def test_both_forms_equal_the_definition(strides, padding):
    arrays = [draw((2, 5, 6, 3), (*window, 3, 2)) for window in KERNELS]

    @jax.jit
    def everything(arrays):
        return [
            (ops.conv_transpose(*pair, strides, padding), polyphase_convolution(*pair, strides, padding))
            for pair in arrays
        ]

    for (images, kernel), (matmul, polyphase) in zip(arrays, everything(arrays), strict=True):
        expected = by_definition(np.asarray(images), np.asarray(kernel), strides, padding)
        assert matmul.shape == jax.eval_shape(pair(strides, padding)[1], images, kernel).shape
        assert_close((matmul, polyphase), (expected, expected), 1e-5)


@pytest.mark.parametrize(("strides", "window", "padding"), TRAINED)
def test_value_and_gradients_equal_lax_in_float32(strides, window, padding):
    arrays = draw((2, 5, 4, 3), (*window, 3, 2))
    ours, plain = pair(strides, padding)
    polyphase = functools.partial(polyphase_convolution, strides=strides, padding=padding)
    got, expected, spread = (value_and_gradients(convolution)(*arrays) for convolution in (ours, plain, polyphase))
    assert_close(got, expected, 1e-5)
    assert_close(spread, expected, 1e-5)


def test_bfloat16_stays_within_its_rounding_of_a_float32_reference():
    arrays = draw((2, 5, 4, 3), (5, 5, 3, 2), jnp.bfloat16)
    ours, plain = pair((2, 2), "SAME")
    value, gradients = value_and_gradients(ours)(*arrays)
    exact, exact_gradients = value_and_gradients(plain)(*(array.astype(jnp.float32) for array in arrays))
    assert {array.dtype for array in (value, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(value, exact, 2**-7)
    assert_close(gradients, exact_gradients, 2**-5)


def test_accumulator_dtype_is_that_of_lax():
    arrays = draw((1, 3, 3, 2), (3, 3, 2, 2), jnp.bfloat16)
    ours, plain = pair((2, 2), "SAME", preferred_element_type=jnp.float32, precision="highest")
    value = ours(*arrays)
    assert value.dtype == jnp.float32
    assert_close(value, plain(*arrays), 1e-5)


def test_forward_mode_and_second_derivatives_equal_lax():
    images, kernel = draw((2, 4, 3, 3), (5, 5, 3, 2))
    tangents = jnp.asarray(np.cos(images)), jnp.asarray(np.sin(kernel))

    def penalty(convolution):
        def slope(images, kernel):
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.tanh(convolution(x, kernel))))(images) ** 2)

        return jax.grad(slope, argnums=(0, 1))

    forward, second = [], []
    for convolution in pair((2, 2), "SAME"):
        forward.append(jax.jit(functools.partial(jax.jvp, convolution))((images, kernel), tangents))
        second.append(jax.jit(penalty(convolution))(images, kernel))
    assert_close(*forward, 1e-5)
    assert_close(*second, 1e-4)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap_equals_a_python_loop(axes):
    images, kernels = draw((2, 2, 3, 4, 2), (2, 3, 3, 2, 4))
    arrays = tuple(a if axis == 0 else a[0] for a, axis in zip((images, kernels), axes, strict=True))
    ours, plain = (value_and_gradients(convolution) for convolution in pair((2, 2), "SAME"))
    got = jax.jit(jax.vmap(ours, axes))(*arrays)
    for i in range(2):
        one = plain(*(a[i] if axis == 0 else a for a, axis in zip(arrays, axes, strict=True)))
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], got), one, 1e-5)


def descend(convolution):
    def step(kernel, images):
        value, gradient = jax.value_and_grad(lambda k: jnp.mean(convolution(images, k) ** 2))(kernel)
        return kernel - 0.1 * gradient, value

    return step


def scanned_training(kernel, images, **options):
    return lax.scan(descend(pair((2, 2), "SAME", **options)[0]), kernel, images)


def test_gradient_steps_in_scan_equal_lax_outside():
    images, kernel = draw((3, 2, 4, 4, 2), (3, 3, 2, 3))
    scanned, _ = jax.jit(scanned_training)(kernel, images)
    step = jax.jit(descend(pair((2, 2), "SAME")[1]))
    expected = kernel
    for batch in images:
        expected, _ = step(expected, batch)
    assert_close(scanned, expected, 1e-5)


def test_other_ranks_dtypes_and_empty_arrays_are_lax():
    line, taps = draw((2, 5, 3), (3, 3, 4))
    ours, plain = pair((2,), "SAME")
    assert_close(ours(line, taps), plain(line, taps), 1e-6)
    whole = jnp.arange(2 * 3 * 3).reshape(2, 3, 3, 1), jnp.arange(9).reshape(3, 3, 1, 1)
    ours, plain = pair((2, 2), "SAME")
    np.testing.assert_array_equal(ours(*whole), plain(*whole))
    assert ours(*draw((0, 3, 3, 1), (3, 3, 1, 2))).shape == (0, 6, 6, 2)


@pytest.mark.parametrize(
    ("kernel_shape", "padding"), [((3, 3, 4, 1), "SAME"), ((3, 3, 3, 1), "FULL"), ((3, 3, 3, 1), "SAME_LOWER")]
)
def test_wrong_arguments_raise_what_lax_raises(kernel_shape, padding):
    wrong = draw((2, 5, 5, 3), kernel_shape)
    ours, plain = pair((2, 2), padding)
    with pytest.raises(Exception, match=r"\w") as expected:
        plain(*wrong)
    with pytest.raises(expected.type) as got:
        ours(*wrong)
    assert str(got.value) == str(expected.value)


def exported(function, arguments, platform):
    return jax.export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_program_for_an_accelerator_has_convolutions_and_no_trace_of_the_matmul(platform):
    images, kernel = draw((3, 4, 8, 8, 5), (3, 3, 5, 7))
    module = exported(scanned_training, (kernel, images), platform)
    assert module.count("stablehlo.convolution") == 2  # the value and the gradient of the kernel
    assert "stablehlo.dot_general" not in module
    assert "stablehlo.concatenate" not in module
    assert "optimization_barrier" not in module
    assert "5x63x" not in module  # the kernel as a matrix


def test_polyphase_program_for_an_accelerator_dilates_no_convolution():
    images, kernel = draw((4, 4, 8, 8, 5), (3, 3, 5, 7))
    module = exported(functools.partial(scanned_training, polyphase=True), (kernel, images), "tpu")
    assert module.count("stablehlo.convolution") == 2
    assert "stablehlo.dot_general" not in module
    dilation = "lhs_dilate = [2, 2]"
    assert dilation not in module
    assert dilation in exported(scanned_training, (kernel, images), "tpu")


def test_program_for_cpu_is_one_matmul_each_for_the_value_and_the_gradient():
    images, kernel = draw((3, 4, 8, 8, 2), (3, 3, 2, 7))
    module = exported(scanned_training, (kernel, images), "cpu")
    assert module.count("stablehlo.dot_general") == 2
    assert "stablehlo.convolution" not in module
