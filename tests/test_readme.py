"""What the README says can be typed is typed here."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("console")).splitlines()
    return [line[2:].split("#")[0].strip() for line in lines if line.startswith("$ ")]


COMPILER = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")


def run(command: list[str], folder: Path, optimized: bool = False) -> subprocess.CompletedProcess[str]:
    """In a process that has the devices of a user, not those of the tests; with a user's compiler where `optimized`."""
    left_out = ("NPROC", "MAKEFLAGS", "MAKELEVEL", *(COMPILER if optimized else ()))
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    if not optimized:
        environment["XLA_FLAGS"] = re.sub(r"\S+device_count=\d+", "", environment.get("XLA_FLAGS", ""))
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """What an example of Python code prints; it runs once for all tests."""

    @functools.cache
    def of(code: str) -> str:
        done = run([sys.executable, "-W", "error", "-c", code], tmp_path_factory.mktemp("example"))
        assert done.returncode == 0, done.stderr
        return done.stdout

    return of


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[2])
def test_python_example_runs(code: str, printed: Callable[[str], str]) -> None:
    printed(code)


def test_example_of_an_own_loop_is_ten_lines_and_learns(printed: Callable[[str], str]) -> None:
    code = next(code for code in blocks("python") if "train_step(state, batch)" in code)
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    assert float(re.findall(r"loss ([\d.]+)", printed(code))[0]) < 2.3, printed(code)


def test_example_of_sixteen_seeds_is_ten_lines_and_learns(printed: Callable[[str], str]) -> None:
    code = next(code for code in blocks("python") if "jax.vmap(train)" in code)
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    # A random policy keeps the pole up for 22 steps.
    assert float(re.findall(r"seeds: (\d+)", printed(code))[0]) > 44, printed(code)


def test_commands_of_the_command_line_run(tmp_path: Path) -> None:
    typed = [command for command in commands() if command.startswith("jaxai")]
    assert typed
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for command in typed:
        done = run(command.split(), tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_demo_trains_to_what_it_expects(tmp_path: Path) -> None:
    assert "make demo" in commands()
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    printed = run(["make", "--dry-run", "--always-make", "demo", f"VENV={sys.prefix}"], ROOT).stdout
    train = next(line for line in printed.splitlines() if "jaxai train" in line)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    # A program that runs for long is worth optimizing: unoptimized it takes three times as long.
    done = run(train.split(), tmp_path, optimized=True)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, got = re.search(r"expected test accuracy ([\d.]+) or more, got ([\d.]+)", done.stdout).groups()
    assert float(got) >= float(expected) >= 0.975
    assert (tmp_path / "runs/demo/report.html").exists()


def test_test_command_is_the_one_that_runs_these_tests() -> None:
    assert "make test" in commands()
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    assert "-m pytest" in run(["make", "--dry-run", "--always-make", "test"], ROOT).stdout


def test_files_that_the_map_names_are_there() -> None:
    named = re.findall(r"`(jaxai/[\w/]+(?:\.py|/)?)`", README)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
