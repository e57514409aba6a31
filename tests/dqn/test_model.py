import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxai.dqn.model import Network, NoisyDense, atoms, build, convolution, q_values

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
BOARD, FRAMES = (10, 10, 4), (84, 84, 4)


def observations_of(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def shapes_of(network, shape, num_actions, batch=2):
    module = build(network, shape, num_actions)
    observations = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    outputs, variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x), observations)
    return outputs, variables["params"]


def drawn(network, shape, num_actions):
    """The module and its parameters, all around 0 with the spread of `1 / sqrt(inputs)`, drawn without compiling."""
    generator = np.random.default_rng(1)

    def draw(leaf):
        spread = math.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.3
        return jnp.asarray(generator.normal(scale=spread, size=leaf.shape), leaf.dtype)

    module = build(network, shape, num_actions)
    return module, jax.tree.map(draw, shapes_of(network, shape, num_actions)[1])


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, observations, noise=None):
    return module.apply({"params": params}, observations, rngs=None if noise is None else {"noise": noise})


def count(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


MLP = 4 * 64 + 64 + 64 * 64 + 64
MINATAR = (3 * 3 * 4 * 16 + 16) + (8 * 8 * 16 * 128 + 128)
NATURE_CONVOLUTIONS = (8 * 8 * 4 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64)


@pytest.mark.parametrize(
    ("network", "shape", "num_actions", "expected"),
    [
        (Network(), (4,), 2, MLP + 64 * 2 + 2),
        (Network(hidden=(10, 20, 30)), (4,), 2, 5 * 10 + 11 * 20 + 21 * 30 + 31 * 2),
        (Network(hidden=(8,)), (10, 5), 3, 51 * 8 + 9 * 3),
        (Network(), BOARD, 3, MINATAR + 128 * 3 + 3),
        (Network(distribution="categorical"), BOARD, 3, MINATAR + 129 * 3 * 51),
        (Network(dueling=True), (4,), 2, MLP + 65 * 64 + 65 * 2 + 65),
        (Network(dueling=True, distribution="quantile", atoms=7), (4,), 2, MLP + 65 * 64 + 65 * 2 * 7 + 65 * 7),
        (Network(layer_norm=True), BOARD, 3, MINATAR + 2 * 16 + 2 * 128 + 128 * 3 + 3),
        (Network(noisy=True), (4,), 2, 5 * 64 + 2 * (65 * 64 + 65 * 2)),
        (Network(), FRAMES, 6, NATURE_CONVOLUTIONS + 7 * 7 * 64 * 512 + 512 + 513 * 6),
    ],
)
def test_parameter_count_is_the_one_by_hand(network, shape, num_actions, expected):
    assert count(shapes_of(network, shape, num_actions)[1]) == expected


def test_nature_network_has_the_papers_shapes():
    outputs, params = shapes_of(Network(), FRAMES, 18, batch=32)
    assert count(params) == 1_693_362
    assert outputs.shape == (32, 18)
    assert params["conv_0"]["kernel"].shape == (8, 8, 4, 32)
    assert params["conv_1"]["kernel"].shape == (4, 4, 32, 64)
    assert params["conv_2"]["kernel"].shape == (3, 3, 64, 64)
    assert params["q_hidden"]["kernel"].shape == (3136, 512)


@pytest.mark.parametrize(
    ("shape", "torso"),
    [
        ((), "mlp"),
        ((4,), "mlp"),
        ((10, 5), "mlp"),
        ((4, 100), "mlp"),
        ((2, 10, 3), "mlp"),
        ((10, 10, 4), "minatar"),
        ((20, 20, 1), "minatar"),
        ((30, 40, 1), "minatar"),
        ((36, 36, 1), "nature"),
        ((84, 84, 4), "nature"),
        ((84, 84), "nature"),
    ],
)
def test_the_torso_follows_from_the_observation(shape, torso):
    assert build(Network(), shape, 2).torso == torso
    assert shapes_of(Network(hidden=(4,)), shape, 2)[0].shape == (2, 2)


def test_minatar_network_equals_a_forward_pass_in_numpy():
    module, params = drawn(Network(), BOARD, 3)
    x = observations_of(5, *BOARD)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).astype(np.float64)
    y = np.einsum("brcihw,hwio->brco", windows, params["conv_0"]["kernel"]) + params["conv_0"]["bias"]
    y = np.maximum(y, 0).reshape(5, -1)
    y = np.maximum(y @ params["q_hidden"]["kernel"] + params["q_hidden"]["bias"], 0)
    expected = y @ params["q"]["kernel"] + params["q"]["bias"]
    np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu", "gelu", "elu"])
def test_mlp_applies_the_activation_between_its_layers(activation):
    module, params = drawn(Network(activation=activation, hidden=(8, 6)), (4,), 2)
    x = observations_of(5, 4)
    y = x
    for name in ("dense_0", "q_hidden"):
        y = getattr(jax.nn, activation)(y @ params[name]["kernel"] + params[name]["bias"])
    expected = y @ params["q"]["kernel"] + params["q"]["bias"]
    np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [{}, {"distribution": "quantile", "atoms": 5}])
def test_a_constant_added_to_all_advantages_changes_nothing(layout):
    module, params = drawn(Network(dueling=True, hidden=(8,), **layout), (4,), 3)
    x = observations_of(6, 4)
    before = apply(module, params, x)
    shift = np.tile(np.arange(5.0), 3) if layout else 7.0
    shifted = {**params["advantage"], "bias": params["advantage"]["bias"] + shift}
    np.testing.assert_allclose(apply(module, {**params, "advantage": shifted}, x), before, atol=1e-5)
    raised = {**params["value"], "bias": params["value"]["bias"] + 7}
    np.testing.assert_allclose(apply(module, {**params, "value": raised}, x), before + 7, atol=1e-5)


def test_the_mean_over_actions_of_a_dueling_network_is_its_value_stream():
    module, params = drawn(Network(dueling=True, hidden=(8,), activation="tanh"), (4,), 3)
    x = observations_of(6, 4)
    hidden = np.tanh(x @ params["value_hidden"]["kernel"] + params["value_hidden"]["bias"])
    value = hidden @ params["value"]["kernel"] + params["value"]["bias"]
    np.testing.assert_allclose(apply(module, params, x).mean(1), value[:, 0], atol=1e-5)


def test_noisy_network_computes_with_its_mean_weights_without_a_generator():
    shape, plain, noisy = (4,), Network(hidden=(8, 6)), Network(hidden=(8, 6), noisy=True)
    module, params = drawn(noisy, shape, 2)
    means = {name: {key: leaf for key, leaf in layer.items() if "sigma" not in key} for name, layer in params.items()}
    x = observations_of(5, *shape)
    expected = apply(build(plain, shape, 2), means, x)
    np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-6)
    assert not np.allclose(apply(module, params, x, jax.random.key(0)), expected, atol=1e-2)


def test_every_example_has_noise_of_its_own():
    module, params = drawn(Network(noisy=True), (4,), 2)
    x = np.repeat(observations_of(1, 4), 50, axis=0)
    q = apply(module, params, x, jax.random.key(0))
    assert len(np.unique(q[:, 0])) == 50
    np.testing.assert_array_equal(apply(module, params, x, jax.random.key(0)), q)
    assert not np.any(apply(module, params, x, jax.random.key(1)) == q)


@pytest.mark.parametrize("shape", [(4,), BOARD])
def test_the_layer_that_reads_the_observation_has_no_noise_and_every_later_dense_layer_has(shape):
    _, params = shapes_of(Network(noisy=True, dueling=True, hidden=(8, 6)), shape, 2)
    noisy = {name for name, layer in params.items() if "kernel_sigma" in layer}
    streams = {"value_hidden", "advantage_hidden", "value", "advantage"}
    assert noisy == (streams if shape == (4,) else streams | {"dense_0"})


def test_variance_of_the_noise_is_the_closed_form():
    x = np.array([0.5, -2.0, 1.0], np.float32)
    generator = np.random.default_rng(0)
    params = {
        "kernel": jnp.zeros((3, 2)),
        "bias": jnp.asarray([1.0, -1.0]),
        "kernel_sigma": jnp.asarray(generator.uniform(0.2, 1, size=(3, 2)), jnp.float32),
        "bias_sigma": jnp.asarray([0.3, 0.8]),
    }
    draws = 200_000
    y = np.asarray(apply(NoisyDense(2), params, np.tile(x, (draws, 1)), jax.random.key(0)), np.float64)
    # E f(e) = 0 and E f(e)^2 = E |e| = sqrt(2 / pi).
    second = math.sqrt(2 / math.pi)
    variance = (
        second * (second * (x[:, None] * params["kernel_sigma"]) ** 2).sum(0) + second * params["bias_sigma"] ** 2
    )
    np.testing.assert_allclose(y.mean(0), params["bias"], atol=5 * math.sqrt(variance.max() / draws))
    np.testing.assert_allclose(y.var(0), variance, rtol=0.02)


def test_noisy_layer_equals_weights_built_for_each_example():
    module, params = drawn_noisy_layer()
    x = observations_of(4, 3)
    y = apply(module, params, x, jax.random.key(5))
    # Examples that are unit vectors and zero read the noise of each position's weights back.
    probe = lambda rows: apply(module, params, jnp.asarray(rows, jnp.float32), jax.random.key(5))  # noqa: E731 - short
    bias = probe(np.zeros((4, 3)))
    kernel = jnp.stack([probe(np.tile(np.eye(3)[i], (4, 1))) - bias for i in range(3)], axis=1)
    np.testing.assert_allclose(y, jnp.einsum("bi,bio->bo", x, kernel) + bias, rtol=1e-5, atol=1e-5)
    noise = (kernel - params["kernel"]) / params["kernel_sigma"]
    assert {np.linalg.matrix_rank(example, tol=1e-4) for example in np.asarray(noise)} == {1}


def drawn_noisy_layer():
    module = NoisyDense(2)
    return module, module.init(jax.random.key(1), jnp.zeros((1, 3)))["params"]


def test_noisy_layer_starts_as_in_the_paper():
    params = NoisyDense(200, 0.5).init(jax.random.key(0), jnp.zeros((1, 100)))["params"]
    for name in ("kernel", "bias"):
        assert np.abs(params[name]).max() <= 0.1
        np.testing.assert_allclose(np.std(params[name]), 0.1 / math.sqrt(3), rtol=0.1)
    for name in ("kernel_sigma", "bias_sigma"):
        np.testing.assert_allclose(params[name], 0.05, rtol=1e-6)


def test_the_scale_of_the_noise_has_a_gradient_only_under_noise():
    module, params = drawn_noisy_layer()
    x = observations_of(4, 3)

    @jax.jit
    def gradients(params):
        noisy = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x, rngs={"noise": jax.random.key(0)}) ** 2))
        mean = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x) ** 2))
        return noisy(params), mean(params)

    noisy, mean = gradients(params)
    for name in ("kernel_sigma", "bias_sigma"):
        assert np.all(np.asarray(noisy[name]) != 0)
        assert not np.any(mean[name])


def test_categorical_q_values_are_expectations_within_the_support():
    network = Network(distribution="categorical", atoms=5, value_min=-2, value_max=6)
    np.testing.assert_allclose(atoms(network), [-2, 0, 2, 4, 6])
    module, params = drawn(network, (4,), 3)
    logits = 5 * apply(module, params, observations_of(7, 4))
    assert logits.shape == (7, 3, 5)
    weights = np.exp(np.asarray(logits, np.float64))
    expected = (weights / weights.sum(-1, keepdims=True)) @ np.array([-2, 0, 2, 4, 6])
    np.testing.assert_allclose(q_values(network, logits), expected, rtol=1e-4, atol=1e-5)
    certain = jnp.full((1, 1, 5), -1e9).at[0, 0, -1].set(1e9)
    np.testing.assert_allclose(q_values(network, certain), [[6]])


def test_quantile_q_values_are_the_mean_of_the_quantiles_and_plain_ones_themselves():
    outputs = observations_of(4, 3, 8)
    expected = outputs.astype(np.float64).mean(-1)
    np.testing.assert_allclose(q_values(Network(distribution="quantile", atoms=8), outputs), expected, atol=1e-6)
    np.testing.assert_array_equal(q_values(Network(), outputs[..., 0]), outputs[..., 0])


@pytest.mark.parametrize(
    ("images", "kernel", "stride"),
    [((32, 10, 10, 4), (3, 3, 4, 16), 1), ((3, 12, 15, 2), (8, 8, 2, 5), 4), ((2, 9, 8, 3), (4, 4, 3, 6), 2)],
)
def test_convolution_equals_lax_with_its_gradients(images, kernel, stride):
    arrays = observations_of(*images), observations_of(*kernel)
    options = {"window_strides": (stride, stride), "padding": "VALID", "dimension_numbers": DIMENSIONS}

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(function, x, w):
        y, pull_back = jax.vjp(functools.partial(function, **options), x, w)
        return y, *pull_back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    for ours, plain in zip(evaluate(convolution, *arrays), evaluate(lax.conv_general_dilated, *arrays), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5 * np.abs(plain).max())


def test_convolution_is_a_matmul_on_cpu_and_laxs_own_on_an_accelerator():
    module, params = drawn(Network(), BOARD, 3)

    def gradient(params, x):
        return jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x) ** 2))(params)

    observations = jnp.zeros((32, *BOARD))
    traced = jax.jit(gradient).trace(params, observations)
    cpu, tpu = (traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu"))
    assert "stablehlo.convolution" not in cpu
    assert "2048x36xf32" in cpu
    assert "stablehlo.convolution" in tpu
    assert not [line for line in tpu.splitlines() if "concatenate" in line and "36xf32" in line]


def test_seeds_with_parameters_of_their_own_equal_single_runs():
    module, params = drawn(Network(noisy=True, hidden=(8,)), (5, 5, 2), 2)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 2 * leaf]), params)
    x = observations_of(3, 4, 5, 5, 2)
    keys = jax.random.split(jax.random.key(0), 3)

    def gradient(params, key, x):
        return jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x, rngs={"noise": key}) ** 2))(params)

    @jax.jit
    def both(params):
        return jax.vmap(gradient)(params, keys, x), gradient(jax.tree.map(lambda leaf: leaf[1], params), keys[1], x[1])

    together, alone = both(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5 + 1e-5 * np.abs(b).max()), together, alone
    )


def test_layer_norm_makes_the_hidden_layers_blind_to_the_scale_of_their_input():
    module, params = drawn(Network(layer_norm=True, hidden=(32,)), (4,), 2)
    params["q_hidden"]["bias"] = jnp.zeros(32)
    x = observations_of(3, 4)
    np.testing.assert_allclose(apply(module, params, 100 * x), apply(module, params, x), rtol=1e-3, atol=1e-3)
    hidden = x @ params["q_hidden"]["kernel"]
    normal = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-6)
    normal = np.maximum(normal * params["q_hidden_norm"]["scale"] + params["q_hidden_norm"]["bias"], 0)
    expected = normal @ params["q"]["kernel"] + params["q"]["bias"]
    np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-4, atol=1e-4)


def test_bytes_are_scaled_to_one_and_booleans_are_zero_and_one():
    module, params = drawn(Network(), BOARD, 3)
    board = np.random.default_rng(0).random((2, *BOARD)) < 0.3
    expected = apply(module, params, board.astype(np.float32))
    np.testing.assert_allclose(apply(module, params, board), expected, rtol=1e-6)
    np.testing.assert_allclose(apply(module, params, board.astype(np.uint8) * 255), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_compute_keeps_parameters_and_outputs_in_float32():
    changes = {"noisy": True, "dueling": True, "layer_norm": True, "hidden": (16,)}
    module, params = drawn(Network(dtype="bfloat16", **changes), BOARD, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    x = observations_of(4, *BOARD)
    rough = apply(module, params, x, jax.random.key(0))
    exact = apply(build(Network(**changes), BOARD, 3), params, x, jax.random.key(0))
    assert rough.dtype == jnp.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.05 * float(np.abs(exact).max()))


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        ({"torso": "resnet"}, (4,), "torso is 'resnet'; it must be one of auto, mlp, minatar, nature"),
        ({"activation": "step"}, (4,), "activation is 'step'"),
        ({"distribution": "normal"}, (4,), "distribution is 'normal'"),
        ({"dtype": "float16"}, (4,), "dtype is 'float16'"),
        ({"hidden": (64, 0)}, (4,), r"hidden is \(64, 0\); every value must be at least 1"),
        ({"noisy_sigma": -1.0}, (4,), "noisy_sigma is -1.0"),
        ({"distribution": "quantile", "atoms": 1}, (4,), "atoms is 1; it must be at least 2"),
        ({"distribution": "categorical", "value_min": 10.0}, (4,), "value_min is 10.0 and value_max is 10.0"),
        ({"torso": "nature"}, (84, 35, 4), r"\(84, 35, 4\) do not fit the nature torso.*at least 36x36 pixels"),
        ({"torso": "minatar"}, (2, 2, 1), "do not fit the minatar torso.*at least 3x3"),
        ({}, (4, 84, 84), r"\(4, 84, 84\) have their channels first, .* need \[height, width, channels\]"),
        ({"torso": "nature"}, (128,), r"\(128,\) do not fit the nature torso"),
    ],
)
def test_a_bad_field_is_named_in_one_line(change, shape, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(Network(**change), shape, 2)
    assert "\n" not in str(caught.value)


def test_no_actions_are_refused():
    with pytest.raises(ValueError, match="num_actions is 0"):
        build(Network(), (4,), 0)


@pytest.mark.parametrize("hidden", [(8,), (8, 6), (8, 6, 5)])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("shape", [(4,), BOARD])
@pytest.mark.parametrize("distribution", ["none", "categorical"])
def test_noise_fits_every_combination_of_layers(hidden, dueling, shape, distribution):
    network = Network(hidden=hidden, dueling=dueling, noisy=True, distribution=distribution, atoms=5)
    module = build(network, shape, 3)
    noise = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    outputs, _ = jax.eval_shape(lambda x: module.init_with_output(noise, x), jnp.zeros((2, *shape)))
    assert outputs.shape == ((2, 3) if distribution == "none" else (2, 3, 5))
