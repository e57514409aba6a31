import dataclasses

import numpy as np
import pytest

from jaxai.data.text_pairs import Pairs, PairSplit, check_pairs
from jaxai.experiments.translation.corpus import Tokens, make_corpus
from jaxai.seq2seq.vocabulary import END, PAD


def pairs():
    train = PairSplit(tuple("ab" * n for n in range(1, 21)), tuple("c" * n for n in range(1, 21)))
    held_out = PairSplit(("abz",), ("cc",))
    return Pairs(train, held_out, held_out, "made", "transformation", ("a note of the source",))


def test_arrays_are_the_texts_ended_and_padded():
    corpus = make_corpus(Tokens("character", batch=512), pairs())
    for row, (source, target) in enumerate(zip(*pairs().train[:2], strict=True)):
        for name, side, text in (("source", corpus.source, source), ("target", corpus.target, target)):
            length = corpus.train[f"{name}_length"][row]
            ids = corpus.train[name][row]
            assert side.decode(ids) == text
            assert ids[length - 1] == END
            assert length == len(text) + 1
            assert (ids[length:] == PAD).all()
    assert corpus.train["bucket"].max() + 1 == len(corpus.buckets.shapes)


def test_what_is_unknown_or_padding_is_reported():
    notes = " | ".join(make_corpus(Tokens("character", batch=512), pairs()).notes)
    assert "a note of the source" in notes
    assert "1 tokens of the validation sources (25.00%) are not in the vocabulary" in notes
    assert "padded tokens over real ones" in notes


def test_characters_that_cannot_be_learnt_are_counted():
    odd = PairSplit(("ab\0", "a\x07\x08b", "ab\u2585 ab") * 8, ("c", "c", "c\u2585") * 8)
    notes = make_corpus(Tokens("character", batch=64), dataclasses.replace(pairs(), train=odd)).notes
    assert "control characters, such as NUL, left out of the training sources: 24" in notes
    assert not any("U+2585" in note for note in notes)  # characters and words may be anything
    pytest.importorskip("sentencepiece")
    notes = make_corpus(Tokens("subword", batch=64, size=20), dataclasses.replace(pairs(), train=odd)).notes
    for side in ("sources", "targets"):
        text = f"training {side} with U+2585, which sentencepiece reserves, so that it stays unknown: 8"
        assert text in notes
        assert any(note.startswith(f"8 tokens of the training {side}") for note in notes)


def test_pair_that_no_batch_holds_is_named_before_all_are_padded_to_it():
    long = PairSplit(("ab", "ab" * 5_000), ("c", "c"))
    with pytest.raises(
        ValueError, match=r"tokens.batch is 64, too few for the training source of 10,001 .* in pair 2;"
    ):
        make_corpus(Tokens("character", batch=64), dataclasses.replace(pairs(), train=long))
    dropped = make_corpus(Tokens("character", batch=64, longest_source=20), dataclasses.replace(pairs(), train=long))
    assert dropped.train["source"].shape == (1, 3)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (PairSplit(("a",), ("b", "c")), "the test pairs have 1 sources, 2 targets; expected the same number of each"),
        (PairSplit(("a",), ("b",), (("c",), ("d",))), "1 sources, 1 targets, 2 references"),
        (PairSplit((), ()), "there are no test pairs"),
        (PairSplit(("ab",), "x"), "the test targets are one str; expected a tuple of texts"),
        (PairSplit(("a", b"a"), ("b", "c")), "test source 1 is a bytes; expected a str"),
        (PairSplit(("a",), (None,)), "test target 0 is a NoneType; expected a str"),
        (PairSplit(("a",), ("b",), ("b",)), "test references 0 are 'b'; expected a tuple of at least one text"),
        (PairSplit(("a",), ("b",), ((),)), r"test references 0 are \(\)"),
    ],
)
def test_pairs_made_in_python_are_checked(split, message):
    with pytest.raises(ValueError, match=message):
        check_pairs(dataclasses.replace(pairs(), test=split))
    with pytest.raises(ValueError, match="the pairs' task is 'translations'; expected one of translation, "):
        check_pairs(dataclasses.replace(pairs(), task="translations"))
    with pytest.raises(ValueError, match=r"the pairs are a PairSplit; expected jaxai.data.Pairs"):
        check_pairs(split)
    assert check_pairs(made := pairs()) is made


@pytest.mark.parametrize(("overlong", "done", "left"), [("drop", "dropped", 5), ("cut", "cut", 20)])
def test_overlong_pairs_are_counted_and_dropped_or_cut(overlong, done, left):
    corpus = make_corpus(Tokens("character", batch=512, longest_source=11, overlong=overlong), pairs())
    assert len(corpus.train["source"]) == left
    assert corpus.train["source"].shape[1] == 11
    counted = f"15 of 20 training pairs are longer than 11 source or any number of target tokens: {done}"
    assert counted in " | ".join(corpus.notes)
    last = corpus.train["source"][-1]
    assert last[10] == END
    assert corpus.source.decode(last) == "ab" * 5
    np.testing.assert_array_equal(np.sum(corpus.train["source"] == END, 1), 1)


def test_joint_vocabulary_is_one():
    corpus = make_corpus(Tokens("character", joint=True, batch=512), pairs())
    assert corpus.source is corpus.target
    assert corpus.target.unknown("abc") == 0


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (Tokens("character", longest_source=1), "tokens.longest_source is 1"),
        (Tokens("character", longest_source=2), "no training pairs are left"),
        (Tokens("character", target_kind="word", joint=True), "tokens.joint is on"),
    ],
)
def test_what_leaves_nothing_to_learn_is_reported(tokens, message):
    with pytest.raises(ValueError, match=message):
        make_corpus(tokens, pairs())
