"""Hides orbax's output about a failed write: 500 lines from five threads about an error that it also raises.

`JAXAI_TRACEBACK=1` in the environment shows it all.
"""

import atexit
import functools
import logging
import os
import sys
import threading
import types
from typing import Any

INSIDE = ("/orbax/", "/tensorstore/")


@functools.cache
def keep_quiet() -> None:
    """Hides the output of orbax from here on in this process, and nothing else."""
    if os.environ.get("JAXAI_TRACEBACK"):
        return
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_shown)
    others = sys.excepthook, sys.unraisablehook, threading.excepthook

    def uncaught(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        # A write that ends after orbax has given up its event loop.
        if str(error) != "Event loop is closed":
            others[0](kind, error, trace)

    def unraisable(found: Any) -> None:
        code = getattr(found.object, "cr_code", None)
        if not (code and _is_inside(code.co_filename)) and not _comes_from_inside(found.exc_value):
            others[1](found)

    def in_thread(found: threading.ExceptHookArgs) -> None:
        if not type(found.thread).__module__.startswith("orbax.") and not _comes_from_inside(found.exc_value):
            others[2](found)

    sys.excepthook, sys.unraisablehook, threading.excepthook = uncaught, unraisable, in_thread


@functools.cache
def end_quietly() -> None:
    """After a failed write: hides errors of writes that still run when the interpreter ends without an event loop.

    Python removes the hooks of `keep_quiet` before that.
    """

    def close() -> None:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    atexit.register(close)


def _is_shown(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (_is_inside(record.pathname) or _comes_from_inside(error))


def _is_inside(file: str) -> bool:
    return any(name in file.replace(os.sep, "/") for name in INSIDE)


def _comes_from_inside(error: BaseException | None) -> bool:
    """Whether an error was raised in orbax, or passed through it."""
    trace = error.__traceback__ if error else None
    while trace is not None:
        if _is_inside(trace.tb_frame.f_code.co_filename):
            return True
        trace = trace.tb_next
    return False
