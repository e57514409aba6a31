"""Binds an encoder-decoder to text, scores and pictures: what `jaxai train`, `translate` and `evaluate` run."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from rich.console import Console

from jaxai import ranges, seq2seq
from jaxai.core import PyTree, State
from jaxai.data import line_files, text
from jaxai.data.buckets import BucketedEpochs, choose_buckets
from jaxai.data.pairs import Pairs, PairSplit
from jaxai.ranges import Count, Finite, Positive
from jaxai.runtime import flops, parallel, pictures, progress
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.config import Run
from jaxai.runtime.evaluation import Evaluation
from jaxai.runtime.loop import Outcome, Training, fit, trained_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.seq2seq import scores, vocabulary
from jaxai.seq2seq.bucketed import Shape, bucketed, example
from jaxai.seq2seq.corpus import Corpus, Tokens, make_corpus
from jaxai.seq2seq.translator import Decoding, Translation, Translator
from jaxai.seq2seq.vocabulary import Vocabulary

Source = Which | Literal["average"]
"""Where parameters come from: a checkpoint of the run, or the mean of both."""
EVALUATION_BUCKETS = 3
"""Shapes that held-out pairs are measured in; the result does not depend on it."""
DECODED_AT_ONCE = 128
"""Sentences in a batch where many are translated; the result does not depend on it."""
HEAT_MAPS, WIDEST = 6, 40
"""Sentences whose attention the report shows, and the most source tokens that one of them has."""
WORST, SOME = 10, 10
"""Examples that the report shows."""


@dataclass(frozen=True)
class Experiment:
    """An encoder, a decoder, the text that they learn, and the run."""

    workload: Annotated[seq2seq.Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=seq2seq.Config)
    data: text.TextData = dataclasses.field(default_factory=text.TextData)
    tokens: Tokens = Tokens()
    decoding: Decoding = Decoding()
    epochs: Positive = 10.0  # times that the training pairs are seen
    scored: Count = 500  # validation sentences that are translated, greedily, at each evaluation
    expected: Finite = 0.0  # main score on the test set that the preset is known to reach; 0: not known
    run: Annotated[Run, tyro.conf.arg(name="")] = Run()

    trains_seeds_together: ClassVar[bool] = False
    cpu_devices: ClassVar[int] = 1
    small_operations: ClassVar[bool] = False

    def load(self) -> Pairs:
        """The text; see `jaxai.data.text.load` for what it raises."""
        return text.load(self.data)

    @property
    def batch_size(self) -> int:
        """Tokens of a batch on its longer side."""
        return self.tokens.batch

    def corpus(self, pairs: Pairs) -> Corpus:
        """The pairs as tokens in buckets; see `make_corpus` for what it raises."""
        return _corpus(dataclasses.replace(self.tokens, digests=()), pairs)

    def resolve(self, pairs: Pairs) -> "Experiment":
        """The same with what follows from the text filled in.

        Raises:
          ValueError: a field is out of its range.
        """
        ranges.check(self)
        corpus = self.corpus(pairs)
        optimizer = self.workload.optimizer
        if not optimizer.decay_steps:
            optimizer = dataclasses.replace(optimizer, decay_steps=self._steps(corpus))
        workload = dataclasses.replace(
            self.workload,
            source_vocabulary=len(corpus.source),
            target_vocabulary=len(corpus.target),
            optimizer=optimizer,
        )
        seq2seq.make(workload)  # raises what cannot be trained
        digests = (corpus.source.digest, corpus.target.digest)
        return dataclasses.replace(self, workload=workload, tokens=dataclasses.replace(self.tokens, digests=digests))

    def training(self, pairs: Pairs) -> Training:
        """What the loop needs; of a resolved experiment."""
        corpus = self.corpus(pairs)
        order = functools.partial(_order, corpus=corpus)
        epochs = order(jax.random.key(0))
        score, lower_is_better = scores.main_score(pairs.task)
        shapes = _shapes(corpus)
        counts = np.bincount(corpus.train["bucket"], minlength=len(shapes)) // [shape.rows for shape in shapes]
        evaluator = _Evaluator(self, corpus, pairs)
        tokens = corpus.train["target_length"]
        return Training(
            make=lambda axis_name: bucketed(seq2seq.make(self.workload, axis_name), shapes),
            steps=self._steps(corpus),
            batch_size=epochs.batch_size,
            steps_per_epoch=epochs.batches,
            data=corpus.train,
            order=order,
            splits={},
            score=f"validation_{score}",
            lower_is_better=lower_is_better,
            measure=evaluator.measure,
            keep=functools.partial(_save_vocabularies, corpus=corpus),
            unit="target_tokens",
            # Of what an epoch holds, the average over its steps: batches differ in how many real tokens they have.
            units_per_step=float(tokens.mean() * sum(counts * [shape.rows for shape in shapes]) / epochs.batches),
            flops_per_step=float(sum(counts * [_flops(self.workload, shape) for shape in shapes]) / epochs.batches),
        )

    def train(self, pairs: Pairs | None = None, console: Console | None = None) -> Outcome:
        """Trains or resumes, scores the best checkpoint on the test set, and leaves pictures and tables in the folder.

        Args:
          pairs: text to use instead of what `data` names.
          console: where progress goes.
        """
        console = console or Console()
        ranges.check(self)
        pairs = pairs or self.load()
        corpus = self.corpus(pairs)
        experiment = self.resolve(pairs)
        for note in corpus.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)
        training, folder = experiment.training(pairs), RunFolder(self.run.workdir)
        outcome = fit(training, experiment, console)
        if outcome.interrupted:
            return outcome
        score, lower_is_better = scores.main_score(pairs.task)
        result = outcome.result
        if score not in result:
            translator = Translator(
                experiment.workload,
                [seq2seq.parameters(experiment.restore("best"))],
                corpus.source,
                corpus.target,
                self.decoding,
                self.tokens.longest_source,
            )
            found, tested = experiment._test(translator, pairs.test, pairs.task)
            result = result | tested
            folder.write_json("result.json", result)
            experiment.draw(found, pairs, folder)
        console.print(progress.results(_main(result), title="Test set"))
        if self.expected:
            bound = f"{self.expected:g} or {'less' if lower_is_better else 'more'}"
            console.print(f"expected {score} {bound}, got {result[score]:.4g}", highlight=False)
        return dataclasses.replace(outcome, result=result)

    def make(self) -> Any:
        """The workload for one device; of a resolved experiment, for batches of one shape."""
        return seq2seq.make(self.workload)

    def evaluate(
        self,
        console: Console,
        which: Source = "best",
        pairs: Pairs | None = None,
        files: tuple[Path, Path] | None = None,
        others: Sequence["Experiment"] = (),
    ) -> dict[str, Any]:
        """Scores a checkpoint of the run, on its test set or on a pair of files, and shows and returns what it finds.

        Args:
          console: where it is shown.
          which: checkpoint, or the mean of the parameters of both.
          pairs: text to use instead of what `data` names.
          files: sources and references, line by line, instead.
          others: runs whose models translate together with this one.

        Raises:
          ValueError: the run has no such checkpoint, the vocabularies are not its own, or the files do not fit.
        """
        if files is None:
            pairs = pairs or self.load()
            split, task, name = pairs.test, pairs.task, "test"
        else:
            split, task, name = line_files.aligned(*files, empty="error").split, self._task, files[0].name
        translator = self.translator(which, others)
        _, result = self._test(translator, split, task)
        result |= {"sentences": len(split.sources), "checkpoint": which}
        console.print(progress.results(_main(result), title=f"Scores on {name}"))
        if translator.cut:
            console.print(
                f"{translator.cut:,} sources were longer than {self.tokens.longest_source} tokens and were cut",
                highlight=False,
            )
        return result

    def translator(
        self,
        which: Source = "best",
        others: Sequence["Experiment"] = (),
        decoding: Decoding | None = None,
        seed: int = 0,
    ) -> Translator:
        """Translates with a checkpoint of the run, or with those of several runs together.

        Args:
          which: checkpoint, or the mean of the parameters of both.
          others: runs whose models translate together with this one.
          decoding: how to search, if not as the run says.
          seed: of sampling.

        Raises:
          ValueError: a run has no such checkpoint, vocabularies that are not its own, or others than the first.
        """
        source, target = self._vocabularies()
        params = []
        for each in (self, *others):
            if each.workload != dataclasses.replace(self.workload, optimizer=each.workload.optimizer):
                raise ValueError(
                    f"{each.run.workdir} has another network than {self.run.workdir}; give runs of one preset"
                )
            if each.tokens.digests != self.tokens.digests:
                raise ValueError(
                    f"{each.run.workdir} has other vocabularies than {self.run.workdir}; give runs of the same data"
                )
            params.append(each._parameters(which))
        decoding = decoding or self.decoding
        return Translator(self.workload, params, source, target, decoding, self.tokens.longest_source, seed)

    def restore(self, which: Which = "best") -> State:
        """The state of the run's checkpoint, on one device.

        Raises:
          ValueError: the run has no such checkpoint.
        """
        return trained_state(self.make(), dataclasses.replace(self.run, mode="jit"), parallel.make_mesh(1), which)

    def draw(self, found: Sequence[Translation], pairs: Pairs, folder: RunFolder) -> None:
        """Examples with their references, scores by length, and what the decoder attended to."""
        said, answers, sources = [each.text for each in found], pairs.test.answers(), pairs.test.sources
        lengths = scores.by_length(pairs.task, said, answers, sources)
        shown = scores.examples(pairs.task, said, answers, sources, SOME, WORST, self.run.seed)
        folder.write_json("tables/scores_by_length.json", scores.as_table("Scores by the source's length", lengths))
        folder.write_json("tables/examples.json", scores.as_table("Translations of the test set", shown))
        if not pictures.available():
            return
        from jaxai.seq2seq import attention_pictures

        folder.pictures.mkdir(exist_ok=True)
        captions = {"scores_by_length.png": "The main score by the length of the source"}
        unit = "words" if pairs.task == "translation" else "characters"
        attention_pictures.scores_by_length(lengths, folder.pictures / "scores_by_length.png", unit=unit)
        maps = [
            attention_pictures.Alignment(each.attention, each.source_pieces, each.pieces)
            for each in found
            if each.attention is not None and len(each.pieces) > 1 and len(each.source_pieces) <= WIDEST
        ]
        if maps:
            chosen = np.random.default_rng(self.run.seed).permutation(len(maps))[:HEAT_MAPS]
            attention_pictures.heat_maps([maps[i] for i in chosen], folder.pictures / "attention.png")
            captions["attention.png"] = "Where the decoder looked: a row for each token that it wrote"
        folder.write_json("pictures/captions.json", captions)

    def _test(self, translator: Translator, split: PairSplit, task: str) -> tuple[list[Translation], dict[str, Any]]:
        """The translations of a split, and its scores with their 95 % interval."""
        found = [best for best, *_ in translator.translate_all(split.sources, DECODED_AT_ONCE, attention=True)]
        said, answers = [each.text for each in found], split.answers()
        result = scores.score(task, said, answers)
        score, _ = scores.main_score(task)
        low, high = scores.interval(task, said, answers)
        return found, result | {f"{score}_low": low, f"{score}_high": high}

    def _parameters(self, which: Source) -> PyTree:
        """What translates: of a checkpoint, or the mean of both checkpoints."""
        if which != "average":
            return seq2seq.parameters(self.restore(which))
        both: tuple[Which, Which] = ("best", "latest")
        return seq2seq.decode.average([seq2seq.parameters(self.restore(each)) for each in both])

    @property
    def _task(self) -> str:
        """What the run's data is scored as, without loading it."""
        return text.KINDS.get(self.data.source, "translation") if self.data.task == "auto" else self.data.task

    def _vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        folder = Path(self.run.workdir)
        found = [vocabulary.load(folder / f"{side}_vocabulary.json") for side in ("source", "target")]
        for each, digest in zip(found, self.tokens.digests, strict=True):
            each.require(digest, str(folder))
        return found[0], found[1]

    def _steps(self, corpus: Corpus) -> int:
        return max(1, round(self.epochs * _order(jax.random.key(0), corpus).batches))


class _Evaluator:
    """Measures a state on the held-out pairs: cross-entropy over all of them, the score of greedy translations."""

    def __init__(self, experiment: Experiment, corpus: Corpus, pairs: Pairs):
        self._experiment, self._corpus, self._task = experiment, corpus, pairs.task
        self._sentences = pairs.validation.take(range(min(experiment.scored, len(pairs.validation.sources))))
        self._evaluations: list[Evaluation] = []
        self._translator: Translator | None = None

    def measure(self, mesh: Mesh, state: State) -> dict[str, Any]:
        """`validation_loss` (nats a token), `_perplexity`, `_token_accuracy`, and the scores of the task."""
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
            longest = experiment.tokens.longest_source
            self._translator = Translator(experiment.workload, params, corpus.source, corpus.target, greedy, longest)
        translated = self._translator.with_params(params).translate_all(self._sentences.sources, DECODED_AT_ONCE)
        said = [best.text for best, *_ in translated]
        found |= _numbers(scores.score(self._task, said, self._sentences.answers()))
        return {f"validation_{name}": value for name, value in found.items()}

    def _split(self, mesh: Mesh) -> list[Evaluation]:
        """The held-out pairs in a few shapes."""
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


@functools.lru_cache(maxsize=1)
def _corpus(tokens: Tokens, pairs: Pairs) -> Corpus:
    return make_corpus(tokens, pairs)


def _order(key: jax.Array, corpus: Corpus) -> BucketedEpochs:
    return BucketedEpochs(key, corpus.buckets)


def _shapes(corpus: Corpus) -> list[Shape]:
    return [Shape(*shape) for shape in corpus.buckets.shapes]


def _flops(config: seq2seq.Config, shape: Shape) -> int:
    """Of a train step on a batch of one shape."""
    workload = seq2seq.make(config)
    return flops.count(workload.train_step, jax.eval_shape(workload.init, jax.random.key(0)), example(shape))


def _save_vocabularies(folder: Path, corpus: Corpus) -> None:
    corpus.source.save(folder / "source_vocabulary.json")
    corpus.target.save(folder / "target_vocabulary.json")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, float | int)}


def _main(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of all final figures the scores, without the interval's ends and what an evaluation said."""
    first = ("bleu", "chrf", "word_error", "phoneme_error", "character_error", "exact_match")
    return {name: value for name, value in result.items() if name.startswith(first)}
