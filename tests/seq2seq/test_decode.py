import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxai.seq2seq import decode
from jaxai.seq2seq.beam import best_continuations

BEGIN, END = 1, 2
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SOURCE_MASK = np.array([[True, True, True, False], [True, True, False, False], [True] * 4])


class Tables:
    """A decoder whose logits depend on the sentence, the position and the last two tokens."""

    def __init__(self, vocabulary, words, positions, seed=0, sentences=3):
        random = np.random.default_rng(seed)
        self.vocabulary, self.words = vocabulary, words
        self.last = random.normal(size=(sentences, positions, vocabulary, vocabulary)).astype(np.float32)
        self.before = 2 * random.normal(size=(sentences, vocabulary, vocabulary)).astype(np.float32)
        attention = random.normal(size=(sentences, positions, vocabulary, 4)) * 2
        mask = np.resize(SOURCE_MASK, (sentences, 4))
        self.attention = special.softmax(np.where(mask[:, None, None], attention, -np.inf), -1).astype(np.float32)
        forbidden = np.full(vocabulary, -np.inf, np.float32)
        forbidden[[END, *words]] = 0
        self.last += forbidden

    def step(self, tokens, state):
        sentence, position, before = state
        logits = jnp.asarray(self.last)[sentence, position, tokens] + jnp.asarray(self.before)[sentence, before]
        attention = jnp.asarray(self.attention)[sentence, position, tokens]
        return logits, (sentence, position + 1, tokens), attention

    def state(self, sentences):
        sentences = jnp.asarray(sentences, jnp.int32)[:, None]
        return sentences, jnp.zeros_like(sentences), jnp.zeros_like(sentences)

    def log_probabilities(self, sentence, words):
        """Of what may follow, in float64."""
        before, last = [0, BEGIN, *words][-2:]
        logits = self.last[sentence, len(words), last].astype(np.float64) + self.before[sentence, before]
        return special.log_softmax(logits)

    def log_probability(self, sentence, words, ended):
        tokens = [*words, END] if ended else words
        return sum(self.log_probabilities(sentence, words[:i])[token] for i, token in enumerate(tokens))

    def rows(self, sentence, words, ended):
        fed = [BEGIN, *words][: len(words) + ended]
        return np.array([self.attention[sentence, i, token] for i, token in enumerate(fed)])

    def score(self, sentence, words, ended, length_penalty, coverage_penalty):
        score = self.log_probability(sentence, words, ended) / ((5 + len(words) + ended) / 6) ** length_penalty
        if coverage_penalty:
            received = self.rows(sentence, words, ended).sum(0)[SOURCE_MASK[sentence]]
            score += coverage_penalty * np.log(np.minimum(received, 1)).sum()
        return score


def exhaustive(tables, sentence, limit, *penalties):
    """(score, words, ended) of every hypothesis up to the limit, best first."""
    found = []
    for length in range(limit):
        found += [(words, True) for words in itertools.product(tables.words, repeat=length)]
    found += [(words, False) for words in itertools.product(tables.words, repeat=limit)]
    return sorted(((tables.score(sentence, *one, *penalties), *one) for one in found), reverse=True)


def slow_beam_search(tables, sentence, beam, limit, *penalties):
    """Beam search with copied histories and all its steps: (score, words, ended), best first."""
    live, finished = [(0.0, ())], []
    for _ in range(limit):
        candidates = []
        for log_probability, words in live:
            following = tables.log_probabilities(sentence, list(words))
            candidates += [(log_probability + following[token], (*words, token)) for token in range(tables.vocabulary)]
        live = []
        for log_probability, words in sorted(candidates, reverse=True)[:beam]:
            if log_probability == -np.inf:
                continue
            if words[-1] == END:
                finished.append((words[:-1], True))
            elif len(words) == limit:
                finished.append((words, False))
            else:
                live.append((log_probability, words))
    return sorted(((tables.score(sentence, *one, *penalties), *one) for one in finished), reverse=True)


def assert_hypotheses(tables, decoded, row, expected):
    """That the hypotheses of a sentence are the first of those expected, in their order."""
    for rank in range(decoded.tokens.shape[1]):
        score, words, ended = expected[rank]
        length = decoded.lengths[row, rank]
        assert tuple(decoded.tokens[row, rank, :length]) == tuple(words), rank
        assert not decoded.tokens[row, rank, length:].any()
        np.testing.assert_allclose(decoded.scores[row, rank], score, **CLOSE)
        np.testing.assert_allclose(
            decoded.log_probability[row, rank], tables.log_probability(row, list(words), ended), **CLOSE
        )
        if decoded.attention is not None:
            rows = tables.rows(row, words, ended)
            np.testing.assert_allclose(decoded.attention[row, rank, : len(rows)], rows, rtol=1e-6)
            assert not decoded.attention[row, rank, len(rows) :].any()


@functools.cache
def small():
    return Tables(vocabulary=8, words=(3, 4, 5, 6, 7), positions=9, seed=1, sentences=6)


@functools.partial(jax.jit, static_argnames=("method", "max_length"))
def run(sentences, limits, *, method, max_length=9):
    common = {
        "batch": len(sentences),
        "max_length": max_length,
        "begin": BEGIN,
        "end": END,
        "limits": limits,
        "attention": True,
    }
    step, state = small().step, small().state(sentences)
    if method == "greedy":
        return decode.greedy(step, state, **common)
    if method == "sample":
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), sentences)
        return decode.sample(step, state, keys, temperature=1.5, top_k=5, top_p=0.95, **common)
    return decode.beam_search(step, state, beam=int(method), n_best=min(2, int(method)), **common)


@pytest.mark.parametrize(
    ("length_penalty", "coverage_penalty", "n_best"), [(0.0, 0.0, 40), (1.3, 0.0, 1), (0.6, 0.7, 10)]
)
def test_wide_beam_equals_exhaustive_search(length_penalty, coverage_penalty, n_best):
    tables = Tables(vocabulary=43, words=(3, 4, 5), positions=3)  # 40 hypotheses of at most 3 tokens
    decoded = jax.device_get(
        jax.jit(
            lambda: decode.beam_search(
                tables.step,
                tables.state([0, 1, 2]),
                batch=3,
                beam=40,
                max_length=3,
                begin=BEGIN,
                end=END,
                length_penalty=length_penalty,
                coverage_penalty=coverage_penalty,
                source_mask=jnp.asarray(SOURCE_MASK),
                n_best=n_best,
                attention=True,
            )
        )()
    )
    for sentence in range(3):
        assert_hypotheses(tables, decoded, sentence, exhaustive(tables, sentence, 3, length_penalty, coverage_penalty))


def test_equals_a_search_that_copies_histories_and_never_stops_early():
    limits = [9, 8, 3, 1, 7, 9]
    decoded = jax.device_get(run(jnp.arange(6), jnp.array(limits), method="3"))
    for sentence, limit in enumerate(limits):
        assert_hypotheses(small(), decoded, sentence, slow_beam_search(small(), sentence, 3, limit, 0.6, 0.0))


def test_greedy_equals_a_beam_of_one():
    limits = jnp.array([9, 9, 3, 1, 7, 9])
    greedy, beam = (run(jnp.arange(6), limits, method=method) for method in ("greedy", "1"))
    assert greedy.lengths.max() > 2
    chex.assert_trees_all_close(greedy, beam, rtol=1e-6)


@pytest.mark.parametrize("method", ["greedy", "sample", "3"])
def test_sentence_depends_neither_on_its_neighbours_nor_on_batch_size_nor_on_padding(method):
    limits = jnp.array([9, 8, 3, 4, 7, 9])
    together = run(jnp.arange(6), limits, method=method)
    for sentence in (0, 2, 5):
        alone = run(jnp.array([sentence]), limits[sentence][None], method=method, max_length=12)
        row = jax.tree.map(lambda leaf, sentence=sentence: leaf[sentence], together)
        alone = jax.tree.map(lambda leaf: leaf[0], alone)
        np.testing.assert_array_equal(row.tokens, alone.tokens[:, :9])
        np.testing.assert_array_equal(row.lengths, alone.lengths)
        np.testing.assert_allclose(row.scores, alone.scores, rtol=1e-6)
        np.testing.assert_allclose(row.log_probability, alone.log_probability, rtol=1e-6)
        np.testing.assert_allclose(row.attention, alone.attention[:, :9], rtol=1e-6)


@pytest.mark.parametrize("method", ["greedy", "sample", "3"])
def test_limits_cut_and_a_limit_of_zero_gives_nothing(method):
    limits = jnp.array([0, 1, 2, 3, 4, 0])
    decoded = run(jnp.arange(6), limits, method=method)
    assert (decoded.lengths <= limits[:, None]).all()
    assert (decoded.scores[jnp.array([0, 5])] == -jnp.inf).all()
    assert jnp.isfinite(decoded.scores[1:5]).all()
    assert not decoded.tokens[jnp.array([0, 5])].any()


def test_stops_once_no_hypothesis_can_win():
    calls = []

    def step(tokens, state):
        jax.debug.callback(lambda: calls.append(1))
        # Surely w, then the end by 0.9, else w for ever.
        logits = jnp.where(state[..., None] == 0, jnp.array([-30.0, -30, -30, 0]), jnp.array([-30, -30, 2.2, 0.0]))
        return logits, state + 1, None

    decoded = jax.jit(
        lambda: decode.beam_search(
            step, jnp.zeros((1, 1)), batch=1, beam=2, max_length=60, begin=BEGIN, end=END, length_penalty=0.6
        )
    )()
    jax.effects_barrier()
    assert decoded.lengths == 1
    # After n more w the bound is n log 0.1 / (65 / 6)**0.6, and what is kept scores -0.105 / (7 / 6)**0.6.
    assert len(calls) == 2


def draws(logits, **options):
    """Frequency of each token among 4,000 first tokens, each of a sentence of its own."""
    count = 4000
    logits = jnp.asarray(logits, jnp.float32)

    @jax.jit
    def draw(key):
        return decode.sample(
            lambda tokens, state: (jnp.broadcast_to(logits, (*tokens.shape, logits.size)), state, None),
            (),
            jax.random.split(key, count),
            batch=count,
            max_length=1,
            begin=BEGIN,
            end=END,
            **options,
        )

    decoded = jax.device_get(draw(jax.random.key(0)))
    tokens = np.where(decoded.lengths == 0, END, decoded.tokens[:, 0])
    np.testing.assert_allclose(decoded.log_probability, special.log_softmax(logits)[tokens], rtol=1e-5)
    return np.bincount(tokens[:, 0], minlength=logits.size) / count


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 3}, [2, 3, 5]),
        ({"top_p": 0.6}, [3, 5]),  # 0.4 of token 3 is too little, 0.65 with token 5 is enough
        ({"top_k": 3, "top_p": 0.85, "temperature": 2.0}, [2, 3, 5]),
    ],
)
def test_sampling_follows_the_probabilities_it_leaves(options, allowed):
    logits = np.log([0.05, 0.07, 0.15, 0.4, 0.08, 0.25])
    kept = np.full(6, -np.inf)
    kept[allowed] = logits[allowed] / options.get("temperature", 1.0)
    expected = special.softmax(kept)
    frequency = draws(logits, **options)
    assert not frequency[expected == 0].any()
    assert (np.abs(frequency - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / 4000)).all()


@pytest.mark.parametrize("vocabulary", [5, 30, 2049])
@pytest.mark.parametrize("count", [1, 5])
def test_best_continuations_are_those_of_a_sort(vocabulary, count):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 5, vocabulary)).astype(np.float32) * 3
    live = -random.exponential(size=(3, 5)).astype(np.float32)
    live[1, 2:] = -np.inf
    values, places = jax.jit(best_continuations, static_argnums=2)(logits, live, count)
    expected = (live[..., None] + special.log_softmax(logits.astype(np.float64), -1)).reshape(3, -1)
    order = np.argsort(-expected, 1)[:, :count]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_allclose(values, np.take_along_axis(expected, order, 1), **CLOSE)


def test_ensemble_averages_probabilities_and_attention():
    members = [Tables(8, (3, 4, 5), 2, seed=seed) for seed in (1, 2)]
    tokens = jnp.full((3, 1), BEGIN)
    step = jax.jit(decode.ensemble([member.step for member in members]))
    logits, states, attention = step(tokens, tuple(member.state([0, 1, 2]) for member in members))
    for sentence in range(3):
        probability = [np.exp(member.log_probabilities(sentence, [])) for member in members]
        np.testing.assert_allclose(jnp.exp(logits[sentence, 0]), np.mean(probability, 0), **CLOSE)
        rows = [member.attention[sentence, 0, BEGIN] for member in members]
        np.testing.assert_allclose(attention[sentence, 0], np.mean(rows, 0), rtol=1e-6)
    assert len(states) == 2
    assert states[1][1].tolist() == [[1]] * 3


def test_average_is_the_mean_of_each_leaf_in_its_type():
    trees = [{"w": jnp.array([1.0, 2]), "b": jnp.bfloat16(1)}, {"w": jnp.array([3.0, 5]), "b": jnp.bfloat16(2)}]
    averaged = decode.average(trees)
    assert averaged["w"].tolist() == [2.0, 3.5]
    assert averaged["b"] == 1.5
    assert averaged["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        ([], "average got 0 checkpoints"),
        ([{"w": 1.0}, {"v": 1.0}], "checkpoint 1 has other parameters"),
        ([{"w": jnp.ones(2)}, {"w": jnp.ones(3)}], "'w'.*shapes"),
        ([{"step": 1}], "'step'.*int32, expected floating point"),
    ],
)
def test_only_checkpoints_of_one_model_are_averaged(trees, message):
    with pytest.raises(ValueError, match=message) as error:
        decode.average(trees)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam is 0, expected at least 1"),
        ({"beam": 2, "n_best": 3}, "n_best is 3, expected 1 to 2"),
        ({"beam": 9}, "beam is 9, expected at most 8"),
        ({"max_length": 0}, "max_length is 0, expected at least 1"),
        ({"limits": np.ones(3)}, r"limits has shape \(3,\)"),
        ({"coverage_penalty": -0.1}, "coverage_penalty is -0.1"),
        ({"coverage_penalty": 0.1}, "needs attention and source_mask"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"keys": np.zeros(2, np.uint32)}, r"keys has shape \(\), expected \(2,\)"),
    ],
)
def test_number_out_of_range_is_named(options, message):
    common = {"batch": 2, "max_length": 3, "begin": BEGIN, "end": END}
    with pytest.raises(ValueError, match=message) as error:  # noqa: PT012 - one of two calls
        if {"temperature", "top_p", "top_k", "keys"} & options.keys():
            options = {"keys": jax.random.split(jax.random.key(0), 2)} | common | options
            decode.sample(small().step, small().state([0, 1]), **options)
        else:
            decode.beam_search(small().step, small().state([0, 1]), **({"beam": 2} | common | options))
    assert "\n" not in str(error.value)
