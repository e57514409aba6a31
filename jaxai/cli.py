"""The command line: train a preset, or sweep around it; evaluate, sample, translate, play, report on or replay it."""

import dataclasses
import errno
import functools
import inspect
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NoReturn, cast, get_type_hints

import tyro
from rich.console import Console

from jaxai import __version__, ranges
from jaxai.errors import explained
from jaxai.output import Lasting, leave_standard_output, say
from jaxai.ranges import Count, Natural, Seed

USAGE = """usage: jaxai COMMAND ...

  train PRESET [options]     train a preset, as configs/mnist_cnn.py, or go on with its run; --help after the preset
                             explains every option
  sweep PRESET [options]     train every combination of values in one program, as --grid.discount 0.9 0.99
  evaluate RUN               measure a run's checkpoint: on the test set, over greedy episodes, against real images
  sample RUN                 draw images from a trained generator, as PNG and npz
  translate RUN...           translate lines, from a file or as they are typed; several runs translate together
  play RUN                   render an episode of a trained agent to a GIF
  report RUN...              one page with the curves, pictures and figures of a run, or of several side by side
  replay RUN                 run a step again that left something non-finite behind, with checks on every operation

COMMAND --help tells more."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `jaxai` command.

    Ends the process with 0, with 2 for a user's mistake, 1 for a run that failed, 130 for Ctrl-C.
    """
    arguments = [_with_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes may be of no encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    commands = {
        "train": train,
        "sweep": sweep,
        "evaluate": evaluate,
        "sample": sample,
        "translate": translate,
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
    except BrokenPipeError:  # who reads the output has seen enough, as `head`
        leave_standard_output()
    except KeyboardInterrupt:  # outside of the loop, which ends by itself with everything saved
        _fail("interrupted", code=130)
    except Exception as error:
        found = explained(error)
        if found is None or os.environ.get("JAXAI_TRACEBACK"):
            raise
        _fail(*found)


def train(arguments: Sequence[str]) -> None:
    """`jaxai train PRESET [options]`."""
    _train("train", arguments, lambda preset: preset)


def sweep(arguments: Sequence[str]) -> None:
    """`jaxai sweep PRESET --grid.FIELD VALUE... [options]`."""

    def with_grid(preset: Any) -> Any:
        from jaxai.experiments.qlearning.experiment import Experiment
        from jaxai.experiments.qlearning.sweep import Sweep

        if not isinstance(preset, Experiment):
            _fail("sweep takes a preset of deep Q-learning, as configs/cartpole_dqn.py")
        return Sweep(**{field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)})

    _train("sweep", arguments, with_grid)


def _train(command: str, arguments: Sequence[str], prepare: Callable[[Any], Any]) -> None:
    from jaxai.runtime import parallel
    from jaxai.runtime.config import check_experiment
    from jaxai.runtime.presets import load_preset
    from jaxai.runtime.run_folder import RunFolder
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
        registry=_numbers(),
    )
    experiment = _without_foreign_bound(preset, experiment)
    check_experiment(experiment)
    console = Console(file=None if sys.stdout is None else cast(IO[str], Lasting(sys.stdout)))
    parallel.use_cpu_devices(experiment.cpu_devices, experiment.small_operations)
    parallel.check_backend()
    interrupted = train_seeds(experiment, console)
    if interrupted == "SIGINT":
        raise SystemExit(130)
    if not interrupted:
        folder = RunFolder(experiment.run.workdir).path
        _report([folder], folder / "report.html", console)
        if hasattr(experiment, "env"):
            from jaxai.dqn.environment import is_gymnaxs

            if not is_gymnaxs(experiment.env):
                how = f"evaluate, play and replay take --preset {arguments[0]}, which registers {experiment.env.name}"
                console.print(how, soft_wrap=True, highlight=False, markup=False)


def _without_foreign_bound(preset: Any, experiment: Any) -> Any:
    """The experiment without the result that the preset is known to reach, where it learns something else."""

    def task(config: Any) -> Any:
        if hasattr(config, "data"):
            return {name: value for name, value in vars(config.data).items() if name not in ("dir", "cache")}
        return getattr(config, "env", None)

    if getattr(preset, "expected", 0) != getattr(experiment, "expected", 0) or task(preset) == task(experiment):
        return experiment
    return dataclasses.replace(experiment, expected=0.0)


def evaluate(arguments: Sequence[str]) -> None:
    """`jaxai evaluate RUN`."""
    from jaxai.runtime.run_folder import RunFolder

    def parse(
        run: Annotated[Path, tyro.conf.Positional],
        checkpoint: Literal["latest", "best"] = "latest",
        data_dir: str | None = None,
        devices: Count | None = None,
        extractor: str | None = None,
        source: Path | None = None,
        reference: Path | None = None,
        ensemble: tuple[Path, ...] = (),
        episodes: Count | None = None,
        recompute_statistics: bool = False,
        preset: Path | None = None,
    ) -> None:
        """Measure a run's checkpoint: on the test set, over greedy episodes, or a generator's images against real ones.

        The figures go to evaluation.json in the run's folder.

        Args:
          run: folder of the run
          checkpoint: the last, or the best by its evaluation
          data_dir: where the data is, if no longer where the run found it
          devices: how many devices; None: all
          extractor: of a generator's run: features to measure in, if not those of the run
          source: of a translator's run: a file to translate, a sentence a line, instead of the test set
          reference: of a translator's run: the right translations of source, line by line
          ensemble: of a translator's run: further runs, whose models translate together with it
          preset: of an agent's run: the file that registers its environment, where gymnax does not have it
          episodes: of an agent's run: greedy episodes of each training; None: 100
          recompute_statistics: of a classifier's or generator's run: batch statistics anew, from training images or
            latents, instead of the averages that training left
        """
        experiment = _experiment(run, devices, preset)
        if source is not None or reference is not None or ensemble:
            if not hasattr(experiment, "decoding"):
                _fail("--source, --reference and --ensemble are for translation, and this run translates nothing")
            if (source is None) != (reference is None):
                _fail("--source and --reference go together: a file of sentences and one of their translations")
        if extractor is not None:
            if not hasattr(experiment, "extractor"):
                _fail("--extractor says what generated images are measured with, and this run makes none")
            experiment = dataclasses.replace(experiment, extractor=extractor)
        if data_dir is not None:
            if not hasattr(experiment, "data"):
                _fail("--data-dir says where data is, and this run makes its own")
            experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, dir=data_dir))
        further: dict[str, Any] = {}
        if episodes is not None:
            if not hasattr(experiment, "env"):
                _fail("--episodes says how many episodes an agent plays, and this run has none")
            further = {"episodes": episodes}
        if hasattr(experiment, "decoding"):
            files = None if source is None else (source, reference)
            further = {"files": files, "others": _translators(ensemble)}
        if recompute_statistics:
            if "recompute" not in inspect.signature(experiment.evaluate).parameters:
                _fail("--recompute-statistics is of batch normalization, and this run's networks have none")
            further |= {"recompute": True}
        figures = experiment.evaluate(Console(), checkpoint, **further)
        try:
            RunFolder(run).write_json("evaluation.json", figures)
        except OSError as error:
            if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
                raise
            # Another's run, which may be read alone.
            print(f"jaxai: {run} may not be written: the figures are in no evaluation.json", file=sys.stderr)

    _call(parse, arguments, "jaxai evaluate")


def sample(arguments: Sequence[str]) -> None:
    """`jaxai sample RUN`."""

    def parse(
        run: Annotated[Path, tyro.conf.Positional],
        count: Count = 64,
        seed: Seed = 0,
        label: str | None = None,
        grid: bool = False,
        checkpoint: Literal["latest", "best"] = "best",
        output: Path | None = None,
    ) -> None:
        """Draw images from a trained generator; samples.npz also holds their latents and labels.

        Args:
          run: folder of the run
          count: how many images
          seed: of the latents
          label: what a conditional model shall make: the name of a class, or else its number; None: labels as frequent
            as in the data, in turn where all are
          grid: one PNG of all images instead of one for each
          checkpoint: the last, or the best by its evaluation
          output: folder; default: samples/seed-SEED in the run's folder
        """
        experiment = _experiment(run)
        if not hasattr(experiment, "extractor"):
            _fail(f"{run} has no generator; sample takes a run of adversarial training")
        from jaxai.report import mosaic

        if output is not None and output.exists() and not output.is_dir():
            _fail(f"--output is {output}, a file; give a folder")
        drawn = experiment.trained(checkpoint).samples(count, label, seed)
        print(f"wrote {mosaic.write_samples(drawn._asdict(), output or run / 'samples' / f'seed-{seed}', grid)}")

    _call(parse, arguments, "jaxai sample")


def translate(arguments: Sequence[str]) -> None:
    """`jaxai translate RUN...`."""

    def parse(
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
        input: Path | None = None,
        output: Path | None = None,
        beam: int | None = None,
        length_penalty: float | None = None,
        coverage_penalty: float | None = None,
        n_best: int = 1,
        scores: bool = False,
        method: Literal["beam", "greedy", "sample"] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int = 64,
        checkpoint: Literal["latest", "best", "average"] = "best",
    ) -> None:
        """Translate lines, and write each translation as it comes.

        A line that has more tokens than a source of the training could (tokens.longest_source, or else tokens.batch)
        is cut and named on standard error, as are unknown tokens.

        Args:
          runs: folder of the run; of several runs the probabilities are averaged
          input: UTF-8 text, one sentence a line; a file or a pipe; default: standard input
          output: file of the translations; default: standard output
          beam: hypotheses that the beam search goes on with; None: as the run says
          length_penalty: exponent of the length that scores are divided by; None: as the run says
          coverage_penalty: weight of source tokens that nothing attended to; None: as the run says
          n_best: number of translations of each line, a line each, the best first; without --beam the beam is at least
            this wide
          scores: writes score, a tab, log probability and a tab before each translation
          method: beam, greedy, or sample; None: as the run says
          temperature: of sampling; None: as the run says
          top_k: number of the likeliest tokens that sampling draws from; 0: all; None: as the run says
          top_p: sampling takes one of the likeliest tokens that have this probability together; 1: of all; None: as
            the run says
          seed: of sampling; a line's translation depends on it and on the line's number
          batch_size: lines in a batch; a terminal's lines are translated one by one
          checkpoint: the last, the best by its evaluation, or the average of the parameters of both
        """
        if not runs:
            _fail("give the folder of a run, as in: jaxai translate runs/dates < sentences.txt")
        for name, value, least, most in (("batch_size", batch_size, 1, 2**31), ("seed", seed, 0, 2**32)):
            if not least <= value < most:
                _fail(f"{name} is {value}; it must be between {least} and {most - 1}")
        experiments = _translators(runs)
        from jaxai.experiments.translation import translate_lines
        from jaxai.experiments.translation.trained import read_all
        from jaxai.seq2seq.decoding import with_options

        options = {
            "beam": beam,
            "length_penalty": length_penalty,
            "coverage_penalty": coverage_penalty,
            "method": method,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
        }
        decoding = with_options(experiments[0].decoding, experiments[0].workload, n_best, **options)
        with translate_lines.open_input(input) as source:
            translate_lines.check_output(output, source)
            first, others = read_all(experiments, checkpoint)
            translator = first.translator(decoding, seed, others)
            translate_lines.translate(translator, source, output, batch_size, n_best, scores)

    _call(parse, arguments, "jaxai translate")


def play(arguments: Sequence[str]) -> None:
    """`jaxai play RUN`."""

    def parse(
        run: Annotated[Path, tyro.conf.Positional],
        checkpoint: Literal["latest", "best"] = "best",
        seed: Seed = 0,
        member: Natural | None = None,
        output: Path | None = None,
        preset: Path | None = None,
    ) -> None:
        """Render a greedy episode of a trained agent to a GIF, and print its return.

        Args:
          run: folder of the run
          checkpoint: the last, or the best by its evaluation
          seed: of the episode
          member: which of the run's trainings, from 0; None: the best by the evaluation of that checkpoint
          output: the GIF; default: pictures/episode.gif in the run's folder
          preset: the file that registers the run's environment, where gymnax does not have it
        """
        experiment = _experiment(run, preset=preset)
        if not hasattr(experiment, "env"):
            _fail(f"{run} has no agent to watch; play takes a run of deep Q-learning")
        path = output or run / "pictures" / "episode.gif"
        if path.suffix.lower() != ".gif" or path.is_dir():
            _fail(f"--output is {path}; give a file named *.gif")
        played = experiment.trained(checkpoint, member).play(path, seed)
        print(f"return {played['return']:g} in {played['length']} steps (training {played['member']}): wrote {path}")

    _call(parse, arguments, "jaxai play")


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
        if output is not None and output.is_dir():
            _fail(f"--output is {output}, a folder; give a file")
        default = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
        from jaxai.report import write_report

        if output is None and default.parent.is_dir() and not os.access(default.parent, os.W_OK):
            _fail(f"{default} may not be written; give --output FILE")
        print(f"wrote {write_report(runs, output or default)}")

    _call(parse, arguments, "jaxai report")


def replay(arguments: Sequence[str]) -> None:
    """`jaxai replay RUN`."""
    from jaxai.runtime import nonfinite
    from jaxai.runtime.run_folder import RunFolder

    def parse(run: Annotated[Path, tyro.conf.Positional], preset: Path | None = None) -> None:
        """Run a step that left something non-finite behind once more, on one device, with NaN checks on.

        Args:
          run: folder of the run
          preset: of an agent's run: the file that registers its environment, where gymnax does not have it
        """
        print(nonfinite.replay(RunFolder(run), _experiment(run, preset=preset).make()))

    _call(parse, arguments, "jaxai replay")


def _with_home(argument: str) -> str:
    """An argument with the home folder for a `~` that the shell left: in quotes, as '~/runs', or behind a `=`."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if not value.startswith("~"):
        return argument
    return f"{option}{equals}{os.path.expanduser(value)}"  # noqa: PTH111  # Path.expanduser raises for an unknown user


def _call(parse: Callable[..., None], arguments: Sequence[str], prog: str) -> None:
    """Calls the function of a command with its options, once each is in the range of its type."""
    hints = get_type_hints(parse, include_extras=True)

    @functools.wraps(parse)
    def checked(*values: Any, **named: Any) -> None:
        for name, value in inspect.signature(parse).bind(*values, **named).arguments.items():
            ranges.check_argument(name, hints[name], value)
        parse(*values, **named)

    if not all(argument.strip() for argument in arguments):  # as of a shell's variable that is not set
        _fail("an argument is empty; give it a value, or leave it out")
    tyro.cli(checked, args=arguments, prog=prog, registry=_numbers())


def _numbers() -> tyro.constructors.ConstructorRegistry:
    """How tyro reads whole numbers: as Python does, and 1e6 and 2.5e3 too."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def whole(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda values: _whole(values[0]),
            is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _whole(text: str) -> int:
    """The whole number that a user has typed.

    Raises:
      ValueError: it is none.
    """
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE]\+?\d{1,2}", text) and (number := Decimal(text)) == int(number):
        return int(number)
    return int(text)


def _experiment(run: Path, devices: int | None = None, preset: Path | None = None) -> Any:
    """The experiment that a run folder holds, wherever the folder is now.

    Args:
      run: the folder.
      devices: how many to use; None: all.
      preset: a file to execute first where gymnax lacks the run's environment. The folder itself never says what to
        execute: it may be a stranger's.

    Raises:
      ValueError: the folder holds no run, or one in an environment that nothing has registered.
    """
    from jaxai.runtime import parallel
    from jaxai.runtime.presets import load_preset
    from jaxai.runtime.run_folder import RunFolder

    experiment = RunFolder(run).load_config()
    parallel.check_backend()
    if hasattr(experiment, "env"):
        from jaxai.dqn.environment import is_registered

        if preset is not None and not (preset.is_file() and is_registered(experiment.env.name)):
            load_preset(str(preset))
        if not is_registered(experiment.env.name):
            raise ValueError(
                f"{run} was trained in {experiment.env.name!r}, which gymnax does not have; add --preset FILE, the"
                f" preset that registers it{_trained_by(run)}"
            )
    elif preset is not None:
        _fail("--preset registers the environment of an agent, and this run has none")
    where = dataclasses.replace(experiment.run, workdir=str(run), devices=devices)
    return dataclasses.replace(experiment, run=where)


def _translators(runs: Sequence[Path]) -> list[Any]:
    """The experiments of run folders that hold translators."""
    experiments = [_experiment(run) for run in runs]
    for run, experiment in zip(runs, experiments, strict=True):
        if not hasattr(experiment, "decoding"):
            _fail(f"{run} has no translator; translating takes runs of sequence to sequence")
    return experiments


def _trained_by(run: Path) -> str:
    """The command that began the run, as an addition to a message; it names the preset."""
    file = run / "command.txt"
    commands = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return f" (the run began with {commands[0][:200]!r})" if commands else ""


def _report(runs: Sequence[Path], output: Path, console: Console) -> None:
    """The report that closes a training; a missing plotting library does not spoil the run."""
    from jaxai.report import pictures

    if not pictures.available():
        say(console, "no report: it needs matplotlib; pip install '.[demo]' in the checkout")
        return
    from jaxai.report import write_report

    with pictures.optional(console, "the report could not be written"):
        say(console, f"report: {write_report(runs, output)}")


def _configure_jax() -> None:
    """Keeps compiled programs between runs, the small ones too: a second start takes seconds (docs of jax)."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            programs = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxai" / "xla"
            programs.mkdir(parents=True, exist_ok=True)
            if os.access(programs, os.W_OK):
                jax.config.update("jax_compilation_cache_dir", str(programs))
        except (RuntimeError, OSError):  # a user without a home folder that may be written keeps no programs
            logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which would tell of the same in many words
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
