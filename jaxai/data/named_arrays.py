"""Arrays of any kind under any names, checked: the data of `jaxai.train`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxai.data.digests import digest_of_arrays

RESERVED = {"index": "the number of each example", "mask": "whether an example counts"}
"""Names that jaxai adds to the batches of a step or of an evaluation."""
NARROW = {"float64": np.float32, "int64": np.int32, "uint64": np.uint32, "complex128": np.complex64}
"""64-bit dtypes, which JAX does not use by default -> the dtype that they are converted to."""


def check_named_arrays(where: str, arrays: Any) -> dict[str, np.ndarray]:
    """Arrays with the same number of examples, in dtypes that JAX uses by default.

    64-bit numbers are converted to 32 bits, as JAX would do silently; integers out of the range of 32 bits are refused.
    Other NumPy arrays are not copied.

    Args:
      where: name of the argument, for messages.
      arrays: name -> array [examples, ...], or another value that `numpy.asarray` accepts.

    Raises:
      ValueError: one line that names the array, what was found and what was expected.
    """
    if not isinstance(arrays, Mapping) or not arrays:
        kind = "an empty dict" if isinstance(arrays, Mapping) else f"a {type(arrays).__name__}"
        raise ValueError(f"{where} is {kind}; expected a dict of arrays: {where}={{'x': ..., 'y': ...}}")
    found = {name: _checked(where, name, array) for name, array in arrays.items()}
    lengths = {name: len(array) for name, array in found.items()}
    if len({*lengths.values()}) > 1:
        counts = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise ValueError(f"{where} has arrays of different lengths ({counts}); expected the same number of examples")
    if not next(iter(lengths.values())):
        raise ValueError(f"{where} has no examples; expected at least one")
    return found


def describe_named_arrays(splits: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Their description in a run folder, as JSON values: `source`, `features`, and `examples` and `digest` by split."""
    train = next(iter(splits.values()), {})
    features = {name: {"shape": list(array.shape[1:]), "dtype": array.dtype.name} for name, array in train.items()}
    found = {
        name: {"examples": len(next(iter(arrays.values()))), "digest": digest_of_arrays(dict(arrays))}
        for name, arrays in splits.items()
    }
    return {"source": "arrays", "features": features, "splits": found}


def _checked(where: str, name: Any, array: Any) -> np.ndarray:
    if not isinstance(name, str) or name in RESERVED:
        why = f"is the name of {RESERVED[name]}, which jaxai adds" if name in RESERVED else "is not a string"
        raise ValueError(f"{where} has an array {name!r}, which {why}; choose another name")
    place = f"{where}[{name!r}]"
    try:
        found = np.asarray(array)
    except ValueError as error:  # of lists of different lengths
        raise ValueError(f"{place} cannot be converted to an array: {' '.join(str(error).split()):.100}") from None
    if found.ndim == 0:
        raise ValueError(f"{place} is a single value; expected an array [examples, ...]")
    if found.dtype.kind not in "biufcV" or found.dtype.names:
        raise ValueError(f"{place} has dtype {found.dtype}; expected numbers: encode texts and objects as integers")
    if found.dtype.name not in NARROW:
        return found
    narrow = np.dtype(NARROW[found.dtype.name])
    if narrow.kind in "iu" and found.size:
        least, most = int(found.min()), int(found.max())
        limits = np.iinfo(narrow.name)
        if least < limits.min or most > limits.max:
            value = most if most > limits.max else least
            raise ValueError(
                f"{place} has the value {value}, which {narrow} does not hold, and JAX has no {found.dtype} by default"
            )
    return found.astype(narrow)
