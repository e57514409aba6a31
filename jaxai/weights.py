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
KEYS = "keys"
"""In the metadata: name -> the keys that it consists of, where one of them has a separator in it."""


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
    flat, odd = {}, {}
    for place, leaf in jax.tree_util.tree_leaves_with_path(variables):
        keys = [jax.tree_util.keystr((key,), simple=True) for key in place]
        flat[name := SEPARATOR.join(keys)] = leaf
        if name.split(SEPARATOR) != keys:  # as of linen's SpectralNorm, one of whose variables is Dense_0/kernel/u
            odd[name] = keys
    metadata = {**metadata, "format": "flax"} | ({KEYS: odd} if odd else {})
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    path = Path(path).expanduser()
    write_whole(path, safetensors.save(flat, texts))
    return path


def load(path: str | os.PathLike[str]) -> dict[str, PyTree]:
    """What `save` wrote; see `jaxai.load_params`."""
    safetensors = extras.load("safetensors", "a safetensors file", "export")
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give one that save_params wrote")
    found: dict[str, PyTree] = {}
    try:
        with safetensors.safe_open(path, framework="flax") as file:
            odd = json.loads((file.metadata() or {}).get(KEYS, "{}"))
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                *outer, last = odd.get(name, name.split(SEPARATOR))
                place = found
                for key in outer:
                    place = place.setdefault(key, {})
                place[last] = file.get_tensor(name)
    except Exception as error:  # of a class of its own
        raise ValueError(f"cannot read {path}: it is no safetensors file, or damaged ({error})") from None
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
