"""Image classification sets of TensorFlow Datasets, prepared as array_record, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxai.data import cifar, emnist, tfds_files
from jaxai.data.image_checks import check
from jaxai.data.image_decoding import decode_image
from jaxai.data.image_source import ImageSource, Split, Splits
from jaxai.data.memory import check_images_fit, new_images
from jaxai.data.split_names import HOLD_OUT, parts

READ_AT_ONCE = 1024


def source(name: str, data_dir: str | None, resize: int | None, test_fraction: float) -> ImageSource:
    """A set that tfds has prepared: NAME or NAME/CONFIG, with :VERSION or else the newest version that is found.

    Only the disk is searched, so that missing data is reported at once; tfds would first try to download for minutes.

    Args:
      name: such as "mnist" or "cifar10:3.0.2".
      data_dir: the tfds data_dir; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      resize: height and width of the images in pixels, after scaling and cropping; None: unchanged.
      test_fraction: above 0: test images are held out from the training images, and no split replaces a test split.
    """
    folder = tfds_files.folder(name, data_dir)
    files = sorted(folder.iterdir())
    records = [path for path in files if ".array_record" in path.name]
    metadata = [path for path in files if path.suffix in (".json", ".txt")]
    paths = tuple(records + metadata)
    # `test_fraction` determines whether the validation split is used as the test split.
    options = {"resize": resize, "holds_out": test_fraction > 0}
    return ImageSource(f"tfds:{name}", paths, options, lambda: _read_splits(folder, resize, test_fraction), str(folder))


def _read_splits(folder: Path, resize: int | None, test_fraction: float) -> Splits:
    builder = tfds_files.builder(folder)
    tfds_files.check_names(folder, "label")
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
    named, notes = _split_names(builder, folder, test_fraction)
    read = {part: _read(builder, split, folder, resize) for part, split in named.items()}
    classes = _class_names(label.names, folder)
    # A version's folder is DATA_DIR/emnist/letters/3.0.0.
    if variant := emnist.variant("-".join(folder.parts[-3:-1])):
        read, note = emnist.upright(variant, read)
        classes, notes = emnist.CLASSES[variant], (*notes, note)
    return Splits(read["train"], read.get("test"), classes, read.get("validation"), notes)


def _split_names(builder: Any, folder: Path, test_fraction: float) -> tuple[dict[str, str], tuple[str, ...]]:
    splits = dict(builder.info.splits)
    notes: tuple[str, ...] = ()
    # Sets of a competition, as ImageNet, hide the labels of their test images: they are -1.
    if "test" in splits and _encoded(builder, "test", folder).read([0])[0]["label"] < 0:
        del splits["test"]
        notes = ("the test split is not used: its labels are hidden",)
    named, decided = parts(splits, test_fraction, str(folder))
    if "train" not in named or ("test" not in named and not test_fraction):
        hint = f"; or {HOLD_OUT}" if "train" in named else ""
        there = ", ".join(builder.info.splits)
        raise ValueError(f"{folder} has the splits {there}; expected train, and test or validation{hint}")
    if unused := [name for name in splits if name not in named.values()]:
        notes += (f"not used: the splits {', '.join(unused)}",)
    return named, (*notes, *decided)


def _encoded(builder: Any, split: str, folder: Path) -> tfds_files.Records:
    """One split, its images still encoded."""
    import tensorflow_datasets as tfds

    return tfds_files.Records(builder, split, folder, {"image": tfds.decode.SkipDecoding()})


def _read(builder: Any, split: str, folder: Path, resize: int | None) -> Split:
    records = _encoded(builder, split, folder)
    channels = builder.info.features["image"].shape[-1] or 3
    check_images_fit(records.examples, (resize or 1, resize or 1, channels))
    labels = np.empty(records.examples, np.int32)
    images = np.empty(0, np.uint8)
    for start in range(0, records.examples, READ_AT_ONCE):
        positions = list(range(start, min(start + READ_AT_ONCE, records.examples)))
        for index, record in zip(positions, records.read(positions), strict=True):
            example = f"{records.where}: example {index}"
            pixels = decode_image(record["image"], channels, resize, example)
            if index == 0:
                images = new_images(records.examples, pixels.shape)
            if pixels.shape != images.shape[1:]:
                raise ValueError(f"{example} has shape {list(pixels.shape)}; expected {list(images.shape[1:])}")
            images[index], labels[index] = pixels, record["label"]
    check(images, labels, builder.info.features["label"].num_classes, records.where)
    return {"image": images, "label": labels}


def _class_names(names: list[str], folder: Path) -> tuple[str, ...]:
    # The names are in a separate text file, which may be missing in a copy of the data.
    if list(names) == [str(label) for label in range(len(names))]:
        for name, known in cifar.SETS.items():
            if len(names) == len(known.classes) and name in folder.parts:
                return known.classes
    return tuple(names)
