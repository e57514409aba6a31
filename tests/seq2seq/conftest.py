"""A small run that several files of tests translate with."""

import io
import sys

import pytest

PRESET = """
from jaxai.data.text import TextData
from jaxai.runtime.config import Run
from jaxai.seq2seq import Config, Decoding, Optimizer
from jaxai.experiments.translation.corpus import Tokens
from jaxai.experiments.translation.experiment import Experiment

config = Experiment(
    workload=Config(hidden=16, embed=8, bidirectional=False, dropout=0.1, optimizer=Optimizer("adam", 3e-2)),
    data=TextData("reverse", examples=300, validation_examples=20, test_examples=20, longest=4),
    tokens=Tokens("character", batch=128, buckets=2),
    decoding=Decoding(beam=2),
    epochs=10,
    scored=10,
    run=Run(mode="shard_map", devices=2, evaluate_every=20, steps_per_call=5),
)
"""


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("preset") / "reverse.py"
    path.write_text(PRESET)
    return path


@pytest.fixture(scope="session")
def trained(preset, tmp_path_factory):
    """The folder of a run that went to its end."""
    from jaxai import cli

    folder = tmp_path_factory.mktemp("runs") / "a"
    cli.main(["train", str(preset), "--workdir", str(folder)])
    return folder


@pytest.fixture
def typed(monkeypatch):
    """Puts bytes on standard input."""

    def put(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put
