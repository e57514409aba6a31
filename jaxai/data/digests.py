"""Descriptions of data: class names, shapes, and digests of the arrays or texts, wherever they were read from."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxai.data.image_source import Split
from jaxai.data.images import Images
from jaxai.data.text_pairs import Pairs, PairSplit

__all__ = [
    "describe_images",
    "describe_pairs",
    "differences",
    "digest_of_arrays",
    "digest_of_texts",
    "is_description",
    "relabel",
]

SHOWN = 5
"""Largest number of class names in a message."""
READ_WHOLE = 2**31
"""The digest of arrays up to this number of bytes covers all bytes, at about 1 GB/s; above, only `SAMPLED` blocks."""
SAMPLED, BLOCK = 4096, 2**16
"""Number and bytes of the blocks of a larger array; evenly spaced, the last one at the end."""


def describe_images(images: Images, labels: bool = True) -> dict[str, Any]:
    """The description of images in a run folder, as JSON values.

    Args:
      images: checked images.
      labels: include labels and class names.

    Returns:
      `source`, `classes` (in label order), `features` (shape and dtype of an example), and for each split its number of
      `examples` and `digest`.
    """
    found = {"train": images.train, "validation": images.validation, "test": images.test}
    splits = {
        name: {
            "examples": len(split["image"]),
            "digest": digest_of_arrays(split if labels else {"image": split["image"]}),
        }
        for name, split in found.items()
        if split
    }
    features = {"image": {"shape": list(images.shape), "dtype": images.train["image"].dtype.name}}
    if labels:
        features["label"] = {"shape": [], "dtype": images.train["label"].dtype.name}
    classes = {"classes": list(images.classes)} if labels else {}
    return {"source": images.name, **classes, "features": features, "splits": splits}


def describe_pairs(pairs: Pairs) -> dict[str, Any]:
    """The description of pairs in a run folder: `source`, `task`, and `examples` and `digest` of each split."""
    found = {"train": pairs.train, "validation": pairs.validation, "test": pairs.test}
    splits = {name: {"examples": len(split.sources), "digest": digest_of_texts(split)} for name, split in found.items()}
    return {"source": pairs.name, "task": pairs.task, "splits": splits}


def digest_of_arrays(arrays: Split) -> str:
    """16 hexadecimal digits that depend on all names, dtypes, shapes and elements; large arrays: see `READ_WHOLE`."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for block in _blocks(array):
            digest.update(block)
    return digest.hexdigest()


def _blocks(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array in C order; for a large one the sampled blocks."""
    if array.nbytes <= READ_WHOLE or not array.flags.c_contiguous:
        rows = max(1, 2**26 // max(1, array[:1].nbytes))
        for start in range(0, max(1, len(array)), rows):
            yield np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8).data
        return
    whole = array.reshape(-1).view(np.uint8)
    for start in np.linspace(0, whole.size - BLOCK, SAMPLED, dtype=np.int64):
        yield whole[start : start + BLOCK].data


def digest_of_texts(split: PairSplit) -> str:
    """16 hexadecimal digits that depend on all sources, targets and references."""
    digest = hashlib.blake2b(digest_size=8)
    for field in (split.sources, split.targets, *(split.references or ())):
        # The length of each text comes first, so that other boundaries give another digest.
        digest.update(f"{len(field)} {' '.join(str(len(text)) for text in field)}\n".encode())
        digest.update("".join(field).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def is_description(values: Mapping[str, Any]) -> bool:
    """Whether values read from a file have the form of `describe_images` or `describe_pairs`."""
    splits, classes = values.get("splits"), values.get("classes", [])
    return (
        isinstance(splits, dict)
        and all(isinstance(split, dict) for split in splits.values())
        and all(isinstance(split.get("digest"), str) for split in splits.values())
        and all(isinstance(split.get("examples"), int) for split in splits.values())
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
    )


def differences(previous: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, str]:
    """Each split that differs -> a description of the difference; classes are compared by `relabel`."""
    found = {}
    old, new = previous["splits"], current["splits"]
    for name in dict.fromkeys((*old, *new)):
        if name not in old or name not in new:
            found[name] = "it is missing now" if name in old else "it is new"
        elif old[name]["digest"] != new[name]["digest"]:
            counts = old[name]["examples"], new[name]["examples"]
            found[name] = f"{counts[0]:,} -> {counts[1]:,} examples" if len({*counts}) > 1 else "other content"
    return found


def relabel(images: Images, classes: Sequence[str], where: str, subset: bool = False) -> Images:
    """The same images with labels in the order of `classes`; classes are matched by name.

    Args:
      images: classes in any order.
      classes: names in the required order.
      where: the run with these classes, for the message.
      subset: some classes may be missing in `images`.

    Raises:
      ValueError: `images` has a class that is not in `classes`, or lacks one of them.
    """
    if tuple(images.classes) == tuple(classes):
        return images
    known = set(classes)
    unknown = [name for name in images.classes if name not in known]
    missing = [name for name in classes if name not in set(images.classes)]
    if unknown or (missing and not subset):
        wrong = f"has the class {unknown[0]}" if unknown else f"lacks the class {missing[0]}"
        raise ValueError(
            f"{images.name} {wrong}, but {where} was trained on {_some(classes)}; give data of the same classes, or"
            " choose another --workdir"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    table = np.array([label_of[name] for name in images.classes])

    def relabelled(split: Split | None) -> Split | None:
        return split and {**split, "label": table.astype(split["label"].dtype)[split["label"]]}

    return dataclasses.replace(
        images,
        train=relabelled(images.train) or {},
        test=relabelled(images.test) or {},
        validation=relabelled(images.validation),
        classes=tuple(classes),
    )


def _some(classes: Sequence[str]) -> str:
    rest = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    return ", ".join(classes[:SHOWN]) + rest
