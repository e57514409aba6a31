"""Several seeds, each in a folder of its own: one that diverges stops no other."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from jaxai.cnn import Config, Optimizer
from jaxai.data import Data
from jaxai.experiments.classification.experiment import Experiment
from jaxai.files.results import over_seeds
from jaxai.report import write_report
from jaxai.report.run_record import read_run
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.seeds import train_seeds


def experiment(workdir, seed=0, seeds=3):
    return Experiment(
        workload=Config(architecture="mlp", width=4, depth=1, optimizer=Optimizer("sgd", learning_rate=0.05)),
        data=Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=64, test_examples=30),
        epochs=1,
        batch_size=16,
        run=Run(workdir=str(workdir), devices=1, seed=seed, seeds=seeds),
    )


def train(workdir, monkeypatch, diverging):
    """Seeds 0 to 2, some of them with a learning rate that no network survives; what was shown."""
    console, bind = Console(file=io.StringIO(), width=200), Experiment.bind

    def bind_or_explode(self, *arguments, **named):
        rate = 1e30 if self.run.seed in diverging else 0.05
        optimizer = dataclasses.replace(self.workload.optimizer, learning_rate=rate)
        workload = dataclasses.replace(self.workload, optimizer=optimizer)
        return bind(dataclasses.replace(self, workload=workload), *arguments, **named)

    monkeypatch.setattr(Experiment, "bind", bind_or_explode)
    assert train_seeds(experiment(workdir), console) == ""
    return console.file.getvalue()


def test_a_seed_that_diverges_stops_no_other_and_counts_in_no_figure(tmp_path, monkeypatch):
    text = train(tmp_path / "run", monkeypatch, [1])
    assert "seed 1 diverged: step" in text
    assert text.endswith("seed 1 diverged: mean and spread are over the others\n")
    together = json.loads((tmp_path / "run" / "result.json").read_text())
    each = [json.loads((tmp_path / f"run/seed-{seed}/result.json").read_text())["test_loss"] for seed in (0, 2)]
    assert (together["seeds"], together["diverged"]) == (3, 1)
    assert together["test_loss_per_seed"] == [each[0], None, each[1]]
    assert together["test_loss"] == pytest.approx(sum(each) / 2)
    assert (tmp_path / "run/seed-1/nonfinite/report.json").is_file()
    assert write_report([tmp_path / "run"], tmp_path / "page.html").is_file()


def test_where_all_seeds_diverge_the_first_is_named(tmp_path, monkeypatch):
    with pytest.raises(FloatingPointError, match=r"^all 3 seeds diverged; the first: step \d+: non-finite") as error:
        train(tmp_path / "run", monkeypatch, [0, 1, 2])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_last_seed_that_does_not_fit_is_refused_before_the_first_trains(tmp_path):
    with pytest.raises(ValueError, match=r"^seed is 4294967295 and seeds 2; the last seed must be at most 4294967295$"):
        train_seeds(experiment(tmp_path / "run", seed=2**32 - 1, seeds=2), Console(file=io.StringIO()))
    assert not (tmp_path / "run").exists()


def test_figures_are_over_the_seeds_that_have_them():
    together = over_seeds([{}, {"loss": 1.0, "steps": 4, "chip": "cpu"}, {"loss": 3.0, "steps": 5, "chip": "cpu"}])
    assert together == {
        **{"seeds": 3, "diverged": 1, "loss": 2.0, "loss_std": pytest.approx(2**0.5)},
        **{"loss_per_seed": [None, 1.0, 3.0], "steps_per_seed": [None, 4, 5], "chip": "cpu"},
    }


def test_figures_of_seeds_are_those_of_their_folders(tmp_path):
    """One seed was gone on with since the figures were written."""
    for seed, accuracy in enumerate((0.5, 0.7)):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps({"test_accuracy": accuracy}))
    together = over_seeds([{"test_accuracy": 0.5}, {"test_accuracy": 0.6}])
    (tmp_path / "result.json").write_text(json.dumps(together))
    assert read_run(tmp_path).result["test_accuracy"] == pytest.approx(0.6)
    together = over_seeds([{"test_accuracy": 0.5}, {"test_accuracy": 0.7}]) | {"kept": 1.0}
    (tmp_path / "result.json").write_text(json.dumps(together))
    assert read_run(tmp_path).result == together


def test_folder_of_one_seed_takes_no_several_and_the_other_way_round(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    quiet = Console(file=io.StringIO())
    with pytest.raises(ValueError, match="holds a run of one seed; choose another --workdir for 3 seeds"):
        train_seeds(Experiment(run=Run(workdir=str(tmp_path / "one"), seeds=3)), quiet)
    (tmp_path / "many" / "seed-0").mkdir(parents=True)
    (tmp_path / "many" / "seed-0" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds 1 runs, one a seed"):
        RunFolder(tmp_path / "many").compare(Experiment(run=Run(workdir=str(tmp_path / "many"))))
    assert not (tmp_path / "many" / "config.json").exists()
