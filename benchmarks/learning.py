"""Records what finished runs have learnt: `python -m benchmarks.learning runs/mnist_cnn ...`.

Appends a line for each run to `benchmarks/results/<chip>/learning.jsonl`: the command, the figures of `result.json`,
and the versions, devices and commit that the run itself wrote down.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from benchmarks import records


def record(folder: Path) -> dict[str, Any]:
    """The line of a run, or of the seeds of one.

    Raises:
      ValueError: the run has not finished.
    """
    if not (folder / "result.json").is_file():
        raise ValueError(f"{folder} has no result.json: the run has not finished; train it to its end first")
    member = next(iter(sorted(folder.glob("seed-*"))), folder)
    environment = json.loads((member / "environment.json").read_text())
    return {
        "case": folder.name,
        "command": _portable((member / "command.txt").read_text().splitlines()[-1]),
        "result": json.loads((folder / "result.json").read_text()),
        "git": environment.pop("git"),
        "environment": environment,
    }


def _portable(command: str) -> str:
    """The command without the folders of the machine that it was typed on."""
    words = ["DIR" if Path(word).is_absolute() else word for word in shlex.split(command)]
    return shlex.join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--results", type=Path, default=records.RESULTS, help="folder of the result files")
    arguments = parser.parse_args()
    for folder in arguments.runs:
        try:
            line = record(folder)
        except ValueError as error:
            parser.error(str(error))
        print(f"{folder.name} -> {records.append(line, arguments.results, 'learning')}")


if __name__ == "__main__":
    main()
