import json
from pathlib import Path

import pytest

from benchmarks import learning


def finished(folder: Path, accuracy: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"test_accuracy": accuracy}))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "git": {"commit": "abc", "dirty": False}}))
    commands = ("jaxai train first.py", "jaxai train configs/a.py --data.dir /data/tfds --workdir runs/a")
    (folder / "command.txt").write_text("\n".join(commands) + "\n")
    return folder


def test_record_keeps_the_result_the_last_command_and_the_commit_of_the_run(tmp_path: Path) -> None:
    record = learning.record(finished(tmp_path / "a", 0.9))
    assert record["case"] == "a"
    assert record["command"] == "jaxai train configs/a.py --data.dir DIR --workdir runs/a"
    assert record["result"] == {"test_accuracy": 0.9}
    assert record["git"] == {"commit": "abc", "dirty": False}
    assert record["environment"] == {"python": "3.11"}


def test_record_of_seeds_has_their_mean_and_the_environment_of_the_first(tmp_path: Path) -> None:
    finished(tmp_path / "a" / "seed-0", 0.8)
    (tmp_path / "a" / "result.json").write_text(json.dumps({"test_accuracy": 0.85, "seeds": 2}))
    record = learning.record(tmp_path / "a")
    assert record["result"]["test_accuracy"] == 0.85
    assert record["environment"] == {"python": "3.11"}


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no result\.json: the run has not finished"):
        learning.record(tmp_path)
