"""Sets that TensorFlow Datasets has prepared as array_record: found on the disk, and read without TensorFlow."""

import os
import shlex
from pathlib import Path
from typing import Any

from jaxai import extras


def folder(name: str, data_dir: str | None) -> Path:
    """The folder of the set `name`, which holds array_record files.

    Looks at the disk alone, so that missing data is told at once: tfds would first try to download for minutes.

    Args:
      name: NAME, NAME/CONFIG, either with :VERSION (else the newest that is there), such as "cifar10:3.0.2".
      data_dir: the tfds data_dir; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      FileNotFoundError: it is not there; the message holds the command that prepares it.
      ValueError: the name is wrong, or the set is prepared in another format.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser().resolve()
    found = _versioned(name, root)
    if not any(".array_record" in path.name for path in found.iterdir()):
        raise _wrong_format(found, root)
    return found


def builder(folder: Path) -> Any:
    """The tfds builder of a prepared folder.

    Raises:
      MissingExtraError: tensorflow-datasets is not installed.
    """
    return extras.load("tensorflow_datasets", f"reading {folder}", "data").builder_from_directory(folder)


class Records:
    """One split, read by position.

    Attributes:
      where: its file, or the split where it has several, for messages.
      examples: how many there are, at least one.
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
        """The examples at `positions`; raises ValueError, naming the file, where it is damaged."""
        try:
            return self._source.__getitems__(positions)
        # What array_record raises for a file that is truncated or whose checksums do not hold.
        except (RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.where} is damaged near example {positions[0]}: {reason}; prepare the set again"
            ) from error


def _versioned(name: str, root: Path) -> Path:
    path, _, version = name.partition(":")
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"tfds:{name} names no set; expected tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION")
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
    there = f" (there is {', '.join(versions)})" if versions else ""
    raise FileNotFoundError(
        f"tfds:{name} is not prepared in {root / path}{there}; give the tfds data_dir with --data.dir, or prepare it "
        f"with: {_prepare(name, root)}"
    )


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
    # Double quotes read best; a folder with a character that they do not protect gets what shlex makes of it.
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
