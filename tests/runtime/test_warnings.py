import io
import shutil
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai.core import Metric, State, Workload
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Log, Program, Scoring, Training, position_in_epochs

BATCH, STEPS, CALL, EVERY = 8, 40, 5, 10
DISTANCES = {0: 5.0, 10: 3.0, 20: 4.0, 30: 2.0, 40: 6.0}
"""Step -> what the evaluation there measures, whatever was trained."""


@dataclass(frozen=True)
class Line:
    """A configuration as `fit` takes one."""

    changes = None  # every field may change
    run: Run


def make(axis_name):
    def train_step(state, batch):
        loss, grad = jax.value_and_grad(lambda slope: jnp.mean((slope * batch["x"] - batch["x"]) ** 2))(state.params)
        return state.replace(step=state.step + 1, params=state.params - 0.1 * grad), {"loss": loss}

    def eval_step(state, batch):
        return {"slope": batch["mask"].sum() * state.params, "count": batch["mask"].sum()}

    return Workload(lambda key: State(jnp.int32(0), jnp.zeros(()), (), key), train_step, eval_step)


def fit_line(
    workdir, distances=DISTANCES, splits=(), run=(), warnings=lambda values: {}, callbacks=(), better="lower", **hooks
):
    """Returns the outcome and what was shown; the score is the distance."""
    x = np.linspace(-1, 1, BATCH * EVERY, dtype=np.float32)
    settings = {
        "initial": True,
        "measure": lambda mesh, state: {"distance": distances[int(state.step)]},
    }
    training = Training(
        Program(make),
        STEPS,
        Examples({"x": x}, BATCH),
        Scoring(EVERY, "distance", splits=dict(splits), **settings | hooks),
        Log(position=position_in_epochs(EVERY), warnings=warnings),
        metrics={"distance": Metric("distance", better=better)},
    )
    console = Console(file=io.StringIO(), width=200)
    config = Line(Run(**{"workdir": str(workdir), "devices": 1, "steps_per_call": CALL} | dict(run)))
    return fit(training, config, console, callbacks), console.file.getvalue()


def distances_of(workdir):
    return {line["step"]: line["distance"] for line in RunFolder(workdir).lines("metrics.jsonl") if "distance" in line}


def best_checkpoint(workdir):
    return [int(path.name) for path in (workdir / "checkpoints" / "best").iterdir()]


@pytest.mark.parametrize(("better", "best_step"), [("lower", 30), ("higher", 40)])
def test_best_score_is_the_lowest_of_a_distance_and_the_highest_of_the_rest(tmp_path, better, best_step):
    outcome, _ = fit_line(tmp_path / "run", better=better)
    assert distances_of(tmp_path / "run") == DISTANCES
    assert (outcome.result["best_step"], outcome.result["best_distance"]) == (best_step, DISTANCES[best_step])
    assert outcome.result["distance"] == DISTANCES[STEPS]
    assert best_checkpoint(tmp_path / "run") == [best_step]


def test_untrained_state_is_the_best_checkpoint_where_nothing_was_better(tmp_path):
    outcome, _ = fit_line(tmp_path / "run", distances={step: 1.0 + step for step in DISTANCES})
    assert outcome.result["best_step"] == 0
    assert best_checkpoint(tmp_path / "run") == [0]


def test_fresh_state_is_evaluated_only_where_that_is_asked_for(tmp_path):
    fit_line(tmp_path / "run", initial=False)
    assert list(distances_of(tmp_path / "run")) == [10, 20, 30, 40]


def test_patience_counts_from_the_lowest_distance(tmp_path):
    outcome, _ = fit_line(tmp_path / "run", distances=DISTANCES | {20: 3.5, 30: 3.5}, run={"early_stopping": 2})
    assert (outcome.result["best_step"], outcome.result["steps"]) == (10, 30)


def test_measure_sees_the_state_of_each_evaluation_and_stands_beside_the_splits(tmp_path):
    seen = []

    def measure(mesh, state):
        seen.append((mesh.size, int(state.step), float(state.params)))
        return {"distance": 1.0, "by": "a name", "shares": [0.25, 0.75]}

    held_out = {"test": {"x": np.ones(3, np.float32)}}
    outcome, _ = fit_line(tmp_path / "run", measure=measure, splits=held_out, run={"devices": 2})
    lines = [line for line in RunFolder(tmp_path / "run").lines("metrics.jsonl") if "distance" in line]
    assert [each[:2] for each in seen] == [(2, step) for step in DISTANCES]
    assert [line["test_slope"] for line in lines] == pytest.approx([slope for _, _, slope in seen])
    assert seen[0][2] == 0
    assert all(line["by"] == "a name" and line["shares"] == [0.25, 0.75] for line in lines)
    assert outcome.result["by"] == "a name"


@pytest.mark.parametrize("number", [1, 2], ids=["untrained", "half"])
def test_stopped_run_measures_nothing_twice_and_leaves_the_same_lines(tmp_path, signal_at, number):
    measured = []

    def measure(mesh, state):
        measured.append(int(state.step))
        return {"distance": DISTANCES[int(state.step)]}

    whole, _ = fit_line(tmp_path / "whole")
    first, _ = fit_line(tmp_path / "run", measure=measure, callbacks=[signal_at("distance", number)])
    assert first.interrupted == "SIGTERM"
    rest, _ = fit_line(tmp_path / "run", measure=measure)
    fit_line(tmp_path / "run", measure=measure)
    assert measured == list(DISTANCES)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert best_checkpoint(tmp_path / "run") == best_checkpoint(tmp_path / "whole") == [30]
    assert float(rest.state.params) == float(whole.state.params)


def loud(values):
    """Of the calls that end at 10 to 20 and at 35; of the evaluations from step 20 on."""
    if "loss" in values:
        return {"call": f"call {values['step']} has a loss" if values["step"] in (10, 15, 20, 35) else ""}
    return {"measure": f"distance {values['distance']:g}" if values["step"] >= 20 else ""}


SAID = [(10, "call 10 has a loss"), (20, "distance 4"), (35, "call 35 has a loss")]


def warnings_of(workdir):
    return [(line["step"], line["warning"]) for line in RunFolder(workdir).lines("warnings.jsonl")]


def test_a_warning_is_said_once_for_as_long_as_it_goes_on_and_again_when_it_comes_back(tmp_path):
    _, text = fit_line(tmp_path / "run", warnings=loud)
    assert warnings_of(tmp_path / "run") == SAID
    lines = text.splitlines()
    assert [lines.count(f"step {step}: {warning}") for step, warning in SAID] == [1, 1, 1]
    assert sum("has a loss" in line for line in lines) == 2


def test_a_run_that_is_well_leaves_no_file_of_warnings(tmp_path):
    fit_line(tmp_path / "run", warnings=lambda values: {"call": ""})
    assert not (tmp_path / "run" / "warnings.jsonl").exists()


def test_warnings_see_every_call_and_evaluation_with_its_step(tmp_path):
    seen = []
    fit_line(tmp_path / "run", warnings=lambda values: seen.append(dict(values)) or {})
    written = RunFolder(tmp_path / "run").lines("metrics.jsonl")
    assert [values["step"] for values in seen] == [line["step"] for line in written]
    for values, line in zip(seen, written, strict=True):
        assert all(line[name] == pytest.approx(value) for name, value in values.items())


def test_what_went_on_when_a_run_was_stopped_is_not_said_again(tmp_path, signal_at):
    fit_line(tmp_path / "run", warnings=loud, callbacks=[signal_at("distance", 3)])
    assert warnings_of(tmp_path / "run") == SAID[:2]
    _, text = fit_line(tmp_path / "run", warnings=loud)
    assert warnings_of(tmp_path / "run") == SAID
    assert ": distance" not in text


def test_warnings_of_a_future_that_was_given_up_are_forgotten(tmp_path):
    fit_line(tmp_path / "run", warnings=loud)
    # As a kill right before the last checkpoint leaves it.
    shutil.rmtree(tmp_path / "run/checkpoints/latest/40")
    fit_line(tmp_path / "run", warnings=lambda values: {})
    assert warnings_of(tmp_path / "run") == SAID[:2]
