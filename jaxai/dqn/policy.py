"""Which action is taken: the best of those that are legal, or one of them at random."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxai.core import PyTree
from jaxai.dqn.batches import check_observations
from jaxai.dqn.config import Config, observation_shape
from jaxai.dqn.interface import connect
from jaxai.dqn.losses import legal_values
from jaxai.dqn.model import build, q_values
from jaxai.dqn.observations import make_encoding


def make_policy(config: Config, env: Any, env_params: Any = None) -> Callable[..., jax.Array]:
    """The greedy policy that evaluation takes.

    Returns:
      (params, observations [batch, ...], mask [batch, actions] bool or None) -> actions [batch] int32, the best of
      those that the mask says are legal, from 0 on.
    """
    interface = connect(env, env_params)
    spec, shape = interface.spec, observation_shape(config, interface.spec)
    encoding = make_encoding(config.observations, interface, config.frame_stack)
    network = build(config, shape, spec.num_actions, encoding)

    def policy(params: PyTree, observations: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        check_observations(observations, "observations", shape, spec)
        outputs = cast(jax.Array, network.apply({"params": params}, observations))
        return legal_values(q_values(config, outputs), mask).argmax(-1).astype(jnp.int32)

    return policy


def random_legal_action(uniform: jax.Array, mask: jax.Array) -> jax.Array:
    """One of the legal actions, each as likely: draws in [0, 1) [batch] and mask [batch, actions] -> [batch] int32."""
    legal = jnp.cumsum(mask, axis=1)
    return (legal > (uniform * legal[:, -1]).astype(jnp.int32)[:, None]).argmax(1).astype(jnp.int32)
