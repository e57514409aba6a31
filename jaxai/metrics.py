"""Declarations of metrics, the rules for names derived from a metric's name, and values as text.

The code that computes a metric declares it. A run writes the declarations to `metrics.json`; the progress line, the
table of results, the report and the choice of the best checkpoint read them.

>>> meanings = Meanings({"loss": Metric("loss", "nats", better="lower"), "recall": Metric("recall", "%")})
>>> meanings.label("best_validation_loss"), meanings.better("best_validation_loss")
('best validation loss', 'lower')
>>> meanings.text("test_recall_std", 0.0123), meanings.text("loss", 0.25)
('1.23 %', '0.25 nats')
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

__all__ = [
    "BEST",
    "FLOOR",
    "LOSS",
    "PER_SEED",
    "SPREAD",
    "Declarations",
    "Meanings",
    "Metric",
    "Name",
    "check",
    "is_number",
]

Better = Literal["higher", "lower"]


class Metric(NamedTuple):
    """The declaration of a metric, by the workload that computes it; progress, report and charts read it.

    It also covers names derived from the metric's: with a split in front (`validation_loss`), with `best_` in front of
    that, and with the suffix of a statistic (`_std`, `_low`, `_high`, `_iqm`, `_mean`, `_per_seed`).

    Attributes:
      label: display name, as `gradient norm`.
      unit: `nats`, `bits`; `%` for a share in [0, 1], which is shown in percent; `s` for seconds, which are shown as a
        time; "" where there is none.
      better: whether higher or lower values are better; None where neither is.
      group: title of the chart that the metrics of one group share; "": a separate chart.
      floor: the value that a perfect model would have, or the name of a metric that measures it, which needs no
        declaration; None: unknown.
      shown: show it in the progress line, and in a tile at the top of the report.
      log: use a logarithmic axis where values are positive and differ by more than a factor of 30.
    """

    label: str
    unit: str = ""
    better: Better | None = None
    group: str = ""
    floor: str | float | None = None
    shown: bool = False
    log: bool = False


LOSS = "loss"
"""The metric for which lower values are better even if it is not declared."""
BEST, FLOOR, PER_SEED = "best_", "_floor", "_per_seed"
SPREAD = ("_std", "_low", "_high", PER_SEED)
"""Suffixes for the spread of a value over seeds or over resamples."""
STATISTICS = {
    PER_SEED: ", each seed",
    "_std": ", standard deviation",
    "_low": ", lower end of its interval",
    "_high": ", upper end of its interval",
    "_iqm": ", interquartile mean",
    "_mean": "",
    FLOOR: ", floor",
}
"""Suffix of a name -> text after the metric's label."""


@dataclasses.dataclass(frozen=True)
class Name:
    """The parts of the name of a value, as `best_validation_loss_std`.

    Attributes:
      metric: name of the metric, `loss`.
      split: the split that it is measured on, `validation`; "" for a metric of training, or without a split.
      statistic: one of `STATISTICS`, `_std`, or "".
      best: whether it is the value of the best evaluation.
    """

    metric: str
    split: str = ""
    statistic: str = ""
    best: bool = False


class Meanings:
    """The meanings of all names derived from declared metrics; the label of an undeclared name is its own words.

    Args:
      metrics: name -> declaration.
      names: further names, without declaration, that are combined with splits and statistics too: with `loss` among
        them, `test_loss` is the loss on the split `test`.
    """

    def __init__(self, metrics: Mapping[str, Metric], names: Iterable[str] = ()):
        self.metrics = dict(metrics)
        self._names = {*names}
        self._floors = {metric.floor: name for name, metric in metrics.items() if isinstance(metric.floor, str)}

    def parse(self, name: str) -> Name:
        """The parts of a name; the metric is the longest one that the name ends with."""
        return self._find(name) or Name(name)

    def metric(self, name: str) -> Metric:
        """The declaration for a name, with the label and direction of that name."""
        parts = self.parse(name)
        metric = self.metrics.get(parts.metric) or _plain(parts.metric)
        words = ["best"] * parts.best + [parts.split.replace("_", " ")] * bool(parts.split) + [metric.label]
        better = metric.better if parts.statistic in ("", "_mean", "_iqm") else None
        return metric._replace(label=" ".join(words) + STATISTICS.get(parts.statistic, ""), better=better)

    def label(self, name: str) -> str:
        """The display name of a metric inside a sentence."""
        return self.metric(name).label

    def heading(self, name: str) -> str:
        """The display name of a metric at the beginning of a line: `Loss`, but `chrF`."""
        label = self.label(name)
        first = label.split(" ")[0]
        return label[:1].upper() + label[1:] if first == first.lower() else label

    def better(self, name: str) -> Better | None:
        """Whether higher or lower values of a metric are better; None where neither is."""
        return self.metric(name).better

    def is_floor(self, name: str) -> bool:
        """Whether a name is the floor of a metric."""
        return name in self._floors or self.parse(name).statistic == FLOOR

    def floors(self, name: str) -> list[str | float]:
        """The floor of a value, or the names of the values that may hold it, the one of the same split first."""
        parts = self.parse(name)
        metric = self.metrics.get(parts.metric)
        if metric is None or metric.floor is None or parts.statistic:
            return []
        if parts.split and isinstance(metric.floor, str):
            return [f"{parts.split}_{metric.floor}", metric.floor]
        return [metric.floor]

    def text(self, name: str, value: Any, percent: bool = True) -> str:
        """A value with its unit: seconds as a time, digits of large numbers in groups of three.

        Args:
          name: of the value.
          value: of any JSON type.
          percent: show shares in percent; False: as in files, between 0 and 1.
        """
        if isinstance(value, list | tuple):
            return ", ".join(self.text(name, item, percent) for item in value)
        if value is None:
            return "none"
        if not (is_number(value) and math.isfinite(value)):
            return str(value)
        unit = self.metric(name).unit
        if unit == "s":
            return _time(value)
        if unit == "%" and isinstance(value, float):  # a whole number under the same name is a count
            return f"{100 * value:.2f} %" if percent else f"{value:.4f}"
        number = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"
        return number if unit in ("", "%") else f"{number} {unit}"

    def shown(self, names: Collection[str]) -> list[str]:
        """The names for the progress line: those declared as shown, or else the first four."""
        return [name for name, metric in self.metrics.items() if metric.shown and name in names] or [*names][:4]

    def _find(self, name: str) -> Name | None:
        if name in self.metrics:
            return Name(name)
        if name in self._floors:
            return Name(self._floors[name], statistic=FLOOR)
        for ending in STATISTICS:
            if name.endswith(ending) and (found := self._find(name.removesuffix(ending))):
                return dataclasses.replace(found, statistic=ending)
        if name.startswith(BEST) and (found := self._find(name.removeprefix(BEST))):
            return dataclasses.replace(found, best=True)
        words = name.split("_")
        for at in range(1, len(words)):
            split, rest = "_".join(words[:at]), "_".join(words[at:])
            if rest in self.metrics or rest in self._names:
                return Name(rest, split)
            if rest in self._floors:
                return Name(self._floors[rest], split, FLOOR)
        return Name(name) if name in self._names else None


@dataclasses.dataclass(frozen=True)
class Declarations:
    """The content of `metrics.json` in a run folder.

    Attributes:
      metrics: declared by the workload and its experiment.
      timing: measured by the training loop.
      score: name of the evaluation metric that the best checkpoint is chosen by; "" where it is not known.
      axis: name of the horizontal axis of charts.
      positions: names of the other values in each line of `metrics.jsonl`, as `epoch`.
    """

    metrics: Mapping[str, Metric]
    timing: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    score: str = ""
    axis: str = "step"
    positions: tuple[str, ...] = ()

    @property
    def meanings(self) -> "Meanings":
        """The meanings of all names of the run."""
        return Meanings({**self.timing, **self.metrics})

    def to_dict(self) -> dict[str, Any]:
        """The content as JSON values; for each metric the fields that differ from their defaults."""
        values: dict[str, Any] = {"score": self.score, "axis": self.axis, "positions": list(self.positions)}
        for part in ("metrics", "timing"):
            values[part] = {name: _fields(metric) for name, metric in getattr(self, part).items()}
        return values

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Declarations":
        """The inverse of `to_dict`; unknown fields are ignored.

        Raises:
          ValueError: a field of another type; one line.
        """
        score, axis, positions = values.get("score", ""), values.get("axis", "step"), values.get("positions", [])
        if not (isinstance(score, str) and isinstance(axis, str) and isinstance(positions, list)):
            raise ValueError("score and axis must be text, positions a list")
        metrics, timing = (_metrics_of(values.get(part, {}), part) for part in ("metrics", "timing"))
        return cls(metrics, timing, score, axis, tuple(map(str, positions)))


def check(metrics: Mapping[str, Metric]) -> None:
    """Checks declarations.

    Raises:
      ValueError: an invalid declaration; one line that names the metric, what was found and what was expected.
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(f"metrics is {metrics!r:.60}; expected a dict as {{'f1': Metric('F1', better='higher')}}")
    for name, metric in metrics.items():
        where = f"metrics[{name!r}]"
        if not isinstance(metric, Metric):
            raise ValueError(f"{where} is {metric!r}, expected a declaration such as Metric('loss', 'nats', 'lower')")
        if not isinstance(metric.label, str) or not metric.label.strip():
            raise ValueError(f"{where} has the label {metric.label!r}, expected a display name")
        if metric.better not in (None, *get_args(Better)):
            raise ValueError(f"{where} has better={metric.better!r}, expected 'higher', 'lower' or None")
        if not isinstance(metric.unit, str) or not isinstance(metric.group, str):
            raise ValueError(f"{where} has unit={metric.unit!r}, group={metric.group!r}, expected text for both")
        if not (metric.floor is None or isinstance(metric.floor, str) or is_number(metric.floor)):
            raise ValueError(f"{where} has floor={metric.floor!r}, expected a number, the name of a metric or None")


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metrics_of(values: Any, part: str) -> dict[str, Metric]:
    if not isinstance(values, dict) or not all(isinstance(fields, dict) for fields in values.values()):
        raise ValueError(f"{part} must be an object with an object for each metric")
    found = {}
    for name, fields in values.items():
        known = {field: value for field, value in fields.items() if field in Metric._fields}
        found[name] = Metric(**({"label": name} | known))
    check(found)
    return found


def _fields(metric: Metric) -> dict[str, Any]:
    defaults = Metric._field_defaults
    return {name: value for name, value in metric._asdict().items() if name not in defaults or value != defaults[name]}


def _plain(name: str) -> Metric:
    words = name.replace("_", " ").replace(".", " ")
    return Metric(words, "s" if words.split(" ")[-1] == "seconds" else "")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.3g} s"
