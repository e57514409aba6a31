"""What a trained generator computes: images; pure functions of a state."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import averages, batch_statistics, inputs, networks
from jaxai.core import PyTree, State
from jaxai.gan.config import Config
from jaxai.gan.model import build

__all__ = ["make_predict", "make_recompute", "parameters", "variables"]


def own_or_built(
    config: Config, generator: nn.Module | None, discriminator: nn.Module | None, axis_name: str | None = None
) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator): those that the caller gives, checked, or else those of the config.

    Args:
      config: as in `make`.
      generator, discriminator: linen modules, as in `make`; None: that of the config.
      axis_name: as in `make`.

    Raises:
      ValueError: a network is not such a module, or a field of the config is out of its range.
    """
    built: tuple[nn.Module | None, nn.Module | None] = (None, None)
    if generator is None or discriminator is None:
        built = build(config, config.image_shape, config.num_classes, axis_name)
    given = (("generator", generator, "latents"), ("discriminator", discriminator, "images"))
    first, second = (
        cast(nn.Module, default) if own is None else networks.require(own, name, _call(config, called))
        for (name, own, called), default in zip(given, built, strict=True)
    )
    return first, second


def make_predict(
    config: Config, *, generator: nn.Module | None = None
) -> Callable[[State, jax.Array | Mapping[str, jax.Array]], jax.Array]:
    """Images of latents, as evaluation computes them.

    Args:
      config: as in `make`.
      generator: as in `make`; None: that of the config.

    Returns:
      (state, inputs) -> images [batch, height, width, channels] float32 in [-1, 1]; `as_uint8` converts them to pixels.
      Inputs are latents, standard normal floats [batch, latent_size], or `{"latent": latents, "label": [batch] int32}`,
      where a conditional model requires labels and others ignore them. Weights and batch statistics are the averaged
      ones where `ema_decay` is set; the statistics of the batch are not used, so that an image depends only on its own
      latent. Latents and labels of another shape or dtype raise a ValueError of one line.
    """
    network: nn.Module
    if generator is None:
        network, _ = build(config, config.image_shape, config.num_classes)
    else:
        network = networks.require(generator, "generator", _call(config, "latents"))

    def predict(state: State, inputs: jax.Array | Mapping[str, jax.Array]) -> jax.Array:
        arguments = _latents_and_labels(config, inputs)
        return cast(jax.Array, network.apply(variables(state), *arguments, train=False)).astype(jnp.float32)

    return predict


def make_recompute(config: Config) -> Callable[..., State]:
    """The generator's batch statistics recomputed from given latents, in place of the averages from training.

    These are the standing statistics of Brock et al. 2019 (arXiv:1809.11096, section 4.1), with the weights that
    `make_predict` uses. A few thousand latents are enough, in batches of the size used in training, with the label
    frequencies of the data.

    Args:
      config: as in `make`, whose generator the state is of.

    Returns:
      (state, latents [batches, batch, latent_size], labels [batches, batch] or None) -> the state with these
      statistics.
    """
    generator, _ = build(config, config.image_shape, config.num_classes)

    def recompute(state: State, latents: jax.Array, labels: jax.Array | None = None) -> State:
        given = {"latent": latents[0]} | ({} if labels is None else {"label": labels[0]})
        _latents_and_labels(config, given)  # raises what does not fit
        arguments = (latents, labels) if config.conditional else (latents,)
        found = {"batch_stats": batch_statistics.recompute(generator, variables(state), arguments)}
        if averages.EMA in state.extra:
            return state.replace(extra=state.extra | {averages.EMA: state.extra[averages.EMA] | found})
        players = state.extra["variables"]
        return state.replace(extra={"variables": players._replace(generator=players.generator | found)})

    return recompute


def variables(state: State) -> dict[str, PyTree]:
    """The collections that evaluation applies the generator with; see `averages.evaluated`."""
    return averages.evaluated(
        state.params.generator,
        state.extra["variables"].generator,
        state.extra.get(averages.EMA),
        state.opt_state.generator if state.opt_state is not None else None,
    )


def parameters(state: State) -> PyTree:
    """The generator's parameters that evaluation uses: averaged where there is an average."""
    return variables(state)["params"]


def _call(config: Config, first: str) -> str:
    """How a network is called, for messages."""
    return f"{first}, labels, *, train" if config.conditional else f"{first}, *, train"


def _latents_and_labels(config: Config, given: Any) -> tuple[jax.Array, ...]:
    """Latents and labels as arrays of the shapes and dtypes that the generator needs."""
    if not isinstance(given, Mapping):
        given = {"latent": given}
    elif "latent" not in given:
        raise ValueError(f'the inputs have no "latent", only {", ".join(map(repr, given)) or "nothing"}; add it')
    latents = inputs.array("latents", given["latent"])
    if latents.ndim != 2 or latents.shape[1] != config.latent_size:
        raise ValueError(f"latents have shape {list(latents.shape)}; expected [batch, {config.latent_size}]")
    inputs.check_floats("latents", latents, "standard normal floats: jax.random.normal")
    if not config.conditional:
        return (latents,)
    labels = given.get("label")
    if labels is None:
        raise ValueError('a conditional model was given no labels; expected {"latent": ..., "label": integers [batch]}')
    labels = inputs.array("labels", labels)
    inputs.check_labels(labels, latents.shape[0])
    return latents, labels
