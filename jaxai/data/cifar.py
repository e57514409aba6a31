"""CIFAR-10 and CIFAR-100 as published, python (pickled) or binary (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import io
import pickle
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxai.data.image_checks import check
from jaxai.data.image_source import ImageSource, Split, Splits, split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
FINE_CLASSES = tuple(_FINE.split())
"""The fine labels of CIFAR-100, in order."""
PIXELS = 3 * 32 * 32


class _Set(NamedTuple):
    """One of the two sets.

    Attributes:
      title: its name.
      classes: in label order.
      files: the training batches, then the test batch.
      layouts: sub-folder and file ending of each possible location.
      key: of the labels in a python batch.
      label_bytes: bytes before the pixels of a binary record; the last of them is the label.
      archive: name of the file to download.
    """

    title: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    layouts: tuple[tuple[str, str], ...]
    key: str
    label_bytes: int
    archive: str

    def found(self, folder: Path) -> tuple[Path, ...] | None:
        """Its files, in the first location that has any of them; None where there is none."""
        for sub_folder, ending in self.layouts:
            paths = tuple(folder / sub_folder / f"{name}{ending}" for name in self.files)
            if any(path.is_file() for path in paths):
                return paths
        return None

    def fix(self, folder: Path) -> str:
        """The commands that download it."""
        where = shlex.quote(str(folder))
        url = f"https://www.cs.toronto.edu/~kriz/{self.archive}"
        return f"download with: mkdir -p {where} && curl -f {url} | tar xz -C {where}"


SETS = {
    "cifar10": _Set(
        "CIFAR-10",
        CLASSES,
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
        (("", ""), ("cifar-10-batches-py", ""), ("", ".bin"), ("cifar-10-batches-bin", ".bin")),
        "labels",
        1,
        "cifar-10-python.tar.gz",
    ),
    "cifar100": _Set(
        "CIFAR-100",
        FINE_CLASSES,
        ("train", "test"),
        (("", ""), ("cifar-100-python", ""), ("", ".bin"), ("cifar-100-binary", ".bin")),
        "fine_labels",
        2,
        "cifar-100-python.tar.gz",
    ),
}


def has(folder: Path, name: str) -> bool:
    """Whether `folder` has any file of the set "cifar10" or "cifar100" as published."""
    return SETS[name].found(folder) is not None


def source(folder: Path, name: str = "", test_fraction: float = 0.0) -> ImageSource:
    """The batches in `folder`, or in the sub-folder that the archive unpacks to.

    Args:
      folder: with the batches.
      name: "cifar10" or "cifar100"; "": the one that is found.
      test_fraction: above 0: the test batch may be missing.

    Raises:
      FileNotFoundError: batches are missing; one line with the commands that download them.
      ValueError: the folder has both sets, and `name` is "".
    """
    there = [each for each in SETS if has(folder, each)] if not name else [name]
    if len(there) > 1:
        raise ValueError(f"{folder} holds {' and '.join(there)}; name one as --data.source")
    name = there[0] if there else "cifar10"
    chosen = SETS[name]
    paths = chosen.found(folder)
    if paths is None:
        places = ", ".join(f"{place or '.'}/{chosen.files[0]}{ending}" for place, ending in chosen.layouts)
        raise FileNotFoundError(f"no {chosen.title} batches ({places}) in {folder}; {chosen.fix(folder)}")
    if test_fraction and not paths[-1].is_file():
        paths = paths[:-1]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"no {', '.join(missing)} in {paths[0].parent}; {chosen.fix(folder)}")
    return ImageSource("cifar" if name == "cifar10" else name, paths, {}, lambda: _read_splits(name, paths))


def read_python(path: Path, name: str = "cifar10") -> tuple[np.ndarray, np.ndarray]:
    """One pickled batch, read without executing code in it.

    Returns:
      Images [examples, 32, 32, 3] uint8, and labels [examples].

    Raises:
      ValueError: the file is damaged, or is no such batch.
    """
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        data, labels = batch["data"], np.asarray(batch[SETS[name].key])
    # A damaged or foreign pickle can raise nearly any exception; in each case the file is not a CIFAR batch.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no {SETS[name].title} python batch: {type(error).__name__}: {reason}") from error
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: data is {found}; expected uint8 [examples, {PIXELS}]")
    return _channels_last(data), labels


def read_binary(path: Path, name: str = "cifar10") -> tuple[np.ndarray, np.ndarray]:
    """One binary batch: for each example its label bytes, then 3,072 pixels.

    Returns:
      Images [examples, 32, 32, 3] uint8, and labels [examples].

    Raises:
      ValueError: the size of the file is not a multiple of that of an example.
    """
    before = SETS[name].label_bytes
    content, size = np.fromfile(path, np.uint8), before + PIXELS
    if len(content) % size:
        raise ValueError(f"{path} has {len(content)} bytes; expected a multiple of {size}: truncated or damaged")
    records = content.reshape(-1, size)
    return _channels_last(records[:, before:]), records[:, before - 1]


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers, and refuses every other name: a pickle can run any code it names."""

    def find_class(self, module: str, name: str) -> Any:
        """The function behind a name that array pickles use, under the module names of NumPy 1 and 2."""
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy.core.multiarray", "_reconstruct":
                return np.empty(0).__reduce__()[0]
            case "numpy.core.numeric", "_frombuffer":
                return np.empty(0).__reduce_ex__(5)[0]
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return np.dtype
            case "_codecs", "encode":
                return _encode_latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which an array does not need")


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Decodes bytes in an old pickle that Python 3 has written; no other codec is needed or looked up."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _channels_last(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _read_splits(name: str, paths: tuple[Path, ...]) -> Splits:
    batches = [_read(name, path) for path in paths]
    test = batches.pop() if len(paths) == len(SETS[name].files) else None
    images, labels = ([batch[field] for batch in batches] for field in ("image", "label"))
    return Splits(split(np.concatenate(images), np.concatenate(labels)), test, SETS[name].classes)


def _read(name: str, path: Path) -> Split:
    images, labels = (read_binary if path.suffix == ".bin" else read_python)(path, name)
    check(images, labels, len(SETS[name].classes), str(path))
    return split(images, labels)
