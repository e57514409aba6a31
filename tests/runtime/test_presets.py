"""Whatever is wrong with a preset file is one line with the file and, where it is known, the line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxai import cli
from jaxai.runtime.config import from_dict, to_dict
from jaxai.runtime.presets import load_preset

EXPERIMENT = "from jaxai.experiments.classification.experiment import Experiment\n"
WRONG = {
    "a syntax error": ("x = 1\nconfig = (\n", r"line 2: SyntaxError: '\(' was never closed"),
    "a tab among spaces": ("if 1:\n        x = 1\n\ty = 2\n", "line 3: TabError: inconsistent use of tabs and spaces"),
    "a missing module": ("\nimport nowhere_to_be_found\n", "line 2: ModuleNotFoundError: No module named 'nowhere_to"),
    "a missing name": ("from jaxai.cnn import Konfig\n", "line 1: ImportError: cannot import name 'Konfig'"),
    "any exception": ("x = 1\n\nx / 0\n", "line 3: ZeroDivisionError: division by zero"),
    "of many lines": ("raise KeyError('a\\nb')\n", r"line 1: KeyError: 'a\\nb'"),
    "deep down": ("def f():\n    return int('x')\n\nf()\n", "line 2: ValueError: invalid literal for int"),
    "without end": ("def f():\n    f()\nf()\n", "line 2: RecursionError: maximum recursion depth"),
    "a field that is not there": (EXPERIMENT + "config = Experiment(epoch=1)\n", "line 2: TypeError: .*'epoch'"),
    "that ends Python": ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
    "that ends Python in silence": ("raise SystemExit\n", "line 1: SystemExit:"),
    "no config": ("x = 1\n", "defines no `config`; see "),
    "None": ("config = None\n", "line 1: config is None; it must be an Experiment"),
    "a dict": ("\n\nconfig = {}\n", "line 3: config is {}; it must be an Experiment"),
    "a class": (EXPERIMENT + "config = Experiment\n", r"line 2: config is the class Experiment; call it: config = Ex"),
    "a function": ("def config():\n    return 1\n", r"line 1: config is the function config; call it: config = co"),
    "an exception of its own": ("class E(BaseException): ...\nraise E\n", r"line 2: E:"),
    "a bare workload": (
        "from jaxai import cnn\nconfig = cnn.Config()\n",
        r"line 2: config is Config\(.*; it must be an Experiment",
    ),
    "a number in quotes": (
        EXPERIMENT + "config: Experiment = Experiment(epochs='3')\n",
        "line 2: epochs is '3'; it",
    ),
    "a value out of range": (
        EXPERIMENT + "\nconfig = Experiment(epochs=-1)\n",
        "line 3: epochs is -1; it must be above",
    ),
    "bytes of no encoding": (b"config = 'caf\xe9'\n", "line 1: SyntaxError: .*codec can't decode byte 0xe9"),
    "a zero byte": (b"config = 1\0\n", "(ValueError|SyntaxError): source code string cannot contain null bytes"),
    "callbacks that are none": (
        EXPERIMENT + "config = Experiment()\ncallbacks = print\n",
        r"line 3: callbacks is print; expected a list of functions \(step, metrics, state\)",
    ),
    "measures that are none": (
        EXPERIMENT + "config = Experiment()\nmeasures = [3]\n",
        r"line 3: measures has 3; expected functions \(state\)",
    ),
    "metrics that are none": (
        EXPERIMENT + "config = Experiment()\n\nmetrics = ['f1']\n",
        r"line 4: metrics is \['f1'\]; expected a dict",
    ),
    "nothing": ("", "defines no `config`; see "),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_preset_is_one_line(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = WRONG[wrong]
    preset = tmp_path / "mine.py"
    preset.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(preset), "--workdir", str(tmp_path / "run")])
    assert ended.value.code == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert re.fullmatch(rf"jaxai: preset {re.escape(str(preset))}(, | |: ){message}.*\n", written.err)
    assert len(written.err) < 500
    assert not (tmp_path / "run").exists()


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preset.txt").write_text("config = 1")
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "preset.txt", "is no Python file")):
        with pytest.raises(ValueError, match=rf"^preset {re.escape(str(path))} {reason}; give a \*\.py$"):
            load_preset(str(path))
    with pytest.raises(ValueError, match=r"^the preset is empty; give a path, or leave it out$"):
        load_preset("")


def test_a_syntax_error_in_what_a_preset_imports_names_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_by_a_preset.py").write_text("\n\nx = = 1\n")
    (tmp_path / "mine.py").write_text("\nimport imported_by_a_preset\n")
    with pytest.raises(ValueError, match=r"mine\.py, line 2: SyntaxError: .*imported_by_a_preset\.py, line 3"):
        load_preset(str(tmp_path / "mine.py"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_preset_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("config = 1")
    (tmp_path / "mine.py").chmod(0)
    with pytest.raises(ValueError, match=r"mine\.py: PermissionError: "):
        load_preset(str(tmp_path / "mine.py"))


def test_the_traceback_is_shown_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0")
    ended = subprocess.run(
        [sys.executable, "-m", "jaxai", "train", str(tmp_path / "mine.py")],
        env=os.environ | {"JAXAI_TRACEBACK": "1"},
        capture_output=True,
        text=True,
    )
    assert "ZeroDivisionError" in ended.stderr
    assert "Traceback" in ended.stderr


OWN_CLASS = """from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from jaxai import cnn
from jaxai.experiments.classification.experiment import Experiment
from jaxai.ranges import Count
from neighbour import WIDTH
from neighbouring_package.depth import DEPTH


@dataclass(frozen=True)
class Mine(Experiment):
    extra: Count | None = None  # a field of one's own
    note: str = "none"  # another


config = Mine(cnn.Config("mlp", width=WIDTH), note=f"depth {DEPTH}", extra=3)
"""


def test_a_preset_defines_classes_and_imports_its_neighbours(tmp_path: Path) -> None:
    for width in (8, 16):  # two folders with files of the same names, in one process
        folder = tmp_path / str(width)
        (folder / "neighbouring_package").mkdir(parents=True)
        (folder / "neighbour.py").write_text(f"WIDTH = {width}\n")
        (folder / "neighbouring_package" / "__init__.py").touch()
        (folder / "neighbouring_package" / "depth.py").write_text(f"DEPTH = {width}\n")
        (folder / "mine.py").write_text(OWN_CLASS)
        config = load_preset(str(folder / "mine.py"))[0]
        assert (config.workload.width, config.extra, config.note) == (width, 3, f"depth {width}")
        values = to_dict(config)
        assert values["type"] == "mine:Mine"
        assert from_dict(values, type(config)) == config
    (folder / "wrong.py").write_text(OWN_CLASS.replace("extra=3", "extra=0"))
    with pytest.raises(ValueError, match=r"wrong\.py, line 19: extra is 0; it must be at least 1$"):
        load_preset(str(folder / "wrong.py"))


HOOKS = """
import json
import jaxai
from jaxai import cnn
from jaxai.data import Data
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    cnn.Config(architecture="mlp", width=4, depth=1),
    Data("synthetic", image_shape=(4, 4, 1), num_classes=3, examples=32, test_examples=8),
    epochs=3.0,
    batch_size=16,
    run=Run(devices=1),
)

def track(step, metrics, state):
    with open("lines.jsonl", "a") as lines:
        lines.write(json.dumps({"step": step, **metrics}) + "\\n")
    return "stop" if step == 4 and "test_loss" in metrics else None


def bias(state):
    return {"bias": max(float(abs(layer["bias"]).max()) for layer in state.params.values())}


callbacks, measures = [track], [bias]
metrics = {"bias": jaxai.Metric("largest bias")}
"""


def test_a_preset_brings_callbacks_and_measures(tmp_path, jaxai, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(HOOKS)
    code, out, err = jaxai("train", "mine.py", "--workdir", "run")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()]
    assert [(line["step"], "bias" in line) for line in lines] == [(2, False), (2, True), (4, False), (4, True)]
    assert lines[-1]["bias"] > 0
    assert "largest bias" in out
    assert "argest bias" in Path("run/report.html").read_text()
    code, out, _ = jaxai("train", "mine.py", "--workdir", "run")
    assert "callback track stopped this run at step 4 of 6" in out
    assert len(Path("lines.jsonl").read_text().splitlines()) == len(lines)


def test_a_callback_of_a_preset_that_fails_is_one_line(tmp_path, jaxai, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(HOOKS.replace("    with open", "    metrics[3]\n    with open"))
    code, _, err = jaxai("train", "mine.py", "--workdir", "run")
    assert code == 2
    assert err.startswith("jaxai: callback track failed at step 2: KeyError: 3")
    assert err.endswith("step 2 is saved, and the same command continues from there\n")
