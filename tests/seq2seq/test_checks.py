"""What a sequence step or a search cannot use is refused in one line: shapes while tracing, values on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import seq2seq
from jaxai.runtime import parallel
from jaxai.seq2seq import decode
from jaxai.seq2seq.checks import check_values

CONFIG = seq2seq.Config(source_vocabulary=9, target_vocabulary=8, hidden=4, embed=4, scheduled_sampling=0.5)
WORKLOAD = seq2seq.make(CONFIG)
STATE = jax.eval_shape(WORKLOAD.init, jax.random.key(0))
EXPECTED = r"expected source \[batch, S\], source_length \[batch\], target \[batch, T\], target_length \[batch\]"


def batch(**changes):
    arrays = {
        "source": np.array([[4, 5, 2, 0], [6, 2, 0, 0], [7, 8, 4, 2]], np.int32),
        "source_length": np.array([3, 2, 4], np.int32),
        "target": np.array([[4, 2, 0], [5, 6, 2], [2, 0, 0]], np.int32),
        "target_length": np.array([2, 3, 1], np.int32),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


STATIC = [
    ({"source_length": np.ones((3, 1), np.int32)}, r"source_length has shape \[3, 1\]; expected \[batch\]: take sour"),
    ({"source": np.ones((3, 4, 1), np.int32)}, r"source has shape \[3, 4, 1\]; .* take source\[..., 0\]"),
    ({"source": np.ones((3, 4, 9), np.int32)}, r"source has shape \[3, 4, 9\]; .* one-hot, take source.argmax\(-1\)"),
    ({"source": np.ones(4, np.int32)}, r"source has shape \[4\]; .* source\[None\]"),
    ({"source": np.ones((3, 4), np.float32)}, "source has dtype float32; expected integers"),
    ({"source_length": np.ones(3, np.float32)}, "source_length has dtype float32; expected integers"),
    ({"source": np.ones((3, 4), bool)}, "source has dtype bool"),
    ({"source": np.ones((2, 4), np.int32)}, "source has 2 rows but source_length has 3"),
    ({"source_length": np.ones(1, np.int32)}, "source has 3 rows but source_length has 1"),
    ({"source": np.ones((3, 0), np.int32)}, r"source has shape \[3, 0\]"),
    ({"source": None}, "the batch has no source, it has source_length, target"),
    ({"target": np.ones((3, 3), np.float64)}, "target has dtype float"),
    ({"target": np.ones((4, 3), np.int32)}, "rows but target has 4"),
]
TARGETS = [
    ({"target_length": np.ones((3, 1), np.int32)}, r"target_length has shape \[3, 1\]"),
    ({"target_length": None, "targets": np.ones(3)}, f"the batch has no target_length, .*; {EXPECTED}"),
    ({"mask": np.ones((3, 1))}, r"mask has shape \[3, 1\]; expected \[batch\]"),
    ({"mask": np.ones(2)}, "source has 3 rows but mask has 2"),
]


@pytest.mark.parametrize(("changes", "message"), STATIC + TARGETS)
@pytest.mark.parametrize("name", ["train_step", "eval_step", "gradients"])
def test_batch_of_another_shape_or_dtype_is_refused_while_tracing(name, changes, message):
    refused(lambda: jax.eval_shape(getattr(WORKLOAD, name), STATE, batch(**changes)), message)


@pytest.mark.parametrize(("changes", "message"), STATIC)
def test_prediction_refuses_the_same_without_asking_for_the_targets_lengths(changes, message):
    predict = seq2seq.make_predict(CONFIG)
    refused(lambda: jax.eval_shape(predict, STATE, batch(target_length=None, **changes)), message)
    assert jax.eval_shape(predict, STATE, batch(target_length=None)).shape == (3, 3, 8)


def test_no_batch_and_lists_are_reported():
    refused(lambda: WORKLOAD.train_step(STATE, None), "the batch is a NoneType; expected a dict of source")
    refused(lambda: WORKLOAD.train_step(STATE, batch(source=[[4, 2]])), r"source is a list; expected an array \[batch")


def test_every_engine_refuses_alike():
    mesh = parallel.make_mesh(3)
    wrong = batch(target_length=np.ones((3, 1), np.int32))
    step = seq2seq.make(CONFIG, mesh.axis_names[0]).train_step
    specs = (jax.P(), jax.P(mesh.axis_names[0]))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=jax.P(), check_vma=False)
    seeds = jax.vmap(WORKLOAD.train_step, (None, 0))
    for call in (mapped, jax.jit(WORKLOAD.train_step)):
        refused(lambda call=call: jax.eval_shape(call, STATE, wrong), r"target_length has shape \[[13], 1\]")
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * 2), wrong)
    refused(lambda: jax.eval_shape(seeds, STATE, stacked), r"target_length has shape \[3, 1\]")


def test_small_integers_train_as_int32():
    """Scheduled sampling draws tokens that uint8 could not hold, so the inputs are int32 whatever the targets are."""
    wide = seq2seq.make(seq2seq.Config(**{**vars(CONFIG), "target_vocabulary": 300, "scheduled_sampling": 1.0}))
    state = jax.jit(wide.init)(jax.random.key(0))
    step = jax.jit(wide.train_step)
    small = {name: jnp.asarray(array, jnp.uint8) for name, array in batch().items()}
    assert step(state, small)[1]["loss"] == step(state, jax.tree.map(jnp.asarray, batch()))[1]["loss"]


def test_encoder_and_step_function_refuse_a_column_of_lengths():
    params = STATE.params
    source, lengths = np.ones((3, 4), np.int32), np.ones((3, 1), np.int32)
    network = seq2seq.Seq2Seq(CONFIG)
    message = r"source_length has shape \[3, 1\]"
    refused(lambda: seq2seq.make_step(CONFIG, [params], source, lengths), message)
    encode = lambda: network.apply({"params": params}, source, lengths, method="encode")  # noqa: E731
    refused(encode, message)
    call = lambda: network.apply({"params": params}, source, np.ones(3, np.int32), np.ones((2, 3), np.int32))  # noqa: E731
    refused(lambda: jax.eval_shape(call), "source has 3 rows but inputs has 2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": np.array([[9, 2]] * 3)}, r"mine: the source token at \[0, 0\] is 9; expected 0 to 8"),
        ({"source": np.array([[-1, 2]] * 3)}, r"the source token at \[0, 0\] is -1"),
        ({"source_length": np.array([3, 0, 4])}, "source_length of row 1 is 0; expected 1 to 4"),
        ({"source_length": np.array([3, 2, 5])}, "source_length of row 2 is 5; expected 1 to 4"),
        ({"target_length": np.array([2, 2, 1])}, "the target of row 1 ends with 6 after 2 tokens; expected END"),
        ({"target": np.array([[2, 2, 0], [5, 6, 2], [2, 0, 0]])}, "the target of row 0 ends with 2 after 2 tokens"),
        ({"target": np.ones((3, 3))}, "mine: target has dtype float64"),
    ],
)
def test_values_that_would_train_silently_wrong_are_refused_on_the_host(changes, message):
    changes.setdefault("source_length", np.array([3, 2, 4]))
    if changes.get("source") is not None:
        changes["source_length"] = np.array([2, 2, 2])
    refused(lambda: check_values(batch(**changes), 9, 8, "mine"), message)
    check_values(batch(), 9, 8, "mine")


def step(tokens, state, vocabulary=6):
    return jnp.zeros((*tokens.shape, vocabulary)), state, jnp.ones((*tokens.shape, 3)) / 3


SEARCH = {"batch": 2, "max_length": 3, "begin": 1, "end": 2}


@pytest.mark.parametrize("name", ["beam_search", "greedy", "sample"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": np.zeros((2, 4))}, r"the state's leaf \(\) has shape \[2, 4\]; expected \[2, 1, ...\]"),
        ({"state": {"h": np.zeros((1, 1, 4))}}, r"the state's leaf \['h'\] has shape \[1, 1, 4\]"),
        (
            {"step": lambda tokens, state: (jnp.zeros((2, 6)), state, None)},
            r"returned logits float32\[2, 6\]; expected",
        ),
        ({"step": lambda tokens, state: (jnp.zeros((*tokens.shape, 6), int), state, None)}, "returned logits int32"),
        (
            {"step": lambda tokens, state: (jnp.zeros((*tokens.shape, 6)), state, jnp.ones((2, 3)))},
            r"returned attention \[2, 3\]",
        ),
        (
            {
                "step": lambda tokens, state: (jnp.zeros((*tokens.shape, 6)), state + 1, None),
                "state": np.ones((2, 1), int),
            },
            None,
        ),
        (
            {"step": lambda tokens, state: (jnp.zeros((*tokens.shape, 6)), state.astype(jnp.bfloat16), None)},
            r"returned bfloat16\[2, \d\] for the state's leaf \(\)",
        ),
        ({"step": lambda tokens, state: (jnp.zeros((*tokens.shape, 6)), (), None)}, "a state of another structure"),
        ({"end": 6}, "end is 6; expected a token of the vocabulary, -1 to 5"),
        ({"begin": -1}, "begin is -1"),
        ({"batch": 0, "state": ()}, "batch is 0"),
        ({"limits": np.ones(2, np.float32)}, "limits has dtype float32, expected integers"),
        ({"limits": np.ones((2, 1), np.int32)}, r"limits has shape \(2, 1\)"),
        ({"length_penalty": float("nan")}, "length_penalty is nan, expected at least 0 and finite"),
        ({"length_penalty": -0.5}, "length_penalty is -0.5"),
        ({"length_penalty": float("inf")}, "length_penalty is inf"),
    ],
)
def test_search_refuses_what_does_not_fit_it(name, changes, message):
    options = {"step": step, "state": np.zeros((2, 1), np.float32)} | SEARCH | changes
    if name == "beam_search":
        options["beam"] = 2
    if name == "sample":
        options["keys"] = jax.random.split(jax.random.key(0), options["batch"])
    call = lambda: jax.eval_shape(lambda: getattr(decode, name)(options.pop("step"), options.pop("state"), **options))  # noqa: E731
    if message is None:
        assert call().tokens.shape == (2, 1, 3)
    else:
        refused(call, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coverage_penalty": float("nan")}, "coverage_penalty is nan"),
        (
            {"coverage_penalty": 0.1, "source_mask": np.ones((2, 4), bool)},
            r"source_mask is bool\[2, 4\], expected bool\[2, 3",
        ),
        ({"coverage_penalty": 0.1, "source_mask": np.ones((2, 3), np.int32)}, r"source_mask is int32\[2, 3\]"),
        ({"beam": 7}, "beam is 7, expected at most 6"),
        ({"n_best": 0}, "n_best is 0, expected 1 to 2"),
    ],
)
def test_beam_search_refuses_its_own_numbers(changes, message):
    options = SEARCH | {"beam": 2} | changes
    refused(lambda: decode.beam_search(step, np.zeros((2, 1)), **options), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"top_k": 7}, "top_k is 7, expected at most 6, the vocabulary's size"),
        ({"keys": np.zeros((2, 2), np.float32)}, "keys is float32, expected random keys"),
        ({"keys": [0, 1]}, "keys is list, expected random keys"),
    ],
)
def test_sampling_refuses_its_own_numbers(changes, message):
    options = SEARCH | {"keys": jax.random.split(jax.random.key(0), 2)} | changes
    refused(lambda: decode.sample(step, np.zeros((2, 1)), **options), message)


def test_without_an_end_token_hypotheses_go_to_their_limit():
    options = SEARCH | {"end": -1}
    assert (decode.greedy(step, np.zeros((2, 1)), **options).lengths == 3).all()
    assert (decode.beam_search(step, np.zeros((2, 1)), beam=2, **options).lengths == 3).all()


def test_lowest_temperature_is_greedy():
    logits = jnp.array([0.0, 1.0, -1.0, 2.5, 2.0, -jnp.inf]) * 1e4
    flat = lambda tokens, state: (jnp.broadcast_to(logits, (*tokens.shape, 6)), state, None)  # noqa: E731
    for temperature in (1e-38, 1e-45):
        found = decode.sample(flat, (), jax.random.split(jax.random.key(0), 2), **SEARCH, temperature=temperature)
        assert (found.tokens == 3).all()


def test_ensemble_of_other_vocabularies_is_refused():
    other = lambda tokens, state: step(tokens, state, 5)  # noqa: E731
    joined = decode.ensemble([step, other])
    state = (np.zeros((2, 1)), np.zeros((2, 1)))
    refused(lambda: joined(jnp.ones((2, 1), int), state), r"vocabularies of \[5, 6\] tokens, expected one for all")
    refused(lambda: joined(jnp.ones((2, 1), int), state[:1]), "an ensemble of 2 steps got 1 states")
