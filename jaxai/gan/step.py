"""Adversarial image generation: the configuration, and the pure functions that train both networks and sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxai import averages, inputs, ranges
from jaxai import optimizer as optimizers
from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, pmean, psum, split_batch, step_key
from jaxai.gan.diffaugment import check as check_policy
from jaxai.gan.diffaugment import diffaugment
from jaxai.gan.latent import draw_labels
from jaxai.gan.losses import LOSSES, Loss, r1_penalty, wasserstein_gradient_penalty
from jaxai.gan.model import Model, build
from jaxai.optimizer import Optimizer
from jaxai.ranges import Count, ImageShape, NonNegative, Range, Rate, Share

Updates = Literal["alternating", "simultaneous"]
Smoothing = Annotated[float, Range(least=0, below=0.5)]
WASSERSTEIN_PENALTY = 10.0
"""Weight of the gradient penalty where nobody gives one (Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1)."""
DISCRIMINATOR_LOSS = ("discriminator_loss", "gradient_penalty", "r1")
"""The metrics whose sum the discriminator minimises."""
ADAM = Optimizer("adam", learning_rate=2e-4, b1=0.5)
"""Adam as Radford et al. 2016 (arXiv:1511.06434) use it for both networks."""


@dataclass(frozen=True)
class Config(Model):
    """Two networks (the fields of `Model`) and how they are trained against each other."""

    image_shape: ImageShape = (28, 28, 1)  # height, width and channels of an image; pixels
    num_classes: Count = 10  # labels of a conditional model are 0 to num_classes - 1
    label_frequencies: tuple[
        Share, ...
    ] = ()  # of each label, that conditional models are asked for; (): as in the data
    loss: Loss = "non_saturating"  # what the two play for
    smooth_real: Smoothing = 0.0  # target of real images is 1 less this (one-sided label smoothing)
    smooth_fake: Smoothing = 0.0  # target of generated images, for smoothing on both sides
    gradient_penalty: NonNegative | None = None  # weight of the Wasserstein penalty; None: 10 with that loss, else 0
    r1: NonNegative = 0.0  # gamma of the R1 penalty on real images; 0: off
    r1_interval: Count = 1  # updates of the discriminator for each R1 penalty, which is scaled by this interval
    updates: Updates = "alternating"  # the generator meets the updated discriminator, or both move at once
    discriminator_steps: Count = 1  # updates of the discriminator for each of the generator
    generator_optimizer: Optimizer = ADAM
    discriminator_optimizer: Optimizer = ADAM
    ema_decay: Rate = 0.0  # decay of the moving average of the generator that samples are drawn from; 0: none
    diffaugment: tuple[str, ...] = ()  # differentiable augmentation of all that is judged: color, translation, cutout


class Players(NamedTuple):
    """The same kind of thing of both networks: a pytree."""

    generator: Any
    discriminator: Any


def make(config: Config, axis_name: str | None = None) -> Workload:
    """The pure functions of a generator and a discriminator that are trained against each other.

    A batch is `{"image": [discriminator_steps * batch, height, width, channels] uint8 in [0, 255] or float in [0, 1],
    "label": [...] int32}`; the label is looked at by a conditional model alone. Each update of the discriminator
    sees its own share of the images and as many generated ones; each update draws fresh latents. The state's
    parameters are `Players(generator, discriminator)`. Labels of generated images are drawn by `label_frequencies`,
    without which all are equally frequent; give those of the data. Each step checks shapes and dtypes while it is
    traced, and raises ValueError of one line that says how to mend them.

    Args:
      config: the networks and how they are trained.
      axis_name: the mapped axis over devices (`pmap`, `shard_map`); None for one device and for `jit` over a mesh.

    Returns:
      A workload. Training metrics: `generator_loss` and `discriminator_loss` without penalties, `gradient_penalty`
      and `r1` where they are on (as they enter the loss), `d_real` and `d_fake` (mean of D(x) and D(G(z)):
      probabilities, or the scores themselves for the losses least_squares and wasserstein),
      `discriminator_accuracy` (share of real and generated images told apart), `generator_grad_norm`,
      `discriminator_grad_norm`, `grad_norm` (of both), `generator_learning_rate`, `discriminator_learning_rate`.
      Evaluation sums over real images: `d_real` and `count`.

    Raises:
      ValueError: a field has a value that cannot be trained with; one line that names it.
    """
    _check(config)
    generator, discriminator = build(config, config.image_shape, config.num_classes, axis_name)
    transforms = Players(_transform(config, "generator_"), _transform(config, "discriminator_"))
    rates = Players(*map(optimizers.schedule, (config.generator_optimizer, config.discriminator_optimizer)))
    adversarial = LOSSES[config.loss]
    penalty_weight = _penalty_weight(config)
    # What an image in the batch does to the logits of another must not cross from real to generated ones.
    apart = config.discriminator_normalization == "batch" or config.minibatch_std > 0

    def init(key: Key) -> State:
        key, generator_key, discriminator_key = jax.random.split(key, 3)
        labels = jnp.zeros(1, jnp.int32) if config.conditional else None
        made = dict(generator.init(generator_key, jnp.zeros((1, config.latent_size)), labels, train=False))
        judged = dict(discriminator.init(discriminator_key, jnp.zeros((1, *config.image_shape)), labels, train=False))
        params = Players(made.pop("params"), judged.pop("params"))
        opt_state = Players(*(transform.init(each) for transform, each in zip(transforms, params, strict=True)))
        extra: dict[str, Any] = {"variables": Players(made, judged)}
        if config.ema_decay:
            extra |= averages.start({"params": params.generator, **made})
        return State(jnp.int32(0), params, opt_state, key, extra=extra)

    def generate(params: PyTree, variables: PyTree, key: Key, count: int) -> tuple[jax.Array, jax.Array | None, PyTree]:
        """As many images, their labels, and the generator's updated variables."""
        latent_key, label_key = jax.random.split(key)
        latents = jax.random.normal(latent_key, (count, config.latent_size))
        labels = None
        if config.conditional:
            labels = draw_labels(label_key, count, config.num_classes, config.label_frequencies)
        images, updated = generator.apply(
            {"params": params, **variables}, latents, labels, train=True, mutable=list(variables)
        )
        return images, labels, updated

    def judge(
        params: PyTree, variables: PyTree, images: jax.Array, labels: jax.Array | None, key: Key
    ) -> tuple[jax.Array, PyTree]:
        logits, updated = discriminator.apply(
            {"params": params, **variables},
            images,
            labels,
            train=True,
            rngs={"dropout": key},
            mutable=list(variables),
        )
        return logits, updated

    def discriminator_loss(
        params: PyTree,
        variables: PyTree,
        real: jax.Array,
        labels: jax.Array | None,
        fake: jax.Array,
        fake_labels: jax.Array | None,
        count: jax.Array,
        key: Key,
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        real_key, fake_key, dropout_key, penalty_key = jax.random.split(key, 4)
        real, fake = _augment(config, real_key, real), _augment(config, fake_key, fake)
        if apart:
            real_logits, variables = judge(params, variables, real, labels, dropout_key)
            fake_logits, variables = judge(params, variables, fake, fake_labels, dropout_key)
        else:
            both = None if labels is None or fake_labels is None else jnp.concatenate([labels, fake_labels])
            logits, variables = judge(params, variables, jnp.concatenate([real, fake]), both, dropout_key)
            real_logits, fake_logits = jnp.split(logits, [len(real)])
        loss = adversarial.discriminator(
            real_logits, fake_logits, smooth_real=config.smooth_real, smooth_fake=config.smooth_fake
        )
        metrics = {"discriminator_loss": loss} | _scores(config, real_logits, fake_logits)

        def critic(images: jax.Array) -> jax.Array:
            return judge(params, variables, images, labels, dropout_key)[0]

        if penalty_weight:
            metrics["gradient_penalty"] = penalty_weight * wasserstein_gradient_penalty(critic, real, fake, penalty_key)
        if config.r1:
            metrics["r1"] = _every(config.r1_interval, count, lambda: config.r1 / 2 * r1_penalty(critic, real))
        total = loss + metrics.get("gradient_penalty", 0.0) + metrics.get("r1", 0.0)
        return total, (variables, metrics)

    def generator_loss(
        params: PyTree, variables: PyTree, judge_params: PyTree, judge_variables: PyTree, key: Key, count: int
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        noise_key, augment_key, dropout_key = jax.random.split(key, 3)
        fake, labels, variables = generate(params, variables, noise_key, count)
        logits, _ = judge(judge_params, judge_variables, _augment(config, augment_key, fake), labels, dropout_key)
        loss = adversarial.generator(logits)
        return loss, (variables, {"generator_loss": loss})

    def update_discriminator(
        players: Players,
        opt_state: PyTree,
        variables: Players,
        images: jax.Array,
        labels: jax.Array | None,
        count: jax.Array,
        key: Key,
    ) -> tuple[PyTree, PyTree, PyTree, PyTree, Metrics]:
        """New parameters, optimizer state and variables of the discriminator, its gradient, and metrics.

        `count` is how many updates it has had.
        """
        noise_key, loss_key = jax.random.split(key)
        fake, fake_labels, _ = generate(players.generator, variables.generator, noise_key, len(images))
        differentiate = jax.grad(discriminator_loss, has_aux=True)
        grads, (updated, metrics) = differentiate(
            players.discriminator,
            variables.discriminator,
            images,
            labels,
            lax.stop_gradient(fake),
            fake_labels,
            count,
            loss_key,
        )
        grads, metrics = pmean((grads, metrics), axis_name)
        trained, opt_state = averages.update(
            transforms.discriminator,
            grads,
            opt_state,
            players.discriminator,
            value=sum(metrics[name] for name in DISCRIMINATOR_LOSS if name in metrics),
        )
        return trained, opt_state, updated, grads, metrics

    def update(state: State, batch: Batch) -> tuple[State, Players, Metrics]:
        """The state after one step, the gradients that made it, and metrics."""
        parts, key = config.discriminator_steps, step_key(state, axis_name)
        images, labels = _examples(config, batch)
        _check_batch(config, len(images))
        params, variables = state.params, state.extra["variables"]
        if parts == 1:
            trained, opt_state, judged, grads, metrics = update_discriminator(
                params, state.opt_state.discriminator, variables, images, labels, state.step, jax.random.fold_in(key, 1)
            )
        else:

            def body(carry: PyTree, share: PyTree) -> tuple[PyTree, PyTree]:
                trained, opt_state, judged = carry
                images, labels, count, key = share
                *carry, grads, metrics = update_discriminator(
                    Players(params.generator, trained),
                    opt_state,
                    Players(variables.generator, judged),
                    images,
                    labels,
                    count,
                    key,
                )
                return tuple(carry), (grads, metrics)

            shares = jax.tree.map(lambda leaf: split_batch(leaf, parts), (images, labels))
            counts, keys = state.step * parts + jnp.arange(parts), jax.random.split(jax.random.fold_in(key, 1), parts)
            first = (params.discriminator, state.opt_state.discriminator, variables.discriminator)
            (trained, opt_state, judged), outputs = lax.scan(body, first, (*shares, counts, keys))
            # The sum of the gradients is finite only where each of them is.
            grads, metrics = jax.tree.map(lambda leaf: leaf.sum(0), outputs[0]), jax.tree.map(jnp.mean, outputs[1])
        met = trained if config.updates == "alternating" else params.discriminator
        met_variables = judged if config.updates == "alternating" else variables.discriminator
        made_grads, (made, made_metrics) = jax.grad(generator_loss, has_aux=True)(
            params.generator,
            variables.generator,
            met,
            met_variables,
            jax.random.fold_in(key, 0),
            len(images) // parts,
        )
        made_grads, made_metrics = pmean((made_grads, made_metrics), axis_name)
        generator_params, made_opt_state = averages.update(
            transforms.generator,
            made_grads,
            state.opt_state.generator,
            params.generator,
            value=made_metrics["generator_loss"],
        )
        params = Players(generator_params, trained)
        extra = {"variables": Players(made, judged)}
        if config.ema_decay:
            current = {"params": generator_params, **made}
            extra[averages.EMA] = averages.follow(state.extra[averages.EMA], current, config.ema_decay, state.step)
        state = state.replace(
            step=state.step + 1, params=params, opt_state=Players(made_opt_state, opt_state), extra=extra
        )
        return state, Players(made_grads, grads), metrics | made_metrics

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        after, grads, metrics = update(state, batch)
        norms = Players(*map(optax.tree.norm, grads))
        metrics |= {
            "grad_norm": jnp.hypot(*norms),
            "generator_grad_norm": norms.generator,
            "discriminator_grad_norm": norms.discriminator,
            "generator_learning_rate": rates.generator(state.step),
            "discriminator_learning_rate": rates.discriminator(state.step * config.discriminator_steps),
        }
        return after, metrics

    def eval_step(state: State, batch: Batch) -> Metrics:
        images, labels = _examples(config, batch)
        variables = {"params": state.params.discriminator, **state.extra["variables"].discriminator}
        logits: Any = discriminator.apply(variables, images, labels, train=False)
        mask = inputs.mask(batch, len(logits))
        return psum({"d_real": jnp.sum(mask * _verdict(config, logits)), "count": mask.sum()}, axis_name)

    return Workload(init, train_step, eval_step, lambda state, batch: update(state, batch)[1])


def normalize(images: jax.Array) -> jax.Array:
    """Images as the networks see them: float32 in [-1, 1], from uint8 or from floats in [0, 1].

    Raises:
      ValueError: another dtype: an int32 or a uint16 does not say what its largest value is.
    """
    return 2 * inputs.scaled(images) - 1


def as_uint8(images: jax.Array) -> jax.Array:
    """The inverse of `normalize`: floats in [-1, 1] as uint8, rounded.

    Raises:
      ValueError: images that are no floats.
    """
    inputs.check_floats("images", images, "floats in [-1, 1], as make_generate gives them")
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def _examples(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array | None]:
    """Normalised images of a batch, and the labels that a conditional model looks at."""
    images, *labels = inputs.required(batch, "image", *["label"] * config.conditional)
    inputs.check_images(images, config.image_shape)
    for each in labels:
        inputs.check_labels(each, len(images))
    return normalize(images), labels[0] if labels else None


def _penalty_weight(config: Config) -> float:
    if config.gradient_penalty is None:
        return WASSERSTEIN_PENALTY if config.loss == "wasserstein" else 0.0
    return config.gradient_penalty


def _every(interval: int, count: jax.Array, penalty: Callable[[], jax.Array]) -> jax.Array:
    """`interval * penalty()` at each `interval`-th count, else 0: lazy regularization.

    Karras et al. 2020 (arXiv:1912.04958, section 3.1). On average it weighs what it would at each count.
    """
    if interval == 1:
        return penalty()
    return lax.cond(count % interval == 0, lambda: interval * penalty(), lambda: jnp.float32(0))


def _augment(config: Config, key: Key, images: jax.Array) -> jax.Array:
    return diffaugment(config.diffaugment, key, images) if config.diffaugment else images


def _verdict(config: Config, logits: jax.Array) -> jax.Array:
    """D(x): a probability where the loss makes the logit one, else the score itself."""
    return logits if config.loss in ("least_squares", "wasserstein") else jax.nn.sigmoid(logits)


def _scores(config: Config, real_logits: jax.Array, fake_logits: jax.Array) -> Metrics:
    """What the discriminator thinks of both, and how many it tells apart at the threshold that its loss sets."""
    threshold: jax.Array | float = 0.5 if config.loss == "least_squares" else 0.0
    if config.loss == "wasserstein":  # a critic has no zero
        threshold = (real_logits.mean() + fake_logits.mean()) / 2
    return {
        "d_real": _verdict(config, real_logits).mean(),
        "d_fake": _verdict(config, fake_logits).mean(),
        "discriminator_accuracy": ((real_logits > threshold).mean() + (fake_logits < threshold).mean()) / 2,
    }


def _check_batch(config: Config, size: int) -> None:
    if size % config.discriminator_steps:
        raise ValueError(
            f"a batch of {size} images on a device does not divide into {config.discriminator_steps} shares, one each"
            " of discriminator_steps; choose a multiple"
        )


def _transform(config: Config, player: str) -> optax.GradientTransformation:
    """The optimizer of a player, whose errors begin with the name of its field, as generator_optimizer.b1."""
    try:
        return optimizers.make(getattr(config, f"{player}optimizer"))
    except ValueError as error:
        raise ValueError(f"{player}{error}") from None


def _check(config: Config) -> None:
    ranges.check(config)
    for name in ("smooth_real", "smooth_fake"):
        if getattr(config, name) and config.loss in ("wasserstein", "hinge"):
            raise ValueError(
                f"{name} is {getattr(config, name)}, expected 0: the {config.loss} loss has no labels to smooth, take"
                " minimax, non_saturating or least_squares"
            )
    penalized = config.r1 or _penalty_weight(config)
    if penalized and config.discriminator_normalization == "batch":
        raise ValueError(
            "discriminator_normalization is 'batch', under which a gradient penalty, of one image alone, has no meaning"
            " (arXiv:1704.00028, section 4); choose layer or none"
        )
    if config.updates == "simultaneous" and config.discriminator_steps > 1:
        raise ValueError(
            f"updates is 'simultaneous' with discriminator_steps {config.discriminator_steps}; both networks move at"
            " once only with 1, else choose alternating"
        )
    check_policy(config.diffaugment)
    frequencies = config.label_frequencies
    if frequencies and (len(frequencies) != config.num_classes or abs(sum(frequencies) - 1) > 1e-3):
        raise ValueError(
            f"label_frequencies are {len(frequencies)} numbers with the sum {sum(frequencies):.4g}; give one for each"
            f" of {config.num_classes} classes, with the sum 1"
        )
