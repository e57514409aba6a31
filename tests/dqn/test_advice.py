"""What trains, but hardly as it was meant, is said in a line; what is usual is not."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import dqn
from jaxai.dqn import advice
from jaxai.dqn.environment import Environment
from jaxai.dqn.replay_buffer import TRUNCATED
from jaxai.experiments.qlearning import figures
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.experiments.qlearning.sweep import Grid, Sweep
from jaxai.runtime import chips
from jaxai.runtime.config import Run
from jaxai.runtime.presets import load_preset
from tests.dqn.chain import changed, started

PRESETS = sorted(path for path in Path("configs").glob("*.py") if "jaxai.dqn" in path.read_text())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"target_rate": 0.005},
            "target_rate 0.005 with target_every 500: the target network lags about 100,000 of 49",
        ),
        ({"target_rate": 0.005, "target_every": 10}, ""),
        ({"target_rate": 0.5}, ""),
        ({"target_every": 10_000}, ""),
        ({"target_every": 600_000}, "the target network lags about 600,000 of 490,000 environment steps behind; lower"),
        ({"target_rate": 0.0}, "target_rate 0 with target_every 500"),
        (
            {"target_every": 4},
            "target_every is 4, below train_every: the target network is updated every 10 environmen",
        ),
        ({"target_every": 4, "target_rate": 0.005}, "target_every is 4, below train_every"),
        (
            {"total_steps": 20_000},
            "epsilon_steps is 50000 and total_steps 20000: 62% of the actions are still random at",
        ),
        ({"total_steps": 20_000, "noisy": True}, ""),
        ({"total_steps": 20_000, "epsilon": "exponential"}, ""),
        (
            {"capacity": 4_000},
            "learning_starts is 10000, above capacity: the first 6000 random steps are overwritten be",
        ),
    ],
    ids=str,
)
def test_unusual_configurations_are_said_in_a_line_each(changes: dict[str, Any], line: str) -> None:
    found = list(advice.of_config(dqn.Config(**changes)).values())
    assert len(found) == bool(line)
    assert all(line in text and "\n" not in text for text in found)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_usual(preset: Path) -> None:
    assert len(PRESETS) > 5
    assert advice.of_config(load_preset(str(preset))[0].workload) == {}


def test_one_unusual_setting_of_a_sweep_is_said() -> None:
    run = Run(mode="shard_map", devices=1)
    whole = Sweep(dqn.Config(), Environment("Catch-bsuite"), run=run, grid=Grid(target_rate=(1.0, 0.005)))
    assert "target_rate 0.005" in whole.of_run().training().log.warnings({"step": 1})["target"]


def test_draws_whose_successor_is_gone_are_a_metric_and_a_warning() -> None:
    config = changed(
        truncation_spacing=50, batch_size=380, total_steps=4000, learning_starts=400, n_step=2, capacity=800
    )
    _, train_step, state = started(config, limit=5)
    memory = state.local.memory
    time = config.warmup_steps // config.num_envs
    # By definition: of the two steps of a return, the first that a limit ended needs the successor, if it is there.
    ended, kept = np.asarray(memory.ending)[:, :time] == TRUNCATED, np.asarray(memory.final_time)
    first = np.where(ended[:, :-1], np.arange(time - 1), np.where(ended[:, 1:], np.arange(1, time), -1))
    lost = [[at >= 0 and at not in kept[env] for at in row] for env, row in enumerate(first)]
    share = float(np.mean(lost))
    assert 0.2 < share < 0.4
    _, metrics = train_step(state, None)
    assert abs(float(metrics["discarded"]) - share) < 4 * np.sqrt(share * (1 - share) / 380)
    (line,) = advice.of_call({"discarded": share}, config, ["seed 0"]).values()
    assert "of the draws are discarded: an environment truncates more often than every 50 steps" in line
    # With the limit's own spacing nothing is lost, and nothing is said.
    _, train_step, state = started(dataclasses.replace(config, truncation_spacing=0), limit=5)
    assert float(train_step(state, None)[1]["discarded"]) == 0
    assert advice.of_call({"discarded": 0.0}, config, ["seed 0"]) == {"discarded": ""}


def test_a_replay_larger_than_the_memory_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = dqn.Config(capacity=1_000_000, num_envs=10)
    experiment = Experiment(workload, Environment("Breakout-MinAtar"), run=Run(devices=1))
    # A bit for each of 400 cells, and a byte for action and ending and four for the reward: 56 bytes.
    assert (
        experiment.of_run().training().log.opening
        == "replay buffer of 1,000,000 transitions, 56 MB, in each checkpoint"
    )
    monkeypatch.setattr(chips, "memory", lambda mesh: 100_000_000)
    experiment.check()
    several = dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, seeds=4))
    message = "capacity is 1000000: replay buffer of 4 x 1,000,000 transitions, 224 MB, and there are 100 MB of "
    with pytest.raises(ValueError, match=message) as error:
        several.of_run().training()
    assert "\n" not in str(error.value)


def test_more_episodes_than_fit_the_memory_are_refused() -> None:
    experiment = Experiment(dqn.Config(evaluation_episodes=10**9), Environment("Breakout-MinAtar"), run=Run(devices=1))
    message = r"^evaluation_episodes is 1000000000: this number of environments takes [\d.,]+ TB, and there are "
    with pytest.raises(ValueError, match=message):
        experiment.of_run().training()


def test_memory_of_this_machine_is_known() -> None:
    assert 2**27 < (chips.memory(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))) or 0) < 2**45


def test_loss_of_a_diverged_seed_counts_in_no_mean() -> None:
    values = {"loss": [2.0, 0.0, 4.0], "diverged": [0.0, 0.5, 0.0], "episodes": [1.0, 0.0, 1.0]}
    sums = {"return_sum": [3.0, 0.0, 5.0], "length_sum": [9.0, 0.0, 9.0]}
    line = figures.describe({name: np.array(value) for name, value in (values | sums).items()}, 1)
    assert (line["loss"], line["loss_per_seed"], line["diverged_per_seed"]) == (3.0, [2.0, None, 4.0], [0.0, 0.5, 0.0])
    assert (line["return"], line["episodes"]) == (4.0, 2.0)
    assert jnp.isclose(line["diverged"], 1 / 6)


@pytest.mark.parametrize(("share", "steps", "said"), [(0.25, 0, True), (0.0, 0, False), (0.25, 100, False)])
def test_an_evaluation_whose_episodes_do_not_end_is_said_unless_its_steps_are_chosen(
    share: float, steps: int, said: bool
) -> None:
    means = {"return": [1.0, np.nan], "length": [27_000.0, np.nan], "unfinished": [share, np.nan]}
    values = figures.describe_evaluation({f"evaluation_{name}": np.array(value) for name, value in means.items()})
    line = advice.of_call(values, dqn.Config(evaluation_steps=steps), ["seed 0", "seed 1"])["unfinished"]
    assert line.startswith("25% of the evaluation's episodes did not end: they are cut off after 27,000 s") == said
    assert bool(line) == said
