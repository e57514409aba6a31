"""CIFAR-10 in its original batches, python (pickled) or binary (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import functools
import io
import pickle
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from jaxai.data.source import Decoded, Source, Split, split
from jaxai.data.validate import check

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
LAYOUTS = (("", ""), ("cifar-10-batches-py", ""), ("", ".bin"), ("cifar-10-batches-bin", ".bin"))
"""Sub-folder and file ending of each place where the batches may be."""


def source(folder: Path) -> Source:
    """The six batches in `folder`, or in the sub-folder that the archive unpacks to."""
    for sub_folder, ending in LAYOUTS:
        paths = tuple(folder / sub_folder / f"{name}{ending}" for name in BATCHES)
        missing = [path.name for path in paths if not path.is_file()]
        if not missing:
            return Source("cifar", paths, {}, functools.partial(_decode, paths))
        if len(missing) < len(paths):
            raise FileNotFoundError(f"no {', '.join(missing)} in {paths[0].parent}; {_fix(folder)}")
    raise FileNotFoundError(
        f"no CIFAR-10 batches (data_batch_1 or data_batch_1.bin) in {folder}, its cifar-10-batches-py or its "
        f"cifar-10-batches-bin; {_fix(folder)}"
    )


def read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [examples, 32, 32, 3] uint8 and labels [examples] of one pickled batch, running none of its code."""
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        data, labels = batch["data"], np.asarray(batch["labels"])
    # A damaged or foreign pickle raises nearly anything; whatever it is, this file is not a CIFAR batch.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no CIFAR-10 python batch: {type(error).__name__}: {reason}") from error
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: data is {found}; expected uint8 [examples, {PIXELS}]")
    return _channels_last(data), labels


def read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [examples, 32, 32, 3] uint8 and labels [examples] of one binary batch: label byte, then 3,072 pixels."""
    content = np.fromfile(path, np.uint8)
    if len(content) % (1 + PIXELS):
        raise ValueError(f"{path} has {len(content)} bytes; expected a multiple of {1 + PIXELS}: truncated or damaged")
    records = content.reshape(-1, 1 + PIXELS)
    return _channels_last(records[:, 1:]), records[:, 0]


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers, and refuses every other name: a pickle may run any code it names."""

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
    """How Python 3 writes bytes into an old pickle; no other codec is needed, nor looked up."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _channels_last(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _decode(paths: tuple[Path, ...]) -> Decoded:
    batches = [_read(path) for path in paths]
    images, labels = ([batch[field] for batch in batches[:-1]] for field in ("image", "label"))
    return Decoded(split(np.concatenate(images), np.concatenate(labels)), batches[-1], CLASSES)


def _read(path: Path) -> Split:
    images, labels = read_binary(path) if path.suffix == ".bin" else read_python(path)
    check(images, labels, len(CLASSES), str(path))
    return split(images, labels)


def _fix(folder: Path) -> str:
    where = shlex.quote(str(folder))
    return (
        f"download with: mkdir -p {where} && curl -f https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz | "
        f"tar xz -C {where}"
    )
