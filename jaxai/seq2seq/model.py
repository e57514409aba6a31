"""The encoder-decoder in linen: a recurrent encoder, a recurrent decoder, and attention between them.

Tokens are int32, padded on the right; lengths count the real ones. Parameters and logits are float32 whatever the
compute dtype. The same parameters serve the pass over whole targets that training makes (`__call__`) and decoding one
token at a time (`encode`, then `step`), which agree to rounding.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxai import ranges
from jaxai.ranges import Count, Natural, Range, Rate
from jaxai.seq2seq import attention as attentions
from jaxai.seq2seq.checks import SOURCE, check_batch
from jaxai.seq2seq.recurrent import Masks, Stack, State

Cell = Literal["lstm", "gru"]
AttentionName = Literal["additive", "dot", "general", "scaled_dot", "none"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]


Layers = Annotated[int, Range(least=1, most=100)]


@dataclass(frozen=True)
class Model:
    """The network: which parts, how large, how regularised."""

    source_vocabulary: Natural = 0  # entries of the source's vocabulary, special ones included; 0: taken from the data
    target_vocabulary: Natural = 0  # entries of the target's vocabulary, special ones included; 0: taken from the data
    cell: Cell = "lstm"  # recurrent cell of encoder and decoder
    layers: Layers = 1  # recurrent layers of the encoder, and of the decoder
    hidden: Count = 256  # units of a recurrent layer; of each direction in a bidirectional encoder
    embed: Count = 128  # numbers in the embedding of a token
    bidirectional: bool = True  # the encoder reads the source in both directions
    attention: AttentionName = "general"  # Bahdanau's additive, Luong's dot and general, scaled dot; none: final state
    input_feeding: bool = False  # the decoder's input holds what attention last found (additive: of the state before)
    tie_embeddings: bool = False  # the target's embedding is the matrix of the softmax too
    share_embeddings: bool = False  # source and target have one embedding; their vocabularies must be one
    dropout: Rate = 0.0  # share of units dropped before each recurrent layer and before the softmax
    recurrent_dropout: Rate = 0.0  # share of the recurrent state dropped, the same units at all steps of a sequence
    variational: bool = False  # dropout, too, drops the same units at all steps of a sequence
    layer_norm: bool = False  # normalise the sums inside the recurrent cells
    residual: bool = False  # add a recurrent layer's input to its output, where they are of one size
    compute_dtype: ComputeDtype = "auto"  # of activations; auto: float32 on CPU, bfloat16 on accelerators


class Memory(NamedTuple):
    """What the encoder hands to every step of the decoder; a beam shares it.

    Attributes:
      values: [batch, source, size], outputs of the encoder.
      keys: [batch, source, hidden], what attention is computed from; None without attention, which reads no memory.
      mask: [batch, source] bool, false where the source is padding.
    """

    values: jax.Array
    keys: jax.Array | None
    mask: jax.Array


class DecoderState(NamedTuple):
    """What one step of the decoder hands to the next.

    Attributes:
      layers: of each recurrent layer its state, leaves [batch, beam, hidden].
      fed: [batch, beam, hidden], the attentional vector of the step before; None where it is not fed back.
    """

    layers: tuple[State, ...]
    fed: jax.Array | None


class Seq2Seq(nn.Module):
    """The encoder-decoder of a config.

    Without input feeding, attention follows Luong, Pham and Manning 2015 (arXiv:1508.04025, section 3): the decoder's
    state h is the query, and `tanh(W [context; h])` makes the logits. All steps of a target are computed at once.

    With input feeding that vector is part of the next step's input (section 3.3). Additive attention is then the
    model of Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473): the state *before* the step is the query, and the context
    is part of the step's own input. Either way the steps follow one another.

    Without attention, the logits come from h, and all that the decoder sees of the source is the encoder's final state
    (Sutskever, Vinyals and Le 2014, arXiv:1409.3215).

    The decoder starts from the encoder's final state, layer by layer. That of a bidirectional one is bridged by a
    matrix, and for h by a tanh, as Bahdanau et al. bridge h of their backward layer.

    Attributes:
      config: the network; raises ValueError where a field is out of its range.
    """

    config: Model

    def setup(self) -> None:
        """Declares the parts."""
        config = self.config
        check(config)
        self.dtype = compute_dtype(config)
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
        self.attention = None if kind is None else kind(config.hidden, self.dtype)
        if self.attention is not None:
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
        """The logits of every next token, given the true ones before it.

        Args:
          source: [batch, source] int32, padded on the right.
          source_lengths: [batch] int32, the tokens that are no padding.
          inputs: [batch, time] int32, the target shifted by one: the mark of the beginning comes first.
          train: whether dropout is on; it reads the random stream "dropout".

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
          source_lengths: [batch] int32, the tokens that are no padding.
          train: whether dropout is on.

        Returns:
          The memory, and the decoder's state before its first step, for a beam of 1: leaves [batch, 1, hidden].
        """
        check_batch({"source": source, "source_length": source_lengths}, SOURCE)
        config = self.config
        values, states = self.encoder(self.source_embedding(source), None, source_lengths, train=train)
        mask = jnp.arange(source.shape[1]) < source_lengths[:, None]
        keys = None if self.attention is None else self.attention.project(values)
        layers = tuple(
            tuple(leaf[:, None] for leaf in (self.bridged(state, index) if config.bidirectional else state))
            for index, state in enumerate(states)
        )
        fed = None
        if config.input_feeding and config.attention != "additive":
            fed = jnp.zeros((source.shape[0], 1, config.hidden), self.dtype)
        return Memory(values, keys, mask), DecoderState(layers, fed)

    def bridged(self, state: State, layer: int) -> State:
        """The state of both directions [batch, 2 * hidden] as one that the decoder starts from [batch, hidden]."""
        h, *c = (dense(leaf) for dense, leaf in zip(self.bridge[layer], state, strict=True))
        return (jnp.tanh(h), *(leaf.astype(jnp.float32) for leaf in c))

    def step(
        self, tokens: jax.Array, state: DecoderState, memory: Memory
    ) -> tuple[jax.Array, DecoderState, jax.Array | None]:
        """Reads one token more of each hypothesis.

        Args:
          tokens: [batch, beam] int32, the last ones.
          state: of the step before, leaves [batch, beam, ...].
          memory: of the source; not tiled by the beam.

        Returns:
          Logits [batch, beam, target_vocabulary] float32, the state, and the weights of attention [batch, beam, source]
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
          state: of the step before.
          memory: of the source.
          masks: dropout masks that hold for all steps, or None.
          train: whether dropout is on.

        Returns:
          The attentional vector [batch, beam, hidden], or h without attention; the state; the weights of attention.
        """
        weights: jax.Array | None
        if self.config.input_feeding and self.config.attention == "additive":
            context, weights = self.attend(state.layers[-1][0], memory)
            h, layers = self.decoder.step(jnp.concatenate([embedded, context], -1), state.layers, masks, train=train)
            return self.combined(context, h), DecoderState(layers, None), weights
        x = embedded if state.fed is None else jnp.concatenate([embedded, state.fed], axis=-1)
        h, layers = self.decoder.step(x, state.layers, masks, train=train)
        vector, weights = self.attentional(h, memory)
        return vector, DecoderState(layers, None if state.fed is None else vector), weights

    def one_by_one(self, embedded: jax.Array, state: DecoderState, memory: Memory, *, train: bool) -> jax.Array:
        """`advance` over the steps of `embedded` [batch, time, embed]; their vectors [batch, time, hidden]."""

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
        """The attentional vectors of states [batch, queries, hidden], and the weights; h itself without attention."""
        if self.attention is None:
            return h, None
        context, weights = self.attend(h, memory)
        return self.combined(context, h), weights

    def attend(self, query: jax.Array, memory: Memory) -> tuple[jax.Array, jax.Array]:
        """What attention finds: context [batch, queries, size] and weights [batch, queries, source]."""
        if self.attention is None or memory.keys is None:
            raise ValueError("the memory has no keys: it was made by a model without attention")
        found: tuple[jax.Array, jax.Array] = self.attention(query, memory.values, memory.keys, memory.mask)
        return found

    def combined(self, context: jax.Array, h: jax.Array) -> jax.Array:
        """`tanh(W [context; h])` (Luong et al. 2015, eq. 5)."""
        return jnp.tanh(self.combine(jnp.concatenate([context, h], axis=-1)))

    def logits(self, vector: jax.Array, *, train: bool = False) -> jax.Array:
        """Attentional vectors [batch, queries, hidden] -> float32 [batch, queries, target_vocabulary].

        Tied to the target's embedding by choice (Press and Wolf 2017, arXiv:1608.05859), through a matrix where its
        size is another.
        """
        vector = self.dropped(vector, deterministic=not train)
        if not self.config.tie_embeddings:
            product = jnp.dot(vector, self.softmax.astype(self.dtype), preferred_element_type=jnp.float32)
            return product + self.softmax_bias
        if self.config.embed != self.config.hidden:
            vector = self.to_embedding(vector)
        table = self.target_embedding.embedding.astype(self.dtype)
        return jnp.einsum("bqe,ve->bqv", vector, table, preferred_element_type=jnp.float32) + self.softmax_bias


def compute_dtype(model: Model) -> jnp.dtype:
    """Of activations and matmuls; "auto" is float32 on CPU and bfloat16 on accelerators."""
    name = model.compute_dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def check(model: Model) -> None:
    """Raises ValueError, of one line, where `Seq2Seq` could not build this network."""
    ranges.check(model)
    for field in ("source_vocabulary", "target_vocabulary"):
        if getattr(model, field) < 1:
            raise ValueError(f"{field} is {getattr(model, field)}; it must be at least 1")
    if model.input_feeding and model.attention == "none":
        raise ValueError("input_feeding feeds back what attention found: choose an attention other than none")
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
