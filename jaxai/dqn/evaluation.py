"""Greedy episodes in separate environments, all at once on the device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxai.core import Batch, Metrics, State, device_key, psum
from jaxai.dqn import frames
from jaxai.dqn.config import Config
from jaxai.dqn.interface import Interface
from jaxai.dqn.policy import parameters

__all__ = ["longest_episode", "make_eval_step"]

EVALUATION_STREAM = 0xE7A1
"""Folded into the key of an evaluation, so that it shares no random number with training."""
LONGEST = 27_000
"""Steps of an evaluation episode where neither the configuration nor the environment has a limit: 30 minutes of an
Atari game at 15 actions per second (Machado et al. 2018)."""


def longest_episode(config: Config, max_steps: int) -> int:
    """Largest number of steps of an evaluation episode.

    Args:
      config: `evaluation_steps` comes first.
      max_steps: of the environment; 0: unknown.
    """
    return config.evaluation_steps or max_steps or LONGEST


def make_eval_step(
    config: Config, interface: Interface, greedy: Callable[..., jax.Array], axis_name: str | None = None
) -> Callable[[State, Batch], Metrics]:
    """(state, batch) -> sums over `evaluation_episodes` greedy episodes; the batch has no effect.

    Args:
      config: of the workload.
      interface: of the environment.
      greedy: as in `Learner`.
      axis_name: mapped axis over devices, each with its share of the episodes; None for one device.

    Returns:
      A function whose sums are `return`, `length`, `unfinished` (episodes cut off at the largest number of steps) and
      `count`.
    """
    env_params = interface.env_params
    reset = jax.vmap(interface.reset, in_axes=(0, None))
    step_all = jax.vmap(interface.step, in_axes=(0, 0, 0, None))
    longest = longest_episode(config, interface.spec.max_steps)

    def eval_step(state: State, batch: Batch) -> Metrics:
        del batch  # the environments generate the data
        key = device_key(jax.random.fold_in(jax.random.fold_in(state.key, EVALUATION_STREAM), state.step), axis_name)
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        episodes = -(-config.evaluation_episodes // devices)
        reset_key, step_key = jax.random.split(key)
        start, params = reset(jax.random.split(reset_key, episodes), env_params), parameters(state)

        def unfinished(carry: Any) -> jax.Array:
            time, _, _, _, done, _, _ = carry
            return (time < longest) & ~done.all()

        def advance(carry: Any) -> Any:
            time, environment, observation, mask, done, returns, lengths = carry
            action = greedy(params, observation, mask)
            keys = jax.random.split(jax.random.fold_in(step_key, time), episodes)
            following = step_all(keys, environment, action, env_params)
            ended = following.terminated | following.truncated
            # An environment continues after its first episode; later episodes do not count.
            returns, lengths = returns + jnp.where(done, 0.0, following.reward), lengths + ~done
            observation = frames.following(observation, following.observation, ended, config.frame_stack)
            return time + 1, following.state, observation, following.mask, done | ended, returns, lengths

        first = frames.first(start.observation, config.frame_stack)
        carry = (jnp.int32(0), start.state, first, start.mask, jnp.zeros(episodes, bool), *jnp.zeros((2, episodes)))
        *_, done, returns, lengths = lax.while_loop(unfinished, advance, carry)
        sums = {"return": returns.sum(), "length": lengths.sum(), "unfinished": (~done).sum(dtype=jnp.float32)}
        sums["count"] = jnp.float32(episodes)
        return psum(sums, axis_name)

    return eval_step
