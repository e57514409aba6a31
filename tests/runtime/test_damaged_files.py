"""Files of a run folder damaged in many ways: one line that names the file, what is wrong and what to do."""

import io
import json
import logging
import shutil

import numpy as np
import pytest
from rich.console import Console

from jaxai.cnn import Config
from jaxai.data import Data
from jaxai.experiments.classification.experiment import Experiment
from jaxai.files.array_files import read_arrays
from jaxai.files.json_files import read_lines, read_object
from jaxai.report.run_record import read_run
from jaxai.runtime import config as configs
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder

DATA = Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=40, test_examples=20)


def train(workdir):
    network = Config(architecture="mlp", width=8, depth=1)
    run = Run(workdir=str(workdir), devices=1, steps_per_call=5)
    return Experiment(network, DATA, epochs=2.0, batch_size=8, run=run).bind().train(Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(workdir)
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def one_line(error, file, *parts):
    message = str(error.value)
    assert "\n" not in message
    assert str(file) in message
    for part in parts:
        assert part in message
    # After what is wrong comes what to do.
    assert ";" in message.partition(str(file))[2]


WAYS = {
    "empty": (lambda good: b"", "it is empty"),
    "blank": (lambda good: b"\n\n", "it is empty"),
    "cut off": (lambda good: good[: len(good) // 2], "it is no JSON at line"),
    "list": (lambda good: b"[1, 2]", "it holds [1, 2]"),
    "number": (lambda good: b"3", "it holds 3"),
    "null": (lambda good: b"null", "it holds None"),
    "text": (lambda good: b'"text"', "it holds 'text'"),
    "no UTF-8": (lambda good: good.replace(b"e", b"\xe9", 1), "it is not UTF-8 at byte"),
    "NUL": (lambda good: good[:20] + bytes(9) + good[20:], "it has NUL bytes from byte 20"),
    "deep": (lambda good: b'{"a":' + b"[" * 100_000, "it is nested too deeply"),
    "deep and whole": (lambda good: b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", "it is nested too deeply"),
    "twice": (lambda good: b'{"a": 1, "a": 2}', "it has 'a' twice"),
    "a folder": (None, "Is a directory"),
}


@pytest.mark.parametrize("way", WAYS)
def test_object_that_is_damaged_is_named_with_what_is_wrong_and_what_to_do(tmp_path, way):
    change, expected = WAYS[way]
    file = tmp_path / "result.json"
    if change is None:
        file.mkdir()
    else:
        file.write_bytes(change(json.dumps({"test_accuracy": 0.5, "steps": 20}).encode()))
    with pytest.raises(ValueError, match="cannot read") as error:
        read_object(file)
    one_line(error, file, expected, "delete it")


@pytest.mark.parametrize("file", ["config.json", "data.json", "result.json"])
@pytest.mark.parametrize("way", ["empty", "list", "deep and whole"])
def test_training_stops_at_a_damaged_file_before_anything_is_written(run, file, way):
    (run / file).write_bytes(WAYS[way][0](b""))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="cannot read") as error:
        train(run)
    one_line(error, run / file, WAYS[way][1])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [{}, {"splits": {"train": 3}}, {"splits": {"train": {"digest": 1, "examples": 2}}}])
def test_data_of_another_form_is_damage(run, content):
    (run / "data.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it lacks splits and classes") as error:
        train(run)
    one_line(error, run / "data.json", "delete it")


def test_a_line_in_the_middle_stops_the_training_and_drops_nothing(run):
    file = run / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for damaged, expected in (
        (lines[0][:15] + b"\n", "no JSON"),
        (bytes(40) + b"\n", "NUL bytes"),
        (b"[]\n", "holds []"),
    ):
        content = b"".join([damaged, *lines[1:]])
        file.write_bytes(content)
        with pytest.raises(ValueError, match="cannot read line 1 of") as error:
            train(run)
        one_line(error, file, expected, f"sed -i 1d {file}")
        assert file.read_bytes() == content
    # What the message says to do helps.
    file.write_bytes(b"".join(lines[1:]))
    train(run)
    assert file.read_bytes() == b"".join(lines[1:])


@pytest.mark.parametrize("rest", [b'{"step": 30, "lo', b'{"step": 30, "a": [1', b"{", bytes(30)])
def test_a_last_line_that_was_not_finished_is_left_out_without_a_word(tmp_path, rest):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 10, "loss": 1.5}\n' + rest)
    assert read_lines(file) == [{"step": 10, "loss": 1.5}]


@pytest.mark.parametrize(
    "content", [b"[]", b"3", b"{}", b"null", bytes(30), b"\xef\xbb\xbf{}", b'{"step": -1}', b'{"step": true}']
)
def test_a_last_line_that_is_no_beginning_of_one_is_damage(tmp_path, content):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read line 1 of") as error:
        read_lines(file)
    one_line(error, file)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("metrics.jsonl", "test_accuracy", "high"),
        ("metrics.jsonl", "loss", [1.0]),
        ("timing.jsonl", "elapsed", "long"),
        ("timing.jsonl", "examples_per_second_per_chip", {}),
    ],
)
def test_a_value_of_another_type_is_named_before_training_goes_on(run, file, field, value):
    lines = [json.loads(line) for line in (run / file).read_text().splitlines()]
    last = [line for line in lines if field in line][-1]
    last[field] = value
    (run / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="cannot continue with") as error:
        train(run)
    one_line(error, run / file, f"at step {last['step']} {field} is {value!r}")


def test_metrics_that_were_emptied_are_said_and_measured_again(run, caplog):
    (run / "metrics.jsonl").write_text("")
    with caplog.at_level(logging.WARNING):
        outcome = train(run)
    assert "metrics.jsonl has no line up to step 10" in caplog.text
    assert "test_accuracy" in outcome.result


@pytest.mark.parametrize(
    "change",
    [
        lambda good: b"",
        lambda good: good[: len(good) // 2],
        lambda good: b"text",
        lambda good: bytes(40),
        lambda good: good[:60] + b"!!!!" + good[64:],
        lambda good: b"\x93NUMPY" + good[6:],
        lambda good: b"\x80\x04K\x01.",
        None,
    ],
    ids=["empty", "cut off", "text", "NUL", "changed", "npy", "pickle", "folder"],
)
def test_damaged_arrays_are_named_in_one_line(tmp_path, change):
    path = tmp_path / "reference.npz"
    np.savez(path, mean=np.arange(100.0))
    with pytest.raises(ValueError, match="it has no array extractor; delete it"):
        read_arrays(path, "delete it", "mean", "extractor")
    np.testing.assert_array_equal(read_arrays(path, "", "mean")["mean"], np.arange(100.0))
    good = path.read_bytes()
    path.unlink()
    path.mkdir() if change is None else path.write_bytes(change(good))
    with pytest.raises(ValueError, match="cannot read") as error:
        read_arrays(path, "delete it", "mean")
    one_line(error, path, "delete it")


def test_byte_order_mark_and_line_ends_of_an_editor_are_no_damage(run):
    values, lines = read_object(run / "config.json"), read_lines(run / "metrics.jsonl")
    for file in ("config.json", "metrics.jsonl"):
        edited = b"\xef\xbb\xbf" + (run / file).read_bytes().replace(b"\n", b"\r\n")
        (run / file).write_bytes(edited)
    assert read_object(run / "config.json") == values
    assert read_lines(run / "metrics.jsonl") == lines


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "file",
    ["result.json", "environment.json", "data.json", "metrics.jsonl", "warnings.jsonl", "pictures/captions.json"],
)
def test_report_says_what_it_could_not_read_and_shows_the_rest(run, caplog, file, way):
    change, _ = WAYS[way]
    path = run / file
    good = path.read_bytes() if path.exists() else b'{"step": 1, "warning": "w"}\n'
    path.unlink(missing_ok=True)
    if change is None:
        path.mkdir()
    else:
        path.write_bytes(change(good))
    notes = [note for note in read_run(run).notes if "could not be read" in note]
    shown = [message for message in caplog.messages if "could not be read" in message]
    # An empty file of lines has none; half of one is a line that was not finished.
    if not (file.endswith(".jsonl") and way in ("empty", "cut off", "deep")):
        assert len(notes) == 1
        assert notes[0].startswith(path.name)
        assert len(shown) == 1
        assert shown[0].startswith(str(path))
        assert "\n" not in shown[0]


@pytest.mark.parametrize(
    "kind",
    [
        "os:system",
        "builtins:dict",
        "jaxai.cnn:Config",
        "jaxai.experiments.classification.experiment:nothing",
        "jaxai.experiments.classification.experiment:Experiment",
        "jaxai",
        "",
        3,
        None,
        ["a"],
    ],
)
def test_type_names_only_what_jaxai_trains(run, kind):
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | {"type": kind}))
    with pytest.raises(ValueError, match=r"which jaxai does not know; expected one of .*classification") as error:
        RunFolder(run).load_config()
    one_line(error, run / "config.json", f"type is {kind!r}")


def test_nothing_is_imported_because_a_file_names_it(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "config.json").write_text('{"type": "trap:Experiment"}')
    with pytest.raises(ValueError, match="type is 'trap:Experiment'"):
        RunFolder(tmp_path).load_config()


class Own(Experiment):
    """A user's class."""


def test_type_that_the_user_passes_is_known(tmp_path):
    values = configs.to_dict(Own(epochs=3.0))
    RunFolder(tmp_path).write_json("config.json", values)
    with pytest.raises(ValueError, match=":Own', which jaxai does not know"):
        RunFolder(tmp_path).load_config()
    found = RunFolder(tmp_path).load_config(Own)
    assert isinstance(found, Own)
    assert found.epochs == 3.0


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("epochs", "ten", "epochs is 'ten'"),
        ("batch_size", 1.5, "batch_size is 1.5"),
        ("batch_size", [8], "batch_size is (8,)"),
        ("workload", 3, "workload is 3"),
        ("data", None, "data is None"),
        ("run.seed", -1, "seed is -1"),
        ("run.workdir", {}, "workdir is {}"),
        ("workload.image_shape", 8, "image_shape is 8"),
        ("workload.optimizer.learning_rate", "fast", "optimizer.learning_rate is 'fast'"),
        ("workload.optimizer", [], "optimizer is ()"),
        ("workload.wings", 2, "has no field 'wings'"),
    ],
)
def test_field_of_another_type_is_named(run, path, value, expected):
    values = json.loads((run / "config.json").read_text())
    *parents, last = path.split(".")
    inside = values
    for parent in parents:
        inside = inside[parent]
    inside[last] = value
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="cannot read") as error:
        RunFolder(run).load_config()
    one_line(error, run / "config.json", expected)
