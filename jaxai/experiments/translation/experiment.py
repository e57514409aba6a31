"""Binds an encoder-decoder to text, scores and pictures, for `jaxai train`, `translate` and `evaluate`."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from jaxai import ranges, seq2seq
from jaxai.core import Metric, Workload
from jaxai.data import digests, line_files, text
from jaxai.data.buckets import BucketedEpochs
from jaxai.data.epochs import steps_in
from jaxai.data.text_pairs import Pairs, PairSplit, check_pairs
from jaxai.experiments.data_options import OnData, with_data
from jaxai.experiments.translation import card, scores
from jaxai.experiments.translation.commands import COMMANDS
from jaxai.experiments.translation.corpus import Corpus, Tokens, make_corpus, unknown_references
from jaxai.experiments.translation.drawing import draw
from jaxai.experiments.translation.held_out import DECODED_AT_ONCE, HeldOut
from jaxai.files.unwritten import writing
from jaxai.metrics import Meanings
from jaxai.output import print_line, show_notes
from jaxai.ranges import Count, Finite, Positive
from jaxai.report import pictures
from jaxai.runtime import experiment, flops, model_card, progress
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.continuation import Changes, measured_on
from jaxai.runtime.loop import Outcome, fit
from jaxai.runtime.registry import Commands
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Log, Program, Scoring, Storage, Training, position_in_epochs
from jaxai.seq2seq.bucketed import Shape, bucketed
from jaxai.seq2seq.decoding import Decoding, check_decoding
from jaxai.seq2seq.translator import Translation, Translator
from jaxai.trained import make_beginning

if TYPE_CHECKING:
    from jaxai.experiments.translation.trained import TrainedTranslator

Parameters = Which | Literal["average"]
"""A checkpoint of the run, or the mean of both."""
METRICS = seq2seq.METRICS | scores.METRICS
"""Declarations of the metrics of a run."""


@dataclass(frozen=True)
class Experiment(OnData):
    """An encoder-decoder, the text that it learns, and the run."""

    workload: Annotated[seq2seq.Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=seq2seq.Config)
    data: text.TextData = dataclasses.field(default_factory=text.TextData)
    tokens: Tokens = Tokens()
    decoding: Decoding = Decoding()
    epochs: Positive = 10.0  # number of passes over the training pairs
    scored: Count = 500  # number of validation sentences that are translated (greedily) at each evaluation
    expected: Finite = 0.0  # main score on the test set that the preset reaches; 0: not known
    run: Annotated[Run, tyro.conf.arg(name="")] = Run()

    changes: ClassVar[Changes] = Changes(
        applied=(
            *("epochs", "expected", "data.empty", "workload.dropout", "workload.recurrent_dropout"),
            *("workload.variational", "workload.label_smoothing", "workload.scheduled_sampling"),
            *("workload.scheduled_sampling_steps", "decoding.*"),
        ),
        measured=("scored", "decoding.longest_ratio", "decoding.longest_extra", "workload.dtype"),
        optimizers=("workload.optimizer",),
        never_switched=("workload.ema_decay", "data.validation", "data.test"),
        derived=("workload.optimizer.decay_steps",),
        refused={
            "tokens.digests": "the training text has changed, and gives other vocabularies",
            "tokens.batch": "the position in the data and the epochs follow from it",
            "tokens.buckets": "the position in the data and the epochs follow from it",
        },
        scored_on=("validation",),
    )
    commands: ClassVar[Commands] = COMMANDS

    def load(self) -> Pairs:
        """The text; see `jaxai.data.text.load` for what it raises."""
        return text.load(self.data)

    @property
    def batch_size(self) -> int:
        """Number of tokens of a batch on its longer side."""
        return self.tokens.batch

    @property
    def longest(self) -> int:
        """Largest number of source tokens, END included; longer sources are cut, because no training pair had more."""
        return self.tokens.longest_source or self.tokens.batch

    def bind(self, data: Pairs | None = None, console: Console | None = None) -> "Bound":
        """Loads and checks the text, encodes it, and fills in what follows from it.

        Args:
          data: pairs to use instead of those that the field `data` names.
          console: for notes on the text; None: they are not shown.

        Raises:
          ValueError: a field is out of its range or does not fit the text; one line.
        """
        check_experiment(self)
        pairs = check_pairs(data or self.load())
        corpus = make_corpus(dataclasses.replace(self.tokens, digests=()), pairs)
        show_notes([*corpus.notes, *corpus.too_short(self.decoding)], console)
        return Bound(self._resolved(corpus, pairs), pairs, corpus)

    def of_run(self, data: Pairs | None = None) -> "Bound":
        """The bound form of the configuration of a run folder.

        Args:
          data: pairs to evaluate on instead of those that the field `data` names.
        """
        return Bound(self, None if data is None else check_pairs(data))

    def steps(self, corpus: Corpus) -> int:
        """Number of train steps on a corpus."""
        return steps_in(self.epochs, _order(jax.random.key(0), corpus).batches)

    def _resolved(self, corpus: Corpus, pairs: Pairs) -> "Experiment":
        ranges.check(self)
        optimizer = self.workload.optimizer
        if not optimizer.decay_steps:
            optimizer = dataclasses.replace(optimizer, decay_steps=self.steps(corpus))
        workload = dataclasses.replace(
            self.workload,
            source_vocabulary=len(corpus.source),
            target_vocabulary=len(corpus.target),
            optimizer=optimizer,
        )
        seq2seq.make(workload)  # raises if the fields do not fit together
        check_decoding(self.decoding, workload)
        digests = (corpus.source.digest, corpus.target.digest)
        tokens = dataclasses.replace(self.tokens, digests=digests)
        return dataclasses.replace(self, workload=workload, tokens=tokens, data=text.origin(pairs))


class Bound(experiment.Bound):
    """A resolved configuration and its text, which is loaded and encoded when it is needed."""

    def __init__(self, config: Experiment, pairs: Pairs | None = None, corpus: Corpus | None = None):
        self.config: Experiment = config
        self._pairs, self._corpus = pairs, corpus

    @functools.cached_property
    def pairs(self) -> Pairs:
        """The given pairs, or those that the configuration names."""
        return check_pairs(self.config.load()) if self._pairs is None else self._pairs

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The pairs as tokens in buckets; see `make_corpus` for what it raises."""
        if self._corpus is not None:
            return self._corpus
        return make_corpus(dataclasses.replace(self.config.tokens, digests=()), self.pairs)

    def with_data_in(self, folder: str | None, function: str | None = None) -> "Bound":
        """The same with the data of another folder, or of a function by its name; None: no change."""
        config = with_data(self.config, folder, function)
        return self if config is self.config else Bound(config)

    def training(self) -> Training:
        """The parts of the training loop."""
        config, corpus, pairs = self.config, self.corpus, self.pairs
        workload = config.workload
        beginning = make_beginning(config.run, self.make(), [type(config)], self._other_vocabularies)
        order = functools.partial(_order, corpus=corpus)
        epochs = order(jax.random.key(0))
        shapes = _shapes(corpus)
        counts = np.bincount(corpus.train["bucket"], minlength=len(shapes)) // [shape.rows for shape in shapes]
        evaluator = HeldOut(config, corpus, pairs)
        tokens = corpus.train["target_length"]
        return Training(
            Program(
                make=lambda axis_name: bucketed(seq2seq.make(workload, axis_name), shapes),
                prepare=beginning.prepare,
                flops_per_step=float(
                    sum(counts * [_flops(config.workload, shape) for shape in shapes]) / epochs.batches
                ),
            ),
            steps=config.steps(corpus),
            data=Examples(corpus.train, epochs.batch_size, order),
            scoring=Scoring(
                every=epochs.batches,
                score=f"validation_{scores.main_score(pairs.task)}",
                measure=evaluator.measure,
            ),
            log=Log(
                position=position_in_epochs(epochs.batches),
                opening=beginning.note,
                unit="target_tokens",
                # The mean over the steps of an epoch: batches differ in their number of real tokens.
                units_per_step=float(tokens.mean() * sum(counts * [shape.rows for shape in shapes]) / epochs.batches),
            ),
            storage=Storage(
                identity=digests.describe_pairs(pairs),
                write=functools.partial(_save_vocabularies, corpus=corpus),
            ),
            metrics=METRICS,
        )

    def train(
        self,
        console: Console | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        measures: Sequence[Measure] = (),
        metrics: Mapping[str, Metric] | None = None,
    ) -> Outcome:
        """Trains or resumes, scores the best checkpoint on the test set, and leaves pictures and tables.

        Args:
          console: for progress; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> declaration of a metric of your own.
        """
        console = console or Console()
        config, folder, task = self.config, RunFolder(self.config.run.workdir), self.pairs.task
        outcome = fit(self.training().measuring(measures, metrics), config, console, callbacks)
        if outcome.interrupted:
            self._write_card(outcome)
            return outcome
        score, result = scores.main_score(task), outcome.result
        if score not in result:
            params, corpus = [seq2seq.parameters(self.restore("best"))], self.corpus
            translator = Translator(
                config.workload, params, corpus.source, corpus.target, config.decoding, config.longest
            )
            found, tested = self._test(translator, self.pairs.test, task)
            result = result | tested | {"checkpoint": "best"}
            folder.write_json("result.json", result)
            with pictures.optional(console):
                draw(found, self.pairs, folder, config.tokens.lowercase, config.run.seed)
        self._write_card(outcome)
        console.print(progress.results(_main(result), Meanings(METRICS), title="Test set"))
        if config.expected:
            print_line(console, progress.expectation(score, config.expected, result[score], Meanings(METRICS)))
        return dataclasses.replace(outcome, result=result)

    def _write_card(self, outcome: Outcome) -> None:
        described = card.describe(
            self.config.workload, outcome.state.params, self.pairs.task, self.pairs.test.sources[0]
        )
        model_card.write(RunFolder(self.config.run.workdir), described, bool(outcome.interrupted))

    def make(self) -> Workload:
        """The workload for one device, for batches of one shape."""
        return seq2seq.make(self.config.workload)

    def trained(self, checkpoint: str = "best") -> "TrainedTranslator":
        """A trained translator from a checkpoint of the run; see `jaxai.load`."""
        from jaxai.experiments.translation.trained import TrainedTranslator

        return TrainedTranslator.read(self.config.run, self.make(), checkpoint, self.config)

    def evaluate(
        self,
        console: Console | None = None,
        which: Parameters = "best",
        files: tuple[Path, Path] | None = None,
        others: Sequence["Bound"] = (),
        other_data: bool = False,
    ) -> dict[str, Any]:
        """Scores a checkpoint of the run on its test set or on a pair of files; shows and returns the scores.

        Args:
          console: for the scores; None: standard output.
          which: checkpoint, or the mean of the parameters of both.
          files: a file of sources and one of references, line by line, instead of the test set.
          others: further runs of an ensemble.
          other_data: score what the configuration names, even if it is not the data of the run any more. Pairs that
            were passed to `bind` are scored in any case, with a note if they are not those of the run.

        Raises:
          ValueError: the run has no such checkpoint, the vocabularies are not its own, the files do not fit, or its
            data is no longer what the configuration names.
        """
        from jaxai.experiments.translation.trained import read_all

        config, console = self.config, console or Console()
        if files is None:
            pairs = self.pairs
            split, task, name = pairs.test, pairs.task, "test"
            data = digests.describe_pairs(pairs)
            given = other_data or self._pairs is not None
            show_notes(RunFolder(config.run.workdir).data_notes(data, "test", given=given), console)
        else:
            split, task, name = _aligned(*files), self._task, files[0].name
            data = {"splits": {name: {"digest": digests.digest_of_texts(split)}}}
        check_decoding(config.decoding, config.workload)
        first, further = read_all([self, *others], which)
        translator = first.translator(ensemble=further)
        _, result = self._test(translator, split, task)
        result |= {"sentences": len(split.sources), "checkpoint": which, "measured_on": measured_on(config, data)}
        console.print(progress.results(_main(result), Meanings(METRICS), title=f"Scores on {name}"))
        notes = [f"hypotheses and references were normalized in the same way: {result['normalisation']}"]
        notes += unknown_references(translator.target, split)
        if translator.cut:
            notes.append(f"sources cut because they had more than {translator.longest} tokens: {translator.cut:,}")
        for note in notes:
            print_line(console, note)
        return result

    def _test(self, translator: Translator, split: PairSplit, task: str) -> tuple[list[Translation], dict[str, Any]]:
        """The translations of a split, and its scores with their 95 % interval."""
        found = [best for best, *_ in translator.translate_all(split.sources, DECODED_AT_ONCE, attention=True)]
        for number, each in enumerate(found, start=1):
            each.require_finite(f"sentence {number}")
        predicted, answers, lowercase = [each.text for each in found], split.answers(), self.config.tokens.lowercase
        result = scores.score(task, predicted, answers, lowercase)
        score = scores.main_score(task)
        low, high = scores.interval(task, predicted, answers, lowercase=lowercase)
        return found, result | {f"{score}_low": low, f"{score}_high": high}

    def _other_vocabularies(self, source: "TrainedTranslator") -> list[str]:
        """The sides whose vocabulary differs from that of another run; see `make_beginning`."""
        digests = zip(source.config.tokens.digests, self.config.tokens.digests, strict=True)
        return [f"{side} tokens" for side, (old, new) in zip(("source", "target"), digests, strict=True) if old != new]

    @property
    def _task(self) -> str:
        """The kind of task of the run's data, without loading it."""
        data = self.config.data
        return text.KINDS.get(str(data.source), "translation") if data.task == "auto" else data.task


def _order(key: jax.Array, corpus: Corpus) -> BucketedEpochs:
    return BucketedEpochs(key, corpus.buckets)


def _shapes(corpus: Corpus) -> list[Shape]:
    return [Shape(*shape) for shape in corpus.buckets.shapes]


def _flops(config: seq2seq.Config, shape: Shape) -> int:
    """The floating-point operations of a train step on a batch of one shape."""
    workload, batch = seq2seq.make(config), seq2seq.example_batch(config, shape.rows, shape.source, shape.target)
    return flops.count(workload.train_step, jax.eval_shape(workload.init, jax.random.key(0)), batch)


def _aligned(source: Path, reference: Path) -> PairSplit:
    """The pairs of a file of sources and a file of references."""
    return line_files.aligned(source, reference, "error", "--source and --reference").split


def _save_vocabularies(folder: Path, corpus: Corpus) -> None:
    for side, tokens in (("source", corpus.source), ("target", corpus.target)):
        with writing(path := folder / f"{side}_vocabulary.json"):
            tokens.save(path)


def _main(result: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of the test set in the final values, without those of the last evaluation."""
    return {name: value for name, value in result.items() if name.startswith((*scores.METRICS,))}
