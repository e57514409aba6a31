"""What the README and the documentation say can be typed is typed here, in the order of its page, as a user would."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {page.stem: page for page in [README, *sorted((ROOT / "docs").glob("*.md"))]}
LONGEST = 10
"""Most lines of a recipe, imports aside."""
COMPILER = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")

PAGE = """
import json, shlex, sys
from jaxai.cli import main
for number, (language, text) in enumerate(json.loads(sys.stdin.read()), start=1):
    if language == "python" and text.startswith("# file: "):
        open(text.split()[2], "w").write(text)
        continue
    if language == "python":
        exec(compile(text, f"block {number}", "exec"), {"__name__": "__main__"})
        continue
    for command in [line[2:].partition("#")[0] for line in text.splitlines() if line.startswith("$ jaxai")]:
        print(command)
        try:
            main(shlex.split(command)[1:])
        except SystemExit as ended:  # as --help does
            if ended.code:
                raise
"""
"""One process for a page: importing jax takes longer than most programs."""

PRINTED = {
    "README": (r"loss ([\d.]+)", lambda loss: loss < 2.3),  # of 10 classes at random
    "qlearning": (r"seeds: (\d+)", lambda steps: steps > 44),  # a random policy keeps the pole up for 22 steps
}
"""Page -> what it prints that shows learning."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the blocks of a page that can be run."""
    return re.findall(r"^```(python|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def lines(program: str) -> list[str]:
    return [line for line in program.splitlines() if line.strip() and not re.match(r"(import|from|#)\b", line)]


def run(command: list[str], folder: Path, given: str = "", optimized: bool = False) -> subprocess.CompletedProcess[str]:
    """In a process that has the devices of a user, not those of the tests; with a user's compiler where `optimized`."""
    left_out = ("NPROC", "MAKEFLAGS", "MAKELEVEL", *(COMPILER if optimized else ()))
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    if not optimized:
        environment["XLA_FLAGS"] = re.sub(r"\S+device_count=\d+", "", environment.get("XLA_FLAGS", ""))
    return subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, timeout=500, check=False
    )


FAST = ("README", "recipes")
"""Pages that run with every test run; `.ci/run` runs the others too."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name, page in PAGES.items()
        if blocks(page)
    ],
)
def test_page_runs(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    done = run([sys.executable, "-W", "error", "-c", PAGE], tmp_path, json.dumps(blocks(PAGES[name])))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    if name in PRINTED:
        pattern, learned = PRINTED[name]
        assert learned(float(re.findall(pattern, done.stdout)[0])), done.stdout


TEN_LINES = [blocks(PAGES[name])[1] for name in ("README", "classification", "qlearning")]


@pytest.mark.parametrize(
    "program", [text for language, text in [*TEN_LINES, *blocks(PAGES["recipes"])] if language == "python"]
)
def test_recipe_has_at_most_ten_lines(program: str) -> None:
    assert len(lines(program)) <= LONGEST


def test_every_task_has_its_recipe() -> None:
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. ", PAGES["recipes"].read_text(), re.MULTILINE)]
    assert sorted(numbers) == list(range(1, 26))


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
def test_demo_trains_to_what_it_expects(tmp_path: Path) -> None:
    assert "$ make demo" in README.read_text()
    printed = run(["make", "--dry-run", "--always-make", "demo", f"VENV={sys.prefix}"], ROOT).stdout
    train = next(line for line in printed.splitlines() if "jaxai train" in line)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    # A program that runs for long is worth optimizing: unoptimized it takes three times as long.
    done = run(train.split(), tmp_path, optimized=True)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, got = re.search(r"expected test accuracy ([\d.]+) or more, got ([\d.]+)", done.stdout).groups()
    assert float(got) >= float(expected) >= 0.975
    assert (tmp_path / "runs/demo/report.html").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
def test_test_command_is_the_one_that_runs_these_tests() -> None:
    assert "$ make test" in README.read_text()
    assert "-m pytest" in run(["make", "--dry-run", "--always-make", "test"], ROOT).stdout


def test_files_that_the_map_names_are_there() -> None:
    named = re.findall(r"`(jaxai/[\w/]+(?:\.py|/)?)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
