"""The train step: teacher forcing over padded batches, the mean over real tokens, optional scheduled sampling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxai import averages, networks, ranges
from jaxai import optimizer as optimizers
from jaxai.averages import parameters, variables
from jaxai.core import Batch, Key, Metric, Metrics, PyTree, State, Workload, pmean, psum, step_key
from jaxai.optimizer import Optimizer
from jaxai.ranges import Natural, Rate, Share
from jaxai.seq2seq.checks import SOURCE, check_batch, check_values
from jaxai.seq2seq.losses import Loss, check_logits, check_loss, cross_entropy, trace_loss
from jaxai.seq2seq.model import Model, own_or_built
from jaxai.seq2seq.vocabulary import BEGIN

__all__ = ["METRICS", "Config", "example_batch", "make", "make_predict", "parameters", "variables"]

METRICS = {
    "loss": Metric("loss", "nats/token", better="lower", shown=True, log=True),
    "token_accuracy": Metric("token accuracy", "%", better="higher", shown=True),
    "grad_norm": Metric("gradient norm", log=True),
    "learning_rate": Metric("learning rate"),
}
"""What the metrics of the steps mean."""


@dataclass(frozen=True)
class Config(Model):
    """The network (the fields of `Model`), its loss and its optimizer."""

    optimizer: Optimizer = field(default_factory=lambda: Optimizer("adam", 1e-3, clip_norm=5.0))
    label_smoothing: Rate = 0.0  # share of the probability that is spread over the whole vocabulary
    scheduled_sampling: Share = 0.0  # final share of decoder inputs that are drawn from the network's predictions
    scheduled_sampling_steps: Natural = 0  # steps over which that share rises from 0; 0: constant
    ema_decay: Rate = 0.0  # decay of the moving average of the parameters that evaluation uses; 0: no average


def make(
    config: Config,
    axis_name: str | None = None,
    *,
    network: nn.Module | None = None,
    transformation: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
) -> Workload:
    """The workload: teacher-forced training on pairs of token sequences.

    A batch is {"source": [batch, S], "source_length": [batch], "target": [batch, T], "target_length": [batch]},
    integers, padded on the right with PAD. Both sequences end with END, which their lengths include; `make_batch` makes
    such a batch from lists of tokens. The decoder's input is BEGIN and the target without its last token. An optional
    "mask" [batch] is 1 for examples that count. Shapes and dtypes are checked while a step is traced; `check_values`
    checks the values on the host, and so does a step that is called with NumPy arrays outside of `jit`.

    The loss is the mean over the real target tokens of all devices, with label smoothing (Szegedy et al. 2016,
    arXiv:1512.00567, section 7). Scheduled sampling (Bengio et al. 2015, arXiv:1506.03099) takes a second,
    teacher-forced pass, with a share of the inputs drawn from the predictions of the first (Mihaylova and Martins 2019,
    arXiv:1906.07651): it needs no loop over time.

    Args:
      config: the network and how it is trained.
      axis_name: the mapped axis over devices (`pmap`, `shard_map`); None for one device and for `jit` over a mesh.
      network: a linen module of your own with the methods of `Network`, called as `network(source, source_lengths,
        inputs, train=...)`. Its collections other than the parameters are kept in `state.extra` and updated in each
        step; over several devices their floats are averaged. Random layers get streams of any name in training. A
        `flax.nnx` module becomes a linen module with `nnx.bridge.to_linen(TheClass, ...)`. None: `build(config)`.
      transformation: of optax; it may take the extra arguments `value`, `grad` and `value_fn`. None:
        `jaxai.optimizer.make(config.optimizer)`.
      loss: (logits [batch, T, vocabulary] float32, targets [batch, T]) -> the loss of each token [batch, T]. None:
        `cross_entropy` with the label smoothing of the config.

    Returns:
      A workload. Training metrics: `loss`, `token_accuracy`, `grad_norm` (before clipping), and `learning_rate` where
      it is known: not for a `transformation` without `optax.inject_hyperparams`. Evaluation sums over real tokens:
      `loss` (of your own `loss`, else the cross-entropy without smoothing, in nats), `token_accuracy`, and `count`, the
      number of tokens. `predict` is that of `make_predict`.

    Raises:
      ValueError: a field out of its range, label smoothing with a loss of your own, or a network or a loss that
        returns other shapes; one line that names it. The steps raise it for a batch of other shapes.
    """
    ranges.check(config)
    if loss is not None and config.label_smoothing:
        raise ValueError(
            f"label_smoothing is {config.label_smoothing}, which a loss of your own would not see; set it to 0, and "
            "smooth in the loss (seq2seq.cross_entropy takes label_smoothing)"
        )
    if loss is not None:
        trace_loss(loss)
    predict = make_predict(config, network=network)
    own, network = network is not None, own_or_built(config, network)
    transform, rate = optimizers.own_or_built(config.optimizer, transformation)
    train_loss = partial(cross_entropy, label_smoothing=config.label_smoothing) if loss is None else loss

    def initialize(key: Key) -> tuple[PyTree, dict[str, PyTree], jax.Array]:
        one = jnp.ones((1, 2), jnp.int32)
        params, collections, logits = networks.initialize(network, key, one, jnp.full(1, 2), one)
        return params, collections, check_logits(logits, one.shape, config.target_vocabulary)

    if own and averages.EMA in jax.eval_shape(initialize, jax.random.key(0))[1]:
        raise ValueError(f"network has a collection {averages.EMA!r}, as the moving average; rename it")

    def init(key: Key) -> State:
        key, init_key = jax.random.split(key)
        params, collections, _ = initialize(init_key)
        averaged = averages.start(_averaged(params, collections)) if config.ema_decay else {}
        opt_state = averages.initialize(transform, params)
        return State(jnp.int32(0), params, opt_state, key, extra=collections | averaged)

    def check(batch: Batch) -> None:
        check_batch(batch)
        if batch is not None and all(isinstance(array, np.ndarray) for array in batch.values()):
            # Outside of jit NumPy arrays can be read: the only place where a step sees values.
            check_values(batch, config.source_vocabulary, config.target_vocabulary)

    def logits_of(
        params: PyTree, state: State, batch: Mapping[str, jax.Array], inputs: jax.Array, key: Key
    ) -> tuple[jax.Array, PyTree]:
        """Logits in training, and the collections after them."""
        collections = _collections(state)
        logits, updated = network.apply(
            {"params": params, **collections},
            batch["source"],
            batch["source_length"],
            inputs,
            train=True,
            rngs=networks.rngs(key),
            mutable=list(collections),
        )
        return check_logits(logits, inputs.shape, config.target_vocabulary), collections | dict(updated)

    def loss_and_metrics(
        params: PyTree, state: State, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
        dropout_key, sample_key = jax.random.split(step_key(state, axis_name))
        target, mask = batch["target"], _mask(batch)
        inputs = _shifted(target)
        if config.scheduled_sampling:
            drawn, _ = logits_of(jax.lax.stop_gradient(params), state, batch, inputs, dropout_key)
            inputs = _mixed(config, sample_key, state.step, inputs, drawn)
        logits, collections = logits_of(params, state, batch, inputs, dropout_key)
        losses = check_loss(train_loss(logits, target), target.shape)
        correct = (logits.argmax(-1) == target) * mask
        # The mean over all devices' tokens; `pmean` of the gradients divides by the number of devices once more.
        tokens = pmean(mask.sum(), axis_name)
        return (losses * mask).sum() / tokens, ({"token_accuracy": correct.sum() / tokens}, collections)

    def gradient(state: State, batch: Batch) -> tuple[PyTree, PyTree, Metrics]:
        """Gradients, collections and metrics, averaged over devices."""
        check(batch)
        assert batch is not None
        differentiate = jax.value_and_grad(loss_and_metrics, has_aux=True)
        (mean, (metrics, collections)), grads = differentiate(state.params, state, batch)
        grads, metrics = pmean((grads, metrics | {"loss": mean}), axis_name)
        return grads, networks.pmean_floats(collections, axis_name), metrics

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        grads, collections, metrics = gradient(state, batch)

        def loss_of(params: PyTree) -> jax.Array:
            assert batch is not None
            return pmean(loss_and_metrics(params, state, batch)[0], axis_name)

        after = averages.advance(
            state,
            transform,
            grads,
            collections,
            ema_decay=config.ema_decay,
            value=metrics["loss"],
            value_fn=loss_of,
        )
        return after, metrics | {"grad_norm": optax.tree.norm(grads)} | rate(state.step, after.opt_state)

    def eval_step(state: State, batch: Batch) -> Metrics:
        check(batch)
        assert batch is not None
        target, mask = batch["target"], _mask(batch)
        logits = predict(state, batch)
        losses = check_loss((loss or cross_entropy)(logits, target), target.shape)
        correct = logits.argmax(-1) == target
        sums = {"loss": (losses * mask).sum(), "token_accuracy": (correct * mask).sum(), "count": mask.sum()}
        return psum(sums, axis_name)

    return Workload(init, train_step, eval_step, lambda state, batch: gradient(state, batch)[0], predict)


def make_predict(config: Config, *, network: nn.Module | None = None) -> Callable[[State, Batch], jax.Array]:
    """A function (state, batch) -> teacher-forced logits [batch, T, vocabulary] float32, without dropout.

    It uses the variables that evaluation uses: averages where `ema_decay` is set. The batch needs "source",
    "source_length" and "target".

    Args:
      config: the network; the same as for `make`.
      network: one of your own; the same as for `make`.
    """
    network = own_or_built(config, network)

    def predict(state: State, batch: Batch) -> jax.Array:
        check_batch(batch, (*SOURCE, "target"))
        assert batch is not None
        inputs = _shifted(batch["target"])
        logits: Any = network.apply(variables(state), batch["source"], batch["source_length"], inputs, train=False)
        return check_logits(logits, inputs.shape, config.target_vocabulary)

    return predict


def example_batch(
    config: Config, batch_size: int, source_length: int = 16, target_length: int = 16
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch, for lowering and for counting operations.

    Args:
      config: of the workload; the shapes do not depend on it.
      batch_size: number of pairs.
      source_length: S, padding included.
      target_length: T, padding included.
    """
    widths = {"source": source_length, "target": target_length}
    tokens = {side: jax.ShapeDtypeStruct((batch_size, width), jnp.int32) for side, width in widths.items()}
    return tokens | {f"{side}_length": jax.ShapeDtypeStruct((batch_size,), jnp.int32) for side in widths}


def _collections(state: State) -> dict[str, PyTree]:
    """The collections of the network other than its parameters, after the last step."""
    return {name: value for name, value in (state.extra or {}).items() if name != averages.EMA}


def _averaged(params: PyTree, collections: PyTree) -> dict[str, PyTree]:
    """The variables to average; batch statistics too, because the last ones belong to other parameters."""
    return {"params": params} | {name: collections[name] for name in collections if name == "batch_stats"}


def _shifted(target: jax.Array) -> jax.Array:
    """w1 w2 END -> BEGIN w1 w2."""
    # int32, because a dtype that holds the target may be too small for what scheduled sampling draws.
    return jnp.pad(target[:, :-1].astype(jnp.int32), ((0, 0), (1, 0)), constant_values=BEGIN)


def _mask(batch: Mapping[str, jax.Array]) -> jax.Array:
    """[batch, T] float32: 1 where a target token is real, in an example that counts."""
    real = jnp.arange(batch["target"].shape[1]) < batch["target_length"][:, None]
    mask = real.astype(jnp.float32)
    return mask * batch["mask"][:, None] if "mask" in batch else mask


def _mixed(config: Config, key: Key, step: jax.Array, inputs: jax.Array, logits: jax.Array) -> jax.Array:
    """Decoder inputs, a share of which is drawn from the predictions for their position."""
    share = jnp.float32(config.scheduled_sampling)
    if config.scheduled_sampling_steps:
        share = share * jnp.minimum(1, step / config.scheduled_sampling_steps)
    draw_key, choose_key = jax.random.split(key)
    # The logits at position t predict the input at t + 1.
    drawn = jax.random.categorical(draw_key, logits[:, :-1]).astype(inputs.dtype)
    chosen = jax.random.bernoulli(choose_key, share, drawn.shape)
    return inputs.at[:, 1:].set(jnp.where(chosen, drawn, inputs[:, 1:]))
