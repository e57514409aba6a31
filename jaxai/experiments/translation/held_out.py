"""Evaluation during training on held-out pairs: cross-entropy of all pairs, scores of some greedy translations."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from jaxai import seq2seq
from jaxai.core import State
from jaxai.data.buckets import choose_buckets
from jaxai.data.text_pairs import Pairs
from jaxai.experiments.translation import scores
from jaxai.experiments.translation.corpus import Corpus
from jaxai.runtime import parallel
from jaxai.runtime.evaluation import Evaluation
from jaxai.seq2seq.translator import Translator

if TYPE_CHECKING:
    from jaxai.experiments.translation.experiment import Experiment

EVALUATION_BUCKETS = 3
"""Number of shapes of the held-out batches; the result does not depend on it."""
DECODED_AT_ONCE = 128
"""Number of sentences that are translated together; the result does not depend on it."""


class HeldOut:
    """Evaluates a state on the held-out pairs: cross-entropy of all of them, scores of greedy translations."""

    def __init__(self, experiment: "Experiment", corpus: Corpus, pairs: Pairs):
        self._experiment, self._corpus, self._task = experiment, corpus, pairs.task
        self._sentences = pairs.validation.take(range(min(experiment.scored, len(pairs.validation.sources))))
        self._evaluations: list[Evaluation] = []
        self._translator: Translator | None = None

    def measure(self, mesh: Mesh, state: State) -> dict[str, Any]:
        """`validation_loss` (nats per token), `validation_perplexity`, `validation_token_accuracy`, and scores."""
        if not self._evaluations:
            self._evaluations = self._split(mesh)
        parts = [evaluation(state) for evaluation in self._evaluations]
        count = sum(part["count"] for part in parts)
        found = {
            name: float(sum(part[name] * part["count"] for part in parts) / count)
            for name in ("loss", "token_accuracy")
        }
        found["perplexity"] = math.exp(min(found["loss"], 700))
        params = [jax.device_put(seq2seq.parameters(state), jax.devices()[0])]
        if self._translator is None:
            experiment, corpus = self._experiment, self._corpus
            greedy = dataclasses.replace(experiment.decoding, method="greedy")
            self._translator = Translator(
                experiment.workload, params, corpus.source, corpus.target, greedy, experiment.longest
            )
        translated = self._translator.with_params(params).translate_all(self._sentences.sources, DECODED_AT_ONCE)
        predicted = [best.text for best, *_ in translated]
        lowercase = self._experiment.tokens.lowercase
        scored = scores.score(self._task, predicted, self._sentences.answers(), lowercase)
        found |= {name: float(value) for name, value in scored.items() if isinstance(value, float | int)}
        return {f"validation_{name}": value for name, value in found.items()}

    def _split(self, mesh: Mesh) -> list[Evaluation]:
        """The evaluations of the held-out pairs, one for each shape."""
        experiment, held_out = self._experiment, self._corpus.validation
        mode, tokens = experiment.run.mode, max(experiment.tokens.batch, held_out["source"].shape[1])
        workload = seq2seq.make(experiment.workload, parallel.axis_name(mode))
        lengths = held_out["source_length"], held_out["target_length"]
        buckets = choose_buckets(*lengths, EVALUATION_BUCKETS, max(tokens, held_out["target"].shape[1]))
        evaluations = []
        for index, shape in enumerate(buckets.shapes):
            part = {name: array[buckets.of == index] for name, array in held_out.items()}
            part |= {"source": part["source"][:, : shape.source], "target": part["target"][:, : shape.target]}
            evaluations.append(Evaluation(workload, part, mesh, mode, shape.rows))
        return evaluations
