"""From a preset to translations: what a user types, on strings to reverse that are learnt in seconds."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys

import chex
import jax
import pytest

from jaxai.data import Data
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime.config import to_dict
from jaxai.runtime.run_folder import RunFolder
from jaxai.trained import load


def test_model_card_states_vocabularies_and_its_lines_translate(trained):
    text = (trained / "README.md").read_text()
    for part in (
        "# Encoder-decoder for transformation",
        "| train | 300 |",
        "Vocabularies: `source_vocabulary.json` (",
        "| `exact_match` |",
        f"jaxai translate {trained} --input sentences.txt",
    ):
        assert part in text
    exec(text.split("```python\n")[1].split("```")[0], scope := {})
    assert len(scope["translations"]) == 1


def test_run_leaves_scores_examples_and_pictures(trained):
    result = json.loads((trained / "result.json").read_text())
    assert 0 <= result["exact_match_low"] <= result["exact_match"] <= result["exact_match_high"] <= 1
    assert result["target_tokens_per_second_per_chip"] > 0
    assert result["flops_per_target_token"] > 0
    lines = RunFolder(trained).lines("metrics.jsonl")
    assert {"loss", "token_accuracy", "grad_norm"} <= lines[0].keys()
    assert any("validation_perplexity" in line and "validation_exact_match" in line for line in lines)
    page = (trained / "report.html").read_text()
    for shown in ("Translations of the test set", "Attention: a row for each output token", "Exact match"):
        assert shown in page


def test_same_run_in_two_parts_leaves_the_same_bytes(trained, preset, tmp_path, jaxai, monkeypatch):
    from jaxai.runtime.plan import Plan

    whole = Plan.calls

    def first_half(self, first):
        for start, steps in whole(self, first):
            yield start, steps
            if start + steps >= 20:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Plan, "calls", first_half)
        assert jaxai("train", preset, "--workdir", tmp_path / "b")[0] == 130
    assert jaxai("train", preset, "--workdir", tmp_path / "b")[0] == 0
    assert (tmp_path / "b/metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


def test_translations_come_line_by_line_and_do_not_depend_on_the_batch(trained, tmp_path, jaxai, typed):
    lines = ["abc", "dcba", "", "bd"]
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(lines) + "\n")
    code, out, _ = jaxai("translate", trained, "--input", file)
    assert code == 0
    assert len(out.splitlines()) == 4
    assert out.splitlines()[2] == ""
    for size in (1, 3):
        typed(file.read_bytes())
        assert jaxai("translate", trained, "--batch-size", size)[1] == out
    assert jaxai("translate", trained, "--input", file, "--output", tmp_path / "out.txt")[0] == 0
    assert (tmp_path / "out.txt").read_text() == out


def test_n_best_with_scores_are_ranked(trained, typed, jaxai):
    typed(b"abcd\n")
    code, out, _ = jaxai("translate", trained, "--n-best", "3", "--scores")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    scores = [float(row[0]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(float(row[1]) < 0 and len(row) == 3 for row in rows)
    assert len({row[2] for row in rows}) == 3


def test_greedy_and_sampling_by_choice(trained, typed, jaxai):
    typed(b"abcd\n")
    assert jaxai("translate", trained, "--method", "greedy")[0] == 0
    drawn = []
    for seed in (0, 0, 1):
        typed(b"abcd\nbdca\n" * 3)
        drawn.append(jaxai("translate", trained, "--method", "sample", "--seed", seed, "--temperature", "2")[1])
    assert drawn[0] == drawn[1] != drawn[2]


def test_unknown_characters_are_reported_in_words(trained, typed, jaxai):
    typed("ab\u00e9c\n".encode())
    code, _, err = jaxai("translate", trained)
    assert code == 0
    assert "line 1: 1 of 4 tokens are not in the vocabulary" in err


def test_sources_beyond_the_longest_are_cut_and_reported(trained):
    experiment = RunFolder(trained).load_config()
    short = dataclasses.replace(experiment, tokens=dataclasses.replace(experiment.tokens, longest_source=3))
    translator = short.of_run().trained().translator()
    (cut,), (whole,) = translator.translate(["abcd", "ab"])
    assert cut.note == "cut to 2 of 4 tokens"
    assert cut.text == whole.text
    assert translator.cut == 1


def test_evaluation_scores_files_and_ensembles(trained, tmp_path, jaxai):
    (tmp_path / "source").write_text("abc\ndba\n")
    (tmp_path / "reference").write_text("cba\nabd\n")
    files = ("--source", tmp_path / "source", "--reference", tmp_path / "reference")
    code, out, _ = jaxai("evaluate", trained, *files)
    assert code == 0
    assert "exact_match" in out
    assert json.loads((trained / "evaluation.json").read_text())["sentences"] == 2
    alone = json.loads((trained / "evaluation.json").read_text())
    assert jaxai("evaluate", trained, *files, "--ensemble", trained)[0] == 0
    # The mean of the probabilities of a model and itself are its own.
    assert json.loads((trained / "evaluation.json").read_text()) == alone


def test_run_that_may_not_be_written_is_evaluated(trained, jaxai, monkeypatch):
    def refused(self, file, values):
        raise PermissionError(13, "Permission denied", str(self.path / file))

    monkeypatch.setattr(RunFolder, "write_json", refused)
    code, out, err = jaxai("evaluate", trained)
    assert code == 0
    assert "exact_match" in out
    assert err == f"jaxai: {trained} may not be written: the metrics are not saved in evaluation.json\n"


def test_ensemble_with_a_run_of_another_kind_is_refused(trained, tmp_path, jaxai):
    config = to_dict(Experiment(data=Data("synthetic")))
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, err = jaxai("evaluate", trained, "--ensemble", tmp_path)
    assert (code, err) == (2, f"jaxai: {tmp_path} has no translator; give runs of translation\n")


def test_average_of_both_checkpoints_translates(trained, typed, jaxai):
    best, latest, mean = (load(trained, which).params for which in ("best", "latest", "average"))
    chex.assert_trees_all_close(mean, jax.tree.map(lambda a, b: (a + b) / 2, best, latest), atol=1e-6)
    typed(b"abc\n")
    assert jaxai("translate", trained, "--checkpoint", "average")[0] == 0


def test_reader_that_goes_away_leaves_no_traceback(trained):
    program = [
        sys.executable,
        "-c",
        "from jaxai.cli import main; main()",
        "translate",
        str(trained),
        "--batch-size",
        "1",
    ]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(b"abc\n" * 3, timeout=120)
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copied")


def test_vocabulary_of_another_run_is_refused(copied, typed, jaxai):
    from jaxai.seq2seq import vocabulary

    vocabulary.build("character", ["xyz"]).save(copied / "source_vocabulary.json")
    typed(b"abc\n")
    code, _, err = jaxai("translate", copied)
    assert code == 2
    assert "does not belong to" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--attention", "luong"), "general"),
        (("--tokens.batch", "3"), "tokens.batch is 3, too few for the training source of 5 tokens in pair"),
        (("--tokens.longest-source", "1"), "--tokens.longest-source is 1"),
        (("--tokens.joint", "--tokens.target-kind", "word"), "tokens.joint is on"),
        (("--epochs", "0"), "epochs is 0"),
        (("--data.source", "dutch"), "no text source dutch"),
    ],
)
def test_mistake_is_one_line(preset, tmp_path, jaxai, arguments, message):
    code, _, err = jaxai("train", preset, "--workdir", tmp_path / "x", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (("--method", "greedy", "--n-best", "2"), b"a\n", "--n-best is 2, but greedy finds one"),
        (("--beam", "0"), b"a\n", "beam is 0"),
        (("--n-best", "0"), b"a\n", "--n-best is 0"),
        ((), b"a\n\xff\n", "standard input, line 2: not UTF-8"),
        (("--input", "no file nowhere.txt"), b"", "no file nowhere.txt"),
    ],
)
def test_mistake_in_translating_is_one_line(trained, typed, jaxai, arguments, content, message):
    typed(content)
    code, _, err = jaxai("translate", trained, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_files_that_do_not_fit_are_reported(trained, tmp_path, jaxai):
    (tmp_path / "source").write_text("abc\ndba\n")
    (tmp_path / "reference").write_text("cba\n")
    code, _, err = jaxai("evaluate", trained, "--source", tmp_path / "source", "--reference", tmp_path / "reference")
    assert code == 2
    assert "has 2 lines" in err
    assert jaxai("evaluate", trained, "--source", tmp_path / "source")[0] == 2


def test_modes_agree(preset, tmp_path, jaxai):
    params = {}
    for mode in ("jit", "pmap"):  # `trained` is a run under shard_map
        folder = tmp_path / mode
        options = ("--dropout", "0", "--epochs", "1", "--mode", mode)
        assert jaxai("train", preset, "--workdir", folder, *options)[0] == 0
        params[mode] = RunFolder(folder).load_config().of_run().restore("latest").params
    chex.assert_trees_all_close(params["jit"], params["pmap"], atol=1e-4)


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tokens.batch", "64"], "--tokens.batch: 128 -> 64 cannot change"),
        (["--hidden", "8"], "--hidden: 16 -> 8 cannot change"),
        (["--data.seed", "5"], "--data.seed: 0 -> 5 cannot change"),
        (["--data.source", "dates"], "--data.source: reverse -> dates cannot change"),
        (["--optimizer.name", "sgd"], "--optimizer.name: adam -> sgd cannot change"),
        (["--epochs", "2"], "and this configuration ends at step"),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
def test_refused_change_leaves_every_byte_as_it_was(trained, preset, jaxai, options, words):
    before = snapshot(trained)
    code, _, err = jaxai("train", preset, "--workdir", trained, *options, "--resume-with-changes")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert snapshot(trained) == before


def test_finished_run_with_another_test_set_is_measured_again(trained, tmp_path, monkeypatch):
    from rich.console import Console

    folder = shutil.copytree(trained, tmp_path / "run")
    experiment, quiet = RunFolder(folder).load_config(), Console(file=io.StringIO(), width=300)
    experiment = dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, workdir=str(folder)))
    pairs, old = experiment.load(), json.loads((folder / "result.json").read_text())
    # Answers that nobody could give.
    test = pairs.test._replace(targets=tuple(f"{source}{source}x" for source in pairs.test.sources), references=None)
    hard, before = dataclasses.replace(pairs, test=test), snapshot(folder)
    with pytest.raises(ValueError, match=r"holds a run with other data \(test data: other content\)"):
        experiment.bind(hard, quiet).train(quiet)
    assert snapshot(folder) == before
    changed = dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, resume_with_changes=True))
    monkeypatch.setattr("jaxai.experiments.translation.experiment.draw", lambda *_: None)
    changed.bind(hard, quiet).train(quiet)
    result, found = json.loads((folder / "result.json").read_text()), experiment.of_run(hard).evaluate(quiet)
    assert result["character_error_rate"] == found["character_error_rate"] != old["character_error_rate"]
    assert (result["best_step"], result["validation_loss"]) == (old["best_step"], old["validation_loss"])
    assert result["measured_on"] == found["measured_on"] != old["measured_on"]


def test_run_of_an_earlier_version_translates_and_resumes(trained, preset, copied, typed, jaxai):
    """Its config.json has `compute_dtype`, which is called `dtype` now."""
    path = copied / "config.json"
    path.write_text(path.read_text().replace('"dtype"', '"compute_dtype"'))
    assert '"compute_dtype"' in path.read_text()
    typed(b"abc\n")
    code, now, _ = jaxai("translate", trained)
    typed(b"abc\n")
    assert jaxai("translate", copied)[:2] == (code, now)
    code, out, err = jaxai("train", preset, "--workdir", copied)
    assert (code, err) == (0, "")
    assert "compute_dtype" not in out
