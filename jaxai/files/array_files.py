"""The arrays of an npz file; damage is reported in one line."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

__all__ = ["read_arrays"]


def read_arrays(path: Path, remedy: str, *names: str) -> dict[str, np.ndarray]:
    """All arrays of an npz file.

    Args:
      path: of the file.
      remedy: for a damaged file, for the message.
      names: of arrays that it must have.

    Raises:
      ValueError: the file cannot be read, is damaged or lacks an array; one line.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            found = dict(arrays)
    # Errors of NumPy and zipfile for files that are empty, truncated, changed or not npz.
    except (OSError, ValueError, EOFError, AttributeError, TypeError, KeyError, NotImplementedError) as error:
        damage = error.strerror if isinstance(error, OSError) and error.strerror else "it is no whole npz file"
        raise ValueError(f"cannot read {path}: {damage}; {remedy}") from None
    except (zipfile.BadZipFile, zlib.error):
        raise ValueError(f"cannot read {path}: it is no whole npz file; {remedy}") from None
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"cannot read {path}: it has no array {missing[0]}; {remedy}")
    return found
