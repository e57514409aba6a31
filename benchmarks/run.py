"""Measures training steps: of a preset, or of the default list of image classifiers.

    python -m benchmarks.run                                          # the default list
    python -m benchmarks.run --only textbook --seconds 10             # a part of it, quickly
    python -m benchmarks.run configs/mnist_cnn.py --batch-size 128    # a preset, with any option of jaxai train

Data is synthetic, in the shape of the preset's, unless --real-data is given.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.measure import Effort, measure
from jaxai import cnn
from jaxai.data import Data
from jaxai.experiments.classification import Experiment
from jaxai.runtime import chips
from jaxai.runtime.config import Run, flatten, to_dict
from jaxai.runtime.parallel import Mode
from jaxai.runtime.plan import STEPS_PER_CALL
from jaxai.runtime.presets import load_preset

SHAPES = {"mnist": (28, 28, 1), "idx": (28, 28, 1), "cifar": (32, 32, 3)}
"""Images of the data sources whose name begins so, after `tfds:`."""
IN_THE_NAME_ALREADY = ("batch_size", "run.steps_per_call", "run.mode", "run.devices", "run.workdir")


@dataclass(frozen=True)
class Measurement:
    """How to measure, and where the figures go."""

    effort: Annotated[Effort, tyro.conf.arg(name="")] = Effort()
    results: Path = records.RESULTS  # folder that gets <chip>/<workload>.jsonl
    dry_run: bool = False  # prints only, writes no file
    real_data: bool = False  # the preset's own data instead of synthetic images of the same shape


@dataclass(frozen=True)
class DefaultList:
    """Which cases of the default list to measure, and how."""

    only: str = ""  # regular expression that is searched for in the case names; empty: all that fit this machine
    mode: Mode = "jit"  # engine: jit over a mesh, shard_map or pmap
    devices: int | None = None  # how many devices; None: all
    how: Annotated[Measurement, tyro.conf.arg(name="")] = Measurement()


class Case(NamedTuple):
    """What is measured: a name that stands for the same work for ever, and the experiment."""

    name: str
    experiment: Any


def default_cases(run: Run, small: bool, only: str = "") -> list[Case]:
    """The image classifiers that are always measured; the largest not on a `small` machine unless `only` names them."""
    sizes = [("textbook", 32, batch, steps) for batch in (32, 128, 512) for steps in (1, 50)]
    sizes += [("resnet", 32, 256, 50)]
    large = [("airbench", 64, 512, 50), ("airbench", 64, 1024, 50)]
    cases = []
    for architecture, width, batch, steps in sizes + large:
        model = cnn.Config(architecture=architecture, width=width)  # type: ignore[arg-type]  # a str of the Literal
        one = dataclasses.replace(run, steps_per_call=steps)
        experiment = Experiment(model, Data("synthetic", image_shape=(32, 32, 3)), batch_size=batch, run=one)
        cases.append(Case(name_of(architecture, experiment, experiment), experiment))
    if only:
        return [case for case in cases if re.search(only, case.name)]
    return cases[: -len(large)] if small else cases


def preset_case(path: str, arguments: Sequence[str]) -> tuple[Case, Measurement]:
    """The case of `python -m benchmarks.run PRESET [options]`."""
    preset, description, _ = load_preset(path)
    # Annotations that are made here, because the preset decides the class.
    whole = dataclasses.make_dataclass(
        "Options",
        [
            ("experiment", Annotated[type(preset), tyro.conf.arg(name="")], preset),
            ("how", Annotated[Measurement, tyro.conf.arg(name="")], Measurement()),
        ],
    )
    options: Any = tyro.cli(
        whole,
        args=list(arguments),
        prog=f"python -m benchmarks.run {path}",
        description=description,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    return Case(name_of(Path(path).stem, options.experiment, preset), options.experiment), options.how


def name_of(stem: str, experiment: Any, preset: Any) -> str:
    """`mnist_cnn batch=64 K=50 jit x2 width=64`: the preset, how it runs, and every other field that was changed."""
    run = experiment.run
    mode = f"{run.mode} x{run.devices or jax.device_count()}"
    parts = [stem, f"batch={experiment.batch_size}", f"K={run.steps_per_call or STEPS_PER_CALL}", mode]
    before, now = flatten(to_dict(preset)), flatten(to_dict(experiment))
    changed = [name for name in now if now[name] != before.get(name) and name not in IN_THE_NAME_ALREADY]
    return " ".join(parts + [f"{name.removeprefix('workload.')}={now[name]}" for name in changed])


def with_synthetic_images(experiment: Any, examples: int = 10_000) -> Any:
    """The experiment on random images of the shape that its data has; as it is where it has no images."""
    if not isinstance(getattr(experiment, "data", None), Data):
        return experiment
    data: Data = experiment.data
    source = str(data.source).removeprefix("tfds:")
    fallback = data.image_shape if source == "synthetic" else experiment.workload.image_shape
    shape = next((shape for start, shape in SHAPES.items() if source.startswith(start)), fallback)
    if data.resize:
        shape = (data.resize, data.resize, shape[-1])
    synthetic = Data(
        "synthetic",
        image_shape=shape,
        num_classes=data.num_classes,
        examples=max(examples, experiment.batch_size),
        test_examples=1,
    )
    return dataclasses.replace(experiment, data=synthetic)


def measure_case(case: Case, how: Measurement) -> dict[str, Any]:
    """Measures a case: the record."""
    experiment = case.experiment if how.real_data else with_synthetic_images(case.experiment)
    bound = experiment.bind()
    experiment = bound.config
    figures, flags = measure(bound.training(), experiment.run, how.effort)
    config = {name: value for name, value in flatten(to_dict(experiment.workload)).items() if name != "type"}
    return records.complete(case.name, figures | {"real_data": how.real_data, "config": config}, flags)


def table(measured: Sequence[dict[str, Any]]) -> Table:
    """What was measured, a row a case."""
    shown = Table(
        "case",
        "examples/s per chip",
        "spread",
        "ms a step",
        "TFLOP/s",
        "MFU",
        "memory",
        "compile",
        "flags",
        title=f"Training on {chips.name(jax.devices()[0])}",
    )
    for record in measured:
        rate = record["examples_per_second_per_chip"]
        shown.add_row(
            record["case"],
            f"{rate['median']:,.0f}",
            f"{rate['min'] / rate['median'] - 1:+.1%} {rate['max'] / rate['median'] - 1:+.1%}",
            f"{record['seconds_per_step'] * 1e3:.3f}",
            f"{record['flops_per_second_per_chip'] / 1e12:.3f}",
            f"{record['mfu']:.1%}" if record["mfu"] is not None else "none",
            f"{record['peak_memory_bytes'] / 2**20:,.0f} MiB",
            f"{record['trace_seconds']:.1f} + {record['compile_seconds']:.1f} s",
            "; ".join(record["flags"]),
        )
    return shown


def compare_calls(measured: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each case that was measured with one step in a call and with several."""
    single = {r["case"]: r["seconds_per_step"] for r in measured if r["steps_per_call"] == 1}
    lines = []
    for record in measured:
        several = f"K={record['steps_per_call']}"
        one = single.get(record["case"].replace(f" {several} ", " K=1 "))
        if one is not None and record["steps_per_call"] > 1:
            ratio = record["seconds_per_step"] / one
            lines.append(f"{record['case']}: a step costs {ratio:.2f} times as much as in single calls")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 1 if a case failed, 2 for a user's mistake."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    jax.config.update("jax_enable_compilation_cache", False)  # or the compile time would be that of reading a file
    try:
        if arguments and not arguments[0].startswith("-"):
            case, how = preset_case(arguments[0], arguments[1:])
            cases = [case]
        else:
            options = tyro.cli(DefaultList, args=arguments, prog="python -m benchmarks.run", description=__doc__)
            run, how = Run(mode=options.mode, devices=options.devices), options.how
            cases = default_cases(run, small=jax.default_backend() == "cpu", only=options.only)
            if not cases:
                raise ValueError(f"no case of the default list matches {options.only!r}")
    except ValueError as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    measured, failed = [], []
    for case in cases:
        console.print(case.name, highlight=False)
        try:
            record = measure_case(case, how)
        except (RuntimeError, ValueError) as error:  # one case that does not fit the chip must not cost the others
            failed.append(case.name)
            console.print(f"  failed: {error}", markup=False)
            continue
        measured.append(record)
        if not how.dry_run:
            workload = type(case.experiment.workload).__module__.split(".")[1]
            console.print(f"  written to {records.append(record, how.results, workload)}", highlight=False)
    console.print(table(measured))
    for line in compare_calls(measured):
        console.print(line, highlight=False)
    if failed:
        console.print(f"failed: {', '.join(failed)}", highlight=False)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
