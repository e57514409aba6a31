"""Raw MNIST files in the idx format, plain or gzipped (http://yann.lecun.com/exdb/mnist).

The same four files hold Fashion-MNIST, KMNIST and the EMNIST sets.
"""

import gzip
import math
import shlex
import zlib
from pathlib import Path

import numpy as np

from jaxai.data.source import Decoded, Source, Split, split
from jaxai.data.validate import check

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
UBYTE = 0x08


def source(folder: Path, num_classes: int) -> Source:
    """The four files in `folder`, each also as `train-images.idx3-ubyte` and with `.gz`."""
    found = {name: _find(folder, name) for name in NAMES}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        where = shlex.quote(str(folder))
        urls = " ".join(f"-O {MIRROR}{name}.gz" for name in missing)
        raise FileNotFoundError(
            f"no {', '.join(missing)} (or .gz) in {folder}; download with: mkdir -p {where} && cd {where} && "
            f"curl -f {urls}"
        )
    paths = tuple(path for path in found.values() if path is not None)

    def decode() -> Decoded:
        train, test = (_read_split(paths[at], paths[at + 1], num_classes) for at in (0, 2))
        return Decoded(train, test, tuple(str(label) for label in range(num_classes)))

    return Source("idx", paths, {"num_classes": num_classes}, decode)


def read(path: Path, axes: int) -> np.ndarray:
    """The uint8 array of one idx file.

    Raises:
      ValueError: a wrong magic number, another number of axes than `axes`, or too few or too many bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    expected, header = bytes([0, 0, UBYTE, axes]), 4 + 4 * axes
    if content[:4] != expected or len(content) < header:
        raise ValueError(
            f"{path} begins with {content[:4].hex() or 'nothing'}; expected the idx magic {expected.hex()}"
        )
    shape = [int(size) for size in np.frombuffer(content, ">u4", count=axes, offset=4)]
    if len(content) != header + math.prod(shape):
        raise ValueError(
            f"{path} has {len(content) - header} bytes of data; its header promises {math.prod(shape)} for shape "
            f"{shape}: truncated or damaged, download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    stem, _, kind = name.rpartition("-idx")
    for candidate in (name, f"{name}.gz", f"{stem}.idx{kind}", f"{stem}.idx{kind}.gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    return None


def _read_split(image_path: Path, label_path: Path, num_classes: int) -> Split:
    images, labels = read(image_path, axes=3)[..., None], read(label_path, axes=1)
    if len(images) != len(labels):
        raise ValueError(f"{image_path} holds {len(images)} images, but {label_path} {len(labels)} labels")
    check(images, labels, num_classes, str(label_path))
    return split(images, labels)
