"""`jaxai.train`: a workload of one's own with all that the loop offers."""

import io
import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxai
from jaxai.core import State, Workload
from jaxai.data import arrays
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.run_folder import RunFolder
from jaxai.trained import load
from tests.runtime.logistic import CLASSES, EXAMPLES, OPTIMIZER, TESTED, data, logits, losses, make

STEPS, BATCH = 24, 16
TEST = data(TESTED, seed=1)
ACCURACY = {"accuracy": jaxai.Metric("accuracy", "%", better="higher")}


def train(workdir, workload=make, train_data=None, **options):
    """Returns the outcome and what was shown."""
    console = Console(file=io.StringIO(), width=200)
    defaults = {"steps": STEPS, "batch_size": BATCH, "evaluate_on": TEST, "metrics": ACCURACY, "devices": 1}
    train_data = data() if train_data is None else train_data
    outcome = jaxai.train(workload, train_data, workdir=workdir, console=console, **defaults | options)
    return outcome, console.file.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, *train(workdir)


def test_it_is_the_training_that_one_would_write(finished, tmp_path):
    """In another order of the examples, full batches: gradient descent written in NumPy."""
    outcome, _ = train(tmp_path / "run", batch_size=0, steps=5)
    x, y = data()["x"], np.eye(CLASSES)[data()["y"]]
    w, b = np.zeros((4, CLASSES)), np.zeros(CLASSES)
    for _ in range(5):
        scores = np.exp(x @ w + b)
        errors = scores / scores.sum(1, keepdims=True) - y
        w, b = w - 0.5 * x.T @ errors / EXAMPLES, b - 0.5 * errors.mean(0)
    chex.assert_trees_all_close(outcome.state.params, {"w": w, "b": b}, atol=1e-5)


def test_result_and_history_are_those_of_the_returned_state(finished):
    workdir, outcome, text = finished
    right = np.asarray(logits(outcome.state.params, TEST["x"])).argmax(-1) == TEST["y"]
    assert outcome.result["test_accuracy"] == pytest.approx(right.mean())
    assert outcome.result["test_loss"] == pytest.approx(float(losses(outcome.state.params, TEST).mean()), rel=1e-5)
    assert json.loads((workdir / "result.json").read_text()) == outcome.result
    history = outcome.history
    assert history["step"].tolist() == history["evaluation_step"].tolist() == list(range(4, STEPS + 1, 4))
    assert history["loss"].shape == history["test_accuracy"].shape == history["epoch"].shape == (6,)
    assert history["loss"][-1] < history["loss"][0]
    assert history["test_accuracy"][-1] == outcome.result["test_accuracy"]
    assert outcome.result["best_test_accuracy"] == history["test_accuracy"].max()
    assert "loss" in text
    assert "examples/s/chip" in text


def test_model_card_is_there_after_an_end_and_after_an_interruption(finished):
    text = (finished[0] / "README.md").read_text()
    assert f'run = jaxai.load("{finished[0]}", workload=workload)' in text
    assert f"| train | {EXAMPLES} |" in text
    assert "| `test_accuracy` | test accuracy |" in text
    assert f"`latest` is that of step {STEPS}." in text


def test_a_stopped_run_resumes_and_ends_in_the_same_bits(finished, tmp_path, signal_at):
    first, _ = train(tmp_path / "run", callbacks=[signal_at("test_accuracy", 2)])
    assert first.interrupted == "SIGTERM"
    assert "The training was interrupted at step 8" in (tmp_path / "run/README.md").read_text()
    rest, text = train(tmp_path / "run")
    assert f"continuing at step 8 of {STEPS}" in text
    chex.assert_trees_all_equal(rest.state.replace(key=0), finished[1].state.replace(key=0))
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    chex.assert_trees_all_equal(rest.history, finished[1].history)


@pytest.mark.parametrize(
    ("mode", "workload"), [("jit", make(None)), ("shard_map", make), ("shard_map", make("data")), ("pmap", make)]
)
def test_every_mode_on_two_devices_trains_alike(finished, tmp_path, mode, workload):
    outcome, _ = train(tmp_path / "run", workload, mode=mode, devices=2)
    chex.assert_trees_all_close(outcome.state.params, finished[1].state.params, rtol=1e-5)
    assert outcome.result["test_accuracy"] == finished[1].result["test_accuracy"]
    assert outcome.result["test_loss"] == pytest.approx(finished[1].result["test_loss"], rel=1e-5)


def test_other_data_in_the_same_workdir_is_refused_in_one_line(finished):
    workdir = finished[0]
    before = (workdir / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"other data .*train data: other content.*resume_with_changes=True") as error:
        train(workdir, train_data=data(seed=2))
    assert "\n" not in str(error.value)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_more_steps_continue_only_when_asked_for(finished, tmp_path):
    with pytest.raises(ValueError, match=f"steps: {STEPS} -> {2 * STEPS}"):
        train(finished[0], steps=2 * STEPS)
    train(tmp_path / "run")
    outcome, text = train(tmp_path / "run", steps=STEPS + 8, resume_with_changes=True)
    assert f"continuing at step {STEPS} of {STEPS + 8}" in text
    assert outcome.result["steps"] == STEPS + 8


def test_images_of_jaxai_data_bring_their_own_splits_and_class_names(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 2, 2, 1), np.uint8)
    images = arrays(x, np.arange(40, dtype=np.int32) % CLASSES, x[:9], np.arange(9, dtype=np.int32) % CLASSES)

    def pixels(axis_name):
        def named(batch):
            return batch | {"x": batch["image"].reshape(-1, 4) / 255, "y": batch["label"]}

        one = make(axis_name)
        return one._replace(
            train_step=lambda state, batch: one.train_step(state, named(batch)),
            eval_step=lambda state, batch: one.eval_step(state, named(batch)),
        )

    outcome, _ = train(tmp_path / "run", pixels, images, evaluate_on=None, steps=4)
    assert 0 <= outcome.result["test_accuracy"] <= 1
    assert RunFolder(tmp_path / "run").data()["classes"] == ["0", "1", "2"]


def test_a_workload_that_makes_its_own_data_is_evaluated_on_itself(tmp_path):
    def train_step(state, batch):
        assert batch is None
        return state.replace(step=state.step + 1, params=state.params + 1), {"height": state.params}

    def eval_step(state, batch):
        return {"height": state.params, "count": jnp.float32(1)}

    counter = Workload(lambda key: State(jnp.int32(0), jnp.float32(0), (), key), train_step, eval_step)
    console = Console(file=io.StringIO())
    metrics = {"height": jaxai.Metric("height", "m", better="higher")}
    outcome = jaxai.train(counter, steps=40, workdir=tmp_path / "run", metrics=metrics, console=console)
    assert outcome.result["evaluation_height"] == 40
    assert outcome.result["best_step"] == 40


def test_without_any_evaluation_the_last_state_is_the_best_too(tmp_path):
    outcome, _ = train(tmp_path / "run", evaluate_on=None)
    assert outcome.result["loss"] == pytest.approx(outcome.history["loss"][-1])
    assert "best_step" not in outcome.result
    assert outcome.history["evaluation_step"].tolist() == []
    with Checkpoints(tmp_path / "run/checkpoints") as checkpoints:
        assert checkpoints.steps("best") == [STEPS]


def test_a_step_that_diverges_leaves_a_dump_and_is_named(tmp_path):
    broken = data()
    broken["x"][5, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"non-finite input x of example 5.*run/nonfinite"):
        train(tmp_path / "run", train_data=broken)


def changed(**functions):
    return make()._replace(**functions)


REFUSED = [
    ({"train_data": [1]}, "data is a list; expected a dict of arrays"),
    ({"train_data": {}}, "data is an empty dict"),
    ({"train_data": data() | {"y": np.arange(3)}}, "different lengths (x 64, y 3)"),
    ({"train_data": {"x": ["a", "b"]}}, "data['x'] has dtype <U1; expected numbers"),
    ({"train_data": data() | {"index": np.arange(EXAMPLES)}}, "'index', which is the name of the number of each"),
    ({"train_data": data() | {"y": np.full(EXAMPLES, 2**40)}}, "has the value 1099511627776, which int32 does not"),
    ({"evaluate_on": 3}, "evaluate_on is a int; expected arrays by name"),
    ({"batch_size": 100}, "batch_size is 100; expected 1 to 64"),
    ({"steps": "10"}, "steps is '10'; it must be"),
    ({"mode": "tpu"}, "mode is 'tpu'"),
    ({"seed": -1}, "seed is -1; it must be at least 0"),
    ({"metrics": {"loss": "x"}}, "metrics['loss'] is 'x', expected a declaration"),
    ({"steps": 0}, "steps is 0; it must be at least 1"),
    ({"seeds": 2}, "seeds is no option of jaxai.train"),
    ({"evaluate_evry": 2}, "no option evaluate_evry; did you mean evaluate_every?"),
    ({"score": "test_acuracy"}, "score is 'test_acuracy', which no evaluation has; did you mean test_accuracy?"),
    ({"evaluate_on": None, "early_stopping": 2}, "early_stopping needs a score"),
    ({"mode": "pmap", "devices": 2, "workload": make()}, "was made without an axis name"),
    ({"mode": "jit", "workload": make("other")}, "another axis name than 'data'"),
    ({"workload": 3}, "workload is 3; expected a jaxai.Workload, or a function"),
    ({"workload": lambda axis_name: None}, "a function that returns None; expected a jaxai.Workload"),
    ({"workload": changed(init=lambda key: (3, 4))}, "init returns a tuple; expected a jaxai.State"),
    ({"workload": changed(train_step=lambda state, batch: state)}, "expected (state, metrics)"),
    ({"workload": changed(train_step=lambda state, batch: (state, {}))}, "returns no metrics"),
    (
        {"workload": changed(train_step=lambda state, batch: (state, {"loss": jnp.float32(0)}))},
        "after the first train_step, step is 0; expected state.replace(step=state.step + 1)",
    ),
    (
        {"workload": changed(train_step=lambda state, batch: (state.replace(params={}), {"loss": jnp.float32(0)}))},
        "train_step got state.params['b'] as float32[3] and returns nothing",
    ),
    ({"workload": changed(eval_step=None)}, "the workload has no eval_step"),
    ({"workload": changed(eval_step=lambda state, batch: {"loss": jnp.float32(0)})}, "eval_step returns no count"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_a_mistake_is_named_in_one_line_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        train(tmp_path / "run", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_score_that_no_measure_returns_is_named(tmp_path):
    declared = {"f2": jaxai.Metric("F2", better="higher")}
    with pytest.raises(ValueError, match=r"score is 'f2', which the evaluation has not; expected one of .*f1") as error:
        train(tmp_path / "run", measures=[lambda state: {"f1": 1.0}], score="f2", metrics=declared)
    assert "\n" not in str(error.value)


class Multiples:
    """A feed whose batches follow from the step and from the state."""

    def __init__(self):
        self.example = {"x": np.zeros((BATCH, 4), np.float32), "y": np.zeros(BATCH, np.int32)}
        self.steps, self.closed = [], False

    def next(self, step, state):
        assert int(state.step) == step  # the newest state: the last step's
        self.steps.append(step)
        rows = (np.arange(BATCH) + step * BATCH) % EXAMPLES
        return {"x": data()["x"][rows].astype(np.float32), "y": data()["y"][rows].astype(np.int32)}

    def close(self):
        self.closed = True


def test_a_feed_of_ones_own_is_asked_for_each_step_with_the_newest_state(tmp_path):
    feed = Multiples()
    outcome, _ = train(tmp_path / "run", train_data=feed, steps=6)
    assert (feed.steps, feed.closed) == (list(range(6)), True)
    state, step = make().init(jax.random.key(0)), jax.jit(make().train_step)
    again = Multiples()
    for i in range(6):
        state, _ = step(state, again.next(i, state))
    chex.assert_trees_all_close(outcome.state.params, state.params, rtol=1e-6)
    assert outcome.state.opt_state == OPTIMIZER.init(None)


def test_a_batch_unlike_the_feeds_example_is_named(tmp_path):
    feed = Multiples()
    feed.next = lambda step, state: {"x": np.zeros((BATCH, 4)), "y": np.zeros(BATCH, np.int32)}
    with pytest.raises(ValueError, match=r"batch of step 0 is x float64\[16, 4\], .*example is x float32\[16, 4\]"):
        train(tmp_path / "run", train_data=feed)


def test_commands_and_load_ask_for_the_workload(finished, jaxai):
    code, _, err = jaxai("evaluate", finished[0])
    assert code == 2
    assert "is a run of jaxai.train, which has no evaluate; it has report and replay" in err
    code, _, err = jaxai("replay", finished[0])
    assert code == 2
    assert "is a run of jaxai.train, whose workload only its own program has" in err
    with pytest.raises(ValueError, match=r"give it, as in jaxai\.load"):
        load(finished[0])
    assert load(finished[0], workload=make).predict(TEST["x"]).shape == (TESTED, CLASSES)


def test_jaxai_report_reads_such_a_run(finished, jaxai):
    assert jaxai("report", finished[0])[0] == 0
    page = (finished[0] / "report.html").read_text()
    assert "test accuracy" in page.lower()
