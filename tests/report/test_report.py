import base64
import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from jaxai.report import curves, pictures, run_record
from jaxai.report.page import write_report
from jaxai.report.run_record import read_run

EVIL = "<script>alert('&')</script>"
VOID = {"meta", "img", "br", "link", "input"}


class Page(html.parser.HTMLParser):
    """What a browser would see: tags, attributes and text; tags must close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self._open
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self.texts.append(data)

    def charts(self):
        return [value for tag, name, value in self.attributes if tag == "svg" and name == "aria-label"]


def write_run(folder, *, seed=0, learning_rate=1e-3, steps=60, finished=True, note=""):
    folder.mkdir(parents=True)
    config = {"optimizer": {"learning_rate": learning_rate, "name": "adam"}, "batch_size": 32, "note": note}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "devices": {"name": "cpu-2core"}}))
    (folder / "command.txt").write_text(f"jaxai train config.py {note}\n")
    metrics, timing = [], []
    for step in range(1, steps + 1):
        loss = 2.3 / step + 0.1 * seed
        metrics.append({"step": step, "epoch": step / 10, "loss": loss, "accuracy": 1 - loss / 3, "grad_norm": loss})
        metrics[-1]["learning_rate"] = learning_rate
        timing.append({"step": step, "examples_per_second_per_chip": 2400.0, "data_wait": 0.01, "seconds": 0.1})
        if step % 20 == 0:
            metrics.append({"step": step, "test_loss": loss * 1.1, "test_accuracy": 1 - loss / 2})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    if finished:
        result = {"test_accuracy": 0.9712 + 0.01 * seed, "test_loss": 0.12, "steps": steps, "seconds": 112.4}
        (folder / "result.json").write_text(json.dumps(result | {"compile_seconds": 2.3, "parameters": 122570}))
    return folder


def write_seeds(folder, *, seeds=5, calls=20, gaps=True, env_steps=True):
    # No episode of seed 1 ends in the first call, and none at all in the ninth.
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    returns = 20.0 * np.arange(1, calls + 1)[:, None] + np.arange(seeds)
    lines = []
    for call, values in enumerate(returns.tolist()):
        step = {"step": 10 * (call + 1)} | ({"env_steps": 100 * (call + 1)} if env_steps else {})
        each = [None if gaps and (call == 8 or (call == 0 and seed == 1)) else at for seed, at in enumerate(values)]
        ended = [value for value in each if value is not None]
        mean = sum(ended) / len(ended) if ended else None
        lines.append(step | {"epsilon": 0.5, "loss": 1.0, "return": mean, "return_per_seed": each})
        if call % 5 == 4:
            evaluation = {"evaluation_return": np.mean(values), "evaluation_return_per_seed": values}
            lines.append(step | evaluation | {f"evaluation_return_{name}": 1.0 for name in ("iqm", "low", "high")})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {"return_mean": 402.0, "return_iqm": 401.5, "return_low": 400.4, "return_high": 403.6, "seeds": seeds}
    result |= {"return_per_seed": returns[-1].tolist(), "env_steps_per_second_per_chip": 97_500.0, "env_steps": 2_000}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_pictures(folder, captions, size=8):
    for file in captions:
        if not file.endswith(".png"):
            continue
        pictures.image_grid(np.zeros((2, size, size, 1), np.uint8), ["a", "b"], folder / "pictures" / file)
    (folder / "pictures" / "captions.json").write_text(json.dumps(captions))


def page_of(runs, tmp_path):
    return Page(write_report(runs, tmp_path / "out" / "report.html").read_text())


def test_one_run_shows_figures_curves_pictures_and_configuration(tmp_path):
    run = write_run(tmp_path / "run")
    write_pictures(run, {"z.png": "First caption", "a.png": "Second caption"})
    page = page_of([run], tmp_path)
    for shown in ("97.12 %", "1 min 52 s", "122,570", "optimizer.learning_rate", "jaxai train config.py", "cpu-2core"):
        assert shown in page.text
    assert page.charts() == [
        *("Loss", "Accuracy", "Learning rate", "Gradient norm"),
        *("Examples/s/chip", "Wait for data"),
    ]
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
    assert "seed-2 99.12 %" in page.text
    assert page.charts()[:2] == ["Loss", "Accuracy"]


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


def test_two_seeds_are_drawn_as_mean_and_range(tmp_path):
    x = np.arange(4)
    values = [np.array([1.0, 2, 3, 4]), np.array([3.0, 2, 1, 0])]
    *thin, mean = curves.seed_curves([(x, values[0]), (x, values[1])], 0, markers=False)
    assert [line.faint for line in thin] == [True, True]
    np.testing.assert_array_equal(mean.y, [2, 2, 2, 2])
    np.testing.assert_array_equal(mean.low, [1, 2, 1, 0])
    np.testing.assert_array_equal(mean.high, [3, 2, 3, 4])


def test_mean_is_over_the_steps_that_all_seeds_have():
    long, short = (np.arange(5), np.arange(5.0)), (np.array([1, 3]), np.array([11.0, 13.0]))
    mean = curves.seed_curves([long, short], 0, markers=False)[-1]
    np.testing.assert_array_equal(mean.x, [1, 3])
    np.testing.assert_array_equal(mean.y, [6, 8])


def test_band_of_many_seeds_is_the_bootstrap_interval_of_their_mean():
    values = np.random.default_rng(0).normal(size=(6, 4))
    *thin, mean = curves.seed_curves([(np.arange(4), row) for row in values], 0, markers=False)
    assert len(thin) == 6
    reference = scipy.stats.bootstrap((values,), np.mean, axis=0, method="percentile", n_resamples=20_000, rng=0)
    np.testing.assert_allclose(mean.low, reference.confidence_interval.low, atol=0.05)
    np.testing.assert_allclose(mean.high, reference.confidence_interval.high, atol=0.05)


def test_more_than_ten_seeds_have_no_lines_of_their_own():
    histories = [(np.arange(4), np.arange(4.0) + seed) for seed in range(11)]
    assert [line.faint for line in curves.seed_curves(histories, 0, markers=False)] == [False]
    assert sum(line.faint for line in curves.seed_curves(histories[:10], 0, markers=False)) == 10


def test_gap_of_a_seed_is_bridged_and_before_its_first_value_the_others_are_the_mean():
    x = np.arange(5)
    late, whole = np.array([np.nan, 10, np.nan, 30, 40]), np.array([0.0, 0, 0, 0, np.nan])
    *thin, mean = curves.seed_curves([(x, late), (x, whole), (x, np.full(5, np.nan))], 0, markers=False)
    assert [line.x.tolist() for line in thin] == [[1, 3, 4], [0, 1, 2, 3]]
    np.testing.assert_array_equal(mean.y, [0, 5, 10, 15, 40])
    np.testing.assert_array_equal(mean.low, [0, 0, 0, 0, 40])
    np.testing.assert_array_equal(mean.high, [0, 10, 20, 30, 40])


def test_mean_of_long_curves_keeps_its_ends_and_its_course():
    x = np.arange(5000)
    mean = curves.seed_curves([(x, x * 1.0), (x, x + 2.0)], 0, markers=False)[-1]
    assert len(mean.x) <= 500
    assert (mean.x[0], mean.x[-1]) == (0, 4999)
    np.testing.assert_allclose(mean.y[50:-50], mean.x[50:-50] + 1)


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
    lines[3] |= {"discarded": lost, "diverged": lost / 5, "diverged_per_seed": [lost, 0, 0, 0, 0]}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    extra = {"Discarded draws", "Diverged"} & set(page_of([run], tmp_path).charts())
    assert len(extra) == (2 if lost else 0)


def test_returns_come_first_and_are_drawn_over_environment_steps(tmp_path):
    page = page_of([write_seeds(tmp_path / "run")], tmp_path)
    assert page.charts() == ["Return", "Evaluation return", "Loss", "Epsilon"]
    assert page.text.count("environment steps") == 4
    assert "step " not in page.text
    assert "95 % bootstrap confidence interval" in page.text
    assert "Left out, for no episode had ended: 6 of the values." in page.text
    page = page_of([write_seeds(tmp_path / "old", env_steps=False)], tmp_path)
    assert "environment steps " not in page.text


def test_figure_of_an_evaluation_alone_keeps_its_whole_name(tmp_path):
    run = write_seeds(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 200, "evaluation_length": 9.5, "q_mean": 1.5, "env_steps": 2000}\n')
    (run / "timing.jsonl").write_text('{"step": 200, "data_wait": 0.0, "env_steps_per_second_per_chip": 9.0}\n')
    charts = page_of([run], tmp_path).charts()
    assert {"Evaluation length", "Mean Q value"} <= set(charts)
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


def test_result_over_seeds_is_shown_with_its_spread_and_no_raw_list(tmp_path):
    text = page_of([write_seeds(tmp_path / "run")], tmp_path).text
    assert "Return 402 95 %: 400.4 to 403.6, 5 seeds" in text
    assert "Return, interquartile mean 401.5" in text
    assert "Environment steps/s/chip 97,500" in text
    assert "return_mean 402 ± 1.581 95 %: 400.4 to 403.6 400, 401, 402, 403, 404" in text
    assert "return_per_seed" not in text
    assert "return_low" not in text


def test_one_seed_has_no_spread(tmp_path):
    text = page_of([write_seeds(tmp_path / "run", seeds=1)], tmp_path).text
    for told in ("±", "95 %", "1 seeds", "Thin"):
        assert told not in text


def test_animation_is_embedded_as_what_it_is(tmp_path):
    run = write_run(tmp_path / "run")
    write_pictures(run, {"a.png": "A", "episode.gif": "One episode"})
    (run / "pictures" / "episode.gif").write_bytes(b"GIF89a" + bytes(100))
    page = page_of([run], tmp_path)
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert [source.split(",")[0] for source in sources] == ["data:image/png;base64", "data:image/gif;base64"]
    assert base64.b64decode(sources[1].split(",")[1]).startswith(b"GIF89a")
    assert "One episode" in page.text


def write_gan(folder, *, seed=0, steps=300):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"loss": "hinge", "batch_size": 64}))
    rng = np.random.default_rng(seed)
    lines, distance, floor = [], 80.0, 0.4
    for step in range(0, steps + 1, 10):
        if step:
            rates = {"generator_learning_rate": 2e-4, "discriminator_learning_rate": 4e-4}
            norms = {"grad_norm": 1.5, "generator_grad_norm": 1.2, "discriminator_grad_norm": 0.9}
            generator, discriminator, real = (
                1.0 + 0.3 * rng.normal(),
                1.1 + 0.1 * rng.normal(),
                0.6 + 0.1 * rng.random(),
            )
            line = {"step": step, "generator_loss": generator, "discriminator_loss": discriminator, "r1": 0.01}
            line |= {"d_real": real, "d_fake": 1 - real, "discriminator_accuracy": 0.8}
            lines.append(line | norms | rates)
        if step % 50 == 0:
            distance = 80 * np.exp(-step / 60) + 1 + 0.1 * seed
            line = {"step": step, "test_d_real": 0.55, "frechet_distance": distance, "frechet_floor": floor}
            line |= {"extractor": "mnist-1a2b3c4d", "inception_score": 9.1, "confident": 0.93, "label_accuracy": 0.97}
            lines.append(line | {"modes_covered": 10, "least_mode": 0.07, "label_shares": [0.1] * 10})
            lines[-1] |= {"precision": 0.7, "recall": 0.5, "density": 1.1, "coverage": 0.8}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "timing.jsonl").write_text('{"step": 10, "examples_per_second_per_chip": 210.0}\n')
    result = lines[-1] | {"frechet_untrained": 81.0, "steps": steps, "examples_per_second_per_chip": 210.0}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def chart_of(page, title):
    return next(chart for chart in page.split('<figure class="card">')[1:] if f'aria-label="{title}"' in chart)


def test_two_networks_and_a_figure_with_its_floor_share_a_chart(tmp_path):
    html_page = write_report([write_gan(tmp_path / "run")], tmp_path / "report.html").read_text()
    charts = Page(html_page).charts()
    assert charts[:2] == ["Fréchet distance", "Losses"]
    assert {"Discriminator&#x27;s view", "Precision and recall", "Density and coverage"} <= {*map(html.escape, charts)}
    assert {"Learning rates", "Gradient norms", "R1 penalty", "Samples labelled as asked"} <= set(charts)
    assert not {"Generator loss", "D(x)", "Recall", "Gradient norm", "Epoch"} & set(charts)
    losses, distance = chart_of(html_page, "Losses"), chart_of(html_page, "Fréchet distance")
    assert re.findall(r"series-(\d)\)\"></i>(\w+)", losses) == [("0", "generator"), ("1", "discriminator")]
    assert "log scale" in distance
    assert "floor: real images" in distance
    view = chart_of(html_page, "Discriminator&#x27;s view")
    assert "D(G(z))" in view
    assert set(re.findall(r">([01]\.\d)</text>", view)) >= {"0.0", "1.0"}


def test_scores_of_a_critic_are_no_probabilities(tmp_path):
    run = write_gan(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 310, "d_real": 30.0, "d_fake": -20.0}\n')
    view = chart_of(write_report([run], tmp_path / "report.html").read_text(), "Discriminator&#x27;s view")
    assert {"20", "\u221220"} <= set(re.findall(r">([\u2212\d]+)</text>", view))


def test_fidelity_is_told_first_with_its_floor_and_its_extractor(tmp_path):
    text = page_of([write_gan(tmp_path / "run")], tmp_path).text
    tiles = text[: text.index("Learning")]
    places = [tiles.index(told) for told in ("Fréchet distance 1.5", "(floor) 0.4", "Extractor mnist-1a2b3c4d")]
    assert places == sorted(places)
    assert "D(x), test" not in tiles


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


def test_warnings_of_a_run_are_told_once_with_the_step_that_they_were_last_said_at(tmp_path):
    run = write_gan(tmp_path / "run")
    said = [(400, "mode collapse"), (500, "other"), (1600, "mode collapse"), *((step, f"w{step}") for step in range(4))]
    lines = [json.dumps({"step": step, "warning": text}) + "\n" for step, text in said]
    (run / "warnings.jsonl").write_text("".join(lines))
    notes = run_record.read_run(run).notes
    assert notes == ["step 1,600: mode collapse", *(f"step {step}: w{step}" for step in range(4))]
    assert "step 1,600: mode collapse" in page_of([run], tmp_path).text


def test_long_line_is_smoothed_and_a_constant_stays_what_it_is():
    x = np.arange(1000)
    behind, strong = curves.seed_curves([(x, np.full(1000, 0.5))], 0, markers=False)
    assert behind.faint
    np.testing.assert_allclose(strong.y, 0.5)
    noise = np.random.default_rng(0).normal(size=1000)
    assert curves.seed_curves([(x, noise)], 0, markers=False)[1].y.std() < 0.4 * noise.std()


def test_seeds_without_a_common_step_are_drawn_beside_another_run(tmp_path):
    for seed, step in enumerate((1, 2)):
        folder = write_run(tmp_path / "many" / f"seed-{seed}", seed=seed)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "entropy": 1.5}) + "\n")
    page = page_of([tmp_path / "many", write_run(tmp_path / "one")], tmp_path)
    assert "Entropy" in page.charts()


def test_several_runs_show_only_what_differs_and_share_their_charts(tmp_path):
    runs = [write_run(tmp_path / name, learning_rate=rate) for name, rate in (("slow", 1e-4), ("fast", 1e-2))]
    page = page_of(runs, tmp_path)
    assert page.charts()[:4] == ["Test loss", "Loss", "Test accuracy", "Accuracy"]
    assert "optimizer.learning_rate 0.0001 0.01" in page.text
    differs = page.text[page.text.index("What differs") : page.text.index("Learning ")]
    assert "batch_size" not in differs
    assert page.text.count("batch_size") == 1
    assert "What differs in the environment" not in page.text


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / parent / "run") for parent in ("one", "two")]
    text = page_of(runs, tmp_path).text
    assert "one/run" in text
    assert "two/run" in text


def test_unfinished_run_says_so(tmp_path):
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
    assert "Left out, for it is not finite: 2 of the values." in page.text
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


def test_pictures_are_png_files(tmp_path):
    line = curves.Curve("training", np.arange(5), np.arange(5.0))
    names = [f"class {index}" for index in range(30)]
    images = np.zeros((5, 8, 12, 3), np.uint8)
    for path in (
        curves.curves([line], tmp_path / "a.png", title="Loss", log=False),
        pictures.confusion_matrix(np.eye(3, dtype=int) * 9, "abc", tmp_path / "b.png"),
        pictures.confusion_matrix(np.zeros((30, 30), int), names, tmp_path / "new" / "c.png"),
        pictures.image_grid(images, list("abcde"), tmp_path / "d.png", columns=3),
        pictures.image_grid(images[:0], [], tmp_path / "e.png"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        pictures.confusion_matrix(np.zeros((2, 3), int), ["a", "b"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="float32"):
        pictures.image_grid(np.zeros((2, 8, 8, 1), np.float32), ["", ""], tmp_path / "a.png")
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        pictures.image_grid(np.zeros((2, 8, 8, 1), np.uint8), [""], tmp_path / "a.png")


def saved_figures(monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    return figures


RATES, DISCOUNTS = [1e-4, 1e-3, 1e-2], [0.9, 0.99]


def test_sweep_of_one_parameter_is_a_line_with_its_band(monkeypatch, tmp_path):
    figures = saved_figures(monkeypatch)
    scores = np.random.default_rng(0).normal(size=(3, 1, 5)) + np.array([1.0, 30, 20])[:, None, None]
    scores[2, 0, 1] = np.nan
    pictures.grid_search({"rate": RATES, "discount": [0.99]}, scores, tmp_path, score="return")
    (panel,) = figures[0].axes
    assert panel.get_xscale() == "log"
    np.testing.assert_allclose(panel.lines[0].get_xydata(), np.stack([RATES, np.nanmean(scores[:, 0], 1)], 1))
    assert len(panel.collections) == 1
    assert [text.get_text() for text in panel.texts] == ["1/5\ndiverged"]
    assert "rate 0.001" in figures[0].get_suptitle()


def test_sweep_of_two_parameters_is_a_map_that_frames_the_best_without_divergence(monkeypatch, tmp_path):
    figures = saved_figures(monkeypatch)
    scores = np.arange(6.0).reshape(3, 2)[..., None] + np.array([-0.5, 0.5])
    scores[2, 1, 0] = np.nan  # the highest, but for its divergence
    scores[0, 0] = np.nan
    pictures.grid_search({"rate": RATES, "discount": DISCOUNTS}, scores, tmp_path)
    (panel,) = figures[0].axes
    shown = [text.get_text() for text in panel.texts]
    assert shown == ["diverged", "1", "2", "3", "4", "5.5\n1 diverged"]
    assert panel.patches[0].get_xy() == (-0.5, 1.5)
    assert "best score 4 at rate 0.01, discount 0.9" in " ".join(figures[0].get_suptitle().split())


def test_sweep_of_more_parameters_has_a_panel_for_each(monkeypatch, tmp_path):
    figures = saved_figures(monkeypatch)
    scores = np.random.default_rng(0).normal(size=(3, 2, 2, 4))
    pictures.grid_search({"rate": RATES, "discount": DISCOUNTS, "epsilon": [0.05, 0.01]}, scores, tmp_path)
    panels = figures[0].axes
    assert [panel.get_xlabel() for panel in panels] == ["rate", "discount", "epsilon"]
    for axis, panel in enumerate(panels):
        best, mean = (line.get_ydata() for line in panel.lines)
        others = tuple({0, 1, 2} - {axis})
        order = slice(None, None, -1 if axis == 2 else 1)  # epsilon was given from high to low
        np.testing.assert_allclose(mean, scores.mean((*others, 3))[order])
        np.testing.assert_allclose(best, scores.mean(3).max(others)[order])


@pytest.mark.parametrize("grid", [(3,), (3, 2), (3, 2, 2), (1,)])
def test_sweep_is_drawn_even_where_every_run_diverged(tmp_path, grid):
    parameters = {f"parameter_{axis}": list(range(count)) for axis, count in enumerate(grid)}
    for scores in (np.full((*grid, 2), np.nan), np.zeros((*grid, 1))):
        assert pictures.grid_search(parameters, scores, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_sweep_refuses_scores_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"\[2, 3\], expected \[3\] for rate") as error:
        pictures.grid_search({"rate": RATES}, np.zeros((2, 3)), tmp_path / "a.png")
    assert "\n" not in str(error.value)


def test_missing_matplotlib_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = write_run(tmp_path / "run")
    for draw in (
        lambda: write_report([run], tmp_path / "report.html"),
        lambda: pictures.confusion_matrix(np.eye(2, dtype=int), "ab", tmp_path / "a.png"),
        lambda: pictures.image_grid(np.zeros((1, 2, 2, 1), np.uint8), ["a"], tmp_path / "a.png"),
    ):
        with pytest.raises(ImportError, match=r"needs matplotlib, which is not installed; .*\.\[demo\]") as error:
            draw()
        assert "\n" not in str(error.value)


def test_matplotlib_is_imported_late_and_never_through_pyplot(tmp_path):
    code = """
import sys
from jaxai.report import pictures, page
assert "matplotlib" not in sys.modules
import numpy as np, pathlib
pictures.confusion_matrix(np.eye(2, dtype=int), "ab", pathlib.Path(sys.argv[1]))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True, timeout=60)
