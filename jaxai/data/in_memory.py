"""Your own arrays and texts, with checks that name the arguments: `arrays(x, y, x_test, y_test)`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeGuard

import numpy as np

from jaxai.data import holdout
from jaxai.data.image_checks import Named, check, check_names
from jaxai.data.image_source import Split
from jaxai.data.images import Images, check_images
from jaxai.data.npz import numbered
from jaxai.data.text_pairs import Pairs, PairSplit, check_pairs
from jaxai.normalisation import normalise
from jaxai.ranges import shown

__all__ = ["arrays", "as_array", "images_of", "is_share", "pairs"]


def arrays(
    x: Any,
    y: Any,
    x_test: Any = None,
    y_test: Any = None,
    *,
    classes: Sequence[str] | int | None = None,
    validation: tuple[Any, Any] | float | None = None,
    test_fraction: float = 0.0,
    name: str = "arrays",
) -> Images:
    """Your own labelled images, for `train` and `evaluate` of an experiment.

    Arrays may be NumPy arrays, also memory-mapped, JAX arrays, other values that `numpy.asarray` accepts, or lists.
    NumPy arrays are not copied. Images of float64 and int64 are refused and not converted, because their range is
    ambiguous. Lists have no dtype: floats become float32, and integers in [0, 255] uint8.

    Args:
      x: training images [examples, height, width, channels], or [examples, height, width] for one channel; uint8 in
        [0, 255], float32 in [0, 1], or bool.
      y: their labels [examples], integers in [0, number of classes).
      x_test: test images of the same height, width and channels.
      y_test: their labels.
      classes: class names in label order, or their number; None: the numbers up to the largest label in `y`.
      validation: (images, labels) for choosing the best checkpoint, or the share of the training images of each class
        to hold out for it, above 0 and below 1; None: no validation split.
      test_fraction: share of the training images of each class to hold out, in place of `x_test` and `y_test`. Holding
        out a share copies the images into memory.
      name: of the data, in messages and the run folder.

    Returns:
      The images, checked.

    Raises:
      ValueError: one line that names the argument, the index and the value, what was expected and the fix.

    >>> import numpy
    >>> x, y = numpy.zeros((6, 8, 8), numpy.float64), numpy.arange(6) % 2
    >>> arrays(x, y, x, y)
    Traceback (most recent call last):
    ValueError: x: images have dtype float64; expected uint8 or float32: give x.astype(numpy.float32), in [0, 1]
    """
    if (x_test is None) != (y_test is None):
        missing, given = ("y_test", "x_test") if y_test is None else ("x_test", "y_test")
        raise ValueError(f"{missing} is None, but {given} is given; give both")
    given_as = {"train": (x, y, Named("x", "y", "x", "y"))}
    fractions: dict[str, tuple[float, str]] = {}
    if x_test is not None:
        if test_fraction:
            raise ValueError(f"test_fraction is {test_fraction}, but x_test is given: leave one of them out")
        given_as["test"] = (x_test, y_test, Named("x_test", "y_test", "x_test", "y_test"))
    elif test_fraction:
        fractions["test"] = test_fraction, "test_fraction"
    else:
        raise ValueError("x_test is None; give x_test and y_test, or hold out a part of x: test_fraction=0.2")
    if is_share(validation):
        fractions["validation"] = validation, "validation"
    elif validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            kind = type(validation).__name__
            raise ValueError(f"validation is a {kind}; expected (images, labels), or the share of x to hold out")
        names = "validation[0]", "validation[1]"
        given_as["validation"] = (*validation, Named(*names, *names))
    return images_of(given_as, fractions, classes, name)


def images_of(
    given: Mapping[str, tuple[Any, Any, Named]],
    fractions: Mapping[str, tuple[float, str]],
    classes: Sequence[str] | int | None,
    name: str,
) -> Images:
    """Images from arrays of each split.

    Args:
      given: split -> images, labels, and their names for messages; train, and optionally test and validation.
      fractions: split to hold out from the training images -> the share, and its name for messages; test first.
      classes: see `arrays`.
      name: of the data.

    Raises:
      ValueError: see `arrays`.
    """
    for share, argument in fractions.values():
        _check_share(share, argument)
    splits = {part: _images_and_labels(images, labels, named) for part, (images, labels, named) in given.items()}
    train, of_train = splits["train"], given["train"][2]
    found = _class_names(classes, train["label"], of_train.labels)
    for part, split in splits.items():
        named = given[part][2]
        check(split["image"], split["label"], len(found), named)
        shapes = [list(each["image"].shape[1:]) for each in (split, train)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{named.images}: images are {shapes[0]}, but those of {of_train.images} {shapes[1]}; bring them to one"
                " size"
            )
    notes = []
    for part, (share, argument) in fractions.items():
        splits["train"], splits[part], note = holdout.hold_out(splits["train"], part, share, argument)
        notes.append(note)
    return check_images(Images(splits["train"], splits["test"], found, name, splits.get("validation"), tuple(notes)))


def pairs(
    sources: Iterable[str],
    targets: Iterable[str],
    sources_test: Iterable[str] | None = None,
    targets_test: Iterable[str] | None = None,
    *,
    validation: tuple[Iterable[str], Iterable[str]] | float = 0.05,
    test_fraction: float = 0.05,
    task: Literal["translation", "pronunciation", "transformation"] = "translation",
    name: str = "pairs",
) -> Pairs:
    """Your own pairs of texts, for `train` and `evaluate` of a translation experiment.

    Args:
      sources: input texts, for training.
      targets: output texts, one for each source.
      sources_test: sources for the final results; None: a part of the training pairs is held out.
      targets_test: their targets.
      validation: (sources, targets) for choosing the best checkpoint, or the share of the different training sources
        to hold out for it, above 0 and below 1.
      test_fraction: share of the different training sources to hold out where `sources_test` is None.
      task: decides which scores are computed: translation (BLEU, chrF), pronunciation (word and phoneme error) or
        transformation (exact matches, character error).
      name: of the data, in messages and the run folder.

    Returns:
      The pairs, checked.

    Raises:
      ValueError: one line that names the argument, the index and the value, what was expected and the fix.

    >>> pairs(["one", "two"], ["eins"])
    Traceback (most recent call last):
    ValueError: sources has 2 texts, but targets 1; expected the same number, one target for each source
    """
    splits = {"train": _pair_split(sources, targets, ("sources", "targets"))}
    fractions: dict[str, float] = {}
    if is_share(validation):
        fractions["validation"] = _check_share(validation, "validation")
    elif isinstance(validation, tuple | list) and len(validation) == 2:
        splits["validation"] = _pair_split(validation[0], validation[1], ("validation[0]", "validation[1]"))
    else:
        raise ValueError(
            f"validation is {validation!r:.60}; expected (sources, targets), or the share of the sources to hold out"
        )
    if (sources_test is None) != (targets_test is None):
        missing, given = ("targets_test", "sources_test") if targets_test is None else ("sources_test", "targets_test")
        raise ValueError(f"{missing} is None, but {given} is given; give both")
    if sources_test is not None and targets_test is not None:
        splits["test"] = _pair_split(sources_test, targets_test, ("sources_test", "targets_test"))
    else:
        fractions["test"] = _check_share(test_fraction, "test_fraction")
    notes: tuple[str, ...] = ()
    if fractions:
        whole = len(splits["train"].sources)
        splits |= holdout.by_source(splits["train"], fractions, 0, name, "validation and test_fraction")
        sizes = " and ".join(f"{len(splits[split].sources)} for {split}" for split in fractions)
        notes = (f"held out of {whole} training pairs: {sizes}",)
    return check_pairs(Pairs(splits["train"], splits["validation"], splits["test"], name, task, notes))


def as_array(value: Any, name: str) -> np.ndarray:
    """A user's argument as a NumPy array; a NumPy array is not copied.

    Args:
      value: an array, or nested lists of numbers.
      name: of the argument, for the message.

    Raises:
      ValueError: it is None or cannot be converted; one line that names the argument.
    """
    if value is None:
        raise ValueError(f"{name} is None; expected an array")
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except Exception as error:
        reason = " ".join(str(error).split())
        hint = "; bring all images to one size" if "inhomogeneous" in reason else ""
        raise ValueError(
            f"{name} is a {type(value).__name__} that cannot be converted to an array: {reason:.150}{hint}"
        ) from error
    if not hasattr(value, "dtype"):  # a list, whose numbers have no dtype
        if array.dtype == np.float64:
            return array.astype(np.float32)
        if array.dtype == np.int64 and array.ndim > 1 and array.size and array.min() >= 0 and array.max() <= 255:
            return array.astype(np.uint8)
    return array


def is_share(value: Any) -> TypeGuard[float]:
    """Whether an argument is a number, which is then the share to hold out."""
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool)


def _images_and_labels(x: Any, y: Any, named: Named) -> Split:
    if y is None:
        raise ValueError(
            f"{named.labels} is None; expected labels [examples]; for images without labels, give"
            f" numpy.zeros(len({named.images}), int)"
        )
    images, labels = as_array(x, named.images), as_array(y, named.labels)
    if not images.size:
        raise ValueError(f"{named.images} has no images; expected at least one")
    return {"image": images[..., None] if images.ndim == 3 else images, "label": labels}


def _class_names(classes: Sequence[str] | int | None, labels: np.ndarray, where: str) -> tuple[str, ...]:
    if classes is None:
        return numbered(labels, where)
    if isinstance(classes, int | np.integer) and not isinstance(classes, bool):
        if classes < 1:
            raise ValueError(f"classes is {classes}; expected at least 1, or the names of the classes")
        return tuple(str(label) for label in range(classes))
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ValueError(f"classes is {classes!r:.60}; expected the names of the classes, as a list, or their number")
    names = tuple(str(name) if isinstance(name, np.str_) else name for name in classes)
    check_names(names, "classes")
    return names


def _check_share(value: Any, name: str) -> float:
    number = isinstance(value, int | float | np.floating)
    if not number or not 0 < value < 1:
        raise ValueError(
            f"{name} is {format(value, 'g') if number else shown(value)}; expected a share above 0 and below 1"
        )
    return float(value)


def _pair_split(sources: Iterable[str], targets: Iterable[str], names: tuple[str, str]) -> PairSplit:
    sides = []
    for texts, name in zip((sources, targets), names, strict=True):
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise ValueError(f"{name} is a {type(texts).__name__}; expected a list of texts")
        side = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"{name}: the text at index {index} is a {type(text).__name__}; expected a str")
            if not normalise(text):
                raise ValueError(f"{name}: the text at index {index} is empty; leave the pair out")
            side.append(str(text).strip())
        sides.append(tuple(side))
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"{names[0]} has {len(sides[0])} texts, but {names[1]} {len(sides[1])}; expected the same number, one"
            " target for each source"
        )
    if not sides[0]:
        raise ValueError(f"{names[0]} has no texts; expected at least one")
    return PairSplit(sides[0], sides[1])
