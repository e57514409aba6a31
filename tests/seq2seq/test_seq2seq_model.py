import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.seq2seq.model import Model, Seq2Seq
from jaxai.seq2seq.recurrent import Layer, Stack

VOCABULARY = 7
SOURCE = np.array([[4, 5, 6, 3, 2], [6, 2, 0, 0, 0], [5, 4, 2, 0, 0]], np.int32)
LENGTHS = np.array([5, 2, 3], np.int32)
INPUTS = np.array([[1, 4, 6, 5], [1, 5, 0, 0], [1, 6, 6, 4]], np.int32)

BASE = Model(VOCABULARY, VOCABULARY, hidden=4, embed=3, dtype="float32")
# Each option stands in one of these at least; the names are what the test's output says.
CONFIGURATIONS = {
    "plain": {"bidirectional": False},
    "gru_additive": {"cell": "gru", "attention": "additive"},
    "residual_scaled_dot": {"layers": 2, "residual": True, "attention": "scaled_dot"},
    "bahdanau_layer_norm": {"attention": "additive", "input_feeding": True, "layer_norm": True},
    "fed_gru_layer_norm": {"input_feeding": True, "cell": "gru", "layer_norm": True, "layers": 2},
    "none_tied_shared": {"attention": "none", "tie_embeddings": True, "share_embeddings": True},
    "dot_fed_tied": {"attention": "dot", "bidirectional": False, "input_feeding": True, "tie_embeddings": True},
}


def shaken(tree, seed=0):
    # Zeros and ones of the initial biases and scales would hide a parameter that nobody reads.
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (random.normal(size=leaf.shape) * 0.6).astype(leaf.dtype), tree)


def parameters(module, *arguments, **options):
    return shaken(jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *arguments))


@functools.cache
def network(name):
    module = Seq2Seq(dataclasses.replace(BASE, **CONFIGURATIONS[name]))
    return module, parameters(module, SOURCE, LENGTHS, INPUTS)


@functools.cache
def results(name):
    """Teacher-forced logits; those of the most padded sentence alone; and those of the second of two hypotheses."""
    module, variables = network(name)

    @jax.jit
    def everything(variables):
        padded = module.apply(variables, SOURCE, LENGTHS, INPUTS)
        alone = module.apply(variables, SOURCE[1:2, :2], LENGTHS[1:2], INPUTS[1:2])
        memory, state = module.apply(variables, SOURCE, LENGTHS, method="encode")
        state = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=1), state)

        def step(state, tokens):
            beam = jnp.stack([tokens[::-1], tokens], axis=1)
            logits, state, weights = module.apply(variables, beam, state, memory, method="step")
            return state, (logits[:, 1], weights)

        _, (stepwise, weights) = jax.lax.scan(step, state, INPUTS.T)
        return padded, alone, stepwise.swapaxes(0, 1), weights

    return everything(variables)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_padding_and_neighbours_do_not_change_the_logits(name):
    padded, alone, _, _ = results(name)
    assert padded.shape == (3, 4, VOCABULARY)
    assert padded.dtype == jnp.float32
    assert np.ptp(padded) > 0.1
    np.testing.assert_allclose(padded[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_decoding_step_by_step_gives_the_logits_of_teacher_forcing(name):
    padded, _, stepwise, weights = results(name)
    np.testing.assert_allclose(stepwise, padded, atol=1e-5)
    if CONFIGURATIONS[name].get("attention") == "none":
        assert weights is None
    else:
        assert weights.shape == (4, 3, 2, 5)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(weights)[:, 1, :, 2:], 0.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(x, weights, h, c):
    outputs = []
    for features in x:
        gates = features @ weights["input"] + h @ weights["recurrent"] + weights["bias"]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs), h, c


def test_the_small_model_is_the_textbooks_arithmetic():
    p = network("plain")[1]["params"]
    logits = results("plain")[0]
    for sentence, length in enumerate(LENGTHS):
        embedded = p["source_embedding"]["embedding"][SOURCE[sentence, :length]]
        memory, h, c = numpy_lstm(embedded, p["encoder"]["forward_0"], np.zeros(4), np.zeros(4))
        embedded = p["target_embedding"]["embedding"][INPUTS[sentence]]
        states, _, _ = numpy_lstm(embedded, p["decoder"]["forward_0"], h, c)
        for t, state in enumerate(states):
            scores = np.exp([state @ (row @ p["attention"]["key"]["kernel"]) for row in memory])
            context = (scores / scores.sum()) @ memory
            vector = np.tanh(np.concatenate([context, state]) @ p["combine"]["kernel"])
            np.testing.assert_allclose(logits[sentence, t], vector @ p["softmax"] + p["softmax_bias"], atol=1e-5)


def normalised(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_layer_normalisation_is_that_of_ba_kiros_and_hinton(cell):
    layer = Layer(cell, 3, 4, layer_norm=True)
    x = np.random.default_rng(3).normal(size=(1, 5, 3)).astype(np.float32)
    variables = parameters(layer, x)
    outputs, _ = jax.jit(layer.apply)(variables, x)
    p = variables["params"]
    h, c = np.zeros(4), np.zeros(4)
    for t in range(5):
        inputs, recurrent = x[0, t] @ p["input"], h @ p["recurrent"]
        if cell == "lstm":
            gates = normalised(inputs) * p["input_scale"] + normalised(recurrent) * p["recurrent_scale"] + p["bias"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(normalised(c) * p["cell_scale"] + p["cell_bias"])
        else:
            inputs, recurrent = (
                np.concatenate([normalised(sums[:8]), normalised(sums[8:])]) * p[scale] + p[bias]
                for sums, scale, bias in (
                    (inputs, "input_scale", "bias"),
                    (recurrent, "recurrent_scale", "recurrent_bias"),
                )
            )
            r, z = np.split(sigmoid(inputs[:8] + recurrent[:8]), 2)
            h = (1 - z) * np.tanh(inputs[8:] + r * recurrent[8:]) + z * h
        np.testing.assert_allclose(outputs[0, t], h, atol=1e-5)


def test_a_recurrent_mask_of_ones_gives_what_the_fast_form_gives():
    x = np.random.default_rng(3).normal(size=(3, 5, 3)).astype(np.float32)
    for cell in ("lstm", "gru"):
        for reverse in (False, True):
            layer = Layer(cell, 3, 4, reverse=reverse)
            variables = parameters(layer, x)
            run = jax.jit(lambda *arguments, layer=layer: layer.apply(*arguments))
            fast, general = (run(variables, x, None, LENGTHS, mask) for mask in (None, np.ones((3, 4), np.float32)))
            for expected, found in zip(jax.tree.leaves(fast), jax.tree.leaves(general), strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dropout_off_is_deterministic_and_on_is_not():
    config = dataclasses.replace(BASE, dropout=0.5, recurrent_dropout=0.5, input_feeding=True, bidirectional=False)
    module = Seq2Seq(config)
    variables = parameters(module, SOURCE, LENGTHS, INPUTS)

    @functools.partial(jax.jit, static_argnames="train")
    def run(key, train):
        return module.apply(variables, SOURCE, LENGTHS, INPUTS, train=train, rngs={"dropout": key})

    first, second = jax.random.split(jax.random.key(5))
    np.testing.assert_array_equal(run(first, False), run(second, False))
    np.testing.assert_array_equal(run(first, True), run(first, True))
    assert np.abs(run(first, True) - run(second, True)).max() > 1e-3


def dropped_outputs(variational):
    """A GRU with its update gate shut and no recurrence shows its input at each step, and nothing from before."""
    stack = Stack("gru", 6, 4, dropout=0.5, variational=variational)
    layer = parameters(stack, np.ones((2, 8, 6)))["params"]["forward_0"]
    shut = layer | {"recurrent": np.zeros((4, 12)), "bias": np.repeat([0.0, -50.0, 0.0], 4).astype(np.float32)}
    run = jax.jit(lambda p: stack.apply(p, jnp.ones((2, 8, 6)), train=True, rngs={"dropout": jax.random.key(0)})[0])
    return np.asarray(run({"params": {"forward_0": shut}}))


def test_the_variational_mask_holds_for_all_steps_and_the_ordinary_one_does_not():
    same, other = dropped_outputs(True), dropped_outputs(False)
    np.testing.assert_allclose(same, np.repeat(same[:, :1], 8, axis=1), atol=1e-6)
    assert np.abs(same[0] - same[1]).max() > 1e-3, "sequences share a mask"
    assert np.ptp(other, axis=1).max() > 1e-3


def test_masks_keep_the_mean_and_cover_each_direction():
    stack = Stack("lstm", 3, 200, bidirectional=True, dropout=0.25, variational=True, recurrent_dropout=0.5)
    variables = jax.eval_shape(stack.init, jax.random.key(0), jnp.ones((1, 1, 3)))
    ((inputs, (forward, backward)),) = stack.apply(
        variables, 40, train=True, rngs={"dropout": jax.random.key(1)}, method="masks"
    )
    assert inputs.shape == (40, 3)
    np.testing.assert_allclose(np.unique(inputs), [0, 1 / 0.75])
    np.testing.assert_allclose(np.unique(forward), [0, 2])
    assert abs(forward.mean() - 1) < 0.05
    assert (forward != backward).any()
    ((inputs, recurrent),) = stack.apply(variables, 40, train=False, method="masks")
    assert inputs is None
    assert recurrent == (None, None)


def test_tied_and_shared_tables_are_one_parameter():
    variables = network("none_tied_shared")[1]["params"]
    shapes = [leaf.shape for leaf in jax.tree.leaves(variables) if VOCABULARY in leaf.shape]
    assert sorted(shapes) == [(VOCABULARY,), (VOCABULARY, BASE.embed)]


def test_initial_weights_are_those_of_keras():
    layer = Layer("lstm", 3, 4)
    p = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 1, 3)))["params"]
    np.testing.assert_array_equal(p["bias"], np.repeat([0, 1, 0, 0], 4))
    np.testing.assert_allclose(p["recurrent"] @ p["recurrent"].T, np.eye(4), atol=1e-5)
    assert np.abs(p["input"]).max() <= np.sqrt(6 / (3 + 16))


def test_bfloat16_computes_near_float32_and_gives_float32_logits_and_parameters():
    config = dataclasses.replace(BASE, dtype="bfloat16", **CONFIGURATIONS["bahdanau_layer_norm"])
    variables = network("bahdanau_layer_norm")[1]
    run = jax.jit(functools.partial(Seq2Seq(config).apply, mutable=["params"]))
    logits, params = run(variables, SOURCE, LENGTHS, INPUTS)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, params))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(logits, results("bahdanau_layer_norm")[0], atol=0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 0}, "hidden is 0; it must be at least 1"),
        ({"layers": -1}, "layers is -1"),
        ({"embed": 0}, "embed is 0"),
        ({"source_vocabulary": 0}, "source_vocabulary is 0"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must be at least 0 and below 1"),
        ({"recurrent_dropout": -0.1}, "recurrent_dropout is -0.1"),
        ({"cell": "lsmt"}, r"cell is 'lsmt'; it must be one of lstm, gru \(did you mean lstm\?\)"),
        ({"attention": "genral"}, "did you mean general"),
        ({"dtype": "int8"}, "it must be one of auto, float32, bfloat16"),
        ({"attention": "none", "input_feeding": True}, "choose an attention other than none"),
        ({"attention": "dot"}, "choose general, or set bidirectional to False"),
        ({"share_embeddings": True, "target_vocabulary": 9}, "the source has 7 entries and the target 9"),
    ],
)
def test_a_config_that_cannot_be_built_is_one_clear_line(fields, message):
    module = Seq2Seq(dataclasses.replace(BASE, **fields))
    with pytest.raises(ValueError, match=message) as caught:
        jax.eval_shape(module.init, jax.random.key(0), SOURCE, LENGTHS, INPUTS)
    assert "\n" not in str(caught.value)
