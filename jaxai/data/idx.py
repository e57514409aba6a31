"""Raw MNIST files in the idx format, plain or gzipped (http://yann.lecun.com/exdb/mnist).

Fashion-MNIST and KMNIST have files of the same names; those of the EMNIST sets have a prefix.
"""

import gzip
import math
import re
import shlex
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxai.data import emnist
from jaxai.data.image_checks import check
from jaxai.data.image_source import ImageSource, Split, Splits, split

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FILE = re.compile(r"(?:(.+)-)?(train|t10k|test)-(images|labels)[-.]idx([13])-ubyte(?:\.gz)?")
"""Prefix, split, kind and axes in the name of a file, as emnist-letters-test-images-idx3-ubyte.gz."""
FOLDERS = ("", "raw", "gzip")
"""Sub-folders into which other programs and EMNIST's archive unpack the files."""
MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
UBYTE = 0x08
MOST_CLASSES = 256
"""A label is a byte."""


def source(folder: Path, classes: tuple[str, ...], prefix: str = "", test_fraction: float = 0.0) -> ImageSource:
    """The four files in `folder`; names as `train-images.idx3-ubyte`, and with `.gz`, are found too.

    Args:
      folder: with the files, or with a sub-folder raw or gzip that has them.
      classes: names of the classes, at most 256; not used for EMNIST, whose classes are known.
      prefix: of the file names, such as "emnist-letters"; "": none, or the only one that is found.
      test_fraction: above 0: the two test files may be missing.

    Raises:
      FileNotFoundError: files are missing; one line with the commands that download them.
      ValueError: more than 256 classes, or files with several prefixes and `prefix` is "".
    """
    if len(classes) > MOST_CLASSES:
        raise ValueError(f"num_classes is {len(classes)}; expected at most {MOST_CLASSES}: idx labels are bytes")
    sets = _sets(folder)
    if not prefix and "" not in sets and len(sets) > 1:
        names = ", ".join(f"idx:{name}" for name in sorted(sets))
        raise ValueError(f"{folder} holds several sets; name one as --data.source, of {names}")
    prefix = prefix or ("" if "" in sets else next(iter(sets), ""))
    found = sets.get(prefix, {})
    wanted = NAMES if not test_fraction or set(NAMES[2:]) & found.keys() else NAMES[:2]
    if missing := [name for name in wanted if name not in found]:
        raise _missing(folder, prefix, missing, sets)
    paths = [found[name] for name in wanted]
    variant = emnist.variant(prefix)

    def read_splits() -> Splits:
        names = emnist.CLASSES[variant] if variant else classes
        pairs = dict(zip(("train", "test"), zip(paths[::2], paths[1::2], strict=True), strict=False))
        parts = {name: _read_split(*pair) for name, pair in pairs.items()}
        notes: tuple[str, ...] = ()
        if variant:
            parts, note = emnist.upright(variant, parts)
            notes = (note,)
        elif len(parts["train"]["label"]) in emnist.TRAINING_IMAGES:
            notes = (emnist.RENAMED,)
        for name, part in parts.items():
            check(part["image"], part["label"], len(names), str(pairs[name][1]))
        return Splits(parts["train"], parts.get("test"), names, notes=notes)

    return ImageSource("idx" if not prefix else f"idx:{prefix}", tuple(paths), {"classes": list(classes)}, read_splits)


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


def _sets(folder: Path) -> dict[str, dict[str, Path]]:
    """Prefix -> name in MNIST -> file; of a file that exists twice, the uncompressed one."""
    sets: dict[str, dict[str, Path]] = {}
    for below in (folder / name for name in FOLDERS):
        for path in sorted(below.iterdir()) if below.is_dir() else ():
            if (parts := FILE.fullmatch(path.name)) and path.is_file():
                prefix, split_name, kind, axes = parts.groups(default="")
                name = f"{'train' if split_name == 'train' else 't10k'}-{kind}-idx{axes}-ubyte"
                sets.setdefault(prefix, {}).setdefault(name, path)
    return sets


def _missing(folder: Path, prefix: str, missing: list[str], sets: Mapping[str, object]) -> FileNotFoundError:
    begin = f"{prefix}-" if prefix else ""
    names = ", ".join(f"{begin}{name.replace('t10k', 'test') if prefix else name}" for name in missing)
    there = [name for name in sorted(sets) if name]
    if prefix or there:
        hint = f"; there is {', '.join(f'idx:{name}' for name in there)}" if there and prefix not in sets else ""
        return FileNotFoundError(f"no {names} (or .gz) in {folder}{hint}")
    where = shlex.quote(str(folder))
    urls = " ".join(f"-O {MIRROR}{name}.gz" for name in missing)
    return FileNotFoundError(
        f"no {names} (or .gz) in {folder}; download with: mkdir -p {where} && cd {where} && curl -f {urls}"
    )


def _read_split(image_path: Path, label_path: Path) -> Split:
    images, labels = read(image_path, axes=3)[..., None], read(label_path, axes=1)
    if len(images) != len(labels):
        raise ValueError(f"{image_path} holds {len(images)} images, but {label_path} {len(labels)} labels")
    return split(images, labels)
