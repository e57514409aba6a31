import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxai.core import Metric, State, Workload
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Program, Scoring, Training

EXAMPLES, BATCH, STEPS = 160, 8, 400
"""A checkpoint every 10 steps takes the run seconds, most of them in the writing: a kill hits any part of it."""

PRESET = f"""
from jaxai.cnn import Augment, Config, Optimizer
from jaxai.experiments.classification.experiment import Experiment
from jaxai.data import Data
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        architecture="mlp", width=8, depth=1, normalization="batch", dropout=0.1, ema_decay=0.9,
        optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"), augment=Augment(flip="random"),
    ),
    data=Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples={EXAMPLES}, test_examples=30),
    epochs={STEPS * BATCH / EXAMPLES},
    batch_size={BATCH},
    run=Run(seed=1, steps_per_call=5, evaluate_every=40, checkpoint_every=10),
)
"""


class Commands:
    """`jaxai train` of one preset as a person runs it: in a process of its own, on one device."""

    def __init__(self, folder, cache):
        self.preset = folder / "preset.py"
        self.preset.write_text(PRESET)
        flags = re.sub(r"\S+device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
        self._environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        self._environment |= {"XLA_FLAGS": flags}

    def start(self, workdir):
        """Returns the process once its training has begun."""
        code, output = "from jaxai.cli import main; main()", workdir.with_suffix(".txt")
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", code, "train", str(self.preset), "--workdir", str(workdir)],
                env=self._environment,
                cwd=Path(__file__).parents[2],
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 120
        while "compiled in" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    def end(self, process, workdir):
        """Its exit code, and what it has printed."""
        return process.wait(timeout=120), workdir.with_suffix(".txt").read_text()

    def finish(self, workdir):
        code, output = self.end(self.start(workdir), workdir)
        assert code == 0, output
        return output


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return Commands(tmp_path_factory.mktemp("resume"), tmp_path_factory.getbasetemp() / "xla")


@pytest.fixture(scope="module")
def uninterrupted(commands, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    commands.finish(workdir)
    return workdir


def last_checkpoint(workdir):
    """Step of the newest checkpoint that is whole; 0 where there is none, and for that of the start."""
    return max([0, *(int(folder.name) for folder in workdir.glob("checkpoints/latest/*") if folder.name.isdigit())])


def leaves(workdir, which="latest"):
    """Every leaf of the last checkpoint, as bits, with its step."""
    experiment = RunFolder(workdir).load_config()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = restored_state(experiment.of_run().make(), experiment.run, parallel.make_mesh(1), checkpoints, which)
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def assert_same_run(workdir, other):
    for which in ("latest", "best"):
        one, two = leaves(workdir, which), leaves(other, which)
        assert one.keys() == two.keys()
        assert [name for name in one if one[name].tobytes() != two[name].tobytes()] == []
    assert (workdir / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (workdir, other))
    for name in ("test_accuracy", "test_loss", "best_test_accuracy", "best_step", "steps"):
        assert one[name] == two[name]


def test_run_killed_at_random_moments_ends_bitwise_equal_to_the_run_that_was_not(commands, uninterrupted, tmp_path):
    workdir, saved = tmp_path / "run", 0
    for seconds in np.random.default_rng(0).uniform(0, 0.6, 2):
        process = commands.start(workdir)
        # From a checkpoint of its own on, however slow the machine is, so that each kill falls on another place.
        while (last := last_checkpoint(workdir)) <= saved:
            assert process.poll() is None, "it ended without a checkpoint"
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        code, output = commands.end(process, workdir)
        assert code == -signal.SIGKILL, f"it had ended before it was killed: train longer\n{output}"
        saved = last
    assert "continuing at step" in commands.finish(workdir)
    assert_same_run(workdir, uninterrupted)


def test_readers_beside_a_training_and_a_second_one_do_not_disturb_it(commands, uninterrupted, tmp_path, jaxai):
    workdir = tmp_path / "run"
    process = commands.start(workdir)
    while not last_checkpoint(workdir):
        time.sleep(0.01)
    if process.poll() is None:
        code, _, err = jaxai("train", commands.preset, "--workdir", workdir)
        assert code == 2
        assert f"{workdir} is being trained by process {process.pid} on {socket.gethostname()}; " in err
        assert len(err.splitlines()) == 1
    steps = []
    while process.poll() is None:
        assert jaxai("evaluate", workdir, "--checkpoint", "latest")[0] == 0
        assert jaxai("report", workdir, "--output", tmp_path / "report.html")[0] == 0
        steps.append(json.loads((workdir / "evaluation.json").read_text())["step"])
    assert steps == sorted(steps)
    code, output = commands.end(process, workdir)
    assert code == 0, output
    assert_same_run(workdir, uninterrupted)


def test_sigterm_saves_and_exits_0_and_ctrl_c_130_and_the_same_command_goes_on(commands, tmp_path):
    workdir, reached = tmp_path / "run", []
    for name, expected in (("SIGTERM", 0), ("SIGINT", 130)):
        process = commands.start(workdir)
        while max([0, *(line["step"] for line in RunFolder(workdir).lines("metrics.jsonl"))]) <= max([0, *reached]):
            assert process.poll() is None, "it ended without a step"
            time.sleep(0.01)
        process.send_signal(signal.Signals[name])
        sent = time.monotonic()
        code, output = commands.end(process, workdir)
        assert time.monotonic() - sent < 60  # a second or two where the machine is idle
        assert code == expected, output
        assert f"{name}: saved at step" in output
        assert "Traceback" not in output
        reached.append(int(leaves(workdir)[".step"]))
        assert RunFolder(workdir).lines("metrics.jsonl")[-1]["step"] == reached[-1]
    assert 0 < reached[0] < reached[1] < STEPS


@dataclass(frozen=True)
class Line:
    """A configuration as `fit` takes one."""

    changes = None  # every field may change
    run: Run


def line(axis_name):
    """Fits a line with Adam; each device counts its steps in `local`."""
    transform = optax.adam(0.1)

    def init(key):
        params = {"slope": jnp.zeros(()), "offset": jnp.ones(())}
        return State(jnp.int32(0), params, transform.init(params), key, local=jnp.arange(8) * 100)

    def train_step(state, batch):
        def loss_fn(params):
            return jnp.mean((params["slope"] * batch["x"] + params["offset"] - 2 * batch["x"]) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = transform.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, local=state.local + 1)
        return state, {"loss": loss}

    def eval_step(state, batch):
        error = (state.params["slope"] * batch["x"] + state.params["offset"] - 2 * batch["x"]) ** 2
        return {"score": -(batch["mask"] * error).sum(), "count": batch["mask"].sum()}

    return Workload(init, train_step, eval_step)


def fit_line(workdir, devices, callbacks=()):
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    scoring = Scoring(4, "test_score", splits={"test": {"x": x[:20]}})
    training = Training(
        Program(line), 12, Examples({"x": x}, 16), scoring, metrics={"score": Metric("score", better="higher")}
    )
    return fit(training, Line(Run(workdir=str(workdir), devices=devices)), Console(file=io.StringIO()), callbacks)


def test_training_goes_on_on_8_2_and_1_devices(tmp_path, monkeypatch, signal_at):
    whole = fit_line(tmp_path / "whole", 1)
    placed, place_state = [], parallel.place_state

    def remember(state, mesh, mode="jit"):
        placed.append(jax.tree.map(np.array, state.replace(key=jax.random.key_data(state.key))))
        return place_state(state, mesh, mode)

    monkeypatch.setattr(parallel, "place_state", remember)
    before = None
    for devices in (8, 2, 1):
        callbacks = [signal_at("test_score", 1)] if devices > 1 else []
        outcome = fit_line(tmp_path / "run", devices, callbacks)
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(outcome.state)} == {devices}
        if before is not None:
            for one, two in zip(jax.tree.leaves(placed[-1]), jax.tree.leaves(before), strict=True):
                assert one.tobytes() == two.tobytes()
        before = jax.tree.map(np.array, outcome.state.replace(key=jax.random.key_data(outcome.state.key)))
    assert outcome.result["steps"] == whole.result["steps"] == 12
    assert before.local.tolist() == [100 * i + 12 for i in range(8)]
    for name, leaf in whole.state.params.items():
        np.testing.assert_allclose(before.params[name], leaf, rtol=1e-5)
    lines = RunFolder(tmp_path / "run").lines("metrics.jsonl")
    assert [(line["step"], "loss" in line) for line in lines] == [
        (step, trained) for step in (4, 8, 12) for trained in (True, False)
    ]
