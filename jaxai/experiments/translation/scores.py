"""Scores of hypotheses against references: BLEU and chrF, word, phoneme and character error rates, exact match.

Hypotheses and references are normalized first (`jaxai.normalisation`): Unicode NFC, single spaces, no invisible
characters, and lower case where the run lower-cases its text.

A task is named by its kind. Error rates and exact match are shares; BLEU and chrF range from 0 to 100.

| kind | scores, the main one first |
|---|---|
| translation | `bleu`, `chrf`, their sacrebleu signatures, `exact_match` |
| pronunciation | `word_error_rate`, `phoneme_error_rate`, `exact_match` |
| transformation | `exact_match`, `character_error_rate` |
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxai import extras
from jaxai.core import Metric
from jaxai.experiments.translation.edit_distance import edit_distance
from jaxai.normalisation import described, normalise

METRICS = {
    "bleu": Metric("BLEU", better="higher"),
    "chrf": Metric("chrF", better="higher"),
    "word_error_rate": Metric("word error rate", "%", better="lower"),
    "phoneme_error_rate": Metric("phoneme error rate", "%", better="lower"),
    "character_error_rate": Metric("character error rate", "%", better="lower"),
    "exact_match": Metric("exact match", "%", better="higher"),
    "perplexity": Metric("perplexity", better="lower", log=True),
}
"""Declarations of the scores."""
MAIN = {
    "translation": "bleu",
    "pronunciation": "word_error_rate",
    "transformation": "exact_match",
}
"""Kind of task -> its main score."""
EDGES = {
    "translation": (5, 10, 15, 20, 30, 40, 60),
    "pronunciation": (4, 6, 8, 10, 12, 14),
    "transformation": (4, 8, 12, 16, 24, 32),
}
"""Upper ends of the ranges of `by_length`, in words for a translation, else in characters; a last range is open."""
SENTENCE = {"translation": "chrf", "pronunciation": "phoneme_error_rate", "transformation": "character_error_rate"}
"""The score of a single sentence. BLEU is not meaningful for one: most have no four consecutive correct words."""

Answers = Sequence[str | Sequence[str]]
"""References, one or several for each sentence."""


class _Sums(NamedTuple):
    """The statistics of a corpus score: numbers for each sentence, and the score as a function of their sum."""

    rows: np.ndarray
    score: Callable[[np.ndarray], float]


def main_score(task: str) -> str:
    """The main score of a task.

    Raises:
      ValueError: no such kind of task.
    """
    if task not in MAIN:
        raise ValueError(f"task is {task!r}, expected one of {', '.join(MAIN)}")
    return MAIN[task]


def score(task: str, hypotheses: Sequence[str], references: Answers, lowercase: bool = False) -> dict[str, Any]:
    """All scores of a task over a whole corpus.

    - `bleu` (Papineni et al. 2002) and `chrf` (Popovic 2015) are computed by sacrebleu with its defaults, on
      detokenized text, case-sensitive unless `lowercase`; `bleu_signature` and `chrf_signature` have all settings.
    - `word_error_rate`: the share of words whose phonemes equal no reference.
    - `phoneme_error_rate` and `character_error_rate`: sum over sentences of the edit distance to the closest
      reference / sum of that reference's length. Of equally close references the longest counts.
    - `exact_match`: the share of hypotheses that equal a reference.
    - `normalisation`: a description of the normalization of both sides.

    Args:
      task: "translation", "pronunciation" (hypotheses and references are phonemes separated by spaces, without
        stress) or "transformation".
      hypotheses: the outputs of the model.
      references: one or several correct answers for each hypothesis.
      lowercase: lower-case both sides.

    Raises:
      ValueError: unknown task, no sentence, counts that differ, or a sentence without a reference.
      FileNotFoundError: sacrebleu is missing.
    """
    hypotheses, answers = _checked(task, hypotheses, references, lowercase)
    form = {"normalisation": described(lowercase)}
    right = float(np.mean([_tokens(task, predicted) in each for predicted, each in _pairs(task, hypotheses, answers)]))
    if task == "translation":
        return {**_sacrebleu(hypotheses, answers, lowercase), "exact_match": right} | form
    distance, length = _distances(task, hypotheses, answers).sum(0)
    rate = float(distance / max(length, 1))
    if task == "pronunciation":
        return {"word_error_rate": 1 - right, "phoneme_error_rate": rate, "exact_match": right} | form
    return {"exact_match": right, "character_error_rate": rate} | form


def by_length(
    task: str,
    hypotheses: Sequence[str],
    references: Answers,
    sources: Sequence[str],
    edges: Sequence[int] | None = None,
    lowercase: bool = False,
) -> list[dict[str, Any]]:
    """The main score in ranges of the source's length: words for a translation, else characters.

    Args:
      task: as for `score`.
      hypotheses: as for `score`.
      references: as for `score`.
      sources: of the hypotheses.
      edges: upper ends of the ranges, increasing; a last range is open. None: those of `EDGES`.
      lowercase: as for `score`.

    Returns:
      A row for each range that has sentences: `length` ("6-10", "over 60"), `count`, and the main score by its name.

    Raises:
      ValueError: as for `score`, or edges that do not increase.
    """
    hypotheses, answers = _checked(task, hypotheses, references, lowercase, sources)
    edges = EDGES[task] if edges is None else edges
    if any(low >= high for low, high in itertools.pairwise(edges)):
        raise ValueError(f"edges are {list(edges)}, expected increasing lengths such as {list(EDGES[task])}")
    lengths = [len(source.split()) if task == "translation" else len(source) for source in sources]
    places = np.searchsorted(np.asarray(edges, int), lengths)
    sums = _main_sums(task, hypotheses, answers)
    rows = []
    for place in np.unique(places).tolist():
        inside = places == place
        low = edges[place - 1] + 1 if place else min(lengths)
        name = f"over {edges[-1]}" if place == len(edges) and place else _range(low, (*edges, max(lengths))[place])
        rows.append({"length": name, "count": int(inside.sum()), MAIN[task]: sums.score(sums.rows[inside].sum(0))})
    return rows


def interval(
    task: str,
    hypotheses: Sequence[str],
    references: Answers,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    lowercase: bool = False,
) -> tuple[float, float]:
    """A bootstrap confidence interval of the main score over sentences drawn with replacement (Koehn 2004).

    Args:
      task: as for `score`.
      hypotheses: as for `score`.
      references: as for `score`.
      confidence: of the interval.
      resamples: number of bootstrap samples.
      seed: of the samples.
      lowercase: as for `score`.

    Returns:
      (low, high), in the units of the score. It covers the choice of sentences, not the choice of the seed.

    Raises:
      ValueError: as for `score`, or a confidence outside of (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a share between 0 and 1 such as 0.95")
    rows, value = _main_sums(task, *_checked(task, hypotheses, references, lowercase))
    generator, count = np.random.default_rng(seed), len(hypotheses)
    drawn = (np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(resamples))
    low, high = np.quantile([value(often @ rows) for often in drawn], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def sentence_scores(task: str, hypotheses: Sequence[str], references: Answers, lowercase: bool = False) -> np.ndarray:
    """The score of each sentence, as `SENTENCE` names it.

    Args:
      task: as for `score`.
      hypotheses: as for `score`.
      references: as for `score`.
      lowercase: as for `score`.

    Returns:
      [sentences] float.
    """
    hypotheses, answers = _checked(task, hypotheses, references, lowercase)
    if task == "translation":
        metric = _metrics().CHRF()
        pairs = zip(hypotheses, answers, strict=True)
        return np.array([metric.sentence_score(predicted, each).score for predicted, each in pairs])
    rows = _distances(task, hypotheses, answers)
    return rows[:, 0] / np.maximum(rows[:, 1], 1)


def examples(
    task: str,
    hypotheses: Sequence[str],
    references: Answers,
    sources: Sequence[str],
    random: int = 10,
    worst: int = 10,
    seed: int = 0,
    lowercase: bool = False,
) -> list[dict[str, Any]]:
    """Some random sentences, and those with the worst score among the others.

    Args:
      task: as for `score`.
      hypotheses: as for `score`.
      references: as for `score`.
      sources: of the hypotheses.
      random: number of random sentences.
      worst: number of sentences with the worst score.
      seed: of the random sentences.
      lowercase: as for `score`.

    Returns:
      A row for each: `index`, `chosen` ("at random" or "worst"), `source`, `hypothesis`, `reference` (several are
      separated by " | "), and the score of the sentence under the name in `SENTENCE`.
    """
    hypotheses, answers = _checked(task, hypotheses, references, lowercase, sources)
    values = sentence_scores(task, hypotheses, answers)
    drawn = np.random.default_rng(seed).permutation(len(values))[:random]
    ranked = np.argsort(values if task == "translation" else -values, kind="stable")
    kept = ranked[~np.isin(ranked, drawn)][:worst]
    return [
        {
            "index": int(at),
            "chosen": chosen,
            "source": sources[at],
            "hypothesis": hypotheses[at],
            "reference": " | ".join(answers[at]),
            SENTENCE[task]: float(values[at]),
        }
        for chosen, places in (("at random", np.sort(drawn)), ("worst", kept))
        for at in places
    ]


def as_table(title: str, rows: Sequence[dict[str, Any]], note: str = "") -> dict[str, Any]:
    """Rows of `by_length` or `examples` in the form of a run folder's `tables/NAME.json`.

    Args:
      title: above the table.
      rows: with the same keys in each.
      note: below the title; "": none.
    """
    columns = list(rows[0]) if rows else []
    return {"title": title, "note": note, "columns": columns, "rows": [[row[name] for name in columns] for row in rows]}


def perplexity(nll_sum: float, tokens: int) -> float:
    """exp(mean negative log-likelihood in nats) of real tokens; infinite if it is too large for a float.

    Raises:
      ValueError: there is no token.
    """
    if tokens <= 0:
        raise ValueError(f"perplexity over {tokens} tokens: expected one or more")
    try:
        return math.exp(nll_sum / tokens)
    except OverflowError:
        return math.inf


def _metrics() -> Any:
    """sacrebleu's metrics."""
    return extras.load("sacrebleu.metrics", "the score of BLEU and chrF", "text")


def _sacrebleu(hypotheses: Sequence[str], answers: Sequence[Sequence[str]], lowercase: bool) -> dict[str, Any]:
    predicted = list(hypotheses)
    # sacrebleu takes a list of the first reference of every sentence, one of the second, ...; None for a missing one.
    most = max(map(len, answers))
    streams = [[each[at] if at < len(each) else None for each in answers] for at in range(most)]
    values: dict[str, Any] = {}
    for name, metric in (("bleu", _metrics().BLEU(lowercase)), ("chrf", _metrics().CHRF(lowercase=lowercase))):
        values[name] = float(metric.corpus_score(predicted, streams).score)
        values[f"{name}_signature"] = str(metric.get_signature())
    return values


def _main_sums(task: str, hypotheses: Sequence[str], answers: Sequence[Sequence[str]]) -> _Sums:
    if task == "translation":
        return _bleu_sums(hypotheses, answers)
    right = [_tokens(task, predicted) in each for predicted, each in _pairs(task, hypotheses, answers)]
    counted = np.logical_not(right) if METRICS[MAIN[task]].better == "lower" else np.array(right)
    rows = np.stack([counted, np.ones(len(right))], axis=1)
    return _Sums(rows, lambda total: float(total[0] / total[1]))


def _bleu_sums(hypotheses: Sequence[str], answers: Sequence[Sequence[str]]) -> _Sums:
    """The counts that BLEU sums over a corpus: n-grams that match, n-grams, and both lengths."""
    metric = _metrics().BLEU(effective_order=True)  # as sacrebleu asks for on sentences; the counts are the same
    each = [metric.sentence_score(predicted, right) for predicted, right in zip(hypotheses, answers, strict=True)]
    rows = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in each], np.int64)
    orders = len(each[0].counts)

    def value(total: np.ndarray) -> float:
        *counts, length, reference_length = (int(number) for number in total)
        smoothed = {"smooth_method": "exp"}
        return float(metric.compute_bleu(counts[:orders], counts[orders:], length, reference_length, **smoothed).score)

    return _Sums(rows, value)


def _distances(task: str, hypotheses: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Edit distance to the closest reference and that reference's length, int [sentences, 2]."""
    rows = []
    for predicted, each in _pairs(task, hypotheses, answers):
        tokens = _tokens(task, predicted)
        distance, length = min((edit_distance(tokens, right), -len(right)) for right in each)
        rows.append((distance, -length))
    return np.array(rows, np.int64)


def _pairs(
    task: str, hypotheses: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[tuple[str, list[tuple[str, ...]]]]:
    return [
        (predicted, [_tokens(task, right) for right in each])
        for predicted, each in zip(hypotheses, answers, strict=True)
    ]


def _tokens(task: str, text: str) -> tuple[str, ...]:
    """Phonemes, else characters."""
    return tuple(text.split() if task == "pronunciation" else text)


def _range(low: int, high: int) -> str:
    return f"{low}-{high}" if low < high else f"{high}"


def _checked(
    task: str, hypotheses: Sequence[str], references: Answers, lowercase: bool, sources: Sequence[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """The normalized hypotheses, and a list of normalized references for each."""
    main_score(task)
    counts = {"hypotheses": len(hypotheses), "references": len(references)}
    counts |= {} if sources is None else {"sources": len(sources)}
    if len(set(counts.values())) > 1:
        found = " and ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"scores got {found}, expected the same number of each: one for every sentence")
    if not hypotheses:
        raise ValueError("scores got no sentence, expected one or more")
    answers = [[each] if isinstance(each, str) else list(each) for each in references]
    for number, each in enumerate(answers, 1):
        if not each:
            raise ValueError(f"sentence {number} has no reference, expected one or more right answers")
    form = functools.partial(normalise, lowercase=lowercase)
    return [*map(form, hypotheses)], [[*map(form, each)] for each in answers]
