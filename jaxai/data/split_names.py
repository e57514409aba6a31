"""The common names of training, validation and test splits."""

from collections.abc import Iterable

NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Names of the folder or split of each part, in upper or lower case."""

HOLD_OUT = "hold a part of the training images out: --data.test-fraction 0.2"
"""Advice for a set that has only training images."""


def named(names: Iterable[str], where: str) -> dict[str, str]:
    """Part -> name of its split; splits with other names than those in NAMES are left out.

    Args:
      names: of the existing splits.
      where: their location, for the message.

    Raises:
      ValueError: two names for one part.
    """
    found: dict[str, str] = {}
    for name in names:
        for part, known in NAMES.items():
            if name.casefold() in known:
                if part in found:
                    raise ValueError(f"{where} has both {found[part]} and {name}; expected one {part} split")
                found[part] = name
    return {part: found[part] for part in NAMES if part in found}


def parts(names: Iterable[str], test_fraction: float, where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """As `named`, with the validation split in place of a missing test split, and notes on these decisions.

    Args:
      names: of the existing splits.
      test_fraction: above 0: test images are held out from the training images, and no split replaces a test split.
      where: location of the splits, for the message.

    Raises:
      ValueError: two names for one part, or a test split in spite of `test_fraction`.
    """
    found = named(names, where)
    if "test" in found and test_fraction:
        raise ValueError(
            f"data.test_fraction is {test_fraction}, but {where} has the split {found['test']}: leave it out"
        )
    if "validation" not in found:
        return found, ()
    if "test" in found or test_fraction:
        return found, (f"validation split: {found['validation']}",)
    found["test"] = found.pop("validation")
    return found, (f"no test split in {where}: {found['test']} is the test split",)
