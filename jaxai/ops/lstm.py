"""Long short-term memory over padded batches: one function, one parameter layout, the fastest form of each backend.

The forms compute the same values; they differ in the place of their matmuls:

- `scan`: `lax.scan` of `cell`, differentiated by JAX. All transformations work, including forward mode.
- `custom_gradient`: the backward scan has only the matmul with the transposed recurrent weights. The gradients of the
  weights and of the input are one matmul each after it, instead of a sum that every step reads and writes.
- `hoisted`: the same, and the input is multiplied by its weights in one matmul before the loop: for chips that the
  matmul of one step does not fill. On CPU it was no faster (measured).
- `cudnn`: NVIDIA's implementation, through `jax.experimental.rnn`; float32 on a GPU.

On CPU the custom gradient is faster than flax's `nn.RNN(nn.OptimizedLSTMCell)`, above all in small batches: the tasks
`train` and `train-16` of benchmarks/peers/compare_seq2seq.py, whose figures are in benchmarks/results.

Source: Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000), without peepholes.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

FORMS = "auto", "scan", "custom_gradient", "hoisted", "cudnn"


class Weights(NamedTuple):
    """Weights of one layer in one direction; the gates are along the last axis in PyTorch's order i, f, g, o."""

    input: jax.Array  # [features, 4 * hidden]
    recurrent: jax.Array  # [hidden, 4 * hidden]
    bias: jax.Array  # [4 * hidden]


class Carry(NamedTuple):
    """The state between two steps."""

    h: jax.Array  # [batch, hidden]
    c: jax.Array  # [batch, hidden]; `zeros` makes it float32 also where the rest is bfloat16


def zeros(x: jax.Array, weights: Weights) -> Carry:
    """The carry before the first step; x is [batch, ...]."""
    dtype = jnp.result_type(x, *weights)
    shape = len(x), weights.recurrent.shape[0]
    return Carry(jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32)))


def cell(x: jax.Array, carry: Carry, weights: Weights) -> Carry:
    """One step of every sequence.

    The gates are computed in float32 or wider; h and c keep their own dtypes.

    Args:
      x: [batch, features].
      carry: of the step before.
      weights: of the layer.
    """
    inputs = product(x, weights.input) + weights.bias
    i, f, g, o = activations(inputs + product(carry.h, weights.recurrent))
    c = f * carry.c + i * g
    return Carry((o * jnp.tanh(c)).astype(carry.h.dtype), c.astype(carry.c.dtype))


def lstm(
    x: jax.Array,
    weights: Weights,
    carry: Carry | None = None,
    lengths: jax.Array | None = None,
    *,
    reverse: bool = False,
    form: str = "auto",
) -> tuple[jax.Array, Carry]:
    """The outputs h of every step, and the carry after each sequence's last step.

    Args:
      x: [batch, time, features], padded on the right with finite numbers.
      weights: of the layer.
      carry: before the first step; None: zeros.
      lengths: [batch] int32, 0 to `time`, the number of steps without padding; None: all.
      reverse: reads each sequence from its last real step to its first.
      form: one of `FORMS`. "auto" is "cudnn" on a GPU where `cudnn_refusal` allows it, "custom_gradient" on CPU and
        "hoisted" elsewhere, also in an ahead-of-time compilation for a TPU.

    Returns:
      Outputs [batch, time, hidden], 0 where the input is padding, and the carry; that of an empty sequence is the one
      before the first step.

    Raises:
      ValueError: shapes that do not fit, an unknown form, or "cudnn" where it is not possible.
    """
    carry = zeros(x, weights) if carry is None else Carry(*carry)
    check(x, weights, carry, lengths, form)
    if form == "cudnn" or (form == "auto" and not cudnn_refusal(x, weights, carry)):
        return over_time_cudnn(x, weights, carry, lengths, reverse)
    real = None if lengths is None else (jnp.arange(x.shape[1])[:, None] < lengths)[..., None]
    x = x.swapaxes(0, 1)
    if form == "scan":
        outputs, carry = over_time(x, weights, carry, real, reverse)
    else:
        outputs, carry = recurrence(x, weights, carry, real, reverse, form)
    if real is not None:
        outputs = jnp.where(real, outputs, 0)
    return outputs.swapaxes(0, 1), carry


def check(x: jax.Array, weights: Weights, carry: Carry, lengths: jax.Array | None, form: str) -> None:
    """Checks that the shapes of the arguments of `lstm` agree.

    Args:
      x, weights, carry, lengths, form: as in `lstm`, `carry` not None.

    Raises:
      ValueError: they do not, or the form is unknown; one line that names the argument.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} of the LSTM is unknown: choose one of {', '.join(FORMS)}")
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}: an LSTM reads [batch, time, features]")
    (batch, _, features), hidden = x.shape, weights.recurrent.shape[0]
    expected = {
        "weights.input": (weights.input, (features, 4 * hidden)),
        "weights.recurrent": (weights.recurrent, (hidden, 4 * hidden)),
        "weights.bias": (weights.bias, (4 * hidden,)),
        "carry.h": (carry.h, (batch, hidden)),
        "carry.c": (carry.c, (batch, hidden)),
    }
    require_shapes(expected, lengths, x, hidden)


def require_shapes(
    expected: Mapping[str, tuple[jax.Array, tuple[int, ...]]], lengths: jax.Array | None, x: jax.Array, hidden: int
) -> None:
    """Checks the shapes of a layer's arrays.

    Args:
      expected: name -> (array, the shape that it must have).
      lengths: must be [batch]; None for none.
      x: [batch, time, features].
      hidden: number of units, for the message.

    Raises:
      ValueError: an array has another shape; one line that names it.
    """
    if lengths is not None:
        expected = {**expected, "lengths": (lengths, x.shape[:1])}
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}: {shape} fits x of {x.shape} and {hidden} hidden units")


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel, accumulated and returned in float32 or wider."""
    return jnp.dot(x, kernel, preferred_element_type=jnp.promote_types(jnp.result_type(x, kernel), jnp.float32))


def activations(gates: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The input gate, forget gate, candidate and output gate of their sums [batch, 4 * hidden]."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def over_time(
    x: jax.Array, weights: Weights, carry: Carry, real: jax.Array | None, reverse: bool
) -> tuple[jax.Array, Carry]:
    """h after every step [time, batch, hidden] and the last carry, by a scan of `cell`; padding keeps the carry.

    Args:
      x: [time, batch, features].
      weights: of the layer.
      carry: before the first step.
      real: [time, batch, 1] bool, False where a step is padding; None: no padding.
      reverse: from the last step to the first.
    """

    def step(carry: Carry, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[Carry, jax.Array]:
        x, real = inputs
        following = select(real, cell(x, carry, weights), carry)
        return following, following.h

    carry, outputs = lax.scan(step, carry, (x, real), reverse=reverse)
    return outputs, carry


def select(real: jax.Array | None, new: Carry, old: Carry) -> Carry:
    """The new carry where a step is real, the old one where it is padding.

    Args:
      real: [batch, 1] bool; None: all real.
      new: after the step.
      old: before the step.
    """
    return new if real is None else Carry(jnp.where(real, new.h, old.h), jnp.where(real, new.c, old.c))


class Trace(NamedTuple):
    """What the backward pass needs of every step."""

    h: jax.Array  # [time, batch, hidden], after the step
    c: jax.Array  # [time, batch, hidden], before the step
    gates: jax.Array  # [time, batch, 4 * hidden], activated


def forward(
    x: jax.Array, weights: Weights, carry: Carry, real: jax.Array | None, reverse: bool, hoisted: bool
) -> tuple[Trace, Carry]:
    """`over_time`, with a trace for the backward pass.

    Args:
      x, weights, carry, real, reverse: as in `over_time`.
      hoisted: multiply the input by its weights before the loop.

    Returns:
      The trace, and the last carry.
    """

    def step(carry: Carry, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[Carry, Trace]:
        x, real = inputs
        sums = x if hoisted else product(x, weights.input) + weights.bias
        i, f, g, o = gates = activations(sums + product(carry.h, weights.recurrent))
        c = f * carry.c + i * g
        new = Carry((o * jnp.tanh(c)).astype(carry.h.dtype), c.astype(carry.c.dtype))
        following = select(real, new, carry)
        return following, Trace(following.h, carry.c, jnp.concatenate(gates, axis=-1).astype(carry.h.dtype))

    inputs = product(x, weights.input) + weights.bias if hoisted else x
    carry, trace = lax.scan(step, carry, (inputs, real), reverse=reverse)
    return trace, carry


def traced(
    x: jax.Array, weights: Weights, carry: Carry, real: jax.Array | None, reverse: bool, form: str
) -> tuple[Trace, Carry]:
    """`forward` in one of two forms.

    Args:
      x, weights, carry, real, reverse: as in `over_time`.
      form: "custom_gradient", "hoisted", or "auto", which is decided when the program is lowered.
    """
    inside = functools.partial(forward, reverse=reverse, hoisted=False)
    before = functools.partial(forward, reverse=reverse, hoisted=True)
    if form == "auto":
        return lax.platform_dependent(x, weights, carry, real, cpu=inside, default=before)
    return (before if form == "hoisted" else inside)(x, weights, carry, real)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def recurrence(
    x: jax.Array, weights: Weights, carry: Carry, real: jax.Array | None, reverse: bool, form: str
) -> tuple[jax.Array, Carry]:
    """`over_time` with a custom gradient.

    Args:
      x, weights, carry, real, reverse: as in `over_time`.
      form: as in `traced`.
    """
    trace, carry = traced(x, weights, carry, real, reverse, form)
    return trace.h, carry


Residuals = tuple[jax.Array, Weights, Carry, jax.Array | None, Trace]


def recurrence_forward(
    x: jax.Array, weights: Weights, carry: Carry, real: jax.Array | None, reverse: bool, form: str
) -> tuple[tuple[jax.Array, Carry], Residuals]:
    """The forward pass of the custom gradient.

    Args:
      x, weights, carry, real, reverse, form: as in `recurrence`.

    Returns:
      The outputs of `recurrence`, and the residuals for `recurrence_backward`.
    """
    trace, last = traced(x, weights, carry, real, reverse, form)
    return (trace.h, last), (x, weights, carry, real, trace)


def recurrence_backward(
    reverse: bool, form: str, residuals: Residuals, cotangents: tuple[jax.Array, Carry]
) -> tuple[jax.Array, Weights, Carry, None]:
    """The backward pass of the custom gradient.

    Args:
      reverse, form: as in `recurrence`.
      residuals: of `recurrence_forward`.
      cotangents: of the outputs [time, batch, hidden] and of the last carry.

    Returns:
      The gradients with respect to x, weights, carry and `real`; the last is None.
    """
    x, weights, first, real, trace = residuals
    outputs_cotangent, last_cotangent = cotangents
    dtype = jnp.promote_types(trace.h.dtype, jnp.float32)
    recurrent_transposed = weights.recurrent.T

    def step(carry: Carry, inputs: tuple[jax.Array, ...]) -> tuple[Carry, jax.Array]:
        h_output, c_before, gates, *masks = inputs
        i, f, g, o = jnp.split(gates.astype(dtype), 4, axis=-1)
        c_tanh = jnp.tanh(f * c_before + i * g)
        h = carry.h + h_output
        c = carry.c + h * o * (1 - c_tanh * c_tanh)
        parts = c * g * i * (1 - i), c * c_before * f * (1 - f), c * i * (1 - g * g), h * c_tanh * o * (1 - o)
        sums = jnp.concatenate(parts, axis=-1).astype(trace.h.dtype)
        before = Carry(product(sums, recurrent_transposed), c * f)
        for real in masks:
            sums, before = jnp.where(real, sums, 0), select(real, before, Carry(h, carry.c))
        return before, sums

    carry = Carry(last_cotangent.h.astype(dtype), last_cotangent.c.astype(dtype))
    inputs = (outputs_cotangent, trace.c, trace.gates) + (() if real is None else (real,))
    carry, sums = lax.scan(step, carry, inputs, reverse=not reverse)
    h_before = jnp.concatenate((trace.h[1:], first.h[None]) if reverse else (first.h[None], trace.h[:-1]))
    rows = sums.reshape(-1, sums.shape[-1])
    weights_cotangent = Weights(
        product(x.reshape(len(rows), x.shape[-1]).T, rows),
        product(h_before.reshape(len(rows), first.h.shape[-1]).T, rows),
        rows.sum(0, dtype=dtype),
    )
    return (
        product(rows, weights.input.T).reshape(x.shape).astype(x.dtype),
        Weights(*(new.astype(old.dtype) for new, old in zip(weights_cotangent, weights, strict=True))),
        Carry(*(new.astype(old.dtype) for new, old in zip(carry, first, strict=True))),
        None,
    )


recurrence.defvjp(recurrence_forward, recurrence_backward)


def cudnn_refusal(x: jax.Array, weights: Weights, carry: Carry) -> str | None:
    """Why cuDNN cannot compute this LSTM; None if it can.

    Args:
      x, weights, carry: as in `lstm`; only their shapes and dtypes are read.
    """
    if jax.default_backend() != "gpu":
        return f"the backend is {jax.default_backend()}, not a GPU"
    if any(array.dtype != jnp.float32 for array in (x, *weights, *carry)):
        return "it computes only in float32"
    if not x.size:
        return f"x of {x.shape} is empty"
    from jax.experimental import rnn

    return None if getattr(rnn, "gpu_rnn", None) else "this jaxlib was built without it"


def over_time_cudnn(
    x: jax.Array, weights: Weights, carry: Carry, lengths: jax.Array | None, reverse: bool
) -> tuple[jax.Array, Carry]:
    """`lstm` by cuDNN.

    Args:
      x, weights, carry, lengths, reverse: as in `lstm`, `carry` not None.

    Raises:
      ValueError: cuDNN cannot compute it; see `cudnn_refusal`.
    """
    if refusal := cudnn_refusal(x, weights, carry):
        raise ValueError(f"form 'cudnn' of the LSTM is not possible: {refusal}; choose 'auto'")
    batch, time, _ = x.shape
    steps = jnp.full(batch, time, jnp.int32) if lengths is None else lengths.astype(jnp.int32)
    x = flipped(x, steps) if reverse else x
    # Some versions do not accept an empty sequence: one step is run, and its result dropped.
    outputs, h, c = cudnn_layer(x, carry.h[None], carry.c[None], cudnn_weights(weights), jnp.maximum(steps, 1))
    outputs = flipped(outputs, steps) if reverse else outputs
    last = Carry(h[0], c[0])
    if lengths is None:
        return outputs, last
    real = jnp.arange(time) < lengths[:, None]
    return jnp.where(real[..., None], outputs, 0), select(lengths[:, None] > 0, last, carry)


def flipped(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """The real steps of each sequence [batch, time, ...] in reverse order; the padding after them stays."""
    index = jnp.arange(x.shape[1])
    index = jnp.where(index < lengths[:, None], lengths[:, None] - 1 - index, index)
    return jnp.take_along_axis(x, index[..., None], axis=1)


def cudnn_weights(weights: Weights) -> jax.Array:
    """The weights of one layer in one direction in cuDNN's packed layout; the second bias is zero."""
    kernels = weights.input.T.ravel(), weights.recurrent.T.ravel()
    return jnp.concatenate((*kernels, weights.bias, jnp.zeros_like(weights.bias)))


def cudnn_sizes(x: jax.Array, h: jax.Array) -> dict[str, Any]:
    """The static arguments of `jax.experimental.rnn` for one layer in one direction."""
    return {
        "input_size": x.shape[-1],
        "hidden_size": h.shape[-1],
        "num_layers": 1,
        "dropout": 0.0,
        "bidirectional": False,
        "precision": None,
    }


@jax.custom_vjp
def cudnn_layer(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`jax.experimental.rnn.lstm` of one layer. It has no batching rule, so `vmap` runs it sequentially.

    Args:
      x: [batch, time, features] float32.
      h, c: [1, batch, hidden] float32.
      weights: from `cudnn_weights`.
      lengths: [batch] int32, at least 1.

    Returns:
      Outputs [batch, time, hidden], and h and c [1, batch, hidden] after the last step.
    """
    return cudnn_forward(x, h, c, weights, lengths)[0]


@jax.custom_batching.sequential_vmap
def cudnn_forward(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    """The forward pass of `cudnn_layer`.

    Args:
      x, h, c, weights, lengths: as in `cudnn_layer`.

    Returns:
      Its outputs, and the residuals for its gradient.
    """
    from jax.experimental import rnn

    return rnn.lstm_fwd(x, h, c, weights, lengths, **cudnn_sizes(x, h))


@jax.custom_batching.sequential_vmap
def cudnn_gradients(
    residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The gradients with respect to x, h, c and the packed weights."""
    from jax.experimental import rnn

    sizes = cudnn_sizes(residuals[0], residuals[1])
    return rnn.lstm_bwd(residuals=residuals, gradients=cotangents, **sizes)[:4]


def cudnn_backward(
    residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, None]:
    """The gradients with respect to all arguments of `cudnn_layer`."""
    return *cudnn_gradients(residuals, cotangents), None


cudnn_layer.defvjp(cudnn_forward, cudnn_backward)
