"""The loss of deep Q-learning on a batch: targets from the target network, and the error of each prediction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxai.core import Key
from jaxai.dqn import losses
from jaxai.dqn.config import Config
from jaxai.dqn.losses import legal_values
from jaxai.dqn.model import atoms, q_values

__all__ = ["Apply", "ErrorLoss", "Loss", "Networks", "bellman_loss"]

Apply = Callable[..., jax.Array]
"""(observations [batch, ...], key=None) -> values [batch, actions], or [batch, actions, atoms] with a distribution.
The key draws the noise of noisy layers; without it they use their mean weights."""
ErrorLoss = Callable[[jax.Array, float], jax.Array]
"""(TD errors [batch], `huber_delta`) -> losses [batch]."""


class Networks(NamedTuple):
    """The networks of an update, each a function (observations, key=None) -> outputs; see `Apply`.

    Attributes:
      online: has the parameters that are trained; the gradient flows through it.
      fixed: the same values without a gradient, as double Q-learning needs to select the next action.
      target: the target network, without a gradient.
    """

    online: Apply
    fixed: Apply
    target: Apply


Loss = Callable[[Networks, Any, Key], tuple[jax.Array, dict[str, jax.Array]]]
"""(networks, batch, key) -> losses [batch], and values to report: name -> array [batch].

The learner multiplies the losses by the batch's weights and takes their mean. It reports the mean of each array
except `error`, whose absolute value is the priority in prioritized replay (the loss, if there is no `error`)."""


def bellman_loss(
    config: Config, networks: Networks, batch: Any, key: Key, *, error_loss: ErrorLoss = losses.td_loss
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a configuration: (double) Q-learning or Munchausen, of values or of distributions.

    The default of `make` and `make_learner`. Another loss of the TD error, here the logarithm of its hyperbolic cosine:

        functools.partial(bellman_loss, config, error_loss=lambda error, delta: jnp.log(jnp.cosh(error)))

    Args:
      config: `double`, `munchausen*`, `distribution`, `huber_delta` and the atoms are used.
      networks: of the update.
      batch: as in `make_learner`.
      key: of the noise in noisy layers.
      error_loss: of TD errors, where values are learned; distributions have losses of their own.

    Returns:
      Losses [batch]; `error` [batch], the absolute TD error, or the loss if a distribution is learned; `q_mean`
      [batch], the value of each action taken.

    Raises:
      ValueError: `error_loss` is given, and a distribution is learned.
    """
    if error_loss is not losses.td_loss and config.distribution != "none":
        raise ValueError(f"error_loss is for distribution none, and distribution is {config.distribution}")
    keys = jax.random.split(key, 4) if config.noisy else [None] * 4
    next_outputs = networks.target(batch["next_observation"], keys[0])
    selector = q_values(config, next_outputs)
    if config.double:
        selector = q_values(config, networks.fixed(batch["next_observation"], keys[1]))
    selector = legal_values(selector, batch.get("next_action_mask"))
    reward = batch["reward"]
    if config.munchausen:
        temperature = config.munchausen_temperature
        policy, bonus = jax.vmap(losses.soft_policy, in_axes=(0, None))(selector, temperature)
        current = q_values(config, networks.target(batch["observation"], keys[2]))
        current = legal_values(current, batch.get("action_mask"))
        reward += jax.vmap(losses.munchausen_bonus, in_axes=(0, 0, None, None, None))(
            current, batch["action"], temperature, config.munchausen, config.munchausen_minimum
        )
    else:
        policy, bonus = jax.vmap(losses.greedy_policy)(selector), jnp.zeros(len(reward))
    taken = jax.vmap(losses.select_action)(networks.online(batch["observation"], keys[3]), batch["action"])
    discount = batch["discount"]
    if config.distribution == "categorical":
        project = jax.vmap(losses.categorical_target, in_axes=(None, 0, 0, 0, 0, 0))
        target = project(atoms(config), next_outputs, reward, discount, policy, bonus)
        each = error = jax.vmap(losses.categorical_loss)(taken, target)
    elif config.distribution == "quantile":
        target = jax.vmap(losses.quantile_target)(next_outputs, reward, discount, policy, bonus)
        each = error = jax.vmap(losses.quantile_loss, in_axes=(0, 0, None))(taken, target, config.huber_delta)
    else:
        target = jax.vmap(losses.value_target)(reward, discount, next_outputs, policy, bonus)
        error = target - taken
        each = error_loss(error, config.huber_delta)
    return each, {"error": jnp.abs(error), "q_mean": q_values(config, taken[:, None])[:, 0]}
