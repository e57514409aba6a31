import json
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxai.data import Data, load

PREPARED = Path(__file__).parents[2] / "../shared/data/tfds"
needs_prepared = pytest.mark.skipif(not PREPARED.is_dir(), reason="no prepared tfds folders beside the checkout")


def missing(name, folder):
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError) as error:
        load(Data(name, dir=str(folder), cache="off"))
    assert time.perf_counter() - began < 1
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["mnist", "tfds:mnist"])
def test_missing_data_fails_within_a_second_naming_folder_and_command(tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # its import would raise: the disk alone is asked
    folder = tmp_path / "no data here"
    message = missing(name, folder)
    assert f"tfds:mnist is not prepared in {folder / 'mnist'}; give the tfds data_dir with --data.dir" in message
    assert "pip install tensorflow tensorflow-datasets array-record && python -c" in message
    *_, code = shlex.split(message)
    compile(code, "command", "exec")
    assert f"tfds.builder('mnist', data_dir='{folder}', file_format='array_record').download_and_prepare()" in code


def test_missing_data_is_looked_for_where_tfds_would(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"not prepared in {tmp_path / 'cifar10'}")):
        load(Data("cifar10", cache="off"))


@pytest.mark.parametrize("character", ['"', "$", "`", "'"])
def test_command_survives_a_folder_with_shell_characters(tmp_path, character):
    folder = tmp_path / f"odd{character}name"
    *_, code = shlex.split(missing("mnist", folder).split("prepare it with: ")[1])
    called = {}

    class Builder:
        def __init__(self, name, **arguments):
            called.update(arguments, name=name)

        def download_and_prepare(self):
            pass

    module = type("module", (), {"builder": Builder})
    exec(code.replace("import tensorflow_datasets as tfds; ", ""), {"tfds": module})
    assert called == {"name": "mnist", "data_dir": str(folder), "file_format": "array_record"}


def prepared_by_hand(folder, files):
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    for name in files:
        (folder / name).write_bytes(b"")


def test_tfrecord_folder_is_refused_with_the_conversion(tmp_path):
    version = tmp_path / "data/mnist/3.0.1"
    prepared_by_hand(version, ["mnist-train.tfrecord-00000-of-00001"])
    with pytest.raises(ValueError, match="prepared as tfrecord, which only TensorFlow reads") as error:
        load(Data("mnist", dir=str(tmp_path / "data"), cache="off"))
    other = tmp_path / "data_array_record"
    assert f"tfds convert_format --dataset_version_dir={version} --out_dir={other}/mnist/3.0.1" in str(error.value)
    assert str(error.value).endswith(f"--data.dir {other}")


def test_unfinished_preparation_is_told(tmp_path):
    prepared_by_hand(tmp_path / "mnist/3.0.1", [])
    assert "its preparation did not end" in missing("mnist", tmp_path)
    prepared_by_hand(tmp_path / "cifar10/3.0.2.incompleteABC", ["cifar10-train.array_record-00000-of-00001"])
    assert "tfds:cifar10 is not prepared" in missing("cifar10", tmp_path)


def test_absent_version_tells_those_that_are_there(tmp_path):
    prepared_by_hand(tmp_path / "mnist/3.0.1", ["mnist-train.array_record-00000-of-00001"])
    assert "(there is 3.0.1)" in missing("tfds:mnist:9.9.9", tmp_path)


def test_several_configs_ask_for_one(tmp_path):
    for config in ("small", "large"):
        prepared_by_hand(tmp_path / f"set/{config}/1.0.0", ["set-train.array_record-00000-of-00001"])
    with pytest.raises(ValueError, match=r"tfds:set has the configs large, small; name one: tfds:set/CONFIG"):
        load(Data("tfds:set", dir=str(tmp_path), cache="off"))


@pytest.mark.parametrize("name", ["tfds:", "tfds:/etc", "tfds:../mnist"])
def test_name_that_is_no_set_is_refused(name):
    with pytest.raises(ValueError, match="names no set; expected tfds:NAME"):
        load(Data(name, cache="off"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The test files of MNIST, as both splits: six times faster to decode than the whole set."""
    folder = tmp_path_factory.mktemp("tfds") / "mnist/3.0.1"
    folder.mkdir(parents=True)
    original = PREPARED / "mnist/3.0.1"
    shutil.copy(original / "features.json", folder)
    for split in ("train", "test"):
        shutil.copy(
            original / "mnist-test.array_record-00000-of-00001", folder / f"mnist-{split}.array_record-00000-of-00001"
        )
    info = json.loads((original / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["shardLengths"] = ["10000"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def edited(digits, tmp_path, edit=None, features=None):
    folder = tmp_path / "mnist/3.0.1"
    shutil.copytree(digits, folder)
    if edit is not None:
        info = json.loads((folder / "dataset_info.json").read_text())
        edit(info)
        (folder / "dataset_info.json").write_text(json.dumps(info))
    if features is not None:
        text = (folder / "features.json").read_text()
        assert features[0] in text
        (folder / "features.json").write_text(text.replace(*features))
    return Data("mnist", dir=str(tmp_path), cache="off")


@needs_prepared
def test_prepared_digits_are_read_without_tensorflow(digits, tmp_path):
    config = Data("mnist", dir=str(digits.parents[1]), cache=str(tmp_path))
    images = load(config)
    assert "tensorflow" not in sys.modules
    assert images.test["image"].shape == (10_000, 28, 28, 1)
    assert np.bincount(images.test["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.classes == tuple("0123456789")
    import tensorflow_datasets as tfds

    theirs = tfds.data_source("mnist", split="test", data_dir=str(digits.parents[1]), download=False)
    for index in (0, 1023, 1024, 9999):
        np.testing.assert_array_equal(images.test["image"][index], theirs[index]["image"])
        assert images.test["label"][index] == theirs[index]["label"]
    began = time.perf_counter()
    again = load(config)
    assert time.perf_counter() - began < 2
    np.testing.assert_array_equal(again.train["image"], images.train["image"])


@needs_prepared
def test_prepared_cifar10_has_its_class_names_and_counts(tmp_path):
    config = Data("cifar10", dir=str(PREPARED), cache=str(tmp_path))
    images = load(config)
    assert images.train["image"].shape == (50_000, 32, 32, 3)
    assert np.bincount(images.train["label"]).tolist() == [5000] * 10
    assert np.bincount(images.test["label"]).tolist() == [1000] * 10
    assert images.classes[3] == "cat"
    began = time.perf_counter()
    load(config)
    assert time.perf_counter() - began < 2


@needs_prepared
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:1_000_000], lambda raw: raw[:500_000] + b"\xff" * 8 + raw[500_008:]]
)
def test_damaged_record_file_is_named(digits, tmp_path, damage):
    config = edited(digits, tmp_path)
    path = tmp_path / "mnist/3.0.1/mnist-train.array_record-00000-of-00001"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=re.escape(str(path)) + " is damaged near example .*prepare the set again"
    ) as error:
        load(config)
    assert "\n" not in str(error.value)


@needs_prepared
def test_missing_record_file_is_named(digits, tmp_path):
    config = edited(digits, tmp_path)
    (tmp_path / "mnist/3.0.1/mnist-test.array_record-00000-of-00001").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no mnist-test.array_record-00000-of-00001 in .*prepare the set again"
    ):
        load(config)


@needs_prepared
def test_varying_image_sizes_are_refused_unless_resized(digits, tmp_path):
    config = edited(digits, tmp_path, features=('"28"', '"-1"'))
    with pytest.raises(ValueError, match=r"images of varying sizes; scale all to one with --data.resize SIZE"):
        load(config)


@needs_prepared
def test_image_that_contradicts_the_declared_labels_is_refused(digits, tmp_path):
    config = edited(digits, tmp_path, features=('"numClasses": "10"', '"numClasses": "5"'))
    with pytest.raises(
        ValueError, match=r"mnist-train.array_record-00000-of-00001: the label at index \d+ is [5-9]; exp"
    ):
        load(config)


@needs_prepared
def test_set_without_labels_is_refused(digits, tmp_path):
    config = edited(digits, tmp_path, features=('"label"', '"objects"'))
    with pytest.raises(ValueError, match="has the features image, objects; expected an image and a class label"):
        load(config)


@needs_prepared
def test_validation_split_stands_in_for_a_missing_test_split(digits, tmp_path):
    def rename(info):
        info["splits"][1]["name"] = "validation"

    config = edited(digits, tmp_path, rename)
    folder = tmp_path / "mnist/3.0.1"
    (folder / "mnist-test.array_record-00000-of-00001").rename(folder / "mnist-validation.array_record-00000-of-00001")
    assert len(load(config).test["label"]) == 10_000


@needs_prepared
def test_set_without_a_held_out_split_is_refused(digits, tmp_path):
    def drop(info):
        del info["splits"][1]

    with pytest.raises(ValueError, match="has the splits train; expected train, and test or validation"):
        load(edited(digits, tmp_path, drop))
