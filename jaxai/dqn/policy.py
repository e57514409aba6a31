"""The predictions of a trained network, and the choice of the action: the best legal one, or a random one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import averages
from jaxai.core import Key, PyTree, State
from jaxai.dqn import parts
from jaxai.dqn.batches import check_observations
from jaxai.dqn.config import Config, observation_shape
from jaxai.dqn.losses import legal_values
from jaxai.dqn.model import q_values
from jaxai.dqn.spec import EnvironmentSpec, make_environment_spec

__all__ = ["epsilon_greedy", "make_greedy", "make_policy", "make_predict", "parameters", "random_legal_action"]


def parameters(state: State) -> PyTree:
    """The parameters that evaluation uses: `state.params`, or the averages that a schedule-free optimizer keeps."""
    return averages.parameters(state)


def make_predict(
    config: Config, env: Any, env_params: Any = None, *, network: nn.Module | None = None
) -> Callable[[State, jax.Array], jax.Array]:
    """The action values of a state's network, as `Workload.predict` and evaluation compute them.

    Args:
      config: of the workload.
      env: the environment, or its `EnvironmentSpec`.
      env_params: parameters of the environment; None: its defaults.
      network: the same as in `make`.

    Returns:
      (state, observations [batch, ...], in the shape and dtype of the environment, frames stacked) -> float32 [batch,
      actions]: the expected return of each action. Noisy layers compute with their mean weights.

    Raises:
      ValueError: what `make` raises; and while tracing, where observations have another shape or kind.
    """
    spec = env if isinstance(env, EnvironmentSpec) else make_environment_spec(env, env_params)
    shape, apply = observation_shape(config, spec), parts.apply(parts.make_network(config, spec, network))

    def predict(state: State, observations: jax.Array) -> jax.Array:
        check_observations(observations, "observations", shape, spec)
        return q_values(config, apply(parameters(state), observations))

    return predict


def make_policy(
    config: Config, env: Any, env_params: Any = None, *, network: nn.Module | None = None
) -> Callable[..., jax.Array]:
    """The greedy policy, as evaluation applies it.

    Args:
      config: of the workload.
      env: the environment, or its `EnvironmentSpec`.
      env_params: parameters of the environment; None: its defaults.
      network: the same as in `make`.

    Returns:
      (state, observations [batch, ...], mask [batch, actions] bool or None) -> actions [batch] int32, counted from 0:
      the best of those that the mask marks as legal.

    Raises:
      ValueError: what `make_predict` raises.
    """
    predict = make_predict(config, env, env_params, network=network)

    def policy(state: State, observations: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return legal_values(predict(state, observations), mask).argmax(-1).astype(jnp.int32)

    return policy


def make_greedy(config: Config, network: nn.Module) -> Callable[..., jax.Array]:
    """The best legal actions of a network, with the noise of its noisy layers.

    Args:
      config: of the workload.
      network: from `parts.make_network`.

    Returns:
      (params, observations [batch, ...], mask [batch, actions] bool or None, key=None) -> actions [batch]. Without a
      key noisy layers compute with their mean weights.
    """
    apply = parts.apply(network)

    def greedy(params: PyTree, observation: jax.Array, mask: jax.Array | None, key: Key | None = None) -> jax.Array:
        outputs = apply(params, observation, key if config.noisy else None)
        return legal_values(q_values(config, outputs), mask).argmax(-1)

    return greedy


def random_legal_action(uniform: jax.Array, mask: jax.Array) -> jax.Array:
    """A legal action, all with the same probability.

    Args:
      uniform: [batch] draws in [0, 1).
      mask: [batch, actions] bool, True where an action is legal.

    Returns:
      [batch] int32.
    """
    legal = jnp.cumsum(mask, axis=1)
    return (legal > (uniform * legal[:, -1]).astype(jnp.int32)[:, None]).argmax(1).astype(jnp.int32)


def epsilon_greedy(
    best: jax.Array, epsilon: jax.Array, uniform: jax.Array, num_actions: int, mask: jax.Array | None
) -> jax.Array:
    """The best actions, each replaced by a random legal one with probability epsilon.

    Args:
      best: [batch] integers.
      epsilon: [] in [0, 1].
      uniform: [2, batch] draws in [0, 1): whether to explore, and which action.
      num_actions: of the environment.
      mask: [batch, actions] bool, the legal actions; None: all.

    Returns:
      [batch], the dtype of `best`.
    """
    chance, choice = uniform
    if mask is None:
        at_random = (choice * num_actions).astype(best.dtype)
    else:
        at_random = random_legal_action(choice, mask).astype(best.dtype)
    return jnp.where(chance < epsilon, at_random, best)
