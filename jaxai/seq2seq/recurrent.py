"""Recurrent layers and stacks of them, over a whole batch of sequences or one step at a time.

A layer without layer normalization and without recurrent dropout is computed by `jaxai.ops.lstm` or `jaxai.ops.gru`,
which is faster; the others are a scan over single steps. The parameters have the same layout in both forms, so that a
model trained with dropout decodes in the fast form.

Initial weights are those of Keras: Glorot uniform for the input, orthogonal for the recurrence, and a bias of 1 for the
LSTM's forget gate (Jozefowicz et al. 2015).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxai.ops import gru as gru_ops
from jaxai.ops import lstm as lstm_ops

__all__ = ["Layer", "LayerState", "Masks", "Stack"]

LayerState = tuple[jax.Array, ...]
"""The state of one recurrent layer, h first: (h, c) of an LSTM, (h,) of a GRU; each [batch, hidden]."""

GATES = {"lstm": 4, "gru": 3}
EPSILON = 1e-5


class Masks(NamedTuple):
    """Dropout masks of one layer, the same for all steps; an entry is 0 or 1 / (1 - rate).

    Attributes:
      inputs: [batch, features]; None if each step draws its own, or nothing is dropped.
      recurrent: for each direction [batch, hidden] or None.
    """

    inputs: jax.Array | None
    recurrent: tuple[jax.Array | None, ...]


def normalise(x: jax.Array, scale: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Layer normalization without a bias (Ba, Kiros and Hinton 2016, eq. 4), separately for each block of the axis.

    Args:
      x: [..., features] float32.
      scale: [features].
      sizes: of the blocks; their sum is `features`.
    """
    blocks = []
    start = 0
    for size in sizes:
        block = x[..., start : start + size]
        centred = block - jnp.mean(block, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        blocks.append(centred * lax.rsqrt(variance + EPSILON))
        start += size
    return jnp.concatenate(blocks, axis=-1) * scale


def keep(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`x` times the mask; `x` itself for None."""
    return x if mask is None else x * mask.astype(x.dtype)


class Layer(nn.Module):
    """One recurrent layer in one direction.

    Attributes:
      cell: "lstm" or "gru".
      features: size of the input.
      hidden: units.
      layer_norm: normalize inside the cell (Ba et al. 2016, arXiv:1607.06450, eq. 20 to 22 and 29 to 31): the sums of
        the input, the sums of the recurrence, and the LSTM's c before its tanh. The biases are those of the cell.
      reverse: read each sequence from its last real step to its first one.
      dtype: of the matmuls, and of h; c stays float32.
    """

    cell: str
    features: int
    hidden: int
    layer_norm: bool = False
    reverse: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Declares the parameters."""
        width = GATES[self.cell] * self.hidden
        glorot, orthogonal, zeros = (
            nn.initializers.glorot_uniform(),
            nn.initializers.orthogonal(),
            nn.initializers.zeros,
        )
        self.input = self.param("input", glorot, (self.features, width))
        self.recurrent = self.param("recurrent", orthogonal, (self.hidden, width))
        if self.cell == "lstm":
            self.bias = self.param("bias", lambda _, shape: forget_bias(shape), (width,))
        else:
            self.bias = self.param("bias", zeros, (width,))
            self.recurrent_bias = self.param("recurrent_bias", zeros, (width,))
        if self.layer_norm:
            ones = nn.initializers.ones
            self.input_scale = self.param("input_scale", ones, (width,))
            self.recurrent_scale = self.param("recurrent_scale", ones, (width,))
            if self.cell == "lstm":
                self.cell_scale = self.param("cell_scale", ones, (self.hidden,))
                self.cell_bias = self.param("cell_bias", zeros, (self.hidden,))

    def __call__(
        self,
        x: jax.Array,
        state: LayerState | None = None,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerState]:
        """Reads whole sequences.

        Args:
          x: [batch, time, features], padded on the right.
          state: before the first step; None: zeros.
          lengths: [batch] int32, number of real steps; None: all.
          mask: [batch, hidden], dropout of the recurrent state at all steps; None: no dropout.

        Returns:
          Outputs [batch, time, hidden], 0 where the input is padding, and the state after each sequence's last real
          step (after its first step where the layer reads in reverse).
        """
        state = self.zeros(x.shape[0]) if state is None else state
        x = x.astype(self.dtype)
        if self.layer_norm or mask is not None:
            return self.scan(self.projected(x), state, lengths, mask)
        if self.cell == "lstm":
            return lstm_ops.lstm(x, self.lstm_weights(), lstm_ops.Carry(*state), lengths, reverse=self.reverse)
        outputs, h = gru_ops.gru(x, self.gru_weights(), state[0], lengths, reverse=self.reverse)
        return outputs, (h,)

    def step(self, x: jax.Array, state: LayerState, mask: jax.Array | None = None) -> LayerState:
        """The state after one more step; its first leaf is the output.

        Args:
          x: [batch, features].
          state: of the previous step.
          mask: [batch, hidden], dropout of the recurrent state; None: no dropout.
        """
        x = x.astype(self.dtype)
        if self.layer_norm or mask is not None:
            return self.general_step(self.projected(x), state, mask)
        if self.cell == "lstm":
            return lstm_ops.cell(x, lstm_ops.Carry(*state), self.lstm_weights())
        return (gru_ops.cell(x, state[0], self.gru_weights()),)

    def zeros(self, batch: int) -> LayerState:
        """The state before the first step."""
        h = jnp.zeros((batch, self.hidden), self.dtype)
        return (h, jnp.zeros((batch, self.hidden), jnp.float32)) if self.cell == "lstm" else (h,)

    def lstm_weights(self) -> lstm_ops.Weights:
        """The weights for `jaxai.ops.lstm`, in the dtype of the matmuls."""
        return lstm_ops.Weights(*(leaf.astype(self.dtype) for leaf in (self.input, self.recurrent, self.bias)))

    def gru_weights(self) -> gru_ops.Weights:
        """The weights for `jaxai.ops.gru`, in the dtype of the matmuls."""
        leaves = self.input, self.recurrent, self.bias, self.recurrent_bias
        return gru_ops.Weights(*(leaf.astype(self.dtype) for leaf in leaves))

    def blocks(self) -> tuple[int, ...]:
        """Sizes of blocks that are normalized separately: all gates of an LSTM; gates and candidate of a GRU."""
        return (4 * self.hidden,) if self.cell == "lstm" else (2 * self.hidden, self.hidden)

    def projected(self, x: jax.Array) -> jax.Array:
        """The part of the gates' sums that comes from the input [..., features], in float32."""
        sums = jnp.dot(x, self.input.astype(self.dtype), preferred_element_type=jnp.float32)
        return (normalise(sums, self.input_scale, self.blocks()) if self.layer_norm else sums) + self.bias

    def general_step(self, projected: jax.Array, state: LayerState, mask: jax.Array | None) -> LayerState:
        """One step with normalization or dropout, in float32 except for the matmul.

        Args:
          projected: [batch, gates * hidden].
          state: of the previous step.
          mask: [batch, hidden], dropout of h before the gates (Gal and Ghahramani 2016), or None.
        """
        h = keep(state[0], mask)
        sums = jnp.dot(h, self.recurrent.astype(self.dtype), preferred_element_type=jnp.float32)
        if self.layer_norm:
            sums = normalise(sums, self.recurrent_scale, self.blocks())
        if self.cell == "gru":
            sums = sums + self.recurrent_bias
            r, z = jnp.split(jax.nn.sigmoid((projected + sums)[..., : 2 * self.hidden]), 2, axis=-1)
            candidate = jnp.tanh(projected[..., 2 * self.hidden :] + r * sums[..., 2 * self.hidden :])
            return (((1 - z) * candidate + z * state[0]).astype(state[0].dtype),)
        i, f, g, o = jnp.split(projected + sums, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        shown = normalise(c, self.cell_scale, (self.hidden,)) + self.cell_bias if self.layer_norm else c
        return (jax.nn.sigmoid(o) * jnp.tanh(shown)).astype(state[0].dtype), c.astype(state[1].dtype)

    def scan(
        self, projected: jax.Array, state: LayerState, lengths: jax.Array | None, mask: jax.Array | None
    ) -> tuple[jax.Array, LayerState]:
        """`general_step` over all time steps.

        Args:
          projected: [batch, time, gates * hidden] float32, from `projected`.
          state: before the first step.
          lengths: [batch] int32, number of real steps; None: all.
          mask: as in `general_step`.

        Returns:
          Outputs [batch, time, hidden], 0 where the input is padding, and the last state.
        """
        steps = jnp.arange(projected.shape[1])

        def step(state: LayerState, inputs: tuple[jax.Array, jax.Array]) -> tuple[LayerState, jax.Array]:
            following = self.general_step(inputs[0], state, mask)
            if lengths is None:
                return following, following[0]
            real = (inputs[1] < lengths)[:, None]
            following = tuple(jnp.where(real, new, old) for new, old in zip(following, state, strict=True))
            return following, jnp.where(real, following[0], 0)

        state, outputs = lax.scan(step, tuple(state), (projected.swapaxes(0, 1), steps), reverse=self.reverse)
        return outputs.swapaxes(0, 1), state


def forget_bias(shape: tuple[int, ...]) -> jax.Array:
    """[4 * hidden] in the order i, f, g, o: 1 for the forget gate, 0 for the others."""
    hidden = shape[0] // 4
    return jnp.zeros(shape).at[hidden : 2 * hidden].set(1.0)


class Stack(nn.Module):
    """Recurrent layers; each reads the outputs of the previous one.

    Attributes:
      cell: "lstm" or "gru".
      features: size of the input.
      hidden: units of a layer in one direction.
      layers: number of layers.
      bidirectional: each layer reads in both directions; the outputs and states of both are concatenated.
      layer_norm: inside the cells.
      residual: add a layer's input to its output where both have the same size (Wu et al. 2016, arXiv:1609.08144).
      dropout: share of each layer's inputs that is dropped in training, also of the first layer (Zaremba et al. 2014).
      variational: one mask of the inputs for all steps (Gal and Ghahramani 2016, arXiv:1512.05287).
      recurrent_dropout: share of the recurrent state that is dropped in training, one mask for all steps.
      dtype: of the matmuls.
    """

    cell: str
    features: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    layer_norm: bool = False
    residual: bool = False
    dropout: float = 0.0
    variational: bool = False
    recurrent_dropout: float = 0.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Declares the layers."""
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        self.each: list[list[Layer]] = [
            [
                Layer(
                    self.cell,
                    len(directions) * self.hidden if index else self.features,
                    self.hidden,
                    self.layer_norm,
                    direction == "backward",
                    self.dtype,
                    name=f"{direction}_{index}",
                )
                for direction in directions
            ]
            for index in range(self.layers)
        ]
        self.dropped = nn.Dropout(self.dropout)

    def masks(self, batch: int, *, train: bool) -> tuple[Masks, ...]:
        """Draws each layer's masks for all steps, from the random stream "dropout"."""
        return tuple(
            Masks(
                self.mask((batch, layers[0].features), self.dropout if train and self.variational else 0.0),
                tuple(self.mask((batch, self.hidden), self.recurrent_dropout if train else 0.0) for _ in layers),
            )
            for layers in self.each
        )

    def mask(self, shape: tuple[int, int], rate: float) -> jax.Array | None:
        """Float32: 0 with the probability `rate`, otherwise 1 / (1 - rate); None for the rate 0."""
        if rate == 0.0:
            return None
        return jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape) / jnp.float32(1 - rate)

    def drop(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Dropout of a layer's inputs: by the given mask if dropout is variational, otherwise by a mask drawn here.

        Args:
          x: [batch, ..., features].
          mask: [batch, features], or None for no variational dropout.
          train: whether dropout is on.
        """
        return keep(x, mask) if self.variational else self.dropped(x, deterministic=not train)

    def __call__(
        self,
        x: jax.Array,
        states: tuple[LayerState, ...] | None = None,
        lengths: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, tuple[LayerState, ...]]:
        """Reads whole sequences.

        Args:
          x: [batch, time, features], padded on the right.
          states: of each layer before the first step, for a stack of one direction only; None: zeros.
          lengths: [batch] int32, number of real steps; None: all.
          train: whether dropout is on.

        Returns:
          Outputs [batch, time, directions * hidden] and each layer's state after each sequence's last real step,
          leaves [batch, directions * hidden]. The outputs of a residual stack are not 0 where the input is padding.
        """
        final = []
        for index, (layers, masks) in enumerate(zip(self.each, self.masks(x.shape[0], train=train), strict=True)):
            inputs = self.drop(x, None if masks.inputs is None else masks.inputs[:, None], train=train)
            state = None if states is None else states[index]
            read = [layer(inputs, state, lengths, mask) for layer, mask in zip(layers, masks.recurrent, strict=True)]
            outputs = jnp.concatenate([output for output, _ in read], axis=-1)
            final.append(tuple(jnp.concatenate(leaves, axis=-1) for leaves in zip(*(s for _, s in read), strict=True)))
            x = self.shortcut(x, outputs)
        return x, tuple(final)

    def step(
        self,
        x: jax.Array,
        states: tuple[LayerState, ...],
        masks: tuple[Masks, ...] | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, tuple[LayerState, ...]]:
        """Reads one more step; for a stack of one direction.

        Args:
          x: [batch, beam, features].
          states: of each layer, leaves [batch, beam, hidden].
          masks: from `masks`, for `batch * beam` sequences; None: none.
          train: whether dropout is on.

        Returns:
          Output [batch, beam, hidden] and the states.
        """
        batch, beam, _ = x.shape
        x = x.reshape(batch * beam, -1)
        masks = self.masks(batch * beam, train=False) if masks is None else masks
        final = []
        for (layer,), state, mask in zip(self.each, states, masks, strict=True):
            flat = tuple(leaf.reshape(batch * beam, -1) for leaf in state)
            flat = layer.step(self.drop(x, mask.inputs, train=train), flat, mask.recurrent[0])
            final.append(tuple(leaf.reshape(batch, beam, -1) for leaf in flat))
            x = self.shortcut(x, flat[0])
        return x.reshape(batch, beam, -1), tuple(final)

    def shortcut(self, x: jax.Array, outputs: jax.Array) -> jax.Array:
        """The outputs; in a residual stack plus the input if it has the same size."""
        return outputs + x.astype(outputs.dtype) if self.residual and x.shape == outputs.shape else outputs
