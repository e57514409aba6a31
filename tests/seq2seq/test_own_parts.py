"""A network, an attention, an optax transformation and a loss of one's own: in training, in prediction, in decoding."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jaxai import seq2seq
from jaxai.runtime import parallel
from jaxai.seq2seq import vocabulary

VOCABULARY = 12
CONFIG = seq2seq.Config(
    source_vocabulary=VOCABULARY, target_vocabulary=VOCABULARY, hidden=8, embed=6, bidirectional=False
)
COPY = [[4, 5, 6], [7, 8], [9], [10, 11, 4], [5, 4], [6, 7, 8], [11], [8, 9]]
BATCH = seq2seq.make_batch(COPY, COPY)


class Bag(nn.Module):
    """A mean of embeddings, batch-normalized, and the last token: no recurrence, and a collection of its own."""

    size: int = 16

    def setup(self):
        self.embedding = nn.Embed(VOCABULARY, self.size)
        self.norm = nn.BatchNorm(momentum=0.5)
        self.out = nn.Dense(VOCABULARY)
        self.dropped = nn.Dropout(0.1)
        self.calls = self.variable("counts", "calls", lambda: jnp.int32(0))

    def memory(self, source, lengths, *, train):
        real = (jnp.arange(source.shape[1]) < lengths[:, None])[..., None]
        mean = (self.embedding(source) * real).sum(1) / lengths[:, None]
        return self.norm(mean, use_running_average=not train)

    def logits(self, memory, position, inputs):
        return self.out(nn.relu(self.embedding(inputs) + memory + position[..., None]))

    def __call__(self, source, source_lengths, inputs, *, train):
        if train:
            self.calls.value += 1
        memory = self.dropped(self.memory(source, source_lengths, train=train), deterministic=not train)
        position = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.float32), inputs.shape)
        return self.logits(memory[:, None], position, inputs)

    def encode(self, source, source_lengths):
        return self.memory(source, source_lengths, train=False), jnp.zeros((len(source), 1))

    def step(self, tokens, state, memory):
        return self.logits(memory[:, None], state, tokens), state + 1, None


class Cosine(seq2seq.attention.Attention):
    """Scores of the paper that introduced attention by content (Graves, Wayne and Danihelka 2014, eq. 5 and 6)."""

    def setup(self):
        self.sharpness = self.param("sharpness", nn.initializers.constant(5.0), ())

    def scores(self, query, keys):
        query, keys = (x / jnp.linalg.norm(x + 1e-6, axis=-1, keepdims=True) for x in (query, keys))
        return self.sharpness * seq2seq.attention.dot(query, keys)


def trained(workload, steps=30, batch=BATCH):
    state, step = jax.jit(workload.init)(jax.random.key(0)), jax.jit(workload.train_step)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses, metrics


@pytest.fixture(scope="module")
def bag():
    workload = seq2seq.make(seq2seq.Config(ema_decay=0.9), network=Bag(), transformation=optax.adam(3e-2))
    return workload, *trained(workload)


def test_own_network_learns_and_its_collections_are_in_the_state(bag):
    workload, state, losses, metrics = bag
    assert losses[-1] < 0.5 * losses[0]
    assert metrics.keys() == {"loss", "token_accuracy", "grad_norm"}  # the rate of one's own transformation is unknown
    assert state.extra.keys() == {"batch_stats", "counts", "ema"}
    assert int(state.extra["counts"]["calls"]) == 30
    assert float(jnp.abs(state.extra["batch_stats"]["norm"]["mean"]).sum()) > 0
    sums = workload.eval_step(state, BATCH)
    assert sums["count"] == BATCH["target_length"].sum()
    chex.assert_trees_all_equal(
        workload.predict(state, BATCH), seq2seq.make_predict(CONFIG, network=Bag())(state, BATCH)
    )


def test_own_network_decodes_with_its_own_variables(bag):
    """Greedy search, sampling, beam search and ensembles give what teacher forcing gives for the same tokens."""
    workload, state, *_ = bag
    network, source = Bag(), seq2seq.make_batch(COPY)
    variables = seq2seq.variables(state)
    step, first = seq2seq.make_step(CONFIG, [variables], *source.values(), network=network)
    search = {"batch": len(COPY), "max_length": 5, "begin": seq2seq.BEGIN, "end": seq2seq.END, "length_penalty": 0.0}
    greedy = seq2seq.decode.greedy(step, first, **search)
    both, firsts = seq2seq.make_step(CONFIG, [variables] * 2, *source.values(), network=network)
    chex.assert_trees_all_equal(seq2seq.decode.greedy(both, firsts, **search).tokens, greedy.tokens)
    beam = seq2seq.decode.beam_search(step, first, beam=3, **search)
    keys = jax.random.split(jax.random.key(0), len(COPY))
    drawn = seq2seq.decode.sample(step, first, keys, temperature=0.5, **search)
    for found in (greedy, beam, drawn):
        rows = [np.asarray(row[:length]) for row, length in zip(found.tokens[:, 0], found.lengths[:, 0], strict=True)]
        ended = np.asarray(found.lengths[:, 0]) < 5
        batch = seq2seq.make_batch([COPY[i] for i in np.flatnonzero(ended)], [rows[i] for i in np.flatnonzero(ended)])
        losses = seq2seq.cross_entropy(workload.predict(state, batch), batch["target"])
        real = np.arange(losses.shape[1]) < batch["target_length"][:, None]
        np.testing.assert_allclose(-(losses * real).sum(1), found.log_probability[ended, 0], rtol=1e-4)
    assert ended.any()


def test_own_network_translates_text(bag):
    letters = vocabulary.build("character", ["abcdefgh"])
    translator = seq2seq.Translator(
        CONFIG, [seq2seq.variables(bag[1])], letters, letters, seq2seq.Decoding("greedy"), network=Bag()
    )
    ((first,), (second,)) = translator.translate(["abc", "hg"])
    assert first.text != second.text
    assert first.attention is None


def test_network_that_cannot_decode_is_refused_before_anything_compiles():
    class OnlyTrains(nn.Module):
        @nn.compact
        def __call__(self, source, source_lengths, inputs, *, train):
            return nn.Embed(VOCABULARY, VOCABULARY)(inputs)

    network = OnlyTrains()
    state = seq2seq.make(CONFIG, network=network).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^OnlyTrains has no method encode, which decoding needs"):
        seq2seq.make_step(CONFIG, [seq2seq.variables(state)], *seq2seq.make_batch(COPY).values(), network=network)


class Nnx(nnx.Module):
    """One token to the next, in flax.nnx."""

    def __init__(self, rngs):
        self.embedding = nnx.Embed(VOCABULARY, 8, rngs=rngs)
        self.out = nnx.Linear(8, VOCABULARY, rngs=rngs)

    def __call__(self, source, source_lengths, inputs, *, train):
        return self.step(inputs, (), self.encode(source, source_lengths)[0])[0]

    def encode(self, source, source_lengths):
        return self.embedding(source).mean(1), ()

    def step(self, tokens, state, memory):
        return self.out(self.embedding(tokens) + memory[:, None]), state, None


def test_network_of_nnx_trains_and_decodes_through_the_bridge():
    network = nnx.bridge.to_linen(Nnx)
    workload = seq2seq.make(CONFIG, network=network, transformation=optax.adam(3e-2))
    state, losses, _ = trained(workload, 10)
    assert losses[-1] < losses[0]
    source = seq2seq.make_batch(COPY)
    step, first = seq2seq.make_step(CONFIG, [seq2seq.variables(state)], *source.values(), network=network)
    logits, *_ = step(jnp.full((len(COPY), 1), seq2seq.BEGIN), first)
    chex.assert_trees_all_close(logits[:, 0], workload.predict(state, BATCH)[:, 0], atol=1e-6)
    found = seq2seq.decode.greedy(step, first, batch=len(COPY), max_length=4, begin=seq2seq.BEGIN, end=seq2seq.END)
    assert found.tokens.shape == (len(COPY), 1, 4)


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_statistics_of_an_own_network_are_those_of_all_devices(bag, mode):
    """Momentum 0.5: the mean over 4 devices of a running mean is the running mean of the whole batch."""
    workload = seq2seq.make(seq2seq.Config(), parallel.axis_name(mode), network=Bag(), transformation=optax.sgd(0.1))
    mesh = parallel.make_mesh(4)
    state = jax.jit(workload.init)(jax.random.key(0))
    call = parallel.compile_step(workload.train_step, mesh, mode)
    placed = parallel.place_state(jax.tree.map(jnp.copy, state), mesh, mode)
    after, _ = call(placed, parallel.place_batches(BATCH, mesh, mode))
    found = parallel.gather_state(after, mode)
    embedding = np.asarray(state.params["embedding"]["embedding"])
    real = np.arange(BATCH["source"].shape[1]) < BATCH["source_length"][:, None]
    means = (embedding[BATCH["source"]] * real[..., None]).sum(1) / BATCH["source_length"][:, None]
    chex.assert_trees_all_close(found.extra["batch_stats"]["norm"]["mean"], 0.5 * means.mean(0), atol=1e-5)
    assert int(found.extra["counts"]["calls"]) == 1


def test_own_attention_trains_and_decodes_with_input_feeding():
    config = seq2seq.Config(**{**vars(CONFIG), "input_feeding": True, "optimizer": seq2seq.Optimizer("adam", 3e-2)})
    network = seq2seq.Seq2Seq(config, attention=Cosine(config.hidden))
    workload = seq2seq.make(config, network=network)
    state, losses, _ = trained(workload, 20)
    assert losses[-1] < 0.7 * losses[0]
    assert state.params["attention"]["sharpness"] != 5.0
    step, first = seq2seq.make_step(config, [state.params], *seq2seq.make_batch(COPY).values(), network=network)
    logits, _, weights = step(jnp.full((len(COPY), 1), seq2seq.BEGIN), first)
    chex.assert_trees_all_close(logits[:, 0], workload.predict(state, BATCH)[:, 0], atol=1e-5)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_own_attention_replaces_the_one_of_the_config_and_its_rules():
    """Input feeding needs attention, and `dot` one direction: neither rule is about an attention of one's own."""
    config = seq2seq.Config(**{**vars(CONFIG), "attention": "none", "input_feeding": True, "bidirectional": True})
    network = seq2seq.Seq2Seq(config, attention=seq2seq.attention.General(config.hidden))
    workload = seq2seq.make(config, network=network)
    named = seq2seq.make(seq2seq.Config(**{**vars(config), "attention": "general"}))
    state = jax.jit(workload.init)(jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(named.init, jax.random.key(0)))
    chex.assert_trees_all_equal(jax.jit(workload.predict)(state, BATCH), jax.jit(named.predict)(state, BATCH))


def test_scores_of_another_shape_are_refused():
    class Wrong(seq2seq.attention.Attention):
        def scores(self, query, keys):
            return seq2seq.attention.dot(query, keys)[..., :1]

    network = seq2seq.Seq2Seq(CONFIG, attention=Wrong(CONFIG.hidden))
    with pytest.raises(ValueError, match=r"Wrong.scores returned shape \[1, 2, 1\]; expected \[1, 2, 2\]"):
        jax.eval_shape(seq2seq.make(CONFIG, network=network).init, jax.random.key(0))


TRANSFORMATIONS = {
    "frozen": optax.multi_transform(
        {"train": optax.adam(3e-2), "freeze": optax.set_to_zero()},
        lambda params: {name: "freeze" if name == "embedding" else "train" for name in params},
    ),
    "masked": optax.chain(
        optax.masked(optax.scale(0.0), lambda params: {name: name == "embedding" for name in params}),
        optax.sgd(0.3),
    ),
    "schedule_free": optax.contrib.schedule_free_adamw(3e-2, warmup_steps=2),
    "extra_arguments": optax.chain(optax.adam(3e-2), optax.contrib.reduce_on_plateau(patience=100)),
    "line_search": optax.lbfgs(memory_size=3),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_own_transformation_trains(name):
    workload = seq2seq.make(CONFIG, network=Bag(), transformation=TRANSFORMATIONS[name])
    first = jax.jit(workload.init)(jax.random.key(0))
    state, losses, _ = trained(workload, 15)
    assert losses[-1] < losses[0]
    chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
    if name in ("frozen", "masked"):
        chex.assert_trees_all_equal(state.params["embedding"], first.params["embedding"])
    if name == "schedule_free":
        expected = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
        chex.assert_trees_all_close(seq2seq.parameters(state), expected, atol=1e-7)


def test_own_loss_is_what_is_minimised_and_evaluated():
    def focal(logits, targets, gamma=2.0):  # Lin et al. 2017, eq. 5
        losses = seq2seq.cross_entropy(logits, targets)
        return (1 - jnp.exp(-losses)) ** gamma * losses

    workload = seq2seq.make(CONFIG, loss=focal)
    state = jax.jit(workload.init)(jax.random.key(0))
    logits = np.asarray(workload.predict(state, BATCH), np.float64)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    right = np.take_along_axis(probability, BATCH["target"][..., None], -1)[..., 0]
    real = np.arange(right.shape[1]) < BATCH["target_length"][:, None]
    expected = (-((1 - right) ** 2) * np.log(right))[real]
    _, metrics = jax.jit(workload.train_step)(state, BATCH)
    assert metrics["loss"] == pytest.approx(expected.mean(), rel=1e-4)
    assert workload.eval_step(state, BATCH)["loss"] == pytest.approx(expected.sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"loss": lambda logits, targets: jnp.float32(0)}, r"the loss returned float32\[\]; expected floats \[2, 3\]"),
        (
            {"network": Bag(), "target_vocabulary": 13},
            r"returned float32\[1, 2, 12\]; expected float logits \[1, 2, 13",
        ),
        ({"network": Bag}, r"network is the class Bag; give a module: Bag\(\.\.\.\)"),
        ({"transformation": 1e-3}, "transformation is a float; expected an optax.GradientTransformation"),
        ({"loss": lambda logits: logits}, r"loss fails.* with TypeError.*; expected \(logits \[batch, T, vocabulary\]"),
        ({"loss": seq2seq.cross_entropy, "label_smoothing": 0.1}, "label_smoothing is 0.1, which a loss of your own"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(parts, message):
    fields = {name: parts[name] for name in ("target_vocabulary", "label_smoothing") if name in parts}
    parts = {name: part for name, part in parts.items() if name not in fields}

    config = seq2seq.Config(**{**vars(CONFIG), **fields})
    with pytest.raises(ValueError, match=message):
        seq2seq.make(config, **parts)


def test_example_batch_is_what_a_step_takes():
    workload = seq2seq.make(CONFIG)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    after, _ = jax.eval_shape(workload.train_step, state, seq2seq.example_batch(CONFIG, 4, 5, 3))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ([[4, 2]], None, "source 0 has the token 2; expected tokens from 3 on"),
        ([[4]], [[4], [5]], "the batch has 1 sources and 2 targets"),
        ([], None, "the batch has 0 sources"),
        ([[4.5]], None, r"source 0 is float64\[1\]; expected a sequence of integers"),
    ],
)
def test_sequences_that_are_no_batch_are_refused(sources, targets, message):
    with pytest.raises(ValueError, match=message):
        seq2seq.make_batch(sources, targets)


def test_missing_end_is_refused_where_it_can_be_seen():
    workload, batch = (
        seq2seq.make(CONFIG),
        BATCH | {"target": np.where(BATCH["target"] == seq2seq.END, 5, BATCH["target"])},
    )
    with pytest.raises(ValueError, match="the batch: the target of row 0 ends with 5 after 4 tokens; expected END"):
        workload.train_step(jax.eval_shape(workload.init, jax.random.key(0)), batch)
    with pytest.raises(ValueError, match="the source of row 0 ends with 5 after 2 tokens; expected END, which is 2"):
        seq2seq.make_step(CONFIG, [{}], np.array([[4, 5]]), np.array([2]))
