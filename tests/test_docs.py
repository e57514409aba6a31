"""Every program and command of the README and the documentation runs, in the order of its page, as a user's would."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = 10
"""Most lines of a recipe, imports aside."""

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


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the blocks of a page that can be run."""
    return re.findall(r"^```(python|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def environment() -> dict[str, str]:
    """A user's devices, not those of the tests."""
    found = {name: value for name, value in os.environ.items() if name not in ("NPROC", "MAKEFLAGS", "MAKELEVEL")}
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
    found["XLA_FLAGS"] = re.sub(r"\S+device_count=\d+", "", found.get("XLA_FLAGS", ""))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PAGE],
        input=json.dumps(blocks(page)),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("program", [text for language, text in blocks(ROOT / "docs" / "recipes.md")])
def test_recipe_has_at_most_ten_lines(program: str) -> None:
    lines = [line for line in program.splitlines() if line.strip() and not re.match(r"(import|from|#)\b", line)]
    assert len(lines) <= LONGEST
