"""Paths as a user types them."""

import os
import unicodedata
from pathlib import Path

__all__ = ["given_path", "is_utf8", "path_text"]


def path_text(path: str | os.PathLike[str], name: str) -> str:
    """The text of a path that Python code gives.

    Args:
      path: str or Path.
      name: of the argument in the message, as "workdir".

    Raises:
      ValueError: it is something else.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"{name} is {path!r:.80}; expected a path: a str or a pathlib.Path")
    return os.fspath(path)


def given_path(text: str, option: str) -> Path:
    """The path that a user typed, with `~` and `~name` replaced by the home folder.

    Args:
      text: as typed.
      option: its name in the message, as "--data.dir".

    Raises:
      ValueError: it is empty, begins or ends with white space, or cannot be a path; names the option.
    """
    if not text.strip():
        raise ValueError(f"{option} is empty; give a path, or leave it out")
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise ValueError(f"{option} {text!a:.80} cannot be a path here: it holds a control character")
    if text != text.strip():
        raise ValueError(f"{option} is {text!r:.80}; leave out the white space around it")
    try:
        path = Path(text).expanduser()
        path.is_dir()  # raises an error if the name is too long, or a folder above it may not be read
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of an unknown user
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{option} {text!a:.80} cannot be a path here: {reason}") from error
    return path


def is_utf8(path: Path) -> bool:
    """Whether a path is UTF-8 and was read as such, as the storage of checkpoints needs."""
    return os.fsencode(path.absolute()).decode(errors="replace") == str(path.absolute())
