"""An unresolved experiment cannot train; its bound form has what follows from the data."""

import dataclasses

import pytest

from jaxai import cnn, gan
from jaxai.data import Data, load
from jaxai.experiments.classification.experiment import Experiment as Classification
from jaxai.experiments.generation.experiment import Experiment as Generation
from jaxai.experiments.qlearning.experiment import Experiment as QLearning
from jaxai.experiments.qlearning.sweep import Sweep
from jaxai.experiments.translation.experiment import Experiment as Translation
from jaxai.runtime import registry
from jaxai.runtime.config import Run
from jaxai.runtime.experiment import Bound, Experiment, open_run
from jaxai.runtime.run_folder import RunFolder

KINDS = [Classification, Generation, Translation, QLearning, Sweep]
SHAPE, CLASSES = (16, 16, 1), 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__module__)
def test_a_configuration_has_nothing_that_trains_or_builds_a_network(kind):
    assert Experiment in kind.__mro__
    assert [name for name in ("make", "train", "training", "restore", "evaluate") if hasattr(kind, name)] == []
    assert dataclasses.is_dataclass(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__module__)
def test_the_class_and_the_registry_declare_the_same_commands(kind):
    (entry,) = (each for each in registry.EXPERIMENTS.values() if registry.imported(each.place) is kind)
    assert registry.imported(entry.commands) is kind.commands
    assert "evaluate" in kind.commands.of_run


@pytest.mark.parametrize(
    "experiment",
    [
        Classification(cnn.Config("mlp", width=4, depth=1), batch_size=8),
        Generation(gan.Config("dcgan", width=4), extractor="none", batch_size=8),
    ],
    ids=["classification", "generation"],
)
def test_the_bound_form_has_the_shapes_of_the_data_and_so_has_that_of_its_folder(experiment, tmp_path):
    images = load(Data("synthetic", image_shape=SHAPE, num_classes=CLASSES, examples=32, test_examples=8))
    experiment = dataclasses.replace(experiment, run=Run(workdir=str(tmp_path / "run"), devices=1))
    bound = experiment.bind(images)
    assert Bound in type(bound).__mro__
    assert bound.config.workload.image_shape == SHAPE != experiment.workload.image_shape
    assert bound.config.workload.num_classes == CLASSES != experiment.workload.num_classes
    RunFolder(tmp_path / "run").open(bound.config)
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    opened = open_run(moved)  # without any data
    assert opened.config.workload == bound.config.workload
    assert opened.config.run.workdir == str(moved)
