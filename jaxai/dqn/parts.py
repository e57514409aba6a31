"""The parts of a learner: those that a configuration describes, or a user's own, checked before anything compiles."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxai.core import Key, PyTree
from jaxai.dqn.config import Config, observation_shape
from jaxai.dqn.model import QNetwork, build
from jaxai.dqn.observations import make_encoding
from jaxai.dqn.spec import EnvironmentSpec
from jaxai.dqn.tracing import ExpectationError, trace

RETURNED = "(losses [batch], a dict of arrays [batch])"
"""What a loss returns."""


def make_network(config: Config, spec: EnvironmentSpec, network: Any = None) -> nn.Module:
    """The network of a configuration for an environment, or a user's own if it fits the environment.

    Args:
      config: the network's configuration; of one's own, `distribution`, `atoms`, `noisy` and `frame_stack` are read.
      spec: of the environment.
      network: as in `make_learner`.

    Raises:
      ValueError: in one line, where `network` is no linen module, fails, returns values of another shape or dtype, or
        has collections besides its parameters.
    """
    shape = observation_shape(config, spec)
    if network is None:
        encoding = make_encoding(config.observations, spec, config.frame_stack)
        return build(config, shape, spec.num_actions, encoding)
    name = type(network).__name__
    if not isinstance(network, nn.Module):
        given = f"the class {network.__name__}" if isinstance(network, type) else f"a {name}"
        raise ValueError(
            f"network is {given}; expected an instance of a flax.linen.Module (of flax.nnx: nnx.bridge.to_linen(...))"
        )
    observations = jax.ShapeDtypeStruct((2, *shape), spec.observation_dtype)
    signature = f"(observations {observations.dtype}{list(observations.shape)}) -> action values"
    key = jax.eval_shape(lambda: jax.random.key(0))
    values, variables = trace(
        f"network {name}",
        lambda key, observations: network.init_with_output({"params": key}, observations),
        key,
        observations,
        expected=signature,
    )
    expected = (2, spec.num_actions) if config.distribution == "none" else (2, spec.num_actions, config.atoms)
    floating = isinstance(values, jax.ShapeDtypeStruct) and jnp.issubdtype(values.dtype, jnp.floating)
    if not floating or values.shape != expected:
        returned = f"{values.dtype}{list(values.shape)}" if hasattr(values, "shape") else f"a {type(values).__name__}"
        axes = "batch, actions" if config.distribution == "none" else "batch, actions, atoms"
        raise ValueError(
            f"network {name} returns {returned} for {observations.dtype}{list(observations.shape)}; "
            f"expected float32{list(expected)}: [{axes}]"
        )
    if others := sorted(variables.keys() - {"params"}):
        raise ValueError(
            f"network {name} has a collection {others[0]!r}; deep Q-learning keeps parameters alone: use LayerNorm or "
            "GroupNorm instead of BatchNorm"
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


def check_transformation(transformation: Any) -> optax.GradientTransformation:
    """The transformation itself.

    Raises:
      ValueError: it is no optax transformation.
    """
    if not (
        isinstance(transformation, tuple) and hasattr(transformation, "init") and hasattr(transformation, "update")
    ):
        raise ValueError(
            f"transformation is a {type(transformation).__name__}; expected an optax.GradientTransformation, as"
            " optax.adam(1e-3)"
        )
    return cast(optax.GradientTransformation, transformation)


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
