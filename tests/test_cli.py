import dataclasses
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxai import cli
from jaxai.experiments.classification.experiment import Experiment
from jaxai.experiments.generation import experiment as gan
from jaxai.experiments.qlearning import experiment as dqn
from jaxai.experiments.translation import experiment as seq2seq
from jaxai.runtime import seeds
from jaxai.runtime.experiment import without_foreign_bound
from jaxai.runtime.presets import load_preset

CHECKOUT = Path(__file__).parents[1]
PRESET = '''"""A toy: an MLP on noise."""

from jaxai.cnn import Config, Optimizer
from jaxai.experiments.classification.experiment import Experiment
from jaxai.data import Data
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(architecture="mlp", width=4, depth=1, optimizer=Optimizer(name="sgd", learning_rate=0.05)),
    data=Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=64, test_examples=30),
    epochs=2,
    batch_size=16,
    run=Run(devices=1),
)
'''


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "toy_mlp.py"
    path.write_text(PRESET)
    return str(path)


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))


def one_line(text):
    assert text.startswith("jaxai: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text


def plain(text):
    """Without the frames that tyro draws, and with every run of blanks as one."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.fixture(scope="module")
def run(preset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("cli") / "run"
    cli.main(["train", preset, "--workdir", str(workdir)])
    return workdir


def test_training_leaves_a_report_and_the_folder_that_readme_promises(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        *(
            "config.json",
            "command.txt",
            "environment.json",
            "data.json",
            "metrics.json",
            "metrics.jsonl",
            "timing.jsonl",
        ),
        *("checkpoints", "pictures", "result.json", "report.html", "README.md"),
    }
    assert {"test_accuracy", "steps", "examples_per_second_per_chip", "seconds"} <= json.loads(
        (run / "result.json").read_text()
    ).keys()
    assert "<svg" in (run / "report.html").read_text()


def test_options_reach_the_experiment(jaxai, preset, monkeypatch):
    received = []
    monkeypatch.setattr(seeds, "train_seeds", lambda experiment, *_: received.append(experiment) or "SIGTERM")
    code, _, _ = jaxai(
        *("train", preset, "--workdir", "runs/x", "--optimizer.learning-rate", "3e-4", "--epochs", "1", "--seed", "4"),
        *("--optimizer.nesterov", "True", "--augment.flip", "random", "--data.image-shape", "12", "12", "3"),
        *("--optimizer.parameters", "a=1", "b=2", "--tensorboard", "--evaluate-every", "1e6", "--devices", "2.0E+0"),
    )
    assert code == 0
    (got,) = received
    assert (got.epochs, got.batch_size, got.run.seed, got.run.workdir) == (1.0, 16, 4, "runs/x")
    assert got.run.tensorboard
    assert (got.run.evaluate_every, got.run.devices) == (1_000_000, 2)
    assert got.data.image_shape == (12, 12, 3)
    assert got.workload.augment.flip == "random"
    optimizer = got.workload.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.nesterov) == ("sgd", 3e-4, True)
    assert optimizer.parameters == ("a=1", "b=2")


def test_same_command_resumes_and_a_changed_one_is_refused_with_the_flag_that_overrides(jaxai, preset, run):
    before = (run / "metrics.jsonl").read_bytes()
    code, out, _ = jaxai("train", preset, "--workdir", run)
    assert code == 0
    assert "continuing at step 8 of 8" in out
    assert (run / "metrics.jsonl").read_bytes() == before
    code, _, err = jaxai("train", preset, "--workdir", run, "--optimizer.learning-rate", "3e-4")
    assert code == 2
    assert "(--optimizer.learning-rate: 0.05 -> 0.0003)" in err
    assert "--resume-with-changes" in err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_evaluate_agrees_with_the_training_and_with_its_own_confusion_matrix(jaxai, run):
    code, out, _ = jaxai("evaluate", run)
    assert code == 0
    found = json.loads((run / "evaluation.json").read_text())
    result = json.loads((run / "result.json").read_text())
    confusion = np.array(found["confusion"])
    assert found["test_accuracy"] == pytest.approx(result["test_accuracy"])
    assert found["test_accuracy"] == pytest.approx(np.trace(confusion) / 30)
    assert found["examples"] == confusion.sum() == 30
    for i, accuracy in enumerate(found["per_class_accuracy"].values()):
        assert accuracy == pytest.approx(confusion[i, i] / confusion[i].sum())
    assert 0 <= found["test_top5_accuracy"] <= 1
    assert f"{found['test_accuracy']:.4f}" in out
    code, _, _ = jaxai("evaluate", run, "--checkpoint", "best", "--devices", "4")
    assert code == 0
    assert json.loads((run / "evaluation.json").read_text())["checkpoint"] == "best"


def test_seeds_give_mean_spread_and_each_seed_and_reports_overlay_them(jaxai, preset, tmp_path):
    workdir = tmp_path / "run"
    code, out, _ = jaxai("train", preset, "--workdir", workdir, "--seeds", "2", "--seed", "7", "--epochs", "1")
    assert code == 0
    together = json.loads((workdir / "result.json").read_text())
    each = [json.loads((workdir / f"seed-{seed}" / "result.json").read_text()) for seed in (7, 8)]
    losses = [result["test_loss"] for result in each]
    assert losses[0] != losses[1]
    assert together["seeds"] == 2
    assert together["test_loss_per_seed"] == losses
    assert together["test_loss"] == pytest.approx(np.mean(losses))
    assert together["test_loss_std"] == pytest.approx(np.std(losses, ddof=1))
    assert together["steps"] == 4
    assert "Mean and spread of 2 seeds" in out
    assert (workdir / "report.html").is_file()
    for folders in ([workdir], [workdir / "seed-7"], [workdir / "seed-7", workdir / "seed-8"]):
        output = tmp_path / "page.html"
        code, out, _ = jaxai("report", *folders, "--output", output)
        assert (code, out) == (0, f"wrote {output}\n")
        page = output.read_text()
        assert "<svg" in page
        assert "7" in page
        output.unlink()


def test_exploding_run_ends_with_1_and_one_line_and_is_replayed(jaxai, preset, tmp_path):
    workdir = tmp_path / "run"
    code, _, err = jaxai("train", preset, "--workdir", workdir, "--optimizer.learning-rate", "1e30")
    assert code == 1
    assert re.match(r"jaxai: step \d: non-finite .*kernel.* on the examples \d+", one_line(err))
    code, out, _ = jaxai("replay", workdir)
    assert code == 0
    assert "again on one device: non-finite" in out
    assert "first seen in" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optimizer.lerning-rate", "1"], ["--optimizer.learning-rate"]),
        (["--batch-sise", "1"], ["--batch-size"]),
        (["--epochs", "many"], ["epochs", "many", "float"]),
        (["--batch-size", "1.5"], ["--batch-size: '1.5' is no whole number"]),
        (["--batch-size", "1e99"], ["--batch-size is 1000", "it must be at most 2147483647"]),
        (["--architecture", "mpl"], ["architecture", "mpl", "mlp"]),
        (["--optimizer.name", "adamm"], ["adamm", "adam"]),
        (["--data.source", "mnits"], ["mnits", "mnist"]),
        (["--epochs", "0"], ["--epochs is 0.0; it must be above 0"]),
        (["--seeds", "0"], ["--seeds is 0"]),
        (["--devices", "3"], ["a batch of 16 does not divide over 3 devices"]),
        (["--devices", "99"], ["--devices is 99; this machine has 8"]),
        (["--batch-size", "65"], ["--batch-size is 65; expected 1 to 64"]),
        (["--optimizer.parameters", "nope=1"], ["nope"]),
    ],
    ids=" ".join,
)
def test_a_users_mistake_ends_with_2_and_says_what_was_wrong(jaxai, preset, tmp_path, options, words):
    code, out, err = jaxai("train", preset, "--workdir", tmp_path / "run", *options)
    assert code == 2
    for word in words:
        assert word in plain(out + err)
    assert not (tmp_path / "run").exists()


def test_unknown_preset_gives_the_nearest_names(jaxai, preset):
    code, _, err = jaxai("train", preset.replace("toy_mlp", "toy_mpl"))
    assert code == 2
    assert f"did you mean {preset}?" in one_line(err)


def test_unknown_preset_is_looked_for_in_configs(jaxai, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    code, _, err = jaxai("train", "mnist_cnn")
    assert code == 2
    assert "configs/mnist_cnn.py" in one_line(err)


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["train", "--epochs", "3"], ["sweep"], ["trian", "x"], ["evaluate"], ["play"]],
    ids=" ".join,
)
def test_wrong_command_ends_with_2_and_one_line(jaxai, arguments):
    code, _, err = jaxai(*arguments)
    assert code == 2
    assert re.search("train|preset|give the folder of a run", one_line(err))


@pytest.mark.parametrize("command", ["evaluate", "play", "replay", "report"])
def test_folder_without_a_run_is_told_in_one_line(jaxai, tmp_path, command):
    code, _, err = jaxai(command, tmp_path / "nothing")
    assert code == 2
    assert str(tmp_path / "nothing") in one_line(err)


def test_report_of_no_run_asks_for_one(jaxai):
    code, out, err = jaxai("report")
    assert code == 2
    assert "run" in out + err


def test_run_without_a_checkpoint_cannot_be_evaluated(jaxai, run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    code, _, err = jaxai("evaluate", tmp_path)
    assert code == 2
    assert "has no best checkpoint" in one_line(err)


def test_ctrl_c_before_the_training_ends_with_130_and_no_traceback(jaxai, preset, monkeypatch, tmp_path):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "load", interrupted)
    code, _, err = jaxai("train", preset, "--workdir", tmp_path / "run")
    assert (code, one_line(err)) == (130, "jaxai: interrupted\n")


def test_no_command_and_help_print_the_commands(jaxai):
    for arguments, expected in (([], 2), (["--help"], 0)):
        code, out, _ = jaxai(*arguments)
        assert code == expected
        for command in ("train", "sweep", "evaluate", "play", "report", "replay"):
            assert f"\n  {command} " in out


@pytest.mark.parametrize("command", ["evaluate", "report", "replay"])
def test_help_of_every_command(jaxai, command):
    code, out, _ = jaxai(command, "--help")
    assert code == 0
    assert f"jaxai {command}" in out


def test_help_explains_every_field_with_its_comment(jaxai, preset, documented_options):
    code, out, _ = jaxai("train", preset, "--help")
    assert code == 0
    text = plain(out)
    assert "A toy: an MLP on noise." in text
    options = dict(documented_options(load_preset(preset)[0]))
    assert len(options) > 50
    unexplained = [option for option, comment in options.items() if not comment or plain(comment) not in text]
    assert unexplained == []
    assert [option for option in options if f"{option} " not in text and f"{option}," not in text] == []


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("configs/*.py")), ids=lambda path: path.stem)
def test_every_preset_states_itself_and_takes_options(jaxai, path):
    config, description, _ = load_preset(str(path))
    assert isinstance(config, Experiment | dqn.Experiment | gan.Experiment | seq2seq.Experiment)
    assert description.strip()
    code, out, _ = jaxai("train", path, "--help")
    assert code == 0
    assert plain(description)[:40] in plain(out)


def in_a_process(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", "from jaxai.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=CHECKOUT,
    )
    return done.returncode, done.stdout, done.stderr


def test_missing_data_fails_without_asking_the_network_in_one_line_that_says_where_and_how(
    jaxai, preset, tmp_path, monkeypatch
):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = ("train", preset, "--workdir", tmp_path / "run", "--data.source", "tfds:mnist", "--data.dir", empty)
    asked, resolve = [], socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *host, **how: asked.append(host) or resolve(*host, **how))
    code, _, err = jaxai(*arguments)
    assert asked == []  # tfds itself would try for minutes
    assert code == 2
    assert f"not prepared in {empty / 'mnist'}" in one_line(err)
    assert "download_and_prepare()" in err
    assert not (tmp_path / "run").exists()


def test_a_users_mistake_in_a_process_of_its_own_leaves_one_line_and_no_warning(preset, tmp_path):
    code, out, err = in_a_process("train", preset, "--workdir", tmp_path / "run", "--epochs", "0")
    assert (code, out) == (2, "")
    assert one_line(err) == "jaxai: --epochs is 0.0; it must be above 0\n"


def test_training_goes_on_where_its_output_cannot_be_written(preset):
    program = (
        "from jaxai import cli; from jaxai.runtime import seeds, parallel\n"
        "def train(experiment, console, hooks):\n"
        "    for line in range(3): console.print(line)\n"
        "    raise FloatingPointError('reached the end')\n"
        f"seeds.train_seeds = train; cli.main(['train', {preset!r}, '--workdir', '/tmp/none'])"
    )
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "jaxai: standard output cannot be written any more (No space left on device); the run continues without it",
        "jaxai: reached the end",
    ]


def test_run_without_matplotlib_is_complete_and_says_how_to_get_the_report(jaxai, preset, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxai.report.pictures.available", lambda: False)
    code, output, _ = jaxai("train", preset, "--workdir", tmp_path / "run")
    assert code == 0
    assert "pip install '.[demo]'" in output
    assert (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "pictures").exists()


def test_what_a_preset_reaches_is_expected_on_its_own_data_alone(preset):
    own = dataclasses.replace(load_preset(preset)[0], expected=0.9)
    data = own.data
    for same in (
        own,
        dataclasses.replace(own, epochs=3),
        dataclasses.replace(own, data=dataclasses.replace(data, dir="here")),
    ):
        assert without_foreign_bound(own, same).expected == 0.9
    other = dataclasses.replace(own, data=dataclasses.replace(data, num_classes=5))
    assert without_foreign_bound(own, other).expected == 0
    assert without_foreign_bound(own, dataclasses.replace(other, expected=0.5)).expected == 0.5
    player = dqn.Experiment(expected=400.0)
    elsewhere = dataclasses.replace(player, env=dataclasses.replace(player.env, name="Catch-bsuite"))
    assert without_foreign_bound(player, elsewhere).expected == 0
