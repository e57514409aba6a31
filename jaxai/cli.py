"""The command line: train, evaluate, report, replay, and the commands that experiments define."""

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, NoReturn, cast

import tyro

from jaxai import __version__, options
from jaxai.errors import explained
from jaxai.output import Lasting, leave_standard_output, print_line
from jaxai.ranges import Count
from jaxai.run_commands import PRESET, RUN, class_of, commands, listed, name_of, run_among, run_command
from jaxai.runtime import registry

if TYPE_CHECKING:
    from rich.console import Console

    from jaxai.runtime.experiment import Experiment

USAGE = """usage: jaxai COMMAND ...

{commands}

jaxai COMMAND --help explains its options; jaxai evaluate RUN --help those of the run's experiment."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `jaxai` command.

    Exit codes: 0: success, 1: a run failed, 2: a mistake in the arguments or files, 130: Ctrl-C.

    Args:
      arguments: of the command line; None: those of the process.
    """
    arguments = [_with_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding may lack characters of file and class names
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments and arguments[0] == "--version":
        print(f"jaxai {__version__}")
        return
    import jaxai.experiments  # noqa: F401  # registers them

    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {usage:<24}{summary}" for usage, summary in commands().values())))
        raise SystemExit(0 if arguments else 2)
    command, rest = arguments[0], arguments[1:]
    with _explained():
        _configure_jax()
        if command in OWN:
            OWN[command](rest)
        elif command in registry.summaries(of_preset=True):
            _train(command, rest)
        else:
            run_command(command, rest)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Ends the process with one line for an error that a user can correct."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        leave_standard_output()
    except KeyboardInterrupt:  # outside of the training loop, which handles it itself and saves everything
        _fail("interrupted", code=130)
    except Exception as error:
        found = explained(error)
        if found is None or os.environ.get("JAXAI_TRACEBACK"):
            raise
        _fail(*found)


def train(arguments: Sequence[str]) -> None:
    """`jaxai train PRESET [options]`."""
    _train("train", arguments)


def _train(command: str, arguments: Sequence[str]) -> None:
    """Trains a preset, as `command` changes it; `train` does not change it."""
    from rich.console import Console

    from jaxai.runtime import parallel
    from jaxai.runtime.config import check_experiment
    from jaxai.runtime.experiment import without_foreign_bound
    from jaxai.runtime.presets import load_preset
    from jaxai.runtime.run_folder import RunFolder
    from jaxai.runtime.seeds import train_seeds

    if arguments and arguments[0] in ("-h", "--help"):
        known = ", ".join(sorted(str(preset) for preset in Path("configs").glob("*.py"))) or "configs/*.py"
        print(f"usage: jaxai {command} PRESET [options]\n\nPresets: {known}\nOptions: jaxai {command} PRESET --help")
        return
    if not arguments or arguments[0].startswith("-"):
        _fail(f"give a preset first, as in: jaxai {command} configs/cartpole_dqn.py --workdir runs/a")
    preset, description, hooks = load_preset(arguments[0])
    if command != "train":
        offered = preset.commands.of_preset
        if command not in offered:
            where = listed(registry.offers(command))
            _fail(f"{arguments[0]} is a preset of {name_of(type(preset))}; {command} takes a preset of {where}")
        preset = offered[command](preset)
    with options.in_one_line(arguments[1:]):
        experiment: Experiment = tyro.cli(
            type(preset),
            default=preset,
            args=arguments[1:],
            prog=f"jaxai {command} {arguments[0]}",
            description=description,
            config=(tyro.conf.OmitSubcommandPrefixes,),
            registry=options.values(),
        )
    experiment = without_foreign_bound(preset, experiment)
    console = Console(file=None if sys.stdout is None else cast(IO[str], Lasting(sys.stdout)))
    with options.as_typed(options.of_config(type(experiment))):
        check_experiment(experiment)
        parallel.use_cpu_devices(experiment.cpu_devices, experiment.small_operations)
        parallel.check_backend()
        interrupted = train_seeds(experiment, console, hooks)
    if interrupted == "SIGINT":
        raise SystemExit(130)
    if not interrupted:
        folder = RunFolder(experiment.run.workdir).path
        _report([folder], folder / "report.html", console)
        what, again = experiment.from_preset or _defines(type(experiment)), experiment.named_again
        again = f"--preset {arguments[0]}, which {what}" if what else again
        if again:
            how = f"{listed([*experiment.commands.of_run, 'replay'])} take {again}"
            console.print(how, soft_wrap=True, highlight=False, markup=False)


def _defines(kind: type) -> str:
    """What another process needs the preset for: its class, where that is not registered."""
    return "" if name_of(kind) in registry.EXPERIMENTS else f"defines {kind.__qualname__}"


def evaluate(arguments: Sequence[str]) -> None:
    """`jaxai evaluate RUN [options]`, with the options of the run's experiment."""
    further = {"devices": (Count | None, None, "number of devices; None: all")}
    bound, metrics = run_command("evaluate", arguments, further)
    run = Path(bound.config.run.workdir)
    from jaxai.runtime.run_folder import RunFolder

    try:
        RunFolder(run).write_json("evaluation.json", metrics)
    except OSError as error:
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
        # Another user's run may be read-only.
        print(f"jaxai: {run} may not be written: the metrics are not saved in evaluation.json", file=sys.stderr)


def report(arguments: Sequence[str]) -> None:
    """`jaxai report RUN...`."""

    def write(
        _: None, runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (), output: Path | None = None
    ) -> None:
        """Write one page with the curves, pictures and metrics of a run, or of several together.

        Args:
          runs: folders of the runs
          output: the page; default: report.html in the run's folder, or here for several
        """
        if not runs:
            _fail("give the folder of a run, as in: jaxai report runs/a runs/b")
        if output is not None and output.is_dir():
            _fail(f"--output is {output}, a folder; give a file")
        default = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
        from jaxai.report import write_report

        if output is None and default.parent.is_dir() and not os.access(default.parent, os.W_OK):
            _fail(f"{default} may not be written; give --output FILE")
        print(f"wrote {write_report(runs, output or default)}")

    write(None, **options.parse(write, {}, arguments, "jaxai report"))


def replay(arguments: Sequence[str]) -> None:
    """`jaxai replay RUN`."""

    from jaxai.runtime import nonfinite
    from jaxai.runtime.experiment import open_run
    from jaxai.runtime.run_folder import RunFolder

    def again(_: None) -> None:
        """Run the step that became non-finite again, on one device, with NaN checks on every operation."""

    folder = run_among(arguments)
    kind, kinds = class_of(folder, arguments) if folder and (folder / "config.json").is_file() else (None, ())
    needs = dict(kind.commands.needs) if kind else {}
    values = options.parse(again, RUN | PRESET | needs, arguments, "jaxai replay")
    run = values.pop("run")
    print(nonfinite.rerun(RunFolder(run), open_run(run, kinds, **values).make()))


OWN: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "replay": replay,
}
"""The commands of every experiment."""


def _with_home(argument: str) -> str:
    """Replaces a `~` that the shell did not expand, as in quotes ('~/runs') or after a `=`."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if not value.startswith("~"):
        return argument
    return f"{option}{equals}{os.path.expanduser(value)}"  # noqa: PTH111  # Path.expanduser raises for an unknown user


def _report(runs: Sequence[Path], output: Path, console: "Console") -> None:
    """Writes the report after a training; without matplotlib there is a message and no error."""
    from jaxai.report import pictures

    if not pictures.available():
        print_line(console, "no report: it needs matplotlib; pip install '.[demo]' in the checkout")
        return
    from jaxai.report import write_report

    with pictures.optional(console, "the report could not be written"):
        print_line(console, f"report: {write_report(runs, output)}")


def _configure_jax() -> None:
    """Turns on JAX's persistent compilation cache, for small programs too, so that a second start takes seconds."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            programs = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxai" / "xla"
            programs.mkdir(parents=True, exist_ok=True)
            if os.access(programs, os.W_OK):
                jax.config.update("jax_compilation_cache_dir", str(programs))
        except (RuntimeError, OSError):  # no writable home folder: no cache
            logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would warn about the same at length
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _fail(message: str, code: int = 2) -> NoReturn:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        leave_standard_output()
    print(f"jaxai: {message}", file=sys.stderr)
    raise SystemExit(code)
