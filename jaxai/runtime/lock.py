"""One training at a time in a run folder, by a lock that the kernel releases however the process ends."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxai.files.unwritten import writing

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "training.lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks, such as some network file systems."""
logger = logging.getLogger(__name__)
_held: set[int] = set()


@contextlib.contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Context in which no other process or thread trains in `folder`, which is created if it is missing.

    On a file system without locks a warning is logged, and training continues.

    Raises:
      ValueError: another process trains in it; the message has its host and process id.
      UnwrittenError: the folder cannot be made or written to.
    """
    if jax.process_index() != 0:  # of one training on several hosts
        yield
        return
    path = folder / LOCK
    with writing(f"the run folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while not _locked(handle, folder):
            # Its holder ended and removed the file after it was opened and before it was locked.
            os.close(handle)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(handle)
        with writing(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
    finally:
        _held.discard(handle)
        os.close(handle)  # which releases the lock


def _locked(handle: int, folder: Path) -> bool:
    """Takes the lock; False if its file is not in the folder any more."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            logger.warning("%s is on a file system without locks: do not run a second training in it", folder)
            return True
        holder = os.pread(handle, 300, 0).decode(errors="replace").strip() or "another process"
        raise ValueError(
            f"{folder} is being trained by {holder}; wait for it, stop it, or give another --workdir"
        ) from None
    try:
        return os.path.samestat(os.fstat(handle), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """In a forked child: closes the file; otherwise the child would hold the lock after its parent ended."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
