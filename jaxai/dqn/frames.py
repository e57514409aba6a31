"""The last frames of an episode together, as the network observes them (Mnih et al. 2015)."""

import jax
import jax.numpy as jnp

__all__ = ["first", "following", "stack"]


def stack(frames: jax.Array, valid: jax.Array) -> jax.Array:
    """Frames of one episode side by side along the last axis.

    Args:
      frames: [batch, frame_stack, *observation_shape], the oldest first.
      valid: [batch, frame_stack] bool; frames of an earlier episode are not valid and become zeros, as in Dopamine.

    Returns:
      [batch, ...]: the last axis is `frame_stack` times that of a frame; a frame of no or two axes gets one more.
      A single frame stays as it is.
    """
    if frames.shape[1] == 1:
        return frames[:, 0]
    if frames.ndim - 2 in (0, 2):
        frames = frames[..., None]
    frames = jnp.where(valid.reshape(*valid.shape, *[1] * (frames.ndim - 2)), frames, jnp.zeros((), frames.dtype))
    frames = jnp.moveaxis(frames, 1, -2)
    return frames.reshape(*frames.shape[:-2], -1)


def first(frame: jax.Array, frame_stack: int) -> jax.Array:
    """The observation [batch, ...] at the beginning of an episode: no frame came before `frame` [batch, *shape]."""
    newest = jnp.arange(frame_stack) == jnp.full((len(frame), 1), frame_stack - 1)
    return stack(jnp.repeat(frame[:, None], frame_stack, 1), newest)


def following(observation: jax.Array, frame: jax.Array, ended: jax.Array, frame_stack: int) -> jax.Array:
    """The next observation.

    Args:
      observation: [batch, ...] before the step.
      frame: [batch, *shape] after it; of the next episode where one ended.
      ended: [batch] bool, whether the step ended an episode.
      frame_stack: number of frames in an observation.
    """
    if frame_stack == 1:
        return frame
    new = first(frame, frame_stack)
    channels = new.shape[-1] // frame_stack
    old = jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), jnp.zeros((), new.dtype), observation)
    return jnp.concatenate([old[..., channels:], new[..., -channels:]], -1)
