import json
from types import SimpleNamespace

import pytest

from benchmarks.peers import compare_gan, serving

# Dense without bias, three times scale and bias, three transposed convolutions, of which the last has a bias.
GENERATOR = 100 * 12544 + 2 * (256 + 128 + 64) + 25 * (256 * 128 + 128 * 64 + 64) + 1
DISCRIMINATOR = 25 * (1 * 64 + 64 * 128) + 64 + 128 + 7 * 7 * 128 + 1


@pytest.fixture
def served(monkeypatch):
    def run(*options: str, build) -> list[int]:
        steps: list[int] = []
        monkeypatch.setattr("sys.argv", ["script", *options, "--blocks", "1"])
        monkeypatch.setattr(serving, "write", lambda line: None)
        serving.main(lambda batch_size, most: serving.Trainer(lambda number: build(steps, number), 1, {}))
        return steps

    return run


def test_comparison_writes_what_was_measured(tmp_path):
    quick = ["--batch-sizes", "2", "--steps", "2", "--rounds", "1", "--most-rounds", "1"]
    compare_gan.main(["--frameworks", "jaxai", *quick, "--results", str(tmp_path)])
    (file,) = tmp_path.glob("*/peers_gan.jsonl")
    (line,) = file.read_text().splitlines()
    record = json.loads(line)
    assert record["case"] == "peers gan jaxai batch=2"
    assert (record["framework"], record["batch_size"]) == ("jaxai", 2)
    assert record["parameters"] == GENERATOR + DISCRIMINATOR
    assert record["examples_per_second_per_chip"]["median"] > 0
    assert record["jaxai_over_this"]["median"] == 1


def test_a_slow_framework_gets_fewer_steps(served, monkeypatch):
    now = 0.0

    def build(steps, number):
        nonlocal now
        steps.append(number)
        now += 3.0 * number

    monkeypatch.setattr(serving.time, "perf_counter", lambda: now)
    assert served("--steps", "20", "--seconds", "10", build=build) == [1, 1, 3, 3]


def test_block_has_the_steps_that_were_asked_for_where_no_time_is_given(served):
    assert served("--steps", "20", build=list.append) == [20, 20, 20]


def test_networks_of_different_size_are_refused(capsys):
    workers = [SimpleNamespace(name=name, about={"parameters": count}) for name, count in (("a", 7), ("b", 7))]
    compare_gan.refuse_unequal(workers)
    workers.append(SimpleNamespace(name="c", about={"parameters": 8000}))
    with pytest.raises(SystemExit) as stopped:
        compare_gan.refuse_unequal(workers)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "compare_gan: the frameworks' networks differ in parameters: a 7, b 7, c 8,000\n"


def test_an_unknown_framework_is_answered_in_a_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        compare_gan.main(["--frameworks", "torhc"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "compare_gan: frameworks are jaxai, torch, keras, flax, flax-scan, not torhc\n"
