"""Image classification: the configuration, and the pure functions that train and evaluate it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxai import averages, batch_statistics, inputs, ranges
from jaxai import optimizer as optimizers
from jaxai.cnn.augment import Augment, TestTime, augment, test_time
from jaxai.cnn.model import Model, build
from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, pmean, psum, split_batch, step_key
from jaxai.optimizer import Optimizer
from jaxai.ranges import Count, Finite, ImageShape, Natural, NonNegative, Positive, Range, Rate

ClassWeights = Literal["none", "balanced"] | tuple[NonNegative, ...]
CPU_BLOCK = 16
"""Images per gradient block on CPU: what im2col makes of so many still fits the caches (benchmarks/README.md)."""


@dataclass(frozen=True)
class Config(Model):
    """A network (the fields of `Model`) and how it is trained."""

    image_shape: ImageShape = (32, 32, 3)  # height, width and channels of an image; pixels
    num_classes: Annotated[int, Range(least=2)] = 10  # labels are 0 to num_classes - 1
    image_mean: tuple[Finite, ...] = (0.5,)  # subtracted from images scaled to [0, 1], for each channel or for all
    image_std: tuple[Positive, ...] = (0.5,)  # what is left is divided by this, for each channel or for all
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    class_weights: ClassWeights = "none"  # of each class in the training loss; balanced: examples / (classes * its own)
    label_smoothing: Rate = 0.0  # share of the label spread evenly over all classes (Szegedy et al. 2016)
    ema_decay: Rate = 0.0  # decay of the moving average of weights and batch statistics that evaluation uses; 0: none
    gradient_blocks: Natural = 0  # blocks that a batch's gradient is accumulated over; 0: 1, on CPU as fit its cache
    steps_per_epoch: Count = 1  # optimizer steps in an epoch; filled in from the data
    test_time: TestTime = "none"  # views of a test image whose logits are averaged


def make(config: Config, axis_name: str | None = None) -> Workload:
    """The pure functions of an image classifier.

    A batch is `{"image": [batch, height, width, channels] uint8 in [0, 255] or float in [0, 1], "label": [batch]
    int32}`, with optional `"index"` ([batch] int32, the example's place in the data, for alternating flips) in
    training and optional `"mask"` ([batch], 1 for examples that count) in evaluation. Each step checks these shapes
    and dtypes while it is traced, and raises ValueError of one line that says how to mend them.

    Args:
      config: the network and how it is trained.
      axis_name: the mapped axis over devices (`pmap`, `shard_map`); None for one device and for `jit` over a mesh.

    Returns:
      A workload. Training metrics: `loss` (mean cross-entropy in nats; with `class_weights` that of an example is
      multiplied by its label's, that of a mixture by the mixture of theirs), `accuracy` (share of predictions that are
      the label; an image of mixup or cutmix counts as much as the label that was predicted has in its mixture),
      `grad_norm` (before clipping), `learning_rate`. Evaluation sums: `loss`, `accuracy`, `top5_accuracy`, `count`, and
      `confusion` ([num_classes, num_classes] counts, row the true label, column the predicted), unweighted. A label out
      of range is never predicted right, and the loss of its batch is NaN.

    Raises:
      ValueError: a field has a value that cannot be trained with; one line that names it.
    """
    _check(config)
    network = build(config, config.num_classes, axis_name)
    transform = optimizers.make(config.optimizer)
    learning_rate = optimizers.schedule(config.optimizer)
    predict = make_predict(config)
    class_weights = jnp.array([] if config.class_weights == "none" else config.class_weights)

    def init(key: Key) -> State:
        key, params_key = jax.random.split(key)
        variables = dict(network.init(params_key, jnp.zeros((1, *config.image_shape)), train=False))
        params = variables.pop("params")
        extra = variables | (averages.start(_averaged(params, variables)) if config.ema_decay else {})
        return State(jnp.int32(0), params, transform.init(params), key, extra=extra)

    def loss_fn(
        params: PyTree, variables: PyTree, images: jax.Array, labels: jax.Array, key: Key
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        logits, updated = network.apply(
            {"params": params, **variables}, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, config.label_smoothing))
        # By the batch's size and not by its weights, so that blocks and devices of other labels add up to the whole.
        if config.class_weights != "none":
            losses = losses * (labels * class_weights).sum(-1)
        loss = losses.mean()
        predicted = jax.nn.one_hot(logits.argmax(-1), config.num_classes)
        accuracy = (labels * predicted).sum(-1).mean()
        return loss, (variables | updated, {"loss": loss, "accuracy": accuracy})

    def gradient(state: State, batch: Batch) -> tuple[PyTree, PyTree, Metrics]:
        """Gradient, variables and metrics, averaged over the batch and over devices."""
        images, true = _examples(config, batch)
        augment_key, dropout_key = jax.random.split(step_key(state, axis_name))
        images, labels = augment(
            config.augment,
            augment_key,
            normalize(config, images),
            jax.nn.one_hot(true, config.num_classes),
            epoch=state.step // config.steps_per_epoch,
            example_index=_index(batch, len(images)),
        )
        variables = {name: value for name, value in state.extra.items() if name != averages.EMA}
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        blocks = _gradient_blocks(config, len(images), "batch_stats" in variables)
        if blocks == 1:
            (_, (variables, metrics)), grads = value_and_grad(state.params, variables, images, labels, dropout_key)
        else:

            def accumulate(carry: PyTree, block: PyTree) -> tuple[PyTree, None]:
                total, variables = carry
                (_, (variables, metrics)), grads = value_and_grad(state.params, variables, *block)
                return (jax.tree.map(jnp.add, total, (grads, metrics)), variables), None

            zeros = jax.tree.map(jnp.zeros_like, (state.params, {"loss": 0.0, "accuracy": 0.0}))
            inputs = (split_batch(images, blocks), split_batch(labels, blocks), jax.random.split(dropout_key, blocks))
            (total, variables), _ = lax.scan(accumulate, (zeros, variables), inputs)
            grads, metrics = jax.tree.map(lambda leaf: leaf / blocks, total)
        # The one-hot of a label out of range is all zeros, which would pass for a loss of 0.
        metrics["loss"] = jnp.where(_in_range(config, true).all(), metrics["loss"], jnp.nan)
        grads, metrics = pmean((grads, metrics), axis_name)
        return grads, variables, metrics

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        grads, variables, metrics = gradient(state, batch)
        after = averages.advance(state, transform, grads, variables, ema_decay=config.ema_decay, value=metrics["loss"])
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": learning_rate(state.step)}
        return after, jax.tree.map(lambda metric: jnp.asarray(metric, jnp.float32), metrics)

    def eval_step(state: State, batch: Batch) -> Metrics:
        images, labels = _examples(config, batch)
        mask, logits = inputs.mask(batch, len(labels)), predict(state, images)
        # Examples that do not count may have any label.
        losses = jnp.where(
            _in_range(config, labels),
            optax.softmax_cross_entropy_with_integer_labels(logits, labels),
            jnp.where(mask > 0, jnp.nan, 0),
        )
        top5 = lax.top_k(logits, min(5, config.num_classes))[1]
        true, predicted = (jax.nn.one_hot(x, config.num_classes) for x in (labels, logits.argmax(-1)))
        sums = {
            "loss": jnp.sum(mask * losses),
            "accuracy": jnp.sum(mask * (logits.argmax(-1) == labels)),
            "top5_accuracy": jnp.sum(mask * (top5 == labels[:, None]).any(-1)),
            "count": mask.sum(),
            "confusion": (true * mask[:, None]).T @ predicted,
        }
        return psum(sums, axis_name)

    return Workload(init, train_step, eval_step, lambda state, batch: gradient(state, batch)[0])


def make_predict(config: Config) -> Callable[[State, jax.Array], jax.Array]:
    """(state, images [batch, height, width, channels]) -> float32 logits [batch, num_classes], as evaluation sees them.

    Uses the averaged weights and batch statistics where `ema_decay` is set, and the views of `test_time`.
    """
    network = build(config, config.num_classes)

    def predict(state: State, images: jax.Array) -> jax.Array:
        inputs.check_images(images, config.image_shape)
        variables = evaluated_variables(state)

        def logits(images: jax.Array) -> jax.Array:
            return cast(jax.Array, network.apply(variables, images, train=False))

        return test_time(logits, normalize(config, images), config.test_time)

    return predict


def make_features(config: Config) -> Callable[[State, jax.Array], tuple[jax.Array, jax.Array]]:
    """(state, images [batch, height, width, channels]) -> what the last layer sees, and what it says.

    Features are float32 [batch, features], logits float32 [batch, num_classes], of the weights and batch statistics
    that evaluation uses and of one view of each image.
    """
    network = build(config, config.num_classes)

    def features(state: State, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs.check_images(images, config.image_shape)
        logits, sown = network.apply(
            evaluated_variables(state), normalize(config, images), train=False, mutable=["intermediates"]
        )
        (found,) = sown["intermediates"]["features"]
        return found.astype(jnp.float32), cast(jax.Array, logits)

    return features


def make_recompute(config: Config) -> Callable[[State, jax.Array], State]:
    """(state, images [batches, batch, height, width, channels]) -> the state with batch statistics of these images.

    They are those of the weights that evaluation uses, without augmentation and dropout. A few thousand training
    images are enough, in batches as large as in training. The averages that training leaves are nearly as good; these
    are better early in training and where the learning rate stays high. A network without batch statistics stays as
    it is.
    """
    network = build(config, config.num_classes)

    def recompute(state: State, images: jax.Array) -> State:
        inputs.check_images(images[0], config.image_shape)
        variables = evaluated_variables(state)
        if "batch_stats" not in variables:
            return state
        found = {"batch_stats": batch_statistics.recompute(network, variables, (normalize(config, images),))}
        averaged = {"ema": state.extra["ema"] | found} if "ema" in state.extra else found
        return state.replace(extra=state.extra | averaged)

    return recompute


def evaluated_variables(state: State) -> dict[str, PyTree]:
    """The collections that evaluation applies the network with: the averages where there are any, else the last."""
    return averages.variables(state)


def normalize(config: Config, images: jax.Array) -> jax.Array:
    """Images as the network sees them: float32, scaled to [0, 1] if uint8, less `image_mean`, over `image_std`.

    Args:
      config: says mean and deviation.
      images: [..., channels] uint8 in [0, 255], or floats in [0, 1], which are not scaled.

    Raises:
      ValueError: another dtype (an int32 or a uint16 does not say what its largest value is), or other channels.
    """
    if images.shape[-1:] != config.image_shape[-1:]:  # a mean for each channel would broadcast
        raise ValueError(f"images have shape {list(images.shape)}; expected [..., {config.image_shape[-1]}] channels")
    return (inputs.scaled(images) - jnp.array(config.image_mean)) / jnp.array(config.image_std)


def balanced_class_weights(labels: jax.typing.ArrayLike, num_classes: int) -> tuple[float, ...]:
    """Weights by which every class has the same part in the training loss, whose scale stays: their mean is 1.

    `examples / (classes * examples of the class)`, as in Keras and scikit-learn; 0 for a class without examples, which
    is not counted.

    Args:
      labels: int [examples], of the training data.
      num_classes: how many classes there are.

    Raises:
      ValueError: no labels, others than integers [examples], or one out of range.
    """
    given = np.asarray(labels)
    inputs.check_labels(given, len(given))
    if not len(given) or given.min() < 0 or given.max() >= num_classes:
        there = f"{given.min()} to {given.max()}" if len(given) else "none"
        raise ValueError(f"labels are {there}; expected 0 to {num_classes - 1}, for {num_classes} classes")
    counts = np.bincount(given, minlength=num_classes)
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return tuple(np.where(counts > 0, weights, 0).tolist())


def example_batch(config: Config, batch_size: int) -> dict[str, Any]:
    """Shapes and dtypes of a training batch, to lower and to count with."""
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *config.image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }


def _averaged(params: PyTree, variables: PyTree) -> dict[str, PyTree]:
    """What the moving average follows: statistics of the last batches would be those of other weights."""
    return {"params": params} | {name: variables[name] for name in variables if name == "batch_stats"}


def _examples(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Images and labels of a batch, of the shapes and dtypes that a step needs."""
    images, labels = inputs.required(batch, "image", "label")
    inputs.check_images(images, config.image_shape)
    inputs.check_labels(labels, len(images))
    return images, labels


def _index(batch: Batch, examples: int) -> jax.Array | None:
    if batch is None or "index" not in batch:
        return None
    index = inputs.array("index", batch["index"])
    inputs.check_labels(index, examples, "index")
    return index


def _in_range(config: Config, labels: jax.Array) -> jax.Array:
    return (labels >= 0) & (labels < config.num_classes)


def _check(config: Config) -> None:
    ranges.check(config)
    channels = config.image_shape[-1]
    for name, value in (("image_mean", config.image_mean), ("image_std", config.image_std)):
        if len(value) not in (1, channels):
            raise ValueError(f"{name} has {len(value)} values; give one for all channels or one for each of {channels}")
        if max(value) > 1:
            raise ValueError(f"{name} is {ranges.shown(value)}, and images are in [0, 1]: divide it by 255")
    weights = config.class_weights
    if weights == "balanced":
        raise ValueError(
            "class_weights is 'balanced', which an Experiment fills in from its data; give the weights themselves:"
            " cnn.balanced_class_weights(labels, num_classes)"
        )
    if weights != "none" and (len(weights) != config.num_classes or not any(weights)):
        raise ValueError(
            f"class_weights are {ranges.shown(weights)}; give one for each of {config.num_classes} classes, not all of"
            " them 0"
        )


def _gradient_blocks(config: Config, batch_size: int, has_batch_statistics: bool) -> int:
    if config.gradient_blocks:
        if batch_size % config.gradient_blocks:
            raise ValueError(
                f"gradient_blocks is {config.gradient_blocks}, which does not divide the batch of {batch_size} on a"
                " device; choose a divisor"
            )
        return config.gradient_blocks
    # Batch statistics are of the whole batch, so only a network without them gets blocks that nobody asked for.
    if jax.default_backend() == "cpu" and not has_batch_statistics and batch_size % CPU_BLOCK == 0:
        return batch_size // CPU_BLOCK
    return 1
