"""Comparison of a run that resumes with its folder: the data, and the fields of the configuration that may change."""

import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxai import optimizer as optimizers
from jaxai.data import digests
from jaxai.ranges import shown
from jaxai.runtime import config as configs
from jaxai.runtime import registry

__all__ = ["Changes"]

RUN = (
    *("run.mode", "run.placement", "run.steps_per_call"),
    *("run.evaluate_every", "run.checkpoint_every", "run.early_stopping"),
)
"""Fields of every workload's run that may change; its seeds may not, as all random numbers depend on them."""
STATE = ("name", "parameters")
"""Fields of an optimizer that may not change: its state depends on them."""
UNKNOWN_DATA = "{} has no data.json, as runs of earlier versions: its data and classes are not compared"
LISTED = 6
"""Largest number of changes that a message lists."""


@dataclass(frozen=True)
class Changes:
    """The fields that `--resume-with-changes` may change in an experiment, in addition to `RUN`; others are refused.

    Names are those of `config.json`, as `workload.dropout`; `*` matches any ending.

    Attributes:
      applied: fields that take effect from the step on at which the run resumes.
      measured: fields that change evaluations: earlier metrics are not compared with later ones.
      optimizers: optimizers whose fields may change, except name and parameters, where the state keeps its structure.
      never_switched: fields that may change, but not from or to 0 or an empty value.
      derived: fields that are filled in from the data.
      refused: field that may not change -> a special reason.
      scored_on: splits of the data that the metrics of an evaluation depend on.
    """

    applied: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    never_switched: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    scored_on: tuple[str, ...] = ("validation", "test")

    def check(self, before: Any, after: Any) -> list[str]:
        """Names of the fields that differ between two configurations.

        Raises:
          ValueError: one of them may not change; the message names those that may.
        """
        old, new = (configs.flatten(configs.to_dict(each)) for each in (before, after))
        for name, reason in self.refusals(before, after).items():
            raise ValueError(
                f"{name}: {old.get(name, 'nothing')} -> {new.get(name, 'nothing')} cannot change in a run that"
                f" continues: {reason}; keep it, or choose another --workdir. What may change: {self._allowed()}"
            )
        return configs.changed(old, new)

    def refusals(self, before: Any, after: Any) -> dict[str, str]:
        """The fields that differ and may not change -> the reason."""
        old, new = (configs.flatten(configs.to_dict(each)) for each in (before, after))
        # Fields with a special reason last: they may be consequences of others, as the digests of vocabularies are.
        names = sorted(configs.changed(old, new), key=lambda name: name in self.refused)
        found = {name: self._refusal(name, bool(old.get(name) and new.get(name)), before, after) for name in names}
        return {name: reason for name, reason in found.items() if reason}

    def measures_otherwise(self, names: Sequence[str], data: Mapping[str, str]) -> bool:
        """Whether metrics before and after a change cannot be compared; `data`: splits that differ."""
        return any(_matches(name, self.measured) for name in names) or bool(data.keys() & set(self.scored_on))

    def _refusal(self, name: str, on: bool, before: Any, after: Any) -> str:
        """The reason why a field may not change, "" where it may; `on`: it is neither 0 nor empty before and after."""
        if name in self.refused:
            return self.refused[name]
        if name in self.never_switched and not on:
            return "0 or empty is a different kind of run"
        owner, _, last = name.rpartition(".")
        if owner in self.optimizers and last not in STATE:
            old, new = (_field(config, owner) for config in (before, after))
            if any(getattr(old, each) != getattr(new, each) for each in STATE) or optimizers.same_state(old, new):
                return ""  # in the first case the name itself is refused
            alone = dataclasses.replace(old, **{last: getattr(new, last)})
            return "" if optimizers.same_state(old, alone) else "the optimizer's state would be different"
        known = (*self.applied, *self.measured, *self.never_switched, *self.derived, *RUN)
        return "" if _matches(name, known) else "what was trained so far depends on it"

    def _allowed(self) -> str:
        parts = [f"{name}.* but {' and '.join(STATE)}" for name in self.optimizers]
        return ", ".join(dict.fromkeys([*self.applied, *self.measured, *self.never_switched, *parts, *RUN]))


@dataclass(frozen=True)
class Differences:
    """The differences between a run that resumes and its folder, all of which are allowed.

    Attributes:
      lines: notes for the user, a line each.
      measured: whether earlier metrics cannot be compared with later ones.
    """

    lines: list[str] = field(default_factory=list)
    measured: bool = False


def compare(
    where: str,
    before: Mapping[str, Any],
    after: Any,
    data_before: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    allowed: bool,
) -> Differences:
    """Compares the configuration and the data of a run with those that it resumes with.

    Args:
      where: its folder, for messages.
      before: its configuration, from `config.json`.
      after: the resolved configuration; if its `changes` is None, every field may change.
      data_before: its data, from `data.json`; None for a run of an earlier version, which has no such file.
      data: the current data, see `jaxai.data.digests`; None for a workload that generates its own.
      allowed: whether `--resume-with-changes` was given.

    Raises:
      ValueError: there is a difference that was not allowed, or that is not possible.
    """
    after_dict = configs.to_dict(after)
    if not isinstance(before.get("type"), str):
        raise ValueError(f"cannot read {where}/config.json: it names no type of run; choose another --workdir")
    if registry.current_name(before["type"]) != after_dict["type"]:
        raise ValueError(
            f"{where} holds a run of {shown(before['type'])[1:-1]}, not of {after_dict['type']};"
            " choose another --workdir"
        )
    changes: Changes | None = after.changes
    # Fields that the version of the run did not have get their default.
    try:
        before_config = configs.from_dict_as(type(after), before)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot continue with {where}/config.json: {error}; choose another --workdir") from None
    splits = digests.differences(data_before, data) if data_before and data else {}
    if data_before and data and not splits:
        same_task = data_before.get("task") == data.get("task")
        before_config = _with_source_of(before_config, after, () if same_task else ("task",))
    lines = configs.differences(configs.to_dict(before_config), after_dict)
    if splits and changes:  # differences that follow from the data
        lines = [line for line in lines if not _matches(line.partition(":")[0], changes.derived)]
    found = [*(f"{name} data: {how}" for name, how in splits.items()), *lines]
    if found and not allowed:
        what = "other data" if not lines else "another configuration" + (" and other data" if splits else "")
        rest = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        fixed = list(changes.refusals(before_config, after)) if changes else []
        way = "; or accept the changes with --resume-with-changes (in Python resume_with_changes=True)"
        if fixed:
            way = f": {', '.join(fixed[:LISTED])} cannot change, with --resume-with-changes either"
        raise ValueError(
            f"{where} holds a run with {what} ({'; '.join(found[:LISTED])}{rest}); choose another --workdir{way}"
        )
    names = changes.check(before_config, after) if changes else []
    notes = [f"continues with changes: {'; '.join(found)}"] if found else []
    if "->" in splits.get("train", ""):
        notes.append("the training data has another length: epochs are now counted by it")
    if data and not data_before:
        notes.append(UNKNOWN_DATA.format(where))
    return Differences(notes, changes is not None and changes.measures_otherwise(names, splits))


def _with_source_of(before: Any, after: Any, kept: Sequence[str]) -> Any:
    """A configuration with the other's `data` except the fields `kept`; the content of the data is the same."""
    if not hasattr(before, "data") or not dataclasses.is_dataclass(after.data):
        return before
    fields = {name: getattr(before.data, name) for name in kept if hasattr(before.data, name)}
    return dataclasses.replace(before, data=dataclasses.replace(after.data, **fields))  # type: ignore[type-var]


def measured_on(config: Any, data: Mapping[str, Any] | None) -> dict[str, str]:
    """Digests of the configuration and of each split of the data, on which metrics depend."""
    flat = configs.flatten(configs.to_dict(config))
    # Seeds that are trained one after another have separate folders.
    kept = {name: value for name, value in flat.items() if name not in (*configs.NOT_PART_OF_THE_RUN, "run.seed")}
    digest = hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {"config": digest} | {name: split["digest"] for name, split in (data or {"splits": {}})["splits"].items()}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _field(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config
