"""A cache of decoded arrays on disk: one uncompressed .npz for each set, written completely or not at all."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from jaxai.data.image_source import ImageSource, Split, Splits
from jaxai.files.paths import given_path

FORMAT = 2
"""Version of the decoding: increased whenever the same files give other arrays, so that older copies are not used."""
STALE_SECONDS = 24 * 3600
FIELDS = ("image", "label")


def folder(setting: str) -> Path | None:
    """The folder for decoded arrays; None: no cache.

    Args:
      setting: a folder, "off", or "auto": $JAXAI_CACHE/data, or the cache folder of the platform.

    Raises:
      ValueError: "auto", and the user has no home folder.
    """
    if setting == "off":
        return None
    if setting != "auto":
        return given_path(setting, "--data.cache").resolve()
    if chosen := os.environ.get("JAXAI_CACHE"):
        return given_path(chosen, "JAXAI_CACHE").resolve() / "data"
    try:
        return _caches_of_user() / "jaxai/data"
    except RuntimeError as error:
        raise ValueError(f"no place for decoded images: {error}; give --data.cache a folder, or off") from error


def _caches_of_user() -> Path:
    """The cache folder of the platform; RuntimeError where the user has no home folder."""
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def read(source: ImageSource, setting: str) -> Splits:
    """The arrays of `source`: read from the cache if it has them, else decoded and stored there.

    A damaged copy is decoded again. If the cache cannot be written, there is a note and no error.

    Args:
      source: the images.
      setting: as in `folder`.
    """
    place = folder(setting)
    if place is None or not source.files:
        return source.read()
    path = place / f"{_file_stem(source)}.npz"
    arrays = _read_copy(path)
    if arrays is None:
        arrays = source.read()
        try:
            _write(path, arrays)
            _remove_outdated(path)
        except OSError as error:
            note = f"decoded images are not kept: {error}; choose a folder with --data.cache"
            return arrays._replace(notes=(*arrays.notes, note))
    return arrays


def _file_stem(source: ImageSource) -> str:
    """NAME-WHERE-STATE-OPTIONS: copies that differ only in STATE are from earlier versions of the same files.

    The inode and the time of change are part of the state, because `mv`, `cp -p` and `rsync -a` keep size and
    modification time.
    """
    state = []
    for path in source.files:
        stat = path.stat()
        state.append((str(path), stat.st_ino, stat.st_ctime_ns, stat.st_size, stat.st_mtime_ns))
    readable = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in source.name[:40])
    where = source.where or [str(path) for path in source.files]
    digests = map(_digest, ([source.name, where], [FORMAT, state], dict(source.options)))
    return "-".join([readable, *digests])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _read_copy(path: Path) -> Splits | None:
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            # The array with the names of splits has a checksum; the names in the archive have none.
            names, classes, notes = (
                tuple(map(str, _read_array(archive, field))) for field in ("splits", "classes", "notes")
            )
            splits: dict[str, Split] = {
                name: {field: _read_array(archive, f"{name}_{field}") for field in FIELDS} for name in names
            }
            return Splits(splits["train"], splits.get("test"), classes, splits.get("validation"), notes)
    # A damaged file raises nearly anything, from BadZipFile to MemoryError; decoding again always helps.
    except Exception:
        return None


def _read_array(archive: zipfile.ZipFile, field: str) -> np.ndarray:
    with archive.open(f"{field}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        # zipfile compares the checksum only at the end of the file, which a damaged shape may not reach.
        if file.read(1):
            raise ValueError(f"{field} has bytes after its last element")
    return array


def _write(path: Path, arrays: Splits) -> None:
    """Writes a temporary file and renames it, so that no process reads an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            splits = arrays.named()
            content = {f"{name}_{field}": split[field] for name, split in splits.items() for field in FIELDS}
            texts = {"splits": list(splits), "classes": arrays.classes, "notes": arrays.notes}
            content |= {field: np.array(values, np.str_) for field, values in texts.items()}
            np.savez(file, allow_pickle=False, **content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise


def _remove_outdated(path: Path) -> None:
    """Removes copies from earlier versions of the same files; a process that is reading one is not affected."""
    of_source, state, _ = path.stem.rsplit("-", 2)
    for other in path.parent.glob(f"{of_source}-*.npz"):
        if other.stem.rsplit("-", 2)[:-1] != [of_source, state]:
            with contextlib.suppress(OSError):
                other.unlink()


def _remove_stale(place: Path) -> None:
    """Removes unfinished files of killed processes, once they are a day old."""
    for path in place.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
