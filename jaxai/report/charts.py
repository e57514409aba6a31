"""The charts of a report: cards with curves over a run, of one run, of its seeds, or of several runs side by side."""

from collections.abc import Container, Iterable, Sequence
from html import escape

import numpy as np

from jaxai.report.curves import THIN_LINES, Curve, curves_svg, seed_curves
from jaxai.report.pictures import PALETTE
from jaxai.report.run_record import PER_SEED, SPLITS, Record, Run, histories, is_number, is_per_seed
from jaxai.report.wording import is_measured, is_share, split_of, words

GROUPS = {
    "Fréchet distance": {"frechet_distance": "samples", "frechet_floor": "floor: real images"},
    "Kernel distance": {"kernel_distance": "samples", "kernel_distance_floor": "floor: real images"},
    "Inception score": {"inception_score": "samples", "inception_score_floor": "real images"},
    "Labels covered": {"modes_covered": "samples", "modes_covered_floor": "real images"},
    "Share of the rarest label": {"least_mode": "samples", "least_mode_floor": "real images"},
    "Labelled as asked": {"label_accuracy": "samples", "label_accuracy_floor": "real images, as labelled"},
    "Sure of its label": {"confident": "samples", "confident_floor": "real images"},
    "Losses": {"generator_loss": "generator", "discriminator_loss": "discriminator"},
    "Discriminator's view": {"d_real": "D(x)", "d_fake": "D(G(z))", "test_d_real": "D(x), test"},
    "Precision and recall": {"precision": "precision", "recall": "recall"},
    "Density and coverage": {"density": "density", "coverage": "coverage"},
    "Penalties": {"gradient_penalty": "gradient penalty", "r1": "R1"},
    "Learning rates": {"generator_learning_rate": "generator", "discriminator_learning_rate": "discriminator"},
    "Gradient norms": {
        "generator_grad_norm": "generator",
        "discriminator_grad_norm": "discriminator",
        "grad_norm": "both",
    },
}
"""Figures that one run has in one chart: title -> key -> name of the line. One alone has its own name."""
OPTIMISATION = ("learning_rate", *GROUPS["Learning rates"], *GROUPS["Gradient norms"])
VIEW = "Discriminator's view"
SPEED = (
    "env_steps_per_second_per_chip",
    "target_tokens_per_second_per_chip",
    "examples_per_second_per_chip",
    "data_wait",
    "mfu",
)
CLOCKS = ("step", "epoch", "seconds", "time", "env_steps")
QUIET = ("discarded", "diverged")
"""Figures that have a chart only where they are not 0 all the time."""
SUMMARIES = ("_iqm", "_low", "_high")
"""What an evaluation tells beside its mean over seeds; the band of a chart says it better."""


def charts(runs: Sequence[Run]) -> list[str]:
    """Sections of charts. One run has training and test in one chart; several have a chart for each figure."""
    several = len(runs) > 1
    members = [seed for run in runs for seed in run.seeds or [run]]
    keys = _keys(seed.metrics for seed in members)
    seeds = {key for key in keys for run in members if any(_over_seeds(record, key) for record in run.metrics)}
    first = ("return", "frechet", "bleu", "word_error", "exact_match", "loss", "accuracy")
    keys.sort(key=lambda key: ([word not in key for word in first], several and not split_of(key)))
    alone = set(keys) if several else {key for key in keys if {key, key.removeprefix(split_of(key))} & seeds}
    learning, optimisation = (
        [_chart(title, group, runs, "metrics") for title, group in _grouped(part, alone).items()]
        for part in (
            [key for key in keys if key not in OPTIMISATION],
            [key for key in OPTIMISATION if key in keys],
        )
    )
    timed = _keys(seed.timing for seed in members)
    if not any(line.get("data_wait") for seed in members for line in seed.timing):
        timed = [key for key in timed if key != "data_wait"]  # a workload that makes its own data waits for none
    speed = [_chart(key, [key], runs, "timing") for key in SPEED if key in timed]
    explained = "" if several else "Strong: running mean. Faint: each logged value."
    if seeds or any(run.seeds for run in runs):
        explained = "Strong: mean over the seeds. Band: its 95 % bootstrap confidence interval."
        explained += "" if several else f" Thin: each seed, where they are no more than {THIN_LINES}."
        explained += " Lines of many points are running means."
    legend = "".join(swatch(index, run.label) for index, run in enumerate(runs)) if several else ""
    above = f'<p class="legend">{legend}</p><p class="muted">{explained}</p>'
    return [
        section("Learning", (above + grid(learning)) if learning else "<p>No metrics have been logged yet.</p>"),
        section("Optimisation", grid(optimisation)),
        section("Speed", grid(speed)),
    ]


def _grouped(keys: Iterable[str], alone: Container[str]) -> dict[str, list[str]]:
    """Title -> what is in one chart. A figure in `alone` has one for itself, as a band and its seeds fill one."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        together = next((title for title, names in GROUPS.items() if key in names), key.removeprefix(split_of(key)))
        groups.setdefault(key if key in alone else together, []).append(key)
    for title in groups.keys() & GROUPS.keys():
        groups[title].sort(key=list(GROUPS[title]).index)
    return {title if len(group) > 1 else group[0]: group for title, group in groups.items()}


def _chart(title: str, keys: Sequence[str], runs: Sequence[Run], source: str) -> str:
    """One chart as a card. `source`: the field of a run, metrics or timing, that the keys are looked up in."""
    clock = _clock(keys, runs, source)
    lines: list[Curve] = []
    lost = 0
    for index, run in enumerate(runs):
        for key in keys:
            found = histories(run, source, key, clock)
            lost += sum(int(np.isnan(y).sum()) for _, y in found)
            colour = index if len(runs) > 1 else _series(title, key)
            lines += seed_curves(found, colour, markers=is_measured(key))
    if len(runs) > 1:
        lines = [line for line in lines if not line.faint] or lines
    if not lines:
        return ""
    low, high = min(float(line.y.min()) for line in lines), max(float(line.y.max()) for line in lines)
    spread = any(word in key for key in keys for word in ("loss", "norm", "distance"))
    log = spread and low > 0 and high > 30 * low
    svg = curves_svg(
        lines,
        title=words(title),
        x_label=words(clock).lower(),
        percent=all(map(is_share, keys)),
        log=log,
        # A score, as some losses have it, is no probability and goes where it likes.
        limits=(0, 1) if set(keys) <= set(GROUPS[VIEW]) and low >= 0 and high <= 1 else None,
    )
    named = GROUPS.get(title, {})
    names = [swatch(_series(title, key), named.get(key) or split_of(key)[:-1] or "training") for key in keys]
    legend = f"<span>{''.join(names)}</span>" if len(keys) > 1 else ""
    note = ""
    if lost:
        of_episodes = ("return" in title or "episode" in title) and not split_of(title)
        why = "no episode had ended" if of_episodes else "it is not finite"
        note = f'<p class="muted">Left out, for {why}: {lost:,} of the values.</p>'
    scale = ' <span class="muted">log scale</span>' if log else ""
    heading = f"<figcaption><h3>{escape(words(title))}{scale}</h3>{legend}</figcaption>"
    return f'<figure class="card">{heading}{svg}{note}</figure>'


def _over_seeds(record: Record, key: str) -> bool:
    return is_per_seed(record, key) and len(record[key + PER_SEED]) > 1


def _clock(keys: Sequence[str], runs: Sequence[Run], source: str) -> str:
    """Environment steps where every line that has a figure counts them, else steps."""
    records = (record for run in runs for seed in run.seeds or [run] for record in getattr(seed, source))
    told = [record for record in records if any(key in record or is_per_seed(record, key) for key in keys)]
    return "env_steps" if all(is_number(record.get("env_steps")) for record in told) else "step"


def _keys(lines: Iterable[list[Record]]) -> list[str]:
    """Names of the figures that have a value somewhere, those of lists over seeds without `_per_seed`."""
    found: dict[str, None] = {}
    for records in lines:
        for record in records:
            for key, value in record.items():
                if key.removesuffix(PER_SEED) in QUIET and not (any(value) if isinstance(value, list) else value):
                    continue
                if is_number(value):
                    found[key] = None
                elif key.endswith(PER_SEED) and isinstance(value, list) and any(map(is_number, value)):
                    found[key.removesuffix(PER_SEED)] = None
    summaries = {key + suffix for key in found for suffix in SUMMARIES}
    return [key for key in found if key not in CLOCKS and key not in summaries]


def _series(title: str, key: str) -> int:
    """Colour of a figure where there is one run: its place in its group, or training, test, validation, evaluation."""
    return list(GROUPS[title]).index(key) if title in GROUPS else ("", *SPLITS).index(split_of(key))


def section(title: str, content: str) -> str:
    """A part of the page under a heading; nothing where there is no content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def grid(cards: Iterable[str], kind: str = "charts") -> str:
    """Cards beside each other; nothing where there is none."""
    together = "".join(cards)
    return f'<div class="{kind}">{together}</div>' if together else ""


def swatch(series: int, label: str) -> str:
    """A name with its colour."""
    colour = f"var(--series-{series % len(PALETTE)})"
    return f'<span class="swatch"><i style="background:{colour}"></i>{escape(label)}</span>'
