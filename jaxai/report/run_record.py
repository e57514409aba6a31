"""The content of run folders, also of unfinished runs."""

import collections
import dataclasses
import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxai.files.json_files import SUPERSEDED, read_lines, read_object
from jaxai.files.results import over_seeds
from jaxai.metrics import PER_SEED, Declarations, Meanings, Metric, is_number

__all__ = ["RunRecord", "declared_together", "histories", "read_run"]

PICTURES = {".png": "image/png", ".gif": "image/gif"}
"""Kinds of pictures -> their media type."""
WARNINGS = 5
"""Number of warnings of a run that are shown, the last ones."""

Record = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of a run folder; missing parts are empty and listed in `notes`.

    Attributes:
      label: name of the run on the page.
      config, environment, result, data: the JSON files of these names.
      command: the commands that trained it.
      card: the text of the model card, README.md.
      metrics, timing: the lines of the files of these names.
      pictures: paths and captions.
      seeds: the runs of its seeds, if each has its own folder.
      notes: sentences for the reader.
      declared: declarations of its metrics; empty for a run of version 0.1.
    """

    label: str
    config: Record
    environment: Record
    command: str
    result: Record
    data: Record
    card: str
    metrics: list[Record]
    timing: list[Record]
    pictures: list[tuple[Path, str]]
    seeds: list["RunRecord"]
    notes: list[str]
    declared: Declarations

    @property
    def members(self) -> list["RunRecord"]:
        """The runs of its seeds, or the run itself."""
        return self.seeds or [self]

    @functools.cached_property
    def meanings(self) -> Meanings:
        """The meanings of its figures; without declarations, derived from the names alone."""
        return Meanings({**self.declared.timing, **self.declared.metrics}, self.names)

    @functools.cached_property
    def names(self) -> set[str]:
        """Names of the figures in its lines."""
        found: set[str] = set()
        for source in ("metrics", "timing"):
            keys = {key for line in self.lines(source) for key in line} - self.positions(source)
            found |= {key.removesuffix(PER_SEED) for key in keys}
        return found

    def lines(self, source: str) -> list[Record]:
        """The lines of metrics or timing of all seeds."""
        return [line for member in self.members for line in getattr(member, source)]

    @functools.cached_property
    def measured(self) -> set[str]:
        """Names of its evaluation metrics: with a split as prefix, or in the lines that have the score.

        If no score is declared, they are in fewer lines than other figures.
        """
        lines = [{key.removesuffix(PER_SEED) for key in line} & self.names for line in self.lines("metrics")]
        counts = collections.Counter(name for line in lines for name in line)
        found = {name for name in counts if self.meanings.parse(name).split}
        if self.declared.score in self.names:
            return found.union(*(line for line in lines if self.declared.score in line))
        return found | {name for name, count in counts.items() if count < max(counts.values())}

    def positions(self, source: str) -> set[str]:
        """Names in the lines of metrics or timing that are the position of a line and no figures, as `step`.

        A run that declares nothing has them in every line, where they never fall.
        """
        if self.declared.positions or self.declared.timing:
            return {"step", *self.declared.positions}
        return {"step"} | set.intersection(*(_positions(getattr(member, source), source) for member in self.members))


def read_run(folder: Path, label: str | None = None) -> RunRecord:
    """Reads a run folder, also of a run that was interrupted.

    Args:
      folder: of the run, or one with a run in each of its `seed-*` folders.
      label: name of the run on the page; None: the folder's.

    Raises:
      ValueError: the folder is no run.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no run: there is no such folder; give one that jaxai train --workdir has written"
        )
    seeds = [
        read_run(seed)
        for seed in sorted(folder.glob("seed-*"), key=lambda seed: (len(seed.name), seed.name))
        if (seed / "config.json").is_file()
    ]
    if not seeds and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is no run: it holds no config.json; give a folder that jaxai train --workdir has written"
        )
    notes: list[str] = []
    result = _read_json(folder / "result.json", notes)
    metrics = _read_lines(folder / "metrics.jsonl", notes)
    if seeds:
        notes += [f"{seed.label}: {note}" for seed in seeds for note in seed.notes]
        finished = [seed.result for seed in seeds if seed.result]
        if not _agrees(result, seeds):
            result = over_seeds(finished) if finished else {}
    elif not result:
        steps = [record["step"] for record in metrics]
        progress = f"its last logged step is {max(steps):,}" if steps else "it has logged nothing yet"
        notes.insert(0, f"The run has not finished (no result.json): {progress}.")
    if old := [record["step"] for record in metrics if record.get(SUPERSEDED)]:
        metrics = [record for record in metrics if not record.get(SUPERSEDED)]
        notes.append(
            f"{len(old)} evaluation{'s' * (len(old) > 1)} up to step {max(old):,} left out: what they were measured on,"
            " or how, has changed since."
        )
    notes += _read_warnings(folder / "warnings.jsonl", notes)
    first = seeds[0] if seeds else None
    return RunRecord(
        label=label or folder.resolve().name,
        config=_read_json(folder / "config.json", notes) or (first.config if first else {}),
        environment=_read_json(folder / "environment.json", notes) or (first.environment if first else {}),
        command=_read_text(folder / "command.txt"),
        result=result,
        data=_read_json(folder / "data.json", notes) or (first.data if first else {}),
        card=_read_text(folder / "README.md"),
        metrics=metrics,
        timing=_read_lines(folder / "timing.jsonl", notes),
        pictures=_read_pictures(folder / "pictures", notes) or (first.pictures if first else []),
        seeds=seeds,
        notes=notes,
        declared=first.declared if first else _read_declarations(folder / "metrics.json", notes),
    )


def _read_declarations(path: Path, notes: list[str]) -> Declarations:
    try:
        return Declarations.of_dict(_read_json(path, notes))
    except ValueError as damage:
        _note(path, f" could not be read: {damage}", notes)
        return Declarations({})


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def _note(path: Path, damage: str, notes: list[str]) -> None:
    """Reports damage of a file: on the page, and as a warning that names the folder."""
    notes.append(f"{path.name}{damage}.")
    logger.warning("%s%s", path, damage)


def _read_json(path: Path, notes: list[str]) -> Record:
    if not path.exists():
        return {}
    try:
        return read_object(path)
    except ValueError as damage:
        _note(path, f" could not be read: {str(damage).removeprefix(f'cannot read {path}: ')}", notes)
        return {}


def _read_lines(path: Path, notes: list[str]) -> list[Record]:
    broken: list[str] = []
    try:
        records = read_lines(path, broken)
    except ValueError as damage:
        _note(path, f" could not be read: {str(damage).removeprefix(f'cannot read {path}: ')}", notes)
        return []
    if broken:
        lines = f"{len(broken)} line{'s' * (len(broken) > 1)}"
        _note(path, f": {lines} could not be read and were left out; {broken[0]}", notes)
    return records


def _read_warnings(path: Path, notes: list[str]) -> list[str]:
    """The last few distinct warnings of a run, each with the step at which it last occurred."""
    found: dict[str, int] = {}
    for record in _read_lines(path, notes):
        text = str(record.get("warning", ""))
        found.pop(text, None)
        found[text] = record["step"]
    found.pop("", None)
    return [f"step {step:,}: {text}" for text, step in list(found.items())[-WARNINGS:]]


def _read_pictures(folder: Path, notes: list[str]) -> list[tuple[Path, str]]:
    captions = _read_json(folder / "captions.json", notes)
    found = {path.name: path for path in sorted(folder.glob("*")) if path.suffix in PICTURES}
    names = [name for name in captions if name in found] + [name for name in found if name not in captions]
    return [(found[name], str(captions.get(name, found[name].stem.replace("_", " ")))) for name in names]


def _agrees(result: Record, seeds: Sequence[RunRecord]) -> bool:
    """Whether the figures of several seeds agree with their folders, which may have been trained further."""
    listed = {name: values for name, values in result.items() if name.endswith(PER_SEED)}
    return bool(result) and all(
        values == [seed.result.get(name.removesuffix(PER_SEED)) for seed in seeds] for name, values in listed.items()
    )


def declared_together(runs: Sequence[RunRecord]) -> Meanings:
    """The meanings of the figures of several runs; if two declare a metric differently, the first label is used."""
    found: dict[str, Metric] = {}
    for name, metric in (item for run in runs for item in run.meanings.metrics.items()):
        known = found.setdefault(name, metric)
        if (known.unit, known.better) != (metric.unit, metric.better):
            found[name] = known._replace(unit="", better=None)
    return Meanings(found, {name for run in runs for name in run.names})


def _positions(lines: Sequence[Record], source: str) -> set[str]:
    """Names that each line has, with values that never fall."""
    shared = set.intersection(*map(set, lines)) if len(lines) > 1 else set()
    if source == "metrics" and all(shared == line.keys() for line in lines):
        return set()  # lines of one kind: a metric that always increases would be counted too
    columns = {name: [line[name] for line in lines] for name in shared}
    rising = {
        name: values for name, values in columns.items() if all(map(is_number, values)) and values == sorted(values)
    }
    return {name for name, values in rising.items() if source == "metrics" or values[0] < values[-1]}


def histories(run: RunRecord, source: str, key: str, clock: str = "step") -> list[tuple[np.ndarray, np.ndarray]]:
    """The course of a figure in each seed: from `NAME_per_seed` where a line has it, else from the seeds' folders.

    Args:
      run: from `read_run`.
      source: the field that the lines are in, metrics or timing.
      key: the figure's name, without `_per_seed`.
      clock: the key of the horizontal axis.

    Returns:
      For each seed the clock, rising, and its values, both [points]; NaN for a value that is missing or not finite.
    """
    found = []
    for member in run.seeds or [run]:
        records = [record for record in getattr(member, source) if is_number(record.get(clock))]
        lists = {record[clock]: record[key + PER_SEED] for record in records if is_per_seed(record, key)}
        rows = lists or {record[clock]: [record[key]] for record in records if key in record}
        x = sorted(rows)
        for seed in range(max(map(len, rows.values()), default=0)):
            y = [rows[at][seed] if seed < len(rows[at]) and is_number(rows[at][seed]) else math.nan for at in x]
            found.append((np.asarray(x), np.where(np.isfinite(y), y, math.nan)))
    return found


def is_per_seed(record: Record, key: str) -> bool:
    """Whether a record has a value for each seed of what `key` names."""
    return isinstance(record.get(key + PER_SEED), list)
