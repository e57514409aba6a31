"""What run folders hold, read as far as the runs came."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxai.files.json_files import SUPERSEDED, read_lines, read_object

SPLITS = ("test_", "validation_", "evaluation_")
"""What the name of an evaluation's figure begins with."""
FIDELITY = ("frechet", "kernel", "inception", "precision", "recall", "density", "coverage", "confident", "label_acc")
"""What the figures of generated images begin with, which an evaluation measures with no split in their names."""

PER_SEED = "_per_seed"
"""What the name of a list ends with that has a value for each seed of one run."""
PICTURES = {".png": "image/png", ".gif": "image/gif"}
"""Kinds of pictures and what a page calls them."""
WARNINGS = 5
"""As many of a run's warnings are told, the last ones."""

Record = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder holds; what is missing is empty and told in `notes`."""

    label: str
    config: Record
    environment: Record
    command: str
    result: Record
    metrics: list[Record]
    timing: list[Record]
    pictures: list[tuple[Path, str]]
    seeds: list["Run"]
    notes: list[str]


def read_run(folder: Path, label: str | None = None) -> Run:
    """Reads a run folder. A run that was interrupted is read as far as it came.

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
        if not _agrees(result, seeds):
            result = _spread([seed.result for seed in seeds if seed.result])
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
    _read_json(folder / "data.json", notes)  # none of it is on the page, but a run that goes on needs it
    command = folder / "command.txt"
    return Run(
        label=label or folder.resolve().name,
        config=_read_json(folder / "config.json", notes) or (seeds[0].config if seeds else {}),
        environment=_read_json(folder / "environment.json", notes) or (seeds[0].environment if seeds else {}),
        command=command.read_text(encoding="utf-8", errors="replace").strip() if command.is_file() else "",
        result=result,
        metrics=metrics,
        timing=_read_lines(folder / "timing.jsonl", notes),
        pictures=_read_pictures(folder / "pictures", notes) or (seeds[0].pictures if seeds else []),
        seeds=seeds,
        notes=notes,
    )


def _note(path: Path, damage: str, notes: list[str]) -> None:
    """Says what is wrong with a file on the page and, with its folder, to who asked for the page."""
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
    """The last few distinct warnings of a run, each with the step at which it was last said."""
    told: dict[str, int] = {}
    for record in _read_lines(path, notes):
        text = str(record.get("warning", ""))
        told.pop(text, None)
        told[text] = record["step"]
    told.pop("", None)
    return [f"step {step:,}: {text}" for text, step in list(told.items())[-WARNINGS:]]


def _read_pictures(folder: Path, notes: list[str]) -> list[tuple[Path, str]]:
    captions = _read_json(folder / "captions.json", notes)
    found = {path.name: path for path in sorted(folder.glob("*")) if path.suffix in PICTURES}
    names = [name for name in captions if name in found] + [name for name in found if name not in captions]
    return [(found[name], str(captions.get(name, found[name].stem.replace("_", " ")))) for name in names]


def _agrees(result: Record, seeds: Sequence[Run]) -> bool:
    """Whether the figures of several seeds are those of their folders, which may have gone on since."""
    listed = {name: values for name, values in result.items() if name.endswith(PER_SEED)}
    return bool(result) and all(
        values == [seed.result.get(name.removesuffix(PER_SEED)) for seed in seeds] for name, values in listed.items()
    )


def _spread(results: Sequence[Record]) -> Record:
    """Mean, sample standard deviation and values of the figures that all results have."""
    spread: Record = {}
    for key in results[0] if results else ():
        values = [result.get(key) for result in results]
        if all(is_number(value) for value in values):
            numbers = [float(value) for value in values if value is not None]
            spread[key] = float(np.mean(numbers))
            if key.startswith((*SPLITS, *FIDELITY)):
                spread[key + "_std"] = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
                spread[key + "_per_seed"] = numbers
        elif isinstance(values[0], str) and len({*map(str, values)}) == 1:
            spread[key] = values[0]
    return spread


def histories(run: Run, source: str, key: str, clock: str = "step") -> list[tuple[np.ndarray, np.ndarray]]:
    """How a figure went in each seed: those of `NAME_per_seed` where a line has it, else those of the seeds' folders.

    Args:
      run: what was read.
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


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
