"""Image classification sets of TensorFlow Datasets, prepared as array_record, read without TensorFlow."""

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from jaxai.data import cifar
from jaxai.data.decode import decode
from jaxai.data.source import Decoded, Source, Split, extra_missing
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
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser().resolve()
    folder = _prepared_folder(name, root)
    files = sorted(folder.iterdir())
    records = [path for path in files if ".array_record" in path.name]
    if not records:
        raise _wrong_format(folder, root)
    metadata = [path for path in files if path.suffix in (".json", ".txt")]
    paths = tuple(records + metadata)
    return Source(f"tfds:{name}", paths, {"resize": resize}, lambda: _decode(folder, resize))


def _prepared_folder(name: str, root: Path) -> Path:
    path, _, version = name.partition(":")
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"tfds:{name} names no set; expected tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION")
    versions = _versions(root / path)
    if not versions and "/" not in path and (root / path).is_dir():
        configs = {entry.name: found for entry in (root / path).iterdir() if (found := _versions(entry))}
        if len(configs) > 1:
            raise ValueError(f"tfds:{name} has the configs {', '.join(sorted(configs))}; name one: tfds:{path}/CONFIG")
        versions = next(iter(configs.values()), {})
    if version and version in versions:
        return versions[version]
    if versions and not version:
        return versions[max(versions, key=lambda text: tuple(map(int, text.split("."))))]
    there = f" (there is {', '.join(versions)})" if versions else ""
    raise FileNotFoundError(
        f"tfds:{name} is not prepared in {root / path}{there}; give the tfds data_dir with --data.dir, or prepare it "
        f"with: {_prepare(name, root)}"
    )


def _versions(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    # A folder that is still being prepared is called 3.0.1.incompleteABC.
    found = [path for path in folder.iterdir() if all(part.isdigit() for part in path.name.split("."))]
    return {path.name: path for path in found if (path / "dataset_info.json").is_file()}


def _prepare(name: str, root: Path) -> str:
    code = (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder({name!r}, data_dir={str(root)!r}, file_format='array_record').download_and_prepare()"
    )
    # Double quotes read best; a folder with a character that they do not protect gets what shlex makes of it.
    quoted = f'"{code}"' if not set('"$`\\!') & set(code) else shlex.quote(code)
    return f"pip install tensorflow tensorflow-datasets array-record && python -c {quoted}"


def _wrong_format(folder: Path, root: Path) -> Exception:
    if not any(".tfrecord" in path.name for path in folder.iterdir()):
        return FileNotFoundError(f"no array_record file in {folder}: its preparation did not end; delete and repeat it")
    other_root = root.with_name(f"{root.name}_array_record")
    from_to = (f"--dataset_version_dir={folder}", f"--out_dir={other_root / folder.relative_to(root)}")
    command = shlex.join(("tfds", "convert_format", *from_to, "--out_file_format=array_record"))
    return ValueError(
        f"{folder} is prepared as tfrecord, which only TensorFlow reads; convert it with: pip install tensorflow && "
        f"{command}, then give --data.dir {shlex.quote(str(other_root))}"
    )


def _decode(folder: Path, resize: int | None) -> Decoded:
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise extra_missing(f"reading {folder} (tensorflow-datasets)", "data") from error
    builder = tfds.builder_from_directory(folder)
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
    hidden = "test" in splits and _Records(builder, "test", folder).read([0])[0]["label"] < 0
    test = "validation" if "test" not in splits or hidden else "test"
    if "train" not in splits or test not in splits:
        raise ValueError(f"{folder} has the splits {', '.join(splits)}; expected train, and test or validation")
    return "train", test


class _Records:
    """One split, its images still encoded."""

    def __init__(self, builder: Any, split: str, folder: Path) -> None:
        import tensorflow_datasets as tfds

        files = builder.info.splits[split].filenames
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: prepare the set again")
        self.where = str(folder / (files[0] if len(files) == 1 else f"{split} split"))
        self.examples: int = builder.info.splits[split].num_examples
        if not self.examples:
            raise ValueError(f"{self.where}: no examples; expected at least one")
        self._source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})

    def read(self, positions: list[int]) -> list[dict[str, Any]]:
        try:
            return self._source.__getitems__(positions)
        # What array_record raises for a file that is truncated or whose checksums do not hold.
        except (RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.where} is damaged near example {positions[0]}: {reason}; prepare the set again"
            ) from error


def _read(builder: Any, split: str, folder: Path, resize: int | None) -> Split:
    records = _Records(builder, split, folder)
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
