"""CIFAR-100 and EMNIST as they are published: their files, class names, and what is peculiar to them."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from jaxai.data import Data, load
from tests.data.prepared_sets import prepared

RANDOM = np.random.default_rng(0)


def loaded(source, folder, **fields):
    return load(Data(source, dir=str(folder), cache="off", **fields))


def write_cifar100(folder, binary=False, classes=100, counts=(7, 4)):
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, count in zip(("train", "test"), counts, strict=True):
        images, fine = RANDOM.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) * 37 % classes
        rows, coarse = images.transpose(0, 3, 1, 2).reshape(count, 3072), RANDOM.integers(0, 20, count)
        if binary:
            records = (bytes([*labels]) + row.tobytes() for *labels, row in zip(coarse, fine, rows, strict=True))
            (folder / f"{name}.bin").write_bytes(b"".join(records))
        else:
            batch = {b"data": rows, b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
            (folder / name).write_bytes(pickle.dumps(batch, 2))
        written[name] = images, fine
    return written


@pytest.mark.parametrize("source", ["cifar", "cifar100"])
@pytest.mark.parametrize(
    ("sub_folder", "binary"), [("", False), ("cifar-100-python", False), ("", True), ("cifar-100-binary", True)]
)
def test_cifar_100_comes_back_as_written_with_its_fine_labels(tmp_path, source, sub_folder, binary):
    written = write_cifar100(tmp_path / sub_folder, binary)
    images = loaded(source, tmp_path)
    for name, (pixels, labels) in written.items():
        np.testing.assert_array_equal(getattr(images, name)["image"], pixels)
        np.testing.assert_array_equal(getattr(images, name)["label"], labels)
    # Of meta and fine_label_names.txt in the published archives.
    names = {0: "apple", 1: "aquarium_fish", 23: "cloud", 53: "orange", 70: "rose", 81: "streetcar", 99: "worm"}
    assert {label: images.classes[label] for label in names} == names
    assert len(set(images.classes)) == 100


def test_cifar_100_that_is_not_there_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="tfds:cifar100 is not prepared in"):
        loaded("cifar100", tmp_path)
    write_cifar100(tmp_path)
    (tmp_path / "test").write_bytes(pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, 2))
    with pytest.raises(ValueError, match=r"test is no CIFAR-100 python batch: KeyError: 'fine_labels'"):
        loaded("cifar", tmp_path)
    (tmp_path / "test").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no test in .*curl -f https://www.cs.toronto.edu/~kriz/cifar-100-python"
    ):
        loaded("cifar100", tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds cifar10 and cifar100; name one as --data.source"):
        loaded("cifar", tmp_path)


def test_unnamed_cifar_100_of_tfds_gets_its_names(tmp_path):
    classes = tuple(map(str, range(100)))
    examples = [(RANDOM.integers(0, 256, (32, 32, 3), np.uint8), label) for label in (0, 99)]
    splits = {"train": examples, "test": examples}
    prepared(tmp_path, splits, ("32", "32", "3"), classes, "cifar100", named=False)
    images = loaded("cifar100", tmp_path)
    assert (images.classes[0], images.classes[99]) == ("apple", "worm")


def write_emnist(folder, variant, labels, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.asarray(labels, np.uint8)
    images = RANDOM.integers(0, 256, (len(labels), 5, 4), np.uint8)
    for split in ("train", "test"):
        # As NIST published them: every image transposed.
        for kind, array in (("images", images.transpose(0, 2, 1)), ("labels", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            path = folder / f"emnist-{variant}-{split}-{kind}-idx{array.ndim}-ubyte{'.gz' * packed}"
            content = header + np.ascontiguousarray(array).tobytes()
            path.write_bytes(gzip.compress(content) if packed else content)
    return images


@pytest.mark.parametrize(
    ("variant", "labels", "expected", "names"),
    [
        ("balanced", [0, 10, 36, 46], [0, 10, 36, 46], "0Aat"),
        ("bymerge", [0, 10, 36, 46], [0, 10, 36, 46], "0Aat"),
        ("byclass", [9, 10, 36, 61], [9, 10, 36, 61], "9Aaz"),
        ("letters", [1, 2, 26], [0, 1, 25], "ABZ"),
        ("letters", [0, 1, 25], [0, 1, 25], "ABZ"),
        ("digits", [0, 9], [0, 9], "09"),
        ("mnist", [0, 9], [0, 9], "09"),
    ],
)
@pytest.mark.parametrize(("sub_folder", "packed"), [("", False), ("gzip", True)])
def test_emnist_is_upright_with_labels_from_zero_and_names(
    tmp_path, variant, labels, expected, names, sub_folder, packed
):
    pixels = write_emnist(tmp_path / sub_folder, variant, labels, packed)
    for source in ("idx", f"idx:emnist-{variant}"):
        images = loaded(source, tmp_path)
        for split in (images.train, images.test):
            np.testing.assert_array_equal(split["image"][..., 0], pixels)
            assert split["label"].tolist() == expected
        assert "".join(images.classes[label] for label in expected) == names
        said = ", and its labels, which count from 1, count from 0" if labels != expected else ""
        assert images.notes[0] == f"EMNIST: its transposed images are upright here{said}"


def test_renamed_emnist_is_noticed(tmp_path):
    for split, count in (("train", 88_800), ("t10k", 10)):
        for kind, array in (("images", np.ones((count, 1, 1), np.uint8) * 9), ("labels", np.arange(count) % 10)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            content = header + array.astype(np.uint8).tobytes()
            (tmp_path / f"{split}-{kind}-idx{array.ndim}-ubyte").write_bytes(content)
    note = loaded("idx", tmp_path).notes[0]
    assert note.startswith(
        "the number of images is EMNIST's, whose images are transposed: give its files their published names"
    )


def test_one_of_several_sets_is_chosen_by_name(tmp_path):
    pixels = write_emnist(tmp_path, "letters", [1, 26])
    write_emnist(tmp_path, "digits", [0, 9])
    with pytest.raises(
        ValueError, match=r"several sets; name one as --data.source, of idx:emnist-digits, idx:emnist-let"
    ):
        loaded("idx", tmp_path)
    np.testing.assert_array_equal(loaded("idx:emnist-letters", tmp_path).train["image"][..., 0], pixels)
    with pytest.raises(
        FileNotFoundError, match=r"no emnist-balanced-train-images-idx3-ubyte, .*there is idx:emnist-di"
    ):
        loaded("idx:emnist-balanced", tmp_path)
    (tmp_path / "emnist-letters-test-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"^no emnist-letters-test-labels-idx1-ubyte \(or .gz\) in"):
        loaded("idx:emnist-letters", tmp_path)


def test_letters_of_tfds_are_upright_and_count_from_zero(tmp_path):
    # tfds declares 37 classes for labels that are 1 to 26.
    pixels = RANDOM.integers(0, 256, (2, 4, 4, 3), np.uint8)
    examples = list(zip(pixels, (1, 26), strict=True))
    splits = {"train": examples, "test": examples}
    prepared(tmp_path, splits, ("4", "4", "3"), tuple(map(str, range(37))), "emnist/letters", named=False)
    images = loaded("tfds:emnist/letters", tmp_path)
    np.testing.assert_array_equal(images.train["image"], pixels.transpose(0, 2, 1, 3))
    assert images.test["label"].tolist() == [0, 25]
    assert (images.classes[0], images.classes[25], len(images.classes)) == ("A", "Z", 26)


def test_too_many_classes_for_a_byte_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_classes is 257; expected at most 256: idx labels are bytes"):
        loaded("idx", tmp_path, num_classes=257)


@pytest.mark.parametrize("missing", [("test",), ("train", "test")])
def test_train_files_alone_are_split_where_it_is_asked_for(tmp_path, missing):
    labels = np.arange(20) % 2
    write_emnist(tmp_path / "idx", "digits", labels)
    write_cifar100(tmp_path / "cifar", classes=2, counts=(20, 4))
    for name in missing:
        for path in [*(tmp_path / "idx").glob(f"*-{name}-*"), tmp_path / "cifar" / name]:
            path.unlink()
    for source, folder in (("idx", "idx"), ("cifar", "cifar")):
        with pytest.raises(FileNotFoundError, match=r"^no .*test"):
            loaded(source, tmp_path / folder)
        if "train" in missing:
            with pytest.raises(FileNotFoundError, match=r"^no "):
                loaded(source, tmp_path / folder, test_fraction=0.5)
    if "train" not in missing:
        for source, folder in (("idx", "idx"), ("cifar", "cifar")):
            images = loaded(source, tmp_path / folder, test_fraction=0.2)
            assert np.bincount(images.train["label"]).tolist() == [8, 8]
            assert np.bincount(images.test["label"]).tolist() == [2, 2]
