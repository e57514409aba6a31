"""Reports of a workload that nobody knows, and of runs that declare nothing."""

import io
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai.core import Metric, State, Workload
from jaxai.report import write_report
from jaxai.report.run_record import read_run
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.training import Examples, Log, Program, Scoring, Training
from tests.report.folders import chart_of, declare, page_of, write_run, write_seeds

ORBITS = {
    "drift": Metric("energy drift", "meV/ps", better="lower", floor="drift_of_reference", shown=True, log=True),
    "found": Metric("orbits found", "%", better="higher", floor=0.96),
    "pull": Metric("pull of the sun", "mN", group="Pulls"),
    "drag": Metric("drag of the dust", "mN", group="Pulls"),
}


def write_orbits(folder, *, scale=1.0, metrics=ORBITS):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    lines = []
    for step in range(1, 41):
        lines.append({"step": step, "lap": step / 20, "drift": scale * 50 / step**2, "pull": 1.0, "drag": 2.0 + step})
        if step % 10 == 0:
            line = {"step": step, "lap": step / 20, "far_drift": scale * 80 / step**2, "far_found": 0.9 - 0.001 * step}
            lines.append(line | {"far_drift_of_reference": 0.01})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    timing = [{"step": step, "laps_per_second_per_chip": 3.0 + step} for step in range(1, 41)]
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    declare(folder, metrics, "far_drift", "laps", ("lap",))
    best = {"best_far_drift": 0.05 * scale, "laps_per_second_per_chip": 20.0, "seconds": 61.0}
    (folder / "result.json").write_text(json.dumps(lines[-1] | best))
    return folder


def test_report_of_an_unknown_workload_has_its_labels_units_and_groups(tmp_path):
    page = page_of([write_orbits(tmp_path / "run")], tmp_path)
    assert page.charts() == [
        *("Energy drift", "Far orbits found", "Pulls", "Laps/s/chip"),
    ]
    tiles = page.text[: page.text.index("Learning")]
    assert "Far energy drift 0.05 meV/ps far energy drift, floor: 0.01 meV/ps" in tiles
    assert "Far orbits found 86.00 % floor: 96.00 %" in tiles
    assert "Laps/s/chip 20 Time 1 min 01 s" in tiles
    assert "far_found Far orbits found higher is better 86.00 %" in page.text


def test_charts_of_an_unknown_workload_show_floor_best_and_scale(tmp_path):
    page = write_report([write_orbits(tmp_path / "run")], tmp_path / "report.html").read_text()
    drift, found, pulls = (chart_of(page, title) for title in ("Energy drift", "Far orbits found", "Pulls"))
    assert "meV/ps, lower is better, log scale" in drift
    assert "</i>training</span>" in drift
    assert "</i>far</span>" in drift
    assert "dashed: far energy drift, floor" in drift
    assert "Best far energy drift: 0.05 meV/ps at step 40." in drift
    assert "96 %" in found
    assert "dashed: floor: 96.00 %" in found
    assert "Best: 89.00 % at step 10." in found
    assert "mN" in pulls
    assert "better" not in pulls
    assert "</i>drag of the dust</span>" in pulls


def test_evaluations_after_every_call_are_still_those_with_the_score(tmp_path):
    run = write_run(tmp_path / "run")
    lines = [{"step": 0, "epoch": 0.0, "best_guess": 0.2, "test_accuracy": 0.1}]
    for step in (1, 2, 3):
        lines += [{"step": step, "epoch": 1.0, "loss": 1.0 / step}]
        lines += [{"step": step, "epoch": 1.0, "best_guess": 0.2 + step, "test_accuracy": 0.1 + step / 10}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(run).measured == {"best_guess", "test_accuracy"}


def test_the_best_of_several_runs_is_bold_in_the_direction_that_is_declared(tmp_path):
    runs = [write_orbits(tmp_path / name, scale=scale) for name, scale in (("good", 1.0), ("bad", 3.0))]
    page = write_report(runs, tmp_path / "report.html").read_text()
    assert "<b>0.05 meV/ps</b>" in page
    assert "<b>0.15 meV/ps</b>" not in page
    assert "<b>86.00 %</b>" not in page  # both have it


def test_runs_of_different_workloads_are_compared_by_what_they_share(tmp_path):
    runs = [write_orbits(tmp_path / "orbits"), write_run(tmp_path / "digits"), write_seeds(tmp_path / "returns")]
    page = page_of(runs, tmp_path)
    assert {"Far energy drift", "Test accuracy", "Evaluation return"} <= set(page.charts())
    results = page.text[page.text.index("Results") : page.text.index("What differs")]
    assert "97.12 %" in results
    assert "0.05 meV/ps" in results


def test_metrics_of_one_label_have_a_chart_each(tmp_path):
    same = ORBITS | {"pull": Metric("force"), "drag": Metric("force")}
    for runs in (["one"], ["two", "three"]):
        page = page_of([write_orbits(tmp_path / name, metrics=same) for name in runs], tmp_path)
        assert page.charts().count("Force") == 2


def test_a_name_that_two_workloads_declare_otherwise_has_no_common_unit_or_direction(tmp_path):
    other = ORBITS | {"found": Metric("lost", "nats", better="lower")}
    runs = [write_orbits(tmp_path / "one"), write_orbits(tmp_path / "two", metrics=other)]
    assert "Far orbits found</h3>" in write_report(runs, tmp_path / "report.html").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"metrics": 3}', '{"metrics": {"drift": {"better": "down"}}}'])
def test_damaged_declarations_are_named_and_the_names_alone_are_used(tmp_path, text):
    run = write_orbits(tmp_path / "run")
    (run / "metrics.json").write_text(text)
    page = page_of([run], tmp_path)
    assert "metrics.json could not be read: " in page.text
    assert "Drift" in page.charts()


@dataclass(frozen=True)
class Config:
    """A configuration as `fit` takes one."""

    run: Run


def line(axis_name):
    def train_step(state, batch):
        error, gradient = jax.value_and_grad(lambda slope: jnp.mean((slope - 3) ** 2 * batch["x"] ** 2))(state.params)
        return state.replace(step=state.step + 1, params=state.params - 0.2 * gradient), {"error": error, "odd": error}

    def eval_step(state, batch):
        return {"error": (batch["mask"] * (state.params - 3) ** 2).sum(), "count": batch["mask"].sum()}

    return Workload(lambda key: State(jnp.int32(0), jnp.zeros(()), (), key), train_step, eval_step)


def test_a_workload_of_ones_own_trained_by_the_loop_has_a_right_report(tmp_path):
    x = np.linspace(-1, 1, 32, dtype=np.float32)
    training = Training(
        Program(line),
        steps=12,
        data=Examples({"x": x}, 8),
        scoring=Scoring(every=4, score="held_out_error", splits={"held_out": {"x": x}}),
        log=Log(unit="points"),
        metrics={"error": Metric("squared error", "m^2", better="lower", shown=True)},
    )
    console = Console(file=io.StringIO(), width=200)
    fit(training, Config(Run(workdir=str(tmp_path / "run"), devices=1, steps_per_call=2)), console)
    shown = console.file.getvalue()
    assert "squared error" in shown
    assert "m^2" in shown
    assert "odd" not in shown
    page = page_of([tmp_path / "run"], tmp_path)
    assert [title for title in page.charts() if title != "Wait for data"] == ["Squared error", "Odd", "Points/s/chip"]
    assert "Held out squared error" in page.text[: page.text.index("Learning")]
    assert "Squared error m^2, lower is better" in page.text


def without_declarations(folder, **settings):
    write = write_seeds if "seeds" in folder.name else write_run
    return write(folder, declared=False, **settings)


def test_a_run_of_version_0_1_is_reported_by_the_names_of_its_figures(tmp_path):
    run = without_declarations(tmp_path / "run")
    page = page_of([run], tmp_path)
    assert page.charts() == [
        *("Loss", "Accuracy", "Grad norm", "Learning rate"),
        *("Examples per second per chip", "Data wait"),
    ]
    assert "training test" in page.text
    tiles = page.text[: page.text.index("Learning")]
    assert "Test accuracy 0.9712 Test loss 0.12 Seconds 1 min 52 s Compile seconds 2.3 s" in tiles
    assert read_run(run).positions("metrics") == {"step", "epoch"}


def test_a_run_of_version_0_1_with_many_seeds_keeps_its_spread(tmp_path):
    page = page_of([without_declarations(tmp_path / "seeds")], tmp_path)
    assert {"Return", "Evaluation return"} <= set(page.charts())
    assert not {"Env steps", "Evaluation return iqm"} & set(page.charts())
    assert "Return 402 95 %: 400.4 to 403.6, 5 seeds" in page.text[: page.text.index("Learning")]


def test_runs_with_and_without_declarations_are_compared(tmp_path):
    runs = [without_declarations(tmp_path / "old"), write_run(tmp_path / "new")]
    page = page_of(runs, tmp_path)
    assert "Test accuracy" in page.charts()
    assert page.text.count("97.12 %") == 2


def test_model_card_and_data_are_on_the_page(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "README.md").write_text("# Digits <b>& more</b>\n")
    (run / "data.json").write_text(json.dumps({"source": "digits", "classes": [str(c) for c in range(60)]}))
    page = page_of([run], tmp_path)
    assert "# Digits <b>& more</b>" in page.text
    assert "source digits" in page.text
    assert "49 and 10 more" in page.text
