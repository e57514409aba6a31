"""The model card of a run folder, from its files and what an experiment states."""

import json

import numpy as np
import pytest

from jaxai.metrics import Declarations, Metric
from jaxai.runtime import model_card
from jaxai.runtime.model_card import Model
from jaxai.runtime.run_folder import RunFolder

MODEL = Model(
    "Image classifier",
    "Network: mlp",
    {"Dense_0": {"kernel": np.zeros((4, 3)), "bias": np.zeros(3)}, "Dense_1": {"kernel": np.zeros((3, 2))}},
    inputs={"images": "[examples, 2, 2, 1] uint8"},
    usage=("run.predict(images)",),
    commands=("jaxai evaluate RUN",),
    pipeline="image-classification",
    tags=("small",),
)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "my run"
    path.mkdir()
    metrics = {"accuracy": Metric("accuracy", "%", "higher"), "loss": Metric("loss", "nats", "lower")}
    files = {
        "config.json": {"type": "classification", "run": {"seed": 3, "seeds": 1}},
        "data.json": {
            "source": "arrays",
            "classes": ["a|b", "c`d", "é"],
            "splits": {"train": {"examples": 4000, "digest": "00ff"}, "test": {"examples": 10, "digest": "11aa"}},
        },
        "environment.json": {"python": "3.11", "versions": {"jax": "0.10"}, "devices": {"count": 2, "name": "CPU"}},
        "metrics.json": Declarations(metrics, score="test_accuracy").to_dict(),
        "result.json": {"test_accuracy": 0.97, "best_test_accuracy": 0.98, "best_step": 40, "steps": 80, "other": 1.0},
    }
    for name, values in files.items():
        (path / name).write_text(json.dumps(values))
    (path / "command.txt").write_text("jaxai train configs/x.py\n")
    (path / "metrics.jsonl").write_text('{"step": 40, "test_accuracy": 0.5}\n{"step": 60, "loss": 0.1}\n')
    return RunFolder(path)


def test_card_states_model_data_results_and_use(folder):
    model_card.write(folder, MODEL)
    text = (folder.path / "README.md").read_text("utf-8")
    for line in (
        "---\nlibrary_name: jaxai\npipeline_tag: image-classification\ntags:\n- jax\n- flax\n- small\n---",
        "| input | images | [examples, 2, 2, 1] uint8 |",
        "| Dense_0 | 15 |\n| Dense_1 | 6 |\n| all | 21 |" if "Dense_0 |" in text else "| all | 21 |",
        "| train | 4,000 | `00ff` |",
        "3 classes, in the order of the labels: `a|b`, ``c`d``, `é`.",
        "| `test_accuracy` | test accuracy | 97.00 % | higher is better |",
        "`best` is that of step 40, selected by its test accuracy; `latest` is that of step 80. There is no validation",
        f"run = jaxai.load({json.dumps(str(folder.path))})\nrun.predict(images)",
        f"jaxai evaluate '{folder.path}'",
        "Seed 3; jax 0.10; Python 3.11; 2 x CPU.",
        "jaxai train configs/x.py",
    ):
        assert line in text
    assert "other" not in text  # a figure that nobody declares
    assert "license" not in text


def test_card_of_an_interrupted_run_has_the_last_evaluation(folder):
    (folder.path / "result.json").unlink()
    text = model_card.text(folder, MODEL, interrupted=True)
    assert "The training was interrupted at step 60" in text
    assert "## Results at step 40, while training" in text
    assert "| `test_accuracy` | test accuracy | 50.00 % | higher is better |" in text


def test_a_damaged_folder_costs_the_card_and_not_the_run(folder, caplog):
    (folder.path / "environment.json").write_text("{")
    model_card.write(folder, MODEL)
    assert not (folder.path / "README.md").exists()
    assert "no model card" in caplog.text
