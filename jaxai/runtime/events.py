"""The metrics of a run as TensorBoard event files."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxai import extras
from jaxai.files.unwritten import writing

__all__ = ["Events"]

FLUSH_SECONDS = 10


class Events:
    """Writes scalars in the caller's thread.

    The thread of tensorboardX's SummaryWriter ends when the disk is full, and the next scalar then waits forever.

    Args:
      folder: created if it is missing.
      step: the first step that is written; TensorBoard hides what an earlier process wrote from this step on.

    Raises:
      UnwrittenError: a file could not be written; the methods raise it too.
    """

    def __init__(self, folder: Path, step: int):
        package = extras.load("tensorboardX.event_file_writer", "--tensorboard", "tensorboard")
        self._proto = extras.load("tensorboardX.proto.event_pb2", "--tensorboard", "tensorboard")
        self._folder, self._flushed = folder, time.monotonic()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Two writers that start within one second need separate files.
            self._writer: Any = package.EventsWriter(str(folder / "events"), f".{time.monotonic_ns()}")
            self._write(step, session_log=self._proto.SessionLog(status=self._proto.SessionLog.START))

    def add(self, line: Mapping[str, Any]) -> None:
        """Every float of a line of metrics or timing, at its step."""
        values = [{"tag": name, "simple_value": value} for name, value in line.items() if isinstance(value, float)]
        try:
            with writing(self._folder):
                self._write(line["step"], summary={"value": values})
                if time.monotonic() - self._flushed > FLUSH_SECONDS:
                    self._writer.flush()
                    self._flushed = time.monotonic()
        except OSError:
            with contextlib.suppress(OSError):  # otherwise Python reports the error again at exit
                self._writer.close()
            raise

    def close(self) -> None:
        """Writes what is still in the buffer."""
        try:
            with writing(self._folder):
                self._writer.flush()
        finally:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._proto.Event(wall_time=time.time(), step=step, **content))
