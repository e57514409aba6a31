"""Paths and names as users type them: home folders, empty and impossible ones, and what a console takes for markup."""

import dataclasses
import errno
import io
import json
import os
import re
import stat
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxai import cli
from jaxai.errors import explained
from jaxai.experiments.classification import experiment as cnn_experiment
from jaxai.extras import MissingExtraError
from jaxai.files.paths import given_path
from jaxai.metrics import Meanings
from jaxai.output import show_notes
from jaxai.runtime import parallel, progress
from jaxai.runtime.config import Run, check_experiment
from jaxai.runtime.restore import trained_state
from jaxai.runtime.run_folder import RunFolder

PRESET = """
from jaxai.cnn import Config
from jaxai.experiments.classification.experiment import Experiment
from jaxai.data import Data
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(architecture="mlp", width=4, depth=1),
    data=Data("synthetic", image_shape=(4, 4, 1), num_classes=2, examples=8, test_examples=4),
    epochs=1,
    batch_size=8,
    run=Run(devices=1),
)
"""
NAME = "[red]a[b] :cat: 100%?#é"  # rich would read styles and an emoji


@pytest.fixture
def preset(tmp_path: Path) -> str:
    (tmp_path / "toy.py").write_text(PRESET)
    return str(tmp_path / "toy.py")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that ends with 2 before it does anything."""
    before = sorted(Path.cwd().rglob("*"))
    with jax.log_compiles(), pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    written = capsys.readouterr()
    assert ended.value.code == 2
    assert written.out == ""
    assert re.fullmatch(r"jaxai: [^\n]{1,400}\n", written.err)
    assert sorted(Path.cwd().rglob("*")) == before
    return written.err


def test_a_tilde_in_quotes_is_the_home_folder_in_every_command(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["train", preset, "--workdir", "~/runs/a"])
    assert json.loads((tmp_path / "home/runs/a/result.json").read_text())["steps"] == 1
    cli.main(["evaluate", "~/runs/a"])
    assert (tmp_path / "home/runs/a/evaluation.json").exists()
    cli.main(["report", "~/runs/a", "--output=~/page.html"])
    assert (tmp_path / "home/page.html").exists()
    assert not [path for path in Path.cwd().rglob("*") if "~" in path.name]
    assert "resume" not in capsys.readouterr().out


def test_a_tilde_from_python_is_the_home_folder(tmp_path: Path) -> None:
    assert RunFolder("~/x").path == tmp_path / "home/x"
    assert given_path("~", "--data.dir") == tmp_path / "home"


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("", "--workdir is empty; give a path, or leave it out"),
        (" \t", "--workdir is empty"),
        ("runs/a ", "--workdir is 'runs/a '; leave out the white space around it"),
        ("a-file", "--workdir a-file cannot be made: .*a-file is a file; choose another folder"),
        ("a-file/run", "--workdir a-file/run cannot be made: .*a-file is a file; choose another folder"),
        ("~no-such-user/x", "--workdir '~no-such-user/x' cannot be a path here: Could not determine home directory"),
        ("a" * 300, "--workdir 'aaa.* cannot be a path here: File name too long"),
        ("a\udcff", r"--workdir 'a\\udcff' is not UTF-8, which checkpoints need; choose another folder"),
        ("a\0b", "--workdir .* cannot be a path here: it holds a control character"),
    ],
)
def test_a_workdir_that_cannot_be_is_refused_first(
    preset: str, workdir: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a-file").write_text("")
    assert re.match(f"jaxai: {message}", refused(capsys, "train", preset, "--workdir", workdir))


def test_a_workdir_without_permission_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")  # root may write everywhere
    experiment = dataclasses.replace(cnn_experiment.Experiment(), run=Run("locked/run"))
    with pytest.raises(ValueError, match=r"^workdir locked/run cannot be written: no permission in .*locked; choose"):
        check_experiment(experiment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "toy.py", "--seed", "-1"], "--seed is -1; it must be at least 0"),
        (
            ["train", "toy.py", "--seed", "4294967295", "--seeds", "2"],
            "--seed is 4294967295 and seeds 2; the last seed",
        ),
        (["train", "toy.py", "--epochs", "nan"], "--epochs is nan; it must be finite and above 0"),
        (["train", "toy.py", "--epochs", "inf"], "--epochs is inf; it must be finite and above 0"),
        (["train", "toy.py", "--batch-size", "9" * 30], "--batch-size is 9{30}; it must be at most 2147483647"),
        (["train", "toy.py", "--optimizer.clip-norm", "nan"], "--optimizer.clip-norm is nan; it must be finite and"),
        (
            ["train", "toy.py", "--optimizer.parameters", "b1=2"],
            "--optimizer.parameters b1 is 2; it must be at least 0",
        ),
        (["train", "toy.py", "--width", "2147483647", "--depth", "2"], "the state takes .* make the network smaller"),
        (["sample", "nowhere", "--count", "3"], "nowhere is no run folder: it has no config.json"),
        (["evaluate", ""], "an argument is empty; give it a value, or leave it out"),
        (["report", "~/toy", ""], "an argument is empty"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_number_that_cannot_be_is_one_line_in_every_command(
    preset: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [preset if argument == "toy.py" else argument for argument in arguments]
    assert re.match(f"jaxai: {message}", refused(capsys, *arguments))


def test_names_of_the_users_are_printed_as_they_are(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", preset, "--workdir", NAME])
    assert f"report: {NAME}/report.html" in capsys.readouterr().out
    cli.main(["report", NAME])
    assert capsys.readouterr().out == f"wrote {NAME}/report.html\n"
    cli.main(["report", NAME, "--output", "\udcff.html"])  # a byte that is no UTF-8
    assert capsys.readouterr().out == "wrote \\udcff.html\n"


def test_an_option_that_is_no_utf8_reaches_the_report(
    preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", preset, "--workdir", "run", "--data.cache", "\udcff"]
    monkeypatch.setattr("sys.argv", ["jaxai", *arguments])
    cli.main(arguments)
    assert "report: run/report.html" in capsys.readouterr().out
    assert "\\udcff" in Path("run/command.txt").read_text(encoding="utf-8")
    assert "\\udcff" in Path("run/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [2, cnn_experiment.MOST_COLUMNS + 1])
def test_class_names_are_no_markup_in_the_tables(number: int) -> None:
    classes = [f"[red]{index}:cat:" for index in range(number)]
    console = Console(file=io.StringIO(), width=1000)
    confusion = np.eye(number, dtype=int)
    cnn_experiment._show({"test_loss": 0.5}, dict.fromkeys(classes, 1.0), confusion, classes, console)
    written = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert written.count("[red]1:cat:") == (2 if number == 2 else 1)


def test_figures_titles_and_notes_are_no_markup() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(progress.results({"[b]x": "[red]y :dog:"}, Meanings({}), title="Scores on [red] :cat:"))
    show_notes(["skipped [red]/1.png"], console)
    written = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for text in ("[b]x", "[red]y :dog:", "Scores on [red] :cat:", "skipped [red]/1.png"):
        assert text in written


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ValueError("width is 0"), "width is 0", 2),
        (FileNotFoundError("no data in x"), "no data in x", 2),
        (MissingExtraError("needs gymnax"), "needs gymnax", 2),
        (OverflowError("Python int too large"), "a number is too large: Python int too large", 2),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied", 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "a: Is a directory", 2),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", b"a"), "a: Not a directory", 2),
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error", 1),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", 1),
        (FloatingPointError("step 3"), "step 3", 1),
        (MemoryError("Unable to\nallocate"), "out of memory: Unable to allocate; make the model, the batch or the", 1),
        (RuntimeError("RESOURCE_EXHAUSTED: 8 GB"), "out of memory: RESOURCE_EXHAUSTED: 8 GB; make", 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_mend_is_one_line(error: Exception, line: str, code: int) -> None:
    found = explained(error)
    assert found is not None
    assert found[0].startswith(line)
    assert found[1] == code


def test_a_fault_of_jaxai_keeps_its_traceback() -> None:
    assert explained(TypeError("unsupported operand")) is None
    assert explained(RuntimeError("INTERNAL")) is None


def test_output_that_is_a_folder_is_one_line(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", preset, "--workdir", "run"])
    capsys.readouterr()
    Path("pages").mkdir()
    assert refused(capsys, "report", "run", "--output", "pages") == "jaxai: --output is pages, a folder; give a file\n"


def test_a_pipe_as_workdir_is_a_file(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
    assert "pipe is a file" in refused(capsys, "train", preset, "--workdir", "pipe")


def test_home_that_cannot_be_written_keeps_no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "cache").write_text("a file")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cli._configure_jax()
    assert jax.config.jax_compilation_cache_dir == before


def test_checkpoints_below_a_name_that_is_no_utf8_are_refused_and_not_called_damaged() -> None:
    with pytest.raises(ValueError, match="is not UTF-8, which checkpoints need; rename") as error:
        trained_state(cnn_experiment.Experiment().of_run().make(), Run(workdir="r\udcff"), parallel.make_mesh(1))
    assert "\n" not in str(error.value)
