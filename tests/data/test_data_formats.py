import gzip
import pickle
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxai.data import Data, load
from jaxai.data import mnist5k as mnist5k_source

RANDOM = np.random.default_rng(0)
CIFAR_BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def digits(examples):
    return RANDOM.integers(0, 256, (examples, 5, 4), np.uint8), np.arange(examples, dtype=np.uint8) % 10


def write_idx(path, array, magic=None):
    content = (magic or bytes([0, 0, 8, array.ndim])) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, names="{}-images-idx3-ubyte {}-labels-idx1-ubyte"):
    written = {}
    for split, prefix, examples in (("train", "train", 30), ("test", "t10k", 20)):
        images, labels = digits(examples)
        image_name, label_name = names.format(prefix, prefix).split()
        write_idx(folder / image_name, images)
        write_idx(folder / label_name, labels)
        written[split] = images, labels
    return written


def write_cifar(folder, binary=False, key=str.encode, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in CIFAR_BATCHES:
        images = RANDOM.integers(0, 256, (4, 32, 32, 3), np.uint8)
        labels = RANDOM.integers(0, 10, 4)
        rows = np.stack([image[..., channel].ravel() for image in images for channel in range(3)]).reshape(4, 3072)
        if binary:
            records = b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, rows, strict=True))
            (folder / f"{name}.bin").write_bytes(records)
        else:
            batch = {key("data"): rows, key("labels"): labels.tolist(), key("batch_label"): key("some text")}
            (folder / name).write_bytes(pickle.dumps(batch, protocol))
        written.append((images, labels))
    return written


def write_folder(folder, mode="RGB", size=(6, 4), test="test", ending="png"):
    channels = {"L": (), "RGB": (3,)}[mode]
    written = {}
    for split in ("train", test):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for index in range(3):
                pixels = RANDOM.integers(0, 256, (size[1], size[0], *channels), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.{ending}")
                written[split, name, index] = pixels
    return written


def loaded(source, folder, **fields):
    return load(Data(source, dir=str(folder), cache="off", **fields))


@pytest.mark.parametrize(
    "names",
    [
        "{}-images-idx3-ubyte {}-labels-idx1-ubyte",
        "{}-images-idx3-ubyte.gz {}-labels-idx1-ubyte.gz",
        "{}-images.idx3-ubyte {}-labels.idx1-ubyte",
        "{}-images.idx3-ubyte.gz {}-labels-idx1-ubyte",
    ],
)
def test_idx_files_come_back_as_written(tmp_path, names):
    written = write_mnist(tmp_path, names)
    images = loaded("idx", tmp_path)
    for split, (pixels, labels) in written.items():
        read = getattr(images, split)
        np.testing.assert_array_equal(read["image"][..., 0], pixels)
        np.testing.assert_array_equal(read["label"], labels)
        assert read["image"].dtype == np.uint8
        assert read["label"].dtype == np.int32
    assert images.shape == (5, 4, 1)
    assert len(images.classes) == 10


def test_idx_truncation_is_refused_with_the_file_and_both_sizes(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=re.escape(f"{path} has 593 bytes of data; its header promises 600")):
        loaded("idx", tmp_path)


def test_idx_gzip_truncation_names_the_file(tmp_path):
    write_mnist(tmp_path, "{}-images-idx3-ubyte.gz {}-labels-idx1-ubyte.gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read")):
        loaded("idx", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08", b"<html>not found</html>"])
def test_idx_wrong_magic_is_refused(tmp_path, content):
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} begins with") + ".*expected the idx magic 00000801"):
        loaded("idx", tmp_path)


def test_idx_labels_given_as_images_are_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, np.arange(30, dtype=np.uint8))
    with pytest.raises(ValueError, match=re.escape(f"{path} begins with 00000801; expected the idx magic 00000803")):
        loaded("idx", tmp_path)


def test_idx_of_unequal_lengths_names_both_files(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(19, np.uint8))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte holds 20 images, but .*t10k-labels-idx1-ubyte 19"):
        loaded("idx", tmp_path)


def test_idx_label_out_of_range_names_file_index_and_value(tmp_path):
    write_mnist(tmp_path)
    labels = np.zeros(30, np.uint8)
    labels[17] = 12
    path = tmp_path / "train-labels-idx1-ubyte"
    write_idx(path, labels)
    with pytest.raises(ValueError, match=re.escape(f"{path}: the label at index 17 is 12; expected 0 to 9")):
        loaded("idx", tmp_path)
    assert len(loaded("idx", tmp_path, num_classes=13).classes) == 13


def test_idx_without_examples_is_refused(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((0, 5, 4), np.uint8))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte: no examples"):
        loaded("idx", tmp_path)


def test_missing_idx_file_is_named_with_the_command_that_fetches_it(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as error:
        loaded("idx", tmp_path)
    assert f"no t10k-labels-idx1-ubyte (or .gz) in {tmp_path}; download with: mkdir -p" in str(error.value)
    assert "train-images" not in str(error.value)


@pytest.mark.parametrize("sub_folder", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize(("key", "protocol"), [(str.encode, 2), (str, 2), (str.encode, 4), (str, 5)])
def test_cifar_python_batches_come_back_as_written(tmp_path, sub_folder, key, protocol):
    written = write_cifar(tmp_path / sub_folder, key=key, protocol=protocol)
    assert_cifar(loaded("cifar", tmp_path), written)


@pytest.mark.parametrize("sub_folder", ["", "cifar-10-batches-bin"])
def test_cifar_binary_batches_come_back_as_written(tmp_path, sub_folder):
    written = write_cifar(tmp_path / sub_folder, binary=True)
    assert_cifar(loaded("cifar", tmp_path), written)


def assert_cifar(images, written):
    np.testing.assert_array_equal(images.train["image"], np.concatenate([pixels for pixels, _ in written[:-1]]))
    np.testing.assert_array_equal(images.train["label"], np.concatenate([labels for _, labels in written[:-1]]))
    np.testing.assert_array_equal(images.test["image"], written[-1][0])
    np.testing.assert_array_equal(images.test["label"], written[-1][1])
    assert images.classes[:2] == ("airplane", "automobile")
    assert images.train["image"].flags.c_contiguous


def test_cifar_batch_written_by_python_2_is_read(tmp_path):
    written = write_cifar(tmp_path)
    rows = written[0][0].transpose(0, 3, 1, 2).reshape(4, 3072)
    # The opcodes that the published batches are made of: byte strings throughout, NumPy 1 module names.
    content = b"\x80\x02}(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    content += b"(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff"
    content += b"\xff\xffK\x00tb\x89T" + struct.pack("<I", rows.nbytes) + rows.tobytes() + b"tb"
    content += b"U\x06labels](" + b"".join(b"K" + bytes([label]) for label in written[0][1]) + b"eu."
    (tmp_path / "data_batch_1").write_bytes(content)
    assert_cifar(loaded("cifar", tmp_path), written)


class Attack:
    def __reduce__(self):
        return print, ("code from the pickle has run",)


def test_cifar_pickle_that_would_run_code_is_refused_unrun(tmp_path, capsys):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": Attack(), b"labels": []}, 2))
    with pytest.raises(ValueError, match=r"data_batch_3 is no CIFAR-10 python batch.*print, which an array"):
        loaded("cifar", tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"labels": [0]}, "KeyError: 'data'"),
        ([1, 2], "AttributeError"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}, r"data is float32 \[2, 3072\]; expected uint8"),
        ({b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]}, r"data is uint8 \[2, 100\]"),
        ({b"data": b"", b"labels": []}, "data is bytes; expected uint8"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "2 images but 1 labels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, "the label at index 1 is 10; expected 0 to 9"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": np.zeros(0, int)}, "no examples"),
    ],
)
def test_wrong_cifar_batch_is_refused_by_name(tmp_path, batch, message):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps(batch, 4))
    with pytest.raises(ValueError, match=f"data_batch_2.*{message}") as error:
        loaded("cifar", tmp_path)
    assert "\n" not in str(error.value)


def test_truncated_cifar_batches_are_refused_by_name(tmp_path):
    for binary, name in ((False, "data_batch_4"), (True, "data_batch_4.bin")):
        folder = tmp_path / str(binary)
        write_cifar(folder, binary)
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])
        with pytest.raises(ValueError, match=f"{name} (has 12192 bytes; expected a multiple of 3073|is no CIFAR-10)"):
            loaded("cifar", folder)


def test_missing_cifar_batch_is_named(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_5").unlink()
    with pytest.raises(FileNotFoundError, match=r"no data_batch_5 in .*download with: mkdir -p"):
        loaded("cifar", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 batches .*curl -f https://www.cs.toronto.edu"):
        loaded("cifar", tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folder_of_images_comes_back_as_written(tmp_path, mode, test):
    written = write_folder(tmp_path, mode, test=test)
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    images = loaded("folder", tmp_path)
    assert images.classes == ("cat", "dog")
    assert images.shape == (4, 6, {"RGB": 3, "L": 1}[mode])
    for split in ("train", test):
        read = images.train if split == "train" else images.test
        assert read["label"].tolist() == [0, 0, 0, 1, 1, 1]
        expected = np.stack([pixels for (kind, _, _), pixels in written.items() if kind == split])
        np.testing.assert_array_equal(read["image"].reshape(expected.shape), expected)


def test_folder_of_mixed_sizes_names_the_file_and_the_flag(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "train/dog/1.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=re.escape(f"{path} is 8 x 8 pixels; expected 4 x 6") + ".*--data.resize"):
        loaded("folder", tmp_path)
    assert loaded("folder", tmp_path, resize=5).train["image"].shape == (6, 5, 5, 3)


def test_resize_crops_the_centre(tmp_path):
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    write_folder(tmp_path)
    for path in tmp_path.rglob("*.png"):
        Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(loaded("folder", tmp_path, resize=4).train["image"], np.full((6, 4, 4, 3), 200))


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:60], lambda raw: b"GIF?" + raw[4:]])
def test_undecodable_image_names_the_file(tmp_path, damage):
    write_folder(tmp_path)
    path = tmp_path / "test/dog/2.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be decoded")) as error:
        loaded("folder", tmp_path)
    assert "\n" not in str(error.value)


def test_sixteen_bit_image_is_refused(tmp_path):
    write_folder(tmp_path)
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(tmp_path / "train/cat/0.png")
    with pytest.raises(ValueError, match=r"0.png cannot be decoded: pixels have mode I;16; expected 8 bits"):
        loaded("folder", tmp_path)


def test_folder_layout_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; expected train/CLASS"):
        loaded("folder", tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="no folder test, val or validation in"):
        loaded("folder", tmp_path)
    (tmp_path / "test/bird").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"bird is of no class in .*train, which has 0"):
        loaded("folder", tmp_path)
    (tmp_path / "train/bird").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no images in the sub-folders of .*train"):
        loaded("folder", tmp_path)


def test_arrays_are_resized_too(tmp_path):
    write_mnist(tmp_path)
    write_cifar(tmp_path)
    assert loaded("idx", tmp_path, resize=8).shape == (8, 8, 1)
    same = loaded("cifar", tmp_path, resize=32)
    np.testing.assert_array_equal(same.train["image"], loaded("cifar", tmp_path).train["image"])


def test_bundled_digits_are_split_the_same_way_for_ever(monkeypatch):
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    images = load(Data(cache="off"))
    assert images.train["image"].shape == (4000, 28, 28, 1)
    assert images.test["image"].shape == (1000, 28, 28, 1)
    assert np.bincount(images.train["label"]).tolist() == [400] * 10
    assert np.bincount(images.test["label"]).tolist() == [100] * 10
    both = np.concatenate([images.train["image"], images.test["image"]]).reshape(5000, -1)
    assert len(np.unique(both, axis=0)) == 5000  # none is in both splits
    # Recorded once: figures in READMEs and result files are about this very split.
    assert images.test["label"][:12].tolist() == [9, 0, 8, 5, 7, 8, 4, 5, 0, 7, 2, 5]
    assert int(images.test["image"][:100].sum(dtype=np.int64)) == 2_716_151
    assert "pandas" not in sys.modules


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows[:-1], r"has shape \[4999, 785\]; expected \[5000, 785\]"),
        (lambda rows: [*rows[:7], [300, *rows[7][1:]], *rows[8:]], "pixel 0 of row 7 is 300; expected 0 to 255"),
        (lambda rows: [*rows[:9], [*rows[9][:-1], 11], *rows[10:]], "the label at index 9 is 11"),
    ],
)
def test_damaged_bundle_is_refused(tmp_path, damage, message):
    rows = [[0] * 784 + [label] for label in range(10) for _ in range(500)]
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in damage(rows)).encode(), 1))
    with pytest.raises(ValueError, match=f"mnist_5k.csv.gz.*{message}"):
        mnist5k_source.read(Path(path))
