import subprocess
import sys

import numpy as np
import pytest

from jaxai.data import Data, check, load, text


def synthetic(**fields):
    return Data(
        "synthetic", **{"image_shape": (6, 5, 2), "num_classes": 4, "examples": 200, "test_examples": 50, **fields}
    )


def test_synthetic_data_has_the_shape_asked_for_and_is_always_the_same():
    first, second = load(synthetic()), load(synthetic())
    assert first.train["image"].shape == (200, 6, 5, 2)
    assert first.test["image"].shape == (50, 6, 5, 2)
    assert first.classes == ("0", "1", "2", "3")
    assert np.bincount(first.train["label"]).tolist() == [50] * 4
    np.testing.assert_array_equal(first.train["image"], second.train["image"])
    assert first.train["image"].min() < 5
    assert first.train["image"].max() > 250


def test_synthetic_data_can_be_learnt():
    images = load(synthetic(image_shape=(8, 8, 1), examples=2000, test_examples=500))
    train, test = (split["image"].reshape(len(split["image"]), -1) / 255 for split in (images.train, images.test))
    means = np.stack([train[images.train["label"] == label].mean(0) for label in range(4)])
    nearest = ((test[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == images.test["label"]).mean() > 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_shape": (0, 5, 2)}, "data.image_shape is .*every value must be at least 1"),
        ({"num_classes": 0}, "data.num_classes is 0; it must be at least 1"),
        ({"examples": -1}, "examples is -1"),
        ({"test_examples": 0}, "test_examples is 0"),
        ({"resize": 8}, "resize does not apply to synthetic data; set image_shape"),
        ({"resize": 0}, "resize is 0"),
        ({"validation_fraction": 1.0}, "data.validation_fraction is 1.0; it must be at least 0 and below 1"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        ({"validation_fraction": 0.001}, "holds out 0 and keeps 200"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        load(synthetic(**fields))


def test_validation_takes_the_same_share_of_every_class():
    whole, images = load(synthetic()), load(synthetic(validation_fraction=0.2))
    assert whole.validation is None
    assert images.validation is not None
    assert np.bincount(images.validation["label"]).tolist() == [10] * 4
    assert np.bincount(images.train["label"]).tolist() == [40] * 4
    check(images.validation["image"], images.validation["label"], 4, "validation")
    together = np.concatenate([images.train["image"], images.validation["image"]]).reshape(200, -1)
    everything = whole.train["image"].reshape(200, -1)
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(everything, axis=0))
    np.testing.assert_array_equal(images.test["image"], whole.test["image"])


def test_unknown_source_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"no data source MNIST; .*did you mean mnist"):
        load(Data("MNIST"))
    with pytest.raises(ValueError, match=r"no data source cifer; expected one of mnist5k, .*did you mean cifar"):
        load(Data("cifer"))


@pytest.mark.parametrize("source", ["idx", "cifar", "folder"])
def test_source_of_files_asks_for_its_folder(source):
    with pytest.raises(ValueError, match=f"data source {source} needs --data.dir"):
        load(Data(source))


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["PIL", "tensorflow_datasets", "tensorflow", "matplotlib", "orbax", "pandas", "mlxtend"]
    code = f"import sys, jaxai.data; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("source", ["mnist5k", "synthetic"])
def test_a_folder_that_the_source_does_not_read_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match=rf"data.dir is '{tmp_path}', but the source {source} reads no files.*folder"):
        load(Data(source, str(tmp_path)))
    with pytest.raises(ValueError, match=rf"data.dir is '{tmp_path}', but the source dates reads no files.*files"):
        text.load(text.TextData("dates", str(tmp_path)))


def test_fields_of_synthetic_data_are_named_where_a_set_is_read():
    assert load(Data("mnist5k", cache="off", examples=100)).notes == ("data.examples is not used with mnist5k",)
