"""The command line: train a preset, or sweep around it; evaluate, sample, play, report on or replay what it leaves."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro
from rich.console import Console

from jaxai import __version__

USAGE = """usage: jaxai COMMAND ...

  train PRESET [options]     train a preset, as configs/mnist_cnn.py, or go on with its run; --help after the preset
                             explains every option
  sweep PRESET [options]     train every combination of values in one program, as --grid.discount 0.9 0.99
  evaluate RUN               measure a run's checkpoint: on the test set, over greedy episodes, against real images
  sample RUN                 draw images from a trained generator, as PNG and npz
  play RUN                   render an episode of a trained agent to a GIF
  report RUN...              one page with the curves, pictures and figures of a run, or of several side by side
  replay RUN                 run a step again that left something non-finite behind, with checks on every operation

COMMAND --help tells more."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `jaxai` command.

    Ends the process with 0, with 2 for a user's mistake, 1 for a run that failed, 130 for Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands = {
        "train": train,
        "sweep": sweep,
        "evaluate": evaluate,
        "sample": sample,
        "play": play,
        "report": report,
        "replay": replay,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(f"jaxai {__version__}")
        return
    if arguments[0] not in commands:
        _fail(f"no command {arguments[0]!r}; choose {', '.join(commands)}")
    _configure_jax()
    try:
        commands[arguments[0]](arguments[1:])
    except FloatingPointError as error:
        _fail(str(error), code=1)
    except KeyboardInterrupt:  # outside of the loop, which ends by itself with everything saved
        _fail("interrupted", code=130)
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("JAXAI_TRACEBACK"):
            raise
        _fail(str(error))


def train(arguments: Sequence[str]) -> None:
    """`jaxai train PRESET [options]`."""
    _train("train", arguments, lambda preset: preset)


def sweep(arguments: Sequence[str]) -> None:
    """`jaxai sweep PRESET --grid.FIELD VALUE... [options]`."""

    def with_grid(preset: Any) -> Any:
        from jaxai.dqn.experiment import Experiment
        from jaxai.dqn.sweep import Sweep

        if not isinstance(preset, Experiment):
            _fail("sweep takes a preset of deep Q-learning, as configs/cartpole_dqn.py")
        return Sweep(**{field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)})

    _train("sweep", arguments, with_grid)


def _train(command: str, arguments: Sequence[str], prepare: Callable[[Any], Any]) -> None:
    from jaxai.runtime import parallel
    from jaxai.runtime.config import load_preset
    from jaxai.runtime.seeds import train_seeds

    if arguments and arguments[0] in ("-h", "--help"):
        known = ", ".join(sorted(str(preset) for preset in Path("configs").glob("*.py"))) or "configs/*.py"
        print(f"usage: jaxai {command} PRESET [options]\n\nPresets: {known}\nOptions: jaxai {command} PRESET --help")
        return
    if not arguments or arguments[0].startswith("-"):
        _fail(f"give a preset first, as in: jaxai {command} configs/cartpole_dqn.py --workdir runs/a")
    preset, description = load_preset(arguments[0])
    preset = prepare(preset)
    experiment = tyro.cli(
        type(preset),
        default=preset,
        args=arguments[1:],
        prog=f"jaxai {command} {arguments[0]}",
        description=description,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    console = Console()
    parallel.use_cpu_devices(experiment.cpu_devices, experiment.small_operations)
    interrupted = train_seeds(experiment, console)
    if interrupted == "SIGINT":
        raise SystemExit(130)
    if not interrupted:
        _report([Path(experiment.run.workdir)], Path(experiment.run.workdir) / "report.html", console)


def evaluate(arguments: Sequence[str]) -> None:
    """`jaxai evaluate RUN`."""
    from jaxai.runtime.run_folder import RunFolder

    def parse(
        run: Annotated[Path, tyro.conf.Positional],
        checkpoint: Literal["latest", "best"] = "latest",
        data_dir: str | None = None,
        devices: int | None = None,
        extractor: str | None = None,
    ) -> None:
        """Measure a run's checkpoint: on the test set, over greedy episodes, or a generator's images against real ones.

        The figures go to evaluation.json in the run's folder.

        Args:
          run: folder of the run
          checkpoint: the last, or the best by its evaluation
          data_dir: where the data is, if no longer where the run found it
          devices: how many devices; None: all
          extractor: of a generator's run: features to measure in, if not those of the run
        """
        experiment = _experiment(run, devices)
        if extractor is not None:
            if not hasattr(experiment, "extractor"):
                _fail("--extractor says what generated images are measured with, and this run makes none")
            experiment = dataclasses.replace(experiment, extractor=extractor)
        if data_dir is not None:
            if not hasattr(experiment, "data"):
                _fail("--data-dir says where data is, and this run makes its own")
            experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, dir=data_dir))
        RunFolder(run).write_json("evaluation.json", experiment.evaluate(Console(), checkpoint))

    tyro.cli(parse, args=arguments, prog="jaxai evaluate")


def sample(arguments: Sequence[str]) -> None:
    """`jaxai sample RUN`."""

    def parse(
        run: Annotated[Path, tyro.conf.Positional],
        count: int = 64,
        seed: int = 0,
        label: int | None = None,
        grid: bool = False,
        checkpoint: Literal["latest", "best"] = "best",
        output: Path | None = None,
    ) -> None:
        """Draw images from a trained generator; samples.npz also holds their latents and labels.

        Args:
          run: folder of the run
          count: how many images
          seed: of the latents
          label: what a conditional model shall make; None: all labels in turn
          grid: one PNG of all images instead of one for each
          checkpoint: the last, or the best by its evaluation
          output: folder; default: samples/seed-SEED in the run's folder
        """
        experiment = _experiment(run)
        if not hasattr(experiment, "sample"):
            _fail(f"{run} has no generator; sample takes a run of adversarial training")
        from jaxai.runtime import mosaic

        drawn = experiment.sample(count, seed, label, checkpoint)
        print(f"wrote {mosaic.write_samples(drawn._asdict(), output or run / 'samples' / f'seed-{seed}', grid)}")

    tyro.cli(parse, args=arguments, prog="jaxai sample")


def play(arguments: Sequence[str]) -> None:
    """`jaxai play RUN`."""

    def parse(
        run: Annotated[Path, tyro.conf.Positional],
        checkpoint: Literal["latest", "best"] = "best",
        seed: int = 0,
        member: int | None = None,
        output: Path | None = None,
    ) -> None:
        """Render a greedy episode of a trained agent to a GIF, and print its return.

        Args:
          run: folder of the run
          checkpoint: the last, or the best by its evaluation
          seed: of the episode
          member: which of the run's trainings, from 0; None: the best by its last evaluation
          output: the GIF; default: pictures/episode.gif in the run's folder
        """
        experiment = _experiment(run)
        if not hasattr(experiment, "play"):
            _fail(f"{run} has no agent to watch; play takes a run of deep Q-learning")
        path = output or run / "pictures" / "episode.gif"
        played = experiment.play(path, checkpoint, seed, member)
        print(f"return {played['return']:g} in {played['length']} steps (training {played['member']}): wrote {path}")

    tyro.cli(parse, args=arguments, prog="jaxai play")


def report(arguments: Sequence[str]) -> None:
    """`jaxai report RUN...`."""

    def parse(runs: Annotated[tuple[Path, ...], tyro.conf.Positional], output: Path | None = None) -> None:
        """Write one page with the curves, pictures and figures of a run, or of several side by side.

        Args:
          runs: folders of the runs
          output: the page; default: report.html in the run's folder, or here for several
        """
        if not runs:
            _fail("give the folder of a run, as in: jaxai report runs/a runs/b")
        default = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
        from jaxai.runtime.report import write_report

        print(f"wrote {write_report(runs, output or default)}")

    tyro.cli(parse, args=arguments, prog="jaxai report")


def replay(arguments: Sequence[str]) -> None:
    """`jaxai replay RUN`."""
    from jaxai.runtime import nonfinite
    from jaxai.runtime.run_folder import RunFolder

    def parse(run: Annotated[Path, tyro.conf.Positional]) -> None:
        """Run a step that left something non-finite behind once more, on one device, with NaN checks on.

        Args:
          run: folder of the run
        """
        folder = RunFolder(run)
        print(nonfinite.replay(folder, folder.load_config().make()))

    tyro.cli(parse, args=arguments, prog="jaxai replay")


def _experiment(run: Path, devices: int | None = None) -> Any:
    """The experiment that a run folder holds, wherever the folder is now."""
    from jaxai.runtime.run_folder import RunFolder

    experiment = RunFolder(run).load_config()
    where = dataclasses.replace(experiment.run, workdir=str(run), devices=devices)
    return dataclasses.replace(experiment, run=where)


def _report(runs: Sequence[Path], output: Path, console: Console) -> None:
    """The report that closes a training; a missing plotting library does not spoil the run."""
    from jaxai.runtime import pictures

    if not pictures.available():
        console.print(
            "no report: it needs matplotlib; pip install '.[demo]' in the checkout, then jaxai report",
            markup=False,
            soft_wrap=True,
        )
        return
    from jaxai.runtime.report import write_report

    console.print(f"report: {write_report(runs, output)}", soft_wrap=True, highlight=False, markup=False)


def _configure_jax() -> None:
    """Keeps compiled programs between runs, the small ones too: a second start takes seconds (docs of jax)."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxai" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"jaxai: {message}", file=sys.stderr)
    raise SystemExit(code)
