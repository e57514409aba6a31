"""The figures of a result: those that are shown separately, and the spread that is shown with them."""

from typing import Any

import numpy as np

from jaxai.metrics import PER_SEED, SPREAD, Meanings, is_number
from jaxai.report.run_record import Record

__all__ = ["LISTED", "mean_of", "shown_keys", "spread_of"]

LISTED = 12
"""Number of seeds whose values are listed; with more seeds only the lowest and the highest are shown."""


def shown_keys(record: Record) -> list[str]:
    """The keys of a result that are shown separately, without those that `spread_of` shows with another."""
    return [
        key
        for key in record
        if not any(
            key.endswith(suffix) and any(f"{key.removesuffix(suffix)}{end}" in record for end in ("", "_mean"))
            for suffix in SPREAD
        )
    ]


def mean_of(record: Record, key: str) -> Any:
    """The value of a result under a key; for a list over seeds its mean."""
    numbers = _numbers(record.get(key))
    return float(np.mean(numbers)) if key.endswith(PER_SEED) and numbers else record.get(key)


def spread_of(record: Record, key: str, meanings: Meanings) -> tuple[str, str, str]:
    """The spread of a figure: deviation, 95 % interval, values per seed; empty if there is none.

    Args:
      record: a result.
      key: of the figure; `score` and `score_mean` alike have `score_low`, `score_high` and `score_per_seed`.
      meanings: of the figures.
    """
    name = key.removesuffix(PER_SEED).removesuffix("_mean")
    listed = record.get(name + PER_SEED)
    listed = listed if isinstance(listed, list) else []
    if len(listed) == 1:
        return "", "", ""
    numbers = _numbers(listed)
    deviation = record.get(key + "_std", float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None)
    low, high = record.get(name + "_low"), record.get(name + "_high")
    each = ", ".join("-" if value is None else meanings.text(key, value) for value in listed)
    if len(numbers) > LISTED:
        lowest, highest = (meanings.text(key, value) for value in (min(numbers), max(numbers)))
        each = f"{len(numbers)} seeds, {lowest} to {highest}"
    interval = f"95 %: {meanings.text(key, low)} to {meanings.text(key, high)}"
    return (
        f"± {meanings.text(key, deviation)}" if is_number(deviation) else "",
        interval if is_number(low) and is_number(high) else "",
        each,
    )


def _numbers(values: Any) -> list[float]:
    return [value for value in values if is_number(value)] if isinstance(values, list) else []
