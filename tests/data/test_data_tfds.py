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
from tests.data.prepared_sets import pets, prepared

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


@pytest.mark.parametrize("name", ["tfds:", "tfds:/etc", "tfds:../mnist", "tfds:" + "x" * 5000])
def test_name_that_is_no_set_is_refused(name):
    with pytest.raises(ValueError, match="names no set; expected tfds:NAME"):
        load(Data(name, cache="off"))


def shortened(name, folder, train, test):
    """The test file of a prepared set as both splits, each cut to its first examples: quick to decode."""
    (original,) = (PREPARED / name).iterdir()
    version = folder / name / original.name
    version.mkdir(parents=True)
    (version / "features.json").write_bytes((original / "features.json").read_bytes())
    records = (original / f"{name}-test.array_record-00000-of-00001").read_bytes()
    info = json.loads((original / "dataset_info.json").read_text())
    for split, examples in zip(info["splits"], (train, test), strict=True):
        split["shardLengths"] = [str(examples)]
        (version / f"{name}-{split['name']}.array_record-00000-of-00001").write_bytes(records)
    (version / "dataset_info.json").write_text(json.dumps(info))
    return version


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return shortened("mnist", tmp_path_factory.mktemp("tfds"), 1200, 600)


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
@pytest.mark.parametrize(
    ("name", "shape", "histogram", "first_class"),
    [
        ("mnist", (28, 28, 1), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], "0"),
        ("cifar10", (32, 32, 3), [1000] * 10, "airplane"),
    ],
)
def test_prepared_set_is_read_as_tfds_does_without_tensorflow(tmp_path, name, shape, histogram, first_class):
    folder = tmp_path / "data"
    shortened(name, folder, 1200, 10_000)
    images = load(Data(name, dir=str(folder), cache="off"))
    assert "tensorflow" not in sys.modules
    assert images.train["image"].shape == (1200, *shape)
    assert images.test["image"].shape == (10_000, *shape)
    assert np.bincount(images.test["label"]).tolist() == histogram
    assert images.classes[0] == first_class
    import tensorflow_datasets as tfds

    theirs = tfds.data_source(name, split="test", data_dir=str(folder), download=False)
    for index in (0, 1023, 1024, 9999):
        np.testing.assert_array_equal(images.test["image"][index], theirs[index]["image"])
        assert images.test["label"][index] == theirs[index]["label"]


@needs_prepared
@pytest.mark.slow
@pytest.mark.parametrize(("name", "examples"), [("mnist", 60_000), ("cifar10", 50_000)])
def test_whole_set_is_loaded_again_in_under_two_seconds(tmp_path, name, examples):
    config = Data(name, dir=str(PREPARED), cache=str(tmp_path))
    images = load(config)
    assert len(images.train["label"]) == examples
    assert len(images.test["label"]) == 10_000
    # The processor's time: the machine may be busy with something else.
    began = time.process_time()
    again = load(config)
    assert time.process_time() - began < 2
    np.testing.assert_array_equal(again.train["image"], images.train["image"])


@needs_prepared
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:1_000_000], lambda raw: raw[:100_000] + b"\xff" * 8 + raw[100_008:]]
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
    assert len(load(config).test["label"]) == 600


@needs_prepared
def test_set_without_a_held_out_split_is_refused(digits, tmp_path):
    def drop(info):
        del info["splits"][1]

    with pytest.raises(ValueError, match="has the splits train; expected train, and test or validation"):
        load(edited(digits, tmp_path, drop))


def test_any_prepared_set_comes_back_as_written_with_its_class_names(tmp_path):
    splits = {"train": pets(7), "test": pets(5)}
    images = load(prepared(tmp_path, splits))
    assert images.classes == ("cat", "dog", "bird")
    for name, examples in splits.items():
        np.testing.assert_array_equal(getattr(images, name)["image"], np.stack([pixels for pixels, _ in examples]))
        assert getattr(images, name)["label"].tolist() == [label for _, label in examples]


def test_images_of_varying_sizes_are_read_at_one_size(tmp_path):
    config = prepared(tmp_path, {"train": pets(3) + pets(2, 9, 5), "test": pets(2)}, (("-1", "-1", "3")))
    with pytest.raises(ValueError, match=r"images of varying sizes; scale all to one with --data\.resize SIZE"):
        load(config)
    assert load(Data("tfds:pets", dir=config.dir, cache="off", resize=4)).train["image"].shape == (5, 4, 4, 3)


def test_hidden_test_labels_give_way_to_the_validation_split(tmp_path):
    images = load(prepared(tmp_path, {"train": pets(3), "test": pets(4, label=-1), "validation": pets(5)}))
    assert images.test["label"].tolist() == [0, 1, 2, 0, 1]


def test_negative_label_names_file_index_and_value(tmp_path):
    config = prepared(tmp_path, {"train": [*pets(4), *pets(1, label=-1)], "test": pets(4)})
    expected = "pets-train.array_record-00000-of-00001: the label at index 4 is -1; expected 0 to 2"
    with pytest.raises(ValueError, match=re.escape(expected)):
        load(config)


def test_image_of_another_size_than_declared_is_named(tmp_path):
    config = prepared(tmp_path, {"train": [*pets(2), *pets(1, 5, 5)], "test": pets(4)})
    with pytest.raises(ValueError, match=r"example 2 has shape \[5, 5, 3\]; expected \[4, 6, 3\]"):
        load(config)
