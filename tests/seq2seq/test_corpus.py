import numpy as np
import pytest

from jaxai.data.pairs import Pairs, PairSplit
from jaxai.seq2seq.corpus import Tokens, make_corpus
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


def test_what_is_unknown_or_padding_is_told():
    notes = " | ".join(make_corpus(Tokens("character", batch=512), pairs()).notes)
    assert "a note of the source" in notes
    assert "1 tokens of the validation sources (25.00%) are not in the vocabulary" in notes
    assert "padded tokens over real ones" in notes


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
def test_what_leaves_nothing_to_learn_is_told(tokens, message):
    with pytest.raises(ValueError, match=message):
        make_corpus(tokens, pairs())
