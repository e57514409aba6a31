"""Compares two result files, or in one file the newest commit with the one measured before it.

    python -m benchmarks.compare OLD.jsonl NEW.jsonl
    python -m benchmarks.compare benchmarks/results/cpu-2core/cnn.jsonl

Exits 1 if something became slower by more than the spread of the blocks.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import records

MEASURES = {
    "examples_per_second_per_chip": True,
    "env_steps_per_second_per_chip": True,
    "target_tokens_per_second_per_chip": True,
    "seconds_to_first_step": False,
}
"""Field that a record is judged by -> whether more is better."""


class Comparison(NamedTuple):
    """A case before and after.

    Attributes:
      speed: how many times as fast as before, whichever way the figure counts.
      verdict: "faster" or "slower" where each median lies outside the range of the other's blocks, or "within spread".
    """

    case: str
    old: dict[str, Any]
    new: dict[str, Any]
    measure: str
    speed: float
    verdict: str


def latest(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last record of each case."""
    return {record["case"]: record for record in found}


def history(found: Sequence[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """For each case the last record of another commit than its newest, and the newest."""
    newest = latest(found)
    before = latest([record for record in found if record["commit"] != newest[record["case"]]["commit"]])
    return before, newest


def compare(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> list[Comparison]:
    """The cases that both have, in the order of `new`."""
    return [_compare(old[case], new[case]) for case in new if case in old]


def _compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    measure = next((name for name in MEASURES if name in old and name in new), None)
    if measure is None:
        raise ValueError(f"the records of {new['case']!r} share none of {', '.join(MEASURES)}")
    before, now = old[measure], new[measure]
    ratio = now["median"] / before["median"]
    speed = ratio if MEASURES[measure] else 1 / ratio
    apart = not (before["min"] <= now["median"] <= before["max"] or now["min"] <= before["median"] <= now["max"])
    verdict = ("faster" if speed > 1 else "slower") if apart else "within spread"
    return Comparison(new["case"], old, new, measure, speed, verdict)


def table(compared: Sequence[Comparison]) -> Table:
    """A row a case."""
    shown = Table("case", "measure", "before", "now", "times as fast", "verdict", "flags")
    for one in compared:
        before, now = one.old[one.measure], one.new[one.measure]
        flags = [f"{when}: {flag}" for when, r in (("before", one.old), ("now", one.new)) for flag in r["flags"]]
        chips = {r["environment"]["devices"]["name"] for r in (one.old, one.new)}
        shown.add_row(
            one.case,
            one.measure.replace("_", " "),
            *(f"{side['median']:,.4g} ({side['min']:,.4g} to {side['max']:,.4g})" for side in (before, now)),
            f"{one.speed:.2f}",
            one.verdict,
            "; ".join(flags + (["different chips"] if len(chips) > 1 else [])),
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 1 if something became slower, 2 for a user's mistake."""

    def parse(files: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> tuple[Path, ...]:
        """Compare two result files, or in one file the newest commit with the one before it.

        Args:
          files: OLD.jsonl NEW.jsonl, or one history
        """
        return files

    files = tyro.cli(parse, args=arguments, prog="python -m benchmarks.compare")
    try:
        if len(files) not in (1, 2):
            raise ValueError(f"{len(files)} files; give two, or one with records of several commits")
        found = [records.read(file) for file in files]
        old, new = (latest(found[0]), latest(found[1])) if len(files) == 2 else history(found[0])
        compared = compare(old, new)
    except ValueError as error:
        print(f"benchmarks.compare: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    console = Console(width=None if sys.stdout.isatty() else 200)
    if not compared:
        console.print("no case was measured on both sides")
        return
    console.print(table(compared))
    if any(one.verdict == "slower" for one in compared):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
