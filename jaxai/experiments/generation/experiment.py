"""Binds the generator and its discriminator to data, measures and pictures, for `jaxai train` and `sample`."""

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

from jaxai import gan, ranges
from jaxai.core import Metric, State, Workload
from jaxai.data import Data, Images, check_images, digests, load
from jaxai.data.epochs import steps_in
from jaxai.experiments.data_options import OnData, with_data
from jaxai.experiments.generation import card, drawing
from jaxai.experiments.generation.commands import COMMANDS
from jaxai.experiments.generation.evaluator import Evaluator
from jaxai.experiments.generation.generator import CHUNK, MEASURED, Generator
from jaxai.experiments.generation.metrics import METRICS
from jaxai.experiments.generation.quality import found_wrong, table
from jaxai.metrics import Meanings
from jaxai.output import print_line, show_notes
from jaxai.ranges import Count, Finite, Natural, Positive
from jaxai.report import pictures
from jaxai.runtime import experiment, flops, model_card, parallel, progress
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.checkpoint import Which
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.continuation import Changes, measured_on
from jaxai.runtime.evaluation import Evaluation
from jaxai.runtime.loop import Outcome, fit
from jaxai.runtime.registry import Commands
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Log, Program, Scoring, Storage, Training, scalars
from jaxai.trained import make_beginning

if TYPE_CHECKING:
    from jaxai.experiments.generation.trained import TrainedGenerator

EVALUATIONS = 10
"""Default number of evaluations per run; each draws thousands of samples."""
STATISTICS_LATENTS = 10_000
"""Number of latents used to recompute the generator's batch statistics."""


@dataclass(frozen=True)
class Experiment(OnData):
    """A generator and a discriminator, the data to imitate, and the run."""

    workload: Annotated[gan.Config, tyro.conf.arg(name="")] = gan.Config()
    data: Data = Data()
    epochs: Positive = 40.0  # number of passes over the training data
    batch_size: Count = 64  # real images in an update of the discriminator, over all devices
    extractor: str = "auto"  # network of the features: mnist, cifar10, pixels, a classifier's run; none: no measures
    samples: Count = 10_000  # images drawn at each evaluation
    fidelity_samples: Natural = 0  # number of samples compared with real images; 0: all, or half of the real images
    expected: Finite = 0.0  # Frechet distance that the preset reaches; 0: not known
    run: Annotated[Run, tyro.conf.arg(name="")] = Run()

    changes: ClassVar[Changes] = Changes(
        applied=(
            *("epochs", "expected", "workload.loss", "workload.smooth_real", "workload.smooth_fake"),
            *("workload.gradient_penalty", "workload.r1", "workload.r1_interval", "workload.updates"),
            *("workload.dropout", "workload.diffaugment", "workload.polyphase"),
        ),
        measured=(
            *("samples", "fidelity_samples", "data.test_examples"),
            *("workload.label_frequencies", "workload.dtype"),
        ),
        optimizers=("workload.generator_optimizer", "workload.discriminator_optimizer"),
        never_switched=("workload.ema_decay",),
        derived=(
            *("workload.generator_optimizer.decay_steps", "workload.discriminator_optimizer.decay_steps"),
            "workload.label_frequencies",
        ),
        refused={
            "batch_size": "the position in the data and the epochs follow from it",
            "workload.discriminator_steps": "the position in the data and the epochs follow from it",
            "extractor": "distances of two extractors do not compare",
        },
        scored_on=("train", "test"),
    )
    commands: ClassVar[Commands] = COMMANDS

    def load(self) -> Images:
        """The data; see `jaxai.data.load` for what it raises."""
        return load(self.data)

    def resolve(self, images: Images) -> "Experiment":
        """The experiment with the fields that follow from the data filled in.

        Raises:
          ValueError: no epochs, samples or batch, or a batch that is larger than the data.
        """
        ranges.check(self)
        examples, share = len(images.train["label"]), self.workload.discriminator_steps
        if self.batch_size * share > examples:
            raise ValueError(
                f"batch_size is {self.batch_size}, with {share} updates of the discriminator in a step; expected no"
                f" more than the {examples} training images in a step"
            )
        workload = self.workload
        steps = self.steps(examples)
        decays = {"generator_optimizer": steps, "discriminator_optimizer": steps * share}
        optimizers: dict[str, Any] = {
            name: dataclasses.replace(getattr(workload, name), decay_steps=length)
            for name, length in decays.items()
            if not getattr(workload, name).decay_steps
        }
        frequencies = workload.label_frequencies
        if workload.conditional and not frequencies:
            frequencies = _frequencies(images.train["label"], len(images.classes))
        workload = dataclasses.replace(
            workload,
            image_shape=images.shape,
            num_classes=len(images.classes),
            label_frequencies=frequencies,
            **optimizers,
        )
        gan.make(workload)  # raises an error if it cannot be trained, or does not fit these images
        return dataclasses.replace(self, workload=workload, data=images.origin)

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
        images = as_in_run(self, images)
        return Bound(self.resolve(images), images)

    def of_run(self, data: Images | None = None) -> "Bound":
        """The bound form of the configuration of a run folder.

        Args:
          data: images to evaluate against instead of what `data` names.
        """
        return Bound(self, None if data is None else check_images(data))

    @property
    def learned_labels(self) -> list[int]:
        """Labels that the training data has."""
        frequencies = self.workload.label_frequencies or [1] * self.workload.num_classes
        return [label for label, frequency in enumerate(frequencies) if frequency]

    @property
    def images_a_step(self) -> int:
        """Real images that a train step sees."""
        return self.batch_size * max(1, self.workload.discriminator_steps)

    def steps(self, examples: int) -> int:
        """Number of train steps on data with this number of images."""
        return steps_in(self.epochs, examples // self.images_a_step)


class Bound(experiment.Bound):
    """A generator and a discriminator whose configuration is resolved, and the images, loaded when they are needed."""

    def __init__(self, config: Experiment, images: Images | None = None):
        self.config: Experiment = config
        self._images = images

    @functools.cached_property
    def images(self) -> Images:
        """The given images, or those that the configuration names."""
        return self.config.load() if self._images is None else self._images

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The measurement of the generator: created once, as it computes the features of all real images."""
        return Evaluator(self.config, self.images)

    def with_data_in(self, folder: str | None, function: str | None = None) -> "Bound":
        """The same with the data of another folder, or of a function by its name; None: no change."""
        config = with_data(self.config, folder, function)
        return self if config is self.config else Bound(config)

    def with_extractor(self, name: str | None) -> "Bound":
        """The same, measured with another extractor; None: no change."""
        return self if name is None else Bound(dataclasses.replace(self.config, extractor=name), self._images)

    def make(self) -> Workload:
        """The workload for one device."""
        return gan.make(self.config.workload)

    def training(self) -> Training:
        """The parts of the training loop."""
        config, images = self.config, self.images
        examples = len(images.train["label"])
        beginning = make_beginning(config.run, self.make(), [type(config)])
        steps, evaluator = config.steps(examples), self.evaluator
        measures = config.extractor != "none"
        return Training(
            Program(
                make=lambda axis_name: gan.make(config.workload, axis_name),
                prepare=beginning.prepare,
                flops_per_step=self._flops_per_step(),
            ),
            steps=steps,
            data=Examples(images.train, config.images_a_step),
            scoring=Scoring(
                every=max(1, steps // EVALUATIONS),
                score="frechet_distance" if measures else None,
                splits={"test": images.test},
                measure=evaluator.measure,
                initial=measures,
            ),
            log=Log(
                position=lambda step: {"epoch": step * config.images_a_step / examples},
                warnings=found_wrong,
                opening=beginning.note,
                summarize=_summarize,
            ),
            storage=Storage(identity=digests.describe_images(images, config.workload.conditional)),
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
        """Trains or resumes, measures the result in full, and leaves its pictures in the run folder.

        Args:
          console: for progress; None: standard output.
          callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
          measures: functions state -> {name: value} that add to the metrics of each evaluation.
          metrics: name -> declaration of a metric of your own.
        """
        config = self.config
        outcome = fit(self.training().measuring(measures, metrics), config, console, callbacks)
        folder, result = RunFolder(config.run.workdir), outcome.result
        if outcome.interrupted:
            self._write_card(outcome)
            return outcome
        if "kernel_distance" not in result and config.extractor != "none":
            result = result | self.evaluator.in_full(outcome.state)
            folder.write_json("result.json", result)
        with pictures.optional(console):
            drawing.draw(config, self.images, outcome.state, folder)
        self._write_card(outcome)
        console = console or Console()
        if "frechet_distance" not in result:
            return dataclasses.replace(outcome, result=result)
        console.print(table(result))
        if config.expected:
            got = result["frechet_distance"]
            print_line(console, progress.expectation("frechet_distance", config.expected, got, Meanings(METRICS)))
        return dataclasses.replace(outcome, result=result)

    def _write_card(self, outcome: Outcome) -> None:
        described = card.describe(self.config.workload, outcome.state.params)
        model_card.write(RunFolder(self.config.run.workdir), described, bool(outcome.interrupted))

    def trained(self, checkpoint: str = "best") -> "TrainedGenerator":
        """A checkpoint of the run, to draw images with; see `jaxai.load`."""
        from jaxai.experiments.generation.trained import TrainedGenerator

        return TrainedGenerator.read(self.config.run, self.make(), checkpoint, self.config)

    def evaluate(
        self, console: Console | None = None, which: Which = "best", recompute: bool = False, other_data: bool = False
    ) -> dict[str, Any]:
        """Measures a checkpoint of the run in full, and shows and returns the metrics.

        The labels of a conditional generator have the frequencies of the real images.

        Args:
          console: for the metrics; None: standard output.
          which: checkpoint.
          recompute: compute the generator's batch statistics from latents; see `gan.make_recompute`.
          other_data: measure on what the configuration names, even if it is not the data of the run any more. Images
            that were passed to `bind` are used in any case, with a note if they are not those of the run.

        Raises:
          ValueError: the run has no such checkpoint, was trained on images of another shape, was measured with another
            extractor, or its data is no longer what the configuration names.
        """
        config, console = self.config, console or Console()
        show_notes(self.images.notes, console)
        images = as_in_run(config, self.images)
        if images.shape != tuple(config.workload.image_shape):
            raise ValueError(
                f"{images.name} has images {list(images.shape)}, but {config.run.workdir} makes images"
                f" {list(config.workload.image_shape)}; give data of the same shape"
            )
        data = digests.describe_images(images, config.workload.conditional)
        folder, measured = RunFolder(config.run.workdir), config
        given = other_data or self._images is not None
        show_notes(folder.data_notes(data, "train", "test", given=given), console)
        if config.workload.conditional and folder.data_notes(data, "train"):
            frequencies = _frequencies(images.train["label"], len(images.classes))
            workload = dataclasses.replace(config.workload, label_frequencies=frequencies)
            measured = dataclasses.replace(config, workload=workload)
        evaluator = Evaluator(measured, images)
        state = self.restore(which)
        if recompute:
            state = self._recomputed(state)
        mesh = parallel.make_mesh(1)
        result = evaluator.measure(mesh, state, draw=False) | evaluator.in_full(state)
        # Whole batches of training, which divide into the groups of minibatch_std.
        batch_size = max(1, CHUNK // config.batch_size) * config.batch_size
        held_out = Evaluation(self.make(), images.test, mesh, "jit", batch_size)(state)
        result |= {f"test_{name}": value for name, value in scalars(held_out).items() if name != "count"}
        result |= {"step": int(state.step), "checkpoint": which, "measured_on": measured_on(config, data)}
        console.print(table(result) if "extractor" in result else progress.results(result, Meanings(METRICS)))
        return result

    def _recomputed(self, state: State) -> State:
        generator = Generator(self.config.workload, parallel.make_mesh(1))
        count = max(1, STATISTICS_LATENTS // self.config.batch_size) * self.config.batch_size
        latents = generator.latents(jax.random.fold_in(jax.random.key(self.config.run.seed), MEASURED + 3), count)
        batches = latents.reshape(-1, self.config.batch_size, self.config.workload.latent_size)
        labels = (
            generator.labels(count).reshape(-1, self.config.batch_size) if self.config.workload.conditional else None
        )
        return jax.jit(gan.make_recompute(self.config.workload))(state, batches, labels)

    def _flops_per_step(self) -> float | None:
        """The average over updates with and without a penalty; None if all are equal."""
        config = self.config.workload
        if not config.r1 or config.r1_interval == 1:
            return None
        alike = dataclasses.replace(config, r1_interval=1), dataclasses.replace(config, r1=0.0)
        batch = {
            "image": jax.ShapeDtypeStruct((self.config.images_a_step, *config.image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((self.config.images_a_step,), jnp.int32),
        }
        penalized, plain = (
            flops.count(workload.train_step, jax.eval_shape(workload.init, jax.random.key(0)), batch)
            for workload in map(gan.make, alike)
        )
        return plain + (penalized - plain) / config.r1_interval


def as_in_run(config: Experiment, images: Images) -> Images:
    """The images with the run's labels; an unconditional generator does not use them."""
    return RunFolder(config.run.workdir).as_in_run(images) if config.workload.conditional else images


def _frequencies(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """The share of each label; () if all are equally frequent."""
    counts = np.bincount(labels, minlength=classes)
    return () if counts.min() == counts.max() else tuple((counts / counts.sum()).tolist())


def _summarize(result: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The final figures, and those of the untrained generator for comparison."""
    first = next((line["frechet_distance"] for line in lines if line["step"] == 0 and "frechet_distance" in line), None)
    if not first:
        return result
    return result | {"frechet_untrained": first, "frechet_improvement": first / result["frechet_distance"]}
