"""What is said of prepared sets that are damaged, elsewhere, or without a test split."""

import json
import re

import numpy as np
import pytest

from jaxai.data import Data, load
from tests.data.prepared_sets import pets, prepared


def changed(info, **fields):
    return json.dumps({**info, **fields}).encode()


TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
DAMAGE = {
    "empty": lambda info: b"",
    "truncated": lambda info: json.dumps(info).encode()[:100],
    "zeros": lambda info: bytes(500),
    "not UTF-8": lambda info: b"\xff\xfe{}",
    "list": lambda info: b"[]",
    "null": lambda info: b"null",
    "no splits": lambda info: changed(info, splits=[]),
    "splits of another type": lambda info: changed(info, splits="train"),
    "version": lambda info: changed(info, version="x.y"),
    "format": lambda info: changed(info, fileFormat="blah"),
    "negative": lambda info: changed(
        info, splits=[{"name": "train", "shardLengths": ["-5"], "filepathTemplate": TEMPLATE}]
    ),
    "template": lambda info: changed(
        info, splits=[{"name": "train", "shardLengths": ["5"], "filepathTemplate": "{NO}"}]
    ),
    "no shards": lambda info: changed(info, splits=[{"name": "train"}, {"name": "test"}]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_description_is_one_line_with_the_file(tmp_path, damage):
    config = prepared(tmp_path, {"train": pets(3), "test": pets(3)})
    path = tmp_path / "pets/1.0.0/dataset_info.json"
    path.write_bytes(DAMAGE[damage](json.loads(path.read_text())))
    with pytest.raises(ValueError, match=r"dataset_info.json.* is damaged: .*; prepare the set again") as error:
        load(config)
    assert str(path.parent) in str(error.value)
    assert "\n" not in str(error.value)


def test_more_examples_than_memory_are_refused(tmp_path):
    config = prepared(tmp_path, {"train": pets(3), "test": pets(3)})
    path = tmp_path / "pets/1.0.0/dataset_info.json"
    path.write_text(path.read_text().replace('["3"]', '["99999999999999"]'))
    with pytest.raises(ValueError, match=r"99,999,999,999,999 images of shape \[1, 1, 3\] take"):
        load(config)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pythonClassName": "no.Such"}'])
def test_damaged_features_are_one_line_with_the_file(tmp_path, content):
    config = prepared(tmp_path, {"train": pets(3), "test": pets(3)})
    (tmp_path / "pets/1.0.0/features.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"features.json.* is damaged: .*; prepare the set again") as error:
        load(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ncaf\xe9\nbird\n", r"label.labels.txt is damaged: not UTF-8 \(.*, byte 0xe9\); prepare the set again"),
        (b"", "label.labels.txt is damaged: no class names in it"),
        (b"cat\ncat\nbird\n", "classes 0 and 1 are both called 'cat'"),
        (b"cat\ndog\n", "the label at index 2 is 2; expected 0 to 1, for 2 classes"),
    ],
)
def test_damaged_class_names_do_not_become_numbers(tmp_path, content, message):
    config = prepared(tmp_path, {"train": pets(3), "test": pets(3)})
    (tmp_path / "pets/1.0.0/label.labels.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(config)


@pytest.mark.parametrize("name", ["pets", "pets/small"])
@pytest.mark.parametrize("given", [".", "data/{}", "data/{}/1.0.0", "data/elsewhere"])
def test_folder_one_level_off_is_answered_with_the_right_one(tmp_path, name, given):
    prepared(tmp_path / "data", {"train": pets(3), "test": pets(3)}, name=name)
    (tmp_path / "data/elsewhere").mkdir()
    with pytest.raises(FileNotFoundError) as error:
        load(Data("tfds:pets", dir=str(tmp_path / given.format(name)), cache="off"))
    message = str(error.value)
    assert message.endswith(
        f"but in {tmp_path / 'data/pets'}; give the tfds data_dir with --data.dir {tmp_path / 'data'}"
    )
    assert "download_and_prepare" not in message
    assert len(load(Data("tfds:pets", dir=str(tmp_path / "data"), cache="off")).train["label"]) == 3


def test_misspelt_name_is_answered_with_what_is_there_the_nearest_first(tmp_path):
    for name in ("birds", "pets", "zebras"):
        prepared(tmp_path, {"train": pets(1), "test": pets(1)}, name=name)
    (tmp_path / "downloads").mkdir()
    with pytest.raises(FileNotFoundError, match=r"\(there is pets, birds, zebras\); did you mean tfds:pets\?"):
        load(Data("tfds:pest", dir=str(tmp_path), cache="off"))
    with pytest.raises(FileNotFoundError, match=r"\(there is birds, pets, zebras\); give .* prepare it with: pip"):
        load(Data("tfds:qqqq", dir=str(tmp_path), cache="off"))


def test_set_of_train_alone_is_split_within_each_class(tmp_path):
    config = prepared(tmp_path, {"train": pets(30)})
    with pytest.raises(ValueError, match=r"has the splits train; expected train, and test .*--data.test-fraction 0.2$"):
        load(config)
    images = load(Data(config.source, config.dir, "off", test_fraction=0.2, validation_fraction=0.25))
    assert np.bincount(images.train["label"]).tolist() == [6, 6, 6]
    assert np.bincount(images.test["label"]).tolist() == [2, 2, 2]
    assert np.bincount(images.validation["label"]).tolist() == [2, 2, 2]
    parts = [split["image"].reshape(-1, 72) for split in (images.train, images.test, images.validation)]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 30


@pytest.mark.parametrize("name", ["validation", "val"])
def test_validation_split_is_used_to_choose_by(tmp_path, name):
    config = prepared(tmp_path, {"train": pets(4), "test": pets(5), name: pets(6), "extra": pets(7)})
    images = load(config)
    assert [len(split["label"]) for split in (images.train, images.test, images.validation)] == [4, 5, 6]
    assert images.notes == ("not used: the splits extra", f"validation split: {name}")


def test_validation_split_stays_one_where_test_images_are_held_out(tmp_path):
    config = prepared(tmp_path, {"train": pets(30), "validation": pets(6)})
    stands_in = load(Data(config.source, config.dir, str(tmp_path / "cache")))
    assert (len(stands_in.test["label"]), stands_in.validation) == (6, None)
    held_out = load(Data(config.source, config.dir, str(tmp_path / "cache"), test_fraction=0.2))
    assert (len(held_out.test["label"]), len(held_out.validation["label"])) == (6, 6)
    assert len(held_out.train["label"]) == 24


def test_hidden_labels_are_said(tmp_path):
    images = load(prepared(tmp_path, {"train": pets(3), "test": pets(4, label=-1), "validation": pets(5)}))
    folder = re.escape(str(tmp_path / "pets/1.0.0"))
    assert images.notes[0] == "the test split is not used: its labels are hidden"
    assert re.fullmatch(f"no test split in {folder}: validation is the test split", images.notes[1])


def test_set_without_its_description_is_said(tmp_path):
    config = prepared(tmp_path, {"train": pets(3), "test": pets(3)})
    (tmp_path / "pets/1.0.0/dataset_info.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no dataset_info.json in .*pets/1.0.0, .*copy it again"):
        load(config)
