"""The objectives of two adversarial networks, and their gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxai import networks
from jaxai.core import Key, Metrics, PyTree, pmean
from jaxai.gan.config import Config
from jaxai.gan.diffaugment import diffaugment
from jaxai.gan.latent import draw_labels
from jaxai.gan.losses import AdversarialLoss, r1_penalty, wasserstein_gradient_penalty

__all__ = ["Game", "Players"]


class Players(NamedTuple):
    """A pair of values, one for each network: parameters, collections, gradients, transformations."""

    generator: Any
    discriminator: Any


class Game(NamedTuple):
    """The objectives of both networks, and their gradients.

    Attributes:
      config, axis_name: as in `make`.
      generator, discriminator: the linen modules.
      own: Players of bool, whether the caller gave the network.
      loss: of both networks.
      penalty: weight of the Wasserstein gradient penalty; 0: off.
    """

    config: Config
    axis_name: str | None
    generator: nn.Module
    discriminator: nn.Module
    own: Players
    loss: AdversarialLoss
    penalty: float

    def check(self) -> None:
        """Raises ValueError unless the caller's generator returns images and the caller's discriminator logits."""
        if any(self.own):
            config, key = self.config, jax.random.key(0)
            images, logits = jax.eval_shape(lambda: tuple(each[2] for each in self._initialize(key, key)))
            height, width, channels = config.image_shape
            described = f"images [batch, {height}, {width}, {channels}]"
            networks.check_output(images, (1, *config.image_shape), "generator", described)
            networks.check_output(logits, (1,), "discriminator", "logits [batch]")

    def initialize(self, generator_key: Key, discriminator_key: Key) -> list[tuple[PyTree, dict[str, PyTree]]]:
        """(parameters, collections) of each network."""
        return [each[:2] for each in self._initialize(generator_key, discriminator_key)]

    def _initialize(self, generator_key: Key, discriminator_key: Key) -> list[tuple[PyTree, dict[str, PyTree], Any]]:
        config = self.config
        labels = jnp.zeros(1, jnp.int32) if config.conditional else None
        latents, images = jnp.zeros((1, config.latent_size)), jnp.zeros((1, *config.image_shape))
        return [
            networks.initialize(self.generator, generator_key, *given(latents, labels)),
            networks.initialize(self.discriminator, discriminator_key, *given(images, labels)),
        ]

    def generate(
        self, params: PyTree, variables: PyTree, key: Key, count: int
    ) -> tuple[jax.Array, jax.Array | None, PyTree]:
        """Generates images from new latents, in training mode.

        Args:
          params: of the generator.
          variables: its other collections.
          key: for latents, labels and random layers.
          count: number of images.

        Returns:
          Images [count, height, width, channels], their labels [count] int32 or None, and the updated collections.
        """
        config = self.config
        latent_key, label_key = jax.random.split(key)
        latents, labels = jax.random.normal(latent_key, (count, config.latent_size)), None
        if config.conditional:
            labels = draw_labels(label_key, count, config.num_classes, config.label_frequencies)
        images, updated = self._apply(0, params, variables, given(latents, labels), jax.random.fold_in(key, 2))
        return images, labels, updated

    def discriminate(
        self, params: PyTree, variables: PyTree, images: jax.Array, labels: jax.Array | None, key: Key
    ) -> tuple[jax.Array, PyTree]:
        """Applies the discriminator, in training mode.

        Args:
          params: of the discriminator.
          variables: its other collections.
          images: [batch, height, width, channels] float32 in [-1, 1].
          labels: [batch] int32; None for an unconditional model.
          key: for random layers.

        Returns:
          Logits [batch] float32, and the updated collections.
        """
        return self._apply(1, params, variables, given(images, labels), key)

    def _apply(
        self, player: int, params: PyTree, variables: PyTree, arguments: tuple[jax.Array, ...], key: Key
    ) -> tuple[jax.Array, PyTree]:
        network: nn.Module = (self.generator, self.discriminator)[player]
        output: Any
        output, updated = network.apply(
            {"params": params, **variables}, *arguments, train=True, rngs=networks.rngs(key), mutable=list(variables)
        )
        if self.own[player]:
            output, updated = output.astype(jnp.float32), networks.pmean_floats(updated, self.axis_name)
        return output, variables | updated

    def discriminator_gradient(
        self,
        players: Players,
        variables: Players,
        images: jax.Array,
        labels: jax.Array | None,
        count: jax.Array,
        key: Key,
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Gradient and updated collections of the discriminator, and metrics.

        Args:
          players: parameters of both networks.
          variables: other collections of both networks.
          images: real images [batch, height, width, channels] float32 in [-1, 1].
          labels: of the real images, [batch] int32; None for an unconditional model.
          count: [] int32, number of updates of the discriminator so far.
          key: of this update.
        """
        noise_key, loss_key = jax.random.split(key)
        fake, fake_labels, _ = self.generate(players.generator, variables.generator, noise_key, len(images))
        grads, (updated, metrics) = jax.grad(self.discriminator_loss, has_aux=True)(
            players.discriminator,
            variables.discriminator,
            images,
            labels,
            lax.stop_gradient(fake),
            fake_labels,
            count,
            loss_key,
        )
        grads, metrics = pmean((grads, metrics), self.axis_name)
        return grads, updated, metrics

    def discriminator_loss(
        self,
        params: PyTree,
        variables: PyTree,
        real: jax.Array,
        labels: jax.Array | None,
        fake: jax.Array,
        fake_labels: jax.Array | None,
        count: jax.Array,
        key: Key,
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        """The loss that the discriminator minimises, and (updated collections, metrics).

        Args:
          params: of the discriminator.
          variables: its other collections.
          real, fake: images [batch, height, width, channels] float32 in [-1, 1].
          labels, fake_labels: of the real and of the generated images, [batch] int32, or None.
          count: [] int32, number of updates of the discriminator so far.
          key: for augmentation, dropout and the penalty.
        """
        config = self.config
        real_key, fake_key, dropout_key, penalty_key = jax.random.split(key, 4)
        real, fake = _augment(config, real_key, real), _augment(config, fake_key, fake)
        if self._apart:
            real_logits, variables = self.discriminate(params, variables, real, labels, dropout_key)
            fake_logits, variables = self.discriminate(params, variables, fake, fake_labels, dropout_key)
        else:
            both = None if labels is None or fake_labels is None else jnp.concatenate([labels, fake_labels])
            logits, variables = self.discriminate(params, variables, jnp.concatenate([real, fake]), both, dropout_key)
            real_logits, fake_logits = jnp.split(logits, [len(real)])
        smoothing = {"smooth_real": config.smooth_real, "smooth_fake": config.smooth_fake}
        loss = self.loss.discriminator(real_logits, fake_logits, **(smoothing if any(smoothing.values()) else {}))
        metrics = {"discriminator_loss": loss} | _scores(self.loss, real_logits, fake_logits)

        def critic(images: jax.Array) -> jax.Array:
            return self.discriminate(params, variables, images, labels, dropout_key)[0]

        if self.penalty:
            metrics["gradient_penalty"] = self.penalty * wasserstein_gradient_penalty(critic, real, fake, penalty_key)
        if config.r1:
            metrics["r1"] = _every(config.r1_interval, count, lambda: config.r1 / 2 * r1_penalty(critic, real))
        total = loss + metrics.get("gradient_penalty", 0.0) + metrics.get("r1", 0.0)
        return total, (variables, metrics)

    def generator_gradient(
        self, players: Players, variables: Players, real: jax.Array, labels: jax.Array | None, key: Key
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Gradient and updated collections of the generator, and metrics.

        Args:
          players: parameters of both networks.
          variables: other collections of both networks.
          real: images [batch, height, width, channels] float32; they set the number of generated images, and a
            relativistic loss compares with them.
          labels: of the real images, [batch] int32; None for an unconditional model.
          key: of this update.
        """
        grads, (updated, metrics) = jax.grad(self.generator_loss, has_aux=True)(
            players.generator, variables.generator, players.discriminator, variables.discriminator, real, labels, key
        )
        grads, metrics = pmean((grads, metrics), self.axis_name)
        return grads, updated, metrics

    def generator_loss(
        self,
        params: PyTree,
        variables: PyTree,
        rival_params: PyTree,
        rival_variables: PyTree,
        real: jax.Array,
        labels: jax.Array | None,
        key: Key,
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        """The loss that the generator minimises, and (updated collections, metrics).

        Args:
          params, variables: parameters and other collections of the generator.
          rival_params, rival_variables: the same of the discriminator.
          real, labels, key: as in `generator_gradient`.
        """
        noise_key, augment_key, dropout_key = jax.random.split(key, 3)
        fake, fake_labels, variables = self.generate(params, variables, noise_key, len(real))
        fake = _augment(self.config, augment_key, fake)
        logits, _ = self.discriminate(rival_params, rival_variables, fake, fake_labels, dropout_key)
        if self.loss.relativistic:
            real = _augment(self.config, jax.random.fold_in(augment_key, 1), real)
            real_logits, _ = self.discriminate(rival_params, rival_variables, real, labels, dropout_key)
            loss = self.loss.generator(logits, real_logits)
        else:
            loss = self.loss.generator(logits)
        return loss, (variables, {"generator_loss": loss})

    @property
    def _apart(self) -> bool:
        """Whether images in a batch can affect the logits of others: real and generated ones are then separated."""
        config = self.config
        return config.discriminator_normalization == "batch" or config.minibatch_std > 0 or self.own.discriminator


def given(x: jax.Array, labels: jax.Array | None) -> tuple[jax.Array, ...]:
    """The arguments of a network: no labels for an unconditional one."""
    return (x,) if labels is None else (x, labels)


def _every(interval: int, count: jax.Array, penalty: Callable[[], jax.Array]) -> jax.Array:
    """`interval * penalty()` at each `interval`-th count, else 0: lazy regularization.

    Karras et al. 2020 (arXiv:1912.04958, section 3.1). The mean equals that of the penalty at each count.
    """
    if interval == 1:
        return penalty()
    return lax.cond(count % interval == 0, lambda: interval * penalty(), lambda: jnp.float32(0))


def _augment(config: Config, key: Key, images: jax.Array) -> jax.Array:
    return diffaugment(config.diffaugment, key, images) if config.diffaugment else images


def _scores(loss: AdversarialLoss, real_logits: jax.Array, fake_logits: jax.Array) -> Metrics:
    """Mean scores of real and generated images, and the share on the correct side of the threshold of the loss."""
    threshold: jax.Array | float | None = loss.threshold
    if threshold is None:
        threshold = (real_logits.mean() + fake_logits.mean()) / 2
    return {
        "d_real": loss.output(real_logits).mean(),
        "d_fake": loss.output(fake_logits).mean(),
        "discriminator_accuracy": ((real_logits > threshold).mean() + (fake_logits < threshold).mean()) / 2,
    }
