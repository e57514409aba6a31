"""Which fields of each workload's configuration may change in a run that goes on, and which are refused."""

import dataclasses

import jax
import pytest

from jaxai import cnn, dqn, gan, seq2seq
from jaxai.dqn.environment import Environment, make_environment
from jaxai.experiments.classification.experiment import Experiment as Classifier
from jaxai.experiments.generation.experiment import Experiment as Adversarial
from jaxai.experiments.qlearning.experiment import Experiment as Agent
from jaxai.experiments.qlearning.sweep import Grid, Sweep
from jaxai.experiments.translation.experiment import Experiment as Translating
from jaxai.optimizer import Optimizer, same_state
from jaxai.runtime.continuation import RUN


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


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
    with pytest.raises(ValueError, match=r"cannot change in a run that continues") as error:
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


def test_another_kind_of_vocabulary_is_named_before_the_vocabularies_that_follow_from_it():
    before = Translating()
    after = dataclasses.replace(before, tokens=dataclasses.replace(before.tokens, kind="word", digests=("a", "b")))
    with pytest.raises(ValueError, match=r"^tokens\.kind: ") as error:
        Translating.changes.check(before, after)
    assert "the training text has changed" not in one_line(error)
