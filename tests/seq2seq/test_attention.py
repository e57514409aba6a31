import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.seq2seq import attention

QUERIES, SOURCE, HIDDEN = 3, 4, 5
LENGTHS = np.array([4, 2])


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def score(name, params, q, k):
    match name:
        case "additive":
            units = np.tanh(params["query"]["kernel"].T @ q + params["key"]["kernel"].T @ k + params["key"]["bias"])
            return params["energy"] @ units
        case "dot":
            return q @ k
        case "general":
            return q @ (params["key"]["kernel"].T @ k)
        case "scaled_dot":
            return (params["query"]["kernel"].T @ q) @ (params["key"]["kernel"].T @ k) / np.sqrt(HIDDEN)


def attended(module, query, memory, mask):
    return module(query, memory, module.project(memory), mask)


def inputs(size, dtype=np.float32):
    random = np.random.default_rng(1)
    query = random.normal(size=(2, QUERIES, HIDDEN)).astype(dtype)
    memory = random.normal(size=(2, SOURCE, size)).astype(dtype)
    return query, memory, np.arange(SOURCE) < LENGTHS[:, None]


@pytest.mark.parametrize("name", attention.ATTENTIONS)
def test_attention_is_the_formula_of_its_paper(name):
    query, memory, mask = inputs(HIDDEN if name == "dot" else 6)
    module = attention.find(name)(HIDDEN)
    variables = jax.jit(lambda key: module.init(key, query, memory, mask, method=attended))(jax.random.key(0))
    random = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype), variables)
    context, weights = jax.jit(lambda *arguments: module.apply(*arguments, method=attended))(
        variables, query, memory, mask
    )
    assert weights.dtype == jnp.float32
    for sentence, length in enumerate(LENGTHS):
        real = memory[sentence, :length]
        for q in range(QUERIES):
            scores = [score(name, variables.get("params"), query[sentence, q], k) for k in real]
            expected = softmax(np.array(scores))
            np.testing.assert_allclose(weights[sentence, q, :length], expected, atol=1e-5)
            np.testing.assert_array_equal(weights[sentence, q, length:], 0.0)
            np.testing.assert_allclose(context[sentence, q], expected @ real, atol=1e-5)


def test_a_source_of_padding_alone_has_context_and_gradient_of_zero():
    query, memory, mask = inputs(HIDDEN)
    mask = mask & np.array([[True], [False]])

    @jax.jit
    def both(memory):
        return jax.value_and_grad(lambda m: attention.attend(attention.dot(query, m), m, mask)[0].sum())(memory)

    total, gradient = both(memory)
    np.testing.assert_array_equal(gradient[1], 0.0)
    assert np.isfinite(total)
    assert np.abs(gradient[0]).max() > 0


def test_scores_and_weights_stay_float32_where_the_memory_is_bfloat16():
    query, memory, mask = inputs(HIDDEN, jnp.bfloat16)
    module = attention.find("dot")(HIDDEN, jnp.bfloat16)
    context, weights = module.apply({}, query, memory, mask, method=attended)
    assert (context.dtype, weights.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)


def test_none_is_no_attention():
    assert attention.find("none") is None


@pytest.mark.parametrize(
    ("name", "meant"), [("aditive", "additive"), ("bahdanau", "additive"), ("scaled-dot", "scaled_dot")]
)
def test_an_unknown_attention_is_answered_with_the_name_that_was_meant(name, meant):
    with pytest.raises(ValueError, match=f"^attention is '{name}', did you mean {meant}\\? .*general.*none$"):
        attention.find(name)


def test_an_attention_far_from_all_names_is_answered_with_all_of_them():
    with pytest.raises(ValueError, match="expected one of additive, dot, general, scaled_dot, none"):
        attention.find("zzz")


@pytest.mark.parametrize("wrong", [np.array([3, 4]), np.ones((2, 1), bool), np.ones((2, 4), np.float32)])
def test_mask_of_another_shape_or_dtype_is_refused(wrong):
    query, memory, _ = inputs(HIDDEN)
    with pytest.raises(ValueError, match=r"mask is \w+\[.*\]; expected bool\[\d, \d\], true where") as error:
        attention.attend(attention.dot(query, memory), memory, wrong)
    assert "\n" not in str(error.value)


def test_dot_attention_refuses_a_memory_of_another_size():
    query, memory, mask = inputs(6)
    with pytest.raises(ValueError, match="queries of size 5 with a memory of size 6"):
        attention.find("dot")(HIDDEN).apply({}, query, memory, mask, method=attended)
