"""The commands of a translation run; nothing heavy is imported before one of them is called."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxai.ranges import Count, Seed
from jaxai.runtime.registry import Commands

if TYPE_CHECKING:
    from jaxai.experiments.translation.experiment import Bound


def evaluate(
    bound: "Bound",
    checkpoint: Literal["best", "latest", "average"] = "best",
    data_dir: str | None = None,
    data_source: Annotated[str | None, tyro.conf.arg(name="data.source")] = None,
    other_data: bool = False,
    source: Path | None = None,
    reference: Path | None = None,
    ensemble: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """Score translations of the test set, or of a file: BLEU, chrF, error rates, exact matches.

    Args:
      checkpoint: the best by its evaluations, the latest, or the average of the parameters of both
      data_dir: folder of the data, if it is not the folder of the training any more
      data_source: function that returned the data of the training, as package.module:name (it is imported only if given
        here)
      other_data: score the data that is there, even if it is not the data of the run
      source: file to translate, one sentence per line, instead of the test set
      reference: correct translations of source, line by line
      ensemble: further runs; the probabilities of all runs are averaged

    Raises:
      ValueError: one of source and reference is given without the other.
    """
    from rich.console import Console

    if (source is None) != (reference is None):
        raise ValueError("--source and --reference go together: a file of sentences and one of their translations")
    files = None if source is None or reference is None else (source, reference)
    bound = bound.with_data_in(data_dir, data_source)
    return bound.evaluate(Console(), checkpoint, files, _others(ensemble), other_data)


def translate(
    bound: "Bound",
    more: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    input: Path | None = None,
    output: Path | None = None,
    beam: int | None = None,
    length_penalty: float | None = None,
    coverage_penalty: float | None = None,
    n_best: int = 1,
    scores: bool = False,
    method: Literal["beam", "greedy", "sample"] | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: Seed = 0,
    batch_size: Count = 64,
    checkpoint: Literal["best", "latest", "average"] = "best",
) -> None:
    """Translate lines, from a file or as they are typed; several runs translate together.

    A line with more tokens than a source of the training could have (tokens.longest_source, or else tokens.batch) is
    cut and named on standard error, as are unknown tokens.

    Args:
      more: further runs; the probabilities of all runs are averaged
      input: UTF-8 text, one sentence a line; a file or a pipe; default: standard input
      output: file of the translations; default: standard output
      beam: number of hypotheses of the beam search; None: the run's
      length_penalty: exponent of the length that scores are divided by; None: the run's
      coverage_penalty: weight of the penalty on source tokens without attention; None: the run's
      n_best: number of translations of each line, each on its own line, the best first; without --beam the beam is at
        least this wide
      scores: write score, a tab, log probability and a tab before each translation
      method: beam, greedy, or sample; None: the run's
      temperature: of sampling; None: the run's
      top_k: number of the most probable tokens that sampling draws from; 0: all; None: the run's
      top_p: sampling draws from the most probable tokens that have this probability together; 1: all; None: the run's
      seed: of sampling; a line's translation depends on it and on the line's number
      batch_size: lines in a batch; lines of a terminal are translated one by one
      checkpoint: the best by its evaluations, the latest, or the average of the parameters of both
    """
    from jaxai.experiments.translation import translate_lines
    from jaxai.experiments.translation.trained import read_all
    from jaxai.seq2seq.decoding import with_options

    options: dict[str, Any] = {
        "beam": beam,
        "length_penalty": length_penalty,
        "coverage_penalty": coverage_penalty,
        "method": method,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    config, runs = bound.config, [bound, *_others(more)]
    decoding = with_options(config.decoding, config.workload, n_best, **options)
    with translate_lines.open_input(input) as source:
        translate_lines.check_output(output, source)
        first, others = read_all(runs, checkpoint)
        translator = first.translator(decoding, seed, others)
        translate_lines.translate(translator, source, output, batch_size, n_best, scores)


def _others(runs: tuple[Path, ...]) -> "list[Bound]":
    """The bound experiments of further runs of translation."""
    from jaxai.runtime.experiment import open_run

    found: list[Any] = [open_run(run) for run in runs]
    for run, other in zip(runs, found, strict=True):
        if "translate" not in other.config.commands.of_run:
            raise ValueError(f"{run} has no translator; give runs of translation")
    return found


COMMANDS = Commands({"evaluate": evaluate, "translate": translate})
