import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from jaxai.gan.layers import (
    BatchNorm,
    ConvTranspose,
    SelfAttention,
    call,
    convolution,
    downsample,
    upsample,
    with_minibatch_std,
)
from jaxai.gan.model import Model, build

LABELS = np.array([2, 0, 1, 2], np.int32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes_of(module, *inputs):
    """Output and variables of a module, in outline."""
    return jax.eval_shape(lambda *inputs: module.init_with_output(jax.random.key(0), *inputs, train=False), *inputs)


def pair_shapes(model, image_shape, num_classes=10):
    """(images, variables) of the generator and (logits, variables) of the discriminator, in outline."""
    generator, discriminator = build(model, image_shape, num_classes)
    latents = jax.ShapeDtypeStruct((4, model.latent_size), jnp.float32)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    generated = shapes_of(generator, latents, labels)
    return generated, shapes_of(discriminator, generated[0], labels)


def drawn(module, *inputs):
    """Variables drawn without compiling `init`: kernels of their usual size, everything else around 1."""
    generator = np.random.default_rng(1)

    def draw(leaf):
        values = generator.normal(size=leaf.shape)
        scaled = values / math.sqrt(math.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 1 + 0.1 * values
        return scaled.astype(leaf.dtype)

    return jax.tree.map(draw, shapes_of(module, *inputs)[1])


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(module, variables, *inputs, train):
    return module.apply(variables, *inputs, train=train, mutable=["batch_stats"])


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# The networks' layers once more, in NumPy.


def window_sums(images, kernel, pads, stride=1):
    images = np.pad(images, ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum("bijcyx,yxcf->bijf", windows, kernel, optimize=True)


def conv(images, layer, stride=1):
    kernel = layer["kernel"]
    pads = []
    for side, window in zip(images.shape[1:3], kernel.shape, strict=False):
        total = max((-(-side // stride) - 1) * stride + window - side, 0)
        pads.append((total // 2, total - total // 2))
    return window_sums(images, kernel, pads, stride) + layer.get("bias", 0)


def conv_transpose(images, layer, stride):
    batch, height, width, channels = images.shape
    dilated = np.zeros((batch, stride * (height - 1) + 1, stride * (width - 1) + 1, channels))
    dilated[:, ::stride, ::stride] = images
    total = 5 + stride - 2
    before = -(-total // 2)
    return window_sums(dilated, layer["kernel"], [(before, total - before)] * 2) + layer.get("bias", 0)


def batch_norm(x, layer, labels=None):
    axes = tuple(range(x.ndim - 1))
    x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    if "hidden" in layer:  # labels are latents
        hidden = relu(labels @ layer["hidden"]["kernel"] + layer["hidden"]["bias"])
        scale, bias = (hidden @ layer[name]["kernel"] + layer[name]["bias"] for name in ("scale", "bias"))
        return x * scale[:, None, None] + bias[:, None, None]
    if labels is None:
        return x * layer["BatchNorm_0"]["scale"] + layer["BatchNorm_0"]["bias"]
    return x * layer["scale"][labels][:, None, None] + layer["bias"][labels][:, None, None]


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def relu(x):
    return np.maximum(x, 0)


def double(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def halve(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def spread(x, group):
    groups = x.reshape(-1, group, *x.shape[1:])
    return np.sqrt(groups.var(1) + 1e-8).mean((1, 2, 3)).repeat(group)


@pytest.mark.parametrize(("conditional", "dtype"), [(False, "float32"), (True, "bfloat16")])
@pytest.mark.parametrize(
    ("architecture", "shape"), [("dcgan", (28, 28, 1)), ("residual", (32, 32, 3)), ("residual", (64, 64, 3))]
)
def test_generator_makes_images_and_discriminator_one_float32_logit_each(architecture, shape, conditional, dtype):
    model = Model(architecture, latent_size=5, width=8, conditional=conditional, dtype=dtype)
    (images, made), (logits, judged) = pair_shapes(model, shape)
    assert images.shape == (4, *shape)
    assert logits.shape == (4,)
    assert {leaf.dtype for leaf in jax.tree.leaves((images, logits, made, judged))} == {np.dtype("float32")}


def test_dcgan_for_28x28x1_is_the_textbooks_network():
    (_, generator), (_, discriminator) = pair_shapes(Model(), (28, 28, 1))
    dense, first, second, last = 100 * 7 * 7 * 256, 5 * 5 * 256 * 128, 5 * 5 * 128 * 64, 5 * 5 * 64 * 1 + 1
    assert count(generator["params"]) == dense + 2 * 256 + first + 2 * 128 + second + 2 * 64 + last
    assert count(generator["batch_stats"]) == 2 * (256 + 128 + 64)
    assert count(discriminator["params"]) == (5 * 5 * 64 + 64) + (5 * 5 * 64 * 128 + 128) + (7 * 7 * 128 + 1)
    assert "batch_stats" not in discriminator


def test_residual_pair_has_the_papers_parameter_count():
    (_, generator), _ = pair_shapes(Model("residual", 128, 256), (32, 32, 3))
    _, (_, discriminator) = pair_shapes(Model("residual", 128, 128), (32, 32, 3))
    nine, one = 9 * 256 * 256, 256 * 256 + 256
    block = 2 * nine + 256 + one + 2 * 2 * 256
    assert count(generator["params"]) == 129 * 4 * 4 * 256 + 3 * block + 2 * 256 + 9 * 256 * 3 + 3
    nine = 9 * 128 * 128 + 128
    down = (9 * 3 * 128 + 128) + nine + (3 * 128 + 128) + 2 * nine + (128 * 128 + 128)
    assert count(discriminator["params"]) == down + 4 * nine + 128 + 1


@pytest.mark.parametrize("kind", ["plain", "conditional", "modulated"])
def test_dcgan_generator_is_the_one_written_in_numpy(kind):
    conditional = kind == "conditional"
    model = Model(latent_size=6, width=2, conditional=conditional, self_modulation=3 * (kind == "modulated"))
    generator, _ = build(model, (8, 12, 1), 3)
    latents = normal(4, 6)
    variables = drawn(generator, latents, LABELS)
    images, _ = apply(generator, variables, latents, LABELS, train=True)

    params = variables["params"]
    condition = {"plain": None, "conditional": LABELS, "modulated": latents}[kind]
    if conditional:
        latents = np.concatenate([latents, params["Embed_0"]["embedding"][LABELS]], axis=1)
    x = (latents @ params["Dense_0"]["kernel"]).reshape(4, 2, 3, 8)
    for index, stride in enumerate((1, 2, 2)):
        x = leaky(batch_norm(x, params[f"BatchNorm_{index}"], condition))
        x = conv_transpose(x, params[f"ConvTranspose_{index}"], stride)
    np.testing.assert_allclose(images, np.tanh(x), atol=2e-5)


@pytest.mark.parametrize("conditional", [False, True])
def test_dcgan_discriminator_is_the_one_written_in_numpy(conditional):
    model = Model(width=3, conditional=conditional, minibatch_std=2 if conditional else 0)
    _, discriminator = build(model, (8, 12, 1), 3)
    images = normal(4, 8, 12, 1)
    variables = drawn(discriminator, images, LABELS)
    logits, _ = apply(discriminator, variables, images, LABELS, train=True)

    params = variables["params"]
    x = leaky(conv(images, params["Conv_0"], 2))
    x = leaky(conv(x, params["Conv_1"], 2))
    features = x
    if conditional:
        channel = np.broadcast_to(spread(x, 2)[:, None, None, None], (*x.shape[:3], 1))
        features = np.concatenate([x, channel], axis=-1)
    features = features.reshape(4, -1)
    expected = features @ params["logit"]["kernel"][:, 0] + params["logit"]["bias"]
    if conditional:
        expected += (params["embedding"]["embedding"][LABELS] * features).sum(1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modulation", [0, 3])
def test_residual_generator_is_the_one_written_in_numpy(modulation):
    generator, _ = build(Model("residual", 6, 2, conditional=not modulation, self_modulation=modulation), (8, 16, 3), 3)
    latents = normal(4, 6)
    variables = drawn(generator, latents, LABELS)
    images, _ = apply(generator, variables, latents, LABELS, train=True)

    params, condition = variables["params"], latents if modulation else LABELS
    x = (latents @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]).reshape(4, 1, 2, 2)
    for index in range(3):
        first, second, beside = (params[f"Conv_{3 * index + offset}"] for offset in range(3))
        branch = conv(double(relu(batch_norm(x, params[f"BatchNorm_{2 * index}"], condition))), first)
        branch = conv(relu(batch_norm(branch, params[f"BatchNorm_{2 * index + 1}"], condition)), second)
        x = branch + conv(double(x), beside)
    x = conv(relu(batch_norm(x, params["BatchNorm_6"], condition)), params["Conv_9"])
    np.testing.assert_allclose(images, np.tanh(x), atol=5e-5)


def test_residual_discriminator_is_the_one_written_in_numpy():
    _, discriminator = build(Model("residual", 6, 3, conditional=True, minibatch_std=4), (8, 16, 3), 3)
    images = normal(4, 8, 16, 3)
    variables = drawn(discriminator, images, LABELS)
    logits, _ = apply(discriminator, variables, images, LABELS, train=True)

    params = variables["params"]
    layers = [params[f"Conv_{index}"] for index in range(10)]
    x = halve(conv(relu(conv(images, layers[0])), layers[1])) + halve(conv(images, layers[2]))
    x = halve(conv(relu(conv(relu(x), layers[3])), layers[4])) + halve(conv(x, layers[5]))
    for first, second in (layers[6:8], layers[8:10]):
        x = conv(relu(conv(relu(x), first)), second) + x
    x = relu(x)
    pooled = x.sum((1, 2))
    features = np.concatenate([pooled, 8 * spread(x, 4)[:, None]], axis=1)
    expected = features @ params["logit"]["kernel"][:, 0] + params["logit"]["bias"]
    expected += (params["embedding"]["embedding"][LABELS] * features).sum(1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


class EachLayer(nn.Module):
    spectral: bool

    @nn.compact
    def __call__(self, images, labels, *, train):
        layers = (
            (convolution(6, 3, name="conv"), images),
            (ConvTranspose(6, (5, 5), (2, 2), name="transpose"), images),
            (nn.Dense(6, name="dense"), images),
            (nn.Embed(3, 6, name="embed"), labels),
        )
        return [call(layer, inputs, spectral=self.spectral, update=train) for layer, inputs in layers]


def test_spectral_normalization_divides_each_matrix_by_its_largest_singular_value():
    images = normal(2, 4, 4, 5)
    variables = drawn(EachLayer(True), images, LABELS)
    start = variables["batch_stats"]
    for _ in range(40):
        outputs, state = apply(EachLayer(True), variables, images, LABELS, train=True)
        variables = variables | state
    frozen_outputs, frozen = apply(EachLayer(True), variables, images, LABELS, train=False)

    largest = {}
    for name, layer in variables["params"].items():
        matrix = next(value for value in layer.values() if value.ndim > 1)
        largest[name] = np.linalg.svd(matrix.reshape(-1, 6), compute_uv=False)[0]
    sigmas = {path[-1].key: leaf for path, leaf in jax.tree.leaves_with_path(variables["batch_stats"])}
    for name, value in largest.items():
        (sigma,) = (sigma for key, sigma in sigmas.items() if key.startswith(f"{name}/") and key.endswith("sigma"))
        assert value / sigma == pytest.approx(1, abs=0.02)
    normalized = jax.tree.map_with_path(
        lambda path, leaf: leaf / largest[path[0].key] if leaf.ndim > 1 else leaf, variables["params"]
    )
    expected, _ = apply(EachLayer(False), {"params": normalized}, images, LABELS, train=True)
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, reference, atol=0.05)
    chex.assert_trees_all_equal(frozen, {"batch_stats": variables["batch_stats"]})
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), frozen_outputs, outputs)
    assert not np.allclose(jax.tree.leaves(start)[1], jax.tree.leaves(state)[1])


@pytest.mark.parametrize(
    ("kind", "generator_is", "discriminator_is"),
    [("none", False, False), ("discriminator", False, True), ("both", True, True)],
)
def test_spectral_normalization_reaches_every_matrix_of_the_networks_asked_for(kind, generator_is, discriminator_is):
    for architecture in ("dcgan", "residual"):
        model = Model(architecture, 5, 8, attention=16, spectral_normalization=kind)
        networks = pair_shapes(model, (32, 32, 3))
        for (_, variables), expected in zip(networks, (generator_is, discriminator_is), strict=True):
            vectors = [
                path for path, _ in jax.tree.leaves_with_path(variables.get("batch_stats", {})) if "/u" in path[-1].key
            ]
            matrices = [leaf for leaf in jax.tree.leaves(variables["params"]) if len(leaf.shape) > 1]
            assert len(vectors) == (len(matrices) if expected else 0)


def test_a_spectrally_normalized_discriminator_can_be_asked_in_training_mode_without_moving():
    _, discriminator = build(Model(width=2, spectral_normalization="discriminator"), (8, 8, 1), 0)
    images = normal(4, 8, 8, 1)
    variables = shapes_of(discriminator, images)[1]
    logits = jax.eval_shape(lambda variables: discriminator.apply(variables, images, train=True), variables)
    assert logits.shape == (4,)


def test_attention_starts_as_the_identity_and_is_the_papers():
    x = normal(2, 3, 5, 16)
    module = SelfAttention()
    variables = jax.tree.map(
        lambda leaf: normal(*leaf.shape) if leaf.shape else np.float32(0),
        jax.eval_shape(lambda: module.init(jax.random.key(0), x, update=False)),
    )
    forward = jax.jit(lambda variables: module.apply(variables, x, update=False))
    assert jax.jit(lambda: module.init(jax.random.key(0), x, update=False)["params"]["gamma"])() == 0
    np.testing.assert_array_equal(forward(variables), x)

    params = variables["params"] | {"gamma": np.float32(0.7)}
    f, g, h, v = (params[name]["kernel"] for name in ("query", "key", "value", "output"))
    assert f.shape == (16, 2)
    pixels = x.reshape(2, 15, 16).astype(np.float64)
    scores = np.exp((pixels @ f) @ (pixels @ g).transpose(0, 2, 1))
    output = scores / scores.sum(-1, keepdims=True) @ (pixels @ h) @ v
    np.testing.assert_allclose(forward({"params": params}), x + 0.7 * output.reshape(x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "height", "generator_channels", "discriminator_channels"),
    [("dcgan", 7, 16, 16), ("dcgan", 14, 8, 8), ("residual", 8, 8, 8), ("residual", 16, 8, 8)],
)
def test_attention_stands_in_both_networks_at_its_height(
    architecture, height, generator_channels, discriminator_channels
):
    shape = (28, 28, 1) if architecture == "dcgan" else (32, 32, 3)
    (_, generator), (_, discriminator) = pair_shapes(Model(architecture, 5, 8, attention=height), shape)
    assert generator["params"]["attention"]["output"]["kernel"].shape[1] == generator_channels
    assert discriminator["params"]["attention"]["output"]["kernel"].shape[1] == discriminator_channels


def test_minibatch_std_appends_the_mean_deviation_of_each_group():
    x = normal(6, 2, 3, 4)
    result = with_minibatch_std(jnp.asarray(x), 3)
    np.testing.assert_array_equal(result[..., :4], x)
    for image, expected in zip(result[..., 4], spread(x, 3), strict=True):
        np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_minibatch_std_has_a_finite_gradient_where_all_images_are_the_same():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(with_minibatch_std(x, 2))))(jnp.ones((2, 2, 2, 1)))
    assert np.isfinite(gradient).all()


def test_conditional_batch_norm_uses_the_row_of_each_label():
    x = normal(4, 2, 2, 5)
    module = BatchNorm(num_classes=3)
    variables = {
        "params": {"scale": normal(3, 5, seed=1), "bias": normal(3, 5, seed=2)},
        "batch_stats": {"BatchNorm_0": {"mean": normal(5, seed=3), "var": normal(5, seed=4) ** 2}},
    }
    result, _ = apply(module, variables, x, LABELS, train=False)
    statistics = variables["batch_stats"]["BatchNorm_0"]
    for image, label, found in zip(x, LABELS, result, strict=True):
        standard = (image - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
        expected = standard * variables["params"]["scale"][label] + variables["params"]["bias"][label]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_upsampling_repeats_and_downsampling_averages():
    x = normal(2, 4, 6, 3)
    np.testing.assert_array_equal(upsample(x), double(x))
    np.testing.assert_allclose(downsample(x), halve(x), rtol=1e-5, atol=1e-6)


def test_batch_statistics_over_eight_devices_are_those_of_the_whole_batch():
    model = Model(latent_size=4, width=2, conditional=True)
    one, _ = build(model, (4, 4, 1), 3)
    eight, _ = build(model, (4, 4, 1), 3, axis_name="data")
    latents, labels = normal(16, 4), np.arange(16, dtype=np.int32) % 3
    variables = drawn(one, latents, labels)
    expected, expected_state = apply(one, variables, latents, labels, train=True)

    split = PartitionSpec("data")
    sharded = jax.shard_map(
        lambda variables, latents, labels: eight.apply(variables, latents, labels, train=True, mutable=["batch_stats"]),
        mesh=Mesh(np.array(jax.devices()[:8]), ("data",)),
        in_specs=(PartitionSpec(), split, split),
        out_specs=(split, PartitionSpec()),
        check_vma=False,
    )
    images, state = jax.jit(sharded)(variables, latents, labels)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state, expected_state)


def test_bfloat16_makes_float32_images_close_to_those_of_float32():
    latents = normal(4, 6)
    images = {}
    for dtype in ("float32", "bfloat16"):
        generator, _ = build(Model(latent_size=6, width=2, dtype=dtype), (8, 12, 1), 3)
        images[dtype], state = apply(generator, drawn(generator, latents, LABELS), latents, LABELS, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves((images, state))} == {np.dtype("float32")}
    assert np.abs(images["float32"]).max() < 1
    np.testing.assert_allclose(images["bfloat16"], images["float32"], atol=0.05)
    assert not np.array_equal(images["bfloat16"], images["float32"])


@pytest.mark.parametrize("polyphase", [False, True])
def test_polyphase_generator_dilates_nothing_on_an_accelerator(polyphase):
    generator, _ = build(Model(width=2, polyphase=polyphase, dtype="float32"), (8, 8, 1), 10)
    latents = jax.ShapeDtypeStruct((4, 100), jnp.float32)
    variables = shapes_of(generator, latents)[1]
    forward = jax.jit(lambda variables, latents: generator.apply(variables, latents, train=False))
    module = jax.export.export(forward, platforms=["tpu"])(variables, latents).mlir_module()
    assert module.count("stablehlo.convolution") == 3
    assert ("lhs_dilate = [2, 2]" in module) != polyphase


def test_dropout_draws_in_training_only():
    _, discriminator = build(Model(width=2, dropout=0.5), (8, 8, 1), 0)
    images = normal(4, 8, 8, 1)
    variables = shapes_of(discriminator, images)[1]
    jax.eval_shape(lambda variables: discriminator.apply(variables, images, train=False), variables)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda variables: discriminator.apply(variables, images, train=True), variables)


@pytest.mark.parametrize(("kind", "collections"), [("none", {}), ("batch", {"mean", "var"}), ("layer", {})])
def test_discriminator_normalizes_all_hidden_layers_but_the_first(kind, collections):
    _, (_, dcgan) = pair_shapes(Model(width=8, discriminator_normalization=kind), (28, 28, 1))
    _, (_, residual) = pair_shapes(Model("residual", 8, 8, discriminator_normalization=kind), (32, 32, 3))
    for variables, layers in ((dcgan, 1), (residual, 6)):
        norms = [name for name in variables["params"] if "Norm" in name]
        assert len(norms) == (0 if kind == "none" else layers)
        leaves = jax.tree.leaves_with_path(variables.get("batch_stats", {}))
        assert {path[-1].key for path, _ in leaves} == set(collections)


def test_a_gradient_penalty_has_the_slope_of_its_differences():
    _, discriminator = build(Model(width=2, conditional=True, minibatch_std=2), (4, 4, 1), 3)
    images = normal(4, 4, 4, 1)
    variables = drawn(discriminator, images, LABELS)

    def penalty(shift, direction):
        params = jax.tree.map(lambda leaf, along: leaf + shift * along, variables["params"], direction)
        judge = functools.partial(discriminator.apply, {"params": params}, labels=LABELS, train=False)
        slopes = jax.grad(lambda images: jnp.sum(judge(images)))(images)
        return jnp.sum(slopes**2)

    direction = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=5), variables["params"])
    both = jax.jit(jax.value_and_grad(penalty))
    _, slope = both(0.0, direction)
    step = 1e-3
    difference = (both(step, direction)[0] - both(-step, direction)[0]) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "residual", "polyphase": True}, "only dcgan has transposed convolutions"),
        ({"self_modulation": -1}, "self_modulation is -1; it must be at least 0"),
        ({"self_modulation": 32, "conditional": True}, "self_modulation is 32, but a conditional generator's"),
        ({"architecture": "biggan"}, "architecture is 'biggan'; it must be one of dcgan, residual"),
        ({"spectral_normalization": "all"}, "it must be one of none, discriminator, both"),
        ({"discriminator_normalization": "group"}, "it must be one of none, batch, layer"),
        ({"dtype": "float16"}, "it must be one of auto, float32, bfloat16"),
        ({"latent_size": 0}, "latent_size is 0; it must be at least 1"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"minibatch_std": -1}, "minibatch_std is -1; it must be at least 0"),
        ({"attention": -7}, "attention is -7; it must be at least 0"),
        ({"attention": 28}, "attention is 28, but the feature maps of both networks are 7 or 14 pixels high"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"architecture": "residual"}, "images are 28x28x1, but the residual generator makes .* multiples of 8"),
    ],
)
def test_a_bad_field_is_named_in_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        build(Model(**changes), (28, 28, 1), 10)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(30, 28, 1), (28, 27, 1), (0, 28, 1), (28, 28)])
def test_images_that_the_generator_cannot_make_are_named_in_one_line(shape):
    with pytest.raises(ValueError, match=r"images are .*multiples of 4") as error:
        build(Model(), shape, 10)
    assert "\n" not in str(error.value)


def test_a_conditional_model_says_what_its_labels_lack():
    with pytest.raises(ValueError, match="at least 2 classes, the data has 1"):
        build(Model(conditional=True), (28, 28, 1), 1)
    generator, discriminator = build(Model(width=8, conditional=True), (28, 28, 1), 10)
    with pytest.raises(ValueError, match=r"given no labels; expected integers \[4\]"):
        shapes_of(generator, normal(4, 100))
    with pytest.raises(ValueError, match=r"labels have shape \[3\]; expected \[4\]"):
        shapes_of(discriminator, normal(4, 28, 28, 1), LABELS[:3])


def test_a_batch_that_a_discriminator_cannot_judge_is_named_in_one_line():
    _, discriminator = build(Model(width=8, minibatch_std=4), (28, 28, 1), 10)
    variables = shapes_of(discriminator, normal(1, 28, 28, 1))[1]  # of one image, which `init` may be given
    with pytest.raises(ValueError, match="minibatch_std is 4, which does not divide the 6 images") as error:
        jax.eval_shape(lambda variables: discriminator.apply(variables, normal(6, 28, 28, 1), train=True), variables)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"images have shape \[4, 32, 32, 1\]; .* \[batch, 28, 28, 1\]"):
        shapes_of(discriminator, normal(4, 32, 32, 1))
    with pytest.raises(ValueError, match="images are uint8; expected floats"):
        shapes_of(discriminator, np.zeros((4, 28, 28, 1), np.uint8))
