"""Exceptions that the command line reports in one line, and their exit codes."""

import os

from jaxai.extras import MissingExtraError
from jaxai.files.unwritten import WRONG_PATH


def explained(error: Exception) -> tuple[str, int] | None:
    """The message and exit code of an error that a user can correct; None for a bug, which is shown with traceback.

    The exit code is 2 for a mistake in the arguments or files that were given, and 1 for a run that failed.
    """
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror}", 2 if isinstance(error, WRONG_PATH) else 1
    if isinstance(error, ValueError | FileNotFoundError | MissingExtraError):
        return str(error), 2
    if isinstance(error, OverflowError):
        return f"a number is too large: {error}", 2
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory: {' '.join(str(error).split()):.200}; make the model, the batch or the data smaller", 1
    return None
