"""Shapes and dtypes of a learner's batch, checked while tracing."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxai.core import Batch
from jaxai.dqn.config import Config, observation_shape
from jaxai.dqn.spec import EnvironmentSpec

__all__ = ["check_batch", "check_observations", "example_batch"]

NEEDED = ("observation", "action", "reward", "discount", "next_observation")
OPTIONAL = ("weight", "mask", "action_mask", "next_action_mask")


def check_batch(batch: Batch, shape: tuple[int, ...], spec: EnvironmentSpec) -> dict[str, jax.Array]:
    """The batch, its rewards, discounts and weights in float32.

    Args:
      batch: of `train_step`.
      shape: of an observation of the network.
      spec: of the environment.

    Raises:
      ValueError: in one line, for an entry that is missing, or of another shape or kind.
    """
    if batch is None:
        raise ValueError(f"the batch is None; a learner without environments needs {', '.join(NEEDED)}")
    if missing := [name for name in NEEDED if name not in batch]:
        raise ValueError(f"the batch has no {missing[0]!r}; it needs {', '.join(NEEDED)}")
    for name in ("observation", "next_observation"):
        check_observations(batch[name], name, shape, spec)
    count = batch["observation"].shape[0]
    for name in ("action", "reward", "discount", "next_observation", *OPTIONAL):
        if name not in batch:
            continue
        value = batch[name]
        expected = (count, spec.num_actions) if name.endswith("action_mask") else (count,)
        given = value.shape[:1] if name == "next_observation" else value.shape
        if given != expected:
            raise ValueError(
                f"{name} has shape {value.shape}; expected {expected}: one for each of {count} observations"
            )
    if not jnp.issubdtype(batch["action"].dtype, jnp.integer):
        raise ValueError(f"action is {batch['action'].dtype}; expected int32, from 0 to {spec.num_actions - 1}")
    for name in ("action_mask", "next_action_mask"):
        if name in batch and batch[name].dtype != jnp.bool_:
            raise ValueError(f"{name} is {batch[name].dtype}; expected bool, True where an action is legal")
    numbers = {name: batch[name] for name in ("reward", "discount", "weight", "mask") if name in batch}
    # A narrow integer would wrap in the sum of a target.
    return {**batch, **{name: value.astype(jnp.float32) for name, value in numbers.items()}}


def check_observations(observations: jax.Array, name: str, shape: tuple[int, ...], spec: EnvironmentSpec) -> None:
    """Refuses observations of another shape or kind than the environment returns.

    Args:
      observations: expected [batch, *shape].
      name: of the entry, for the message.
      shape: of one observation of the network.
      spec: of the environment; its dtype is expected, with any number of bits.

    Raises:
      ValueError: another shape, or bool, integers or floats where another of them is expected.
    """
    if observations.ndim != len(shape) + 1 or observations.shape[1:] != shape:
        raise ValueError(f"{name} has shape {observations.shape}; expected (batch, {', '.join(map(str, shape))})")
    # Integers of another width are the same values; integers for floats come from another environment.
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    if not any(
        jnp.issubdtype(observations.dtype, kind) and jnp.issubdtype(spec.observation_dtype, kind) for kind in kinds
    ):
        raise ValueError(
            f"{name} is {observations.dtype}; expected {spec.observation_dtype}, as the environment returns"
        )


def example_batch(config: Config, spec: EnvironmentSpec, batch_size: int | None = None) -> dict[str, Any]:
    """Shapes and dtypes of a batch that a learner takes, for lowering and for counting operations.

    Args:
      config: `frame_stack` and `batch_size` are read.
      spec: of the environment.
      batch_size: number of transitions; None: the config's.
    """
    count = config.batch_size if batch_size is None else batch_size
    observation = jax.ShapeDtypeStruct((count, *observation_shape(config, spec)), spec.observation_dtype)
    numbers = {name: jax.ShapeDtypeStruct((count,), jnp.float32) for name in ("reward", "discount", "weight", "mask")}
    masks = ("action_mask", "next_action_mask") if spec.masked else ()
    return {
        "observation": observation,
        "action": jax.ShapeDtypeStruct((count,), jnp.int32),
        "next_observation": observation,
        **numbers,
        **{name: jax.ShapeDtypeStruct((count, spec.num_actions), jnp.bool_) for name in masks},
    }
