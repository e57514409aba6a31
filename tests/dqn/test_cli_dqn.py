import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxai import cli
from jaxai.experiments.qlearning.sweep import Sweep
from jaxai.runtime import parallel, seeds
from jaxai.runtime.presets import load_preset

CHECKOUT = Path(__file__).parents[2]
PRESET = '''"""A toy: Catch with eight units."""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        hidden=(8,), total_steps=132, num_envs=4, train_every=4, learning_starts=36, batch_size=16, capacity=256,
        target_every=16, epsilon_steps=200, evaluation_episodes=4, optimizer=Optimizer(learning_rate=1e-2),
    ),
    env=Environment("Catch-bsuite"),
    run=Run(mode="shard_map", devices=1, steps_per_call=4, evaluate_every=8),
)
'''
IMAGES = '''"""A toy: an MLP on noise."""

from jaxai.cnn import Config
from jaxai.experiments.classification.experiment import Experiment
from jaxai.data import Data
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(architecture="mlp", width=4, depth=1),
    data=Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=64, test_examples=30),
    epochs=1,
    batch_size=16,
    run=Run(devices=1),
)
'''


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Paths of the two presets: deep Q-learning, and images."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "toy_dqn.py").write_text(PRESET)
    (folder / "toy_mlp.py").write_text(IMAGES)
    return str(folder / "toy_dqn.py"), str(folder / "toy_mlp.py")


@pytest.fixture(scope="module")
def two(presets, tmp_path_factory):
    """Two seeds, shorter episodes and sticky actions."""
    workdir = tmp_path_factory.mktemp("cli") / "two"
    options = ("--seeds", "2", "--env.params", "max_steps_in_episode", "50", "--env.sticky-actions", "0.1")
    cli.main(["train", presets[0], "--workdir", str(workdir), *options])
    return workdir


@pytest.fixture(scope="module")
def images(presets, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("cli") / "images"
    cli.main(["train", presets[1], "--workdir", str(workdir)])
    return workdir


def one_line(text):
    assert text.startswith("jaxai: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text


def plain(text):
    """Without the frames that tyro draws, and with every run of blanks as one."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_train_leaves_the_result_the_report_and_a_picture(two):
    result = json.loads((two / "result.json").read_text())
    assert len(result["return_per_seed"]) == result["seeds"] == 2
    assert result["env_steps_per_second_per_chip"] > 0
    assert not list(two.glob("seed-*"))
    page = (two / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/gif" in page
    config = json.loads((two / "config.json").read_text())
    assert config["env"] == {
        "name": "Catch-bsuite",
        "params": {"max_steps_in_episode": 50.0},
        "sticky_actions": 0.1,
    }


def test_model_card_states_the_environment_and_its_lines_act(two):
    text = (two / "README.md").read_text()
    for part in (
        "# Deep Q-learning agent",
        "pipeline_tag: reinforcement-learning",
        "| input | observations | [observations, 10, 5] float32 |",
        "generated its own data in the environment `Catch-bsuite`. One of 2 agents, which were trained in one program.",
        "Seeds 0 to 1;",
        f"jaxai play {two}",
    ):
        assert part in text
    exec(text.split("```python\n")[1].split("```")[0], scope := {"observation": np.zeros((10, 5), np.float32)})
    assert scope["action"] in (0, 1, 2)


def test_evaluate_writes_the_greedy_returns_of_every_seed(jaxai, two):
    code, out, _ = jaxai("evaluate", two, "--checkpoint", "best")
    assert code == 0
    found = json.loads((two / "evaluation.json").read_text())
    assert len(found["return_per_seed"]) == 2
    assert all(-1 <= score <= 1 for score in found["return_per_seed"])
    assert (found["checkpoint"], found["episodes_per_seed"]) == ("best", 100)
    assert re.search(rf"return_mean +│ {found['return_mean']:.4g} ", out)


def test_play_prints_the_return_that_the_gif_has(jaxai, two, tmp_path):
    path = tmp_path / "new" / "episode.gif"
    code, out, _ = jaxai("play", two, "--member", "1", "--seed", "5", "--output", path)
    assert code == 0
    value, steps, member = re.match(
        r"return (\S+) in (\d+) steps \(training (\d)\): wrote .*episode.gif\n", out
    ).groups()
    assert member == "1"
    with Image.open(path) as image:
        assert image.info["comment"].decode().endswith(f": {steps} steps, return {value}")
    code, out, _ = jaxai("play", two)
    assert code == 0
    assert str(two / "pictures" / "episode.gif") in out


def test_report_of_an_agent_and_of_one_beside_a_classifier(jaxai, two, images, tmp_path):
    for runs in ([two], [two, images]):
        output = tmp_path / "page.html"
        code, out, _ = jaxai("report", *runs, "--output", output)
        assert (code, out) == (0, f"wrote {output}\n")
        page = output.read_text()
        assert "<svg" in page
        assert ("Test accuracy" in page) == (len(runs) == 2)
        output.unlink()


@pytest.mark.slow  # test_sweep.py trains the same grid, and test_options_reach_the_sweep reads the same options
def test_sweep_trains_the_grid_in_one_program(jaxai, presets, tmp_path):
    workdir = tmp_path / "run"
    options = ("--grid.learning-rate", "1e-2", "1e30", "--grid.discount", "0.5", "0.9", "--seeds", "2")
    code, out, _ = jaxai("sweep", presets[0], "--workdir", workdir, *options, "--devices", "2")
    assert code == 0
    rows = json.loads((workdir / "sweep.json").read_text())
    assert [row["diverged"] for row in rows] == [0, 0, 2, 2]
    assert "The best 4 of 4 settings" in out
    assert (workdir / "pictures" / "sweep.png").exists()
    assert "data:image/png" in (workdir / "report.html").read_text()


def test_exploding_training_ends_with_1_and_names_the_gradient_and_is_replayed(jaxai, presets, tmp_path):
    workdir = tmp_path / "run"
    code, _, err = jaxai("train", presets[0], "--workdir", workdir, "--optimizer.learning-rate", "1e30")
    assert code == 1
    assert re.match(r"jaxai: step \d+: non-finite gradient of .*kernel", one_line(err))
    code, out, _ = jaxai("replay", workdir)
    assert code == 0
    assert "again on one device: non-finite" in out
    assert "first seen in" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--env.name", "cartpole"], "no environment 'cartpole'; did you mean CartPole-v1"),
        (["--env.name", "MountainCarContinuous-v0"], "has continuous actions"),
        (["--env.params", "max_steps", "50"], "has no parameter 'max_steps'; did you mean max_steps_in_episode"),
        (["--env.params", "max_steps_in_episode", "0.5"], "max_steps_in_episode is 0.5; expected int"),
        (["--capacity", "8"], "capacity is 8, less than a batch of 16"),
        (["--evaluate-every", "25"], "--evaluate-every is 25 train steps, above the 24 of --total-steps"),
        (["--devices", "3"], "--num-envs 4 does not divide over 3 devices"),
        (["--devices", "2", "--seeds", "3"], "trainings of one program: 3 does not divide over 2 devices"),
        (["--seeds", "0"], "seeds is 0; it must be at least 1"),
    ],
    ids=str,
)
def test_a_users_mistake_ends_with_2_and_one_line(jaxai, presets, tmp_path, options, words):
    code, _, err = jaxai("train", presets[0], "--workdir", tmp_path / "run", *options)
    assert code == 2
    assert words in one_line(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "a sweep needs values to try, as --grid.learning-rate 1e-4 1e-3; one or more of --grid.learning-rate"),
        (["--grid.priority-exponent", "0.5"], "--grid.priority-exponent has no effect without prioritized replay"),
        (["--grid.discount", "1.5"], "grid.discount is (1.5,); every value must be between 0 and 1"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_swept_ends_with_2_and_one_line(jaxai, presets, tmp_path, options, words):
    code, _, err = jaxai("sweep", presets[0], "--workdir", tmp_path / "run", *options)
    assert code == 2
    assert words in one_line(err)
    assert not (tmp_path / "run").exists()


def test_commands_of_the_other_workload_are_refused_in_one_line(jaxai, presets, two, images, tmp_path):
    for arguments, words in (
        (
            ["sweep", presets[1], "--workdir", tmp_path / "run"],
            "is a preset of classification; sweep takes a preset of qlearning",
        ),
        (["play", images], "is a run of classification, which has no play; it has evaluate"),
        (["play", two, "--member", "2"], "--member is 2; the run has 2 trainings, 0 to 1"),
        (["play", tmp_path / "nothing"], str(tmp_path / "nothing")),
    ):
        code, _, err = jaxai(*arguments)
        assert code == 2
        assert words in one_line(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_help_explains_every_field_with_its_comment(jaxai, presets, documented_options, command):
    code, out, _ = jaxai(command, presets[0], "--help")
    assert code == 0
    text = plain(out)
    assert "A toy: Catch with eight units." in text
    preset = load_preset(presets[0])[0]
    config = (
        preset if command == "train" else Sweep(**{f.name: getattr(preset, f.name) for f in dataclasses.fields(preset)})
    )
    options = dict(documented_options(config))
    assert len(options) > 60
    assert [option for option, comment in options.items() if not comment or plain(comment) not in text] == []
    assert [option for option in options if f"{option} " not in text and f"{option}," not in text] == []


@pytest.mark.parametrize("command", ["play", "sweep", "evaluate"])
def test_help_of_a_command(jaxai, command):
    code, out, _ = jaxai(command, "--help")
    assert code == 0
    assert f"jaxai {command}" in out


def test_options_reach_the_sweep(jaxai, presets, monkeypatch):
    received = []
    monkeypatch.setattr(seeds, "train_seeds", lambda experiment, *_: received.append(experiment) or "SIGTERM")
    options = (
        "--grid.learning-rate",
        "1e-4",
        "1e-3",
        "--env.params",
        "max_steps_in_episode",
        "50",
        "--hidden",
        "8",
        "8",
    )
    code, _, _ = jaxai("sweep", presets[0], *options, "--double", "--optimizer.name", "rmsprop")
    assert code == 0
    (got,) = received
    assert got.grid.swept() == {"learning_rate": (1e-4, 1e-3)}
    assert got.env.params == {"max_steps_in_episode": 50}
    assert (got.workload.hidden, got.workload.double, got.workload.optimizer.name) == ((8, 8), True, "rmsprop")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 3), ({"JAX_NUM_CPU_DEVICES": "2"}, 2), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, 2)],
    ids=str,
)
def test_as_many_cpu_devices_as_asked_for_unless_the_environment_has_its_own_number(environment, expected):
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    code = "from jaxai.runtime import parallel; parallel.use_cpu_devices(3); import jax; print(jax.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=CHECKOUT,
        env=kept | environment | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout == f"{expected}\n", done.stderr


def test_devices_that_are_in_use_already_are_left_alone():
    before = jax.device_count()
    parallel.use_cpu_devices(before + 1)
    assert jax.device_count() == before
