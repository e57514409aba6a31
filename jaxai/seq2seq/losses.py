"""The loss of each target token; the step takes the mean over real tokens.

>>> import jax.numpy as jnp
>>> [round(loss, 3) for loss in cross_entropy(jnp.zeros((1, 3, 4)), jnp.array([[2, 3, 0]]))[0].tolist()]
[1.386, 1.386, 1.386]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxai.tracing import trace

__all__ = ["Loss", "check_logits", "check_loss", "cross_entropy", "trace_loss"]

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits [batch, T, vocabulary] float32, targets [batch, T] integers) -> the loss of each token, [batch, T].

Tokens beyond a target's length are PAD: their loss must be finite, and is multiplied by 0."""


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """The cross-entropy of each token, in nats.

    Args:
      logits: [batch, T, vocabulary] float32.
      targets: [batch, T] integers, 0 to vocabulary - 1.
      label_smoothing: share of the probability that is spread evenly over the vocabulary (Szegedy et al. 2016,
        arXiv:1512.00567, section 7); 0 to below 1.

    Returns:
      [batch, T] float32.
    """
    normalizer = jax.nn.logsumexp(logits, -1)
    losses = normalizer - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    if label_smoothing:
        uniform = normalizer - logits.mean(-1)
        losses = losses + label_smoothing * (uniform - losses)
    return losses


def check_loss(losses: Any, shape: tuple[int, ...]) -> Any:
    """The losses themselves, if they are floating point [batch, T], one for each token.

    Args:
      losses: what the loss returned.
      shape: [batch, T] of the targets.

    Raises:
      ValueError: another shape or dtype.
    """
    got, dtype = getattr(losses, "shape", None), getattr(losses, "dtype", type(losses).__name__)
    if got != shape or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"the loss returned {dtype}{list(got or ())}; expected floats {list(shape)}, one for each token: the step "
            "takes the mean over real tokens"
        )
    return losses


def trace_loss(loss: Loss) -> None:
    """Traces a loss with small shapes, before any training.

    Raises:
      ValueError: it does not return one floating point number for each token.
    """
    logits, targets = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    found = trace(
        "loss", loss, logits, targets, expected="(logits [batch, T, vocabulary], targets [batch, T]) -> [batch, T]"
    )
    check_loss(found, targets.shape)


def check_logits(logits: jax.Array, shape: tuple[int, ...], vocabulary: int) -> jax.Array:
    """A network's logits as float32.

    Args:
      logits: what the network returned.
      shape: [batch, T] of the targets.
      vocabulary: size of the target's vocabulary; 0: not known.

    Raises:
      ValueError: they are not floating point [batch, T, vocabulary].
    """
    got, dtype = getattr(logits, "shape", None), getattr(logits, "dtype", type(logits).__name__)
    fits = got is not None and len(got) == 3 and got[:2] == shape and vocabulary in (0, got[2])
    if not fits or not jnp.issubdtype(dtype, jnp.floating):
        expected = ", ".join(map(str, (*shape, vocabulary or "vocabulary")))
        raise ValueError(f"the network returned {dtype}{list(got or ())}; expected float logits [{expected}]")
    return logits.astype(jnp.float32)
