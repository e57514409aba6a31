"""Networks, transformations and an adversarial loss of one's own in `gan.make`."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jaxai import gan
from jaxai import optimizer as optimizers
from jaxai.runtime import parallel

CONFIG = gan.Config(image_shape=(4, 4, 1), width=2, latent_size=3, num_classes=3, ema_decay=0.9)
RANDOM = np.random.default_rng(0)
BATCH = {
    "image": RANDOM.integers(0, 256, (8, 4, 4, 1), np.uint8),
    "label": RANDOM.integers(0, 3, 8).astype(np.int32),
}


class Generator(nn.Module):
    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(latents))
        if labels is not None:
            x = x + nn.Embed(3, 8)(labels)
        return jnp.tanh(nn.Dense(16)(nn.Dropout(0.2)(x, deterministic=not train))).reshape(-1, 4, 4, 1)


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        calls = self.variable("calls", "count", lambda: jnp.int32(0))
        if train:
            calls.value += 1
        return nn.Dense(1)(nn.relu(nn.Dense(8)(images.reshape(len(images), -1))))[:, 0]


OWN: dict[str, Any] = {"generator": Generator(), "discriminator": Discriminator()}


class NnxGenerator(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.hidden, self.norm = nnx.Linear(3, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.out = nnx.Linear(8, 16, rngs=rngs)

    def __call__(self, latents: jax.Array, *, train: bool) -> jax.Array:
        x = nnx.relu(self.norm(self.hidden(latents), use_running_average=not train))
        return jnp.tanh(self.out(x)).reshape(-1, 4, 4, 1)


def trained(workload: Any, steps: int = 2) -> tuple[Any, Any, Any]:
    """The first state, the last, and the last metrics."""
    chex.clear_trace_counter()  # chex counts all functions of one place in the source together
    first = state = jax.jit(workload.init)(jax.random.key(0))
    step = jax.jit(chex.assert_max_traces(workload.train_step, n=1))
    for _ in range(steps):
        after, metrics = step(state, BATCH)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    return first, state, metrics


def test_networks_of_ones_own_train_and_draw() -> None:
    setup = parallel.Setup("shard_map", devices=2)
    workload = gan.make(CONFIG, setup.axis_name, **OWN)
    state = setup.place_state(jax.jit(workload.init)(jax.random.key(0)))
    state, metrics = setup.compile_step(workload.train_step)(state, setup.place_batches(BATCH))
    variables = state.extra["variables"]
    assert int(variables.discriminator["calls"]["count"]) == 2  # real and generated images
    assert variables.generator["batch_stats"]["BatchNorm_0"]["mean"].shape == (8,)
    assert set(metrics) >= {"d_real", "generator_learning_rate", "discriminator_learning_rate"}
    latents = jax.random.normal(jax.random.key(1), (5, 3))
    state = jax.device_get(state.replace(key=None))
    expected = jax.jit(lambda variables: Generator().apply(variables, latents, train=False))(state.extra["ema"])
    for predict in (workload.predict, gan.make_predict(CONFIG, generator=Generator())):
        np.testing.assert_allclose(jax.jit(predict)(state, latents), expected, atol=1e-5)
    chex.assert_trees_all_equal(gan.parameters(state), state.extra["ema"]["params"])


def test_a_conditional_generator_of_ones_own_is_given_labels() -> None:
    class Projection(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, labels: jax.Array, *, train: bool) -> jax.Array:
            x = nn.Dense(8)(images.reshape(len(images), -1))
            return nn.Dense(1)(x)[:, 0] + (nn.Embed(3, 8)(labels) * x).sum(-1)

    config = dataclasses.replace(CONFIG, conditional=True)
    workload = gan.make(config, generator=Generator(), discriminator=Projection())
    _, state, _ = trained(workload)
    latents = jnp.ones((2, 3))
    images = jax.jit(workload.predict)(state, {"latent": latents, "label": jnp.array([0, 1])})
    assert float(abs(images[0] - images[1]).max()) > 1e-3


def test_an_nnx_generator_trains_through_the_bridge() -> None:
    workload = gan.make(CONFIG, generator=nnx.bridge.to_linen(NnxGenerator), discriminator=Discriminator())
    first, state, _ = trained(workload)
    mean = [each.extra["ema"]["batch_stats"]["norm"]["mean"] for each in (first, state)]
    assert float(abs(mean[0] - mean[1]).max()) > 0
    assert jax.jit(workload.predict)(state, jnp.ones((2, 3))).shape == (2, 4, 4, 1)


def test_the_transformations_and_the_loss_of_the_config_handed_in_give_the_same_bits() -> None:
    config = dataclasses.replace(CONFIG, discriminator_steps=2)
    own = gan.make(
        config,
        **OWN,
        transformations=(optimizers.make(config.generator_optimizer), optimizers.make(config.discriminator_optimizer)),
        loss=gan.losses.LOSSES["non_saturating"],
    )
    (_, state, metrics), (_, expected, usual) = trained(own), trained(gan.make(config, **OWN))
    chex.assert_trees_all_equal(state.params, expected.params)
    chex.assert_trees_all_equal(state.extra, expected.extra)
    assert usual.keys() - metrics.keys() == {"generator_learning_rate", "discriminator_learning_rate"}
    chex.assert_trees_all_equal(metrics["generator_loss"], usual["generator_loss"])


def test_transformations_of_ones_own_move_each_network_its_own_way() -> None:
    own = (optax.inject_hyperparams(optax.sgd)(learning_rate=0.5), optax.set_to_zero())
    workload = gan.make(CONFIG, **OWN, transformations=own)
    first, state, metrics = trained(workload, 1)
    gradients = jax.jit(workload.gradients)(first, BATCH).generator
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, first.params.generator, gradients)
    chex.assert_trees_all_close(state.params.generator, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(state.params.discriminator, first.params.discriminator)
    assert float(metrics["generator_learning_rate"]) == 0.5
    assert "discriminator_learning_rate" not in metrics


def test_a_line_search_is_refused_in_one_line() -> None:
    workload = gan.make(CONFIG, **OWN, transformations=(optax.lbfgs(), optax.lbfgs()))
    with pytest.raises(ValueError, match=r"needs value_fn, .* without a line search") as caught:
        trained(workload)
    assert "\n" not in caught.value.args[0]


def test_an_adversarial_loss_of_ones_own_is_minimised_without_the_penalty_of_the_named_one() -> None:
    config = dataclasses.replace(CONFIG, loss="wasserstein")
    own = gan.AdversarialLoss(
        lambda real, fake: jnp.mean((real - 1) ** 2) + jnp.mean((fake + 1) ** 2),
        lambda fake: jnp.mean(fake**2),
        output=lambda logits: logits,
    )
    workload = gan.make(config, **OWN, loss=own)
    first, _, metrics = trained(workload, 1)
    assert "gradient_penalty" not in metrics
    variables = {"params": first.params.discriminator, **first.extra["variables"].discriminator}
    normalized = gan.normalize(config, BATCH["image"])
    real = jax.jit(lambda variables: Discriminator().apply(variables, normalized, train=False))(variables)
    np.testing.assert_allclose(metrics["d_real"], real.mean(), rtol=1e-4, atol=1e-6)
    least = float(np.mean((np.asarray(real) - 1) ** 2))
    assert float(metrics["discriminator_loss"]) > least  # the rest is of generated images


def test_a_relativistic_loss_compares_generated_images_with_real_ones() -> None:
    seen = []

    def generator_loss(fake: jax.Array, real: jax.Array) -> jax.Array:
        seen.append(real.shape)
        return jax.nn.softplus(real - fake).mean()

    own = gan.AdversarialLoss(
        lambda real, fake: jax.nn.softplus(fake - real).mean(), generator_loss, threshold=None, relativistic=True
    )
    _, _, metrics = trained(gan.make(CONFIG, **OWN, loss=own))
    assert seen[-1] == (8,)
    assert 0 < float(metrics["generator_loss"]) < 5


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"generator": Discriminator()}, r"^generator returns shape \[batch\]; expected images \[batch, 4, 4, 1\]$"),
        ({"discriminator": Generator}, r"^discriminator is the class Generator; give a module: Generator\(\.\.\.\)$"),
        ({"discriminator": Generator()}, r"^discriminator returns .*; expected logits \[batch\]$"),
        ({"transformations": (optax.adam(1e-3),)}, r"^transformations are 1; give two"),
        (
            {"transformations": (None, 0.1)},
            r"^the discriminator's part of transformations is a float; expected",
        ),
        (
            {"loss": jnp.mean},
            r"^loss is a .*; expected gan.AdversarialLoss\(discriminator, generator\), two fun",
        ),
        (
            {"loss": gan.AdversarialLoss(lambda real, fake: real.mean(), lambda: 0)},
            r"^loss.generator fails.* with TypeError: .*; expected \(fake_logits\) -> \[\]",
        ),
        (
            {"loss": gan.AdversarialLoss(lambda real, fake: real - fake, jnp.mean)},
            r"^loss.discriminator returns shape \[2\]; expected \[\], the mean over the batch$",
        ),
    ],
)
def test_parts_of_another_form_are_refused_in_one_line(own: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        gan.make(CONFIG, **own)
    assert "\n" not in str(caught.value)


def test_an_example_batch_is_what_a_step_takes() -> None:
    config = dataclasses.replace(CONFIG, discriminator_steps=3)
    workload = gan.make(config)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    batch = gan.example_batch(config, 4)
    assert batch["image"].shape == (12, 4, 4, 1)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(workload.train_step, state, batch)[0], state)
