"""One episode under a policy, step by step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxai.core import Key, PyTree
from jaxai.dqn import frames
from jaxai.dqn.interface import connect

__all__ = ["Episode", "Policy", "run_episode"]

Policy = Callable[..., jax.Array]


class Episode(NamedTuple):
    """The steps of an episode.

    Attributes:
      observations: [steps + 1, *shape], from the first to the one after the last step.
      actions: [steps] int32.
      rewards: [steps] float32.
      terminated: whether the environment ended it.
      truncated: whether a limit of steps ended it.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool

    @property
    def undiscounted_return(self) -> float:
        """Sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))


def run_episode(
    policy: Policy, env: Any, env_params: PyTree, key: Key, max_steps: int, frame_stack: int = 1
) -> Episode:
    """One episode under a policy, compiled as one loop.

    Args:
      policy: (observation [*shape], key) -> action [] int32, counted from 0; where the environment gives the legal
        actions, (observation, key, mask [actions] bool) -> action.
      env: any object with the interface of gymnax 1.0; see `jaxai.dqn.environment`.
      env_params: its parameters.
      key: of everything random in the episode.
      max_steps: number of steps after which the episode is cut off.
      frame_stack: number of last observations that the policy gets together; see `jaxai.dqn.frames`.

    Raises:
      ValueError: max_steps is below 1, or the environment lacks something; see `make_environment_spec`.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; an episode has at least 1 step")
    interface = connect(env, env_params)
    env_params = interface.env_params

    @jax.jit
    def run(key: Key) -> tuple[Any, ...]:
        reset_key, loop_key = jax.random.split(key)
        first, state, mask = interface.reset(reset_key, env_params)
        first = jnp.asarray(first)
        carry = (
            jnp.int32(0),
            state,
            mask,
            frames.first(first[None], frame_stack)[0],
            jnp.zeros((max_steps + 1, *first.shape), first.dtype).at[0].set(first),
            jnp.zeros(max_steps, jnp.int32),
            jnp.zeros(max_steps, jnp.float32),
            jnp.bool_(False),
            jnp.bool_(False),
        )

        def goes_on(carry: tuple[Any, ...]) -> jax.Array:
            return (carry[0] < max_steps) & ~carry[-2] & ~carry[-1]

        def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            time, state, mask, observation, observations, actions, rewards, _, _ = carry
            act_key, step_key = jax.random.split(jax.random.fold_in(loop_key, time))
            seen = (observation, act_key, *([] if mask is None else [mask]))
            action = jnp.asarray(policy(*seen), jnp.int32)
            step = interface.step(step_key, state, action, env_params)
            # The observation that step returns may belong to the next episode already.
            following = step.final_observation
            return (
                time + 1,
                step.state,
                step.mask,
                frames.following(observation[None], following[None], jnp.zeros(1, bool), frame_stack)[0],
                observations.at[time + 1].set(following),
                actions.at[time].set(action),
                rewards.at[time].set(step.reward),
                step.terminated,
                step.truncated,
            )

        return lax.while_loop(goes_on, advance, carry)

    time, _, _, _, observations, actions, rewards, terminated, truncated = run(key)
    steps = int(time)
    return Episode(
        np.asarray(observations)[: steps + 1],
        np.asarray(actions)[:steps],
        np.asarray(rewards)[:steps],
        bool(terminated),
        bool(truncated),
    )
