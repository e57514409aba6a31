import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxai.cnn.model import Model, ResidualBlock, build, dirac, whiten, whitening_kernel
from jaxai.cnn.whitening import Whitening, patches

ARCHITECTURES = ["mlp", "textbook", "resnet", "airbench"]


def images_of(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def build_float32(architecture, width, depth=1, **changes):
    return build(Model(architecture, width, depth, dtype="float32", **changes), 10)


def drawn(module, images):
    """Variables drawn without compiling `init`: kernels of their usual size, everything else around 1."""
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)

    def draw(leaf):
        values = generator.normal(size=leaf.shape)
        scaled = values / math.sqrt(math.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 1 + 0.1 * values
        return scaled.astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def shapes_of(model, shape, num_classes=10):
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    module = build(model, num_classes)
    return jax.eval_shape(lambda images: module.init(jax.random.key(0), images, train=False), images)


def test_textbook_cnn_has_the_tutorials_parameter_count():
    assert count(shapes_of(Model(), (32, 32, 3))["params"]) == 122_570


@pytest.mark.parametrize(("width", "depth", "shape"), [(32, 1, (28, 28, 1)), (20, 3, (32, 32, 3))])
def test_mlp_parameter_count_is_the_closed_form(width, depth, shape):
    expected = math.prod(shape) * width + (depth - 1) * width**2 + depth * width + 10 * width + 10
    assert count(shapes_of(Model("mlp", width, depth), shape)["params"]) == expected


@pytest.mark.parametrize(("width", "depth", "channels"), [(16, 1, 1), (8, 3, 3)])
def test_resnet_parameter_count_is_the_closed_form(width, depth, channels):
    expected = 9 * channels * width + 2 * width
    features_in = width
    for features in (width, 2 * width, 4 * width):
        expected += 9 * features_in * features + (2 * depth - 1) * 9 * features**2 + 2 * depth * 2 * features
        expected += features_in * features + 2 * features if features_in != features else 0
        features_in = features
    expected += 4 * width * 10 + 10
    assert count(shapes_of(Model("resnet", width, depth), (32, 32, channels))["params"]) == expected


def test_airbench_at_the_papers_width_has_the_papers_shapes():
    variables = shapes_of(Model("airbench", 64), (32, 32, 3))
    assert variables["constants"]["whitening"]["kernel"].shape == (2, 2, 3, 24)
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 256 * 256 + 256 * 256 + 256 * 256)
    shifts = 24 + 2 * (64 + 256 + 256)
    assert count(variables["params"]) == convolutions + shifts + 256 * 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (37, 40, 2)])
def test_every_architecture_takes_every_image_size(architecture, shape):
    module = build(Model(architecture, 8), 7)
    images = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, train=False), images)
    assert logits.shape == (3, 7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalization", ["none", "batch", "layer", "group"])
def test_every_architecture_takes_every_normalization(architecture, normalization):
    variables = shapes_of(Model(architecture, 8, normalization=normalization), (32, 32, 3))
    assert ("batch_stats" in variables) == (normalization == "batch")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_compute_keeps_parameters_statistics_and_logits_in_float32(architecture):
    module = build(Model(architecture, 8, normalization="batch", dtype="bfloat16"), 10)

    def initialise_and_train(images):
        variables = module.init(jax.random.key(0), images, train=False)
        return variables, module.apply(variables, images, train=True, mutable=["batch_stats"])

    images = jax.ShapeDtypeStruct((2, 20, 20, 3), jnp.float32)
    results = jax.eval_shape(initialise_and_train, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype("float32")}
    computed = str(jax.make_jaxpr(initialise_and_train)(images))
    assert "bf16[2,10] = dot_general" in computed


def test_bfloat16_logits_are_close_to_those_of_float32():
    images = images_of(4, 20, 20, 1)
    modules = [build(Model(width=8, dtype=dtype), 10) for dtype in ("bfloat16", "float32")]
    variables = drawn(modules[0], images)
    rough, exact = jax.jit(lambda v, x: [module.apply(v, x, train=False) for module in modules])(variables, images)
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.03 * float(np.abs(exact).max()))


def test_textbook_cnn_equals_a_forward_pass_in_numpy():
    images = images_of(3, 21, 20, 2)
    module = build_float32("textbook", 4, 3)
    variables = drawn(module, images)
    expected = np.stack([textbook_forward(variables["params"], image) for image in images])
    logits = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5)


def textbook_forward(params, x):
    for index in range(3):
        if index > 0:
            rows, columns = x.shape[0] // 2, x.shape[1] // 2
            x = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).max(axis=(1, 3))
        kernel, bias = params[f"Conv_{index}"]["kernel"], params[f"Conv_{index}"]["bias"]
        x = np.stack([correlated(x, kernel[..., i]) + bias[i] for i in range(kernel.shape[-1])], axis=-1)
        x = np.maximum(x, 0)
    x = np.maximum(x.reshape(-1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    return x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def correlated(x, kernel):
    return sum(scipy.signal.correlate2d(x[..., i], kernel[..., i], mode="valid") for i in range(x.shape[-1]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_drops_in_training_and_not_in_evaluation(architecture):
    images = images_of(2, 9, 9, 1)
    module = build_float32(architecture, 8, normalization="none", dropout=0.5)
    without = build_float32(architecture, 8, normalization="none")

    @jax.jit
    def views(variables, images):
        trained = [module.apply(variables, images, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2, 1)]
        return trained, module.apply(variables, images, train=False), without.apply(variables, images, train=True)

    (first, second, again), evaluated, undropped = views(drawn(module, images), images)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(evaluated, undropped, rtol=1e-6)


def test_batch_statistics_move_in_training_and_are_used_in_evaluation():
    images = 3 * images_of(16, 8, 8, 1) + 1
    module = build_float32("textbook", 4, normalization="batch")
    first = drawn(module, images)

    @jax.jit
    def run(variables):
        trained, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return trained, {**variables, **updated}, module.apply(variables, images, train=False)

    variables = first
    for _ in range(200):
        trained, variables, evaluated = run(variables)
    assert not np.allclose(run(first)[2], evaluated, atol=1e-2)
    np.testing.assert_allclose(evaluated, trained, atol=1e-3)


def test_batch_statistics_over_devices_are_those_of_the_whole_batch():
    images = images_of(16, 8, 8, 1)
    whole = build_float32("textbook", 4, normalization="batch")
    sharded = build(Model(width=4, depth=1, normalization="batch", dtype="float32"), 10, axis_name="devices")
    variables = drawn(whole, images)
    logits, updated = jax.jit(lambda v, x: whole.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    batch, replicated = PartitionSpec("devices"), PartitionSpec()
    logits_of_four, updated_of_four = jax.jit(
        jax.shard_map(
            lambda v, x: sharded.apply(v, x, train=True, mutable=["batch_stats"]),
            mesh=Mesh(np.array(jax.devices()[:4]), ("devices",)),
            in_specs=(replicated, batch),
            out_specs=(batch, replicated),
            check_vma=False,
        )
    )(variables, images)
    np.testing.assert_allclose(logits_of_four, logits, atol=1e-4)
    chex.assert_trees_all_close(updated_of_four, updated, rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_residual_block_starts_as_the_identity(normalization):
    x = images_of(2, 4, 4, 3)
    block = ResidualBlock(3, normalization=normalization)
    y, _ = jax.jit(lambda key: block.init_with_output(key, x, train=False))(jax.random.key(0))
    np.testing.assert_allclose(y, np.maximum(x, 0), atol=1e-6)


def test_dirac_kernel_copies_its_input_channels_and_leaves_the_rest_random():
    x = images_of(2, 5, 5, 4)
    kernel = dirac(jax.random.key(0), (3, 3, 4, 6))
    layout = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(y[..., :4], x, atol=1e-6)
    assert 0 < np.abs(kernel[..., 4:]).max() <= 1 / math.sqrt(9 * 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_and_of_unit_variance(channels):
    generator = np.random.default_rng(0)
    # Neighbouring pixels and channels that resemble each other, as in photographs, around a mean that is not 0.
    noise = generator.normal(size=(50, 20, 20, channels))
    images = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + noise.sum(-1, keepdims=True) + 1).astype(np.float32)
    kernel = whitening_kernel(images, eps=0)
    assert kernel.shape == (2, 2, channels, 8 * channels)
    assert kernel.dtype == jnp.float32
    layout = ("NHWC", "HWIO", "NHWC")
    output = np.array(lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout))
    whitened = output.reshape(-1, 8 * channels)[:, : 4 * channels]
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(4 * channels), atol=2e-3)
    np.testing.assert_array_equal(kernel[..., : 4 * channels], -kernel[..., 4 * channels :])


def test_a_pixel_that_never_varies_does_not_blow_the_kernel_up():
    kernel = whitening_kernel(np.zeros((2, 8, 8, 1), np.float32), eps=0.01)
    np.testing.assert_allclose(np.abs(kernel).max(), 10, rtol=1e-5)


def test_patches_are_in_the_order_of_a_kernels_pixels():
    images = images_of(2, 5, 6, 3)
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    np.testing.assert_array_equal(patches(jnp.asarray(images)), windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12))


def test_whiten_replaces_the_kernel_and_nothing_else():
    images = images_of(8, 9, 9, 3)
    variables = drawn(build_float32("airbench", 8), images)
    whitened = whiten(variables, images)
    np.testing.assert_array_equal(whitened["constants"]["whitening"]["kernel"], whitening_kernel(images))
    assert whitened["params"] is variables["params"]
    assert whitened["batch_stats"] is variables["batch_stats"]
    with pytest.raises(ValueError, match="only airbench"):
        whiten({"params": {}}, images)


def test_no_gradient_is_taken_for_the_whitening_kernel():
    images = images_of(2, 6, 6, 2)
    layer = Whitening()
    variables = layer.init(jax.random.key(0), images)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(layer.apply(v, images) ** 2)))(variables)
    assert not np.any(gradient["constants"]["kernel"])
    assert np.any(gradient["params"]["bias"])
    assert set(variables["params"]) == {"bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vgg"}, "architecture is 'vgg'; it must be one of mlp, textbook, resnet, airbench"),
        ({"normalization": "weight"}, "normalization is 'weight'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"width": 0}, "width is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_a_bad_field_is_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(Model(**change), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("architecture", "least"), [("mlp", 1), ("textbook", 18), ("resnet", 4), ("airbench", 9)])
def test_the_least_image_size_works_and_one_pixel_less_is_refused(architecture, least):
    assert shapes_of(Model(architecture, 8), (least, least, 1))["params"]
    with pytest.raises(ValueError, match=rf"\(2, {least - 1}, 40, 1\).*at least {least}x{least} pixels"):
        shapes_of(Model(architecture, 8), (least - 1, 40, 1))


def test_raw_images_are_refused():
    with pytest.raises(ValueError, match="images are uint8, expected normalised floats"):
        build(Model(), 10).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False)
