"""One npz file with all splits, with names as in Keras' mnist.npz (`x_train`) or MedMNIST (`train_images`)."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxai.data.image_checks import Named, check, check_names
from jaxai.data.image_source import ImageSource, Split, Splits, split
from jaxai.data.split_names import HOLD_OUT, NAMES, parts

KINDS = {
    "image": ("x", "image", "images", "data"),
    "label": ("y", "label", "labels", "target", "targets"),
}
"""Names of arrays of images and of labels, in upper or lower case, before or after the name of the split."""
CLASS_NAMES = ("classes", "class_names", "label_names")
"""Keys of an array with the class names, in label order."""
LAYOUT = "x_train, y_train, x_test and y_test, or train_images, train_labels, test_images and test_labels"


def source(path: Path, classes: tuple[str, ...], test_fraction: float) -> ImageSource:
    """The arrays of an npz file; see `LAYOUT` for their names. A missing channel axis is added.

    Args:
      path: the file, or a folder with one npz file.
      classes: class names, in label order; (): those in the file, or else the training labels as text.
      test_fraction: above 0: the file may have no test split.

    Raises:
      FileNotFoundError: there is no such file.
    """
    file = _file(path)
    # Not cached: reading the file itself is as fast.
    return ImageSource("npz", (), {}, lambda: _read_splits(file, classes, test_fraction))


def _file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.npz"))
        if len(found) != 1:
            names = ", ".join(each.name for each in found[:5]) or "no npz file"
            raise FileNotFoundError(f"{path} is a folder with {names}; give one file: --data.dir FILE.npz")
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; check --data.dir, which is the npz file")
    return path


def _read_splits(file: Path, classes: tuple[str, ...], test_fraction: float) -> Splits:
    with _arrays(file) as arrays:
        keys, unused = _keys(file, arrays)
        named, notes = parts(keys, test_fraction, str(file))
        if "train" not in named or ("test" not in named and not test_fraction):
            hint = f"; or {HOLD_OUT}" if "train" in named else ""
            raise ValueError(f"{file} has the arrays {_listed(arrays)}; expected {LAYOUT}{hint}")
        unused += [key for name in keys if name not in named.values() for key in keys[name].values()]
        found = {part: _split(file, arrays, keys[name]) for part, name in named.items()}
        names = (
            classes
            or _class_names(file, arrays)
            or numbered(found["train"]["label"], f"{file}: {keys[named['train']]['label']}")
        )
        check_names(names, str(file))
        for part, name in named.items():
            of = keys[name]
            where = Named(f"{file}: {of['image']}", f"{file}: {of['label']}", of["image"], of["label"])
            check(found[part]["image"], found[part]["label"], len(names), where)
    if unused:
        notes += (f"{file.name}: not used: the arrays {', '.join(sorted(unused))}",)
    splits = {part: split(each["image"], each["label"]) for part, each in found.items()}
    return Splits(splits["train"], splits.get("test"), names, splits.get("validation"), notes)


def _arrays(file: Path) -> np.lib.npyio.NpzFile:
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not an npz file, or only a part of one; expected {LAYOUT}")
    try:
        found: np.lib.npyio.NpzFile = np.load(file, allow_pickle=False)
    except Exception as error:  # a damaged archive can raise nearly any exception
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}; the file is damaged") from error
    return found


def _keys(file: Path, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Name of a split -> {"image": key, "label": key}, and the keys of other arrays."""
    words = {word: kind for kind, known in KINDS.items() for word in known}
    known_splits = {name for names in NAMES.values() for name in names}
    keys: dict[str, dict[str, str]] = {}
    unused = []
    for key in arrays:
        folded = key.casefold()
        first, _, last = re.sub("[-. ]", "_", folded).partition("_")
        kind, name = (words.get(first), last) if first in words else (words.get(last), first)
        if folded in words:
            kind, name = words[folded], "train"
        if kind is None or name not in known_splits:
            if folded not in CLASS_NAMES:
                unused.append(key)
            continue
        if kind in keys.setdefault(name, {}):
            raise ValueError(f"{file} has both {keys[name][kind]} and {key}; expected one array of {name} {kind}s")
        keys[name][kind] = key
    for name, of in keys.items():
        if missing := [kind for kind in KINDS if kind not in of]:
            there = next(iter(of.values()))
            raise ValueError(
                f"{file} has {there}, but no array of {name} {missing[0]}s; it has {_listed(arrays)}, expected {LAYOUT}"
            )
    return keys, unused


def _split(file: Path, arrays: Mapping[str, np.ndarray], keys: Mapping[str, str]) -> Split:
    images, labels = (_array(file, arrays, keys[kind]) for kind in ("image", "label"))
    # Grey images often have no channel axis, and labels of Keras and MedMNIST are [examples, 1].
    images = images[..., None] if images.ndim == 3 else images
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return {"image": images, "label": labels}


def _array(file: Path, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        return arrays[key]
    except ValueError as error:
        raise ValueError(f"{file}: {key} holds Python objects, which are not read; save it as numbers") from error
    except Exception as error:  # a damaged archive can raise nearly any exception
        raise ValueError(
            f"{file}: {key} cannot be read: {' '.join(str(error).split())}; the file is damaged"
        ) from error


def _class_names(file: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    for key in arrays:
        if key.casefold() in CLASS_NAMES:
            names = _array(file, arrays, key)
            if names.dtype.kind == "S":
                names = np.char.decode(names, "utf-8")
            return tuple(map(str, names.reshape(-1)))
    return ()


def numbered(labels: np.ndarray, where: str) -> tuple[str, ...]:
    """The class names "0", "1", ... up to the largest training label.

    Args:
      labels: [examples] integers; anything else gives ("0",), and `check` refuses it.
      where: source of the labels, for the message.

    Raises:
      ValueError: fewer than half of these classes have an example, as with the labels 0 and 255.
    """
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
        return ("0",)
    number, different = int(labels.max()) + 1, len(np.unique(labels))
    if number > 2 * different and number > 2:
        raise ValueError(
            f"{where}: the largest label is {number - 1}, but there are only {different} different labels; give labels"
            f" from 0 to {different - 1}, or the class names or their number"
        )
    return tuple(str(label) for label in range(max(1, number)))


def _listed(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(list(arrays)[:20]) or "none"
