"""Which split of a set is learnt from, chosen by and tested on, by the names that people give them."""

from collections.abc import Iterable

NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""What the folder or split of each part may be called, in any case."""

HOLD_OUT = "hold a part of the training images out: --data.test-fraction 0.2"
"""What to do with a set that has training images alone."""


def parts(names: Iterable[str], test_fraction: float, where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The split of each part, and what was decided.

    Args:
      names: of the splits that are there; others than those in NAMES are left out.
      test_fraction: above 0, test images are held out of the training images where there is no test split. At 0 the
        validation split is then the test split.
      where: the place that holds them, for the message.

    Returns:
      {"train", "test" and "validation", where there is one: its name}, and a sentence on each decision.

    Raises:
      ValueError: two names for one part, or a test split in spite of `test_fraction`.
    """
    found: dict[str, str] = {}
    for name in names:
        for part, known in NAMES.items():
            if name.casefold() in known:
                if part in found:
                    raise ValueError(f"{where} has both {found[part]} and {name}; expected one {part} split")
                found[part] = name
    found = {part: found[part] for part in NAMES if part in found}
    if "test" in found and test_fraction:
        raise ValueError(f"test_fraction is {test_fraction}, but {where} has the split {found['test']}; leave it out")
    if "validation" not in found:
        return found, ()
    if "test" in found or test_fraction:
        return found, (f"validation split: {found['validation']}",)
    found["test"] = found.pop("validation")
    return found, (f"no test split in {where}: {found['test']} is the test split",)
