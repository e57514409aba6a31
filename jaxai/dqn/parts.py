"""The parts of a learner: built from a configuration or given by a user, and checked before anything compiles."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import networks
from jaxai.core import Key, PyTree
from jaxai.dqn.config import Config, observation_shape
from jaxai.dqn.model import QNetwork, build
from jaxai.dqn.observations import make_encoding
from jaxai.dqn.spec import EnvironmentSpec
from jaxai.tracing import ExpectationError, trace

__all__ = ["apply", "checked_loss", "for_updates", "make_network", "name_of_loss"]

RETURNED = "(losses [batch], a dict of arrays [batch])"
"""What a loss returns."""


def make_network(config: Config, spec: EnvironmentSpec, network: Any = None) -> nn.Module:
    """The network of a configuration for an environment, or a user's own if it fits the environment.

    Args:
      config: the network's configuration; with `network`, `distribution`, `atoms`, `noisy` and `frame_stack` are used.
      spec: of the environment.
      network: as in `make_learner`.

    Raises:
      ValueError: in one line, where `network` is no linen module, fails, returns values of another shape or dtype, or
        has other collections than its parameters.
    """
    shape = observation_shape(config, spec)
    if network is None:
        encoding = make_encoding(config.observations, spec, config.frame_stack)
        return build(config, shape, spec.num_actions, encoding)
    networks.require(network, "network", "observations")
    observations = jax.ShapeDtypeStruct((1, *shape), spec.observation_dtype)
    values, variables = trace(
        f"network {type(network).__name__}",
        lambda key, observations: network.init_with_output({"params": key}, observations),
        jax.eval_shape(lambda: jax.random.key(0)),
        observations,
        expected=f"(observations {observations.dtype}[{', '.join(map(str, ('batch', *shape)))}]) -> action values",
    )
    expected = (spec.num_actions,) if config.distribution == "none" else (spec.num_actions, config.atoms)
    axes = "actions" if config.distribution == "none" else "actions, atoms"
    described = f"action values [batch, {', '.join(map(str, expected))}]: [batch, {axes}]"
    networks.check_output(values, (1, *expected), "network", described)
    if others := sorted(variables.keys() - {"params"}):
        raise ValueError(
            f"network {type(network).__name__} has a collection {others[0]!r}; deep Q-learning keeps parameters"
            " alone: use LayerNorm or GroupNorm instead of BatchNorm"
        )
    return network


def for_updates(network: nn.Module) -> nn.Module:
    """The network in an update: its noise is one draw for the batch (Fortunato et al. 2018, section 3.1)."""
    return network.clone(shared_noise=True) if isinstance(network, QNetwork) else network


def apply(network: nn.Module) -> Callable[..., jax.Array]:
    """(params, observations, key=None) -> outputs of the network; the key draws the noise of noisy layers."""

    def outputs(params: PyTree, observations: jax.Array, key: Key | None = None) -> jax.Array:
        rngs = None if key is None else {"noise": key}
        return cast(jax.Array, network.apply({"params": params}, observations, rngs=rngs))

    return outputs


def checked_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A user's loss that checks what it returns while it is traced.

    Raises:
      ValueError: it does not return losses [batch] and a dict of arrays [batch]; in one line.
    """
    name = name_of_loss(loss)

    def checked(networks: Any, batch: Any, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        returned, count = loss(networks, batch, key), batch["reward"].shape
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)):
            what = f"{len(returned)} values" if isinstance(returned, tuple) else f"a {type(returned).__name__}"
            raise ExpectationError(f"loss {name} returns {what}; expected {RETURNED}")
        each, reported = returned
        for what, value in {"losses": each, **reported}.items():
            if jnp.shape(value) != count:
                raise ExpectationError(
                    f"loss {name} returns {what} of shape {jnp.shape(value)}; expected {count}, one for each transition"
                )
        return each, dict(reported)

    return checked


def name_of_loss(loss: Any) -> str:
    """The name of a function, or of the function in a `functools.partial`."""
    return str(getattr(getattr(loss, "func", loss), "__name__", type(loss).__name__))
