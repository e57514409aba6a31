"""Data of one's own: arrays and texts from Python, npz files, functions, and datasets of other libraries."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxai.data
from jaxai.data import Data, Images, digests, load, text
from jaxai.data.text import TextData
from jaxai.data.text import load as load_pairs
from jaxai.dotted_names import dotted_name, imported

X = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
X_TEST = np.random.default_rng(1).integers(0, 256, (6, 8, 8), np.uint8)
Y, Y_TEST = np.arange(12) % 3, np.arange(6) % 3
UNIT = X.astype(np.float32) / 255
TEXTS = [f"text {number}" for number in range(40)]


def refused(function, *arguments, **named):
    """The message of the ValueError, which is one line."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


# Arrays


def test_arrays_are_taken_as_they_are():
    images = jaxai.data.arrays(X[..., None], Y, X_TEST[..., None], Y_TEST, classes=["a", "b", "c"])
    assert isinstance(images, Images)
    assert np.shares_memory(images.train["image"], X)
    np.testing.assert_array_equal(images.train["label"], Y)
    assert images.train["label"].dtype == np.int32
    assert (images.classes, images.shape, images.name, images.notes) == (("a", "b", "c"), (8, 8, 1), "arrays", ())
    assert images.origin == Data("arrays")


def test_other_forms_of_the_same_arrays_give_the_same_images(tmp_path):
    np.save(tmp_path / "x.npy", UNIT)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for x in (UNIT, UNIT[..., None], jnp.asarray(UNIT), UNIT.tolist(), mapped):
        images = jaxai.data.arrays(x, Y.tolist(), X_TEST.tolist(), jnp.asarray(Y_TEST))
        np.testing.assert_array_equal(images.train["image"], UNIT[..., None])
        np.testing.assert_array_equal(images.test["image"], X_TEST[..., None])
        assert images.classes == ("0", "1", "2")


def with_nan():
    pixels = X_TEST.astype(np.float32) / 255
    pixels[3, 2, 1] = np.nan
    return pixels


WRONG = {
    "float64": ({"x": UNIT.astype(np.float64)}, "x: images have dtype float64; .* give x.astype.numpy.float32."),
    "float64 test": ({"x_test": X_TEST / 255}, r"x_test: images have dtype float64; .* give x_test\.astype"),
    "int64": ({"x": X.astype(np.int64)}, r"x: images have dtype int64; .* give x\.astype\(numpy.uint8\)"),
    "labels": ({"y": np.arange(12) % 16 + 4, "classes": 10}, "y: the label at index 6 is 10; expected 0 to 9, for 10"),
    "test labels": ({"y_test": Y_TEST + 1}, "y_test: the label at index 2 is 3; expected 0 to 2.* give y_test - 1"),
    "sparse labels": ({"y": Y * 100}, "y: the largest label is 200, but there are only 3 different labels"),
    "names": ({"classes": ["a", "a", "b"]}, "classes: classes 0 and 1 are both called 'a'"),
    "few names": ({"classes": ["a", "b"]}, "y: the label at index 2 is 2; expected 0 to 1, for 2 classes"),
    "string": ({"classes": "abc"}, "classes is 'abc'; expected the names of the classes"),
    "nan": ({"x_test": with_nan()}, r"x_test: the pixel at index \[3, 2, 1, 0\] is nan; expected finite"),
    "range": ({"x": UNIT * 255}, r"x: the pixel at index .*; expected floats in \[0, 1\]: divide by 255"),
    "rank": ({"x": UNIT[:, None, None]}, r"x: images have shape \[12, 1, 1, 8, 8\]; expected \[examples, height"),
    "flat": ({"x": X.reshape(12, 64)}, r"give x.reshape\(-1, 8, 8, 1\)"),
    "channels": ({"x": np.repeat(X[:, None], 3, 1)}, r"x: .* expected the channels last: give x.transpose"),
    "empty": ({"x": X[:0]}, "x has no images; expected at least one"),
    "lengths": ({"y": Y[:4]}, "x: 12 images but 4 labels in y; expected one label an image"),
    "size": ({"x_test": X_TEST[:, :6]}, r"x_test: images are \[6, 8, 1\], but those of x \[8, 8, 1\]"),
    "one-hot": ({"y": np.eye(3)[Y]}, r"y: labels have shape \[12, 3\].*give y.argmax\(-1\)"),
    "words": ({"y": np.array(["a", "b", "c"])[Y]}, "y: labels have dtype <U1; .*numpy.unique.y, return_inverse"),
    "ragged": (
        {"x": [[1, 2], [3]]},
        "x is a list that cannot be converted to an array: .*bring all images to one size",
    ),
    "nothing": ({"x": None}, "x is None; expected an array"),
    "no labels": ({"y": None}, r"y is None; .* for images without labels, give numpy.zeros\(len\(x\), int\)"),
    "no test": ({"x_test": None, "y_test": None}, "x_test is None; .*test_fraction=0.2"),
    "half a test": ({"y_test": None}, "y_test is None, but x_test is given; give both"),
    "share": ({"validation": 2.0}, "validation is 2; expected a share above 0 and below 1"),
    "validation": ({"validation": X}, r"validation is a ndarray; expected \(images, labels\), or the share"),
    "validation labels": ({"validation": (X_TEST, Y)}, r"validation\[0\]: 6 images but 12 labels in validation\[1\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_refused_by_the_name_of_the_argument(case):
    changes, message = WRONG[case]
    given = {"x": X, "y": Y, "x_test": X_TEST, "y_test": Y_TEST} | changes
    with pytest.raises(ValueError, match=f"^.*{message}") as error:
        jaxai.data.arrays(**given)
    assert "\n" not in str(error.value)


def test_parts_of_the_training_images_are_held_out():
    images = jaxai.data.arrays(X, Y, test_fraction=0.25, validation=0.4)
    assert [len(split["label"]) for split in (images.train, images.test, images.validation)] == [6, 3, 3]
    assert np.bincount(images.test["label"]).tolist() == [1, 1, 1]
    pictures = np.concatenate([split["image"] for split in (images.train, images.test, images.validation)])
    assert sorted(map(bytes, pictures)) == sorted(map(bytes, X))
    given = jaxai.data.arrays(X, Y, X_TEST, Y_TEST, validation=(X_TEST, Y_TEST))
    np.testing.assert_array_equal(given.validation["label"], Y_TEST)


def test_data_is_a_name_of_the_package():
    assert jaxai.__getattr__("data") is jaxai.data
    assert "data" in dir(jaxai)


# Pairs of texts


def test_pairs_are_taken_and_held_out():
    found = jaxai.data.pairs(TEXTS, TEXTS[::-1], ["a"], ["b"], validation=0.1, task="transformation")
    assert (len(found.train.sources), len(found.validation.sources), found.test.targets) == (36, 4, ("b",))
    whole = jaxai.data.pairs(TEXTS, TEXTS)
    assert [len(split.sources) for split in (whole.train, whole.validation, whole.test)] == [36, 2, 2]
    origin = text.origin(found)
    assert (origin.source, origin.task) == ("pairs", "transformation")


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((TEXTS, TEXTS[:3]), {}, "sources has 40 texts, but targets 3; expected the same number"),
        ((TEXTS, TEXTS, TEXTS), {}, "targets_test is None, but sources_test is given"),
        ((TEXTS, TEXTS, ["a"], [""]), {}, "targets_test: the text at index 0 is empty"),
        ((["a", 1], ["b", "c"]), {}, "sources: the text at index 1 is a int; expected a str"),
        (("ab", "cd"), {}, "sources is a str; expected a list of texts"),
        (([], []), {}, "sources has no texts"),
        ((["a"], ["b"]), {}, "1 different sources are too few to hold out validation and test"),
        ((TEXTS, TEXTS), {"validation": 1.0}, "validation is 1; expected a share above 0 and below 1"),
        ((TEXTS, TEXTS), {"task": "x"}, "task is 'x'; expected one of translation"),
    ],
)
def test_wrong_texts_are_refused_by_the_name_of_the_argument(arguments, named, message):
    assert message in refused(jaxai.data.pairs, *arguments, **named)


# npz files

KERAS = {"x_train": X, "y_train": Y, "x_test": X_TEST, "y_test": Y_TEST}
MEDMNIST = {
    **{"train_images": X, "train_labels": Y[:, None], "val_images": X_TEST, "val_labels": Y_TEST[:, None]},
    **{"test_images": X_TEST, "test_labels": Y_TEST[:, None]},
}


def saved(tmp_path, arrays, **fields):
    np.savez(tmp_path / "own.npz", **arrays)
    return Data("npz", dir=str(tmp_path / "own.npz"), **fields)


def test_npz_files_of_keras_and_medmnist_are_read(tmp_path):
    for arrays in (KERAS, MEDMNIST):
        images = load(saved(tmp_path, arrays))
        np.testing.assert_array_equal(images.train["image"], X[..., None])
        np.testing.assert_array_equal(images.test["label"], Y_TEST)
        assert (images.classes, images.validation is None) == (("0", "1", "2"), arrays is KERAS)
    assert load(dataclasses.replace(images.origin, dir=str(tmp_path))).shape == (8, 8, 1)


def test_class_names_of_an_npz_file_are_its_own_or_the_users(tmp_path):
    own = {**KERAS, "class_names": np.array(["cat", "dog", "eel"])}
    assert load(saved(tmp_path, own)).classes == ("cat", "dog", "eel")
    assert load(saved(tmp_path, own, classes=("k", "l", "m"))).classes == ("k", "l", "m")
    assert "data.num_classes is 4, but data.classes has 3 names" in refused(
        load, saved(tmp_path, own, classes=("k", "l", "m"), num_classes=4)
    )
    assert "y_train: the label at index 2 is 2; expected 0 to 1" in refused(load, saved(tmp_path, KERAS, num_classes=2))
    assert load(saved(tmp_path, {"x": X, "y": Y}, test_fraction=0.25)).test["image"].shape == (3, 8, 8, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": X, "kinds": Y}, "own.npz has the arrays pictures, kinds; expected x_train, y_train, x_test"),
        ({"x_train": X, "y_train": Y}, "or hold a part of the training images out: --data.test-fraction 0.2"),
        ({**KERAS, "x_test": X_TEST / 255}, "own.npz: x_test: images have dtype float64; .* give x_test.astype"),
        ({**KERAS, "y_train": np.array([None] * 12, object)}, "y_train holds Python objects, which are not read"),
        ({"x_train": X, "y_test": Y_TEST, "x_test": X_TEST}, "own.npz has x_train, but no array of train labels"),
        ({**KERAS, "images_train": X}, "own.npz has both x_train and images_train; expected one array"),
    ],
)
def test_wrong_npz_files_are_refused_with_what_they_hold(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as error:
        load(saved(tmp_path, arrays))
    assert "\n" not in str(error.value)


def test_npz_files_that_are_missing_or_damaged_are_refused(tmp_path):
    config = saved(tmp_path, KERAS)
    path = tmp_path / "own.npz"
    path.write_bytes(path.read_bytes()[:300])
    assert "is not an npz file, or only a part of one" in refused(load, config)
    path.unlink()
    assert f"no file {path}; check --data.dir" in refused(load, config)
    assert "needs --data.dir: its npz file" in refused(load, Data("npz"))


# Functions


def own_images():
    return jaxai.data.arrays(X, Y, X_TEST, Y_TEST)


def test_a_function_is_a_source_and_options_of_data_apply():
    images = load(Data(source=own_images, validation_fraction=0.25, resize=4, dir="unused"))
    assert images.shape == (4, 4, 1)
    assert len(images.validation["label"]) == 3
    assert images.name.endswith("test_own_data:own_images")
    assert images.notes[0] == "data.dir is not used with a function"
    assert images.origin.source is own_images


def test_a_function_of_texts_is_a_source():
    found = load_pairs(TextData(source=lambda: jaxai.data.pairs(TEXTS, TEXTS, task="pronunciation"), limit=5))
    assert (len(found.train.sources), found.task, text.origin(found).task) == (5, "pronunciation", "pronunciation")
    assert "returned Images; expected jaxai.data.Pairs" in refused(load_pairs, TextData(source=own_images))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: (X, Y), "<lambda> returned tuple; expected jaxai.data.Images, as jaxai.data.arrays"),
        (lambda: 1 / 0, "failed: ZeroDivisionError: division by zero (test_own_data.py, line "),
        (lambda config: config, "failed: TypeError: "),
        (lambda: jaxai.data.arrays(X / 255, Y, X_TEST, Y_TEST), "<lambda>: x: images have dtype float64"),
        (3, "data.source is 3; it must be text, in quotes or a function"),
        (
            "my_module:function",
            "the name of a function, which is not imported because a file names it",
        ),
        ("arrays", "data.source is arrays: the data was given in Python, and no file holds it"),
    ],
)
def test_wrong_functions_are_refused(function, message):
    assert message in refused(load, Data(source=function))


def test_functions_are_named_and_imported_by_path(tmp_path, monkeypatch):
    (tmp_path / "my_functions.py").write_text("def make():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    function = imported("my_functions:make", "--data.source")
    assert (function(), dotted_name(function)) == (3, "my_functions:make")
    assert "check the name after the colon" in refused(imported, "my_functions:made", "--data.source")
    assert "--data.source is no_such:f: No module named" in refused(imported, "no_such:f", "--data.source")


# Datasets of other libraries


class Names:
    names = ("cat", "dog", "eel")


class HuggingFace:
    """The interface of `datasets.Dataset`: items by index are dicts, features hold the class names."""

    def __init__(self, images, labels, columns=("image", "label")):
        self.rows = [dict(zip(columns, row, strict=True)) for row in zip(images, labels, strict=True)]
        self.features = {columns[1]: Names()}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Torch:
    """The interface of a torchvision dataset with ToTensor: (channels first floats, label), and `classes`."""

    classes = ("cat", "dog", "eel")

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return np.repeat(self.images[index][None], 3, 0).astype(np.float32) / 255, self.labels[index]


class Subset:
    """The interface of `torch.utils.data.Subset`."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.dataset[index]


def pil(images):
    image = pytest.importorskip("PIL.Image")
    return [image.fromarray(each) for each in images]


def test_hugging_face_sets_are_converted():
    train, test = HuggingFace(pil(X), Y.tolist()), HuggingFace(pil(X_TEST), Y_TEST.tolist())
    for images in (
        jaxai.data.from_dataset(train, test),
        jaxai.data.from_dataset({"train": train, "validation": test}),
    ):
        np.testing.assert_array_equal(images.train["image"], X[..., None])
        np.testing.assert_array_equal(images.test["label"], Y_TEST)
        assert images.classes == ("cat", "dog", "eel")
    other = HuggingFace(pil(X), Y.tolist(), ("picture", "kind"))
    images = jaxai.data.from_dataset(other, image="picture", label="kind", test_fraction=0.25, validation=0.4)
    assert (len(images.train["label"]), images.classes) == (6, ("cat", "dog", "eel"))
    assert "train has the columns picture, kind; name that of the images: image=..." in refused(
        jaxai.data.from_dataset, other, test
    )


def test_torch_sets_are_converted_to_channels_last():
    images = jaxai.data.from_dataset(Torch(X, Y), Torch(X_TEST, Y_TEST), validation=Torch(X_TEST, Y_TEST))
    np.testing.assert_array_equal(images.train["image"], np.repeat(X[..., None], 3, -1).astype(np.float32) / 255)
    assert (images.shape, images.classes) == ((8, 8, 3), ("cat", "dog", "eel"))
    subset = Subset(Torch(X, Y))
    assert jaxai.data.from_dataset(subset, subset).classes == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (iter([]), "train is a list_iterator without length or items"),
        ([], "train has no items"),
        ([X[0]], "train[0] is a ndarray; expected a dict, or a tuple of image and label"),
        ([(X[0], 1.5)], "train[0]: the label is 1.5; expected an integer"),
        ([(X[0], 0), (X[1][:4], 1)], "train[1]: the image is uint8 [4, 8, 1], but the first one is uint8 [8, 8, 1]"),
        ([(X[0] / 255, 0)], "train images: images have dtype float64"),
        ({"other": []}, "train has the splits other; expected train or training"),
    ],
)
def test_wrong_sets_are_refused(train, message):
    assert message in refused(jaxai.data.from_dataset, train, None if isinstance(train, dict) else [(X[0], 0)])


# Descriptions of data


def test_a_description_has_names_shapes_and_digests():
    described = digests.describe_images(jaxai.data.arrays(X, Y, X_TEST, Y_TEST, classes=["cat", "dog", "eel"]))
    assert described["classes"] == ["cat", "dog", "eel"]
    assert described["features"]["image"] == {"shape": [8, 8, 1], "dtype": "uint8"}
    assert {name: split["examples"] for name, split in described["splits"].items()} == {"train": 12, "test": 6}
    assert digests.is_description(described)


def test_of_large_arrays_evenly_spaced_blocks_and_the_end_are_digested(monkeypatch):
    large = np.random.default_rng(0).integers(0, 256, 2**16, np.uint8).reshape(-1, 64)
    whole = digests.digest_of_arrays({"image": large})
    for name, value in (("READ_WHOLE", 2**10), ("SAMPLED", 4), ("BLOCK", 2**8)):
        monkeypatch.setattr(digests, name, value)
    sampled = digests.digest_of_arrays({"image": large})
    assert sampled != whole
    changed = {}
    for place in (0, 2**16 - 1, 2**15):
        other = large.copy()
        other.reshape(-1)[place] ^= 1
        changed[place] = digests.digest_of_arrays({"image": other}) != sampled
    assert changed == {0: True, 2**16 - 1: True, 2**15: False}  # the last is in no block
    assert digests.digest_of_arrays({"image": large.reshape(64, -1)}) != sampled
