"""A run that goes on: which changes it takes, what it refuses before it writes, and what it measures again."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from jaxai import cnn
from jaxai.data import Data, digests, load
from jaxai.experiments.classification.experiment import Experiment as Classifier
from jaxai.experiments.generation.experiment import Experiment as Adversarial
from jaxai.report.run_record import read_run
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder

EXAMPLES, BATCH, TESTED = 64, 8, 40
EPOCH = EXAMPLES // BATCH
NAMES = ("bird", "cat", "dog", "eel")


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def images():
    found = load(Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=EXAMPLES, test_examples=TESTED))
    return dataclasses.replace(found, classes=NAMES)


def experiment(workdir, epochs=2.0, batch_size=BATCH, learning_rate=3e-2, workload=None, **run):
    settings = {"architecture": "mlp", "width": 8, "depth": 1, "optimizer": cnn.Optimizer(learning_rate=learning_rate)}
    run = {"workdir": str(workdir), "devices": 1, "steps_per_call": 4} | run
    return Classifier(cnn.Config(**settings | (workload or {})), epochs=epochs, batch_size=batch_size, run=Run(**run))


def train(workdir, images, callbacks=(), **settings):
    """Without the pictures, which take longer than the training."""
    console = Console(file=io.StringIO(), width=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxai.report.pictures.available", lambda: False)
        outcome = experiment(workdir, **settings).bind(images, console).train(console, callbacks=callbacks)
    return outcome, console.file.getvalue()


def evaluate(workdir, images, which="latest"):
    console = Console(file=io.StringIO(), width=300)
    experiment = RunFolder(workdir).load_config()
    experiment = dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, workdir=str(workdir)))
    return experiment.of_run(images).evaluate(console, which), console.file.getvalue()


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(workdir, images)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def reordered(images, order):
    """The same images with the classes in another order: the label of a class is its new place."""
    table = np.argsort(order).astype(np.int32)
    relabelled = ({**split, "label": table[split["label"]]} for split in (images.train, images.test))
    train, test = relabelled
    return dataclasses.replace(images, train=train, test=test, classes=tuple(images.classes[i] for i in order))


def test_flag_is_offered_only_where_it_helps(images, run):
    with pytest.raises(ValueError, match="or accept the changes with --resume-with-changes"):
        train(run, images, learning_rate=1.0)
    with pytest.raises(ValueError, match="; choose another --workdir: batch_size cannot change, with --resume-with-"):
        train(run, images, batch_size=16)


# Nothing is written before everything is accepted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 16}, "batch_size: 8 -> 16 cannot change"),
        ({"epochs": 1.0}, f"is at step {2 * EPOCH}, and this configuration ends at step {EPOCH}; train longer"),
        ({"workload": {"width": 16}}, "workload.width: 8 -> 16 cannot change"),
        ({"workload": {"optimizer": cnn.Optimizer("sgd")}}, "workload.optimizer.name: adam -> sgd cannot change"),
        ({"seed": 1}, "run.seed: 0 -> 1 cannot change"),
    ],
    ids=str,
)
def test_refused_change_leaves_every_byte_as_it_was(images, run, settings, message):
    before = snapshot(run)
    with pytest.raises(ValueError, match=message) as error:
        train(run, images, resume_with_changes=True, **settings)
    one_line(error)
    assert snapshot(run) == before
    outcome, text = train(run, images)
    assert f"continuing at step {2 * EPOCH} of {2 * EPOCH}" in text
    assert outcome.result == json.loads(before["result.json"])
    assert evaluate(run, images)[0]["test_accuracy"] == pytest.approx(outcome.result["test_accuracy"])


def test_change_that_only_the_checkpoint_shows_is_refused_before_anything_is_written(images, run):
    """As where the configuration in the folder says nothing of it: an experiment of one's own that declares nothing."""
    before = snapshot(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(Classifier, "changes")
        with pytest.raises(ValueError, match="checkpoint") as error:
            train(run, images, workload={"width": 16}, resume_with_changes=True)
    one_line(error)
    assert snapshot(run) == before


def test_run_of_another_workload_is_named(run):
    other = dataclasses.replace(Adversarial(), run=Run(workdir=str(run), resume_with_changes=True))
    with pytest.raises(ValueError, match="holds a run of classification, not of generation"):
        RunFolder(run).compare(other)


def test_learning_rate_and_its_schedule_are_applied_from_the_step_that_was_reached_on(images, run):
    optimizer = cnn.Optimizer(learning_rate=1e-2, schedule="linear")
    train(run, images, epochs=4.0, workload={"optimizer": optimizer}, resume_with_changes=True)
    rates = {line["step"]: line["learning_rate"] for line in RunFolder(run).lines("metrics.jsonl") if "loss" in line}
    assert rates[2 * EPOCH] == pytest.approx(3e-2)
    # Each line has the mean over its call of 4 steps; the schedule runs over all 4 epochs.
    total = 4 * EPOCH
    for step in (2 * EPOCH + 4, total):
        expected = np.mean([1e-2 * (1 - done / total) for done in range(step - 4, step)])
        assert rates[step] == pytest.approx(expected, rel=1e-4)


# Classes and data


def test_data_is_the_same_wherever_it_lies_and_another_with_any_change():
    arrays = {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1), "label": np.array([0, 1], np.int32)}
    digest = digests.digest_of_arrays(arrays)
    assert digest == digests.digest_of_arrays({name: array.copy(order="F") for name, array in reversed(arrays.items())})
    changed = arrays["image"].copy()
    changed[1, 2, 3, 0] ^= 1
    others = [
        arrays | {"image": changed},
        arrays | {"image": arrays["image"].reshape(2, 4, 3, 1)},
        arrays | {"image": arrays["image"].astype(np.int16)},
        arrays | {"label": np.array([1, 0], np.int32)},
    ]
    assert len({digest, *map(digests.digest_of_arrays, others)}) == 1 + len(others)


def test_classes_in_another_order_are_mapped_by_name(images, run):
    expected = evaluate(run, images)[0]
    other = reordered(images, [2, 0, 3, 1])
    assert (other.test["label"] != images.test["label"]).any()
    found, text = evaluate(run, other)
    assert found["test_accuracy"] == expected["test_accuracy"]
    assert found["per_class_accuracy"] == expected["per_class_accuracy"]
    assert found["confusion"] == expected["confusion"]
    assert "not that of the run" not in text  # mapped, it is the same data
    outcome, _ = train(run, other, epochs=3.0, resume_with_changes=True)
    assert json.loads((run / "data.json").read_text())["classes"] == list(NAMES)
    assert outcome.result["test_accuracy"] == evaluate(run, images)[0]["test_accuracy"]


def test_other_classes_are_refused_in_a_line_that_names_them(images, run):
    before, other = snapshot(run), dataclasses.replace(images, classes=("aardvark", "cat", "dog", "eel"))
    for action in (evaluate, train):
        with pytest.raises(
            ValueError, match=r"has the class aardvark, but .* was trained on bird, cat, dog, eel"
        ) as error:
            action(run, other)
        one_line(error)
    train_split, test_split = ({**split, "label": split["label"] % 3} for split in (images.train, images.test))
    fewer = dataclasses.replace(images, train=train_split, test=test_split, classes=NAMES[:3])
    with pytest.raises(ValueError, match="lacks the class eel"):
        train(run, fewer, resume_with_changes=True)
    assert snapshot(run) == before


def test_a_test_set_of_some_of_the_classes_is_measured(images, run):
    kept = images.test["label"] == 2
    some = {name: array[kept] for name, array in images.test.items()} | {"label": np.zeros(kept.sum(), np.int32)}
    found, text = evaluate(run, dataclasses.replace(images, train=some, test=some, classes=("dog",)))
    whole = evaluate(run, images)[0]
    assert found["per_class_accuracy"]["dog"] == whole["per_class_accuracy"]["dog"]
    assert found["test_accuracy"] == pytest.approx(whole["per_class_accuracy"]["dog"])
    assert f"the test data is not that of the run: {TESTED} -> {kept.sum()} examples" in text


def longer(images):
    train = {name: np.concatenate([array, array[: EXAMPLES // 2]]) for name, array in images.train.items()}
    return dataclasses.replace(images, train=train)


def test_data_that_changed_under_a_run_is_said_and_refused_without_the_flag(images, run):
    before = snapshot(run)
    other = dataclasses.replace(images, train=images.train | {"image": 255 - images.train["image"]})
    with pytest.raises(ValueError, match=r"holds a run with other data \(train data: other content\)") as error:
        train(run, other)
    assert "--resume-with-changes" in one_line(error)
    with pytest.raises(ValueError, match=rf"other data \(train data: {EXAMPLES} -> {EXAMPLES * 3 // 2} examples\);"):
        train(run, longer(images))
    assert snapshot(run) == before
    _, text = train(run, other, epochs=3.0, resume_with_changes=True)
    assert "continues with changes: train data: other content; epochs: 2.0 -> 3.0" in text
    train(run, other, epochs=3.0)  # and is no change any more


def test_run_of_an_earlier_version_goes_on_and_says_what_is_not_compared(images, run):
    (run / "data.json").unlink()
    other = dataclasses.replace(images, classes=("aardvark", "cat", "dog", "eel"))
    for _, text in (evaluate(run, other), train(run, other)):
        assert text.count("has no data.json, as runs of earlier versions") == 1
    assert json.loads((run / "data.json").read_text())["classes"][0] == "aardvark"


# Results


def with_other_test(images):
    return dataclasses.replace(images, test=images.test | {"label": (images.test["label"] + 1) % len(NAMES)})


def test_finished_run_with_another_test_set_is_measured_again(images, run):
    old = json.loads((run / "result.json").read_text())
    hard = with_other_test(images)
    outcome, _ = train(run, hard, resume_with_changes=True)
    result = json.loads((run / "result.json").read_text())
    assert result == outcome.result
    latest, best = (evaluate(run, hard, which)[0] for which in ("latest", "best"))
    assert result["test_accuracy"] == latest["test_accuracy"] != old["test_accuracy"]
    assert result["best_step"] == best["step"]
    assert result["best_test_accuracy"] == pytest.approx(best["test_accuracy"])
    assert result["measured_on"]["test"] != old["measured_on"]["test"]
    assert train(run, hard)[0].result == result  # and stands from then on
    shown = read_run(run)
    assert [line["test_accuracy"] for line in shown.metrics if "test_accuracy" in line] == [
        line["test_accuracy"] for line in RunFolder(run).lines("metrics.jsonl")[-1:]
    ]
    assert any("left out" in note for note in shown.notes)


def best_on_disk(workdir):
    """Step and test accuracy of the best checkpoint."""
    experiment = RunFolder(workdir).load_config()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        (step,) = checkpoints.steps("best")
        state = restored_state(experiment.of_run().make(), experiment.run, parallel.make_mesh(1), checkpoints, "best")
    assert int(state.step) == step
    return step


def test_last_evaluation_that_was_cut_off_is_made_again(images, run):
    whole = (run / "metrics.jsonl").read_text()
    result = json.loads((run / "result.json").read_text())
    assert result["best_step"] == 2 * EPOCH == best_on_disk(run)
    *kept, last = whole.splitlines(keepends=True)
    assert "test_accuracy" in last
    (run / "metrics.jsonl").write_text("".join(kept) + last[:20])
    (run / "result.json").unlink()
    outcome, _ = train(run, images)
    assert (run / "metrics.jsonl").read_text() == whole
    for name in ("best_step", "best_test_accuracy", "test_accuracy", "test_loss"):
        assert outcome.result[name] == result[name]


def test_best_step_is_that_of_the_best_checkpoint_whatever_the_lines_say(images, run):
    """As where the best checkpoint was lost: the next best is one that there is."""
    lines = RunFolder(run).lines("metrics.jsonl")
    first = next(line for line in lines if "test_accuracy" in line)
    first["test_accuracy"] = 1.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome, _ = train(run, images, epochs=3.0, resume_with_changes=True)
    assert outcome.result["best_step"] == best_on_disk(run)
    assert outcome.result["best_test_accuracy"] == pytest.approx(evaluate(run, images, "best")[0]["test_accuracy"])


def test_result_of_an_unfinished_run_is_gone(images, run, signal_at):
    callbacks = [signal_at("test_accuracy", 1)]
    outcome, _ = train(run, images, callbacks, epochs=4.0, resume_with_changes=True)
    assert outcome.interrupted
    assert not (run / "result.json").exists()


class Killed(BaseException):
    """The end of a process at a place of its own."""


@pytest.mark.parametrize(("which", "before"), [("best", True), ("best", False), ("latest", False)])
def test_best_agrees_with_the_result_wherever_a_kill_falls(images, finished, tmp_path, which, before):
    """Around each save at the second evaluation: its line is written, the best and the latest state maybe."""
    save = Checkpoints.save

    def until(self, state, kind="latest"):
        here = kind == which and int(state.step) == 2 * EPOCH
        if here and before:
            raise Killed
        save(self, state, kind)
        if here:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", until)
        with pytest.raises(Killed):
            train(tmp_path / "run", images)
    outcome, _ = train(tmp_path / "run", images)
    whole = json.loads((finished / "result.json").read_text())
    assert outcome.result["best_step"] == whole["best_step"] == best_on_disk(tmp_path / "run")
    assert outcome.result["best_test_accuracy"] == whole["best_test_accuracy"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
