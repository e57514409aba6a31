"""A run that goes on: which changes it takes, what it refuses before it writes, and what it measures again."""

import dataclasses
import io
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxai import cnn, dqn, gan, seq2seq
from jaxai.cnn.experiment import Experiment as Classifier
from jaxai.data import Data, identity, load
from jaxai.dqn.environment import Environment, make_environment
from jaxai.dqn.experiment import Experiment as Agent
from jaxai.dqn.sweep import Grid, Sweep
from jaxai.gan.experiment import Experiment as Adversarial
from jaxai.optimizer import Optimizer, same_state
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.continuation import RUN
from jaxai.runtime.recorder import Recorder
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.run_record import read_run
from jaxai.seq2seq.experiment import Experiment as Translating

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


def train(workdir, images, **settings):
    """Without the pictures, which take longer than the training."""
    console = Console(file=io.StringIO(), width=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxai.runtime.pictures.available", lambda: False)
        outcome = experiment(workdir, **settings).train(images, console)
    return outcome, console.file.getvalue()


def evaluate(workdir, images, which="latest"):
    console = Console(file=io.StringIO(), width=300)
    experiment = RunFolder(workdir).load_config()
    experiment = dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, workdir=str(workdir)))
    return experiment.evaluate(console, which, images), console.file.getvalue()


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


# Which fields may change


def paths(config, prefix=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from paths(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def with_field(config, path, value):
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: with_field(getattr(config, name), rest, value) if rest else value})


@pytest.mark.parametrize("kind", [Classifier, Adversarial, Translating, Agent])
def test_every_name_that_is_declared_is_a_field(kind):
    known, changes = set(paths(kind())), kind.changes
    declared = (*changes.applied, *changes.measured, *changes.never_switched, *changes.derived, *changes.refused, *RUN)
    for name in declared:
        assert name in known or any(path.startswith(name.removesuffix("*")) for path in known if name[-1] == "*"), name
    assert {f"{name}.learning_rate" for name in changes.optimizers} <= known


REFUSED = [
    (Classifier, "batch_size", 32),
    (Classifier, "data.source", "idx"),
    (Classifier, "data.validation_fraction", 0.1),
    (Classifier, "data.resize", 16),
    (Classifier, "workload.width", 64),
    (Classifier, "workload.architecture", "mlp"),
    (Classifier, "workload.normalization", "batch"),
    (Classifier, "workload.num_classes", 3),
    (Classifier, "workload.image_mean", (0.1,)),
    (Classifier, "workload.ema_decay", 0.9),
    (Classifier, "workload.optimizer.name", "sgd"),
    (Classifier, "workload.optimizer.parameters", ("nesterov=True",)),
    (Classifier, "workload.optimizer.clip_norm", 1.0),
    (Classifier, "workload.optimizer.weight_decay", 1e-4),
    (Classifier, "run.seed", 1),
    (Adversarial, "batch_size", 32),
    (Adversarial, "extractor", "pixels"),
    (Adversarial, "data.source", "idx"),
    (Adversarial, "workload.discriminator_steps", 2),
    (Adversarial, "workload.latent_size", 8),
    (Adversarial, "workload.conditional", True),
    (Adversarial, "workload.discriminator_optimizer.name", "sgd"),
    (Adversarial, "workload.ema_decay", 0.9),
    (Translating, "tokens.batch", 128),
    (Translating, "tokens.buckets", 2),
    (Translating, "tokens.size", 100),
    (Translating, "tokens.lowercase", True),
    (Translating, "tokens.digests", ("a", "b")),
    (Translating, "data.source", "tsv"),
    (Translating, "data.train", "other"),
    (Translating, "data.test", ""),
    (Translating, "data.limit", 10),
    (Translating, "data.seed", 1),
    (Translating, "workload.hidden", 8),
    (Translating, "workload.optimizer.clip_norm", 0.0),
    (Agent, "env.name", "Catch-bsuite"),
    (Agent, "env.sticky_actions", 0.1),
    (Agent, "run.seeds", 3),
    (Agent, "workload.train_every", 20),
    (Agent, "workload.learning_starts", 100),
    (Agent, "workload.num_envs", 5),
    (Agent, "workload.updates_per_step", 2),
    (Agent, "workload.capacity", 1_000),
    (Agent, "workload.n_step", 3),
    (Agent, "workload.frame_stack", 2),
    (Agent, "workload.storage", "bits"),
    (Agent, "workload.prioritized", True),
    (Agent, "workload.noisy", True),
    (Agent, "workload.hidden", (8,)),
    (Agent, "workload.priority_exponent", 0.0),
]


@pytest.mark.parametrize(("kind", "path", "value"), REFUSED, ids=lambda part: getattr(part, "__module__", str(part)))
def test_change_that_cannot_be_applied_is_refused_with_what_may_change(kind, path, value):
    before = kind()
    with pytest.raises(ValueError, match=r"cannot change in a run that goes on") as error:
        kind.changes.check(before, with_field(before, path, value))
    message = one_line(error)
    assert message.startswith(f"{path}: ")
    assert "What may change: " in message
    assert path not in message.partition("What may change: ")[2].split(", ") or path in kind.changes.never_switched


def test_grid_of_a_sweep_cannot_change():
    before = Sweep(grid=Grid(discount=(0.9, 0.99)))
    for other in (Grid(discount=(0.9, 0.95)), Grid(learning_rate=(1e-3, 1e-2))):
        with pytest.raises(ValueError, match=r"^grid\."):
            Sweep.changes.check(before, dataclasses.replace(before, grid=other))


APPLIED = [
    (Classifier, "epochs", 3.0),
    (Classifier, "workload.optimizer.learning_rate", 1.0),
    (Classifier, "workload.augment.flip", "random"),
    (Classifier, "run.early_stopping", 2),
    (Classifier, "run.mode", "pmap"),
    (Adversarial, "workload.generator_optimizer.learning_rate", 1e-3),
    (Adversarial, "samples", 100),
    (Translating, "data.test", "hard"),
    (Translating, "decoding.beam", 8),
    (Agent, "workload.discount", 0.9),
    (Agent, "workload.optimizer.learning_rate", 1e-3),
    (Agent, "workload.total_steps", 600_000),
]


@pytest.mark.parametrize(("kind", "path", "value"), APPLIED, ids=lambda part: getattr(part, "__module__", str(part)))
def test_change_that_can_be_applied_is_taken(kind, path, value):
    assert kind.changes.check(kind(), with_field(kind(), path, value)) == [path]


OTHERWISE = {
    **dict.fromkeys(("dropout", "recurrent_dropout", "label_smoothing", "scheduled_sampling", "smooth_real"), 0.25),
    **dict.fromkeys(("smooth_fake", "gradient_penalty", "r1", "munchausen", "huber_delta", "discount"), 0.25),
    **dict.fromkeys(("epsilon_start", "epsilon_end", "target_rate", "importance_exponent"), 0.25),
    **dict.fromkeys(("variational", "polyphase", "double"), True),
    **dict.fromkeys(("scheduled_sampling_steps", "r1_interval", "epsilon_steps", "target_every", "batch_size"), 7),
    **{"gradient_blocks": 2, "evaluation_episodes": 3, "evaluation_steps": 30, "total_steps": 700_000},
    **{"compute_dtype": "bfloat16", "dtype": "bfloat16", "loss": "hinge", "updates": "simultaneous"},
    **{"diffaugment": ("color",), "epsilon": "exponential", "test_time": "flip", "class_weights": (2.0,) * 10},
    **{"munchausen_temperature": 0.1, "munchausen_minimum": -2.0, "priority_exponent": 0.3, "ema_decay": 0.5},
    **{"augment.flip": "random", "augment.crop_padding": 1, "augment.cutout": 2, "augment.mixup": 0.5},
    **{"augment.cutmix": 0.5, "label_frequencies": (0.1,) * 10},
}


def state_of(workload, kind):
    if kind is Agent:
        made = dqn.make(workload, *make_environment(Environment("Catch-bsuite")))
    else:
        made = {Classifier: cnn.make, Adversarial: gan.make, Translating: seq2seq.make}[kind](workload)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    return {jax.tree_util.keystr(path): str(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}


@pytest.mark.parametrize(
    ("kind", "workload"),
    [
        (Classifier, cnn.Config("mlp", 4, 1, image_shape=(8, 8, 1), ema_decay=0.9)),
        (Adversarial, gan.Config(width=2, latent_size=4, image_shape=(8, 8, 1), ema_decay=0.9)),
        (Translating, seq2seq.Config(8, 8, hidden=4, embed=4, ema_decay=0.9)),
        (Agent, dqn.Config(hidden=(4,), prioritized=True)),
    ],
    ids=["cnn", "gan", "seq2seq", "dqn"],
)
def test_no_field_that_may_change_has_a_part_in_the_shape_of_the_state(kind, workload):
    before, changes = state_of(workload, kind), kind.changes
    names = [name.removeprefix("workload.") for name in (*changes.applied, *changes.measured, *changes.never_switched)]
    names = [name for name in (*names, *changes.never_switched) if hasattr(workload, name)]
    for name in [*names, *(["augment." + each for each in ("flip", "crop_padding")] if kind is Classifier else [])]:
        assert state_of(with_field(workload, name, OTHERWISE[name]), kind) == before, name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"learning_rate": 1.0, "schedule": "cosine", "decay_steps": 9, "b1": 0.5, "eps": 1e-3}, True),
        ({}, {"clip_norm": 1.0}, False),
        ({}, {"weight_decay": 1.0}, False),
        ({"name": "adamw"}, {"name": "adamw", "weight_decay": 1.0}, True),
        ({"name": "sgd"}, {"name": "sgd", "momentum": 0.9}, False),
        ({"name": "sgd", "momentum": 0.5}, {"name": "sgd", "momentum": 0.9, "nesterov": True}, True),
        ({"name": "rprop"}, {"name": "rprop", "learning_rate": 1.0}, False),
    ],
    ids=str,
)
def test_optimizers_that_can_go_on_with_each_others_state(one, other, same):
    assert same_state(Optimizer(**one), Optimizer(**other)) is same


def test_of_several_changes_of_an_optimizer_the_one_that_is_not_possible_is_named():
    before = Classifier()
    optimizer = Optimizer(b1=0.5, clip_norm=1.0, learning_rate=0.1)
    after = with_field(before, "workload.optimizer", optimizer)
    assert Classifier.changes.refusals(before, after).keys() == {"workload.optimizer.clip_norm"}


def test_flag_is_offered_only_where_it_helps(images, run):
    with pytest.raises(ValueError, match="or go on with what is new by --resume-with-changes"):
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
    assert f"going on at step {2 * EPOCH} of {2 * EPOCH}" in text
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
    with pytest.raises(ValueError, match=r"holds a run of 'jaxai\.cnn\.experiment:Experiment', not of jaxai\.gan"):
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
    digest = identity.of_arrays(arrays)
    assert digest == identity.of_arrays({name: array.copy(order="F") for name, array in reversed(arrays.items())})
    changed = arrays["image"].copy()
    changed[1, 2, 3, 0] ^= 1
    others = [
        arrays | {"image": changed},
        arrays | {"image": arrays["image"].reshape(2, 4, 3, 1)},
        arrays | {"image": arrays["image"].astype(np.int16)},
        arrays | {"label": np.array([1, 0], np.int32)},
    ]
    assert len({digest, *map(identity.of_arrays, others)}) == 1 + len(others)


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
    assert "goes on with changes: train data: other content; epochs: 2.0 -> 3.0" in text
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
        state = restored_state(experiment.make(), experiment.run, parallel.make_mesh(1), checkpoints, "best")
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


def test_result_of_an_unfinished_run_is_gone(images, run, monkeypatch):
    evaluated = Recorder.evaluated

    def then_stop(self, step, metrics):
        evaluated(self, step, metrics)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Recorder, "evaluated", then_stop)
    outcome, _ = train(run, images, epochs=4.0, resume_with_changes=True)
    assert outcome.interrupted
    assert not (run / "result.json").exists()
