"""The encoder-decoder in linen: a recurrent encoder, a recurrent decoder, and attention between them.

Tokens are int32, padded on the right; lengths count the real ones. Parameters and logits are float32 in every dtype of
the activations. Training computes all steps of a target at once (`__call__`); decoding computes one token at a time
(`encode`, then `step`). Both use the same parameters and agree to rounding.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import networks, ranges
from jaxai.core import PyTree
from jaxai.ranges import Count, Natural, Range, Rate
from jaxai.seq2seq import attention as attentions
from jaxai.seq2seq.checks import SOURCE, check_batch
from jaxai.seq2seq.recurrent import LayerState, Masks, Stack

__all__ = ["DecoderState", "Memory", "Model", "Network", "Seq2Seq", "build", "check", "own_or_built"]

Cell = Literal["lstm", "gru"]
AttentionName = Literal["additive", "dot", "general", "scaled_dot", "none"]
Layers = Annotated[int, Range(least=1, most=100)]


@dataclass(frozen=True)
class Model:
    """The fields of a configuration that describe the network: its parts, sizes and regularization."""

    source_vocabulary: Natural = 0  # size of the source's vocabulary, special tokens included; 0: taken from the data
    target_vocabulary: Natural = 0  # size of the target's vocabulary, special tokens included; 0: taken from the data
    cell: Cell = "lstm"  # recurrent cell of encoder and decoder
    layers: Layers = 1  # recurrent layers of the encoder, and of the decoder
    hidden: Count = 256  # units of a recurrent layer, for each direction of a bidirectional encoder
    embed: Count = 128  # size of a token's embedding
    bidirectional: bool = True  # the encoder reads the source in both directions
    attention: AttentionName = "general"  # Bahdanau's additive, Luong's dot and general, scaled dot; none: no attention
    input_feeding: bool = False  # the last attentional vector (additive: the context) is part of the decoder's input
    tie_embeddings: bool = False  # the target's embedding is also the matrix of the softmax
    share_embeddings: bool = False  # one embedding for source and target, which must have one vocabulary
    dropout: Rate = 0.0  # share of units dropped before each recurrent layer and before the softmax
    recurrent_dropout: Rate = 0.0  # share of the recurrent state dropped; the same units at all steps
    variational: bool = False  # dropout also drops the same units at all steps of a sequence
    layer_norm: bool = False  # layer normalization inside the recurrent cells
    residual: bool = False  # add a recurrent layer's input to its output where both have the same size
    dtype: networks.Dtype = "auto"  # of activations; auto: float32 on CPU, bfloat16 on accelerators


class Memory(NamedTuple):
    """The encoded source, which every step of the decoder reads; all hypotheses of a beam share it.

    Attributes:
      values: [batch, source, size], outputs of the encoder.
      keys: [batch, source, hidden], from which attention scores are computed; None without attention.
      mask: [batch, source] bool, false where the source is padding.
    """

    values: jax.Array
    keys: jax.Array | None
    mask: jax.Array


class DecoderState(NamedTuple):
    """The decoder's state between two steps.

    Attributes:
      layers: the state of each recurrent layer, leaves [batch, beam, hidden].
      fed: [batch, beam, hidden], the attentional vector of the previous step; None without input feeding.
    """

    layers: tuple[LayerState, ...]
    fed: jax.Array | None


class Network(Protocol):
    """What `make` and decoding need of a network: a linen module with these methods.

    `make` needs `__call__` alone. Greedy search, sampling, beam search and `Translator` need `encode` and `step`, which
    must compute the same logits from the same variables. The module may have other collections than the parameters,
    such as the "batch_stats" of batch normalization; they must all be created by `__call__`. With more than one device,
    updated statistics are averaged over the devices.
    """

    def __call__(self, source: jax.Array, source_lengths: jax.Array, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Predicts every next token, given the true previous ones.

        Args:
          source: [batch, S] int32 tokens, padded on the right with 0.
          source_lengths: [batch] int32, number of real tokens, END included.
          inputs: [batch, T] int32, BEGIN and the target without its last token.
          train: whether dropout is on and statistics are updated; the random stream is "dropout".

        Returns:
          Logits [batch, T, target vocabulary], floating point.
        """

    def encode(self, source: jax.Array, source_lengths: jax.Array) -> tuple[PyTree, PyTree]:
        """Reads the source, without dropout.

        Returns:
          The memory, any pytree, which is not copied for the hypotheses of a beam; and the decoder's first state, a
          pytree with leaves [batch, 1, ...].
        """

    def step(self, tokens: jax.Array, state: PyTree, memory: PyTree) -> tuple[jax.Array, PyTree, jax.Array | None]:
        """Predicts the next token of each hypothesis.

        Args:
          tokens: [batch, beam] int32, the last token of each hypothesis.
          state: of the previous step, leaves [batch, beam, ...].
          memory: from `encode`.

        Returns:
          Logits [batch, beam, target vocabulary]; the state, with the same structure, shapes and dtypes; and attention
          weights [batch, beam, S] float32, or None.
        """


class Seq2Seq(nn.Module):
    """The encoder-decoder of a config, optionally with an attention of your own.

    Without input feeding, attention follows Luong, Pham and Manning 2015 (arXiv:1508.04025, section 3): the decoder's
    state h is the query, and the logits are computed from `tanh(W [context; h])`. All steps of a target are computed at
    once.

    With input feeding that vector is part of the next step's input (section 3.3). The additive attention of the config
    is then the model of Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473): the query is the state *before* the step, and
    the context is part of the step's own input. In both cases the steps are computed one after another.

    Without attention, the logits are computed from h, and the decoder sees only the encoder's final state (Sutskever,
    Vinyals and Le 2014, arXiv:1409.3215).

    Each layer of the decoder starts from the final state of the encoder's layer. The state of a bidirectional layer is
    first mapped by a matrix, and h also by a tanh, as in Bahdanau et al. for h of the backward layer.

    Attributes:
      config: the network; a field out of its range raises ValueError.
      attention: a module of your own, a subclass of `seq2seq.attention.Attention`, used instead of `config.attention`:
        `Seq2Seq(config, attention=MyAttention(config.hidden))`. None: the one of the config.
    """

    config: Model
    attention: attentions.Attention | None = None

    def setup(self) -> None:
        """Declares the parts."""
        # The rules for the named attentions do not apply to a user's attention; "general" has no rule.
        own = self.attention is not None
        config = dataclasses.replace(self.config, attention="general") if own else self.config
        check(config)
        self.dtype = networks.activation_dtype(config.dtype)
        shared: dict[str, Any] = {
            "cell": config.cell,
            "hidden": config.hidden,
            "layers": config.layers,
            "layer_norm": config.layer_norm,
            "residual": config.residual,
            "dropout": config.dropout,
            "variational": config.variational,
            "recurrent_dropout": config.recurrent_dropout,
            "dtype": self.dtype,
        }
        dense: dict[str, Any] = {"dtype": self.dtype, "kernel_init": nn.initializers.glorot_uniform()}
        self.source_embedding = nn.Embed(config.source_vocabulary, config.embed, dtype=self.dtype)
        if config.share_embeddings:
            self.target_embedding = self.source_embedding
        else:
            self.target_embedding = nn.Embed(config.target_vocabulary, config.embed, dtype=self.dtype)
        self.encoder = Stack(features=config.embed, bidirectional=config.bidirectional, **shared)

        memory = config.hidden * (2 if config.bidirectional else 1)
        fed = (memory if config.attention == "additive" else config.hidden) if config.input_feeding else 0
        self.decoder = Stack(features=config.embed + fed, **shared)
        if config.bidirectional:
            leaves = 2 if config.cell == "lstm" else 1
            self.bridge = [[nn.Dense(config.hidden, **dense) for _ in range(leaves)] for _ in range(config.layers)]

        kind = attentions.find(config.attention)
        # The attention of the config and a user's attention have the same name among the parameters.
        named = None if own or kind is None else kind(config.hidden, self.dtype, name="attention")
        self.attending = self.attention if own else named
        self.queries_previous_state = config.input_feeding and config.attention == "additive"
        if self.attending is not None:
            self.combine = nn.Dense(config.hidden, use_bias=False, **dense)
        if config.tie_embeddings and config.embed != config.hidden:
            self.to_embedding = nn.Dense(config.embed, use_bias=False, **dense)
        if not config.tie_embeddings:
            shape = (config.hidden, config.target_vocabulary)
            self.softmax = self.param("softmax", nn.initializers.glorot_uniform(), shape)
        self.softmax_bias = self.param("softmax_bias", nn.initializers.zeros, (config.target_vocabulary,))
        self.dropped = nn.Dropout(config.dropout, broadcast_dims=(1,) if config.variational else ())

    def __call__(
        self, source: jax.Array, source_lengths: jax.Array, inputs: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """The logits of every next token, given the true previous ones.

        Args:
          source: [batch, source] int32, padded on the right.
          source_lengths: [batch] int32, number of real tokens.
          inputs: [batch, time] int32, the target shifted by one: BEGIN comes first.
          train: whether dropout is on; its random stream is "dropout".

        Returns:
          [batch, time, target_vocabulary] float32.
        """
        check_batch({"source": source, "inputs": inputs}, ("source", "inputs"))
        memory, state = self.encode(source, source_lengths, train=train)
        embedded = self.target_embedding(inputs)
        if self.config.input_feeding:
            return self.logits(self.one_by_one(embedded, state, memory, train=train), train=train)
        layers = tuple(tuple(leaf[:, 0] for leaf in layer) for layer in state.layers)
        h, _ = self.decoder(embedded, layers, train=train)
        return self.logits(self.attentional(h, memory)[0], train=train)

    def encode(
        self, source: jax.Array, source_lengths: jax.Array, *, train: bool = False
    ) -> tuple[Memory, DecoderState]:
        """Reads the source.

        Args:
          source: [batch, source] int32, padded on the right.
          source_lengths: [batch] int32, number of real tokens.
          train: whether dropout is on.

        Returns:
          The memory, and the decoder's first state, leaves [batch, 1, hidden].
        """
        check_batch({"source": source, "source_length": source_lengths}, SOURCE)
        config = self.config
        values, states = self.encoder(self.source_embedding(source), None, source_lengths, train=train)
        mask = jnp.arange(source.shape[1]) < source_lengths[:, None]
        keys = None if self.attending is None else self.attending.project(values)
        layers = tuple(
            tuple(leaf[:, None] for leaf in (self.bridged(state, index) if config.bidirectional else state))
            for index, state in enumerate(states)
        )
        fed = None
        if config.input_feeding and not self.queries_previous_state:
            fed = jnp.zeros((source.shape[0], 1, config.hidden), self.dtype)
        return Memory(values, keys, mask), DecoderState(layers, fed)

    def bridged(self, state: LayerState, layer: int) -> LayerState:
        """Maps the state of both directions [batch, 2 * hidden] to the decoder's first state [batch, hidden]."""
        h, *c = (dense(leaf) for dense, leaf in zip(self.bridge[layer], state, strict=True))
        return (jnp.tanh(h), *(leaf.astype(jnp.float32) for leaf in c))

    def step(
        self, tokens: jax.Array, state: DecoderState, memory: Memory
    ) -> tuple[jax.Array, DecoderState, jax.Array | None]:
        """Reads one more token of each hypothesis.

        Args:
          tokens: [batch, beam] int32, the last ones.
          state: of the previous step, leaves [batch, beam, ...].
          memory: from `encode`; not tiled by the beam.

        Returns:
          Logits [batch, beam, target_vocabulary] float32, the state, and the attention weights [batch, beam, source]
          float32, None without attention.
        """
        vector, state, weights = self.advance(self.target_embedding(tokens), state, memory)
        return self.logits(vector), state, weights

    def advance(
        self,
        embedded: jax.Array,
        state: DecoderState,
        memory: Memory,
        masks: tuple[Masks, ...] | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, DecoderState, jax.Array | None]:
        """One step of the decoder up to the logits.

        Args:
          embedded: [batch, beam, embed], of the last tokens.
          state: of the previous step.
          memory: from `encode`.
          masks: dropout masks for all steps, or None.
          train: whether dropout is on.

        Returns:
          The attentional vector [batch, beam, hidden], or h without attention; the state; the attention weights.
        """
        weights: jax.Array | None
        if self.queries_previous_state:
            context, weights = self.attend(state.layers[-1][0], memory)
            h, layers = self.decoder.step(jnp.concatenate([embedded, context], -1), state.layers, masks, train=train)
            return self.combined(context, h), DecoderState(layers, None), weights
        x = embedded if state.fed is None else jnp.concatenate([embedded, state.fed], axis=-1)
        h, layers = self.decoder.step(x, state.layers, masks, train=train)
        vector, weights = self.attentional(h, memory)
        return vector, DecoderState(layers, None if state.fed is None else vector), weights

    def one_by_one(self, embedded: jax.Array, state: DecoderState, memory: Memory, *, train: bool) -> jax.Array:
        """Scans `advance` over the target's steps.

        Args:
          embedded: [batch, time, embed], the input tokens.
          state: before the first step.
          memory: from `encode`.
          train: whether dropout is on.

        Returns:
          Attentional vectors [batch, time, hidden].
        """

        def step(
            module: Seq2Seq, state: DecoderState, embedded: jax.Array, memory: Memory, masks: tuple[Masks, ...]
        ) -> tuple[DecoderState, jax.Array]:
            vector, state, _ = module.advance(embedded[:, None], state, memory, masks, train=train)
            return state, vector[:, 0]

        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=(1, nn.broadcast, nn.broadcast),
            out_axes=1,
        )
        masks = self.decoder.masks(embedded.shape[0], train=train)
        vectors: jax.Array = scan(self, state, embedded, memory, masks)[1]
        return vectors

    def attentional(self, h: jax.Array, memory: Memory) -> tuple[jax.Array, jax.Array | None]:
        """The attentional vectors of states [batch, queries, hidden] and the weights; h itself without attention."""
        if self.attending is None:
            return h, None
        context, weights = self.attend(h, memory)
        return self.combined(context, h), weights

    def attend(self, query: jax.Array, memory: Memory) -> tuple[jax.Array, jax.Array]:
        """Context [batch, queries, size] and weights [batch, queries, source].

        Raises:
          ValueError: the model has no attention.
        """
        if self.attending is None or memory.keys is None:
            raise ValueError("the memory has no keys: it comes from a model without attention")
        found: tuple[jax.Array, jax.Array] = self.attending(query, memory.values, memory.keys, memory.mask)
        return found

    def combined(self, context: jax.Array, h: jax.Array) -> jax.Array:
        """`tanh(W [context; h])` (Luong et al. 2015, eq. 5)."""
        return jnp.tanh(self.combine(jnp.concatenate([context, h], axis=-1)))

    def logits(self, vector: jax.Array, *, train: bool = False) -> jax.Array:
        """Attentional vectors [batch, queries, hidden] -> float32 [batch, queries, target_vocabulary].

        With `tie_embeddings` the matrix is the target's embedding (Press and Wolf 2017, arXiv:1608.05859), after a
        linear map where its size differs.
        """
        vector = self.dropped(vector, deterministic=not train)
        if not self.config.tie_embeddings:
            product = jnp.dot(vector, self.softmax.astype(self.dtype), preferred_element_type=jnp.float32)
            return product + self.softmax_bias
        if self.config.embed != self.config.hidden:
            vector = self.to_embedding(vector)
        table = self.target_embedding.embedding.astype(self.dtype)
        return jnp.einsum("bqe,ve->bqv", vector, table, preferred_element_type=jnp.float32) + self.softmax_bias


def build(config: Model) -> Seq2Seq:
    """The network of a config.

    Raises:
      ValueError: a field out of its range, or fields that exclude one another; one line that names them.
    """
    check(config)
    return Seq2Seq(config)


def own_or_built(config: Model, network: nn.Module | None, *, decodes: bool = False) -> nn.Module:
    """The network given by a user, checked, or the network of the config.

    Args:
      config: of the network.
      network: of the user, or None.
      decodes: whether it must have the methods `encode` and `step`.

    Raises:
      ValueError: it is no linen module, has another signature or lacks a method; or a field of the config is out of its
        range.
    """
    if network is None:
        return build(config)
    network = networks.require(network, "network", "source, source_lengths, inputs, *, train")
    kind = getattr(network, "nnx_class", type(network))
    for method in ("encode", "step") if decodes else ():
        if not callable(getattr(kind, method, None)):
            raise ValueError(f"{kind.__name__} has no method {method}, which decoding needs; see jaxai.seq2seq.Network")
    return network


def check(model: Model) -> None:
    """Raises ValueError, of one line, where `Seq2Seq` could not build this network."""
    ranges.check(model)
    for field in ("source_vocabulary", "target_vocabulary"):
        if getattr(model, field) < 1:
            raise ValueError(f"{field} is {getattr(model, field)}; it must be at least 1")
    if model.input_feeding and model.attention == "none":
        raise ValueError("input_feeding needs attention: choose an attention other than none")
    if model.bidirectional and model.attention == "dot":
        raise ValueError(
            "attention is dot, whose memory must be as large as the decoder's state, but a bidirectional encoder "
            "makes it twice as large: choose general, or set bidirectional to False"
        )
    if model.share_embeddings and model.source_vocabulary != model.target_vocabulary:
        raise ValueError(
            f"share_embeddings needs one vocabulary, but the source has {model.source_vocabulary} entries and "
            f"the target {model.target_vocabulary}: build one vocabulary of both, or set it to False"
        )
