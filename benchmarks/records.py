"""Result files: `results/<chip>/<workload>.jsonl`, one JSON object a measurement, appended and never changed."""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxai.runtime import chips, environment

RESULTS = Path(__file__).parent / "results"


def complete(case: str, figures: Mapping[str, Any], flags: Sequence[str] = ()) -> dict[str, Any]:
    """A record: what was measured, when, of which commit, on what, and in `flags` what speaks against trusting it.

    Where there is no git checkout, `BENCHMARK_COMMIT` in the environment names the commit; a name that ends in
    `-dirty` says that files differed from it.
    """
    around = environment.describe()
    git = around.pop("git")
    named = os.environ.get("BENCHMARK_COMMIT")
    commit, dirty = (git["commit"], git["dirty"]) if git else (None, False)
    if git is None and named:
        commit, dirty = named.removesuffix("-dirty"), named.endswith("-dirty")
    found = list(flags)
    if commit is None:
        found.append("commit unknown")
    if dirty:
        found.append("files differ from the commit")
    return {
        "case": case,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "flags": found,
        **figures,
        "environment": around,
    }


def append(record: Mapping[str, Any], results: Path, workload: str) -> Path:
    """Adds a record to the file of this chip and workload, which is returned."""
    file = results / chips.name(jax.devices()[0]) / f"{workload}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
    return file


def read(file: Path) -> list[dict[str, Any]]:
    """The records of a file, oldest first.

    Raises:
      ValueError: there is no such file, or a line is no record; names the file and the line.
    """
    if not file.is_file():
        raise ValueError(f"no result file {file}; give one as benchmarks/results/CHIP/cnn.jsonl")
    records = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{file}, line {number} is not JSON; remove the line") from None
    return records
