"""What a trained generator draws: pure functions of a state."""

from collections.abc import Callable
from typing import cast

import jax

from jaxai import averages, batch_statistics, inputs
from jaxai.core import PyTree, State
from jaxai.gan.model import build
from jaxai.gan.step import Config


def make_generate(config: Config) -> Callable[..., jax.Array]:
    """(state, latents [batch, latent_size], labels [batch] int32 or None) -> images [batch, height, width, channels].

    Images are float32 in [-1, 1], of the averaged generator where `ema_decay` is set. Batch statistics are the
    running ones, averaged along with the weights, so that an image depends on its own latent alone. Latents and labels
    of another shape or dtype raise ValueError; an unconditional model looks at no labels.
    """
    generator, _ = build(config, config.image_shape, config.num_classes)

    def generate(state: State, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        latents, labels = _drawn_from(config, latents, labels)
        return cast(jax.Array, generator.apply(_generator_variables(state), latents, labels, train=False))

    return generate


def make_recompute(config: Config) -> Callable[..., State]:
    """(state, latents [batches, batch, latent_size], labels [batches, batch] or None) -> the state, its statistics new.

    They are the generator's batch statistics, of the weights that `make_generate` uses, over images of these latents
    (the standing statistics of Brock et al. 2019, arXiv:1809.11096, section 4.1). A few thousand latents are enough,
    in batches as large as in training, labels as frequent as in the data.
    """
    generator, _ = build(config, config.image_shape, config.num_classes)

    def recompute(state: State, latents: jax.Array, labels: jax.Array | None = None) -> State:
        _drawn_from(config, latents[0], None if labels is None else labels[0])  # raises what does not fit
        variables = _generator_variables(state)
        arguments = (latents, labels if config.conditional else None)
        found = {"batch_stats": batch_statistics.recompute(generator, variables, arguments)}
        if averages.EMA in state.extra:
            return state.replace(extra=state.extra | {averages.EMA: state.extra[averages.EMA] | found})
        players = state.extra["variables"]
        return state.replace(extra={"variables": players._replace(generator=players.generator | found)})

    return recompute


def _generator_variables(state: State) -> PyTree:
    """What the generator is applied with: the averages where there are any, else the last."""
    return averages.evaluated(
        state.params.generator,
        state.extra["variables"].generator,
        state.extra.get(averages.EMA),
        state.opt_state.generator,
    )


def _drawn_from(config: Config, latents: jax.Array, labels: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Latents and labels as arrays of the shapes and dtypes that the generator needs."""
    latents = inputs.array("latents", latents)
    if latents.ndim != 2 or latents.shape[1] != config.latent_size:
        raise ValueError(f"latents have shape {list(latents.shape)}; expected [batch, {config.latent_size}]")
    inputs.check_floats("latents", latents, "standard normal floats: jax.random.normal")
    return latents, inputs.array("labels", labels) if config.conditional and labels is not None else None
