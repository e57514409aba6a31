"""What a run leaves behind: configuration, command, environment, metrics, result."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxai import extras
from jaxai.runtime import config as configs
from jaxai.runtime import environment


class RunFolder:
    """One run's folder.

    `metrics.jsonl` has only what follows from the configuration, so a run that was killed and resumed leaves the same
    bytes as one that was not; what depends on the clock is in `timing.jsonl`. Both have a line for each call, and
    `metrics.jsonl` one more for each evaluation, whose keys begin with the split's name.
    """

    def __init__(self, path: str | Path, tensorboard: bool = False):
        self.path = Path(path)
        self._tensorboard = tensorboard
        self._events: Any = None

    @property
    def pictures(self) -> Path:
        """Folder of the run's pictures."""
        return self.path / "pictures"

    @property
    def nonfinite(self) -> Path:
        """Folder of the dump that `jaxai replay` runs again."""
        return self.path / "nonfinite"

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    def open(self, config: Any, resume_with_changes: bool) -> None:
        """Makes the folder, or checks that the run in it had the same configuration.

        Raises:
          ValueError: it had another one (names the fields), or the folder cannot be made.
        """
        now = configs.to_dict(config)
        if (self.path / "config.json").exists():
            changes = configs.differences(self.read_json("config.json"), now)
            if changes and not resume_with_changes:
                raise ValueError(
                    f"{self.path} holds a run with another configuration; choose another --workdir, or go on with the"
                    " new one by --resume-with-changes. What differs:\n  " + "\n  ".join(changes)
                )
        if self._tensorboard:
            extras.folder("tensorboardX", "--tensorboard", "tensorboard")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the run folder {self.path}: {error.strerror}") from None
        self.write_json("config.json", now)
        self.write_json("environment.json", environment.describe())
        with (self.path / "command.txt").open("a") as file:
            program = Path(sys.argv[0]).name
            program = "jaxai" if program == "__main__.py" else program  # as `python -m jaxai`
            file.write(shlex.join([program, *sys.argv[1:]]) + "\n")

    def load_config(self) -> Any:
        """The configuration of the run.

        Raises:
          ValueError: the folder holds no run.
        """
        if seeds := sorted(self.path.glob("seed-*/config.json")):
            raise ValueError(f"{self.path} holds {len(seeds)} runs, one a seed; give one of them: {seeds[0].parent}")
        if not (self.path / "config.json").is_file():
            raise ValueError(f"{self.path} is no run folder: it has no config.json; give the --workdir of a training")
        return configs.from_dict(self.read_json("config.json"))

    def append(self, file: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a line to `metrics.jsonl` or `timing.jsonl`; it survives the process being killed right after.

        Returns:
          The line as `lines` would read it: what decides by it decides the same after a resume.
        """
        line = {name: _rounded(value) for name, value in values.items()}
        with (self.path / file).open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        if self._tensorboard:
            self._mirror(line)
        return line

    def _mirror(self, line: Mapping[str, Any]) -> None:
        """The same line as TensorBoard events, in `tensorboard/`."""
        if self._events is None:
            from tensorboardX import SummaryWriter

            # What an earlier process wrote beyond the step that this one goes on from is purged.
            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=line["step"], flush_secs=10)
        for name, value in line.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Writes out what TensorBoard still waits for."""
        if self._events is not None:
            self._events.close()

    def lines(self, file: str) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` or `timing.jsonl` that are whole."""
        path = self.path / file
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:  # the line that a kill cut off
                break
        return found

    def rewind(self, step: int) -> None:
        """Forgets every line after `step`: training goes on from there."""
        for file in ("metrics.jsonl", "timing.jsonl", "warnings.jsonl"):
            if not (self.path / file).exists():
                continue
            kept = [line for line in self.lines(file) if line["step"] <= step]
            self._replace(file, "".join(json.dumps(line) + "\n" for line in kept))

    def read_json(self, file: str) -> Any:
        """The content of one of the folder's JSON files."""
        return json.loads((self.path / file).read_text())

    def write_json(self, file: str, values: Any) -> None:
        """Writes one of the folder's JSON files, whole or not at all."""
        self._replace(file, json.dumps(values, indent=2) + "\n")

    def _replace(self, file: str, text: str) -> None:
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)


def _rounded(value: Any) -> Any:
    """Nine digits give back every float32 exactly; JSON has no word for what is not finite."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None
