"""The environment of a run: versions, devices, settings and the commit, so that a result can be reproduced."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import jax

import jaxai
from jaxai.runtime import chips

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Settings that change speed or results. Those that name a folder do neither, and would identify the machine.
SETTINGS = re.compile(
    r"(XLA|JAX|MALLOC)_\w+(?<!_DIR)(?<!_PATH)|NPROC|OMP_NUM_THREADS|LIBTPU_INIT_ARGS|NVIDIA_TF32_OVERRIDE"
)


def describe() -> dict[str, Any]:
    """The environment of this process, ready for `json.dumps`. Starts the JAX backend if it has not started.

    Returns:
      python, platform: version and operating system with processor architecture.
      versions: of jaxai and its libraries; None for one that is not installed.
      devices: platform, kind and short name (`chips.name`); count over all processes, and of this one; processes.
      cpu_cores: that this process may use.
      settings: environment variables of XLA, JAX and the allocator.
      git: commit and whether tracked files differ from it; None outside a checkout of jaxai.
    """
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {"jaxai": jaxai.__version__} | {library: _version(library) for library in LIBRARIES},
        "devices": {
            "platform": device.platform,
            "kind": device.device_kind,
            "name": chips.name(device),
            "count": jax.device_count(),
            "local_count": jax.local_device_count(),
            "processes": jax.process_count(),
        },
        "cpu_cores": chips.usable_cores(),
        "settings": {key: value for key, value in sorted(os.environ.items()) if SETTINGS.fullmatch(key)},
        "git": _git(Path(jaxai.__file__).parents[1]),
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(checkout: Path) -> dict[str, Any] | None:
    # An installed package may be inside another repository, whose commit is irrelevant.
    if not (checkout / ".git").exists():
        return None
    commit = _git_output(checkout, "rev-parse", "HEAD")
    changes = _git_output(checkout, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git_output(checkout: Path, *arguments: str) -> str | None:
    # --no-optional-locks: reading must not block a commit at the same time.
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
