"""Variables of a network as a safetensors file, which other frameworks can read."""

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
"""In the metadata: name -> its keys, where one of them contains a separator."""


def save(path: str | os.PathLike[str], variables: PyTree, metadata: Mapping[str, Any]) -> Path:
    """Writes arrays in their dtypes, each under its path, as `params/Dense_0/kernel`.

    Args:
      path: of the file; written completely or not at all.
      variables: nested dicts of arrays.
      metadata: text is stored unchanged, everything else as JSON.

    Returns:
      The path of the file.

    Raises:
      MissingExtraError: safetensors is not installed.
      UnwrittenError: it cannot be written.
    """
    safetensors = extras.load("safetensors.flax", "a safetensors file", "export")
    flat, odd = {}, {}
    for place, leaf in jax.tree_util.tree_leaves_with_path(variables):
        keys = [jax.tree_util.keystr((key,), simple=True) for key in place]
        flat[name := SEPARATOR.join(keys)] = leaf
        if name.split(SEPARATOR) != keys:  # as for linen's SpectralNorm, which has a variable Dense_0/kernel/u
            odd[name] = keys
    metadata = {**metadata, "format": "flax"} | ({KEYS: odd} if odd else {})
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    path = Path(path).expanduser()
    write_whole(path, safetensors.save(flat, texts))
    return path


def load(path: str | os.PathLike[str]) -> dict[str, PyTree]:
    """The variables in a file of `save`; see `jaxai.load_params`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a safetensors file, or is damaged.
      MissingExtraError: safetensors is not installed.
    """
    safetensors = extras.load("safetensors", "a safetensors file", "export")
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give one that save_params wrote")
    found: dict[str, PyTree] = {}
    try:
        with safetensors.safe_open(path, framework="flax") as file:
            odd = json.loads((file.metadata() or {}).get(KEYS, "{}"))
            for name in file.keys():  # noqa: SIM118  # not a mapping
                *outer, last = odd.get(name, name.split(SEPARATOR))
                place = found
                for key in outer:
                    place = place.setdefault(key, {})
                place[last] = file.get_tensor(name)
    except Exception as error:  # safetensors has its own exception class
        raise ValueError(f"cannot read {path}: it is not a safetensors file, or is damaged ({error})") from None
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all.

    Raises:
      ValueError: the path is a folder, or its folder does not exist.
      UnwrittenError: it cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} for {path.name}; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
