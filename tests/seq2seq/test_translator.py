"""What the translation of a sentence may depend on, and what the translator refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxai import seq2seq
from jaxai.seq2seq import translator as translators
from jaxai.seq2seq import vocabulary
from jaxai.seq2seq.decoding import Decoding, check_decoding
from jaxai.seq2seq.translator import Translator

LETTERS = vocabulary.build("character", ["abcdefgh"])
CONFIG = seq2seq.Config(
    source_vocabulary=len(LETTERS), target_vocabulary=len(LETTERS), hidden=8, embed=4, bidirectional=False
)
TEXTS = ("abc", "hgfedcba" * 3, "b", "", "dacb", "ab" * 7, "e")


@pytest.fixture(scope="module")
def params():
    return jax.jit(seq2seq.make(CONFIG).init)(jax.random.key(0)).params


@pytest.fixture(scope="module")
def make(params):
    def made(decoding, **options):
        return Translator(CONFIG, [params], LETTERS, LETTERS, decoding, **options)

    return made


SAMPLE = Decoding("sample", temperature=2.0, longest_extra=3, longest_ratio=0.5)


def test_sampling_follows_the_lines_number_and_not_where_it_was_sorted_to(make):
    sampler = make(SAMPLE, seed=3)
    drawn = [each.text for (each,) in sampler.translate(TEXTS, 1)]
    assert [each.text for (each,) in sampler.translate(TEXTS, 7)] == drawn
    assert [each.text for (each,) in sampler.translate_all(TEXTS, 3)] == drawn
    # The other lines' text and length change nothing; another number does.
    others = ["hhhhhhhhhhhhhhhhhhhhhhhh", TEXTS[1], "c" * 6, "f", TEXTS[4], "", "g"]
    again = [each.text for (each,) in sampler.translate_all(others, 7)]
    assert (again[1], again[4]) == (drawn[1], drawn[4])
    assert len({each.text for (each,) in sampler.translate(["abc"] * 7, 7)}) > 1


def test_long_lines_get_batches_of_their_own(make, monkeypatch):
    """Memory follows what one line needs, and not the longest line times the batch."""
    beam = make(Decoding(beam=2, longest_extra=3, longest_ratio=0.5))
    texts = ["ab", "abcd" * 12, "ba", "c", "abcd" * 10, "dd"]
    expected = [each.text for (each,) in beam.translate(texts, 6)]
    monkeypatch.setattr(translators, "AT_ONCE", 6 * 8 * 2)
    shapes, search = [], beam._search

    def recorded(params, tokens, *rest, **options):
        shapes.append(tokens.shape)
        return search(params, tokens, *rest, **options)

    beam._search = recorded
    assert [each.text for (each,) in beam.translate(texts, 6)] == expected
    assert shapes == [(1, 64), (1, 48), (6, 8)]


def test_attention_takes_its_memory_into_account(make):
    beam = make(Decoding(beam=2))
    assert beam._rows(16, 64, attention=True) == 64
    assert beam._rows(2048, 64, attention=False) == translators.AT_ONCE // 4096
    assert beam._rows(2048, 64, attention=True) == 1


def test_cut_lines_and_characters_that_are_left_out_are_noted(make, monkeypatch):
    greedy = make(Decoding("greedy"), longest=5)
    notes = [best.note for (best,) in greedy.translate(["abcdef", "a\0b\x07", "a\u200bb", "axyz", "\0", ""])]
    assert notes[:2] == ["cut to 4 of 6 tokens", "control characters left out: 2"]
    assert notes[2:] == ["", "3 of 4 tokens are not in the vocabulary", "control characters left out: 1", ""]
    assert greedy.cut == 1
    # What is far behind the limit is not even read: such a line may have any length.
    monkeypatch.setattr(translators, "TOKEN_CHARACTERS", 2)
    ((best,), (long,)) = greedy.translate(["abcd", "abcd" * 9])
    assert (long.text, long.note) == (best.text, "cut to 4 of more than 10 tokens")


def test_lines_without_text_have_no_translation(make):
    found = list(make(Decoding(beam=2)).translate(["", " \t ", "\u00a0\u200b", "\r"], n_best=2))
    assert [[each[:3] for each in hypotheses] for hypotheses in found] == [[("", 0.0, 0.0)] * 2] * 4


def test_model_that_is_not_finite_is_named(params):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    for method in ("beam", "greedy", "sample"):
        ((best,),) = Translator(CONFIG, [broken], LETTERS, LETTERS, Decoding(method, beam=2)).translate(["ab"])
        with pytest.raises(FloatingPointError, match=r"line 7 was translated with the score .*not finite"):
            best.require_finite("line 7")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam": 0}, "decoding.beam is 0; it must be at least 1"),
        ({"beam": 13}, "decoding.beam is 13; it must be at most 12, the size of the target's vocabulary"),
        ({"top_k": 13, "method": "sample"}, "decoding.top_k is 13; it must be at most 12"),
        ({"top_k": -1}, "decoding.top_k is -1"),
        ({"top_p": 0.0}, "decoding.top_p is 0.0"),
        ({"top_p": float("nan")}, "decoding.top_p is nan"),
        ({"temperature": 0.0}, "decoding.temperature is 0.0"),
        ({"temperature": float("nan")}, "decoding.temperature is nan"),
        ({"length_penalty": float("nan")}, "decoding.length_penalty is nan"),
        ({"length_penalty": -1.0}, "decoding.length_penalty is -1.0"),
        ({"coverage_penalty": float("inf")}, "decoding.coverage_penalty is inf"),
        ({"longest_ratio": float("nan")}, "decoding.longest_ratio is nan"),
        ({"longest_ratio": float("inf")}, "decoding.longest_ratio is inf"),
        ({"longest_ratio": 1e9}, "decoding.longest_ratio is 1000000000.0; it must be between 0 and 100"),
        ({"longest_extra": 0}, "decoding.longest_extra is 0"),
        ({"longest_extra": 10**9}, "decoding.longest_extra is 1000000000"),
        ({"method": "beams"}, r"decoding.method is 'beams'; .* \(did you mean beam\?\)"),
    ],
)
def test_decoding_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        check_decoding(Decoding(**fields), CONFIG)
    assert "\n" not in str(error.value)


def test_decoding_must_fit_the_model_and_what_is_asked_for():
    blind = dataclasses.replace(CONFIG, attention="none")
    with pytest.raises(
        ValueError, match=r"decoding.coverage_penalty is 0.2; it must be 0 for a model without attention"
    ):
        check_decoding(Decoding(coverage_penalty=0.2), blind)
    check_decoding(Decoding(coverage_penalty=0.2), CONFIG)
    with pytest.raises(ValueError, match="n_best is 3; it must be between 1 and 2, which is beam"):
        check_decoding(Decoding(beam=2), CONFIG, n_best=3, prefix="")
    with pytest.raises(ValueError, match="n_best is 2, but sample finds one translation; take method beam"):
        check_decoding(Decoding("sample"), CONFIG, n_best=2, prefix="")
