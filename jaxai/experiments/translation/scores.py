"""How good hypotheses are against references: BLEU and chrF, word, phoneme and character error rates, exact match.

Hypotheses and references are both brought to one form first (`jaxai.normalisation`): Unicode NFC, single spaces, no
invisible characters, and lower case where the run lower-cases its text.

A task is named by its kind. Error rates and exact match are shares from 0 upwards, BLEU and chrF go from 0 to 100.

| kind | scores, the main one first |
|---|---|
| translation | `bleu`, `chrf`, their sacrebleu signatures, `exact_match` |
| pronunciation | `word_error_rate`, `phoneme_error_rate`, `exact_match` |
| transformation | `exact_match`, `character_error_rate` |
"""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxai import extras
from jaxai.core import Metric
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
"""What the scores mean."""
MAIN = {
    "translation": "bleu",
    "pronunciation": "word_error_rate",
    "transformation": "exact_match",
}
"""Kind of task -> the score that it is known by."""
EDGES = {
    "translation": (5, 10, 15, 20, 30, 40, 60),
    "pronunciation": (4, 6, 8, 10, 12, 14),
    "transformation": (4, 8, 12, 16, 24, 32),
}
"""Longest source of each range of `by_length`, but for the last range, which has no end: words for a translation,
else characters."""
SENTENCE = {"translation": "chrf", "pronunciation": "phoneme_error_rate", "transformation": "character_error_rate"}
"""What a single sentence is judged by. BLEU says nothing of one sentence: most have no four words right in a row."""

Answers = Sequence[str | Sequence[str]]
"""Right answers, one or several a sentence."""
_Tokens = Sequence[Hashable]


class _Sums(NamedTuple):
    """What a corpus score is computed from: a row of numbers for each sentence, and the score of the rows' sum."""

    rows: np.ndarray
    score: Callable[[np.ndarray], float]


def main_score(task: str) -> str:
    """The score that a task is known by.

    Raises:
      ValueError: no such kind of task.
    """
    if task not in MAIN:
        raise ValueError(f"task is {task!r}, expected one of {', '.join(MAIN)}")
    return MAIN[task]


def score(task: str, hypotheses: Sequence[str], references: Answers, lowercase: bool = False) -> dict[str, Any]:
    """All scores of a task over a whole corpus.

    - `bleu` (Papineni et al. 2002) and `chrf` (Popovic 2015) are sacrebleu's with its defaults, on detokenised text
      with its case unless `lowercase`; `bleu_signature` and `chrf_signature` say exactly which.
    - `word_error_rate`: the share of words whose phonemes equal no reference.
    - `phoneme_error_rate` and `character_error_rate`: sum over sentences of the edit distance to the closest
      reference / sum of that reference's length. Of references equally close the longest counts.
    - `exact_match`: the share of hypotheses that equal a reference.
    - `normalisation`: in words, what was done to both sides first.

    Args:
      task: "translation", "pronunciation" (hypotheses and references are phonemes with spaces between, stress
        stripped) or "transformation".
      hypotheses: what the model said.
      references: the right answers, one or several each; as many as there are hypotheses.
      lowercase: lower-case both sides.

    Raises:
      ValueError: unknown task, no sentence, counts that differ, or a sentence without a reference.
      FileNotFoundError: sacrebleu is missing.
    """
    hypotheses, answers = _checked(task, hypotheses, references, lowercase)
    form = {"normalisation": described(lowercase)}
    right = float(np.mean([_tokens(task, said) in each for said, each in _pairs(task, hypotheses, answers)]))
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
      sources: what was translated.
      edges: the longest source of each range, rising; a last range takes what is longer. None: those of `EDGES`.
      lowercase: as for `score`.

    Returns:
      A row for each range that has sentences: `length` ("6-10", "over 60"), `count`, and the main score by its name.

    Raises:
      ValueError: as for `score`, or edges that do not rise.
    """
    hypotheses, answers = _checked(task, hypotheses, references, lowercase, sources)
    edges = EDGES[task] if edges is None else edges
    if any(low >= high for low, high in itertools.pairwise(edges)):
        raise ValueError(f"edges are {list(edges)}, expected rising lengths such as {list(EDGES[task])}")
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
    """How far the main score can be trusted: percentiles of it over sentences drawn with replacement (Koehn 2004).

    Returns:
      (low, high), in the units of the score. It tells of the choice of sentences, not of that of the seed.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a share between 0 and 1 such as 0.95")
    rows, value = _main_sums(task, *_checked(task, hypotheses, references, lowercase))
    generator, count = np.random.default_rng(seed), len(hypotheses)
    drawn = (np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(resamples))
    low, high = np.quantile([value(often @ rows) for often in drawn], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def sentence_scores(task: str, hypotheses: Sequence[str], references: Answers, lowercase: bool = False) -> np.ndarray:
    """The score of each sentence that `SENTENCE` names, float [sentences]; the arguments are those of `score`."""
    hypotheses, answers = _checked(task, hypotheses, references, lowercase)
    if task == "translation":
        metric = _metrics().CHRF()
        pairs = zip(hypotheses, answers, strict=True)
        return np.array([metric.sentence_score(said, each).score for said, each in pairs])
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
    """Some sentences drawn at random, and of the others those with the worst score.

    Returns:
      A row each: `index`, `chosen` ("at random" or "worst"), `source`, `hypothesis`, `reference` (several with
      " | " between them), and the score of the sentence by the name that `SENTENCE` gives it.
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
    """Rows as `by_length` and `examples` give them in the form that a run folder's `tables/NAME.json` has."""
    columns = list(rows[0]) if rows else []
    return {"title": title, "note": note, "columns": columns, "rows": [[row[name] for name in columns] for row in rows]}


def perplexity(nll_sum: float, tokens: int) -> float:
    """exp(mean negative log-likelihood in nats) of real tokens; infinite where it is too large for a float.

    Raises:
      ValueError: there is no token.
    """
    if tokens <= 0:
        raise ValueError(f"perplexity over {tokens} tokens: expected one or more")
    try:
        return math.exp(nll_sum / tokens)
    except OverflowError:
        return math.inf


def edit_distance(a: _Tokens, b: _Tokens) -> int:
    """The fewest insertions, deletions and substitutions that make one sequence the other (Levenshtein 1966)."""
    fast = _rapidfuzz()
    return fast(a, b) if fast else plain_edit_distance(a, b)


def plain_edit_distance(a: _Tokens, b: _Tokens) -> int:
    """The same without any package: bundled tasks are scored where the extra `text` is not installed."""
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
def _rapidfuzz() -> Callable[[_Tokens, _Tokens], int] | None:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        return None
    return Levenshtein.distance


def _metrics() -> Any:
    """sacrebleu's metrics."""
    return extras.load("sacrebleu.metrics", "the score of BLEU and chrF", "text")


def _sacrebleu(hypotheses: Sequence[str], answers: Sequence[Sequence[str]], lowercase: bool) -> dict[str, Any]:
    said = list(hypotheses)
    # sacrebleu wants a stream of every sentence's first reference, one of the second, ...; None where there is none.
    most = max(map(len, answers))
    streams = [[each[at] if at < len(each) else None for each in answers] for at in range(most)]
    values: dict[str, Any] = {}
    for name, metric in (("bleu", _metrics().BLEU(lowercase)), ("chrf", _metrics().CHRF(lowercase=lowercase))):
        values[name] = float(metric.corpus_score(said, streams).score)
        values[f"{name}_signature"] = str(metric.get_signature())
    return values


def _main_sums(task: str, hypotheses: Sequence[str], answers: Sequence[Sequence[str]]) -> _Sums:
    if task == "translation":
        return _bleu_sums(hypotheses, answers)
    right = [_tokens(task, said) in each for said, each in _pairs(task, hypotheses, answers)]
    counted = np.logical_not(right) if METRICS[MAIN[task]].better == "lower" else np.array(right)
    rows = np.stack([counted, np.ones(len(right))], axis=1)
    return _Sums(rows, lambda total: float(total[0] / total[1]))


def _bleu_sums(hypotheses: Sequence[str], answers: Sequence[Sequence[str]]) -> _Sums:
    """The counts that BLEU sums over a corpus: n-grams that match, n-grams, and both lengths."""
    metric = _metrics().BLEU(effective_order=True)  # as sacrebleu asks for on sentences; the counts are the same
    each = [metric.sentence_score(said, right) for said, right in zip(hypotheses, answers, strict=True)]
    rows = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in each], np.int64)
    orders = len(each[0].counts)

    def value(total: np.ndarray) -> float:
        *counts, said, right = (int(number) for number in total)
        return float(metric.compute_bleu(counts[:orders], counts[orders:], said, right, smooth_method="exp").score)

    return _Sums(rows, value)


def _distances(task: str, hypotheses: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Edit distance to the closest reference and that reference's length, int [sentences, 2]."""
    rows = []
    for said, each in _pairs(task, hypotheses, answers):
        tokens = _tokens(task, said)
        distance, length = min((edit_distance(tokens, right), -len(right)) for right in each)
        rows.append((distance, -length))
    return np.array(rows, np.int64)


def _pairs(
    task: str, hypotheses: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[tuple[str, list[tuple[str, ...]]]]:
    return [(said, [_tokens(task, right) for right in each]) for said, each in zip(hypotheses, answers, strict=True)]


def _tokens(task: str, text: str) -> tuple[str, ...]:
    """Phonemes, else characters."""
    return tuple(text.split() if task == "pronunciation" else text)


def _range(low: int, high: int) -> str:
    return f"{low}-{high}" if low < high else f"{high}"


def _checked(
    task: str, hypotheses: Sequence[str], references: Answers, lowercase: bool, sources: Sequence[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Hypotheses and, as a list for each, references, all in the form that scores compare."""
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
