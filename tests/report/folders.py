"""Run folders as trainings leave them, written by hand, and the page as a browser would see it."""

import html.parser
import json

import numpy as np

from jaxai import cnn
from jaxai.experiments.generation.metrics import METRICS as GENERATION
from jaxai.experiments.qlearning.metrics import METRICS as QLEARNING
from jaxai.report import pictures, write_report
from jaxai.runtime.timing import declarations

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


def declare(folder, metrics, score, unit="examples", positions=("epoch",)):
    (folder / "metrics.json").write_text(json.dumps(declarations(metrics, score, unit, positions).to_dict()))


def write_run(folder, *, seed=0, learning_rate=1e-3, steps=60, finished=True, note="", declared=True):
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
            metrics.append({"step": step, "epoch": step / 10, "test_loss": loss * 1.1, "test_accuracy": 1 - loss / 2})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    if declared:
        declare(folder, cnn.METRICS, "test_accuracy")
    if finished:
        result = {"test_accuracy": 0.9712 + 0.01 * seed, "test_loss": 0.12, "steps": steps, "seconds": 112.4}
        (folder / "result.json").write_text(json.dumps(result | {"compile_seconds": 2.3, "parameters": 122570}))
    return folder


def write_seeds(folder, *, seeds=5, calls=20, gaps=True, env_steps=True, declared=True):
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
    if declared:
        declare(folder, QLEARNING, "evaluation_return", "env_steps", ("env_steps",) if env_steps else ())
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
    declare(folder, GENERATION, "frechet_distance")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "timing.jsonl").write_text('{"step": 10, "examples_per_second_per_chip": 210.0}\n')
    result = lines[-1] | {"frechet_untrained": 81.0, "steps": steps, "examples_per_second_per_chip": 210.0}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def chart_of(page, title):
    return next(chart for chart in page.split('<figure class="card">')[1:] if f'aria-label="{title}"' in chart)
