"""Decoded arrays kept on disk: one uncompressed .npz a set, that is complete and sound or not there at all."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

from jaxai.data.source import Decoded, Source

FORMAT = 1
"""Raised whenever the same files would decode to other arrays, so that no older copy is used."""
STALE_SECONDS = 24 * 3600
FIELDS = ("train_image", "train_label", "test_image", "test_label", "classes")


def folder(setting: str) -> Path | None:
    """Where `setting` keeps decoded arrays; None for nowhere.

    Args:
      setting: a folder, "off", or "auto": $JAXAI_CACHE/data, or the platform's own place for caches.
    """
    if setting == "off":
        return None
    if setting != "auto":
        return Path(setting).expanduser()
    if chosen := os.environ.get("JAXAI_CACHE"):
        return Path(chosen).expanduser() / "data"
    if sys.platform == "darwin":
        caches = Path.home() / "Library/Caches"
    elif os.name == "nt":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "jaxai/data"


def decoded(source: Source, setting: str) -> Decoded:
    """The arrays of `source`: read from the cache if it has them, else decoded and kept there.

    A copy whose checksums do not hold is decoded anew. A cache that cannot be written costs a warning, not the run.
    """
    place = folder(setting)
    if place is None or not source.files:
        return source.decode()
    path = place / f"{_file_stem(source)}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = source.decode()
        try:
            _write(path, arrays)
        except OSError as error:
            warnings.warn(f"decoded images are not kept: {error}; choose a folder with --data.cache", stacklevel=2)
    return arrays


def _file_stem(source: Source) -> str:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    content = json.dumps([FORMAT, source.name, files, dict(source.options)], sort_keys=True)
    readable = "".join(letter if letter.isalnum() else "-" for letter in source.name)
    return f"{readable}-{hashlib.sha256(content.encode()).hexdigest()[:20]}"


def _read(path: Path) -> Decoded | None:
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {field: _read_array(archive, field) for field in FIELDS}
    # A damaged file raises nearly anything, from BadZipFile to MemoryError; the cure is always to decode again.
    except Exception:
        return None
    train, test = ({key: arrays[f"{split}_{key}"] for key in ("image", "label")} for split in ("train", "test"))
    return Decoded(train, test, tuple(map(str, arrays["classes"])))


def _read_array(archive: zipfile.ZipFile, field: str) -> np.ndarray:
    with archive.open(f"{field}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        # zipfile compares the checksum only once it has read to the end, which a damaged shape may not reach.
        if file.read(1):
            raise ValueError(f"{field} goes on after its last element")
    return array


def _write(path: Path, arrays: Decoded) -> None:
    """Write beside `path`, then rename: a reader, or a process that does the same, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            content = {
                f"{split}_{key}": array for split in ("train", "test") for key, array in getattr(arrays, split).items()
            }
            np.savez(file, allow_pickle=False, **content, classes=np.array(arrays.classes, np.str_))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise


def _remove_stale(place: Path) -> None:
    """Remove what processes that were killed while they wrote have left, once it is a day old."""
    for path in place.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
