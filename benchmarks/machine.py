"""How busy a machine is while something is measured on it, by processes that are not ours."""

import os
from pathlib import Path
from types import TracebackType

STAT = Path("/proc/stat")
IDLE_FIELDS = (3, 4)  # idle and iowait, of user, nice, system, idle, iowait, irq, softirq, steal
FIELDS = 8  # what follows is counted in user and nice already
MOST_FOREIGN = 0.05
"""Share of the cores that other processes may take before a figure counts as disturbed."""


class ForeignCpu:
    """Measures which share of this process's cores other processes took: `with ForeignCpu() as foreign: ...`.

    Attributes:
      share: 0 to 1 after the block, time that the hypervisor gave to others included; None where the system does not
        tell, or where the block was too short for its clock of 10 ms.
    """

    share: float | None = None

    def __enter__(self) -> "ForeignCpu":
        self._before = _seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        after = _seconds()
        if self._before is None or after is None:
            return
        total, busy, own = (now - before for now, before in zip(after, self._before, strict=True))
        if total >= 0.2:
            self.share = round(min(1.0, max(0.0, (busy - own) / total)), 3)


def load_average() -> float | None:
    """Runnable processes, averaged over the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _seconds() -> tuple[float, float, float] | None:
    """Of the cores that this process may use: seconds in all, busy ones, and this process's own."""
    if not STAT.is_file():
        return None
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = os.sysconf("SC_CLK_TCK")
    total = busy = 0
    for line in STAT.read_text().splitlines():
        name, *fields = line.split()
        if name in cores:
            values = [int(field) for field in fields[:FIELDS]]
            total += sum(values)
            busy += sum(values) - sum(values[index] for index in IDLE_FIELDS)
    own = os.times()
    children = own.children_user + own.children_system
    return total / ticks, busy / ticks, own.user + own.system + children
