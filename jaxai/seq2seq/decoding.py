"""Options of decoding, for presets and the command line."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jaxai import ranges
from jaxai.ranges import Count, Natural, NonNegative, Positive, Range
from jaxai.seq2seq.model import Model

__all__ = ["BY_METHOD", "Decoding", "Method", "check_decoding", "with_options"]

Method = Literal["beam", "greedy", "sample"]
TopP = Annotated[float, Range(above=0, most=1)]
# With larger values, a model that never predicts END would use all memory.
LongestRatio = Annotated[float, Range(least=0, most=100)]
LongestExtra = Annotated[int, Range(least=1, most=10_000)]


@dataclass(frozen=True)
class Decoding:
    """Options of decoding."""

    method: Method = "beam"  # beam, greedy, or sample
    beam: Count = 4  # number of live hypotheses of the beam search
    length_penalty: NonNegative = 0.6  # exponent of the length by which scores are divided (Wu et al. 2016); 0: none
    coverage_penalty: NonNegative = 0.0  # weight of source tokens without attention (Wu et al. 2016); 0: none
    temperature: Positive = 1.0  # of sampling; below 1 prefers probable tokens
    top_k: Natural = 0  # number of the most probable tokens that sampling draws from; 0: all
    top_p: TopP = 1.0  # total probability of the most probable tokens that sampling draws from; 1: all tokens
    longest_ratio: LongestRatio = 2.0  # maximum length = longest_ratio * source length + longest_extra
    longest_extra: LongestExtra = 10  # tokens; see longest_ratio


BY_METHOD = {"beam": "beam", "coverage_penalty": "beam", "temperature": "sample", "top_k": "sample", "top_p": "sample"}
"""Fields of `Decoding` that have an effect with one method only -> that method."""


def with_options(decoding: Decoding, model: Model, n_best: int = 1, **options: Any) -> Decoding:
    """How to search, with some fields changed.

    Args:
      decoding: before the change.
      model: whose target vocabulary and attention it has to fit.
      n_best: number of translations of each sentence; the beam becomes at least this wide, unless `beam` is given.
      options: fields of `Decoding`; None leaves one as it is.

    Raises:
      ValueError: a field is out of its range, or has no effect with the method; one line.
    """
    given = {name: value for name, value in options.items() if value is not None}
    changed = dataclasses.replace(decoding, **given)
    for name in given:
        if name in BY_METHOD and BY_METHOD[name] != changed.method:
            raise ValueError(f"{name} has no effect with method {changed.method}; give --method {BY_METHOD[name]}")
    if n_best > changed.beam and "beam" not in given:
        changed = dataclasses.replace(changed, beam=n_best)
    check_decoding(changed, model, n_best, prefix="")
    return changed


def check_decoding(decoding: Decoding, model: Model, n_best: int = 1, prefix: str = "decoding.") -> None:
    """Refuses options that are out of range or do not fit the model.

    Args:
      decoding: the options.
      model: the network, with its target vocabulary and attention.
      n_best: number of translations of each sentence.
      prefix: text before a field's name in messages, as the user types it.

    Raises:
      ValueError: one line that begins with the name of the field.
    """
    ranges.check(decoding, prefix)
    for name in ("beam", "top_k"):
        if (value := getattr(decoding, name)) > model.target_vocabulary:
            raise ValueError(
                f"{prefix}{name} is {value}; it must be at most {model.target_vocabulary}, the size of the target's "
                "vocabulary"
            )
    if decoding.coverage_penalty and model.attention == "none":
        raise ValueError(
            f"{prefix}coverage_penalty is {decoding.coverage_penalty}; it must be 0 for a model without attention"
        )
    if n_best > 1 and decoding.method != "beam":
        raise ValueError(f"n_best is {n_best}, but {decoding.method} finds one translation; take {prefix}method beam")
    if n_best < 1 or (decoding.method == "beam" and n_best > decoding.beam):
        raise ValueError(f"n_best is {n_best}; it must be between 1 and {decoding.beam}, which is {prefix}beam")
