"""Adversarial losses: pure functions of logits, D = sigmoid(logit) where a formula has probabilities.

Logits are float of any shape, usually [batch]. Every loss is a mean over them, [] float32, computed in float32 and to
be minimised. x denotes real images, G(z) generated ("fake") ones. The loss of a discriminator is the sum of the means
over real and over fake images, not half of it. The caller keeps the parameters of the other network fixed.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jaxai.core import Key
from jaxai.tracing import trace

__all__ = [
    "AdversarialLoss",
    "Loss",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "minimax_discriminator_loss",
    "minimax_generator_loss",
    "non_saturating_generator_loss",
    "r1_penalty",
    "wasserstein_discriminator_loss",
    "wasserstein_generator_loss",
    "wasserstein_gradient_penalty",
]

Loss = Literal["minimax", "non_saturating", "least_squares", "wasserstein", "hinge"]


class AdversarialLoss(NamedTuple):
    """The losses of discriminator and generator, and how the discriminator's logits are reported.

    Attributes:
      discriminator: (real_logits [batch], fake_logits [batch]) -> [] float32, a mean over the batch. It gets the
        keyword arguments `smooth_real` and `smooth_fake` only where the config sets them.
      generator: fake_logits [batch] -> [] float32, a mean over the batch.
      output: logits -> D(x), whose means are the metrics `d_real` and `d_fake`; by default a probability.
      threshold: logits above it count as real in `discriminator_accuracy`; None: the middle between both means.
      relativistic: the generator's loss compares with real images (Jolicoeur-Martineau 2019, arXiv:1807.00734): it is
        called as (fake_logits, real_logits).
    """

    discriminator: Callable[..., Array]
    generator: Callable[..., Array]
    output: Callable[[Array], Array] = jax.nn.sigmoid
    threshold: float | None = 0.0
    relativistic: bool = False


def require(loss: AdversarialLoss) -> AdversarialLoss:
    """A loss that the caller gives, checked: both of its functions must return a mean.

    Raises:
      ValueError: they do not; one line that states the fix.
    """
    if not isinstance(loss, tuple) or len(loss) < 2 or not all(map(callable, loss[:3])):
        raise ValueError(
            f"loss is a {type(loss).__name__}; expected gan.AdversarialLoss(discriminator, generator), two functions"
        )
    loss, logits = AdversarialLoss(*loss), jax.ShapeDtypeStruct((2,), jnp.float32)
    found = {
        "discriminator": trace(
            "loss.discriminator", loss.discriminator, logits, logits, expected="(real_logits, fake_logits) -> []"
        ),
        "generator": trace(
            "loss.generator",
            loss.generator,
            *[logits] * (1 + loss.relativistic),
            expected="(fake_logits) -> [], or with relativistic (fake_logits, real_logits) -> []",
        ),
    }
    for name, value in found.items():
        shape = getattr(value, "shape", None)
        if shape != ():
            given = f"a {type(value).__name__}" if shape is None else f"shape {list(shape)}"
            raise ValueError(f"loss.{name} returns {given}; expected [], the mean over the batch")
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"loss.{name} returns {value.dtype}, which has no gradient; expected a float")
    return loss


def minimax_discriminator_loss(
    real_logits: Array, fake_logits: Array, *, smooth_real: float = 0.0, smooth_fake: float = 0.0
) -> Array:
    """`-[mean log D(x) + mean log(1 - D(G(z)))]` (Goodfellow et al. 2014, arXiv:1406.2661, eq. 1).

    With smoothing each mean is a cross-entropy, `-[t log D + (1 - t) log(1 - D)]`, whose target t is `1 - smooth_real`
    for real examples and `smooth_fake` for fakes. Smoothing only the real ones is one-sided (Salimans et al. 2016,
    arXiv:1606.03498, section 3.4).

    Args:
      real_logits, fake_logits: of real and of fake images.
      smooth_real, smooth_fake: 0 to below 1; Python numbers.

    Raises:
      ValueError: smoothing out of its range.
    """
    _check_smoothing(smooth_real, smooth_fake)
    return _cross_entropy(real_logits, 1.0 - smooth_real) + _cross_entropy(fake_logits, smooth_fake)


def minimax_generator_loss(fake_logits: Array) -> Array:
    """`mean log(1 - D(G(z)))` (Goodfellow et al. 2014, arXiv:1406.2661, eq. 1).

    Its gradient vanishes where the discriminator is confident that the images are fake.

    Args:
      fake_logits: of fake images.
    """
    return -_cross_entropy(fake_logits, 0.0)


# The non-saturating game has the discriminator loss of the minimax game (Goodfellow et al. 2014, section 3).
non_saturating_discriminator_loss = minimax_discriminator_loss


def non_saturating_generator_loss(fake_logits: Array) -> Array:
    """`-mean log D(G(z))` (Goodfellow et al. 2014, arXiv:1406.2661, section 3).

    Args:
      fake_logits: of fake images.
    """
    return _cross_entropy(fake_logits, 1.0)


def least_squares_discriminator_loss(
    real_logits: Array, fake_logits: Array, *, smooth_real: float = 0.0, smooth_fake: float = 0.0
) -> Array:
    """`mean (D(x) - b)^2 / 2 + mean (D(G(z)) - a)^2 / 2`, D the logit (Mao et al. 2017, arXiv:1611.04076, eq. 2 and 9).

    Args:
      real_logits, fake_logits: of real and of fake images.
      smooth_real, smooth_fake: 0 to below 1, Python numbers; `b = 1 - smooth_real` and `a = smooth_fake`.

    Raises:
      ValueError: smoothing out of its range.
    """
    _check_smoothing(smooth_real, smooth_fake)
    return _half_square(real_logits, 1.0 - smooth_real) + _half_square(fake_logits, smooth_fake)


def least_squares_generator_loss(fake_logits: Array) -> Array:
    """`mean (D(G(z)) - 1)^2 / 2`, D the logit (Mao et al. 2017, arXiv:1611.04076, eq. 9).

    Args:
      fake_logits: of fake images.
    """
    return _half_square(fake_logits, 1.0)


def wasserstein_discriminator_loss(
    real_logits: Array, fake_logits: Array, *, smooth_real: float = 0.0, smooth_fake: float = 0.0
) -> Array:
    """`mean D(G(z)) - mean D(x)`, D the logit (Arjovsky et al. 2017, arXiv:1701.07875, eq. 3).

    Unbounded unless D is kept near 1-Lipschitz, for example by `wasserstein_gradient_penalty`.

    Args:
      real_logits, fake_logits: of real and of fake images.
      smooth_real, smooth_fake: 0, there are no labels.

    Raises:
      ValueError: smoothing is not 0.
    """
    _refuse_smoothing("wasserstein", smooth_real, smooth_fake)
    return _mean(fake_logits) - _mean(real_logits)


def wasserstein_generator_loss(fake_logits: Array) -> Array:
    """`-mean D(G(z))`, D the logit (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1).

    Args:
      fake_logits: of fake images.
    """
    return -_mean(fake_logits)


def hinge_discriminator_loss(
    real_logits: Array, fake_logits: Array, *, smooth_real: float = 0.0, smooth_fake: float = 0.0
) -> Array:
    """`mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z)))`, D the logit (Miyato et al. 2018, arXiv:1802.05957, eq. 16).

    From Lim and Ye 2017 (arXiv:1705.02894).

    Args:
      real_logits, fake_logits: of real and of fake images.
      smooth_real, smooth_fake: 0, there are no labels.

    Raises:
      ValueError: smoothing is not 0.
    """
    _refuse_smoothing("hinge", smooth_real, smooth_fake)
    real, fake = real_logits.astype(jnp.float32), fake_logits.astype(jnp.float32)
    return jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake))


def hinge_generator_loss(fake_logits: Array) -> Array:
    """`-mean D(G(z))`, D the logit (Miyato et al. 2018, arXiv:1802.05957, eq. 17).

    Args:
      fake_logits: of fake images.
    """
    return -_mean(fake_logits)


def _itself(logits: Array) -> Array:
    """The identity, for discriminators whose output is not a probability."""
    return logits


LOSSES: Mapping[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(minimax_discriminator_loss, minimax_generator_loss),
    "non_saturating": AdversarialLoss(non_saturating_discriminator_loss, non_saturating_generator_loss),
    "least_squares": AdversarialLoss(least_squares_discriminator_loss, least_squares_generator_loss, _itself, 0.5),
    "wasserstein": AdversarialLoss(wasserstein_discriminator_loss, wasserstein_generator_loss, _itself, None),
    "hinge": AdversarialLoss(hinge_discriminator_loss, hinge_generator_loss),
}


def wasserstein_gradient_penalty(
    critic: Callable[[Array], Array], real_images: Array, fake_images: Array, key: Key, target: float = 1.0
) -> Array:
    """`mean (|grad_x critic(x_hat)|_2 - target)^2` (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3, without lambda).

    `x_hat = eps * x + (1 - eps) * G(z)` with one eps ~ U[0, 1) per example. The paper adds 10 times this to the
    Wasserstein loss. Where a gradient is exactly 0, the gradient of its norm is 0, not NaN.

    Args:
      critic: images -> logits [batch], each a function of its own image: no batch normalisation in training mode.
      real_images, fake_images: [batch, height, width, channels] float.
      key: draws eps.
      target: the norm without penalty, 0 or more, in logits per unit of a pixel.
    """
    chex.assert_equal_shape([real_images, fake_images])
    eps = jax.random.uniform(key, real_images.shape[:1] + (1,) * (real_images.ndim - 1))
    between = eps * real_images.astype(jnp.float32) + (1.0 - eps) * fake_images.astype(jnp.float32)
    squared_norm = _squared_gradient_norm(critic, between)
    # The square root has no finite derivative at 0, and a `where` around it alone would turn that into NaN.
    positive = squared_norm > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared_norm, 1.0)), 0.0)
    return jnp.mean(jnp.square(norm - target))


def r1_penalty(critic: Callable[[Array], Array], real_images: Array) -> Array:
    """`mean |grad_x critic(x)|^2` over real images; the R1 of the paper is gamma / 2 times this.

    Mescheder et al. 2018 (arXiv:1801.04406, eq. 9).

    Args:
      critic: images -> logits [batch], each a function of its own image: no batch normalisation in training mode.
      real_images: [batch, height, width, channels] float.
    """
    return jnp.mean(_squared_gradient_norm(critic, real_images.astype(jnp.float32)))


def _mean(logits: Array) -> Array:
    return jnp.mean(logits.astype(jnp.float32))


def _cross_entropy(logits: Array, target: float) -> Array:
    """The mean of `-[target * log D + (1 - target) * log(1 - D)]`."""
    logits = logits.astype(jnp.float32)
    return jnp.mean(target * jax.nn.softplus(-logits) + (1.0 - target) * jax.nn.softplus(logits))


def _half_square(logits: Array, target: float) -> Array:
    return 0.5 * jnp.mean(jnp.square(logits.astype(jnp.float32) - target))


def _squared_gradient_norm(critic: Callable[[Array], Array], images: Array) -> Array:
    """[batch] float32, of the logit of each image by its pixels."""
    chex.assert_shape(jax.eval_shape(critic, images), images.shape[:1])  # [batch, 1] would be summed as well
    gradient = jax.grad(lambda images: jnp.sum(critic(images).astype(jnp.float32)))(images)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, images.ndim)))


def _check_smoothing(smooth_real: float, smooth_fake: float) -> None:
    for name, value in (("smooth_real", smooth_real), ("smooth_fake", smooth_fake)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}, expected 0 (off) to below 1")


def _refuse_smoothing(loss: Loss, smooth_real: float, smooth_fake: float) -> None:
    for name, value in (("smooth_real", smooth_real), ("smooth_fake", smooth_fake)):
        if value != 0:
            raise ValueError(
                f"{name} is {value}, expected 0: the {loss} loss has no labels to smooth, "
                "take minimax, non_saturating or least_squares"
            )
