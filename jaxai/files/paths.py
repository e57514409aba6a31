"""Paths as a user types them."""

import os
import unicodedata
from pathlib import Path

__all__ = ["given_path", "is_utf8"]


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
