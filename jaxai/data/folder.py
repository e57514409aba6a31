"""A folder of images, with one sub-folder per class: train/CLASS/*.png and test/CLASS/*.png."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxai.data.image_checks import check_names
from jaxai.data.image_decoding import decode_image, is_grey
from jaxai.data.image_files import Found, find, summary, visible_folders
from jaxai.data.image_source import ImageSource, Split, Splits
from jaxai.data.memory import check_images_fit, new_images
from jaxai.data.split_names import HOLD_OUT, NAMES, parts

LAYOUT = "expected train/CLASS/*.png and test/CLASS/*.png (also val or validation; jpg, gif, tif, bmp, webp and others)"
SEEN = {
    "turned": "images rotated upright by their EXIF orientation: {}",
    "transparent": "images with transparent parts, which become white: {}",
    "frames": "images with several frames, only the first is read: {}",
}
"""Notes on the counts of `decode_image`."""


class _Files(NamedTuple):
    """The images of a split, their labels, and notes on other files."""

    images: list[Path]
    labels: list[int]
    notes: list[str]


def source(folder: Path, resize: int | None, test_fraction: float) -> ImageSource:
    """All images below `folder`; the classes are the sub-folders of `train`, in alphabetical order.

    They are read as grey images only if all of them are grey.

    Args:
      folder: with the folders train, and test or validation.
      resize: height and width of the images in pixels, after scaling the shorter side and cropping; None: unchanged.
      test_fraction: share of the training images of each class to test on, where there is no test folder; 0: none.

    Raises:
      FileNotFoundError: a folder, or every image, is missing.
      ValueError: a class without images, a class that is not in `train`, or a name that is not printable text.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; {LAYOUT}")
    there = {path.name: path for path in visible_folders(folder)}
    named, decided = parts(there, test_fraction, str(folder))
    if "train" not in named or ("test" not in named and not test_fraction):
        raise _missing(folder, there, named)
    split_folders = {part: there[name] for part, name in named.items()}
    classes = _classes(split_folders["train"])
    _check_level(split_folders["train"])
    for path in split_folders.values():
        _check_known(path, split_folders["train"], classes)
    files = {part: _files(path, classes) for part, path in split_folders.items()}
    notes = [*decided, *(note for split in files.values() for note in split.notes)]
    if unused := [name for name in there if name not in named.values()]:
        notes.append(f"not used: {', '.join(f'{name!a}'[1:-1] for name in unused)} in {folder}")

    def read_splits() -> Splits:
        every = [path for split in files.values() for path in split.images]
        check_images_fit(len(every), (resize or 1, resize or 1, 1))
        channels = 1 if all(is_grey(path, str(path)) for path in every) else 3
        seen: Counter[str] = Counter()
        read: dict[str, Split] = {}
        for part, split in files.items():
            first = next(iter(read.values()))["image"].shape[1:] if read else None
            read[part] = _decode(split, channels, resize, first, seen)
        return Splits(
            read["train"], read.get("test"), classes, read.get("validation"), _read_notes(seen, channels, len(every))
        )

    paths = tuple(path for split in files.values() for path in split.images)
    # The list of classes, and the folder of each split, cannot be derived from the files alone.
    options = {"resize": resize, "classes": classes, "splits": named}
    return ImageSource("folder", paths, options, read_splits, str(folder), tuple(notes))


def _missing(folder: Path, there: Mapping[str, Path], named: Mapping[str, str]) -> Exception:
    if "train" in named:
        return FileNotFoundError(f"no folder test, val or validation in {folder}; {LAYOUT}; or {HOLD_OUT}")
    if folder.name.casefold() in NAMES["train"]:
        return FileNotFoundError(f"no folder train in {folder}, which is one itself; give --data.dir {folder.parent}")
    for path in there.values():
        if any(below.name.casefold() in NAMES["train"] for below in visible_folders(path)):
            return FileNotFoundError(f"no folder train in {folder}, but in {path}; give --data.dir {path}")
    hint = ""
    if there and not named:
        hint = f"; if {next(iter(there))!a} is a class, move the classes to train and add --data.test-fraction 0.2"
    return FileNotFoundError(f"no folder train in {folder}; {LAYOUT}{hint}")


def _class_folders(folder: Path) -> list[tuple[str, Path]]:
    # The same letters have other code points on other systems: macOS decomposes accents.
    return sorted((unicodedata.normalize("NFC", path.name), path) for path in visible_folders(folder))


def _classes(train_folder: Path) -> tuple[str, ...]:
    names = tuple(name for name, _ in _class_folders(train_folder))
    if names:
        check_names(names, str(train_folder))
    return names


def _check_level(train_folder: Path) -> None:
    """Raises ValueError where the classes are one folder deeper, which would merge them into one class."""
    if len(only := visible_folders(train_folder)) == 1:
        below = [path.name for path in visible_folders(only[0])]
        if len(below) > 1 and not find(only[0], recursive=False).images:
            names = ", ".join(f"{name!a}"[1:-1] for name in below[:5])
            raise ValueError(
                f"{only[0]} would be the only class, and holds the folders {names}; move these to {train_folder} if "
                "they are the classes, else their images to one folder"
            )


def _check_known(folder: Path, train_folder: Path, classes: tuple[str, ...]) -> None:
    for name, path in _class_folders(folder):
        if name not in classes:
            folded = {known.casefold(): known for known in classes}
            near = difflib.get_close_matches(name.casefold(), folded, 1)
            hint = f"; did you mean {folded[near[0]]}?" if near else ""
            raise ValueError(f"{path} is of no class in {train_folder}, which has {len(classes)}{hint}")


def _files(folder: Path, classes: tuple[str, ...]) -> _Files:
    own = find(folder, recursive=False)
    found = {name: find(path) for name, path in _class_folders(folder)}
    images = [path for name in classes if name in found for path in found[name].images]
    labels = [label for label, name in enumerate(classes) if name in found for _ in found[name].images]
    skipped = sum((each.skipped for each in found.values()), own.skipped)
    if not images:
        hint = f"; {folder} itself has images, which are in no class: {len(own.images)}" if own.images else ""
        hint += f"; there are other files: {summary(skipped)}" if skipped else ""
        raise FileNotFoundError(f"no images in the sub-folders of {folder}; {LAYOUT}{hint}")
    for name, each in found.items():
        if not each.images:
            there = f" (there are other files: {summary(each.skipped)})" if each.skipped else ""
            raise ValueError(f"{folder / name} has no images{there}; give class {name} some, or remove its folder")
    return _Files(images, labels, _notes(folder, own, found, skipped))


def _notes(folder: Path, own: Found, found: Mapping[str, Found], skipped: Counter[str]) -> list[str]:
    notes = []
    if skipped:
        notes.append(f"{folder}: skipped other files: {summary(skipped)}")
    if own.images:
        notes.append(f"{folder}: skipped images that are in no class's folder: {len(own.images)}")
    if deeper := sum(each.deeper for each in found.values()):
        notes.append(f"{folder}: images from folders below a class's folder: {deeper}")
    return notes


def _read_notes(seen: Counter[str], channels: int, examples: int) -> tuple[str, ...]:
    notes = [sentence.format(seen[what]) for what, sentence in SEEN.items() if seen[what]]
    if channels == 3 and seen["grey"]:
        notes.append(f"grey images, read in colour as the others: {seen['grey']} of {examples}")
    return tuple(notes)


def _decode(
    files: _Files, channels: int, resize: int | None, shape: tuple[int, ...] | None, seen: Counter[str]
) -> Split:
    images = np.empty(0, np.uint8)
    for index, path in enumerate(files.images):
        pixels = decode_image(path, channels, resize, str(path), seen, upright=True)
        shape = shape or pixels.shape
        if pixels.shape != shape:
            size, expected = (f"{height} x {width}" for height, width, _ in (pixels.shape, shape))
            raise ValueError(
                f"{path} is {size} pixels; expected {expected}, as the first image: scale all with --data.resize SIZE"
            )
        if index == 0:
            images = new_images(len(files.images), shape)
        images[index] = pixels
    return {"image": images, "label": np.array(files.labels, np.int32)}
