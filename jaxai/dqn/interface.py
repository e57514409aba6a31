"""An environment in one uniform form: float32 rewards, bool ends, actions from 0, legal actions."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxai.core import Key, PyTree
from jaxai.dqn.environment import name_of
from jaxai.dqn.spec import EnvironmentSpec, make_environment_spec

__all__ = ["Interface", "Start", "Transition", "connect"]


class Start(NamedTuple):
    """The beginning of an episode.

    Attributes:
      observation: [*shape].
      state: of the environment.
      mask: [actions] bool, the legal actions; None where the environment does not give them.
    """

    observation: jax.Array
    state: PyTree
    mask: jax.Array | None


class Transition(NamedTuple):
    """The result of an action.

    Attributes:
      observation: [*shape] to act on next: of the next episode where this one ended.
      state: to continue from.
      reward: [] float32.
      terminated: [] bool, the environment ended the episode.
      truncated: [] bool, a limit did.
      final_observation: [*shape], the true successor.
      mask: [actions] bool, the legal actions in `state`; None where the environment does not give them.
      final_mask: [actions] bool, those after `final_observation`.
    """

    observation: jax.Array
    state: PyTree
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_observation: jax.Array
    mask: jax.Array | None
    final_mask: jax.Array | None


@dataclass(frozen=True)
class Interface:
    """An environment whose rewards are float32, ends bool, and actions numbered from 0, with its legal actions.

    Attributes:
      env: any object with the interface of gymnax 1.0; see `jaxai.dqn.environment`.
      env_params: its parameters.
      spec: its shapes.
      name: for messages.
    """

    env: Any
    env_params: PyTree
    spec: EnvironmentSpec
    name: str

    def reset(self, key: Key, env_params: PyTree) -> Start:
        """Begins an episode."""
        observation, state, *more = self.env.reset(key, env_params)
        if not self.spec.masked:
            return Start(observation, state, None)
        mask = _mask_of_state(self.env, state, env_params)
        if mask is None:
            mask = more[0]["action_mask"] if more else jnp.ones(self.spec.num_actions, bool)
        return Start(observation, state, _some_legal(mask))

    def step(self, key: Key, state: PyTree, action: jax.Array, env_params: PyTree) -> Transition:
        """Takes action 0 to num_actions - 1.

        Args:
          key: of this step.
          state: of the environment.
          action: [] int32, 0 to num_actions - 1.
          env_params: of the environment.
        """
        if self.spec.first_action:
            action = action + self.spec.first_action
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action, env_params)
        terminated, truncated = _as_bool(terminated), _as_bool(truncated)
        mask = final_mask = None
        if self.spec.masked:
            # Of the true successor; where the environment gives both, `action_mask` belongs to `observation`.
            final_mask = jnp.asarray(info.get("final_action_mask", info["action_mask"]))
            mask = _mask_of_state(self.env, state, env_params)
            if mask is None:
                mask = jnp.asarray(info["action_mask"])
                if "final_action_mask" not in info and hasattr(self.env, "step_env"):
                    # gymnax's own `step` begins the next episode after `step_env` has made `info`.
                    mask = (mask != 0) | terminated | truncated
            mask, final_mask = _some_legal(mask), _some_legal(final_mask)
        return Transition(
            observation,
            state,
            jnp.asarray(reward).astype(jnp.float32),
            terminated,
            truncated,
            info["final_observation"],
            mask,
            final_mask,
        )


def connect(env: Any, env_params: PyTree = None) -> Interface:
    """An environment in its uniform form.

    Args:
      env: any object with the interface of gymnax 1.0; see `jaxai.dqn.environment`.
      env_params: its parameters; None: its `default_params`, if it has any.

    Raises:
      ValueError: as `make_environment_spec`.
    """
    if env_params is None:
        env_params = getattr(env, "default_params", None)
    return Interface(env, env_params, make_environment_spec(env, env_params), name_of(env))


def _mask_of_state(env: Any, state: PyTree, env_params: PyTree) -> jax.Array | None:
    """The legal actions by the environment's own method `action_mask(state, params)`, if it has one."""
    method = getattr(env, "action_mask", None)
    return jnp.asarray(method(state, env_params)) if callable(method) else None


def _some_legal(mask: Any) -> jax.Array:
    """[actions] bool; where nothing is legal, as after the end of a game, all actions are."""
    legal = jnp.asarray(mask) != 0
    return legal | ~legal.any()


def _as_bool(flag: Any) -> jax.Array:
    flag = jnp.asarray(flag)
    return flag if flag.dtype == jnp.bool_ else flag != 0
