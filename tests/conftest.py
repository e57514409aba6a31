"""Eight fake CPU devices for every test, and one compilation cache for all of them."""

import ast
import dataclasses
import inspect
import io
import os
import signal
import tempfile
import tokenize

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # XLA sizes its thread pool from NPROC; eight devices that meet in a collective need more than two threads.
    os.environ["NPROC"] = "16"
    # The programs are many and tiny: optimizing them would take most of the time. A fusion emitter is a compiler of its
    # own; without it a program compiles in a third of the time.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    flags = ["force_host_platform_device_count=8", "cpu_use_fusion_emitters=false"]
    flags += ["cpu_parallel_codegen_split_count=1"]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *(f"--xla_{flag}" for flag in flags)])
# Programs that several tests compile, some in processes of their own, are compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jaxai-test-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file stay together, so that one worker alone makes what they share."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture
def jaxai(capsys):
    """Runs the command line in this process; returns exit code, standard output and standard error."""
    from jaxai import cli

    def run(*arguments):
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def signal_at():
    """(metric, number, name="SIGTERM") -> a callback: this process gets the signal when that metric is reported for the
    number-th time, from 1."""

    def make(metric, number, name="SIGTERM"):
        times = iter(range(1, 1000))

        def callback(step, metrics, state):
            if metric in metrics and next(times) == number:
                os.kill(os.getpid(), signal.Signals[name])

        return callback

    return make


@pytest.fixture
def documented_options():
    """A configuration -> (option, the comment on its field's line) of every field that is not a group of fields."""
    return _fields


def _comments(kind):
    """Field -> the comment on its line, read from the source by Python's own tokenizer."""
    found = {}
    for parent in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(parent):
            continue
        source = inspect.getsource(parent)
        lines = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                lines[token.start[0]] = token.string.lstrip("# ")
        (definition,) = ast.parse(source).body
        for node in definition.body:
            if isinstance(node, ast.AnnAssign):
                texts = [lines[line] for line in range(node.lineno, node.end_lineno + 1) if line in lines]
                found[node.target.id] = " ".join(texts)
    return found


def _fields(config, prefix=""):
    """(option, comment) of every field that is not a group of fields."""
    texts = _comments(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, prefix if field.name in ("workload", "run") else f"{prefix}{field.name}.")
        else:
            yield f"--{prefix}{field.name}".replace("_", "-"), texts[field.name]
