"""Images are drawn with averaged weights and statistics that belong to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import gan

CONFIG = gan.Config(width=2, latent_size=4, image_shape=(8, 8, 1), num_classes=3, ema_decay=0.9)


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.0}, {"conditional": True}, {"self_modulation": 4, "spectral_normalization": "both"}],
    ids=["averaged", "plain", "conditional", "modulated"],
)
def test_recomputed_statistics_are_those_of_all_the_latents_under_the_averaged_weights(changes):
    config = gan.Config(**{**CONFIG.__dict__, **changes})
    state = jax.jit(gan.make(config).init)(jax.random.key(1))
    if config.ema_decay:  # an average that is not the weights
        moved = jax.tree.map(lambda leaf: 1.5 * leaf, state.extra["ema"]["params"])
        state = state.replace(extra=state.extra | {"ema": state.extra["ema"] | {"params": moved}})
    random = np.random.default_rng(0)
    latents = random.normal(size=(3, 6, 4)).astype(np.float32)
    labels = random.integers(0, 3, (3, 6)).astype(np.int32) if config.conditional else None
    after = jax.jit(gan.make_recompute(config))(state, latents, labels)
    variables = jax.device_get(after.extra["ema"] if config.ema_decay else after.extra["variables"].generator)
    params = variables["params"] if config.ema_decay else jax.device_get(after.params.generator)
    inputs, kernel = latents.reshape(18, 4), params["Dense_0"]["kernel"]
    if labels is not None:
        inputs = np.concatenate([inputs, params["Embed_0"]["embedding"][labels.reshape(-1)]], axis=1)
    if "spectral_normalization" in changes:
        kernel = kernel / np.asarray(np.linalg.norm(kernel, 2))
    hidden = (inputs @ kernel).reshape(-1, 2, 2, 8)
    (statistics,) = variables["batch_stats"]["BatchNorm_0"].values()
    rtol = 0.2 if "spectral_normalization" in changes else 1e-4  # one power iteration is about the singular value
    np.testing.assert_allclose(statistics["mean"], hidden.mean((0, 1, 2)), rtol=rtol, atol=1e-3)
    np.testing.assert_allclose(statistics["var"], hidden.var((0, 1, 2)), rtol=2 * rtol)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    drawn_from = {"latent": latents[0]} | ({} if labels is None else {"label": labels[0]})
    predict = jax.jit(gan.make_predict(config))
    drawn, before = predict(after, drawn_from), predict(state, drawn_from)
    assert float(jnp.abs(drawn - before).max()) > 1e-3
