"""Edit distances, with and without the package that computes them fast."""

import functools
from collections.abc import Callable, Hashable, Sequence

__all__ = ["edit_distance", "plain_edit_distance"]

Tokens = Sequence[Hashable]


def edit_distance(a: Tokens, b: Tokens) -> int:
    """The smallest number of insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    fast = _rapidfuzz()
    return fast(a, b) if fast else plain_edit_distance(a, b)


def plain_edit_distance(a: Tokens, b: Tokens) -> int:
    """The same without a package, so that bundled tasks are scored without the extra `text`."""
    if a == b:
        return 0
    above = list(range(len(b) + 1))
    for row, left in enumerate(a, 1):
        here = [row]
        for column, right in enumerate(b, 1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (left != right)))
        above = here
    return above[-1]


@functools.cache
def _rapidfuzz() -> Callable[[Tokens, Tokens], int] | None:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        return None
    return Levenshtein.distance
