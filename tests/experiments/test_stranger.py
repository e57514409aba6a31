"""A stranger's workload in one preset file, which jaxai does not know: train, resume, evaluate, report, load."""

import dataclasses
import json
import re
from pathlib import Path

import chex
import numpy as np
import pytest

import jaxai as package
from jaxai.runtime.presets import load_preset
from jaxai.runtime.run_folder import RunFolder

PRESET = Path(__file__).parent / "logistic.py"
POINTS = np.array([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [2.5, 1.5, 2.0]], np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from jaxai import cli

    workdir = tmp_path_factory.mktemp("stranger") / "run"
    cli.main(["train", str(PRESET), "--workdir", str(workdir)])
    return workdir


def test_it_is_at_most_sixty_lines():
    assert len([line for line in PRESET.read_text().splitlines() if line.strip()]) <= 60


def test_it_learns_and_says_what_a_later_command_needs(run, jaxai):
    code, out, _ = jaxai("train", PRESET, "--workdir", run)
    assert code == 0
    assert "continuing at step 32 of 32" in out
    assert "report" in out
    assert f"evaluate and replay take --preset {PRESET}, which defines Logistic" in out
    result = json.loads((run / "result.json").read_text())
    assert result["test_hits"] > 0.9
    assert RunFolder(run).read_json("config.json")["type"] == "logistic:Logistic"


def test_interrupted_and_resumed_it_leaves_the_same_metrics(run, tmp_path, jaxai, signal_at):
    config = load_preset(str(PRESET))[0]
    config = type(config)(**{**vars(config), "run": type(config.run)(workdir=str(tmp_path / "run"), devices=1)})
    assert config.bind().train(callbacks=[signal_at("test_hits", 2)]).interrupted == "SIGTERM"
    code, out, _ = jaxai("train", PRESET, "--workdir", tmp_path / "run")
    assert (code, "continuing at step 16 of 32" in out) == (0, True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def test_evaluate_needs_the_class_and_scores_the_best_checkpoint_as_the_result_does(run, jaxai):
    code, _, err = jaxai("evaluate", run)
    assert code == 2
    assert re.fullmatch(r"jaxai: .*type is 'logistic:Logistic', which jaxai does not know.*--preset FILE.*\n", err)
    assert re.search(r"the run began with ['\"]\S", err)  # the command, which names the preset
    code, out, _ = jaxai("evaluate", run, "--preset", PRESET)
    assert code == 0
    assert "The best checkpoint" in out
    assert "test_hits" in out
    found, result = (json.loads((run / f"{name}.json").read_text()) for name in ("evaluation", "result"))
    assert found["checkpoint"] == "best"
    assert (found["test_hits"], found["step"]) == (pytest.approx(result["test_hits"]), result["best_step"])


def test_it_has_the_commands_of_every_run_and_no_others(run, jaxai):
    code, _, err = jaxai("sample", run, "--preset", PRESET)
    assert (code, err.count("\n")) == (2, 1)
    assert "is a run of logistic:Logistic, which has no sample; it has evaluate, report and replay" in err
    assert "nothing in it to replay" in jaxai("replay", run, "--preset", PRESET)[2]
    assert jaxai("report", run)[0] == 0
    assert "hit rate" in (run / "report.html").read_text()


def test_its_options_are_checked_and_named_as_they_are_typed(tmp_path, jaxai):
    code, out, _ = jaxai("train", PRESET, "--help")
    assert code == 0
    for text in ("--learning-rate", "of gradient descent", "--workdir"):
        assert text in out
    code, _, err = jaxai("train", PRESET, "--workdir", tmp_path / "run", "--learning-rate", "0")
    assert (code, err) == (2, "jaxai: --learning-rate is 0.0; it must be above 0\n")
    assert not (tmp_path / "run").exists()


def test_it_loads_with_its_class_or_its_preset(run):
    kind = type(load_preset(str(PRESET))[0])
    loaded = [package.load(run, experiments=[kind]), package.load(run, preset=PRESET)]
    for each in loaded:
        assert each.predict(POINTS).round().tolist() == [1, 0, 1]
    chex.assert_trees_all_equal(loaded[0].params, loaded[1].params)
    with pytest.raises(ValueError, match=r"type is 'logistic:Logistic'.*experiments=\[\.\.\.\]"):
        package.load(run)


def test_a_folder_alone_imports_and_executes_nothing(run, tmp_path, monkeypatch):
    (tmp_path / "logistic.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="which jaxai does not know"):
        package.load(run)


def test_the_split_that_selected_the_best_checkpoint_is_stated(run, tmp_path, capsys):
    on_test = json.loads((run / "result.json").read_text())
    assert (on_test["checkpoint"], on_test["selected_on"]) == ("latest", "test")
    assert "Selected on</td><td>test" in (run / "report.html").read_text()
    config = load_preset(str(PRESET))[0]
    splits = dict(config.load())
    splits["validation"] = {name: array[:50] for name, array in splits["test"].items()}
    chosen = dataclasses.make_dataclass("OnValidation", [], bases=(type(config),), frozen=True)
    chosen.score = "validation_hits"
    run = dataclasses.replace(config.run, workdir=str(tmp_path / "run"))
    capsys.readouterr()
    outcome = chosen(epochs=2, batch_size=32, run=run).bind(splits).train()
    assert "is selected on the test split" not in capsys.readouterr().out
    lines = RunFolder(tmp_path / "run").lines("metrics.jsonl")
    (best,) = (each for each in lines if each["step"] == outcome.result["best_step"] and "test_hits" in each)
    assert outcome.result["selected_on"] == "validation"
    assert outcome.result["best_validation_hits"] == best["validation_hits"]
    assert outcome.result["best_test_hits"] == best["test_hits"]  # of the best checkpoint, maybe not of the latest


COMMAND = """import dataclasses
from dataclasses import dataclass
from pathlib import Path

from logistic import Logistic, config as other

from jaxai.ranges import Count
from jaxai.runtime.registry import Commands


def weights(bound, decimals: Count = 2, output: Path | None = None) -> None:
    \"\"\"Print the weights.

    Args:
      decimals: digits behind the point
    \"\"\"
    print(bound.config.run.workdir, bound.restore().params["w"].round(decimals))


@dataclass(frozen=True)
class WithWeights(Logistic):
    commands = Commands({**Logistic.commands.of_run, "weights": weights})


config = WithWeights(**vars(dataclasses.replace(other, epochs=1.0)))
"""


def test_a_class_brings_its_own_commands_and_a_preset_its_neighbours(tmp_path, jaxai):
    preset, workdir = tmp_path / "own.py", tmp_path / "run"
    preset.write_text(COMMAND)
    (tmp_path / "logistic.py").write_text(PRESET.read_text())
    code, out, _ = jaxai("train", preset, "--workdir", workdir)
    assert code == 0
    assert f"evaluate, weights and replay take --preset {preset}, which defines WithWeights" in out
    code, out, _ = jaxai("weights", workdir, "--preset", preset, "--decimals", "1")
    assert (code, str(workdir) in out) == (0, True)
    code, out, _ = jaxai("weights", workdir, "--preset", preset, "--help")
    assert (code, "digits behind the point" in out) == (0, True)
    code, _, err = jaxai("weights", workdir, "--preset", preset, "--decimals", "0")
    assert (code, err) == (2, "jaxai: --decimals is 0; it must be at least 1\n")
    code, _, err = jaxai("weigths", workdir, "--preset", preset)
    assert (code, err.count("\n")) == (2, 1)
    assert "which has no weigths; it has evaluate, weights, report and replay" in err
