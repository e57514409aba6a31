"""Errors of writing in one line: a full disk, a used-up quota, a read-only folder."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FULL", "UnwrittenError", "reason", "writing"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
"""Full disk or quota, broken or read-only disk, a file above its limit."""

WRONG_PATH = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors whose message has the path that the user gave."""


class UnwrittenError(OSError):
    """A file that could not be written; its text is one line that names it."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def writing(what: Path | str) -> Iterator[None]:
    """Context in which an operating system error becomes an `UnwrittenError` that names `what`.

    Raises:
      UnwrittenError: see above. Errors of a wrong path or a closed pipe stay as they are.
    """
    try:
        yield
    except (UnwrittenError, BrokenPipeError, *WRONG_PATH):
        raise
    except OSError as error:
        raise UnwrittenError(error.errno, f"cannot write {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Why a write failed, in the words of the operating system, from anywhere in the chain of errors."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return str(link.strerror)
        if found := re.search(r"\[os_error_code='(\d+)'\]", str(link)):  # the format of tensorstore
            return os.strerror(int(found[1]))
        link = link.__cause__ or link.__context__
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first[:200]}"
