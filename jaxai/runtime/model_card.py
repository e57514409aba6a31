"""The model card of a run: `README.md` in its folder, plain Markdown with the front matter of the Hugging Face Hub.

It is written from the files of the run folder and the facts that the experiment provides, so that this module does not
depend on a workload.
"""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxai.core import PyTree
from jaxai.files.json_files import read_lines
from jaxai.metrics import Meanings, Metric
from jaxai.runtime.run_folder import RunFolder

logger = logging.getLogger(__name__)

MOST_CLASSES = 100
"""Largest number of class names in the card; `data.json` has all of them."""
MOST_MODULES = 30
"""Largest number of rows in the table of modules."""
MOST_COMMANDS = 5
"""Largest number of commands in the card, the last ones of `command.txt`."""
LIBRARIES = ("jaxai", "jax", "flax", "optax", "numpy")


@dataclass(frozen=True)
class Model:
    """The facts of a trained model that an experiment provides.

    Attributes:
      kind: title, such as "Image classifier".
      network: its architecture, in a line.
      params: its trained parameters, by module; arrays or their shapes.
      inputs: name -> shape, dtype and range.
      outputs: name -> shape, dtype and range.
      usage: lines of Python, in which `run` is `jaxai.load(...)`.
      arguments: of `jaxai.load` after the folder, as `workload=workload`; "": none are needed.
      commands: lines for the shell; RUN is replaced by the folder.
      pipeline: the task's name on the Hugging Face Hub, as `image-classification`.
      tags: further search words.
      vocabularies: files of the run folder that hold vocabularies -> number of their tokens.
      data: description, for a workload that generates its own data; otherwise `data.json` has it.
    """

    kind: str
    network: str
    params: PyTree
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    usage: Sequence[str] = ()
    arguments: str = ""
    commands: Sequence[str] = ()
    pipeline: str = ""
    tags: Sequence[str] = ()
    vocabularies: Mapping[str, int] = field(default_factory=dict)
    data: str = ""


def of_arrays(params: PyTree, data: Mapping[str, Any] | None, arguments: str, commands: Sequence[str]) -> Model:
    """The facts of a user's workload, without a description of what it computes.

    Args:
      params: trained parameters.
      data: its description, see `jaxai.data.named_arrays`; None for a workload that generates its own data.
      arguments: see `Model`.
      commands: see `Model`.
    """
    features = (data or {}).get("features", {})
    return Model(
        kind="Model of a custom workload",
        network="The workload is not in this folder; it is needed to load the model",
        params=params,
        inputs={
            name: f"[{', '.join(map(str, ('examples', *feature['shape'])))}] {feature['dtype']}"
            for name, feature in features.items()
        },
        usage=("outputs = run.predict(inputs)",),
        arguments=arguments,
        commands=commands,
    )


def write(folder: RunFolder, model: Model, interrupted: bool = False) -> None:
    """Writes `README.md`; if that fails, it logs a warning, because the run is complete without it.

    Args:
      folder: of the run, with what the training wrote.
      model: the facts that the experiment provides.
      interrupted: whether the training was stopped before its end.
    """
    try:
        folder.write_text("README.md", text(folder, model, interrupted))
    except (OSError, ValueError, KeyError) as error:
        logger.warning("no model card in %s: %s", folder.path, " ".join(str(error).split()))


def text(folder: RunFolder, model: Model, interrupted: bool = False) -> str:
    """The text of the model card.

    Args:
      folder: of the run, with what the training wrote.
      model: the facts that the experiment provides.
      interrupted: whether the training was stopped before its end.
    """
    parts = [_front_matter(model), *_opening(folder, model, interrupted), *_data(folder, model)]
    parts += [*_results(folder, interrupted), *_use(folder, model), *_training(folder)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(model: Model) -> str:
    lines = ["library_name: jaxai", *([f"pipeline_tag: {model.pipeline}"] if model.pipeline else []), "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in ("jax", "flax", *model.tags)), "---"])


def _opening(folder: RunFolder, model: Model, interrupted: bool) -> list[str]:
    sizes = _sizes(model.params)
    step = max((line["step"] for line in read_lines(folder.path / "metrics.jsonl")), default=0)
    state = f"The training was interrupted at step {step:,}; the command below continues it." if interrupted else ""
    forms = [("input", name, what) for name, what in model.inputs.items()]
    forms += [("output", name, what) for name, what in model.outputs.items()]
    modules = [*((name, f"{number:,}") for name, number in sizes.items()), ("all", f"{sum(sizes.values()):,}")]
    return [
        f"# {model.kind}",
        f"{model.network}.",
        state,
        _table(("", "name", "form"), forms),
        _table(("module", "parameters"), modules),
    ]


def _sizes(params: PyTree) -> dict[str, int]:
    """Module -> number of its parameters; parent modules if there are too many for the table."""
    for depth in (2, 1):
        found: dict[str, int] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            name = jax.tree_util.keystr(path[:-1][:depth] or path, simple=True, separator="/")
            found[name] = found.get(name, 0) + leaf.size
        if len(found) <= MOST_MODULES:
            return found
    return {"network": sum(found.values())}


def _data(folder: RunFolder, model: Model) -> list[str]:
    data = folder.data()
    if data is None:
        return ["## Data", model.data] if model.data else []
    rows = [(name, f"{split['examples']:,}", f"`{split['digest']}`") for name, split in data["splits"].items()]
    found = ["## Data", f"Source: `{data['source']}`.", _table(("split", "examples", "digest"), rows)]
    if classes := data.get("classes"):
        listed = ", ".join(_quoted(name) for name in classes[:MOST_CLASSES])
        rest = f", and {len(classes) - MOST_CLASSES} more in `data.json`" if len(classes) > MOST_CLASSES else ""
        found.append(f"{len(classes)} classes, in the order of the labels: {listed}{rest}.")
    if model.vocabularies:
        sizes = ", ".join(f"`{file}` ({size:,} tokens)" for file, size in model.vocabularies.items())
        found.append(f"Vocabularies: {sizes}.")
    return found


def _results(folder: RunFolder, interrupted: bool) -> list[str]:
    declared = folder.declarations()
    meanings = declared.meanings
    if interrupted or not (folder.path / "result.json").exists():
        lines = read_lines(folder.path / "metrics.jsonl")
        scored = [line for line in lines if declared.score in line] or lines
        result = scored[-1] if scored else {}
        title = f"## Results at step {result.get('step', 0):,}, while training"
    else:
        result, title = folder.read_json("result.json"), "## Results"
    rows = []
    for name, value in result.items():
        known = _declaration(meanings, name)
        if known is None or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        direction = f"{known.better} is better" if known.better else ""
        rows.append((f"`{name}`", meanings.label(name), meanings.text(name, value), direction))
    return [title, _selected(result, declared.score, meanings), _table(("key", "meaning", "value", ""), rows)]


def _declaration(meanings: Meanings, name: str) -> Metric | None:
    """The declaration of a figure, if its metric has one."""
    return meanings.metric(name) if meanings.parse(name).metric in meanings.metrics else None


def _selected(result: Mapping[str, Any], score: str, meanings: Meanings) -> str:
    """Text on the best checkpoint and the metric that selected it."""
    if "best_step" not in result:
        return ""
    split = meanings.parse(score).split
    warning = ""
    if split == "test":
        warning = " There is no validation split: figures of the best checkpoint on the test split are optimistic."
    values = f" Values without `best_` are of `{result['checkpoint']}`." if "checkpoint" in result else ""
    by = f"by its {meanings.label(score)}" if score else "as the latest"
    return (
        f"Checkpoint `best` is that of step {result['best_step']:,}, selected {by}; `latest` is that of step"
        f" {result.get('steps', result['best_step']):,}.{values}{warning}"
    )


def _use(folder: RunFolder, model: Model) -> list[str]:
    where, arguments = str(folder.path), f", {model.arguments}" if model.arguments else ""
    python = ["import jaxai", "", f"run = jaxai.load({json.dumps(where)}{arguments})", *model.usage]
    shell = [line.replace("RUN", shlex.quote(where)) for line in model.commands]
    found = ["## Use", _code("python", python)]
    return [*found, _code("sh", shell)] if shell else found


def _training(folder: RunFolder) -> list[str]:
    config, there = folder.read_json("config.json"), folder.read_json("environment.json")
    run = config.get("run", {})
    seeds = f"seed {run.get('seed', 0)}"
    if run.get("seeds", 1) > 1:
        seeds = f"seeds {run['seed']} to {run['seed'] + run['seeds'] - 1}"
    versions = there.get("versions", {})
    libraries = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if versions.get(name))
    devices = there.get("devices", {})
    found = {"chip": devices.get("name", "unknown"), "devices": devices.get("count", 1)}
    if (folder.path / "result.json").exists():  # the run may have used only some of the devices
        found |= folder.read_json("result.json")
    chip = f"{found['devices']} x {found['chip']}"
    commands = (folder.path / "command.txt").read_text(errors="replace").splitlines()[-MOST_COMMANDS:]
    return [
        "## Training",
        f"{seeds[:1].upper()}{seeds[1:]}; {libraries}; Python {there.get('python', 'unknown')}; {chip}. The whole"
        " configuration is in `config.json`, all metrics are in `metrics.jsonl`, and their meanings in `metrics.json`.",
        _code("sh", commands),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *cells))


def _code(language: str, lines: Sequence[str]) -> str:
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return "\n".join([f"{fence}{language}", *lines, fence])


def _quoted(name: str) -> str:
    """A class name that Markdown shows as it is."""
    return f"``{name}``" if "`" in name else f"`{name}`"
