import math
import sys

import jiwer
import numpy as np
import pytest
import sacrebleu

from jaxai.experiments.translation import edit_distance, scores

SAID = ["the cat sat on a mat .", "There is a dog in the garden", "he plays", "two men , at the lake"]
RIGHT = [
    ["the cat sat on the mat .", "a cat was sitting on a mat ."],
    ["There is a dog in the park"],
    ["He plays guitar ."],
    ["two men at a lake", "two men by the lake", "a pair of men"],
]
SOURCES = ["a b", "a b c d e f", "a", "a b c"]


def plain_bleu(hypotheses, references):
    # Papineni et al. 2002, equations 1 to 3, one reference, tokens by white space.
    matches, totals = [0] * 4, [0] * 4
    said, right = [line.split() for line in hypotheses], [line.split() for line in references]
    for ours, theirs in zip(said, right, strict=True):
        for n in range(1, 5):
            ngrams = [tuple(ours[i : i + n]) for i in range(len(ours) - n + 1)]
            known = [tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1)]
            totals[n - 1] += len(ngrams)
            matches[n - 1] += sum(min(ngrams.count(one), known.count(one)) for one in set(ngrams))
    c, r = sum(map(len, said)), sum(map(len, right))
    brevity = 1 if c > r else math.exp(1 - r / c)
    return 100 * brevity * math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / 4)


def dynamic_programming(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            swap = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(swap, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return int(table[-1, -1])


def test_bleu_is_that_of_the_paper():
    said = ["the cat sat on a red mat today", "a man rides his bicycle to town"]
    right = ["the cat sat on a red mat", "a man rides his bicycle down to the town"]
    found = scores.score("translation", said, [[line] for line in right])
    assert found["bleu"] == pytest.approx(plain_bleu(said, right), abs=1e-9)
    assert 0 < found["bleu"] < 100


def test_bleu_and_chrf_are_sacrebleus_with_several_references_and_their_signature():
    found = scores.score("translation", SAID, RIGHT)
    streams = [[each[i] if i < len(each) else None for each in RIGHT] for i in range(3)]
    assert found["bleu"] == sacrebleu.corpus_bleu(SAID, streams).score
    assert found["chrf"] == sacrebleu.corpus_chrf(SAID, streams).score
    assert "nrefs:var|case:mixed" in found["bleu_signature"]
    assert "version:" in found["chrf_signature"]
    assert found["exact_match"] == 0
    single = [each[0] for each in RIGHT]
    one = scores.score("translation", SAID, single)
    assert one["bleu"] == sacrebleu.corpus_bleu(SAID, [single]).score
    assert "nrefs:1|" in one["bleu_signature"]


def test_case_counts_in_translation():
    right = ["The Cat sat on the Mat"]
    assert scores.score("translation", [right[0].lower()], right)["bleu"] < 50
    assert scores.score("translation", right, right)["bleu"] == pytest.approx(100)


def test_pronunciation_is_right_by_any_reference_and_counts_distance_to_the_closest():
    said = ["K AE T", "D AO", "HH EH L OW W", ""]
    right = [["K AA T", "K AE T"], ["D AO G", "D AA G IH"], ["HH AH L OW", "HH EH L OW"], ["AH"]]
    found = scores.score("pronunciation", said, right)
    assert found["word_error_rate"] == 3 / 4
    assert found["exact_match"] == 1 / 4
    errors = length = 0
    for ours, each in zip(said, right, strict=True):
        near = min(each, key=lambda one: dynamic_programming(ours.split(), one.split()))
        errors += dynamic_programming(ours.split(), near.split())
        length += len(near.split())
    assert found["phoneme_error_rate"] == errors / length == 3 / 11


def test_phoneme_error_rate_with_one_reference_is_jiwers_word_error_rate():
    generator = np.random.default_rng(0)
    draw = lambda: [" ".join(generator.choice(["AH", "B", "K", "T"], generator.integers(1, 9))) for _ in range(50)]  # noqa: E731
    said, right = draw(), draw()
    found = scores.score("pronunciation", said, right)
    assert found["phoneme_error_rate"] == pytest.approx(jiwer.wer(right, said), abs=1e-12)


def test_of_references_equally_close_the_longest_counts_in_any_order():
    # One edit away from both; 1/3 by the longer, 1/1 by the shorter.
    for order in (["A", "A B C"], ["A B C", "A"]):
        assert scores.score("pronunciation", ["A B"], [order])["phoneme_error_rate"] == 1 / 3


def test_transformation_counts_characters():
    found = scores.score("transformation", ["2024-01-02", "1999-12-3"], ["2024-01-02", "1999-12-31"])
    assert found["exact_match"] == 0.5
    assert found["character_error_rate"] == 1 / 20
    assert scores.score("transformation", [""], [""])["character_error_rate"] == 0


def test_edit_distances_with_and_without_the_package_agree():
    generator = np.random.default_rng(1)
    for _ in range(60):
        a, b = (tuple(generator.integers(3, size=generator.integers(9)).tolist()) for _ in range(2))
        assert edit_distance.edit_distance(a, b) == edit_distance.plain_edit_distance(a, b) == dynamic_programming(a, b)


@pytest.mark.parametrize("task", list(scores.MAIN))
def test_ranges_of_length_hold_every_sentence_once_and_each_its_own_score(task):
    generator = np.random.default_rng(2)
    sources = ["w " * count for count in generator.integers(1, 40, size=60)]
    right = [" ".join(generator.choice(["a", "b", "c"], 6)) for _ in sources]
    said = [line if generator.random() < 0.5 else line[:-1] + "d" for line in right]
    rows = scores.by_length(task, said, right, sources, edges=[5, 20])
    name = scores.main_score(task)
    assert sum(row["count"] for row in rows) == len(sources)
    assert [row["length"] for row in rows][1:] == ["6-20", "over 20"]
    lengths = [len(source.split()) if task == "translation" else len(source) for source in sources]
    short = [place for place, length in enumerate(lengths) if length <= 5]
    alone = scores.score(task, [said[at] for at in short], [right[at] for at in short])
    assert rows[0]["count"] == len(short)
    assert rows[0][name] == pytest.approx(alone[name])
    whole = scores.by_length(task, said, right, sources, edges=[])
    assert whole[0]["count"] == len(sources)
    assert whole[0][name] == pytest.approx(scores.score(task, said, right)[name])


def test_interval_of_a_share_is_that_of_the_binomial():
    said, right = ["a"] * 300 + ["b"] * 100, ["a"] * 400
    low, high = scores.interval("transformation", said, right)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.012)
    assert high == pytest.approx(0.75 + half, abs=0.012)
    assert scores.interval("transformation", said, right) == (low, high)


def test_interval_of_bleu_contains_it():
    bleu = scores.score("translation", SAID * 5, RIGHT * 5)["bleu"]
    low, high = scores.interval("translation", SAID * 5, RIGHT * 5, resamples=200)
    assert low < bleu < high


def test_examples_are_the_worst_and_some_at_random_without_repeats():
    right = ["abcdefgh"] * 20
    said = ["abcdefgh"[:end] for end in [*range(8, 0, -1), *[8] * 12]]
    rows = scores.examples("transformation", said, right, right, random=3, worst=4)
    assert [row["chosen"] for row in rows] == ["at random"] * 3 + ["worst"] * 4
    assert len({row["index"] for row in rows}) == 7
    drawn = {row["index"] for row in rows[:3]}
    left = [at for at in sorted(range(20), key=lambda at: len(said[at])) if at not in drawn]
    assert [row["index"] for row in rows[3:]] == left[:4]
    assert rows == scores.examples("transformation", said, right, right, random=3, worst=4)
    table = scores.as_table("Examples", rows)
    assert len(table["columns"]) == len(table["rows"][0])


def test_worst_translation_has_the_lowest_chrf():
    (worst,) = scores.examples("translation", SAID, RIGHT, SOURCES, random=0, worst=1)
    values = [sacrebleu.sentence_chrf(said, right).score for said, right in zip(SAID, RIGHT, strict=True)]
    assert worst["index"] == int(np.argmin(values))
    assert worst["chrf"] == min(values)


def test_perplexity_is_exp_of_the_mean():
    assert scores.perplexity(20 * math.log(7), 20) == pytest.approx(7)
    assert scores.perplexity(1e6, 1) == math.inf
    with pytest.raises(ValueError, match="0 tokens"):
        scores.perplexity(0.0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scores.score("translation", ["a", "b"], [["a"]]), "2 hypotheses and 1 references"),
        (lambda: scores.by_length("translation", ["a"], ["a"], []), "0 sources"),
        (lambda: scores.score("pronunciation", [], []), "no sentence"),
        (lambda: scores.score("pronunciation", ["a", "b"], [["a"], []]), "sentence 2 has no reference"),
        (lambda: scores.score("summary", ["a"], ["a"]), "'summary'.*translation, pronunciation, transformation"),
        (lambda: scores.by_length("translation", ["a"], ["a"], ["a"], edges=[5, 5]), r"\[5, 5\]"),
    ],
)
def test_what_does_not_fit_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_without_the_extra_the_other_tasks_are_scored(monkeypatch):
    edit_distance._rapidfuzz.cache_clear()
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    try:
        assert scores.score("transformation", ["ab"], ["abc"])["character_error_rate"] == 1 / 3
    finally:
        edit_distance._rapidfuzz.cache_clear()
