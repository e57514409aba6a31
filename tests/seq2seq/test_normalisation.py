"""Text has one form wherever it is compared: in vocabularies, in scores, and where pairs are split."""

import dataclasses
import unicodedata

import pytest

from jaxai.core import State
from jaxai.data.text import TextData, load
from jaxai.data.text_pairs import Pairs, PairSplit
from jaxai.experiments.translation import scores
from jaxai.experiments.translation.corpus import Tokens
from jaxai.experiments.translation.experiment import Experiment
from jaxai.experiments.translation.held_out import HeldOut
from jaxai.normalisation import described, normalise
from jaxai.seq2seq import vocabulary
from jaxai.seq2seq.translator import Translation

TEXT = "Café Zürich: 10 000 Männer."
VARIANTS = {
    "decomposed": unicodedata.normalize("NFD", TEXT),
    "non-breaking spaces": TEXT.replace(" ", "\u00a0"),
    "narrow and ideographic spaces": TEXT.replace(" ", "\u202f\u3000"),
    "zero-width spaces and joiners of words": TEXT.replace("ü", "\u200bü\u2060"),
    "a byte-order mark": "\ufeff" + TEXT,
    "soft hyphens": TEXT.replace("Män", "Män\u00ad"),
    "a line separator": TEXT.replace(" ", "\u2028", 1),
    "tabs and a carriage return": TEXT.replace(" ", "\t") + "\r",
    "marks of direction": f"\u200e{TEXT}\u200f",
    "NUL and other controls": TEXT.replace("Z", "\0Z\x07"),
    "sentencepiece's space": TEXT.replace(" ", "\u2581"),
    "white space around": f"  {TEXT} \n",
}


@pytest.mark.parametrize("written", VARIANTS.values(), ids=VARIANTS.keys())
def test_forms_of_one_text_are_one_text(written):
    assert normalise(written) == TEXT
    assert normalise(normalise(written)) == TEXT
    for kind in ("character", "word"):
        known = vocabulary.build(kind, [TEXT])
        assert known.encode(written) == known.encode(TEXT)
        assert vocabulary.build(kind, [written]).tokens == known.tokens


@pytest.mark.parametrize("task", ["translation", "pronunciation", "transformation"])
@pytest.mark.parametrize("written", VARIANTS.values(), ids=VARIANTS.keys())
def test_right_output_scores_right_whatever_form_either_side_has(task, written):
    if task == "translation":
        pytest.importorskip("sacrebleu")
    for said, right in ((TEXT, written), (written, TEXT)):
        found = scores.score(task, [said] * 3, [right] * 3)
        assert found["exact_match"] == 1
        assert found.get("bleu", 100) == pytest.approx(100)
        assert found.get("chrf", 100) == pytest.approx(100)
        assert found.get("phoneme_error_rate", 0) == found.get("character_error_rate", 0) == 0
        assert found.get("word_error_rate", 0) == 0
        assert scores.interval(task, [said] * 3, [right] * 3) == pytest.approx([found[scores.MAIN[task]]] * 2)
        assert scores.sentence_scores(task, [said], [right])[0] in (0, pytest.approx(100))


def test_joiners_that_words_need_stay():
    for word in ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469"):  # Persian, emoji
        assert normalise(word) == word


def test_lower_case_is_of_both_sides_or_of_none():
    pytest.importorskip("sacrebleu")
    said, right = ["zwei männer in zürich kochen ."], ["Zwei Männer in Zürich kochen ."]
    found = scores.score("translation", said, right, lowercase=True)
    assert found["bleu"] == pytest.approx(100)
    assert found["exact_match"] == 1
    assert "case:lc" in found["bleu_signature"]
    assert found["normalisation"] == described(True) == "NFC, single spaces, no invisible characters, lower case"
    kept = scores.score("translation", said, right)
    assert kept["bleu"] < 40
    assert "case:mixed" in kept["bleu_signature"]
    assert kept["normalisation"] == described()
    (row,) = scores.by_length("translation", said, right, ["a"], lowercase=True)
    assert row["bleu"] == pytest.approx(100)
    (example,) = scores.examples("translation", said, right, ["a"], lowercase=True)
    assert example["chrf"] == pytest.approx(100)
    assert scores.interval("translation", said, right, lowercase=True) == pytest.approx((100, 100))


class Fixed:
    """Translates every text into one, without a model."""

    cut, longest = 0, 9

    def __init__(self, said):
        self.said = said

    def with_params(self, params):
        return self

    def translate_all(self, texts, *_, **__):
        return [[Translation(self.said, -1.0, -1.0, [], [], None)] for _ in texts]


def test_run_that_lower_cases_is_scored_without_case_in_training_and_after():
    pytest.importorskip("sacrebleu")
    split = PairSplit(("Ein Hund .",) * 2, ("A dog runs in Zürich .",) * 2)
    experiment = Experiment(tokens=Tokens("word", lowercase=True), data=TextData("files"))
    held_out = HeldOut(experiment, None, Pairs(split, split, split, "files", "translation"))
    held_out._evaluations = [lambda state: {"count": 2, "loss": 1.0, "token_accuracy": 0.5}]
    held_out._translator = fixed = Fixed("a dog runs in zu\u0308rich .")
    state = State(0, {}, None, None)
    measured = held_out.measure(None, state)
    assert measured["validation_bleu"] == pytest.approx(100)
    assert measured["validation_exact_match"] == 1
    result = experiment.of_run()._test(fixed, split, "translation")[1]
    assert result["bleu"] == result["bleu_low"] == pytest.approx(100)
    assert result["normalisation"].endswith("lower case")
    kept = dataclasses.replace(experiment, tokens=Tokens("word"))
    assert kept.of_run()._test(fixed, split, "translation")[1]["exact_match"] == 0


def test_one_source_in_two_forms_is_held_out_once(tmp_path):
    """Else a test sentence is among the training ones, written otherwise."""
    rows = [f"{form}{index}\tt{index}" for index in range(60) for form in ("Zürich ", "Zu\u0308rich\u00a0")]
    (tmp_path / "all.tsv").write_text("\n".join(rows), encoding="utf-8")
    pairs = load(TextData("tsv", dir=str(tmp_path / "all.tsv"), test_fraction=0.2))
    train, validation, test = ({normalise(each) for each in split.sources} for split in pairs_of(pairs))
    assert not train & test
    assert not train & validation
    assert len(train | validation | test) == 60


def pairs_of(pairs):
    return pairs.train, pairs.validation, pairs.test


def test_line_that_shows_nothing_is_empty(tmp_path):
    (tmp_path / "all.tsv").write_text("a\tb\n\u200b\u00a0\tc\n" + "d\te\n" * 5 + "f\tg\nh\ti\n", encoding="utf-8")
    pairs = load(TextData("tsv", dir=str(tmp_path / "all.tsv")))
    assert "1 of 9 pairs dropped for an empty side" in pairs.notes[0]
    assert "line 2" in pairs.notes[0]
