import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest

from jaxai.seq2seq import vocabulary
from jaxai.seq2seq.vocabulary import BEGIN, END, PAD, UNKNOWN, build, load

MULTI30K = Path(__file__).parents[2] / "../shared/data/multi30k"
SENTENCES = (
    "The cat sat on the mat.",
    "Die Katze saß auf der Matte.",
    "Zwei Katzen, drei Hunde!",
    "the dog  ran\tto the cat",
    "ein Hund läuft; schnell",
)


@pytest.fixture(scope="module")
def kinds():
    pytest.importorskip("sentencepiece")
    return {
        "character": build("character", SENTENCES),
        "word": build("word", SENTENCES),
        "subword": build("subword", SENTENCES, 60),
        "unigram": build("subword", SENTENCES, 50, algorithm="unigram"),
    }


@pytest.mark.parametrize("kind", ["character", "word", "subword", "unigram"])
def test_known_text_comes_back_with_single_spaces(kinds, kind):
    for text in SENTENCES:
        ids = kinds[kind].encode(text)
        assert min(ids) > UNKNOWN
        assert max(ids) < len(kinds[kind])
        assert kinds[kind].decode(ids) == " ".join(text.split())
        assert kinds[kind].unknown(text) == 0
    assert kinds[kind].encode("  ") == []
    assert kinds[kind].decode([]) == ""


@pytest.mark.parametrize("kind", ["character", "word", "subword", "unigram"])
def test_decoding_stops_at_the_end_and_skips_padding_and_begin(kinds, kind):
    ids = kinds[kind].encode(SENTENCES[0])
    assert kinds[kind].decode([BEGIN, *ids, PAD, END, *ids, PAD]) == SENTENCES[0]
    assert kinds[kind].decode([END]) == ""


@pytest.mark.parametrize("kind", ["character", "word", "subword", "unigram"])
def test_saved_vocabulary_is_the_same_again(kinds, kind, tmp_path):
    path = tmp_path / "source.json"
    kinds[kind].save(path)
    again = load(path)
    assert again == kinds[kind]
    assert again.digest == kinds[kind].digest
    assert len(again.digest) == 12
    assert again.encode(SENTENCES[1]) == kinds[kind].encode(SENTENCES[1])
    assert json.loads(path.read_text(encoding="utf-8"))["digest"] == again.digest


def test_vocabulary_keeps_the_most_frequent_tokens_first():
    words = build("word", ["b a b c", "b a d"])
    assert words.tokens == (*vocabulary.SPECIALS, "b", "a", "c", "d")
    assert (PAD, BEGIN, END, UNKNOWN) == (0, 1, 2, 3)
    assert build("word", ["b a b c", "b a d"], 6).tokens[4:] == ("b", "a")
    assert build("word", ["b a b c", "b a d"], min_frequency=3).tokens[4:] == ("b",)
    assert build("character", ["ba ab b"], 6).tokens[4:] == ("b", " ")


def test_phonemes_are_words_joined_by_a_space():
    phonemes = build("word", ["HH AH L OW", "W ER L D"])
    assert len(phonemes) == 4 + 7
    assert phonemes.decode(phonemes.encode("W ER L D")) == "W ER L D"
    assert phonemes.encode("HH") == [phonemes.tokens.index("HH")]


@pytest.mark.parametrize("kind", ["character", "word", "subword"])
def test_composed_and_decomposed_letters_are_the_same(kind, kinds):
    text = "Die Katze saß läuft"
    assert kinds[kind].encode(unicodedata.normalize("NFD", text)) == kinds[kind].encode(text)


@pytest.mark.parametrize("kind", ["character", "word", "subword"])
def test_lower_casing_is_a_choice(kind):
    if kind == "subword":
        pytest.importorskip("sentencepiece")
    lower = build(kind, SENTENCES, 60, lowercase=True)
    assert lower.decode(lower.encode("THE CAT")) == "the cat"
    assert lower.digest != build(kind, SENTENCES, 60).digest
    assert lower.normalise("\u0130") == unicodedata.normalize("NFC", "\u0130".lower())


@pytest.mark.parametrize(
    ("kind", "text", "count"), [("character", "cat q€", 2), ("word", "the bird sat", 1), ("subword", "cat €", 1)]
)
def test_unknown_input_is_counted_and_marked(kinds, kind, text, count):
    assert kinds[kind].unknown(text) == count
    ids = kinds[kind].encode(text)
    assert ids.count(UNKNOWN) == count
    assert kinds[kind].decode(ids, unknown="⁇").count("⁇") == count
    assert "⁇" not in kinds[kind].decode(ids)


@pytest.mark.parametrize("kind", ["character", "word", "subword"])
def test_text_cannot_write_special_tokens(kind, kinds):
    made = kinds[kind] if kind != "word" else build("word", ["a </s> <pad> b"])
    ids = made.encode("a </s> <pad> b")
    assert not {PAD, BEGIN, END} & set(ids)
    if kind == "word":
        assert made.decode(ids) == "a </s> <pad> b"


def test_pieces_label_every_position(kinds):
    assert kinds["character"].pieces([*kinds["character"].encode("a c"), END]) == ["a", "␣", "c", "</s>"]
    assert kinds["word"].pieces([*kinds["word"].encode("cat bird"), END]) == ["cat", "<unk>", "</s>"]
    ids = kinds["subword"].encode(SENTENCES[0])
    assert "".join(kinds["subword"].pieces(ids)).replace("▁", " ").strip() == SENTENCES[0]


def test_subword_training_repeats_and_prints_nothing(kinds, capfd):
    assert build("subword", SENTENCES, 60) == kinds["subword"]
    assert build("subword", SENTENCES, 50, algorithm="unigram") == kinds["unigram"]
    assert capfd.readouterr() == ("", "")


def test_subword_vocabulary_shrinks_to_what_the_text_has():
    pytest.importorskip("sentencepiece")
    assert len(build("subword", ["ab abc", "abd"], 5000)) < 30
    assert build("subword", ["a"], 5000).decode(build("subword", ["a"], 5000).encode("a")) == "a"


def test_long_sentences_train_subwords_too():
    pytest.importorskip("sentencepiece")
    long = build("subword", ["ab " * 2000 + "é", "ab"], 40)
    assert long.unknown("é") == 0


def test_joint_subwords_know_both_languages(kinds):
    assert kinds["subword"].unknown(SENTENCES[0]) == kinds["subword"].unknown(SENTENCES[1]) == 0


@pytest.mark.skipif(not MULTI30K.is_dir(), reason="no Multi30k beside the checkout")
def test_multi30k_lines_come_back_from_subwords():
    pytest.importorskip("sentencepiece")
    texts = [
        line
        for language in ("en", "de")
        for line in (MULTI30K / f"val.{language}").read_text(encoding="utf-8").split("\n")[:300]
    ]
    made = build("subword", texts, 1000)
    assert len(made) == 1000
    assert [made.decode(made.encode(text)) for text in texts] == [" ".join(text.split()) for text in texts]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (("letters", ["a"]), {}, "no vocabulary kind letters; expected one of character, word, subword"),
        (("word", []), {}, "no text to build the word vocabulary from"),
        (("word", ["  "]), {}, "no text to build the word vocabulary from"),
        (("word", ["a"]), {"min_frequency": 0}, "min_frequency is 0; expected at least 1"),
        (("word", ["a"]), {"min_frequency": 2}, "no word occurs 2 times; lower min_frequency"),
        (("character", ["a"], 4), {}, "a vocabulary of 4 tokens has room for the 4 special tokens only"),
        (("subword", ["a"]), {}, "a subword vocabulary needs a size"),
        (("subword", [""], 100), {}, "no text to build the subword vocabulary from"),
        (("subword", ["abcdefgh"], 12), {}, "12 tokens cannot hold every character; expected at least 13"),
        (("subword", ["a"], 100), {"algorithm": "bbpe"}, "no subword algorithm bbpe; expected one of bpe, unigram"),
    ],
)
def test_vocabulary_that_cannot_be_built_is_reported(arguments, options, expected):
    pytest.importorskip("sentencepiece")
    with pytest.raises(ValueError, match=re.escape(expected)) as error:
        build(*arguments, **options)
    one_line(error)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_smallest_size_that_is_named_is_enough(algorithm):
    pytest.importorskip("sentencepiece")
    assert build("subword", ["abcdefgh bad"], 13, algorithm=algorithm).unknown("abcdefgh") == 0


def test_missing_sentencepiece_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match="needs sentencepiece, which is not installed") as error:
        build("subword", ["a"], 100)
    one_line(error)


def test_id_outside_the_vocabulary_is_reported():
    made = build("character", ["ab"])
    for call in (made.decode, made.pieces):
        with pytest.raises(ValueError, match="token 6 is not in the vocabulary; expected 0 to 5"):
            call([4, 6])


def test_vocabulary_of_another_checkpoint_is_refused():
    made, other = build("word", ["a b"]), build("word", ["a c"])
    made.require(made.digest, "run/checkpoints")
    with pytest.raises(ValueError, match=r"word vocabulary of 6 tokens \(\w{12}\) does not belong to run/ch") as error:
        made.require(other.digest, "run/checkpoints")
    one_line(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("not json", "is no vocabulary file"),
        ("[1]", "is no vocabulary file"),
        ("{}", "is no vocabulary file: it has no 'tokens'"),
        (lambda saved: {**saved, "tokens": [*saved["tokens"], "z"]}, "was changed since it was written"),
        (lambda saved: {**saved, "format": 2}, "has vocabulary format 2; expected 1"),
        (lambda saved: {**saved, "model": "?"}, "is no vocabulary file"),
    ],
)
def test_damaged_vocabulary_file_is_refused(tmp_path, content, expected):
    path = tmp_path / "source.json"
    build("word", ["a b"]).save(path)
    if not isinstance(content, str):
        content = json.dumps(content(json.loads(path.read_text(encoding="utf-8"))))
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path} {expected}")) as error:
        load(path)
    one_line(error)
    with pytest.raises(FileNotFoundError, match=re.escape(f"no vocabulary file {tmp_path / 'no.json'}")):
        load(tmp_path / "no.json")
