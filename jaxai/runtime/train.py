"""`jaxai.train`: trains a workload of your own with resume, guard, progress, evaluation, checkpoints and report.

::

    outcome = jaxai.train(make, {"x": x, "y": y}, steps=1_000, workdir="runs/mine", evaluate_on={"x": xt, "y": yt})
    plt.plot(outcome.history["step"], outcome.history["loss"])

`make` is a `jaxai.Workload`, or a function axis_name -> Workload. See `jaxai.core` for what its functions take.
"""

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from rich.console import Console

from jaxai import ranges
from jaxai.core import Metric, Workload
from jaxai.data.digests import describe_images
from jaxai.data.images import Images, check_images
from jaxai.data.named_arrays import check_named_arrays, describe_named_arrays
from jaxai.files.paths import path_text
from jaxai.metrics import LOSS, Meanings
from jaxai.metrics import check as check_metrics
from jaxai.ranges import Count, Natural, shown
from jaxai.runtime import experiment, model_card, parallel
from jaxai.runtime.batches import example_batch
from jaxai.runtime.callbacks import Callback, Measure
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.continuation import Changes
from jaxai.runtime.feed import Feed
from jaxai.runtime.loop import Outcome, fit
from jaxai.runtime.registry import NO_COMMANDS, Commands
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Arrays, Examples, Log, Program, Scoring, Storage, Training, position_in_epochs
from jaxai.runtime.workload_checks import check_workload, evaluation_metrics, made_for

__all__ = ["Own", "train"]

Make = Callable[[str | None], Workload]

EVALUATIONS = 20
"""Largest default number of evaluations per run."""
BATCH_SIZE = 64
FIXED = ("workdir", "seeds", "init_from")
"""Fields of `Run` that are no options of `train`."""


@dataclass(frozen=True)
class Own(experiment.Experiment):
    """The configuration of a run of `jaxai.train`, as its `config.json` has it.

    Attributes:
      steps: train steps of the whole run.
      batch_size: number of examples in a step; 0 without arrays.
      score: the metric that selects the best checkpoint; "": none.
      splits: names of the splits to evaluate on.
      run: its settings and folder.
    """

    steps: Count
    batch_size: Natural = 0
    score: str = ""
    splits: tuple[str, ...] = ()
    run: Run = Run()

    commands: ClassVar[Commands] = NO_COMMANDS

    @property
    def changes(self) -> Changes:  # type: ignore[override]  # it depends on the splits
        """What may change in a run that continues with `resume_with_changes`."""
        return Changes(
            applied=("steps",),
            measured=("score", "splits"),
            refused={"batch_size": "the position in the data follows from it"},
            scored_on=self.splits,
        )

    def bind(self, data: Any = None, console: Console | None = None) -> NoReturn:
        """See `of_run`."""
        self.of_run()

    def of_run(self, data: Any = None) -> NoReturn:
        """A folder does not contain the workload.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            f"{self.run.workdir} is a run of jaxai.train, whose workload only its own program has; give it, as in"
            " jaxai.load(folder, workload=workload)"
        )


def train(
    workload: Workload | Make,
    data: Mapping[str, Any] | Images | Feed | None = None,
    *,
    steps: int,
    workdir: str | os.PathLike[str],
    batch_size: int = BATCH_SIZE,
    evaluate_on: Mapping[str, Any] | None = None,
    score: str | None = None,
    metrics: Mapping[str, Metric] | None = None,
    measures: Sequence[Measure] = (),
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    **run: Any,
) -> Outcome:
    """Trains a workload of your own, or continues the run in `workdir`.

    Data, number of steps and batch size are compared with those of the run folder; differences are refused. Changes of
    the code are not detected: after a change of the step function, choose another workdir.

    Args:
      workload: to train; or a function axis_name -> workload, which `mode="shard_map"` and `"pmap"` on several
        devices need: the step averages its gradients over this axis.
      data: name -> array [examples, ...], which the step gets as its batch, together with `index`, the number of each
        example; or `Images` of `jaxai.data`; or a `jaxai.runtime.feed.Feed`; None for a workload that generates its
        own.
      steps: train steps of the whole run.
      workdir: folder of the run.
      batch_size: number of examples in a step, over all devices, of `data` as arrays; 0: all of them.
      evaluate_on: name of a split -> arrays as in `data`; or arrays, as the split `test`. `eval_step` gets them in
        batches with `mask`, which is 0 for the examples that fill the last one. The metrics of a split are called
        `<split>_<metric>`. None: `Images` are evaluated on their own splits, and a workload without data on itself, as
        `evaluation`.
      score: the metric that selects the best checkpoint and stops early, as `test_accuracy`. Default: of the first
        split (`validation` if there is one) the first metric that `metrics` declares as better higher or lower, else
        `loss`, which is better lower. Without a score, the latest state is the best.
      metrics: name, without a split -> declaration of a metric, for progress and report.
      measures: functions state -> {name: value} that add to the metrics of each evaluation.
      callbacks: functions (step, metrics, state) that run between calls; see `jaxai.runtime.callbacks`.
      console: for progress; None: standard output.
      run: fields of `jaxai.runtime.config.Run`: seed, mode, devices, steps_per_call, evaluate_every (default: an epoch,
        but at most 20 evaluations in a run), checkpoint_every, early_stopping, placement, tensorboard,
        resume_with_changes.

    Returns:
      An `Outcome`: the state at the end, the result, and the history of the metrics as arrays.

    Raises:
      ValueError: something does not fit; one line, before anything is written. Also a callback that failed, with
        everything saved.
      FloatingPointError: a gradient or a parameter became non-finite; the state and the batch are in the run folder.
    """
    how = _run(workdir, run)
    check_experiment(Own(steps, batch_size, run=how))
    examples, splits, identity = _data(data, batch_size, evaluate_on)
    if how.steps_per_call == 0 and isinstance(examples, Feed):
        how = dataclasses.replace(how, steps_per_call=1)  # so that a feed gets the newest state
    batch = example_batch(examples)
    make = made_for(workload, batch, how.mode, parallel.make_mesh(how.devices))
    one_device = make(None)
    check_workload(one_device, batch)
    if not splits and examples is None and one_device.eval_step is not None:
        splits = {"evaluation": None}
    check_metrics(metrics or {})
    declared = dict(metrics or {})
    score, declared = _score(score, declared, evaluation_metrics(one_device, splits), measures)
    if how.early_stopping and score is None:
        raise ValueError("early_stopping needs a score; give evaluate_on, or measures and score")
    per_epoch = _steps_per_epoch(examples)
    training = Training(
        Program(make),
        steps,
        examples,
        Scoring(max(per_epoch, -(-steps // EVALUATIONS)), score, splits),
        Log(position=position_in_epochs(per_epoch) if isinstance(examples, Examples) else lambda step: {}),
        Storage(identity),
        declared,
    ).measuring(measures)
    own = Own(steps, training.batch_size if isinstance(examples, Examples) else 0, score or "", tuple(splits), how)
    outcome = fit(training, own, console, callbacks)
    folder = RunFolder(how.workdir)
    model = model_card.of_arrays(outcome.state.params, identity, "workload=workload", ("jaxai report RUN",))
    model_card.write(folder, model, bool(outcome.interrupted))
    return outcome


def _run(workdir: str | os.PathLike[str], options: Mapping[str, Any]) -> Run:
    known = [field.name for field in dataclasses.fields(Run) if field.name not in FIXED]
    for name in options:
        if name == "seeds":
            raise ValueError("seeds is no option of jaxai.train, which trains one; see jaxai.population for several")
        if name == "init_from":
            raise ValueError(
                "init_from is no option of jaxai.train; give jaxai.load(RUN).init_from(workload) as the workload"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ValueError(f"jaxai.train has no option {name}; {hint}")
    found = Run(workdir=path_text(workdir, "workdir"), **options)
    ranges.check(found)  # here, where its fields have no name before them
    return found


def _data(
    data: Any, batch_size: int, evaluate_on: Any
) -> tuple[Examples | Feed | None, dict[str, Arrays | None], dict[str, Any] | None]:
    """The training data, the splits to evaluate on, and the identity of both."""
    splits = _splits(evaluate_on)
    if isinstance(data, Images):
        images = check_images(data)
        held_out = {"validation": images.validation, "test": images.test}
        own: dict[str, Arrays | None] = {name: split for name, split in held_out.items() if split}
        identity = describe_images(images) if evaluate_on is None else None
        train, splits = images.train, own if evaluate_on is None else splits
    elif data is None or isinstance(data, Feed):
        train, identity = None, None
    elif callable(getattr(data, "next", None)):
        raise ValueError(f"the feed {type(data).__name__} has no example; set it to the batch of one step, as zeros")
    else:
        train, identity = check_named_arrays("data", data), None
    examples = data if train is None else Examples(train, batch_size or len(next(iter(train.values()))))
    if isinstance(examples, Examples):
        examples.batches(0)  # raises an error if the batch size is wrong
    if identity is None:
        found = ({} if train is None else {"train": train}) | {name: each for name, each in splits.items() if each}
        identity = describe_named_arrays(found) if found else None
    return examples, splits, identity


def _splits(evaluate_on: Any) -> dict[str, Arrays | None]:
    if evaluate_on is None:
        return {}
    if not isinstance(evaluate_on, Mapping):
        raise ValueError(
            f"evaluate_on is a {type(evaluate_on).__name__}; expected arrays by name, or splits of them:"
            " evaluate_on={'test': {'x': ..., 'y': ...}}"
        )
    if not all(split is None or isinstance(split, Mapping) for split in evaluate_on.values()):
        return {"test": check_named_arrays("evaluate_on", evaluate_on)}
    return {
        name: None if split is None else check_named_arrays(f"evaluate_on[{name!r}]", split)
        for name, split in evaluate_on.items()
    }


def _score(
    score: str | None, metrics: dict[str, Metric], measured: Sequence[str], measures: Sequence[Measure]
) -> tuple[str | None, dict[str, Metric]]:
    """The metric that selects the best checkpoint, and the declarations with its own."""
    if score is not None and score not in measured and not measures:
        near = difflib.get_close_matches(score, measured, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(measured) or 'none: no evaluation'}"
        raise ValueError(f"score is {shown(score)}, which no evaluation has; {hint}")
    if score is None:
        meanings = Meanings(metrics)
        score = next((name for name in measured if meanings.better(name)), None)
    losses = [name for name in measured if name.endswith(f"_{LOSS}")]
    if score is None and losses:
        score = losses[0]
    if score in losses and Meanings(metrics).better(score) is None:
        metrics = metrics | {LOSS: metrics.get(LOSS, Metric(LOSS))._replace(better="lower")}
    if score is None and measures and not measured:
        score = next((name for name, metric in metrics.items() if metric.better), None)
        if score is None:
            raise ValueError(
                "measures are given, but not which of their metrics selects the best checkpoint; give score, and"
                " declare it: score='f1', metrics={'f1': jaxai.Metric('F1', better='higher')}"
            )
    return score, metrics


def _steps_per_epoch(examples: Examples | Feed | None) -> int:
    if not isinstance(examples, Examples):
        return 1
    return max(1, len(next(iter(examples.arrays.values()))) // examples.batch_size)
