"""Image classification sets of TensorFlow Datasets, prepared as array_record, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxai.data import cifar, prepared
from jaxai.data.decode import decode
from jaxai.data.source import Decoded, Source, Split
from jaxai.data.validate import check

READ_AT_ONCE = 1024


def source(name: str, data_dir: str | None, resize: int | None) -> Source:
    """The set `name`, as tfds writes it: NAME, NAME/CONFIG, either with :VERSION (else the newest that is there).

    Looks at the disk alone, so that missing data is told at once: tfds would first try to download for minutes.

    Args:
      name: such as "mnist" or "cifar10:3.0.2".
      data_dir: the tfds data_dir; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      resize: height and width of the images afterwards; None keeps their size.
    """
    folder = prepared.folder(name, data_dir)
    files = sorted(folder.iterdir())
    records = [path for path in files if ".array_record" in path.name]
    metadata = [path for path in files if path.suffix in (".json", ".txt")]
    paths = tuple(records + metadata)
    return Source(f"tfds:{name}", paths, {"resize": resize}, lambda: _decode(folder, resize))


def _decode(folder: Path, resize: int | None) -> Decoded:
    builder = prepared.builder(folder)
    features = dict(builder.info.features.items())
    image, label = features.get("image"), features.get("label")
    if image is None or label is None or not hasattr(label, "names") or len(image.shape) != 3:
        raise ValueError(
            f"{folder} has the features {', '.join(sorted(features))}; expected an image and a class label"
        )
    if np.dtype(image.np_dtype) != np.uint8:
        raise ValueError(f"{folder} has images of {np.dtype(image.np_dtype)}; expected uint8")
    if None in image.shape[:2] and resize is None:
        raise ValueError(f"{folder} has images of varying sizes; scale all to one with --data.resize SIZE")
    train, test = (_read(builder, split, folder, resize) for split in _split_names(builder, folder))
    return Decoded(train, test, _class_names(label.names, folder))


def _split_names(builder: Any, folder: Path) -> tuple[str, str]:
    splits = builder.info.splits
    # Sets with a contest, as ImageNet, hide the labels of their test images behind -1.
    hidden = "test" in splits and _encoded(builder, "test", folder).read([0])[0]["label"] < 0
    test = "validation" if "test" not in splits or hidden else "test"
    if "train" not in splits or test not in splits:
        raise ValueError(f"{folder} has the splits {', '.join(splits)}; expected train, and test or validation")
    return "train", test


def _encoded(builder: Any, split: str, folder: Path) -> prepared.Records:
    """One split, its images still encoded."""
    import tensorflow_datasets as tfds

    return prepared.Records(builder, split, folder, {"image": tfds.decode.SkipDecoding()})


def _read(builder: Any, split: str, folder: Path, resize: int | None) -> Split:
    records = _encoded(builder, split, folder)
    channels = builder.info.features["image"].shape[-1] or 3
    labels = np.empty(records.examples, np.int32)
    images = np.empty(0, np.uint8)
    for start in range(0, records.examples, READ_AT_ONCE):
        positions = list(range(start, min(start + READ_AT_ONCE, records.examples)))
        for index, record in zip(positions, records.read(positions), strict=True):
            example = f"{records.where}: example {index}"
            pixels = decode(record["image"], channels, resize, example)
            if index == 0:
                images = np.empty((records.examples, *pixels.shape), np.uint8)
            if pixels.shape != images.shape[1:]:
                raise ValueError(f"{example} has shape {list(pixels.shape)}; expected {list(images.shape[1:])}")
            images[index], labels[index] = pixels, record["label"]
    check(images, labels, builder.info.features["label"].num_classes, records.where)
    return {"image": images, "label": labels}


def _class_names(names: list[str], folder: Path) -> tuple[str, ...]:
    # The names are in a text file beside the data, which may be left out when the data is copied.
    unnamed = list(names) == [str(label) for label in range(len(names))]
    if unnamed and len(names) == len(cifar.CLASSES) and "cifar10" in folder.parts:
        return cifar.CLASSES
    return tuple(names)
