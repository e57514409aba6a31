"""Adversarial image generation: the pure functions that train two networks against each other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxai import averages, inputs
from jaxai import optimizer as optimizers
from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, psum, split_batch, step_key
from jaxai.gan.config import Config, check, normalize, penalty_weight
from jaxai.gan.game import Game, Players, given
from jaxai.gan.losses import LOSSES, AdversarialLoss, require
from jaxai.gan.predict import make_predict, own_or_built
from jaxai.optimizer import Optimizer

__all__ = ["make"]

MINIMISED = ("discriminator_loss", "gradient_penalty", "r1")
"""The metrics whose sum is the discriminator's objective."""


def make(
    config: Config,
    axis_name: str | None = None,
    *,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    transformations: tuple[optax.GradientTransformation | None, optax.GradientTransformation | None] | None = None,
    loss: AdversarialLoss | None = None,
) -> Workload:
    """The pure functions of a generator and a discriminator that are trained against each other.

    A batch is `{"image": [discriminator_steps * batch, height, width, channels] uint8 in [0, 255] or float in [0, 1],
    "label": [...] int32}`; only a conditional model uses the label. Each update of the discriminator uses its own part
    of the images and the same number of generated ones; each update draws new latents. The state's parameters are
    `Players(generator, discriminator)`, and `state.extra["variables"]` has their other collections. Labels of generated
    images are drawn with `label_frequencies`, which should be those of the data; the default is uniform. Each step
    checks shapes and dtypes while it is traced, and raises a ValueError of one line that states the fix.

    >>> import jax, jax.numpy as jnp, optax
    >>> from jaxai import gan
    >>> quadratic = gan.AdversarialLoss(
    ...     lambda real, fake: jnp.mean((real - 1) ** 2) + jnp.mean((fake + 1) ** 2), lambda fake: jnp.mean(fake**2)
    ... )
    >>> config = gan.Config(width=2, latent_size=4, image_shape=(8, 8, 1))
    >>> workload = gan.make(config, transformations=(optax.adam(1e-3), optax.sgd(1e-2)), loss=quadratic)
    >>> batch = {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8)}
    >>> state, metrics = jax.eval_shape(workload.train_step, jax.eval_shape(workload.init, jax.random.key(0)), batch)
    >>> metrics["generator_loss"].shape
    ()

    Args:
      config: the networks and how they are trained. Fields that an argument replaces are not used.
      axis_name: the mapped axis over devices (`pmap`, `shard_map`); None for one device and for `jit` over a mesh.
      generator: a linen module that is called as `generator(latents, labels, train=...)`, or without labels where the
        model is not `conditional`, with latents float32 [batch, latent_size] and labels int32 [batch], and returns
        images float [batch, height, width, channels] in [-1, 1]. None: the first of `build(config, image_shape,
        num_classes)`.
      discriminator: a linen module that is called as `discriminator(images, labels, train=...)`, or without labels,
        and returns logits [batch], higher for real images. None: the second of `build`. It gets real and generated
        images in two calls. The collections of both networks are kept in the state; over several devices the floats
        in the collections of your own networks are averaged. In training, random layers can use rng streams of any
        name. Convert a module of `flax.nnx` with `nnx.bridge.to_linen`.
      transformations: of optax, (generator's, discriminator's); None, or None for one of them: that of the config.
        Transformations with extra arguments get `value` and `grad`.
      loss: of both networks, see `AdversarialLoss`. None: that of the config, `losses.LOSSES[config.loss]`.
        `gradient_penalty` and `r1` of the config are added to it.

    Returns:
      A workload. Training metrics: `generator_loss` and `discriminator_loss` without penalties, `gradient_penalty`
      and `r1` where they are on (as they enter the loss), `d_real` and `d_fake` (means of D(x) and D(G(z)):
      probabilities, or the scores themselves for the losses least_squares and wasserstein),
      `discriminator_accuracy` (share of real and generated images that are classified correctly),
      `generator_grad_norm`, `discriminator_grad_norm`, `grad_norm` (of both), `generator_learning_rate`,
      `discriminator_learning_rate` where they are known. Evaluation sums over real images: `d_real` and `count`.
      `predict` is that of `make_predict`.

    Raises:
      ValueError: a field has a value that cannot be trained with, or an argument has another form; one line that names
        it.
    """
    check(config, loss is not None)
    game = Game(
        config,
        axis_name,
        *own_or_built(config, generator, discriminator, axis_name),
        Players(generator is not None, discriminator is not None),
        LOSSES[config.loss] if loss is None else require(loss),
        penalty_weight(config, loss is not None),
    )
    game.check()
    own = transformations or (None, None)
    if len(own) != 2:
        raise ValueError(f"transformations are {len(own)}; give two, the generator's and the discriminator's")
    configured = (config.generator_optimizer, config.discriminator_optimizer)
    chosen = [_transformation(*each) for each in zip(Players._fields, configured, own, strict=True)]
    transforms, rates = Players(*(each[0] for each in chosen)), Players(*(each[1] for each in chosen))

    def init(key: Key) -> State:
        key, generator_key, discriminator_key = jax.random.split(key, 3)
        (params, variables), (rival_params, rival_variables) = game.initialize(generator_key, discriminator_key)
        players = Players(params, rival_params)
        opt_state = Players(*map(averages.initialize, transforms, players))
        extra: dict[str, Any] = {"variables": Players(variables, rival_variables)}
        if config.ema_decay:
            extra |= averages.start({"params": params, **variables})
        return State(jnp.int32(0), players, opt_state, key, extra=extra)

    def update(state: State, batch: Batch) -> tuple[State, Players, Metrics]:
        """The state after one step, the gradients of the step, and metrics."""
        parts, key = config.discriminator_steps, step_key(state, axis_name)
        images, labels = _examples(config, batch)
        _check_batch(config, len(images))
        params, variables = state.params, state.extra["variables"]

        def body(carry: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
            rival, opt_state, rival_variables = carry
            images, labels, count, key = part
            players = Players(Players(params.generator, rival), Players(variables.generator, rival_variables))
            grads, rival_variables, metrics = game.discriminator_gradient(*players, images, labels, count, key)
            value = sum((metrics[name] for name in MINIMISED if name in metrics), jnp.float32(0))
            rival, opt_state = averages.update(transforms.discriminator, grads, opt_state, rival, value=value)
            return (rival, opt_state, rival_variables), (grads, metrics)

        carry = (params.discriminator, state.opt_state.discriminator, variables.discriminator)
        if parts == 1:
            carry, (grads, metrics) = body(carry, (images, labels, state.step, jax.random.fold_in(key, 1)))
        else:
            shares = jax.tree.map(lambda leaf: split_batch(leaf, parts), (images, labels))
            counts, keys = state.step * parts + jnp.arange(parts), jax.random.split(jax.random.fold_in(key, 1), parts)
            carry, outputs = lax.scan(body, carry, (*shares, counts, keys))
            # The sum of the gradients is finite only if each of them is.
            grads, metrics = jax.tree.map(lambda leaf: leaf.sum(0), outputs[0]), jax.tree.map(jnp.mean, outputs[1])
        updated = Players(Players(params.generator, carry[0]), Players(variables.generator, carry[2]))
        generator_grads, generator_variables, generator_metrics = game.generator_gradient(
            *(updated if config.updates == "alternating" else (params, variables)),
            images[: len(images) // parts],
            None if labels is None else labels[: len(images) // parts],
            jax.random.fold_in(key, 0),
        )
        generator_params, generator_opt_state = averages.update(
            transforms.generator,
            generator_grads,
            state.opt_state.generator,
            params.generator,
            value=generator_metrics["generator_loss"],
        )
        extra = {"variables": Players(generator_variables, carry[2])}
        if config.ema_decay:
            current = {"params": generator_params, **generator_variables}
            extra[averages.EMA] = averages.follow(state.extra[averages.EMA], current, config.ema_decay, state.step)
        state = state.replace(
            step=state.step + 1,
            params=Players(generator_params, carry[0]),
            opt_state=Players(generator_opt_state, carry[1]),
            extra=extra,
        )
        return state, Players(generator_grads, grads), metrics | generator_metrics

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        after, grads, metrics = update(state, batch)
        norms = Players(*map(optax.tree.norm, grads))
        metrics |= {
            "grad_norm": jnp.hypot(*norms),
            "generator_grad_norm": norms.generator,
            "discriminator_grad_norm": norms.discriminator,
            **rates.generator(state.step, after.opt_state.generator),
            **rates.discriminator(state.step * config.discriminator_steps, after.opt_state.discriminator),
        }
        return after, metrics

    def eval_step(state: State, batch: Batch) -> Metrics:
        images, labels = _examples(config, batch)
        variables = {"params": state.params.discriminator, **state.extra["variables"].discriminator}
        logits: Any = game.discriminator.apply(variables, *given(images, labels), train=False)
        mask = inputs.mask(batch, len(logits))
        return psum({"d_real": jnp.sum(mask * game.loss.output(logits)), "count": mask.sum()}, axis_name)

    predict = make_predict(config, generator=generator)
    return Workload(init, train_step, eval_step, lambda state, batch: update(state, batch)[1], predict)


def _transformation(
    player: str, optimizer: Optimizer, own: optax.GradientTransformation | None
) -> tuple[optax.GradientTransformation, Callable[[jax.Array, PyTree], dict[str, jax.Array]]]:
    """The transformation of a network and its learning rate as a metric; errors name `generator_optimizer.b1`."""
    try:
        transformation, rate = optimizers.own_or_built(optimizer, own, f"the {player}'s part of transformations")
    except ValueError as error:
        raise ValueError(f"{player}_{error}" if own is None else str(error)) from None
    return transformation, lambda step, opt_state: {
        f"{player}_{name}": value for name, value in rate(step, opt_state).items()
    }


def _examples(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array | None]:
    """Normalised images of a batch, and the labels where the model is conditional."""
    images, *labels = inputs.required(batch, "image", *["label"] * config.conditional)
    inputs.check_images(images, config.image_shape)
    for each in labels:
        inputs.check_labels(each, len(images))
    return normalize(config, images), labels[0] if labels else None


def _check_batch(config: Config, size: int) -> None:
    if size % config.discriminator_steps:
        raise ValueError(
            f"a batch of {size} images on a device does not divide into {config.discriminator_steps} shares, one each"
            " of discriminator_steps; choose a multiple"
        )
