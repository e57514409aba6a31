"""Properties of a chip, by the name that JAX reports: its peak FLOP/s, and a short name for folders and tables."""

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import jax

__all__ = ["CHIPS", "Chip", "count", "describe", "memory", "name", "peak_flops", "shown_bytes", "usable_cores"]

UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


class Chip(NamedTuple):
    """A chip whose peak is in public tables.

    Attributes:
      kind: regular expression that `device.device_kind` must match completely. A slice of a GPU (MIG) matches none.
      name: short name, fit for a folder.
      peak_flops: dense bf16 FLOP/s of one JAX device; fp16 if the chip has no bf16.
    """

    kind: str
    name: str
    peak_flops: float


CHIPS = (
    Chip(r"TPU v3", "tpu-v3", 61.5e12),  # a JAX device is one of the two cores of the chip, which has 123e12
    Chip(r"TPU v4", "tpu-v4", 275e12),
    Chip(r"TPU v5 lite|TPU v5e", "tpu-v5e", 197e12),
    Chip(r"TPU v5p?", "tpu-v5p", 459e12),
    Chip(r"TPU v6 lite|TPU v6e", "tpu-v6e", 918e12),
    Chip(r"NVIDIA A100[- ](SXM4|PCIE)?-?\d+GB( PCIe)?", "nvidia-a100", 312e12),
    Chip(r"NVIDIA H100( 80GB HBM3)?", "nvidia-h100", 989e12),
    Chip(r"NVIDIA H100 PCIe", "nvidia-h100-pcie", 756e12),
    Chip(r"NVIDIA H200", "nvidia-h200", 989e12),
    Chip(r"NVIDIA B200", "nvidia-b200", 2250e12),
    Chip(r"NVIDIA L4", "nvidia-l4", 121e12),
    Chip(r"(Tesla|NVIDIA) V100-SXM\d-\d+GB(-LS)?", "nvidia-v100", 125e12),
    Chip(r"(Tesla|NVIDIA) T4", "nvidia-t4", 65e12),
)


def peak_flops(device: jax.Device) -> float | None:
    """Dense bf16 FLOP/s of a device, from the data sheet; None if it is not known, and on a CPU."""
    chip = _find(device)
    return None if chip is None else chip.peak_flops


def name(device: jax.Device) -> str:
    """Short and stable name of a device, fit for a folder: `nvidia-h100`, `tpu-v5e`, `cpu-2core`.

    A CPU is named by the number of cores that this process may use; a chip that is not in the table by JAX's name.
    """
    if device.platform == "cpu":
        return f"cpu-{usable_cores()}core"
    chip = _find(device)
    if chip is not None:
        return chip.name
    return re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-") or device.platform


def describe(mesh: jax.sharding.Mesh) -> str:
    """The devices of a mesh in words: `8 x NVIDIA H100 80GB HBM3`, `1 x CPU with 2 cores`."""
    device = mesh.devices.flat[0]
    kind = f"CPU with {usable_cores()} cores" if device.platform == "cpu" else device.device_kind
    return f"{mesh.devices.size} x {kind}"


def count(mesh: jax.sharding.Mesh) -> int:
    """Number of chips that throughput is divided by: the devices; all CPU devices of a machine count as one."""
    return 1 if mesh.devices.flat[0].platform == "cpu" else mesh.size


def memory(mesh: jax.sharding.Mesh) -> int | None:
    """Bytes of memory of one device, where a new state is created; of a CPU, those of the machine or the container.

    None if it is not known.
    """
    device = mesh.devices.flat[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    sizes = []
    with contextlib.suppress(OSError, ValueError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max", or no such file
            sizes.append(int(Path(file).read_text()))
    return min(sizes, default=None)


def usable_cores() -> int:
    """CPU cores that this process may run on; all of the machine's if the system does not report them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _find(device: jax.Device) -> Chip | None:
    return next((chip for chip in CHIPS if re.fullmatch(chip.kind, device.device_kind)), None)


def shown_bytes(number: float) -> str:
    """Bytes as text: `56 MB`, `1.3 GB`."""
    unit = next((unit for unit in ("kB", "MB", "GB") if number < 999.5 * UNITS[unit]), "TB")
    value = number / UNITS[unit]
    return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
