"""`jaxai translate` and `evaluate` with the inputs and outputs that a shell gives them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxai.runtime.run_folder import RunFolder
from jaxai.seq2seq import vocabulary

FULL = Path("/dev/full")


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copied")


@pytest.fixture
def unloadable(copied):
    """A run whose checkpoints are gone: what is refused on it was refused before the model was loaded."""
    shutil.rmtree(copied / "checkpoints")
    return copied


@pytest.fixture
def fifo(tmp_path):
    """Makes a pipe with a name that gives bytes to its first reader."""
    writers = []

    def made(name, content):
        path = tmp_path / name
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(content,), daemon=True))
        writers[-1].start()
        return path

    yield made
    for writer in writers:
        writer.join(10)


def refused(jaxai, *arguments, code=2):
    found, out, err = jaxai(*arguments)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1
    return err


LINES = "\ufeffabc\r\nd\u2028cb\n\n \u200b\nab\tdc"


def test_pipes_files_and_standard_input_are_read_alike(trained, tmp_path, jaxai, typed, fifo):
    (tmp_path / "file").write_bytes(LINES.encode())
    code, out, err = jaxai("translate", trained, "--input", tmp_path / "file")
    assert code == 0
    assert len(out.splitlines()) == 5
    assert out.splitlines()[2:4] == ["", ""]
    typed(LINES.encode())
    assert jaxai("translate", trained) == (0, out, err)
    assert jaxai("translate", trained, "--input", fifo("pipe", LINES.encode())) == (0, out, err)
    typed(b"abc\nd cb\n")
    assert jaxai("translate", trained)[1].splitlines() == out.splitlines()[:2]


def test_lines_before_one_that_cannot_be_read_are_translated_where_it_could_not_be_known(trained, jaxai, fifo, typed):
    code, out, err = jaxai("translate", trained, "--input", fifo("pipe", b"abc\ndcb\n\xff\nab\n"))
    assert code == 2
    assert len(out.splitlines()) == 2
    assert "pipe, line 3: not UTF-8 (invalid start byte, byte 0xff); convert it with iconv" in err
    typed(b"abc\ndcb\n\xff\nab\n")  # as a file would be: read to its end first
    assert "standard input, line 3: not UTF-8" in refused(jaxai, "translate", trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--length-penalty", "nan"), "--length-penalty is nan"),
        (("--length-penalty", "-1"), "--length-penalty is -1.0"),
        (("--coverage-penalty", "inf"), "--coverage-penalty is inf"),
        (("--beam", "99"), "beam is 99; it must be at most"),
        (("--beam", "2", "--n-best", "3"), "--n-best is 3; it must be between 1 and 2"),
        (("--method", "sample", "--top-k", "99"), "--top-k is 99; it must be at most"),
        (("--method", "sample", "--temperature", "nan"), "temperature is nan"),
        (("--method", "sample", "--top-p", "0"), "--top-p is 0.0"),
        (("--top-k", "3"), "--top-k has no effect with method beam; give --method sample"),
        (
            ("--method", "greedy", "--beam", "3"),
            "beam has no effect with method greedy; give --method beam",
        ),
        (("--seed", "-1"), "--seed is -1; it must be at least 0"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--input", "FOLDER"), "cannot be read (Is a directory)"),
        (("--input", "FOLDER/no"), "no file"),
        (("--output", "FOLDER"), "is a folder; give a file of translations"),
        (("--output", "FOLDER/no/file"), "for --output; make it first"),
        (("--input", "FOLDER/file", "--output", "FOLDER/file"), "is the input file; give another file"),
        (("--input", "FOLDER/file", "--output", "FOLDER/link"), "is the input file; give another file"),
        (("--input", "FOLDER/mac"), "lines end in a carriage return alone; convert it with tr"),
    ],
)
def test_mistake_is_reported_before_the_model_is_loaded(unloadable, tmp_path, jaxai, typed, arguments, message):
    (tmp_path / "file").write_text("abc\n")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "mac").write_text("abc\rdcb\r")
    typed(b"abc\n")
    arguments = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    assert message in refused(jaxai, "translate", unloadable, *arguments)
    assert (tmp_path / "file").read_text() == "abc\n"


def test_closed_standard_input_and_output_are_reported(unloadable, tmp_path, jaxai, monkeypatch):
    (tmp_path / "file").write_text("abc\n")
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdin", None)
        assert "standard input is closed; give --input FILE" in refused(jaxai, "translate", unloadable)
    monkeypatch.setattr(sys, "stdout", None)
    message = "standard output is closed; give --output FILE"
    assert message in refused(jaxai, "translate", unloadable, "--input", tmp_path / "file")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_full_disk_is_one_line_and_a_failed_run(trained, tmp_path, jaxai):
    (tmp_path / "file").write_text("abc\ndcb\n")
    options = ("translate", trained, "--input", tmp_path / "file")
    message = "(No space left on device); lines translated: 0"
    assert f"cannot write /dev/full {message}" in refused(jaxai, *options, "--output", FULL, code=1)
    program = [sys.executable, "-c", "from jaxai.cli import main; main()", *map(str, options)]
    with FULL.open("w") as full:
        ended = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"jaxai: cannot write standard output {message}\n"


def test_overlong_line_is_cut_where_training_ended_and_named(trained, tmp_path, jaxai):
    """The limit is that of a training batch, tokens.batch, as no pair of the training was longer."""
    (tmp_path / "file").write_text("abc\n" + "dcba" * 100 + "\nab\n")
    code, out, err = jaxai("translate", trained, "--input", tmp_path / "file")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert err == "jaxai: line 2: cut to 127 of 400 tokens\n"


def test_notes_of_many_lines_are_counted(trained, jaxai, typed):
    typed("x\u00e9\n".encode() * 25)
    code, out, err = jaxai("translate", trained)
    assert (code, len(out.splitlines()), len(err.splitlines())) == (0, 25, 21)
    assert err.splitlines()[-1] == "jaxai: further lines with such notes: 5"


def test_evaluation_reads_pipes_and_forgives_empty_lines_at_the_end(trained, tmp_path, jaxai, fifo):
    for name, content in (("source", "abc\ndba\n"), ("reference", "cba\nabd\n")):
        (tmp_path / name).write_text(content)
    files = ("--source", tmp_path / "source", "--reference", tmp_path / "reference")
    assert jaxai("evaluate", trained, *files)[0] == 0
    expected = json.loads((trained / "evaluation.json").read_text())
    del expected["measured_on"]
    assert expected["normalisation"] == "NFC, single spaces, no invisible characters"
    pipes = (
        "--source",
        fifo("pipe.source", b"\xef\xbb\xbfabc\r\ndba\r\n"),
        "--reference",
        fifo("pipe.reference", "cba\nab\u200bd\u00a0\n\n\n".encode()),
    )
    code, out, _ = jaxai("evaluate", trained, *pipes)
    assert code == 0
    assert "normalized in the same way: NFC, single spaces, no invisible characters" in out
    assert expected.items() <= json.loads((trained / "evaluation.json").read_text()).items()
    (tmp_path / "reference").write_text("CBA\nabd\n")
    assert "3 of 6 tokens of the references are not in the target's vocabulary" in jaxai("evaluate", trained, *files)[1]


def test_evaluation_of_files_that_are_not_there_names_its_own_options(unloadable, tmp_path, jaxai):
    (tmp_path / "source").write_text("abc\n")
    files = ("--source", tmp_path / "source", "--reference", tmp_path / "no")
    assert "check --source and --reference" in refused(jaxai, "evaluate", unloadable, *files)
    files = ("--source", tmp_path / "source", "--reference", tmp_path)
    assert "cannot be read (Is a directory)" in refused(jaxai, "evaluate", unloadable, *files)


def changed(run, change):
    """The run with another config.json."""
    content = json.loads((run / "config.json").read_text())
    change(content)
    (run / "config.json").write_text(json.dumps(content))
    return run


def test_evaluation_refuses_decoding_that_cannot_be_before_the_model_is_loaded(unloadable, tmp_path, jaxai):
    (tmp_path / "file").write_text("abc\n")
    run = changed(unloadable, lambda config: config["decoding"].update(beam=99))
    files = ("--source", tmp_path / "file", "--reference", tmp_path / "file")
    assert "decoding.beam is 99; it must be at most" in refused(jaxai, "evaluate", run, *files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["tokens"].update(digests=["a", "b"]), "has other vocabularies than"),
        (lambda config: config["workload"].update(hidden=17), "has another network than"),
    ],
)
def test_ensemble_of_runs_that_differ_is_refused_in_one_line(unloadable, trained, jaxai, typed, change, message):
    typed(b"abc\n")
    assert message in refused(jaxai, "translate", trained, changed(unloadable, change))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no vocabulary file"),
        (lambda path: path.write_bytes(b""), "is no vocabulary file"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "is no vocabulary file"),
        (lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()), "is no vocabulary file"),
        (lambda path: path.write_text("[1, 2]"), "is no vocabulary file"),
        (lambda path: path.write_text("null"), "is no vocabulary file"),
        (lambda path: path.write_text("[" * 100_000), "is no vocabulary file"),
        (lambda path: path.write_text('{"tokens": 3}'), "is no vocabulary file"),
        (lambda path: path.write_text(path.read_text().replace('"a"', '"q"')), "was changed since it was written"),
        (lambda path: vocabulary.build("character", ["xy"]).save(path), "does not belong to"),
    ],
)
@pytest.mark.parametrize("side", ["source", "target"])
def test_damaged_vocabulary_is_one_line_with_the_file(copied, jaxai, typed, side, damage, message):
    path = copied / f"{side}_vocabulary.json"
    damage(path)
    typed(b"abc\n")
    err = refused(jaxai, "translate", copied)
    assert message in err
    assert str(copied) in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--decoding.beam", "99"), "--decoding.beam is 99; it must be at most"),
        (("--decoding.top-k", "99"), "--decoding.top-k is 99; it must be at most"),
        (("--decoding.longest-ratio", "inf"), "--decoding.longest-ratio is inf"),
        (("--attention", "none", "--decoding.coverage-penalty", "0.2"), "--decoding.coverage-penalty is 0.2"),
    ],
)
def test_decoding_that_cannot_be_is_refused_before_training(preset, tmp_path, jaxai, arguments, message):
    code, _, err = jaxai("train", preset, "--workdir", tmp_path / "x", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_validation_targets_that_no_translation_may_reach_are_reported(trained):
    experiment = RunFolder(trained).load_config()
    short = dataclasses.replace(experiment.decoding, longest_ratio=0.0, longest_extra=3)
    corpus = experiment.of_run().corpus
    assert corpus.too_short(experiment.decoding) == []
    (note,) = corpus.too_short(short)
    assert note.endswith("raise decoding.longest_ratio or decoding.longest_extra")
