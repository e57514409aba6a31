"""Sets that TensorFlow Datasets has prepared as array_record: found on disk and read without TensorFlow."""

import difflib
import json
import os
import shlex
from pathlib import Path
from typing import Any

from jaxai import extras
from jaxai.files.paths import given_path

LONGEST_NAME = 200
"""Maximum number of letters of a name; longer ones cannot be a folder."""


def folder(name: str, data_dir: str | None) -> Path:
    """The folder with the array_record files of a set.

    Only the disk is searched, so that missing data is reported at once; tfds would first try to download for minutes.

    Args:
      name: NAME or NAME/CONFIG, with :VERSION or else the newest version that is found, such as "cifar10:3.0.2".
      data_dir: the tfds data_dir; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      FileNotFoundError: it does not exist; the message has the command that prepares it.
      ValueError: the name is wrong, or the set is prepared in another format.
    """
    if data_dir is None:
        root = given_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR").resolve()
    else:
        root = given_path(data_dir, "--data.dir").resolve()
    found = _versioned(name, root)
    if not any(".array_record" in path.name for path in found.iterdir()):
        raise _wrong_format(found, root)
    return found


def builder(folder: Path) -> Any:
    """The tfds builder of a prepared folder.

    Raises:
      MissingExtraError: tensorflow-datasets is not installed.
      FileNotFoundError: a file that describes the set is missing.
      ValueError: a file that describes the set is damaged; the message names it.
    """
    tfds = extras.load("tensorflow_datasets", f"reading {folder}", "data")
    for name in ("dataset_info.json", "features.json"):
        _check_described(folder / name)
    try:
        builder = tfds.builder_from_directory(folder)
        for split in builder.info.splits.values():
            if not split.filenames or split.num_examples < 0:
                raise ValueError(f"split {split.name} has {split.num_examples} examples")
    # The exception for a field of the wrong type depends on the field.
    except Exception as error:
        where = f"dataset_info.json or features.json in {folder}"
        raise _damaged(where, f"{type(error).__name__}: {error}") from error
    return builder


def _check_described(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: prepare the set again")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict) or (path.name == "dataset_info.json" and not content.get("splits")):
        expected = "a JSON object with a list of splits" if path.name == "dataset_info.json" else "a JSON object"
        raise _damaged(path, f"expected {expected}")


def check_names(folder: Path, feature: str) -> None:
    """Raises ValueError where the file with a feature's class names is damaged: tfds would use numbers instead."""
    path = folder / f"{feature}.labels.txt"
    if not path.is_file():  # it may be left out when the data is copied
        return
    try:
        names = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"not UTF-8 ({error.reason}, byte 0x{error.object[error.start]:02x})") from error
    if not any(name.strip() for name in names):
        raise _damaged(path, "no class names in it")


def _damaged(where: str | Path, reason: str) -> ValueError:
    return ValueError(f"{where} is damaged: {' '.join(reason.split()):.200}; prepare the set again, or copy it again")


class Records:
    """One split, read by position.

    Attributes:
      where: its file, or the split where it has several, for messages.
      examples: number of examples, at least one.
    """

    def __init__(self, builder: Any, split: str, folder: Path, decoders: dict[str, Any] | None = None) -> None:
        files = builder.info.splits[split].filenames
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: prepare the set again")
        self.where = str(folder / (files[0] if len(files) == 1 else f"{split} split"))
        self.examples: int = builder.info.splits[split].num_examples
        if not self.examples:
            raise ValueError(f"{self.where}: no examples; expected at least one")
        self._source = builder.as_data_source(split=split, decoders=decoders)

    def read(self, positions: list[int]) -> list[dict[str, Any]]:
        """The examples at `positions`.

        Raises:
          ValueError: the file is damaged; the message names it.
        """
        try:
            return self._source.__getitems__(positions)
        # array_record raises these for a truncated file and for wrong checksums.
        except (RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.where} is damaged near example {positions[0]}: {reason}; prepare the set again"
            ) from error


def _versioned(name: str, root: Path) -> Path:
    path, _, version = name.partition(":")
    if not path or path.startswith("/") or ".." in path.split("/") or len(name) > LONGEST_NAME:
        raise ValueError(f"tfds:{name:.60} names no set; expected tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION")
    versions = _versions(root / path)
    if not versions and "/" not in path and (root / path).is_dir():
        configs = {entry.name: found for entry in (root / path).iterdir() if (found := _versions(entry))}
        if len(configs) > 1:
            raise ValueError(f"tfds:{name} has the configs {', '.join(sorted(configs))}; name one: tfds:{path}/CONFIG")
        versions = next(iter(configs.values()), {})
    if version and version in versions:
        return versions[version]
    if versions and not version:
        return versions[max(versions, key=lambda text: tuple(map(int, text.split("."))))]
    raise FileNotFoundError(_missing(name, path, root, sorted(versions)))


def _missing(name: str, path: str, root: Path, versions: list[str]) -> str:
    """The message for a set that is not prepared below `root`, with the fix."""
    where = f"tfds:{name} is not prepared in {root / path}"
    if versions:
        there = ", ".join(versions)
        return f"{where} (there is {there}); leave the version out, or prepare it with: {_prepare(name, root)}"
    for folder in _folders(root / path):
        if all(part.isdigit() for part in folder.name.split(".")):
            return f"no dataset_info.json in {folder}, which describes its files: copy it again, or prepare it again"
    # --data.dir is too deep or too high: the message must not suggest to prepare a second copy.
    for other in (*list(root.parents)[:3], *_folders(root)):
        if _is_prepared(other / path):
            return f"{where}, but in {other / path}; give the tfds data_dir with --data.dir {shlex.quote(str(other))}"
    names = [folder.name for folder in _folders(root) if _is_prepared(folder)]
    near = difflib.get_close_matches(path.partition("/")[0], names, len(names) or 1)
    listed = near + [each for each in names if each not in near]
    found = f" (there is {', '.join(listed[:10])}{' and more' if len(listed) > 10 else ''})" if listed else ""
    meant = f"; did you mean tfds:{near[0]}? Else" if near else ";"
    return f"{where}{found}{meant} give the tfds data_dir with --data.dir, or prepare it with: {_prepare(name, root)}"


def _is_prepared(folder: Path) -> bool:
    return bool(_versions(folder)) or any(_versions(below) for below in _folders(folder))


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder; none where it does not exist or cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _versions(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    # A folder that is still being prepared is called 3.0.1.incompleteABC.
    found = [path for path in folder.iterdir() if all(part.isdigit() for part in path.name.split("."))]
    return {path.name: path for path in found if (path / "dataset_info.json").is_file()}


def _prepare(name: str, root: Path) -> str:
    code = (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder({name!r}, data_dir={str(root)!r}, file_format='array_record').download_and_prepare()"
    )
    # Double quotes are most readable; shlex quotes a folder with characters that they do not protect.
    quoted = f'"{code}"' if not set('"$`\\!') & set(code) else shlex.quote(code)
    return f"pip install tensorflow tensorflow-datasets array-record && python -c {quoted}"


def _wrong_format(folder: Path, root: Path) -> Exception:
    if not any(".tfrecord" in path.name for path in folder.iterdir()):
        return FileNotFoundError(f"no array_record file in {folder}: its preparation did not end; delete and repeat it")
    other_root = root.with_name(f"{root.name}_array_record")
    from_to = (f"--dataset_version_dir={folder}", f"--out_dir={other_root / folder.relative_to(root)}")
    command = shlex.join(("tfds", "convert_format", *from_to, "--out_file_format=array_record"))
    return ValueError(
        f"{folder} is prepared as tfrecord, which only TensorFlow reads; convert it with: pip install tensorflow && "
        f"{command}, then give --data.dir {shlex.quote(str(other_root))}"
    )
