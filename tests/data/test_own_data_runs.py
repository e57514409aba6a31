"""Runs on data of one's own: what their folder keeps, what they resume and are evaluated on, and what is refused."""

import dataclasses
import io
import json

import chex
import numpy as np
import pytest
from rich.console import Console

import jaxai
from jaxai import cli, cnn
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder

PRESET = """
import numpy as np
import jaxai.data
from jaxai import cnn
from jaxai.data import Data
from jaxai.experiments.classification.experiment import Experiment

def make():
    pixels = np.load({file!r})
    return jaxai.data.arrays(pixels[:24], np.arange(24) % 2, pixels[24:], np.arange(8) % 2, classes=["cat", "dog"])

config = Experiment(cnn.Config(architecture="mlp", width=4, depth=1), Data(source=make), epochs=2.0, batch_size=8)
"""


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 4, 4), np.uint8)


def images(seed=0, **options):
    data = pixels(seed)
    options = {"classes": ["cat", "dog"]} | options
    return jaxai.data.arrays(data[:24], np.arange(24) % 2, data[24:], np.arange(8) % 2, **options)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("jaxai.report.pictures.available", lambda: False)


@pytest.fixture
def jaxai_command(capsys):
    def run(*arguments):
        code = 0
        try:
            cli.main(list(map(str, arguments)))
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return run


@pytest.fixture
def preset(tmp_path):
    np.save(tmp_path / "pixels.npy", pixels(0))
    path = tmp_path / "my_preset.py"
    path.write_text(PRESET.format(file=str(tmp_path / "pixels.npy")))
    return path


def experiment(workdir, **run):
    workload = cnn.Config(architecture="mlp", width=4, depth=1)
    return Experiment(workload, epochs=2.0, batch_size=8, run=Run(workdir=str(workdir), devices=1, **run))


def quiet():
    return Console(file=io.StringIO(), width=300)


def one_line(err):
    assert err.count("\n") == 1
    return err


def test_a_preset_with_a_function_trains_and_is_evaluated_on_its_data_alone(preset, tmp_path, jaxai_command):
    run = tmp_path / "run"
    code, out, _ = jaxai_command("train", preset, "--workdir", run)
    assert (code, f"take --preset {preset}, which has my_preset:make" in out.replace("\n", "")) == (0, True)
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["source"] == "my_preset:make"
    assert json.loads((run / "data.json").read_text())["classes"] == ["cat", "dog"]
    code, _, err = jaxai_command("evaluate", run)
    assert code == 2
    assert "is my_preset:make, the name of a function, which is not imported because a file names it" in one_line(err)
    code, out, err = jaxai_command("evaluate", run, "--preset", preset)
    assert (code, "not that of the run" in out) == (0, False), err
    assert jaxai_command("evaluate", run, "--data.source", "my_preset:make")[0] == 0
    measured = json.loads((run / "evaluation.json").read_text())["measured_on"]
    assert measured["test"] == json.loads((run / "data.json").read_text())["splits"]["test"]["digest"]

    np.save(tmp_path / "pixels.npy", pixels(1))
    code, _, err = jaxai_command("evaluate", run, "--preset", preset)
    assert code == 2
    assert "my_preset:make no longer holds the data of" in one_line(err)
    assert "the test data is not that of the run: other content" in err
    code, out, _ = jaxai_command("evaluate", run, "--preset", preset, "--other-data")
    assert code == 0
    assert "the test data is not that of the run: other content" in out
    code, _, err = jaxai_command("train", preset, "--workdir", run)
    assert code == 2
    assert "holds a run with other data (train data: other content; test data: other content)" in one_line(err)


def test_a_function_is_given_on_the_command_line(preset, tmp_path, jaxai_command, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(preset.read_text())
    monkeypatch.chdir(tmp_path)
    train = ("train", preset, "--workdir", tmp_path / "run", "--data.source")
    code, out, _ = jaxai_command(*train, "elsewhere:make")
    assert (code, "evaluate and replay take --data.source elsewhere:make" in out) == (0, True)
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["source"] == "elsewhere:make"
    code, _, err = jaxai_command(*train, "nowhere:make")
    assert (code, "--data.source is nowhere:make: No module named 'nowhere'" in one_line(err)) == (2, True)
    code, out, _ = jaxai_command(*train, "my_preset:make")  # the same content from another place
    assert (code, "continuing at step 6 of 6" in out) == (0, True)


def test_a_run_on_arrays_is_evaluated_and_resumed_on_them_alone(tmp_path, jaxai_command):
    run, given = tmp_path / "run", images()
    bound = experiment(run).bind(given)
    outcome = bound.train(quiet())
    assert json.loads((run / "config.json").read_text())["data"]["source"] == "arrays"
    code, _, err = jaxai_command("evaluate", run)
    assert code == 2
    assert "data.source is arrays: the data was given in Python, and no file holds it" in one_line(err)

    console = quiet()
    result = bound.evaluate(console, "latest")
    assert "not that of the run" not in console.file.getvalue()
    assert result["test_accuracy"] == outcome.result["test_accuracy"]
    of_others = RunFolder(run).load_config().of_run(images(1))
    other = of_others.evaluate(console := quiet(), "latest")
    assert "the test data is not that of the run: other content" in console.file.getvalue()
    assert other["measured_on"]["test"] != result["measured_on"]["test"]

    experiment(run).bind(given).train(console := quiet())
    assert "continuing at step 6 of 6" in console.file.getvalue()
    with pytest.raises(ValueError, match="holds a run with other data") as error:
        experiment(run).bind(images(1)).train(quiet())
    assert "\n" not in str(error.value)
    loaded = jaxai.load(run)
    assert loaded.classes == ("cat", "dog")
    assert loaded.predict(given.test["image"]).shape == (8, 2)


def test_model_card_of_a_classifier(tmp_path):
    experiment(tmp_path / "run").bind(images()).train(quiet())
    text = (tmp_path / "run/README.md").read_text()
    assert "pipeline_tag: image-classification" in text
    assert "Network: mlp, width 4, depth 1." in text
    assert "| all | 78 |" in text  # 16 x 4 + 4, then 4 x 2 + 2
    assert "2 classes, in the order of the labels: `cat`, `dog`." in text
    assert f'run = jaxai.load("{tmp_path / "run"}")' in text
    assert "There is no validation split" in text
    block = text.split("```python\n")[1].split("```")[0]
    scope = {"images": images().test["image"]}
    exec(block, scope)
    assert {*scope["names"]} <= {"cat", "dog"}


def test_model_card_of_an_interrupted_run(tmp_path, signal_at):
    bound = experiment(tmp_path / "run").bind(images())
    assert bound.train(quiet(), callbacks=[signal_at("test_accuracy", 1)]).interrupted
    text = (tmp_path / "run/README.md").read_text()
    assert "The training was interrupted at step 3" in text
    assert "## Results at step 3, while training" in text
    assert "`cat`, `dog`" in text
    bound.train(quiet())
    assert "was interrupted" not in (tmp_path / "run/README.md").read_text()


def test_own_arrays_stream_from_the_host_to_the_same_result(tmp_path):
    states = [
        experiment(tmp_path / placement, placement=placement).bind(images()).train(quiet()).state.params
        for placement in ("device", "host")
    ]
    chex.assert_trees_all_equal(*states)


def test_where_images_came_from_is_recorded_also_when_they_are_given(tmp_path, jaxai_command):
    """So that the command line evaluates on what was trained on, and not on what the configuration had by default."""
    from jaxai.data import Data, load

    data = Data("synthetic", image_shape=(4, 4, 1), num_classes=2, examples=24, test_examples=8)
    experiment(tmp_path / "run").bind(load(data)).train(quiet())
    assert RunFolder(tmp_path / "run").load_config().data == data
    assert jaxai_command("evaluate", tmp_path / "run")[0] == 0
    smaller = dataclasses.replace(RunFolder(tmp_path / "run").load_config(), data=Data("mnist5k"))
    with pytest.raises(ValueError, match="has the class 2"):
        smaller.of_run().evaluate(quiet())
