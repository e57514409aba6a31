"""SIGTERM and Ctrl-C make the loop stop after the current call, with everything saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal has asked to stop, and its name."""

    requested: bool = False
    name: str = ""


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Context in which SIGTERM and SIGINT set `requested`; a second signal ends the process as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def request(number: int, _: FrameType | None) -> None:
        stop.requested, stop.name = True, signal.Signals(number).name
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
