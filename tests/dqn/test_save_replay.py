"""Checkpoints without the replay buffer: small, enough to evaluate and play; a resumed training fills it again."""

import dataclasses
import io
import json
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxai import dqn
from jaxai.dqn.config import make_replay_buffer
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.runtime.loop import fit
from jaxai.runtime.run_folder import RunFolder
from tests.dqn.chain import BONUS, PLACES, REWARDS, Chain, changed, data
from tests.dqn.test_experiment import STEPS, experiment


def of(replay: bool, workdir: Any, **run: Any) -> Experiment:
    whole = experiment(workdir, **run)
    return dataclasses.replace(whole, workload=dataclasses.replace(whole.workload, save_replay=replay))


@pytest.mark.parametrize(
    ("steps", "options"),
    [(3, {"frame_stack": 2}), (41, {"prioritized": True, "n_step": 2}), pytest.param(40, {}, marks=pytest.mark.slow)],
    ids=str,
)
def test_every_draw_from_a_replay_filled_anew_is_a_step_of_the_environment(steps: int, options: Any) -> None:
    config = changed(capacity=160, train_every=12, total_steps=1000, save_replay=False, **options)
    workload = dqn.make(config, Chain())
    state = jax.jit(workload.init)(jax.random.key(0)).replace(step=np.int32(steps))
    stored = workload.stored(state)
    assert stored.local is None
    renewed = jax.jit(workload.renewed)(stored)
    np.testing.assert_equal(data(renewed.replace(local=None)), data(stored))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), renewed) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    replay = make_replay_buffer(config, dqn.make_environment_spec(Chain(), None))
    time = np.int32(10 + 3 * steps)
    assert (time > replay.slots) == (steps >= 40)
    drawn = jax.jit(replay.sample, static_argnums=3)(renewed.local.memory, jax.random.key(1), time, 4000, np.float32(1))
    slots = set(np.asarray(drawn.slot).tolist())
    assert len(slots) == min(int(time) - config.n_step + 1, 40)
    batch = jax.device_get(drawn.batch)
    assert batch["mask"].all()
    place = batch["observation"][:, -PLACES:].argmax(-1)
    first = REWARDS[place] + BONUS * (batch["action"] == place % 2)
    following = batch["next_observation"][:, -PLACES:]
    np.testing.assert_array_equal(following.sum(-1), 1)
    if config.n_step == 1:
        np.testing.assert_allclose(batch["reward"], first)
        np.testing.assert_array_equal(following.argmax(-1), (place + 1) % PLACES)
        assert (batch["discount"] == 1).all()
    else:
        later = sum(REWARDS[(place + i) % PLACES] for i in range(1, config.n_step))
        whole = (following.argmax(-1) - place) % PLACES == config.n_step
        assert whole.mean() > 0.5  # the others reached a limit before
        gap = (batch["reward"] - first - later)[whole]
        assert ((gap > -1e-5) & (gap < BONUS * (config.n_step - 1) + 1e-5)).all()
    # They are what these parameters do, but for the random share, and not the warm-up's random actions.
    greedy = dqn.make_policy(config, Chain())(state, batch["observation"])
    assert (np.asarray(greedy) == batch["action"]).mean() > (0.9 if steps >= 40 else 0.4)


@pytest.mark.parametrize(
    "run", [{"seed": 1}, pytest.param({"seeds": 2, "devices": 2}, marks=pytest.mark.slow)], ids=["one", "seeds"]
)
def test_a_run_goes_on_evaluates_and_plays(run: Any, tmp_path: Any, signal_at: Any) -> None:
    console = Console(file=io.StringIO(), width=200)
    without = of(False, tmp_path / "run", **run)
    assert fit(without.bind().training(), without, console, [signal_at("evaluation_return", 1)]).interrupted
    names = json.loads((tmp_path / "run/checkpoints/latest/8/leaves/metadata").read_text())
    assert [name for name in names if "memory" in name or "environment" in name] == []
    assert any("kernel" in name for name in names)
    outcome = fit(without.bind().training(), without, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "transitions" in text
    assert "in no checkpoint" in text
    assert f"continuing at step 8 of {STEPS}; the replay buffer starts empty, so the result differs" in text
    assert outcome.result["steps"] == STEPS
    saved = RunFolder(tmp_path / "run").load_config().of_run()
    assert saved.evaluate(console, "latest", 4)["return_mean"] == pytest.approx(outcome.result["return_mean"])
    assert saved.trained().play(tmp_path / "episode.gif")["length"] == 9


def test_seeds_of_one_program_are_stored_and_renewed_alike() -> None:
    workload = of(False, "", seeds=2).of_run().make()
    state = jax.eval_shape(workload.init, jax.random.key(0))
    stored = workload.stored(state)
    assert stored.local.local is None
    assert stored.local.params is state.local.params
    assert jax.eval_shape(workload.renewed, stored) == state


def test_checkpoints_hold_the_replay_unless_told_otherwise() -> None:
    workload = of(True, "").of_run().make()
    state = jax.eval_shape(workload.init, jax.random.key(0))
    assert workload.stored(state) is state


def test_a_step_that_cannot_be_brought_back_is_said(tmp_path: Any) -> None:
    without = of(False, tmp_path / "run")
    optimizer = dataclasses.replace(without.workload.optimizer, learning_rate=1e30)
    without = dataclasses.replace(without, workload=dataclasses.replace(without.workload, optimizer=optimizer))
    message = r"^step \d+ produced a non-finite value; the replay buffer is not in the checkpoints, so the step"
    with pytest.raises(FloatingPointError, match=message):
        fit(without.bind().training(), without, Console(file=io.StringIO()))
    assert not (tmp_path / "run/nonfinite").exists()
