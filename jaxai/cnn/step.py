"""Image classification: the pure functions that train and evaluate a network."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxai import averages, inputs, networks
from jaxai import optimizer as optimizers
from jaxai.cnn.augment import augment
from jaxai.cnn.config import Config, check, normalize
from jaxai.cnn.predict import make_predict, own_or_built
from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, pmean, psum, split_batch, step_key
from jaxai.tracing import trace

__all__ = ["Loss", "cross_entropy", "make", "make_gradients"]

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits [batch, num_classes] float32, label probabilities [batch, num_classes] float32) -> losses [batch] float32."""
CPU_BLOCK = 16
"""Images in a gradient block on CPU: the im2col matrices of 16 images still fit the caches (benchmarks/README.md)."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The default loss: `-sum(labels * log_softmax(logits))` of each example, in nats.

    Args:
      logits: [batch, num_classes] float32.
      labels: [batch, num_classes] float32, probabilities: one-hot, smoothed or mixed.

    Returns:
      [batch] float32.
    """
    chex.assert_rank(logits, 2)
    chex.assert_equal_shape([logits, labels])  # labels [batch] would broadcast
    return cast(jax.Array, optax.softmax_cross_entropy(logits, labels))


def make(
    config: Config,
    axis_name: str | None = None,
    *,
    network: nn.Module | None = None,
    transformation: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
) -> Workload:
    """The pure functions of an image classifier.

    A batch is `{"image": [batch, height, width, channels] uint8 in [0, 255] or float in [0, 1], "label": [batch]
    int32}`, with optional `"index"` ([batch] int32, the example's index in the data, for alternating flips) in
    training and optional `"mask"` ([batch], 1 for examples that count) in evaluation. Each step checks these shapes
    and dtypes while it is traced, and raises a ValueError of one line that states the fix.

    >>> import jax, optax
    >>> from flax import linen as nn
    >>> class Linear(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, *, train):
    ...         return nn.Dense(10)(nn.BatchNorm(use_running_average=not train)(images.reshape(len(images), -1)))
    >>> def focal(logits, labels):  # Lin et al. 2017, arXiv:1708.02002
    ...     return -(labels * (1 - jax.nn.softmax(logits)) ** 2 * jax.nn.log_softmax(logits)).sum(-1)
    >>> config = Config(image_shape=(4, 4, 1), ema_decay=0.99)
    >>> workload = make(config, network=Linear(), transformation=optax.adamw(1e-3), loss=focal)
    >>> sorted(workload.init(jax.random.key(0)).extra)
    ['batch_stats', 'ema']

    Args:
      config: the network and how it is trained. Fields that an argument replaces are not used: those of `cnn.Model`
        with `network`, `optimizer` with `transformation`.
      axis_name: the mapped axis over devices (`pmap`, `shard_map`); None for one device and for `jit` over a mesh.
      network: a linen module that is called as `network(images, train=...)` with images float32 [batch, height, width,
        channels] as `normalize` returns them, and returns logits [batch, num_classes]. None: `build(config,
        num_classes)`. Its collections, as `batch_stats` or your own, are kept in `state.extra` and updated in each
        step; over several devices their floats are averaged. In training, dropout and other random layers can use rng
        streams of any name. Convert a module of `flax.nnx` with `nnx.bridge.to_linen(TheClass, ...)`, where
        `TheClass.__call__` takes `(images, *, train)`.
      transformation: any optax transformation; one with extra arguments gets `value`, `grad` and `value_fn`. None:
        `jaxai.optimizer.make(config.optimizer)`. `grad_norm` is measured before it.
      loss: logits and label probabilities (smoothed by `label_smoothing`, mixed by mixup and cutmix) -> the loss of
        each example, [batch]; `class_weights` multiply it. None: `cross_entropy`.

    Returns:
      A workload. Training metrics: `loss` (mean over the examples, each multiplied by the class weight of its label,
      or by the weighted mean of them for mixed labels), `accuracy` (mean weight that the label of an example gives to
      the predicted class: 0 or 1 without mixup and cutmix), `grad_norm` (before clipping), and `learning_rate` where
      it is known: not for a `transformation` without `optax.inject_hyperparams`. Evaluation sums: `loss`, `accuracy`,
      `top5_accuracy`, `count`, and `confusion` ([num_classes, num_classes] counts; row: true label, column: predicted
      label), unweighted and without label smoothing. A label out of range counts as a wrong prediction, and the loss
      of its batch is NaN.

    Raises:
      ValueError: a field has a value that cannot be trained with, or an argument has another form; one line that names
        it.
    """
    check(config)
    objective = _Objective(config, axis_name, own_or_built(config, network, axis_name), network is not None, loss)
    objective.check()
    transform, rate = optimizers.own_or_built(config.optimizer, transformation)
    predict = make_predict(config, network=network)

    def init(key: Key) -> State:
        key, params_key = jax.random.split(key)
        params, collections = objective.initialize(params_key)
        extra = collections | (averages.start(_averaged(params, collections)) if config.ema_decay else {})
        return State(jnp.int32(0), params, averages.initialize(transform, params), key, extra=extra)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        examples = objective.prepare(state, batch)
        grads, collections, metrics = objective.gradient(state, examples)
        after = averages.advance(
            state,
            transform,
            grads,
            collections,
            ema_decay=config.ema_decay,
            value=metrics["loss"],
            value_fn=lambda params: objective.value(params, state, examples),
        )
        metrics |= {"grad_norm": optax.tree.norm(grads)} | rate(state.step, after.opt_state)
        return after, jax.tree.map(lambda metric: jnp.asarray(metric, jnp.float32), metrics)

    def eval_step(state: State, batch: Batch) -> Metrics:
        images, labels = _images_and_labels(config, batch)
        mask, logits = inputs.mask(batch, len(labels)), predict(state, images)
        # Examples that do not count may have any label.
        losses = jnp.where(
            _in_range(config, labels), objective.evaluated(logits, labels), jnp.where(mask > 0, jnp.nan, 0)
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

    def gradients(state: State, batch: Batch) -> PyTree:
        return objective.gradient(state, objective.prepare(state, batch))[0]

    return Workload(init, train_step, eval_step, gradients, predict)


def make_gradients(
    config: Config, axis_name: str | None = None, *, network: nn.Module | None = None, loss: Loss | None = None
) -> Callable[[State, Batch], tuple[PyTree, dict[str, PyTree], Metrics]]:
    """The first half of a train step, for an update of your own; `averages.advance` is the second half.

    Args:
      config, axis_name, network, loss: as in `make`.

    Returns:
      (state, batch) -> (gradients, collections, metrics). Gradients have the structure of `state.params`, collections
      are `state.extra` without the moving average after this batch, as `{"batch_stats": ...}`, metrics `loss` and
      `accuracy`; averaged over the batch and over devices.

    Raises:
      ValueError: as `make`.
    """
    check(config)
    objective = _Objective(config, axis_name, own_or_built(config, network, axis_name), network is not None, loss)
    objective.check()
    return lambda state, batch: objective.gradient(state, objective.prepare(state, batch))


class _Examples(NamedTuple):
    """A batch in the form that the loss takes.

    Attributes:
      images: [batch, height, width, channels] float32, normalised and augmented.
      labels: [batch, num_classes] float32, probabilities.
      in_range: [] bool, whether all labels are.
      key: of the network's random layers.
    """

    images: jax.Array
    labels: jax.Array
    in_range: jax.Array
    key: Key


class _Objective(NamedTuple):
    """What training minimises, and its gradient.

    Attributes:
      config, axis_name: as in `make`.
      network: the linen module.
      own_network: whether the caller gave the network.
      own_loss: the loss that the caller gave; None for `cross_entropy`.
    """

    config: Config
    axis_name: str | None
    network: nn.Module
    own_network: bool
    own_loss: Loss | None

    def check(self) -> None:
        """Raises ValueError unless the caller's network returns logits and the caller's loss returns losses."""
        shape = jax.ShapeDtypeStruct((2, self.config.num_classes), jnp.float32)
        if self.own_loss is not None:
            found = trace(
                "loss", self.own_loss, shape, shape, expected="(logits, labels) -> [batch], labels as probabilities"
            )
            given = getattr(found, "shape", None)
            if given != (2,):
                reason = "a " + type(found).__name__ if given is None else f"shape {list(given)}"
                hint = "; leave out its mean" if given == () else ""
                raise ValueError(f"loss returns {reason} for 2 examples; expected [batch], the loss of each{hint}")
            if not jnp.issubdtype(found.dtype, jnp.floating):
                raise ValueError(f"loss returns {found.dtype}, which has no gradient; expected floats [batch]")
        if self.own_network:
            _, collections, logits = jax.eval_shape(self._initialize, jax.random.key(0))
            described = f"logits [batch, {self.config.num_classes}]"
            networks.check_output(logits, (1, self.config.num_classes), "network", described)
            if averages.EMA in collections:
                raise ValueError(f"network has a collection {averages.EMA!r}, as the moving average; rename it")

    def initialize(self, key: Key) -> tuple[PyTree, dict[str, PyTree]]:
        """Parameters and collections of the network."""
        return self._initialize(key)[:2]

    def _initialize(self, key: Key) -> tuple[PyTree, dict[str, PyTree], Any]:
        return networks.initialize(self.network, key, jnp.zeros((1, *self.config.image_shape)))

    def prepare(self, state: State, batch: Batch) -> _Examples:
        """The examples of a batch, augmented for this step on this device."""
        config = self.config
        images, true = _images_and_labels(config, batch)
        augment_key, key = jax.random.split(step_key(state, self.axis_name))
        images, labels = augment(
            config.augment,
            augment_key,
            normalize(config, images),
            jax.nn.one_hot(true, config.num_classes),
            epoch=state.step // config.steps_per_epoch,
            example_index=_index(batch, len(images)),
        )
        return _Examples(images, labels, _in_range(config, true).all(), key)

    def loss(
        self, params: PyTree, collections: PyTree, images: jax.Array, labels: jax.Array, key: Key
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        """The mean loss of examples; the collections afterwards, and metrics."""
        config = self.config
        output, updated = self.network.apply(
            {"params": params, **collections},
            images,
            train=True,
            rngs=networks.rngs(key),
            mutable=list(collections),
        )
        logits = cast(jax.Array, output).astype(jnp.float32)
        losses = (self.own_loss or cross_entropy)(logits, optax.smooth_labels(labels, config.label_smoothing))
        # The mean over examples and not over weights, so that the means of blocks and devices can be averaged.
        if config.class_weights != "none":
            losses = losses * (labels * jnp.array(config.class_weights)).sum(-1)
        loss = losses.mean()
        predicted = jax.nn.one_hot(logits.argmax(-1), config.num_classes)
        accuracy = (labels * predicted).sum(-1).mean()
        return loss, (collections | updated, {"loss": loss, "accuracy": accuracy})

    def gradient(self, state: State, examples: _Examples) -> tuple[PyTree, dict[str, PyTree], Metrics]:
        """Gradient, collections and metrics, averaged over the batch and over devices."""
        collections = {name: value for name, value in state.extra.items() if name != averages.EMA}
        value_and_grad = jax.value_and_grad(self.loss, has_aux=True)
        blocks = self._blocks(len(examples.images), collections)
        if blocks == 1:
            inputs = (examples.images, examples.labels, examples.key)
            (_, (collections, metrics)), grads = value_and_grad(state.params, collections, *inputs)
        else:

            def accumulate(carry: PyTree, block: PyTree) -> tuple[PyTree, None]:
                total, collections = carry
                (_, (collections, metrics)), grads = value_and_grad(state.params, collections, *block)
                return (jax.tree.map(jnp.add, total, (grads, metrics)), collections), None

            zeros = jax.tree.map(jnp.zeros_like, (state.params, {"loss": 0.0, "accuracy": 0.0}))
            (total, collections), _ = lax.scan(accumulate, (zeros, collections), _split(examples, blocks))
            grads, metrics = jax.tree.map(lambda leaf: leaf / blocks, total)
        # The one-hot vector of a label out of range is all zeros, which would give a loss of 0.
        metrics["loss"] = jnp.where(examples.in_range, metrics["loss"], jnp.nan)
        if self.own_network:  # it need not average over the axis itself
            collections = networks.pmean_floats(collections, self.axis_name)
        grads, metrics = pmean((grads, metrics), self.axis_name)
        return grads, collections, metrics

    def value(self, params: PyTree, state: State, examples: _Examples) -> jax.Array:
        """The loss that `gradient` differentiates, at other parameters: for a line search."""
        collections = {name: value for name, value in state.extra.items() if name != averages.EMA}
        blocks = self._blocks(len(examples.images), collections)
        losses = lax.map(lambda block: self.loss(params, collections, *block)[0], _split(examples, blocks))
        return pmean(losses.mean(), self.axis_name)

    def evaluated(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """The loss of each example in evaluation; labels [batch] int32."""
        if self.own_loss is None:
            return cast(jax.Array, optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        return self.own_loss(logits, jax.nn.one_hot(labels, self.config.num_classes))

    def _blocks(self, batch_size: int, collections: PyTree) -> int:
        blocks = self.config.gradient_blocks
        if blocks:
            if batch_size % blocks:
                raise ValueError(
                    f"gradient_blocks is {blocks}, which does not divide the batch of {batch_size} on a device; choose"
                    " a divisor"
                )
            return blocks
        # Batch statistics are those of the whole batch, so only networks that are known to have none get blocks.
        alone = not self.own_network and "batch_stats" not in collections
        if jax.default_backend() == "cpu" and alone and batch_size % CPU_BLOCK == 0:
            return batch_size // CPU_BLOCK
        return 1


def _split(examples: _Examples, blocks: int) -> tuple[jax.Array, jax.Array, Key]:
    """Images, labels and keys [blocks, ...]."""
    keys = examples.key[None] if blocks == 1 else jax.random.split(examples.key, blocks)
    return split_batch(examples.images, blocks), split_batch(examples.labels, blocks), keys


def _averaged(params: PyTree, collections: PyTree) -> dict[str, PyTree]:
    """What the moving average follows: with batch statistics, as those of the last batches belong to other weights."""
    return {"params": params} | {name: collections[name] for name in collections if name == "batch_stats"}


def _images_and_labels(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Images and labels of a batch, checked for shape and dtype."""
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
