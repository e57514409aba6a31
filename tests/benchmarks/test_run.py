import dataclasses
import json
import math
import statistics
import subprocess
from pathlib import Path

import jax
import pytest

from benchmarks import compare, machine, records, run, startup
from benchmarks.measure import Effort, spread
from jaxai.data import Data
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime.config import Run

BENCHMARKS = Path(run.__file__).parent
QUICK = ["--blocks", "2", "--steps", "2", "--block-seconds", "0", "--seconds", "1"]
SMALL = ["--architecture", "mlp", "--width", "8", "--batch-size", "16", "--steps-per-call", "2", "--devices", "1"]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    run.main(["configs/mnist_cnn.py", *SMALL, *QUICK, "--results", str(results)])
    (file,) = results.glob("*/cnn.jsonl")
    (line,) = file.read_text().splitlines()
    return json.loads(line)


def test_record_says_what_was_measured(record):
    assert record["case"].startswith("mnist_cnn batch=16 K=2 jit x1")
    assert "architecture=mlp" in record["case"]
    assert "width=8" in record["case"]
    assert (record["batch_size"], record["steps_per_call"], record["mode"], record["devices"]) == (16, 2, "jit", 1)
    assert record["config"]["image_shape"] == [28, 28, 1]
    assert {"commit", "date"} <= record.keys()
    assert record["environment"]["versions"]["jax"] == jax.__version__


def test_rate_is_the_median_of_the_blocks_and_agrees_with_the_time_of_a_step(record):
    rate = record["examples_per_second_per_chip"]
    assert len(record["blocks"]) == 2
    assert rate["median"] == statistics.median(record["blocks"])
    assert rate["min"] == min(record["blocks"])
    assert rate["max"] == max(record["blocks"])
    assert math.isclose(record["seconds_per_step"], 16 / rate["median"])


def test_flops_are_those_of_the_layers(record):
    # Two hidden layers of 8: forward, and both gradients of each layer but that of the first one's input.
    forward = 2 * (784 * 8 + 8 * 8 + 8 * 10)
    assert record["flops_per_example"] == 3 * forward - 2 * 784 * 8
    assert record["mfu"] is None
    rate = record["examples_per_second_per_chip"]["median"]
    assert math.isclose(record["flops_per_second_per_chip"], rate * record["flops_per_example"])


def test_compilation_stands_apart_from_the_blocks(record):
    assert record["compile_seconds"] > 0
    assert record["trace_seconds"] > 0
    block = record["steps_per_block"] * record["seconds_per_step"]
    assert block < record["compile_seconds"]


def test_memory_holds_at_least_the_data(record):
    assert record["peak_memory_bytes"] > 10_000 * 28 * 28
    assert record["peak_memory_source"] == "memory_analysis"


def test_a_hurried_measurement_is_flagged(record):
    assert any("fewer than the rule" in flag for flag in record["flags"])


def test_changed_files_are_flagged(monkeypatch):
    git = {"commit": "c" * 40, "dirty": True}
    around = records.environment.describe() | {"git": git}
    monkeypatch.setattr(records.environment, "describe", lambda: dict(around))
    assert "files differ from the commit" in records.complete("case", {})["flags"]


def test_commit_can_be_named_where_there_is_no_checkout(monkeypatch):
    around = records.environment.describe() | {"git": None}
    monkeypatch.setattr(records.environment, "describe", lambda: dict(around))
    assert records.complete("case", {})["flags"] == ["commit unknown"]
    monkeypatch.setenv("BENCHMARK_COMMIT", "abc-dirty")
    assert records.complete("case", {})["commit"] == "abc"
    assert records.complete("case", {})["flags"] == ["files differ from the commit"]


@pytest.mark.skipif(not machine.STAT.is_file(), reason="the system does not tell how busy it is")
def test_work_of_other_processes_is_seen_and_our_own_is_not(monkeypatch):
    readings = iter([(100.0, 50.0, 10.0), (110.0, 58.0, 12.0)])
    monkeypatch.setattr(machine, "_seconds", lambda: next(readings))
    with machine.ForeignCpu() as others:
        pass
    assert others.share == pytest.approx((8 - 2) / 10)


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_every_engine_is_measured_per_chip_and_all_cpu_devices_are_one(mode):
    experiment = Experiment(batch_size=16, data=Data("idx"), run=Run(mode=mode, devices=2, steps_per_call=2))
    small = dataclasses.replace(experiment.workload, architecture="mlp", width=4)
    case = run.Case("small", dataclasses.replace(experiment, workload=small))
    measured = run.measure_case(case, run.Measurement(Effort(1, 2, 0, 0.1)))
    assert measured["devices"] == 2
    assert math.isclose(measured["examples_per_second_per_chip"]["median"], 16 / measured["seconds_per_step"])


def test_default_list_compares_one_step_a_call_with_many():
    cases = run.default_cases(Run(), small=False)
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    measured = [
        {"case": case.name, "steps_per_call": case.experiment.run.steps_per_call, "seconds_per_step": seconds}
        for case, seconds in zip(cases, [0.2, 0.1] * len(cases), strict=False)
    ]
    lines = run.compare_calls(measured)
    assert len(lines) == 3
    assert all("0.50 times" in line for line in lines)


def test_a_typo_is_answered_in_a_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["configs/mnist_cn.py"])
    assert stopped.value.code == 2
    assert "configs/mnist_cnn.py" in capsys.readouterr().err


def test_spread_of_known_numbers():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3, "min": 1, "max": 5, "iqr": 2}


def written(path: Path, *lines: tuple[str, str, list[float]], measure: str = "examples_per_second_per_chip") -> str:
    around = {"devices": {"name": "cpu-2core"}}
    with path.open("w") as file:
        for case, commit, blocks in lines:
            record = {"case": case, "commit": commit, "flags": [], measure: spread(blocks), "environment": around}
            file.write(json.dumps(record) + "\n")
    return str(path)


def test_halved_throughput_is_called_slower(tmp_path, capsys):
    old = written(tmp_path / "old.jsonl", ("a", "1", [100, 101, 102]), ("b", "1", [100, 101, 102]))
    new = written(tmp_path / "new.jsonl", ("a", "2", [50, 51, 52]), ("b", "2", [101, 102, 103]))
    with pytest.raises(SystemExit) as stopped:
        compare.main([old, new])
    assert stopped.value.code == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "0.50" in rows[0]
    assert "slower" in rows[0]
    assert "within spread" in rows[1]


def test_history_compares_the_newest_commit_with_the_one_before(tmp_path):
    lines = [("a", "1", [10.0]), ("a", "2", [100.0]), ("a", "3", [1.0]), ("a", "3", [200.0]), ("new", "3", [1.0])]
    file = Path(written(tmp_path / "history.jsonl", *lines))
    (one,) = compare.compare(*compare.history(records.read(file)))
    assert (one.speed, one.verdict) == (2.0, "faster")


def test_less_time_to_the_first_step_is_faster(tmp_path):
    lines = [("a", "1", [10.0]), ("a", "2", [5.0])]
    file = Path(written(tmp_path / "startup.jsonl", *lines, measure="seconds_to_first_step"))
    (one,) = compare.compare(*compare.history(records.read(file)))
    assert (one.speed, one.verdict) == (2.0, "faster")


def test_a_broken_result_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "cnn.jsonl"
    file.write_text('{"case": "a"}\n{"case"\n')
    with pytest.raises(ValueError, match="line 2"):
        records.read(file)


def test_a_training_without_a_first_step_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="no first step within"):
        startup.first_step("configs/mnist_cnn.py", tmp_path, tmp_path / "run", limit=0.1)


@pytest.mark.parametrize("script", ["gpu.sh", "wheels.sh"])
def test_script_is_valid_bash_that_can_be_started(script):
    subprocess.run(["bash", "-n", BENCHMARKS / script], check=True)
    assert (BENCHMARKS / script).stat().st_mode & 0o111
