import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxai.cnn.model import Model, build, whiten, whitening_kernel
from jaxai.cnn.whitening import patches

ARCHITECTURES = ["mlp", "textbook", "resnet", "airbench"]


def images_of(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def initialised(model, images, num_classes=10):
    module = build(model, num_classes)
    return module, jax.jit(lambda key: module.init(key, images, train=False))(jax.random.key(0))


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
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (37, 40, 2), (64, 64, 3)])
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
    images = images_of(2, 20, 20, 3)
    model = Model(architecture, 8, normalization="batch", compute_dtype="bfloat16")
    module, variables = initialised(model, images)
    logits, updated = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    float32 = jnp.dtype("float32")
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated, logits))} == {float32}
    exact, _ = initialised(Model(architecture, 8, normalization="batch", compute_dtype="float32"), images)
    expected, _ = exact.apply(variables, images, train=True, mutable=["batch_stats"])
    assert not np.array_equal(logits, expected), "nothing was computed in bfloat16"
    # BatchNorm over two examples of an MLP amplifies rounding to the size of the logits.
    np.testing.assert_allclose(logits, expected, atol=0.15 * float(np.abs(expected).max()))


def test_textbook_cnn_equals_a_forward_pass_in_numpy():
    images = images_of(3, 21, 20, 2)
    module, variables = initialised(Model(width=4, compute_dtype="float32"), images)
    # Zero biases would hide a bias that is not added.
    shaken = jax.tree.map(lambda leaf: leaf + 0.1 * images_of(*leaf.shape), variables["params"])
    params = jax.tree.map(np.asarray, shaken)
    expected = np.stack([textbook_forward(params, image) for image in images])
    np.testing.assert_allclose(module.apply({"params": params}, images, train=False), expected, atol=2e-5)


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
    images = images_of(2, 20, 20, 1)
    model = Model(architecture, 8, normalization="none", dropout=0.5)
    module, variables = initialised(model, images)
    apply = jax.jit(module.apply, static_argnames="train")
    first, second, again = (
        apply(variables, images, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2, 1)
    )
    without = build(Model(architecture, 8, normalization="none"), 10)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(
        module.apply(variables, images, train=False), without.apply(variables, images, train=False)
    )


def test_batch_statistics_move_in_training_and_are_used_in_evaluation():
    images = 3 * images_of(16, 20, 20, 1) + 1
    module, variables = initialised(Model(width=4, normalization="batch", compute_dtype="float32"), images)
    before, after = variables, variables
    trained = None
    step = jax.jit(lambda v: module.apply(v, images, train=True, mutable=["batch_stats"]))
    for _ in range(200):
        trained, updated = step(after)
        after = {**after, **updated}
    evaluated = module.apply(after, images, train=False)
    assert not np.allclose(module.apply(before, images, train=False), evaluated, atol=1e-2)
    np.testing.assert_allclose(evaluated, trained, atol=1e-4)


def test_batch_statistics_over_devices_are_those_of_the_whole_batch():
    images = images_of(16, 20, 20, 1)
    model = Model(width=4, normalization="batch", compute_dtype="float32")
    whole, variables = initialised(model, images)
    expected = whole.apply(variables, images, train=True, mutable=["batch_stats"])
    sharded = build(model, 10, axis_name="devices")
    batch, replicated = PartitionSpec("devices"), PartitionSpec()
    logits, updated = jax.jit(
        jax.shard_map(
            lambda v, x: sharded.apply(v, x, train=True, mutable=["batch_stats"]),
            mesh=Mesh(np.array(jax.devices()[:4]), ("devices",)),
            in_specs=(replicated, batch),
            out_specs=(batch, replicated),
            check_vma=False,
        )
    )(variables, images)
    np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updated, expected[1])


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_residual_blocks_start_as_the_identity(normalization):
    images = images_of(2, 8, 8, 1)
    deep, variables = initialised(Model("resnet", 4, 3, normalization, compute_dtype="float32"), images)
    shallow = build(Model("resnet", 4, 1, normalization, compute_dtype="float32"), 10)
    kept = {"Conv_0": "Conv_0", "Norm_0": "Norm_0", "Dense_0": "Dense_0"}
    kept |= {f"ResidualBlock_{i}": f"ResidualBlock_{3 * i}" for i in range(3)}
    params, statistics = (
        {name: variables.get(kind, {})[source] for name, source in kept.items() if source in variables.get(kind, {})}
        for kind in ("params", "batch_stats")
    )
    logits = shallow.apply({"params": params, "batch_stats": statistics}, images, train=False)
    np.testing.assert_allclose(deep.apply(variables, images, train=False), logits, atol=1e-6)


def test_airbench_convolutions_start_as_the_identity_on_their_input_channels():
    _, variables = initialised(Model("airbench", 16), images_of(1, 12, 12, 1))
    kernel = np.array(variables["params"]["Conv_1"]["kernel"])
    expected = np.zeros((3, 3, 16, 16))
    expected[1, 1] = np.eye(16)
    np.testing.assert_array_equal(kernel, expected)
    wider = np.array(variables["params"]["Conv_2"]["kernel"])
    np.testing.assert_array_equal(wider[..., :16], expected)
    assert 0 < np.abs(wider[..., 16:]).max() <= 1 / math.sqrt(9 * 16)


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
    images = images_of(8, 12, 12, 3)
    module, variables = initialised(Model("airbench", 8), images)
    whitened = whiten(variables, images)
    np.testing.assert_array_equal(whitened["constants"]["whitening"]["kernel"], whitening_kernel(images))
    assert whitened["params"] is variables["params"]
    assert not np.allclose(module.apply(variables, images, train=False), module.apply(whitened, images, train=False))
    with pytest.raises(ValueError, match="only airbench"):
        whiten({"params": {}}, images)


def test_no_gradient_is_taken_for_the_whitening_kernel():
    images = images_of(2, 12, 12, 1)
    module, variables = initialised(Model("airbench", 8), images)
    gradient = jax.grad(lambda v: jnp.sum(module.apply(v, images, train=False) ** 2))(variables)
    assert not np.any(gradient["constants"]["whitening"]["kernel"])
    assert np.any(gradient["params"]["whitening"]["bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vgg"}, "model.architecture is 'vgg', expected one of mlp, textbook, resnet, airbench"),
        ({"normalization": "weight"}, "model.normalization is 'weight'"),
        ({"compute_dtype": "float16"}, "model.compute_dtype is 'float16'"),
        ({"width": 0}, "model.width is 0"),
        ({"depth": -1}, "model.depth is -1"),
        ({"dropout": 1.0}, r"model.dropout is 1.0, expected a share in \[0, 1\)"),
    ],
)
def test_a_bad_field_is_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(Model(**change), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("architecture", "least"), [("mlp", 1), ("textbook", 18), ("resnet", 4), ("airbench", 9)])
def test_the_least_image_size_works_and_one_pixel_less_is_refused(architecture, least):
    module = build(Model(architecture, 8), 10)
    assert module.init_with_output(jax.random.key(0), jnp.zeros((1, least, least, 1)), train=False)[0].shape == (1, 10)
    with pytest.raises(ValueError, match=rf"\(1, {least - 1}, 40, 1\).*at least {least}x{least} pixels"):
        module.init(jax.random.key(0), jnp.zeros((1, least - 1, 40, 1)), train=False)


def test_raw_images_are_refused():
    with pytest.raises(ValueError, match="images are uint8, expected normalised floats"):
        build(Model(), 10).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False)
