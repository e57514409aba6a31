"""How the target is searched for, as a preset and the command line say it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxai import ranges
from jaxai.ranges import Count, Natural, NonNegative, Positive, Range
from jaxai.seq2seq.model import Model

Method = Literal["beam", "greedy", "sample"]
TopP = Annotated[float, Range(above=0, most=1)]
# Beyond these a model that never ends would fill the memory.
LongestRatio = Annotated[float, Range(least=0, most=100)]
LongestExtra = Annotated[int, Range(least=1, most=10_000)]


@dataclass(frozen=True)
class Decoding:
    """How the target is searched for."""

    method: Method = "beam"  # beam, greedy, or sample
    beam: Count = 4  # hypotheses that the beam search goes on with
    length_penalty: NonNegative = 0.6  # exponent of the length that scores are divided by (Wu et al. 2016); 0: none
    coverage_penalty: NonNegative = 0.0  # weight of source tokens that nothing attended to (Wu et al. 2016); 0: none
    temperature: Positive = 1.0  # of sampling; below 1 takes likely tokens more often
    top_k: Natural = 0  # number of the likeliest tokens that sampling draws from; 0: all
    top_p: TopP = 1.0  # sampling takes one of the likeliest tokens that have this probability together; 1: of all
    longest_ratio: LongestRatio = 2.0  # a translation has at most so many tokens for each of its source,
    longest_extra: LongestExtra = 10  # and so many more


BY_METHOD = {"beam": "beam", "coverage_penalty": "beam", "temperature": "sample", "top_k": "sample", "top_p": "sample"}
"""Fields of `Decoding` that only one method reads."""


def check_decoding(decoding: Decoding, model: Model, n_best: int = 1, prefix: str = "decoding.") -> None:
    """Refuses what could not be searched for.

    Args:
      decoding: how to search.
      model: whose target vocabulary and attention it has to fit.
      n_best: translations wanted of each sentence.
      prefix: what the user types before a field's name.

    Raises:
      ValueError: one line that begins with the name of the field.
    """
    ranges.check(decoding, prefix)
    for name in ("beam", "top_k"):
        if (value := getattr(decoding, name)) > model.target_vocabulary:
            raise ValueError(
                f"{prefix}{name} is {value}; it must be at most {model.target_vocabulary}, the tokens of the target's "
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
