"""Binds the image classifier to data, evaluation and pictures, for `jaxai train`."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from jaxai import cnn, ranges
from jaxai.cnn.whitening import whiten
from jaxai.core import Metric, State, Workload
from jaxai.data import Data, Images, check_images, digests, load
from jaxai.data.epochs import steps_in
from jaxai.experiments.classification import card
from jaxai.experiments.classification.commands import COMMANDS
from jaxai.experiments.data_options import OnData, with_data
from jaxai.metrics import Meanings
from jaxai.output import print_line, show_notes
from jaxai.ranges import Finite, Natural, Positive
from jaxai.report import mosaic, pictures
from jaxai.report.lettering import readable
from jaxai.runtime import experiment, model_card, parallel, progress
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.continuation import Changes, measured_on
from jaxai.runtime.evaluation import Evaluation
from jaxai.runtime.loop import Outcome, fit
from jaxai.runtime.registry import Commands
from jaxai.runtime.restore import trained_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Log, Program, Scoring, Storage, Training, position_in_epochs, scalars
from jaxai.trained import make_beginning

if TYPE_CHECKING:
    from jaxai.experiments.classification.trained import TrainedClassifier

WHITENING_IMAGES = 5_000
"""Number of training images used to compute the whitening kernel (airbench)."""
EVALUATION_BATCH = 500
"""Images in a batch of `jaxai evaluate`; the result does not depend on it."""
STATISTICS_IMAGES = 10_000
"""Number of training images used to recompute batch statistics."""
MOST_COLUMNS = 20
"""Largest number of classes whose confusion matrix fits a terminal."""
LONGEST_IN_CAPTION = 14
"""Number of characters of a class name above the picture of a mistake."""
MISTAKES = 40
"""Number of pictures of the most confident mistakes."""


@dataclass(frozen=True)
class Experiment(OnData):
    """An image classifier, the data that it learns, and the run."""

    workload: Annotated[cnn.Config, tyro.conf.arg(name="")] = cnn.Config()
    data: Data = Data()
    epochs: Positive = 10.0  # number of passes over the training data
    batch_size: Natural = 64  # examples in a step over all devices; 0: all of them, which is plain gradient descent
    expected: Finite = 0.0  # test accuracy that the preset reaches, shown together with the result; 0: not known
    run: Annotated[Run, tyro.conf.arg(name="")] = Run()

    changes: ClassVar[Changes] = Changes(
        applied=(
            *("epochs", "expected", "workload.augment.*", "workload.label_smoothing", "workload.dropout"),
            *("workload.class_weights", "workload.gradient_blocks"),
        ),
        measured=("workload.test_time", "workload.dtype", "data.test_examples"),
        optimizers=("workload.optimizer",),
        never_switched=("workload.ema_decay",),
        derived=("workload.steps_per_epoch", "workload.optimizer.decay_steps"),
        refused={"batch_size": "the position in the data and the epochs follow from it"},
    )
    commands: ClassVar[Commands] = COMMANDS

    def load(self) -> Images:
        """The data; see `jaxai.data.load` for what it raises."""
        return load(self.data)

    def resolve(self, images: Images) -> "Experiment":
        """The experiment with the fields that follow from the data filled in.

        Raises:
          ValueError: no epochs, or a batch that is larger than the data.
        """
        ranges.check(self)
        examples = len(images.train["label"])
        batch_size = self.batch_size or examples
        if not 1 <= batch_size <= examples:
            raise ValueError(f"batch_size is {batch_size}; expected 1 to {examples}, or 0 for all {examples} examples")
        optimizer = self.workload.optimizer
        if not optimizer.decay_steps:
            steps = steps_in(self.epochs, examples // batch_size)
            optimizer = dataclasses.replace(optimizer, decay_steps=steps)
        weights = self.workload.class_weights
        if weights == "balanced":
            weights = cnn.balanced_class_weights(images.train["label"], len(images.classes))
        learned = np.bincount(images.train["label"], minlength=len(images.classes)) > 0
        if weights != "none" and len(weights) == len(learned) and not np.asarray(weights)[learned].any():
            raise ValueError(
                f"class_weights are {ranges.shown(weights)}, which are 0 for every class that training images have"
            )
        workload = dataclasses.replace(
            self.workload,
            class_weights=weights,
            image_shape=images.shape,
            num_classes=len(images.classes),
            steps_per_epoch=examples // batch_size,
            optimizer=optimizer,
        )
        return dataclasses.replace(self, workload=workload, batch_size=batch_size, data=images.origin)

    def bind(self, data: Images | None = None, console: Console | None = None) -> "Bound":
        """Loads and checks the images, and fills in what follows from them.

        Args:
          data: images to use instead of what `data` names.
          console: where notes on the data are shown; None: nowhere.

        Raises:
          ValueError: a field is out of its range or does not fit the images; one line.
        """
        check_experiment(self)
        images = self.load() if data is None else check_images(data)
        show_notes(images.notes, console)
        images = RunFolder(self.run.workdir).as_in_run(images)
        return Bound(self.resolve(images), images)

    def of_run(self, data: Images | None = None) -> "Bound":
        """The bound form of the configuration of a run folder.

        Args:
          data: images to evaluate on instead of what `data` names.
        """
        return Bound(self, None if data is None else check_images(data))


class Bound(experiment.Bound):
    """An image classifier whose configuration is resolved, and its images, loaded when they are needed."""

    def __init__(self, config: Experiment, images: Images | None = None):
        self.config: Experiment = config
        self._images = images

    @functools.cached_property
    def images(self) -> Images:
        """The given images, or those that the configuration names."""
        return self.config.load() if self._images is None else self._images

    def with_data_in(self, folder: str | None, function: str | None = None) -> "Bound":
        """The same with the data of another folder, or of a function by its name; None: no change."""
        config = with_data(self.config, folder, function)
        return self if config is self.config else Bound(config)

    def make(self) -> Workload:
        """The workload for one device."""
        return cnn.make(self.config.workload)

    def training(self) -> Training:
        """The parts of the training loop."""
        config, images = self.config, self.images
        held_out = {"validation": images.validation} if images.validation else {}
        beginning = make_beginning(config.run, self.make(), [type(config)])
        return Training(
            Program(
                make=lambda axis_name: cnn.make(config.workload, axis_name),
                prepare=lambda state: beginning.prepare(self._whitened(state, images)),
            ),
            steps=steps_in(config.epochs, config.workload.steps_per_epoch),
            data=Examples(images.train, config.batch_size),
            scoring=Scoring(
                every=config.workload.steps_per_epoch,
                score="validation_accuracy" if images.validation else "test_accuracy",
                splits=held_out | {"test": images.test},
            ),
            log=Log(position=position_in_epochs(config.workload.steps_per_epoch), opening=beginning.note),
            storage=Storage(identity=digests.describe_images(images)),
            metrics=cnn.METRICS,
        )

    def train(
        self,
        console: Console | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        measures: Sequence[Measure] = (),
        metrics: Mapping[str, Metric] | None = None,
    ) -> Outcome:
        """Trains or resumes, and leaves the pictures of the result in the run folder.

        Args:
          console: for progress; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> declaration of a metric of your own.
        """
        config = self.config
        folder = RunFolder(config.run.workdir)
        outcome = fit(self.training().measuring(measures, metrics), config, console, callbacks)
        if not outcome.interrupted:
            with pictures.optional(console):
                self.draw(outcome.state, folder)
            if console and config.expected:
                got = outcome.result["test_accuracy"]
                print_line(console, progress.expectation("test_accuracy", config.expected, got, Meanings(cnn.METRICS)))
        model_card.write(folder, card.describe(config.workload, outcome.state.params), bool(outcome.interrupted))
        return outcome

    def trained(self, checkpoint: str = "best") -> "TrainedClassifier":
        """A checkpoint of the run, to predict with; see `jaxai.load`."""
        from jaxai.experiments.classification.trained import TrainedClassifier

        return TrainedClassifier.read(self.config.run, self.make(), checkpoint, self.config)

    def evaluate(
        self, console: Console | None = None, which: Which = "best", recompute: bool = False, other_data: bool = False
    ) -> dict[str, Any]:
        """Measures a checkpoint of the run on the test set, and shows and returns the metrics.

        Args:
          console: for the metrics; None: standard output.
          which: checkpoint.
          recompute: compute the batch statistics from training images; see `cnn.make_recompute`.
          other_data: measure on what the configuration names, even if it is not the data of the run any more. Images
            that were passed to `bind` are used in any case, with a note if they are not those of the run.

        Raises:
          ValueError: the run has no such checkpoint, or was trained on images of other classes or another shape, or
            its data is no longer what the configuration names.
        """
        config, console = self.config, console or Console()
        show_notes(self.images.notes, console)
        folder = RunFolder(config.run.workdir)
        images = folder.as_in_run(self.images, subset=True)
        self._require_fitting(images)
        data = digests.describe_images(images)
        given = other_data or self._images is not None
        show_notes(folder.data_notes(data, "test", given=given), console)
        mesh = parallel.make_mesh(config.run.devices)
        state = trained_state(self.make(), config.run, mesh, which)
        if recompute:
            state = jax.jit(cnn.make_recompute(config.workload))(state, self._in_batches(images))
        workload = cnn.make(config.workload, parallel.axis_name(config.run.mode))
        measured = Evaluation(workload, images.test, mesh, config.run.mode, EVALUATION_BATCH)(state)
        confusion = measured["confusion"]
        per_class = {
            name: float(row[i] / row.sum()) if row.sum() else None
            for i, (name, row) in enumerate(zip(images.classes, confusion, strict=True))
        }
        result: dict[str, Any] = {f"test_{name}": value for name, value in scalars(measured).items() if name != "count"}
        result |= {"examples": int(measured["count"]), "step": int(state.step), "checkpoint": which}
        _show(result, per_class, confusion, images.classes, console)
        result |= {"per_class_accuracy": per_class, "confusion": confusion.astype(int).tolist()}
        return result | {"measured_on": measured_on(config, data)}

    def draw(self, state: State, folder: RunFolder) -> None:
        """The pictures of a trained state: confusion matrix and the most confident mistakes."""
        if not pictures.available():
            return
        images, predict = self.images, jax.jit(cnn.make_predict(self.config.workload))
        state = jax.device_put(state, jax.devices()[0])
        tested, labels = images.test["image"], images.test["label"]
        chunks = np.array_split(tested, max(1, len(tested) // EVALUATION_BATCH))
        probabilities = np.concatenate([jax.nn.softmax(predict(state, chunk)) for chunk in chunks])
        predicted, confidence = probabilities.argmax(-1), probabilities.max(-1)
        counts = np.zeros((len(images.classes),) * 2, int)
        np.add.at(counts, (labels, predicted), 1)
        folder.pictures.mkdir(exist_ok=True)
        captions = {
            "confusion_matrix.png": "Confusion matrix on the test set: row the true class, column the predicted"
        }
        pictures.confusion_matrix(counts, images.classes, folder.pictures / "confusion_matrix.png")
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
        if len(worst):
            names = [readable(name, LONGEST_IN_CAPTION) for name in images.classes]
            texts = [f"{names[predicted[i]]} not {names[labels[i]]} {confidence[i]:.0%}" for i in worst]
            pictures.image_grid(mosaic.visible(_as_uint8(tested[worst])), texts, folder.pictures / "mistakes.png")
            captions["mistakes.png"] = (
                f"The {len(worst)} most confident of {len(wrong)} mistakes: predicted, true, confidence"
            )
        folder.write_json("pictures/captions.json", captions)

    def _in_batches(self, images: Images) -> np.ndarray:
        """Training images of all classes in batches as in training: [batches, batch, height, width, channels]."""
        examples = images.train["image"]
        batch_size = min(self.config.batch_size, len(examples))  # other data than the run's may be smaller
        batches = min(max(1, STATISTICS_IMAGES // batch_size), len(examples) // batch_size)
        # The data may be sorted by class.
        chosen = np.random.default_rng(0).permutation(len(examples))[: batches * batch_size]
        return examples[chosen].reshape(batches, batch_size, *examples.shape[1:])

    def _require_fitting(self, images: Images) -> None:
        workload = self.config.workload
        if images.shape != tuple(workload.image_shape) or len(images.classes) != workload.num_classes:
            raise ValueError(
                f"{images.name} has {len(images.classes)} classes of images {list(images.shape)}, but"
                f" {self.config.run.workdir} was trained on {workload.num_classes} of {list(workload.image_shape)};"
                " give data of the same classes and shape"
            )

    def _whitened(self, state: State, images: Images) -> State:
        if "constants" not in state.extra:
            return state
        # Evenly spaced over the data, which may be sorted by class.
        every = max(1, len(images.train["image"]) // WHITENING_IMAGES)
        sample = cnn.normalize(self.config.workload, jnp.asarray(images.train["image"][::every][:WHITENING_IMAGES]))
        return state.replace(extra=whiten(state.extra, sample))


def _show(
    result: dict[str, Any], per_class: dict[str, float | None], confusion: np.ndarray, classes: Any, console: Console
) -> None:
    console.print(progress.results(result, Meanings(cnn.METRICS), title="Test set"))
    columns = [Column(Text(name)) for name in classes]  # a name such as [red] is not markup
    table = Table("true \\ predicted", *columns, "accuracy", title="Confusion matrix")
    if len(classes) > MOST_COLUMNS:
        table = Table("class", "accuracy", title="Accuracy by class")
    for name, row in zip(classes, confusion, strict=True):
        counts = [f"{int(count)}" for count in row] if len(classes) <= MOST_COLUMNS else []
        accuracy = per_class[name]
        table.add_row(Text(name), *counts, "none" if accuracy is None else f"{accuracy:.4f}")
    console.print(table)


def _as_uint8(images: np.ndarray) -> np.ndarray:
    return images if images.dtype == np.uint8 else np.clip(images * 255, 0, 255).astype(np.uint8)
