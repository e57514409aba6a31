import base64
import json
import re

import numpy as np
import pytest

from jaxai.report import run_record, write_report
from jaxai.report.run_record import read_run
from tests.report.folders import Page, chart_of, page_of, write_gan, write_pictures, write_run, write_seeds

EVIL = "<script>alert('&')</script>"


def test_one_run_shows_figures_curves_pictures_and_configuration(tmp_path):
    run = write_run(tmp_path / "run")
    write_pictures(run, {"z.png": "First caption", "a.png": "Second caption"})
    page = page_of([run], tmp_path)
    for shown in ("97.12 %", "1 min 52 s", "122,570", "optimizer.learning_rate", "jaxai train config.py", "cpu-2core"):
        assert shown in page.text
    assert page.charts() == [
        *("Accuracy", "Loss", "Gradient norm", "Learning rate"),
        *("Examples/s/chip", "Wait for data"),
    ]
    assert "Accuracy higher is better training test" in page.text
    assert "Best test accuracy: 98.08 % at step 60." in page.text
    assert "test_loss Test loss lower is better 0.12 nats" in page.text
    assert page.tags.count("img") == 2
    assert page.text.index("First caption") < page.text.index("Second caption")


def test_page_loads_nothing(tmp_path):
    run = write_run(tmp_path / "run")
    write_pictures(run, {"a.png": "A"})
    output = write_report([run], tmp_path / "report.html")
    page = Page(output.read_text())
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data"):
            assert value.startswith(("data:image/png;base64,", "#"))
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", output.read_text())
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_every_string_of_a_run_is_escaped(tmp_path):
    run = write_run(tmp_path / f"run {EVIL.replace('/', '')}", note=EVIL)
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 1, EVIL: 1.0}) + "\n")
    write_pictures(run, {"a.png": EVIL})
    (run / "result.json").write_text(json.dumps({f"test_{EVIL}": 0.5, "test_word": EVIL}))
    for runs in ([run], [run, write_run(tmp_path / "other")]):
        page = page_of(runs, tmp_path)
        assert "script" not in page.tags
        assert EVIL in page.text


def test_seeds_show_mean_and_spread(tmp_path):
    run = tmp_path / "run"
    for seed in range(3):
        write_run(run / f"seed-{seed}", seed=seed)
    result = {"test_accuracy": 0.9812, "test_accuracy_std": 0.0123, "test_accuracy_per_seed": [0.9712, 0.9812, 0.9912]}
    (run / "result.json").write_text(json.dumps(result))
    page = page_of([run], tmp_path)
    assert "98.12 % ± 1.23 %, 3 seeds" in page.text
    assert "seed-0 97.12 %" in page.text
    assert "Bold" not in page.text
    assert "seed-2 99.12 %" in page.text
    assert page.charts()[:2] == ["Accuracy", "Loss"]


def test_seeds_that_are_still_running_show_those_that_are_done(tmp_path):
    run = tmp_path / "run"
    accuracies = [0.9712, 0.9812]
    for seed in range(2):
        write_run(run / f"seed-{seed}", seed=seed)
    write_run(run / "seed-2", finished=False)
    result = read_run(run).result
    assert result["test_accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["test_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "seed-2: The run has not finished" in page_of([run], tmp_path).text


def test_seeds_of_one_program_are_read_from_their_lists(tmp_path):
    run = run_record.read_run(write_seeds(tmp_path / "run"))
    histories = run_record.histories(run, "metrics", "return", "env_steps")
    assert len(histories) == 5
    for seed, (x, y) in enumerate(histories):
        np.testing.assert_array_equal(x, 100 * np.arange(1, 21))
        expected = 20.0 * np.arange(1, 21) + seed
        expected[[0, 8] if seed == 1 else [8]] = np.nan
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("lost", [0.0, 0.25])
def test_lost_draws_and_seeds_have_a_chart_only_where_there_are_some(tmp_path, lost):
    run = write_seeds(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "loss" in line:
            line |= {"discarded": lost, "diverged": lost / 5, "diverged_per_seed": [lost, 0, 0, 0, 0]}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of([run], tmp_path)
    drawn = {"Discarded draws", "Diverged seeds"} & set(page.charts())
    assert len(drawn) == (2 if lost else 0)
    assert ("Always zero, and not drawn: discarded draws, diverged seeds." in page.text) == (not lost)


def test_returns_come_first_and_are_drawn_over_environment_steps(tmp_path):
    page = page_of([write_seeds(tmp_path / "run")], tmp_path)
    assert page.charts() == ["Evaluation return", "Return", "Loss", "Epsilon"]
    assert page.text.count("environment steps") == 4
    assert "step " not in page.text
    assert "95 % bootstrap confidence interval" in page.text
    assert "Left out, because they are missing or not finite: 6 values." in page.text
    page = page_of([write_seeds(tmp_path / "old", env_steps=False)], tmp_path)
    assert "environment steps " not in page.text


def test_figure_of_an_evaluation_alone_keeps_its_whole_name(tmp_path):
    run = write_seeds(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 200, "evaluation_length": 9.5, "q_mean": 1.5, "env_steps": 2000}\n')
    (run / "timing.jsonl").write_text('{"step": 200, "data_wait": 0.0, "env_steps_per_second_per_chip": 9.0}\n')
    charts = page_of([run], tmp_path).charts()
    assert {"Evaluation episode length", "Mean Q value of the actions taken"} <= set(charts)
    assert "Wait for data" not in charts


def test_several_runs_of_many_seeds_show_each_its_band(tmp_path):
    runs = [write_seeds(tmp_path / name, seeds=seeds) for name, seeds in (("few", 3), ("many", 20))]
    output = write_report(runs, tmp_path / "report.html")
    charts = output.read_text().split("<svg ")[1:]
    evaluation = next(chart for chart in charts if 'aria-label="Evaluation return"' in chart)
    bands = re.findall(r"fill: (var\(--series-\d\)); fill-opacity: 0.16", evaluation)
    assert set(bands) == {"var(--series-0)", "var(--series-1)"}
    text = Page(output.read_text()).text
    assert "402 ± 1 95 %: 400.4 to 403.6 400, 401, 402" in text
    assert "20 seeds, 400 to 419" in text


def test_run_of_many_seeds_beside_one_that_counts_no_environment_steps(tmp_path):
    page = page_of([write_seeds(tmp_path / "one"), write_seeds(tmp_path / "two", env_steps=False)], tmp_path)
    assert page.charts()[:2] == ["Evaluation return", "Return"]
    assert "environment steps " not in page.text[page.text.index("Learning") : page.text.index("Diagnostics")]


def test_result_over_seeds_is_shown_with_its_spread_and_no_raw_list(tmp_path):
    text = page_of([write_seeds(tmp_path / "run")], tmp_path).text
    assert "Return 402 95 %: 400.4 to 403.6, 5 seeds" in text
    assert "Return, interquartile mean 401.5" in text
    assert "Environment steps/s/chip 97,500" in text
    assert "return_mean Return higher is better 402 ± 1.581 95 %: 400.4 to 403.6 400, 401, 402, 403, 404" in text
    assert "return_per_seed" not in text
    assert "return_low" not in text


def test_one_seed_has_no_spread(tmp_path):
    text = page_of([write_seeds(tmp_path / "run", seeds=1)], tmp_path).text
    for shown in ("±", "95 %", "1 seeds", "Thin"):
        assert shown not in text


def test_animation_is_embedded_as_what_it_is(tmp_path):
    run = write_run(tmp_path / "run")
    write_pictures(run, {"a.png": "A", "episode.gif": "One episode"})
    (run / "pictures" / "episode.gif").write_bytes(b"GIF89a" + bytes(100))
    page = page_of([run], tmp_path)
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert [source.split(",")[0] for source in sources] == ["data:image/png;base64", "data:image/gif;base64"]
    assert base64.b64decode(sources[1].split(",")[1]).startswith(b"GIF89a")
    assert "One episode" in page.text


def test_two_networks_and_a_figure_with_its_floor_share_a_chart(tmp_path):
    html_page = write_report([write_gan(tmp_path / "run")], tmp_path / "report.html").read_text()
    charts = Page(html_page).charts()
    assert charts[0] == "Fréchet distance"
    assert {"The discriminator's view", "Precision and recall", "Density and coverage", "Losses"} <= {*charts}
    assert {"Learning rates", "Gradient norms", "R1 penalty", "Samples labelled as asked"} <= set(charts)
    assert not {"Generator loss", "D(x)", "Recall", "Gradient norm", "Epoch"} & set(charts)
    losses, distance = chart_of(html_page, "Losses"), chart_of(html_page, "Fréchet distance")
    assert re.findall(r"series-(\d)\)\"></i>(\w+ loss)", losses) == [
        ("0", "generator loss"),
        ("1", "discriminator loss"),
    ]
    assert "lower is better, log scale" in distance
    assert "dashed: Fréchet distance of real images" in distance
    assert "stroke-dasharray" in distance
    view = chart_of(html_page, "The discriminator&#x27;s view")
    assert [name for name in ("D(x)", "D(G(z))", "test D(x)") if f"</i>{name}</span>" in view] == [
        "D(x)",
        "D(G(z))",
        "test D(x)",
    ]


def test_the_score_is_shown_first_with_its_floor_and_what_is_declared_as_text(tmp_path):
    text = page_of([write_gan(tmp_path / "run")], tmp_path).text
    tiles = text[: text.index("Learning")]
    assert "Fréchet distance 1.539 Fréchet distance of real images: 0.4" in tiles
    assert "Extractor mnist-1a2b3c4d" in tiles
    assert "D(x)" not in tiles


def test_runs_side_by_side_have_each_figure_alone_and_name_their_extractors(tmp_path):
    runs = [write_gan(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    page = page_of(runs, tmp_path)
    assert {"Fréchet distance", "Generator loss", "Discriminator loss", "D(x)", "D(G(z))"} <= set(page.charts())
    assert "Losses" not in page.charts()
    assert page.text[: page.text.index("What differs")].count("mnist-1a2b3c4d") == 2


def test_seeds_that_generate_images_have_a_spread(tmp_path):
    for seed in range(3):
        write_gan(tmp_path / "run" / f"seed-{seed}", seed=seed)
    page = page_of([tmp_path / "run"], tmp_path)
    assert "± 0.1, 3 seeds" in page.text[: page.text.index("Learning")]
    assert "Losses" in page.charts()


def test_warnings_of_a_run_are_shown_once_with_the_step_of_the_last_one(tmp_path):
    run = write_gan(tmp_path / "run")
    warned = [
        (400, "mode collapse"),
        (500, "other"),
        (1600, "mode collapse"),
        *((step, f"w{step}") for step in range(4)),
    ]
    lines = [json.dumps({"step": step, "warning": text}) + "\n" for step, text in warned]
    (run / "warnings.jsonl").write_text("".join(lines))
    notes = run_record.read_run(run).notes
    assert notes == ["step 1,600: mode collapse", *(f"step {step}: w{step}" for step in range(4))]
    assert "step 1,600: mode collapse" in page_of([run], tmp_path).text


def test_seeds_without_a_common_step_are_drawn_beside_another_run(tmp_path):
    for seed, step in enumerate((1, 2)):
        folder = write_run(tmp_path / "many" / f"seed-{seed}", seed=seed)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "entropy": 1.5}) + "\n")
    page = page_of([tmp_path / "many", write_run(tmp_path / "one")], tmp_path)
    assert "Entropy" in page.charts()


def test_several_runs_show_only_what_differs_and_share_their_charts(tmp_path):
    runs = [write_run(tmp_path / name, learning_rate=rate) for name, rate in (("slow", 1e-4), ("fast", 1e-2))]
    page = page_of(runs, tmp_path)
    assert page.charts()[:4] == ["Test accuracy", "Accuracy", "Test loss", "Loss"]
    assert "optimizer.learning_rate 0.0001 0.01" in page.text
    differs = page.text[page.text.index("What differs") : page.text.index("Learning ")]
    assert "batch_size" not in differs
    assert page.text.count("batch_size") == 1
    assert "What differs in the environment" not in page.text


def test_runs_of_the_same_name_are_distinguished(tmp_path):
    runs = [write_run(tmp_path / parent / "run") for parent in ("one", "two")]
    text = page_of(runs, tmp_path).text
    assert "one/run" in text
    assert "two/run" in text


def test_unfinished_run_is_reported_as_such(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    assert "has not finished (no result.json): its last logged step is 60." in page_of([run], tmp_path).text


def test_run_that_has_only_begun_is_no_error(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    text = page_of([run], tmp_path).text
    assert "it has logged nothing yet" in text
    assert "No metrics have been logged yet" in text


def test_partial_files_are_read_as_far_as_they_go(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 61, "lo\n{"step": 62, "loss": 0.1}\n{"step": 63, "lo')
    (run / "result.json").write_text('{"test_acc')
    page = page_of([run], tmp_path)
    # The last line is being written, or was when the run was killed.
    assert "metrics.jsonl: 1 line could not be read and were left out; line 64: it is no JSON" in page.text
    assert "its last logged step is 62" in page.text
    assert "result.json could not be read" in page.text
    assert "Loss" in page.charts()


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 61, "loss": null}\n{"step": 62, "loss": NaN}\n')
    page = page_of([run], tmp_path)
    assert "Left out, because they are missing or not finite: 2 values." in page.text
    assert "nan" not in " ".join(str(value) for tag, _, value in page.attributes if tag == "path")


@pytest.mark.parametrize(("make", "missing"), [(False, "no such folder"), (True, "config.json")])
def test_folder_that_is_no_run_is_refused_in_one_line(tmp_path, make, missing):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    with pytest.raises(ValueError, match=missing) as error:
        write_report([folder], tmp_path / "report.html")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_one_folder_has_its_report_inside(tmp_path):
    run = write_run(tmp_path / "run")
    assert write_report(str(run)) == run / "report.html"
    assert Page((run / "report.html").read_text()).charts()


def test_data_of_runs_that_differs_is_shown(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("one", "two")]
    assert "What differs in the data" not in page_of(runs, tmp_path).text
    for run, digest in zip(runs, ("0a1b", "2c3d"), strict=True):
        (run / "data.json").write_text(json.dumps({"source": "x", "splits": {"test": {"digest": digest}}}))
    assert "What differs in the data Field one two splits.test.digest 0a1b 2c3d" in page_of(runs, tmp_path).text


def test_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "report.html")


def test_long_run_with_many_large_pictures_stays_below_two_megabytes(tmp_path):
    run = write_run(tmp_path / "run", steps=20_000)
    (run / "pictures").mkdir()
    for number in range(8):
        (run / "pictures" / f"{number}.png").write_bytes(b"\x89PNG" + bytes(300_000))
    output = write_report([run], tmp_path / "report.html")
    assert output.stat().st_size < 2_000_000
    assert "is too large to embed" in output.read_text()
