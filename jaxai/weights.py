"""Variables of a network as a safetensors file, which every framework reads."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxai import extras
from jaxai.core import PyTree
from jaxai.files.unwritten import writing

__all__ = ["load", "save"]

SEPARATOR = "/"
"""Between the names of collections, modules and arrays."""


def save(path: str | os.PathLike[str], variables: PyTree, metadata: Mapping[str, Any]) -> Path:
    """Writes arrays, each under its path as `params/Dense_0/kernel`, in their dtypes.

    Args:
      path: of the file; written whole or not at all.
      variables: nested dicts of arrays.
      metadata: text as it is, everything else as JSON.

    Raises:
      MissingExtraError: safetensors is not installed.
      UnwrittenError: it cannot be written.
    """
    safetensors = extras.load("safetensors.flax", "a safetensors file", "export")
    flat = {
        jax.tree_util.keystr(place, simple=True, separator=SEPARATOR): leaf
        for place, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    path = Path(path).expanduser()
    write_whole(path, safetensors.save(flat, texts | {"format": "flax"}))
    return path


def load(path: str | os.PathLike[str]) -> dict[str, PyTree]:
    """What `save` wrote; see `jaxai.load_params`."""
    safetensors = extras.load("safetensors.flax", "a safetensors file", "export")
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give one that save_params wrote")
    try:
        flat = safetensors.load_file(path)
    except Exception as error:  # of a class of its own
        raise ValueError(f"cannot read {path}: it is no safetensors file, or damaged ({error})") from None
    found: dict[str, PyTree] = {}
    for name, array in flat.items():
        *modules, last = name.split(SEPARATOR)
        place = found
        for module in modules:
            place = place.setdefault(module, {})
        place[last] = array
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
      ValueError: the path is a folder, or its folder does not exist.
      UnwrittenError: it cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} for {path.name}; make it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
