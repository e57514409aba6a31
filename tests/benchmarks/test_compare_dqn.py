import dataclasses
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks.peers import compare_cnn, compare_dqn, dqn_tasks, rounds
from benchmarks.peers.rounds import Block, Runner, Worker

FAKE = """
import sys
sys.path.insert(0, {checkout!r})
from benchmarks.peers import serving

print("a framework's greeting")

def warm():
    import {library}
    return serving.Trainer(lambda steps: None, 7, {{"fake": "1.0"}}, {{"bytes_per_transition": 50.0}}), 30

serve = sys.argv[1:] == ["--serve"]
serving.serve(warm, 8, None if serve else 1)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def runner(library: str) -> Runner:
        (tmp_path / "fake_dqn.py").write_text(FAKE.format(checkout=str(rounds.ROOT), library=library))
        return Runner("fake", "fake x8", "fake_dqn", (), Path(sys.executable))

    return runner


def test_quick_comparison_writes_what_was_measured(tmp_path):
    compare_dqn.main(
        ["--quick", "--frameworks", "jaxai", "--tasks", "cartpole", "--seeds", "1", "--results", str(tmp_path)]
    )
    (file,) = tmp_path.glob("*/dqn.jsonl")
    (line,) = file.read_text().splitlines()
    record = json.loads(line)
    assert record["case"] == "dqn peers cartpole jaxai"
    assert (record["framework"], record["task"], record["seeds"]) == ("jaxai", "CartPole-v1", 1)
    assert "versions" in record["environment"]
    assert record["steps_per_block"] % 10 == 0
    assert record["parameters"] == 4 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2
    assert record["compile_seconds"] > 0
    assert record["bytes_per_transition"] >= 4 * 4 + 1 + 4 + 1
    rate = record["env_steps_per_second_per_chip"]["median"]
    assert math.isclose(record["updates_per_second_per_chip"], rate / 10)
    assert record["jaxai_over_this"]["median"] == 1
    assert any(flag.startswith("quick") for flag in record["flags"])


def test_worker_is_heard_through_what_a_framework_prints(fake):
    worker = Worker(fake("json"))
    try:
        block = worker.block()
    finally:
        worker.close()
    assert worker.about["versions"] == {"fake": "1.0"}
    assert (worker.about["parameters"], worker.about["steps"]) == (7, 30)
    assert block.rate > 0


def test_a_framework_that_is_not_installed_is_left_out_with_a_line(fake, capsys):
    missing: set[str] = set()
    started = rounds.start([fake("surely_not_installed")] * 2, missing, "install it", Console(width=300))
    assert (started, missing) == ([], {"fake"})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("fake is left out: surely_not_installed is not installed")


def test_trainings_side_by_side_are_compared_with_jaxais_and_with_one():
    one = {"jaxai": Block(100, 0), "jaxai x8": Block(180, 0), "rejax": Block(40, 0), "rejax x8": Block(60, 0)}
    about = {"versions": {}, "steps": 10, "ready": 1.0, "parameters": 1, "details": {}}
    worker = SimpleNamespace(name="rejax x8", about=about)
    record = compare_dqn.record("cartpole", worker, [one], [])
    assert record["jaxai_over_this"]["median"] == 3
    assert record["this_over_one_seed"]["median"] == 1.5
    assert (record["framework"], record["seeds"]) == ("rejax", 8)
    assert rounds.ratios([one], "sbx", of="jaxai") == []


def test_only_learners_on_the_device_play_minatar_and_train_many_seeds():
    how = compare_dqn.Comparison()
    single = [("jaxai", 1), ("rejax", 1)]
    many = [("jaxai", 8), ("rejax", 8)]
    assert compare_dqn.learners(how, "breakout") == single + many
    assert compare_dqn.learners(how, "cartpole") == [*single, ("sb3", 1), ("sbx", 1), *many]


def test_every_worker_takes_its_turn_first():
    order = []

    def worker(name):
        return SimpleNamespace(name=name, block=lambda: order.append(name) or Block(1.0, 0.0))

    rounds.alternate([worker("a"), worker("b"), worker("c")], wanted=3, most=9)
    assert "".join(order) == "abcbcacab"


def test_disturbed_rounds_do_not_count_while_enough_others_do():
    calm, disturbed = {"a": Block(1.0, 0.0)}, {"a": Block(1.0, 0.5)}
    assert rounds.choose([calm, disturbed, calm, calm], 3) == ([calm] * 3, [])
    kept, (flag,) = rounds.choose([calm, disturbed, calm], 3)
    assert len(kept) == 3
    assert flag.startswith("other processes took up to 50%")


def test_block_lasts_as_long_as_was_asked_for(monkeypatch):
    now = 0.0

    def run(steps):
        nonlocal now
        now += steps / 1000

    monkeypatch.setattr(dqn_tasks, "time", SimpleNamespace(perf_counter=lambda: now))
    assert dqn_tasks.block_steps(run, 10, 2.0) == pytest.approx(2000, abs=10)


def test_quick_look_trains_the_same_network():
    task = dqn_tasks.TASKS["breakout"]
    assert dataclasses.replace(dqn_tasks.quick(task), capacity=100_000, learning_starts=5_000) == task


@pytest.mark.parametrize(
    ("main", "arguments", "line"),
    [
        (compare_dqn.main, ["--frameworks", "sb4"], "frameworks are jaxai, rejax, sb3, sbx, not sb4"),
        (compare_dqn.main, ["--tasks", "pong"], "tasks are cartpole, breakout, not pong"),
        (compare_dqn.main, ["--rounds", "0"], "rounds is 0; it must be at least 1"),
        (compare_dqn.main, ["--frameworks", "sb3", "--tasks", "breakout"], "none of sb3 plays breakout"),
        (compare_cnn.main, ["--peers-python", "/nowhere"], "peers_python is /nowhere, which is no interpreter"),
        (compare_cnn.main, ["--frameworks", "torhc"], "frameworks are jaxai, torch, keras, flax, not torhc"),
    ],
)
def test_a_mistake_is_answered_in_a_line(main, arguments, line, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert line in capsys.readouterr().err
