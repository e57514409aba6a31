"""The files of a run: configuration, command, environment, metrics, result."""

import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxai import extras
from jaxai.data import Images, digests
from jaxai.files.json_files import REMEDIES, SUPERSEDED, read_lines, read_object
from jaxai.files.paths import given_path
from jaxai.files.unwritten import writing
from jaxai.metrics import Declarations
from jaxai.runtime import config as configs
from jaxai.runtime import continuation, environment
from jaxai.runtime.continuation import Differences
from jaxai.runtime.events import Events


class RunFolder:
    """One run's folder.

    `metrics.jsonl` depends on the configuration only, so that a run that was killed and resumed writes the same bytes
    as an uninterrupted one; values that depend on the clock are in `timing.jsonl`. Both have a line for each call, and
    `metrics.jsonl` one more for each evaluation, whose keys begin with the split's name.
    """

    def __init__(self, path: str | Path, tensorboard: bool = False):
        self.path = given_path(str(path), "the run folder")
        self._tensorboard = tensorboard
        self._events: Events | None = None

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

    def compare(self, config: Any, data: Mapping[str, Any] | None = None) -> Differences:
        """Compares the run in the folder with the configuration and data to continue it with. Writes nothing.

        Args:
          config: the resolved configuration.
          data: description of the data, see `jaxai.data.digests`; None for a workload that generates its own.

        Raises:
          ValueError: another run is in it, or one with changes that were not allowed or are not possible.
        """
        if self._tensorboard:
            extras.folder("tensorboardX", "--tensorboard", "tensorboard")
        if not (self.path / "config.json").exists():
            self._refuse_seeds()
            return Differences()
        before, allowed = self.read_json("config.json"), config.run.resume_with_changes
        return continuation.compare(str(self.path), before, config, self.data(), data, allowed)

    def open(self, config: Any, data: Mapping[str, Any] | None = None) -> None:
        """Creates the folder, and writes configuration, command and environment.

        Raises:
          UnwrittenError: it cannot be written.
        """
        if data is not None:
            self.write_json("data.json", data)
        self.write_json("config.json", configs.to_dict(config))
        self.write_json("environment.json", environment.describe())
        path = self.path / "command.txt"
        with writing(path), path.open("a", errors="backslashreplace") as file:
            program = Path(sys.argv[0]).name
            program = "jaxai" if program == "__main__.py" else program  # as `python -m jaxai`
            file.write(shlex.join([program, *sys.argv[1:]]) + "\n")

    def data(self) -> dict[str, Any] | None:
        """The description of the run's data, see `jaxai.data.digests`; None if an earlier version stored none.

        Raises:
          ValueError: `data.json` is damaged.
        """
        if not (self.path / "data.json").exists():
            return None
        found = self.read_json("data.json")
        if not digests.is_description(found):
            path = self.path / "data.json"
            raise ValueError(f"cannot read {path}: it lacks splits and classes; put a copy of it back, or delete it")
        return found

    def declarations(self) -> Declarations:
        """The meanings of the run's metrics; nothing is declared in a folder of a version that had no metrics.json.

        Raises:
          ValueError: `metrics.json` is damaged.
        """
        path = self.path / "metrics.json"
        if not path.exists():
            return Declarations({})
        try:
            return Declarations.of_dict(read_object(path))
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}; delete it, and training writes a new one") from None

    def as_in_run(self, images: Images, subset: bool = False) -> Images:
        """Images with the labels that their classes have in the run; unchanged if no names are known.

        Raises:
          ValueError: a class that the run does not know, or lacks without `subset`.
        """
        classes = (self.data() or {}).get("classes")
        return digests.relabel(images, classes, str(self.path), subset) if classes else images

    def data_notes(self, data: Mapping[str, Any], *splits: str, given: bool = True) -> list[str]:
        """Notes on splits that differ from those of the run, before an evaluation on them.

        Args:
          data: description of the data, see `jaxai.data.digests`.
          splits: names of the splits that are used.
          given: whether the user gave this data for the evaluation; otherwise it must be that of the run.

        Raises:
          ValueError: a split is not that of the run, and was not given.
        """
        before = self.data()
        if before is None:
            return [continuation.UNKNOWN_DATA.format(self.path)]
        found = digests.differences(before, data)
        notes = [f"the {name} data is not that of the run: {found[name]}" for name in splits if name in found]
        if notes and not given:
            raise ValueError(
                f"{data['source']} no longer holds the data of {self.path}: {'; '.join(notes)}; put that data back, or"
                " measure on other data on purpose, with --other-data"
            )
        return notes

    def _refuse_seeds(self) -> None:
        if seeds := sorted(self.path.glob("seed-*/config.json")):
            raise ValueError(f"{self.path} holds {len(seeds)} runs, one a seed; give one of them: {seeds[0].parent}")

    def load_config(self, *kinds: type) -> Any:
        """The configuration of the run.

        Args:
          kinds: further classes that it may have, in addition to the registered experiments.

        Raises:
          ValueError: the folder holds no run, one of another class, or its configuration is damaged.
        """
        values, kind = self._config_values(), self.load_class(*kinds)
        try:
            return configs.from_dict_as(kind, values)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"cannot read {self.path / 'config.json'}: {error}; {REMEDIES['config.json']}") from None

    def load_class(self, *kinds: type) -> Any:
        """The class of the run's experiment; it is registered or one of `kinds`.

        Raises:
          ValueError: the folder holds no run, or one of another class.
        """
        values = self._config_values()
        try:
            return configs.class_of(values.get("type"), *kinds)
        except ValueError as error:
            began = self.began_with(" (the run began with {})")
            raise ValueError(f"cannot read {self.path / 'config.json'}: {error}{began}") from None

    def knows_class(self, *kinds: type) -> bool:
        """Whether the run's experiment is registered or one of these classes.

        Raises:
          ValueError: the folder holds no run, or its configuration is damaged.
        """
        name = self._config_values().get("type")
        try:
            configs.class_of(name, *kinds)
        except ValueError:
            return False
        return True

    def began_with(self, words: str) -> str:
        """The command that began the run, which names its preset, formatted by `words`; "" if it is not known."""
        file = self.path / "command.txt"
        commands = file.read_text(errors="replace").splitlines() if file.is_file() else []
        return words.format(repr(commands[0][:500])) if commands else ""

    def _config_values(self) -> dict[str, Any]:
        self._refuse_seeds()
        if not (self.path / "config.json").is_file():
            raise ValueError(f"{self.path} is no run folder: it has no config.json; give the --workdir of a training")
        return self.read_json("config.json")

    def append(self, file: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a line to `metrics.jsonl` or `timing.jsonl`; it stays even if the process is killed directly afterwards.

        Returns:
          The line as `lines` reads it, so that decisions based on it are the same after a resume.
        """
        line = {name: _rounded(value) for name, value in values.items()}
        with writing(self.path / file), (self.path / file).open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        if self._tensorboard:
            self._events = self._events or Events(self.path / "tensorboard", line["step"])
            self._events.add(line)
        return line

    def close(self) -> None:
        """Writes buffered TensorBoard events."""
        if self._events is not None:
            self._events.close()

    def lines(self, file: str) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` or `timing.jsonl`; see `json_files.read_lines` for what it raises."""
        return read_lines(self.path / file)

    def rewind(self, step: int) -> None:
        """Removes every line after `step`, from which training continues."""
        for file in ("metrics.jsonl", "timing.jsonl", "warnings.jsonl"):
            if not (self.path / file).exists():
                continue
            kept = [line for line in self.lines(file) if line["step"] <= step]
            self._replace(file, "".join(json.dumps(line) + "\n" for line in kept))

    def result(self, measured_on: Mapping[str, str], step: int) -> dict[str, Any] | None:
        """The final figures, if they belong to this step, configuration and data; others are removed."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        found = self.read_json("result.json")
        if found.get("measured_on") == measured_on and found.get("steps") == step:
            return found
        path.unlink()
        return None

    def supersede(self, is_evaluation: Callable[[Mapping[str, Any]], bool]) -> None:
        """Marks every evaluation so far: its metrics cannot be compared with later ones."""
        lines = self.lines("metrics.jsonl")
        marked = [line | {SUPERSEDED: True} if is_evaluation(line) else line for line in lines]
        if marked != lines:
            self._replace("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in marked))

    def write_stopped(self, step: int, callback: str) -> None:
        """Records that a callback ended the run at this step."""
        self.write_json("stopped.json", {"step": step, "callback": callback})

    def stopped_by(self, step: int, goes_on: bool) -> str:
        """Name of the callback that ended the run at this step; "" if none did.

        A record of another step, as after a loss of checkpoints, is removed; with `goes_on` any record is removed.
        """
        path = self.path / "stopped.json"
        if not path.exists():
            return ""
        found = self.read_json("stopped.json")
        if not goes_on and found.get("step") == step:
            return str(found.get("callback"))
        path.unlink()
        return ""

    def read_json(self, file: str) -> dict[str, Any]:
        """The content of one of the folder's JSON files; see `json_files.read_object` for what it raises."""
        return read_object(self.path / file)

    def write_text(self, file: str, text: str) -> None:
        """Writes one of the folder's text files in UTF-8, whole or not at all."""
        self._replace(file, text)

    def write_json(self, file: str, values: Any) -> None:
        """Writes one of the folder's JSON files, whole or not at all."""
        self._replace(file, json.dumps(values, indent=2) + "\n")

    def _replace(self, file: str, text: str) -> None:
        path = self.path / file
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


def _rounded(value: Any) -> Any:
    """Nine digits reproduce every float32 exactly; JSON has no non-finite numbers."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None
