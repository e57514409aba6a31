"""Exact transformations of text, generated from a seed: dates to ISO 8601, reversal and addition.

No source of validation or test occurs in training, and validation and test do not depend on the number of training
examples. Every target is exact by construction.
"""

import zlib
from collections.abc import Callable
from string import ascii_lowercase
from typing import TypeVar

import numpy as np

from jaxai.data.text_pairs import PairSplit

Value = TypeVar("Value")
Example = tuple[str, str]
Draw = Callable[[int, np.random.Generator], dict[str, Example]]
SHARES = {"test": 0.1, "validation": 0.1, "train": 0.8}
SPLITS = tuple(SHARES)
FIRST_DAY, AFTER_LAST_DAY = np.datetime64("1950-01-01"), np.datetime64("2051-01-01")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DATE_FORMATS = (
    "{day} {month} {year}",
    "{day} {short} {year}",
    "{day:02d} {month} {year}",
    "{day:02d} {short} {year}",
    "{ordinal} {month} {year}",
    "{ordinal} of {month} {year}",
    "{ordinal} of {month}, {year}",
    "the {ordinal} of {month} {year}",
    "{month} {day}, {year}",
    "{short} {day}, {year}",
    "{month} {day} {year}",
    "{short} {day} {year}",
    "{month} {ordinal}, {year}",
    "{weekday}, {month} {day}, {year}",
    "{weekday} {day} {month} {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday}, the {ordinal} of {month} {year}",
    "{brief} {day} {short} {year}",
    "{brief}, {short} {day}, {year}",
    "{day}-{short}-{year}",
    "{day:02d}-{short}-{year}",
    "{year} {month} {day}",
    "{year}, {month} {ordinal}",
    "{year}-{short}-{day:02d}",
    "{year}/{number:02d}/{day:02d}",
    "{year}.{number:02d}.{day:02d}",
)
"""All are unambiguous: the month is a name, or the year comes first."""


def dates(counts: dict[str, int], seed: int) -> dict[str, PairSplit]:
    """Dates from 1950 to 2050 in common formats, in mixed or lower case -> "1998-05-05".

    A tenth of all days is in validation and a tenth in test, in all formats.

    Args:
      counts: number of examples of "train", "validation" and "test".
      seed: determines the examples.

    Raises:
      ValueError: more examples than half of the days of a split in all formats.
    """
    random = np.random.default_rng(seed)
    days = random.permutation(np.arange(FIRST_DAY, AFTER_LAST_DAY))
    tenth = len(days) // 10
    parts = {"test": days[:tenth], "validation": days[tenth : 2 * tenth], "train": days[2 * tenth :]}
    splits = {}
    for split, generator in zip(SPLITS, random.spawn(len(SPLITS)), strict=True):
        part = parts[split]

        def draw(count: int, part: np.ndarray = part, generator: np.random.Generator = generator) -> dict[str, str]:
            return _written(generator.choice(part, count), generator)

        _check_count(f"{split} dates", counts[split], len(part) * len(DATE_FORMATS))
        splits[split] = _pairs(_distinct(draw, counts[split]))
    return splits


def reverse(counts: dict[str, int], seed: int, longest: int) -> dict[str, PairSplit]:
    """Strings of 1 to `longest` lower-case letters -> the reversed string, with all lengths equally frequent.

    Args:
      counts: number of examples of "train", "validation" and "test".
      seed: determines the examples.
      longest: maximum length, at least 1.

    Raises:
      ValueError: more examples than half of the existing strings.
    """

    def draw(count: int, random: np.random.Generator) -> dict[str, Example]:
        letters = letter_codes[random.integers(0, len(letter_codes), (count, longest))]
        rows = letters.view(f"U{longest}").ravel().tolist()
        lengths = random.integers(1, longest + 1, count).tolist()
        texts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return {text: (text, text[::-1]) for text in texts}

    if longest < 1:
        raise ValueError(f"the longest string has {longest} letters; expected at least 1")
    letter_codes = np.array(list(ascii_lowercase))
    return _divided(draw, counts, seed, (26 ** (longest + 1) - 26) // 25, f"strings of at most {longest} letters")


def addition(counts: dict[str, int], seed: int, digits: int) -> dict[str, PairSplit]:
    """Sums of two numbers of 1 to `digits` digits -> their result: "123+45" -> "168".

    Two numbers occur in one order only, so that no test example is a training example with exchanged numbers.

    Args:
      counts: number of examples of "train", "validation" and "test".
      seed: determines the examples.
      digits: maximum number of digits of a number, 1 to 17.

    Raises:
      ValueError: more examples than half of the existing sums, or more than 17 digits.
    """

    def draw(count: int, random: np.random.Generator) -> dict[str, Example]:
        limits = 10 ** random.integers(1, digits + 1, (count, 2))
        numbers = random.integers(0, limits)
        rows = zip(np.sort(numbers, axis=1).tolist(), numbers.tolist(), strict=True)
        return {f"{low}+{high}": (f"{first}+{second}", str(low + high)) for (low, high), (first, second) in rows}

    if not 1 <= digits <= 17:
        raise ValueError(f"numbers of {digits} digits; expected 1 to 17")
    there = 10**digits * (10**digits + 1) // 2
    return _divided(draw, counts, seed, there, f"sums of numbers of at most {digits} digits")


def _divided(draw: Draw, counts: dict[str, int], seed: int, there: int, what: str) -> dict[str, PairSplit]:
    """Examples of each split: a tenth of all keys is in validation and a tenth in test, by a hash of the key.

    Args:
      draw: returns examples by key; equal keys are the same example, and an example may be drawn twice.
      counts: number of examples of each split.
      seed: of the draws.
      there: number of different keys.
      what: the examples in words, for the message.
    """
    splits = {}
    for split, random in zip(SPLITS, np.random.default_rng(seed).spawn(len(SPLITS)), strict=True):
        share = SHARES[split]

        def draw_split(count: int, split: str = split, random: np.random.Generator = random) -> dict[str, Example]:
            drawn = draw(int(count / SHARES[split]), random)
            return {key: example for key, example in drawn.items() if _split_of(key) == split}

        _check_count(f"{split} {what}", counts[split], int(share * there))
        examples = _distinct(draw_split, counts[split])
        splits[split] = _pairs(dict(examples.values()))
    return splits


def _split_of(key: str) -> str:
    return {0: "test", 1: "validation"}.get(zlib.crc32(key.encode()) % 10, "train")


def _check_count(what: str, wanted: int, there: int) -> None:
    # Drawing without repetition is slow where nearly all examples are needed.
    if wanted < 0 or 2 * wanted > there:
        raise ValueError(f"{wanted} {what} requested; expected 0 to {there // 2}, half of those that exist")


def _distinct(draw: Callable[[int], dict[str, Value]], count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    in_vain = 0
    while len(found) < count:
        before = len(found)
        for key, value in draw(count - before + 16).items():
            found.setdefault(key, value)
        in_vain = in_vain + 1 if len(found) == before else 0
        if in_vain == 100:
            raise ValueError(f"{count} different examples requested, but there are only about {before}; request fewer")
    return dict(list(found.items())[:count])


def _pairs(examples: dict[str, str]) -> PairSplit:
    return PairSplit(tuple(examples), tuple(examples.values()))


def _written(days: np.ndarray, random: np.random.Generator) -> dict[str, str]:
    """One spelling of each day -> its ISO 8601 form."""
    months = days.astype("datetime64[M]")
    # 1 January 1970 was a Thursday.
    weekdays = ((days.astype(int) + 3) % 7).tolist()
    years = (days.astype("datetime64[Y]").astype(int) + 1970).tolist()
    numbers = (months.astype(int) % 12 + 1).tolist()
    days_of_month = ((days - months).astype(int) + 1).tolist()
    formats = random.integers(0, len(DATE_FORMATS), len(days)).tolist()
    lower = (random.random(len(days)) < 0.5).tolist()
    rows = zip(
        np.datetime_as_string(days).tolist(), formats, lower, weekdays, years, numbers, days_of_month, strict=True
    )
    written = {}
    for iso, form, is_lower, weekday, year, number, day in rows:
        month = MONTHS[number - 1]
        text = DATE_FORMATS[form].format(
            **{"day": day, "ordinal": _ordinal(day), "number": number, "year": year},
            **{"month": month, "short": month[:3], "weekday": WEEKDAYS[weekday], "brief": WEEKDAYS[weekday][:3]},
        )
        written[text.lower() if is_lower else text] = iso
    return written


def _ordinal(day: int) -> str:
    return f"{day}{'th' if 10 <= day <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
