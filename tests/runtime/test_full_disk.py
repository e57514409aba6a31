"""A disk that is full, broken or read-only: one line that says what was not written and which step is safe."""

import errno
import gc
import io
import json
import os
import shutil
import types
from pathlib import Path

import pytest
from rich.console import Console

from jaxai.cnn import Config
from jaxai.data import Data
from jaxai.experiments.classification.experiment import Experiment
from jaxai.files.unwritten import UnwrittenError, reason
from jaxai.report import write_report
from jaxai.runtime import checkpoint, events
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.seeds import train_seeds

DATA = Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=40, test_examples=20)


def train(workdir, seeds=1, **run):
    network = Config(architecture="mlp", width=8, depth=1)
    where = Run(workdir=str(workdir), devices=1, steps_per_call=5, seeds=seeds, **run)
    experiment = Experiment(network, DATA, epochs=3.0, batch_size=8, run=where)
    train_seeds(experiment, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(workdir)
    return workdir


def full(number):
    """Fails as a write does, with no file's name; as often as it is called."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def fails_on(monkeypatch, method, file, number, after=0):
    """`Path.open` or `Path.write_text` of one file fails from the call of that number on."""
    original, calls = getattr(Path, method), []

    def wrapped(path, *arguments, **keywords):
        if file in path.name:
            calls.append(path)
            if len(calls) > after:
                full(number)()
        return original(path, *arguments, **keywords)

    monkeypatch.setattr(Path, method, wrapped)


def refused(workdir, *parts, seeds=1, **run):
    with pytest.raises(UnwrittenError) as error:
        train(workdir, seeds, **run)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(": make room, and the same command resumes from there")
    for part in parts:
        assert part in message


def assert_goes_on(workdir, whole):
    train(workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (workdir, whole))
    assert one["test_accuracy"] == other["test_accuracy"]
    assert not list(workdir.glob(".*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG])
def test_line_of_metrics(tmp_path, monkeypatch, whole, number):
    with monkeypatch.context() as patch:
        fails_on(patch, "open", "metrics.jsonl", number, after=3)
        refused(tmp_path, f"cannot write {tmp_path / 'metrics.jsonl'}: {os.strerror(number)}; step 5 is safe")
    assert_goes_on(tmp_path, whole)


@pytest.mark.parametrize(
    ("file", "safe"), [("config.json", "no step was saved yet"), ("result.json", "step 15 is safe")]
)
def test_json_file(tmp_path, monkeypatch, whole, file, safe):
    with monkeypatch.context() as patch:
        fails_on(patch, "write_text", file, errno.ENOSPC)
        refused(tmp_path, f"cannot write {tmp_path / file}: No space left on device; {safe}")
    assert_goes_on(tmp_path, whole)


def test_checkpoint_in_the_thread_that_writes_it(tmp_path, monkeypatch, whole, capfd):
    seal, count = checkpoint._seal, []

    def fail_later(folder):
        count.append(folder)
        if len(count) > 3:
            full(errno.ENOSPC)()
        seal(folder)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_seal", fail_later)
        refused(tmp_path, f"cannot write checkpoint {tmp_path}/checkpoints/", "No space left on device; step 5 is safe")
    assert "Traceback" not in "".join(capfd.readouterr())
    assert_goes_on(tmp_path, whole)


def test_checkpoint_that_does_not_fit_is_not_begun(tmp_path, monkeypatch, whole):
    usage, calls = shutil.disk_usage, []

    def nearly_full(path):
        calls.append(path)
        return types.SimpleNamespace(total=10**9, free=1000) if len(calls) > 3 else usage(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", nearly_full)
        refused(tmp_path, "No space left on device: 1,000 bytes are free", "step 5 is safe")
    assert not list(tmp_path.glob("checkpoints/*/*tmp*"))
    assert_goes_on(tmp_path, whole)


def test_picture(tmp_path, monkeypatch, whole):
    from matplotlib.figure import Figure

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", full(errno.ENOSPC))
        refused(tmp_path, f"cannot write {tmp_path}/pictures/confusion_matrix.png: No space left", "step 15 is safe")
    assert_goes_on(tmp_path, whole)


# A writer that cannot flush cannot close its file either.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["write", "flush"])
def test_tensorboard(tmp_path, monkeypatch, whole, method):
    """Its own writer waits for ever once its thread has ended at a full disk."""
    from tensorboardX.record_writer import RecordWriter

    original, calls = getattr(RecordWriter, method), []

    def fail_later(*arguments):
        calls.append(arguments)
        return full(errno.ENOSPC)() if len(calls) > 4 else original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(events, "FLUSH_SECONDS", 0)
        patch.setattr(RecordWriter, method, fail_later)
        refused(tmp_path, f"cannot write {tmp_path}/tensorboard: No space left on device", tensorboard=True)
    gc.collect()  # here, and not in a later test
    assert_goes_on(tmp_path, whole)


def test_seed_that_could_not_be_written_is_named_with_its_folder(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fails_on(patch, "open", "metrics.jsonl", errno.ENOSPC, after=7)
        refused(tmp_path, f"cannot write {tmp_path}/seed-1/metrics.jsonl: No space left", "step 0 is safe", seeds=2)


def test_report_and_evaluation(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    fails_on(monkeypatch, "write_text", "report.html", errno.ENOSPC)
    with pytest.raises(UnwrittenError, match=r"^cannot write \S+/report.html: No space left on device$"):
        write_report([tmp_path / "run"], tmp_path / "report.html")
    fails_on(monkeypatch, "write_text", "evaluation.json", errno.EROFS)
    with pytest.raises(UnwrittenError, match=r"^cannot write \S+/evaluation.json: Read-only file system$"):
        RunFolder(tmp_path / "run").write_json("evaluation.json", {})


PRESET = """
from jaxai.cnn import Config
from jaxai.experiments.classification.experiment import Experiment
from jaxai.data import Data

config = Experiment(
    Config(architecture="mlp", width=8, depth=1),
    Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=40, test_examples=20),
    epochs=3.0,
    batch_size=8,
)
"""


def test_command_line_ends_with_1_and_one_line(tmp_path, jaxai, monkeypatch):
    (tmp_path / "preset.py").write_text(PRESET)
    fails_on(monkeypatch, "open", "timing.jsonl", errno.ENOSPC)
    code, _, err = jaxai("train", tmp_path / "preset.py", "--workdir", tmp_path / "run", "--devices", 1)
    assert code == 1
    assert err.startswith(
        f"jaxai: cannot write {tmp_path / 'run' / 'timing.jsonl'}: No space left on device; step 0 is"
    )
    assert len(err.strip().splitlines()) == 1


def test_reason_is_the_operating_systems_wherever_it_is_in_the_chain():
    tensorstore = ValueError("RESOURCE_EXHAUSTED: Failed to write 3 bytes\nto a file [os_error_code='122']")
    assert reason(tensorstore) == os.strerror(errno.EDQUOT)
    outer = RuntimeError("a thread failed\nfor many reasons")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert reason(outer) == "No space left on device"
    assert reason(RuntimeError("first\nsecond")) == "RuntimeError: first"
