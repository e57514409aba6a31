"""Measures the time from the command to the end of the first training step, with a cold and a warm compilation cache.

    python -m benchmarks.startup                              # configs/mnist_cnn.py on synthetic images
    python -m benchmarks.startup configs/mnist_cnn.py --repeats 5

Cold means that XLA compiles every program; Python's own files may be in the system's memory already, so the very first
start on a machine takes longer. Data is synthetic, so that no data set is a part of it.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.machine import MOST_FOREIGN, ForeignCpu, load_average
from benchmarks.measure import spread
from jaxai.runtime.presets import load_preset

TARGETS = {"cold": 25.0, "warm": 15.0}
"""Seconds, on two CPU cores."""
POLL = 0.02  # seconds between looks at the run folder
START = "import sys; from jaxai.cli import main; main(sys.argv[1:])"
CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Startup:
    """What to start, and how often."""

    preset: Annotated[str, tyro.conf.Positional] = "configs/mnist_cnn.py"
    repeats: int = 3  # starts with a cold cache, and as many with a warm one
    limit: float = 180.0  # seconds after which a start has failed
    results: Path = records.RESULTS  # folder that gets <chip>/startup.jsonl
    dry_run: bool = False  # prints only, writes no file


def first_step(preset: str, cache: Path, workdir: Path, limit: float) -> dict[str, float]:
    """Seconds from the start of `jaxai train` to its run folder, and to the end of its first step.

    The run folder is opened when everything is imported and the data is there; tracing and compiling come after.

    Raises:
      RuntimeError: the training ended, or took longer than `limit` seconds, before its first step did.
    """
    command = [sys.executable, "-c", START, "train", preset, *_options(preset), "--workdir", str(workdir)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    log = workdir.with_suffix(".log")
    seconds: dict[str, float] = {}
    with log.open("w") as output:
        began = time.perf_counter()
        training = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            for stage, file in (("run_folder", "environment.json"), ("first_step", "timing.jsonl")):
                while not (workdir / file).exists() or not (workdir / file).stat().st_size:
                    if training.poll() is not None or time.perf_counter() - began > limit:
                        tail = " ".join(log.read_text().split()[-40:])
                        raise RuntimeError(f"no first step within {limit:.0f} s of {preset}: {tail}")
                    time.sleep(POLL)
                seconds[stage] = time.perf_counter() - began
        finally:
            training.kill()
            training.wait()
    return seconds


def measure(preset: str, repeats: int, limit: float) -> dict[str, dict[str, Any]]:
    """Figures for `cold` and `warm`: seconds_to_first_step and seconds_to_run_folder, spread over the repeats."""
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for state in starts:
                workdir = Path(folder) / f"{state}-{repeat}"
                starts[state].append(first_step(preset, Path(folder) / f"cache-{repeat}", workdir, limit))
    return {
        state: {
            "seconds_to_first_step": spread([start["first_step"] for start in several]),
            "seconds_to_run_folder": spread([start["run_folder"] for start in several]),
        }
        for state, several in starts.items()
    }


def main() -> None:
    """Entry point; exits 1 if a training did not get to its first step."""
    options = tyro.cli(Startup, prog="python -m benchmarks.startup", description=__doc__)
    console = Console(width=None if sys.stdout.isatty() else 200)
    load = load_average()
    try:
        with ForeignCpu() as others:
            measured = measure(options.preset, options.repeats, options.limit)
    except (RuntimeError, ValueError) as error:
        print(f"benchmarks.startup: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    flags = []
    if others.share is not None and others.share > MOST_FOREIGN:
        flags.append(f"other processes took {others.share:.0%} of the CPU")
    shown = Table("cache", "seconds to the first step", "min", "max", "of them to the run folder", "target on 2 cores")
    for state, figures in measured.items():
        seconds, folder = figures["seconds_to_first_step"], figures["seconds_to_run_folder"]
        shown.add_row(
            state, *(f"{seconds[name]:.1f}" for name in ("median", "min", "max")), f"{folder['median']:.1f}",
            f"{TARGETS[state]:.0f}",
        )  # fmt: skip
        around = {"repeats": options.repeats, "load_average": load, "foreign_cpu_share": others.share}
        record = records.complete(f"{Path(options.preset).stem} {state}", figures | around, flags)
        if not options.dry_run:
            records.append(record, options.results, "startup")
    console.print(shown)
    for flag in flags:
        console.print(f"flag: {flag}", highlight=False)


def _options(preset: str) -> list[str]:
    """Small synthetic data in the preset's shape, and a step a call."""
    from benchmarks.run import with_synthetic_images

    data = with_synthetic_images(load_preset(preset)[0], examples=2_000).data
    shape = [str(size) for size in data.image_shape]
    return [
        *("--data.source", "synthetic", "--data.examples", str(data.examples), "--data.test-examples", "100"),
        *("--data.image-shape", *shape, "--data.num-classes", str(data.num_classes)),
        *("--data.validation-fraction", "0", "--epochs", "1", "--steps-per-call", "1"),
    ]


if __name__ == "__main__":
    main()
