"""A folder of images, one sub-folder a class: train/CLASS/*.png and test/CLASS/*.png."""

from pathlib import Path

import numpy as np

from jaxai.data.decode import decode
from jaxai.data.source import Decoded, Source, Split

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TEST_NAMES = ("test", "val", "validation")
LAYOUT = "expected train/CLASS/*.png and test/CLASS/*.png (also val or validation; jpg, jpeg, bmp, webp)"


def source(folder: Path, resize: int | None) -> Source:
    """All images below `folder`; the classes are the sub-folders of `train`, in alphabetical order.

    The first training image decides whether all are grey or RGB.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; {LAYOUT}")
    train_folder = folder / "train"
    test_folder = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if not train_folder.is_dir() or test_folder is None:
        missing = "train" if not train_folder.is_dir() else "test, val or validation"
        raise FileNotFoundError(f"no folder {missing} in {folder}; {LAYOUT}")
    classes = _sub_folders(train_folder)
    unknown = sorted(set(_sub_folders(test_folder)) - set(classes))
    if unknown:
        raise ValueError(f"{test_folder / unknown[0]} is of no class in {train_folder}, which has {len(classes)}")
    train, test = _files(train_folder, classes), _files(test_folder, classes)

    def decode_all() -> Decoded:
        first = decode(train[0][0], None, resize, str(train[0][0]))
        return Decoded(_decode(train, first, resize), _decode(test, first, resize), classes)

    paths = tuple(path for path, _ in train + test)
    return Source("folder", paths, {"folder": str(folder), "resize": resize}, decode_all)


def _sub_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            inside = [path for path in (folder / name).iterdir() if path.suffix.lower() in ENDINGS]
            found += [(path, label) for path in sorted(inside) if not path.name.startswith(".")]
    if not found:
        raise FileNotFoundError(f"no images in the sub-folders of {folder}; {LAYOUT}")
    return found


def _decode(files: list[tuple[Path, int]], first: np.ndarray, resize: int | None) -> Split:
    images = np.empty((len(files), *first.shape), np.uint8)
    for index, (path, _) in enumerate(files):
        pixels = decode(path, first.shape[-1], resize, str(path))
        if pixels.shape != first.shape:
            size, expected = (f"{array.shape[0]} x {array.shape[1]}" for array in (pixels, first))
            raise ValueError(
                f"{path} is {size} pixels; expected {expected}, as the first image: scale all with --data.resize SIZE"
            )
        images[index] = pixels
    return {"image": images, "label": np.array([label for _, label in files], np.int32)}
