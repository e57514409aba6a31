import functools
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.gan import losses

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/gan_losses.npz"
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
PARAMETERS = "hidden_kernel", "hidden_bias", "output_kernel"
LABELLED = "minimax", "non_saturating", "least_squares"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def assert_equals_pytorch(golden, name, loss, *arguments):
    """Value and gradients by every argument, PyTorch's in float64."""
    # The program that users run: as the other tests compile theirs, float32 sums round a little worse than 1e-6.
    optimized = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    by_all = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arguments)))), compiler_options=optimized)
    value, gradients = by_all(*(golden[argument] for argument in arguments))
    assert value.dtype == jnp.float32
    assert value.shape == ()
    np.testing.assert_allclose(value, golden[f"{name}/value"], **CLOSE)
    for argument, gradient in zip(arguments, gradients, strict=True):
        expected = golden[f"{name}/gradient/{argument}"]
        assert np.any(expected)
        # The logits' gradients are each a 64th of a derivative, so that an absolute 1e-6 would say little.
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * np.max(np.abs(expected)))


def critic(parameters, images):
    kernel, bias, output = parameters
    return jnp.tanh(images.reshape(len(images), -1) @ kernel + bias) @ output


@pytest.mark.parametrize("name", losses.LOSSES)
def test_generator_loss_equals_pytorch(golden, name):
    assert_equals_pytorch(golden, f"{name}/generator", losses.LOSSES[name].generator, "fake_logits")


@pytest.mark.parametrize("name", losses.LOSSES)
def test_discriminator_loss_equals_pytorch(golden, name):
    loss = losses.LOSSES[name].discriminator
    assert_equals_pytorch(golden, f"{name}/discriminator/0.0/0.0", loss, "real_logits", "fake_logits")


@pytest.mark.parametrize(("smooth_real", "smooth_fake"), [(0.1, 0.0), (0.25, 0.1)])
@pytest.mark.parametrize("name", LABELLED)
def test_label_smoothing_equals_pytorch(golden, name, smooth_real, smooth_fake):
    loss = functools.partial(losses.LOSSES[name].discriminator, smooth_real=smooth_real, smooth_fake=smooth_fake)
    name = f"{name}/discriminator/{smooth_real}/{smooth_fake}"
    assert_equals_pytorch(golden, name, loss, "real_logits", "fake_logits")


@pytest.mark.parametrize("target", [1.0, 0.0])
def test_gradient_penalty_equals_pytorch(golden, target):
    key = jax.random.key(4)
    np.testing.assert_array_equal(jax.random.uniform(key, golden["eps"].shape), golden["eps"])

    def penalty(*parameters):
        score = functools.partial(critic, parameters)
        return losses.wasserstein_gradient_penalty(score, golden["real_images"], golden["fake_images"], key, target)

    assert_equals_pytorch(golden, f"wasserstein_gradient_penalty/{target}", penalty, *PARAMETERS)


def test_r1_penalty_equals_pytorch(golden):
    def penalty(*parameters):
        return losses.r1_penalty(functools.partial(critic, parameters), golden["real_images"])

    assert_equals_pytorch(golden, "r1_penalty", penalty, *PARAMETERS)


def test_penalties_of_a_linear_critic_are_those_of_its_weights(golden):
    weights = np.random.default_rng(1).normal(size=golden["real_images"].shape[1:]).astype(np.float32)
    norm = np.linalg.norm(weights.astype(np.float64))
    images = golden["real_images"], golden["fake_images"]

    def linear(x):
        return jnp.sum(x * weights, axis=(1, 2, 3))

    @jax.jit
    def penalties(real, fake):
        gradient_penalty = losses.wasserstein_gradient_penalty(linear, real, fake, jax.random.key(0))
        return gradient_penalty, losses.r1_penalty(linear, real)

    np.testing.assert_allclose(penalties(*images), ((norm - 1) ** 2, norm**2), rtol=1e-5)


def test_gradient_penalty_is_taken_between_the_real_and_the_fake_of_each_pair():
    # The gradient of |x|^2 / 2 is x itself, so that the penalty with target 0 is the mean of the squared norms.
    real, key = jnp.ones((500, 2, 2, 1)), jax.random.key(3)

    def half_square(x):
        return jnp.sum(x**2, axis=(1, 2, 3)) / 2

    penalty = jax.jit(lambda x: losses.wasserstein_gradient_penalty(half_square, x, -x, key, 0.0))(real)
    eps = np.asarray(jax.random.uniform(key, (500, 1, 1, 1)), np.float64)
    np.testing.assert_allclose(penalty, np.mean(4 * (2 * eps - 1) ** 2), rtol=1e-5)
    # Of U[-1, 1) in four pixels: 4 / 3, standard error 4 * sqrt(4 / 45 / 500) = 0.053.
    assert abs(penalty - 4 / 3) < 0.2


def test_penalties_of_a_constant_critic_have_finite_gradients():
    images = jnp.ones((3, 2, 2, 1))

    def score(scale, x):
        return scale * jnp.sum(x**2, axis=(1, 2, 3))

    def gradient_penalty(scale):
        key = jax.random.key(0)
        return losses.wasserstein_gradient_penalty(functools.partial(score, scale), images, -images, key)

    value, gradient = jax.jit(jax.value_and_grad(gradient_penalty))(0.0)
    assert (value, gradient) == (1, 0)
    r1 = jax.jit(jax.value_and_grad(lambda scale: losses.r1_penalty(functools.partial(score, scale), images)))
    assert r1(0.0) == (0, 0)


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_extreme_logits_give_finite_losses_and_gradients(name, size):
    logits = jnp.array([-size, size])
    loss = losses.LOSSES[name]
    for function, arguments in ((loss.discriminator, (logits, logits[::-1])), (loss.generator, (logits,))):
        gradients = jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(arguments)))))(*arguments)
        assert all(np.all(np.isfinite(array)) for array in jax.tree.leaves(gradients))


def test_a_lost_game_leaves_a_gradient_to_the_non_saturating_generator_alone():
    # The discriminator is certain that both are fake.
    lost = jnp.array([-1e4, -200.0])
    np.testing.assert_array_equal(jax.grad(losses.minimax_generator_loss)(lost), 0)
    np.testing.assert_allclose(jax.grad(losses.non_saturating_generator_loss)(lost), -0.5)
    np.testing.assert_allclose(losses.non_saturating_generator_loss(lost), (1e4 + 200) / 2)


def test_the_best_discriminator_of_equal_distributions_scores_the_paper_value():
    # D = 1/2 everywhere: -C(G) = log 4 (Goodfellow et al. 2014, theorem 1).
    np.testing.assert_allclose(losses.minimax_discriminator_loss(jnp.zeros(8), jnp.zeros(8)), np.log(4), rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_half_precision_logits_are_averaged_in_float32(name):
    # 70,000 in all, beyond float16, where its mean would be infinite.
    half = jnp.full(7000, 10.0, jnp.float16)
    loss = losses.LOSSES[name]
    for value, expected in (
        (loss.discriminator(half, half), loss.discriminator(half.astype(jnp.float32), half.astype(jnp.float32))),
        (loss.generator(half), loss.generator(half.astype(jnp.float32))),
    ):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["wasserstein", "hinge"])
@pytest.mark.parametrize("smoothing", [{"smooth_real": 0.1}, {"smooth_fake": 0.1}])
def test_smoothing_without_labels_is_refused_in_one_line(name, smoothing):
    with pytest.raises(ValueError, match=rf"^smooth_\w+ is 0.1, expected 0: the {name} loss has no labels.*$"):
        losses.LOSSES[name].discriminator(jnp.zeros(2), jnp.zeros(2), **smoothing)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_smoothing_out_of_range_is_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=r"^smooth_real is \S+, expected 0 \(off\) to below 1$"):
        losses.LOSSES[name].discriminator(jnp.zeros(2), jnp.zeros(2), smooth_real=value)


def test_every_named_loss_exists():
    assert tuple(losses.LOSSES) == typing.get_args(losses.Loss)
