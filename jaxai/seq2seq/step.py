"""The train step: teacher forcing over padded batches, the mean over real tokens, scheduled sampling by choice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxai import optimizer as optimizers
from jaxai import ranges
from jaxai.core import Batch, Key, Metrics, PyTree, State, Workload, pmean, psum, step_key
from jaxai.optimizer import Optimizer
from jaxai.ranges import Natural, Rate, Share
from jaxai.seq2seq.checks import SOURCE, check_batch
from jaxai.seq2seq.model import Model, Seq2Seq
from jaxai.seq2seq.vocabulary import BEGIN


@dataclass(frozen=True)
class Config(Model):
    """What `make` builds: the network, its loss and its optimizer."""

    optimizer: Optimizer = field(default_factory=lambda: Optimizer("adam", 1e-3, clip_norm=5.0))
    label_smoothing: Rate = 0.0  # share of the probability that is spread over the whole vocabulary
    scheduled_sampling: Share = 0.0  # in the end, share of decoder inputs that the network draws itself
    scheduled_sampling_steps: Natural = 0  # steps over which that share rises from 0; 0: all along
    ema_decay: Rate = 0.0  # of the average of parameters that translates; 0: none, the last ones do


def make(config: Config, axis_name: str | None = None) -> Workload:
    """The workload: teacher-forced cross-entropy of the targets.

    A batch is {"source": [batch, S], "source_length": [batch], "target": [batch, T], "target_length": [batch]},
    int32, padded on the right with 0. Both sequences end with END; the decoder's input is BEGIN and the target without
    its last token, so that no token is ever its own input. Shapes and dtypes are checked while a step is traced;
    `check_values` checks, on the host, what stands in the arrays.

    The loss is the mean over the real target tokens of all devices, in nats, with label smoothing (Szegedy et al.
    2016, arXiv:1512.00567, section 7). Scheduled sampling (Bengio et al. 2015, arXiv:1506.03099) takes a second,
    teacher-forced pass over inputs of which a share was drawn from the predictions of the first (Mihaylova and Martins
    2019, arXiv:1906.07651): no loop over time is needed.

    `eval_step` gives sums over real tokens: `loss` (cross-entropy without smoothing), `token_accuracy`, and `count`,
    the tokens.

    Raises:
      ValueError: a field out of its range; one line that names it. The steps raise it for a batch of other shapes.
    """
    ranges.check(config)
    network = Seq2Seq(config)
    transform, rate = optimizers.make(config.optimizer), optimizers.schedule(config.optimizer)

    def init(key: Key) -> State:
        key, init_key = jax.random.split(key)
        one = jnp.ones((1, 2), jnp.int32)
        params = network.init(init_key, one, jnp.full(1, 2), one)["params"]
        extra = {"ema": jax.tree.map(jnp.copy, params)} if config.ema_decay else {}
        return State(jnp.int32(0), params, transform.init(params), key, extra=extra)

    def logits_of(params: PyTree, batch: Mapping[str, jax.Array], inputs: jax.Array, key: Key | None) -> jax.Array:
        logits: Any = network.apply(
            {"params": params},
            batch["source"],
            batch["source_length"],
            inputs,
            train=key is not None,
            rngs=None if key is None else {"dropout": key},
        )
        return logits

    def loss_and_sums(params: PyTree, state: State, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        dropout_key, sample_key = jax.random.split(step_key(state, axis_name))
        target, mask = batch["target"], _mask(batch)
        inputs = _shifted(target)
        if config.scheduled_sampling:
            drawn = logits_of(jax.lax.stop_gradient(params), batch, inputs, dropout_key)
            inputs = _mixed(config, sample_key, state.step, inputs, drawn)
        logits = logits_of(params, batch, inputs, dropout_key)
        normalizer = jax.nn.logsumexp(logits, -1)
        losses = normalizer - _picked(logits, target)
        if config.label_smoothing:
            uniform = normalizer - logits.mean(-1)
            losses = losses + config.label_smoothing * (uniform - losses)
        correct = (logits.argmax(-1) == target) * mask
        # The mean over all devices' tokens; `pmean` of the gradients divides by the number of devices once more.
        tokens = pmean(mask.sum(), axis_name)
        return (losses * mask).sum() / tokens, {"token_accuracy": correct.sum() / tokens}

    def gradients(state: State, batch: Batch) -> tuple[PyTree, Metrics]:
        check_batch(batch)
        assert batch is not None
        differentiate = jax.value_and_grad(loss_and_sums, has_aux=True)
        (loss, metrics), grads = differentiate(state.params, state, batch)
        grads, metrics = pmean((grads, metrics | {"loss": loss}), axis_name)
        return grads, metrics

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        grads, metrics = gradients(state, batch)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        extra = state.extra
        if config.ema_decay:
            # Early on the average follows faster, so that it forgets the random start (as TensorFlow's num_updates).
            decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
            extra = {"ema": optax.incremental_update(params, state.extra["ema"], 1 - decay)}
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": rate(state.step)}
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=extra), metrics

    def eval_step(state: State, batch: Batch) -> Metrics:
        check_batch(batch)
        assert batch is not None
        target, mask = batch["target"], _mask(batch)
        logits = logits_of(parameters(state), batch, _shifted(target), None)
        losses = jax.nn.logsumexp(logits, -1) - _picked(logits, target)
        correct = logits.argmax(-1) == target
        sums = {"loss": (losses * mask).sum(), "token_accuracy": (correct * mask).sum(), "count": mask.sum()}
        return psum(sums, axis_name)

    return Workload(init, train_step, eval_step, lambda state, batch: gradients(state, batch)[0])


def parameters(state: State) -> PyTree:
    """The parameters that translate: the average where there is one."""
    return state.extra["ema"] if state.extra and "ema" in state.extra else state.params


def make_predict(config: Config) -> Callable[[State, Batch], jax.Array]:
    """(state, batch) -> teacher-forced logits [batch, T, vocabulary] float32, without dropout."""
    network = Seq2Seq(config)

    def predict(state: State, batch: Batch) -> jax.Array:
        check_batch(batch, (*SOURCE, "target"))
        assert batch is not None
        inputs = _shifted(batch["target"])
        logits: Any = network.apply(
            {"params": parameters(state)}, batch["source"], batch["source_length"], inputs, train=False
        )
        return logits

    return predict


def _shifted(target: jax.Array) -> jax.Array:
    """w1 w2 END -> BEGIN w1 w2."""
    # int32, because a dtype that holds the target may be too small for what scheduled sampling draws.
    return jnp.pad(target[:, :-1].astype(jnp.int32), ((0, 0), (1, 0)), constant_values=BEGIN)


def _mask(batch: Mapping[str, jax.Array]) -> jax.Array:
    """[batch, T] float32: 1 where a target token is real, in an example that counts."""
    real = jnp.arange(batch["target"].shape[1]) < batch["target_length"][:, None]
    mask = real.astype(jnp.float32)
    return mask * batch["mask"][:, None] if "mask" in batch else mask


def _picked(logits: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, target[..., None], -1)[..., 0]


def _mixed(config: Config, key: Key, step: jax.Array, inputs: jax.Array, logits: jax.Array) -> jax.Array:
    """Decoder inputs, some of which are drawn from the predictions for their place."""
    share = jnp.float32(config.scheduled_sampling)
    if config.scheduled_sampling_steps:
        share = share * jnp.minimum(1, step / config.scheduled_sampling_steps)
    draw_key, choose_key = jax.random.split(key)
    # What the logits at place t predict is the input at t + 1.
    drawn = jax.random.categorical(draw_key, logits[:, :-1]).astype(inputs.dtype)
    chosen = jax.random.bernoulli(choose_key, share, drawn.shape)
    return inputs.at[:, 1:].set(jnp.where(chosen, drawn, inputs[:, 1:]))
