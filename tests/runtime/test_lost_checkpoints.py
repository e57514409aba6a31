"""What a run does when some of its checkpoints are damaged or deleted: nothing that is left is lost."""

import io
import shutil
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai.core import Metric, State, Workload
from jaxai.runtime import parallel
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.restore import trained_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Log, Program, Scoring, Training, position_in_epochs

EPOCH, EPOCHS = 4, 5
SCORES = (0.1, 0.9, 0.3, 0.2, 0.5)
"""Of the evaluations after each epoch: the second is the best."""


@dataclass(frozen=True)
class Config:
    """A configuration as `fit` takes one."""

    changes = None  # every field may change
    run: Run


def counter(axis_name):
    """Each step adds one; its score comes from a table."""

    def eval_step(state, batch):
        return {"score": jnp.array((0.0, *SCORES))[state.step // EPOCH], "count": jnp.float32(1)}

    return Workload(
        lambda key: State(jnp.int32(0), jnp.zeros(3), (), key),
        lambda state, batch: (state.replace(step=state.step + 1, params=state.params + 1), {"loss": state.params[0]}),
        eval_step,
    )


def train(workdir, epochs=EPOCHS, **run):
    training = Training(
        Program(counter, steps_per_call=EPOCH),
        epochs * EPOCH,
        data=None,
        scoring=Scoring(EPOCH, "test_score", splits={"test": None}),
        log=Log(position=position_in_epochs(EPOCH)),
        metrics={"score": Metric("score", better="higher")},
    )
    console = Console(file=io.StringIO(), width=200)
    outcome = fit(training, Config(Run(**{"workdir": str(workdir), "devices": 1} | run)), console)
    return outcome, console.file.getvalue()


def kept(workdir):
    return {
        which: sorted(path.name for path in (workdir / "checkpoints" / which).glob("*")) for which in ("latest", "best")
    }


def damage(workdir, *names):
    for name in names:
        files = [path for path in (workdir / "checkpoints" / name / "state").rglob("*") if path.is_file()]
        file = max(files, key=lambda path: path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


def delete(workdir, *names):
    for name in names:
        shutil.rmtree(workdir / "checkpoints" / name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of five evaluations: checkpoints latest/16, latest/20 and best/8."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(workdir)
    assert kept(workdir) == {"latest": ["16", "20"], "best": ["8"]}
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("lose", [damage, delete])
@pytest.mark.parametrize(("names", "step"), [(["latest/20"], 16), (["latest/20", "latest/16"], 8)])
def test_training_goes_on_at_the_newest_that_is_whole_and_ends_as_if_nothing_had_been(
    finished, run, caplog, lose, names, step
):
    lose(run, *names)
    outcome, text = train(run)
    assert f"continuing at step {step} of 20" in text
    np.testing.assert_array_equal(outcome.state.params, 20.0)
    assert (run / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    now = kept(run)
    assert now["best"] == ["8"]
    assert [name for name in now["latest"] if name.isdigit()] == ["16", "20"]
    if lose is damage:
        assert [name for name in now["latest"] if not name.isdigit()] == sorted(f"damaged-{n[7:]}" for n in names)
        assert [
            record.getMessage().split(" (")[0] for record in caplog.records if record.name == "jaxai.runtime.checkpoint"
        ] == [f"checkpoint of step {name[7:]} is damaged" for name in names]


@pytest.mark.parametrize("lose", [damage, delete])
def test_where_nothing_is_left_training_stops_in_one_line_and_touches_nothing(run, lose):
    lose(run, "latest/20", "latest/16", "best/8")
    files = ("metrics.jsonl", "timing.jsonl", "result.json")
    before = [(run / name).read_bytes() for name in files], kept(run)
    with pytest.raises(
        ValueError, match="was trained to step 20, but has no undamaged checkpoint to continue from"
    ) as error:
        train(run)
    message = str(error.value)
    assert "\n" not in message
    assert "another --workdir" in message
    if lose is damage:
        assert "latest/20 (damaged: state/" in message
        assert "best/8 (damaged: state/" in message
    assert ([(run / name).read_bytes() for name in files], kept(run)) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    train(tmp_path, epochs=1)
    delete(tmp_path, "latest/4", "best")
    (tmp_path / "result.json").unlink()
    outcome, _ = train(tmp_path, epochs=1)
    np.testing.assert_array_equal(outcome.state.params, 4.0)


def test_best_checkpoint_newer_than_the_latest_is_gone_on_from(tmp_path):
    """As a kill leaves it between the writing of the two."""
    train(tmp_path, epochs=2)
    delete(tmp_path, "latest/8")
    _, text = train(tmp_path, epochs=EPOCHS, resume_with_changes=True)
    assert "continuing at step 8 of 20" in text
    assert kept(tmp_path) == {"latest": ["16", "20"], "best": ["8"]}


@pytest.mark.parametrize("lose", [damage, delete])
def test_a_lost_best_is_said_and_the_next_best_takes_its_place(tmp_path, caplog, lose):
    train(tmp_path, epochs=3)
    lose(tmp_path, "best/8")
    outcome, _ = train(tmp_path, epochs=EPOCHS)
    assert "the best checkpoint, of step 8, is missing" in caplog.text
    # Of the steps that still have or had a checkpoint to keep (12, 16, 20) the last scores best.
    assert [name for name in kept(tmp_path)["best"] if name.isdigit()] == ["20"]
    assert (outcome.result["best_step"], outcome.result["best_test_score"]) == (20, pytest.approx(0.5))


def test_best_that_a_kill_left_unwritten_is_written_after_all(tmp_path, caplog):
    train(tmp_path, epochs=2)
    delete(tmp_path, "best/8")
    train(tmp_path, epochs=3)
    assert kept(tmp_path)["best"] == ["8"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("lose", "names", "which", "message"),
    [
        (
            damage,
            ["latest/20", "latest/16"],
            "latest",
            r"no undamaged latest checkpoint; there is .*best/8; choose checkpoint best",
        ),
        (
            delete,
            ["best"],
            "best",
            "no undamaged best checkpoint; there is latest/20, latest/16; choose checkpoint latest",
        ),
        (delete, ["best", "latest"], "best", "no best checkpoint; train it first with jaxai train"),
    ],
)
def test_reader_that_finds_nothing_says_what_is_there(run, lose, names, which, message):
    lose(run, *names)
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        trained_state(counter(None), Run(workdir=str(run)), parallel.make_mesh(1), which)
    assert "\n" not in str(error.value)
    assert sorted(run.rglob("*")) == before


def test_reader_skips_a_damaged_checkpoint_says_so_and_leaves_it(run, caplog):
    damage(run, "latest/20")
    state = trained_state(counter(None), Run(workdir=str(run)), parallel.make_mesh(1))
    assert int(state.step) == 16
    (record,) = caplog.records
    assert "latest/20 is damaged" in record.getMessage()
    assert "taking that of step 16" in record.getMessage()
    assert kept(run) == {"latest": ["16", "20"], "best": ["8"]}
    assert jax.tree.leaves(state.params)[0].tolist() == [16.0] * 3
    assert RunFolder(run).lines("metrics.jsonl")[-1]["step"] == 20
