import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxai import dqn, population
from jaxai.dqn.environment import Environment, make_environment
from jaxai.experiments.qlearning.experiment import Experiment
from jaxai.experiments.qlearning.figures import describe, describe_evaluation, last_returns
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder

ENVS, EPISODE, STEPS, CALL, EVERY = 4, 9, 24, 4, 8
"""Environments; steps of every episode of Catch; train steps of a run, of a call, and between evaluations."""
WARMUP = ENVS * EPISODE
WORKLOAD = dqn.Config(
    hidden=(8,),
    total_steps=WARMUP + STEPS * ENVS,
    num_envs=ENVS,
    train_every=ENVS,
    learning_starts=WARMUP,
    batch_size=16,
    capacity=256,
    target_every=16,
    epsilon_steps=200,
    evaluation_episodes=4,
    optimizer=dqn.Optimizer(learning_rate=1e-2),
)


def experiment(workdir, **run):
    settings = {"workdir": str(workdir), "mode": "shard_map", "devices": 1, "steps_per_call": CALL}
    return Experiment(WORKLOAD, Environment("Catch-bsuite"), run=Run(**settings | {"evaluate_every": EVERY} | run))


def train(workdir, callbacks=(), **run):
    """Without the pictures, which take longer than the training."""
    bound, console = experiment(workdir, **run).bind(), Console(file=io.StringIO(), width=200)
    return fit(bound.training(), bound.config, console, callbacks), console.file.getvalue()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Seed 1, on one device, with its picture."""
    workdir = tmp_path_factory.mktemp("single") / "run"
    console = Console(file=io.StringIO(), width=200)
    return workdir, experiment(workdir, seed=1).bind().train(console), console.file.getvalue()


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Seeds 0 to 3 in one program, on two devices."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    return workdir, *train(workdir, seeds=4, devices=2)


def saved(workdir, which="latest"):
    """The checkpoint, on one device."""
    resolved = RunFolder(workdir).load_config()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        run = dataclasses.replace(resolved.run, mode="jit")
        return restored_state(resolved.of_run().make(), run, parallel.make_mesh(1), checkpoints, which)


def leaves(state):
    paths = jax.tree_util.tree_leaves_with_path(jax.tree.map(_data, state))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths}


def _data(leaf):
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def differing(one, other):
    """Leaves of which not every bit is the same."""
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    return [name for name in one if one[name].tobytes() != other[name].tobytes()]


def calls_and_evaluations(workdir):
    lines = RunFolder(workdir).lines("metrics.jsonl")
    return [line for line in lines if "loss" in line], [line for line in lines if "evaluation_return" in line]


def test_run_folder_and_result_of_one_training(single):
    workdir, outcome, text = single
    files = {"config.json", "command.txt", "environment.json", "metrics.json", "metrics.jsonl", "timing.jsonl"}
    files |= {"result.json", "README.md"}
    assert {path.name for path in workdir.iterdir()} == files | {"checkpoints", "pictures"}
    assert (workdir / "pictures" / "episode.gif").read_bytes().startswith(b"GIF")
    assert "episode.gif" in json.loads((workdir / "pictures" / "captions.json").read_text())
    result = json.loads((workdir / "result.json").read_text())
    assert result == outcome.result
    _, evaluations = calls_and_evaluations(workdir)
    assert result["return_mean"] == evaluations[-1]["evaluation_return"]
    assert result["return_per_seed"] == [result["return_mean"]]
    assert result["best_evaluation_return"] == max(line["evaluation_return"] for line in evaluations)
    assert result["length"] == EPISODE
    assert (result["steps"], result["env_steps"]) == (STEPS, WORKLOAD.total_steps)
    assert (result["seeds"], result["devices"]) == (1, 1)
    assert result["env_steps_per_second_per_chip"] > 0
    assert result["flops_per_env_step"] > 0
    assert len(result["training_return_last_100_per_seed"]) == 1
    assert "environment steps/s/chip" in text
    assert "data wait" not in text


def test_result_of_several_seeds_tells_mean_spread_and_each(four):
    workdir, outcome, _ = four
    result = json.loads((workdir / "result.json").read_text())
    assert result == outcome.result
    returns = np.array(result["return_per_seed"])
    assert len(returns) == len(result["training_return_last_100_per_seed"]) == result["seeds"] == 4
    assert len(set(returns)) > 1
    assert result["return_mean"] == pytest.approx(returns.mean())
    assert result["return_iqm"] == pytest.approx(np.sort(returns)[1:3].mean())
    assert returns.min() <= result["return_low"] < result["return_mean"] < result["return_high"] <= returns.max()
    assert result["env_steps"] == WORKLOAD.total_steps
    timing = RunFolder(workdir).lines("timing.jsonl")
    for line in timing:  # CPU devices of one machine are one chip
        expected = 4 * CALL * ENVS / line["seconds"]
        assert line["env_steps_per_second_per_chip"] == pytest.approx(expected, rel=1e-6)


def test_lines_count_the_episodes_that_ended(single, four):
    """Every episode of Catch takes nine steps, so that their number is known at any time."""
    for workdir, members in ((single[0], 1), (four[0], 4)):
        calls, evaluations = calls_and_evaluations(workdir)
        assert [line["step"] for line in calls] == list(range(CALL, STEPS + 1, CALL))
        assert [line["step"] for line in evaluations] == list(range(EVERY, STEPS + 1, EVERY))
        for line in calls:
            ended = ENVS * ((EPISODE + line["step"]) // EPISODE - (EPISODE + line["step"] - CALL) // EPISODE)
            assert line["env_steps"] == WARMUP + line["step"] * ENVS
            assert line["episodes"] == members * ended
            assert line["episode_length"] == (pytest.approx(EPISODE) if ended else None)
            assert (line["return"] is None) == (ended == 0)
            if members > 1:
                assert line["episodes_per_seed"] == [ended] * members
                assert len(line["loss_per_seed"]) == members
                assert np.mean(line["loss_per_seed"]) == pytest.approx(line["loss"])
                if ended:
                    assert np.mean(line["return_per_seed"]) == pytest.approx(line["return"], abs=1e-6)
            else:
                assert not [name for name in line if name.endswith("_per_seed")]
        assert any(line["episodes"] == 0 for line in calls)
        for line in evaluations:
            assert line["env_steps"] == WARMUP + line["step"] * ENVS
            assert len(line["evaluation_return_per_seed"]) == members
            assert line["evaluation_length"] == EPISODE


def test_training_returns_equal_those_of_steps_taken_by_hand(single):
    workload = experiment("").of_run().make()
    state, step = jax.jit(workload.init)(jax.random.key(1)), jax.jit(workload.train_step)
    calls, _ = calls_and_evaluations(single[0])
    total = number = 0.0
    for line in calls:
        returns = episodes = 0.0
        for _ in range(CALL):
            state, metrics = step(state, None)
            returns, episodes = returns + float(metrics["return_sum"]), episodes + float(metrics["episodes"])
        assert line["episodes"] == episodes
        assert line["return"] == (pytest.approx(returns / episodes, abs=1e-6) if episodes else None)
        total, number = total + returns, number + episodes
    assert number < 100  # all episodes, then
    assert single[1].result["training_return_last_100_per_seed"] == [pytest.approx(total / number, abs=1e-6)]


def test_each_of_several_seeds_trains_as_it_would_alone(single, four):
    alone, together = leaves(saved(single[0])), saved(four[0])
    member = leaves(population.member_of(together, 1))
    assert member.keys() == alone.keys()
    for name, leaf in member.items():
        np.testing.assert_allclose(leaf, alone[name], rtol=1e-5, atol=1e-6, err_msg=name)
    others = [leaves(population.member_of(together, seed).params) for seed in range(4)]
    assert all((others[0][name] != others[2][name]).any() for name in others[0])


# The seeds of one program go on below, on other devices, and end where those of the run that was not stopped do.
@pytest.mark.parametrize("which", ["single", pytest.param("four", marks=pytest.mark.slow)])
def test_interrupted_training_ends_bitwise_where_the_other_did(which, request, tmp_path, signal_at):
    workdir = request.getfixturevalue(which)[0]
    run = {"seed": 1} if which == "single" else {"seeds": 4, "devices": 2}
    first, text = train(tmp_path / "run", [signal_at("evaluation_return", 1)], **run)
    assert first.interrupted == "SIGTERM"
    assert f"saved at step {EVERY}" in text
    assert not (tmp_path / "run" / "result.json").exists()
    rest, text = train(tmp_path / "run", **run)
    assert f"continuing at step {EVERY} of {STEPS}" in text
    for checkpoint in ("latest", "best"):
        assert differing(saved(tmp_path / "run", checkpoint), saved(workdir, checkpoint)) == []
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    names = ("return_mean", "return_per_seed", "best_step", "env_steps", "training_return_last_100_per_seed")
    result = json.loads((workdir / "result.json").read_text())
    assert {name: rest.result[name] for name in names} == {name: result[name] for name in names}


@pytest.mark.parametrize("run", [{"seed": 1}, {"seeds": 4, "mode": "pmap"}], ids=["environments", "seeds-pmap"])
def test_training_saved_on_four_devices_goes_on_on_two(run, single, four, tmp_path, monkeypatch, signal_at):
    placed, place_state = [], parallel.place_state

    def remember(state, mesh, mode="jit"):
        placed.append(leaves(state))
        return place_state(state, mesh, mode)

    first, table = train(tmp_path / "run", [signal_at("evaluation_return", 1)], devices=4, **run)
    # One network, whatever the number of seeds and the engine.
    tables = [text[: text.index("training FLOPs")] for text in (table, single[2], four[2])]
    assert tables[0] == tables[1] == tables[2]
    assert "50 x 8" in table
    before = leaves(parallel.gather_state(first.state, run.get("mode", "shard_map")))
    monkeypatch.setattr(parallel, "place_state", remember)
    outcome, text = train(tmp_path / "run", devices=2, **run)
    assert f"continuing at step {EVERY} of {STEPS}" in text
    assert before.keys() == placed[0].keys()
    assert [name for name in before if before[name].tobytes() != placed[0][name].tobytes()] == []
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(outcome.state)} == {2}
    assert outcome.result["steps"] == STEPS
    if "seeds" in run:  # devices share the seeds, and nothing else
        expected = leaves(saved(four[0]))
        for name, leaf in leaves(saved(tmp_path / "run")).items():
            np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert outcome.result["return_per_seed"] == pytest.approx(four[1].result["return_per_seed"])


def test_finished_training_started_again_changes_nothing(single):
    workdir, outcome, _ = single
    before = (workdir / "metrics.jsonl").read_bytes()
    again, text = train(workdir, seed=1)
    assert f"continuing at step {STEPS} of {STEPS}" in text
    assert again.result == outcome.result
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_evaluate_measures_the_checkpoint_over_other_numbers_of_episodes(four):
    workdir, outcome, _ = four
    console = Console(file=io.StringIO(), width=200)
    with_as_many = experiment(workdir, seeds=4).of_run().evaluate(console, "latest", WORKLOAD.evaluation_episodes)
    assert with_as_many["return_per_seed"] == pytest.approx(outcome.result["return_per_seed"])
    assert with_as_many["step"] == STEPS
    assert "return_mean" in console.file.getvalue()


def test_played_member_is_the_best_of_the_checkpoints_own_evaluation(four, tmp_path):
    workdir, outcome, _ = four
    resolved = experiment(workdir, seeds=4).of_run()
    returns = {line["step"]: line["evaluation_return_per_seed"] for line in calls_and_evaluations(workdir)[1]}
    best = outcome.result["best_step"]
    assert np.argmax(returns[best]) != np.argmax(returns[STEPS])  # else this test would tell nothing
    for which, step in (("best", best), ("latest", STEPS)):
        played = resolved.trained(which).play(tmp_path / "episode.gif")
        assert played["member"] == int(np.argmax(returns[step]))
    assert played["length"] == EPISODE
    assert played["return"] in (-1.0, 1.0)
    for member in (-1, 4):
        with pytest.raises(ValueError, match=rf"^member is {member}; the run has 4 trainings, 0 to 3$"):
            resolved.trained(member=member).play(tmp_path / "other.gif")
    assert not (tmp_path / "other.gif").exists()


def test_last_returns_are_those_of_the_last_episodes_counted_by_hand():
    """Each call's returns as they were; the lines have their number and their mean."""
    ended = [[[1.0, 2.0], [5.0]], [[], [7.0]], [[4.0], [1.0, 1.0]], [[6.0, 8.0], []]]
    lines = []
    for seeds in ended:
        means = [float(np.mean(returns)) if returns else None for returns in seeds]
        counts = [float(len(returns)) for returns in seeds]
        lines.append({"return": 0.0, "episodes": 0.0, "return_per_seed": means, "episodes_per_seed": counts})
        lines.append({"evaluation_return": 1.0})
    assert last_returns(lines, 100) == [pytest.approx((1 + 2 + 4 + 6 + 8) / 5), pytest.approx((5 + 7 + 1 + 1) / 4)]
    assert last_returns(lines, 3) == [pytest.approx((4 + 6 + 8) / 3), pytest.approx((7 + 1 + 1) / 3)]
    assert last_returns(lines, 2) == [pytest.approx((6 + 8) / 2), pytest.approx((1 + 1) / 2)]
    alone = [{"return": 3.0, "episodes": 2.0}, {"return": None, "episodes": 0.0}, {"return": 6.0, "episodes": 1.0}]
    assert last_returns(alone) == [pytest.approx(4.0)]
    assert last_returns(alone[1:2]) == [None]
    assert last_returns([]) == []


@pytest.mark.parametrize("members", [1, 3])
def test_a_call_in_which_no_episode_ended_has_no_return_and_no_nan(members):
    shape = () if members == 1 else (members,)
    names = ("loss", "episodes", "return_sum", "length_sum")
    metrics = {name: np.zeros(shape, np.float32) for name in names}
    line = describe(metrics, 10)
    assert (line["episodes"], line["return"], line["episode_length"]) == (0, None, None)
    if members > 1:
        assert line["return_per_seed"] == [None] * members
    json.dumps(line, allow_nan=False)
    if members > 1:  # one seed's episodes are the mean of all
        metrics |= {"episodes": np.array([0, 0.2, 0], np.float32), "return_sum": np.array([0, 0.5, 0], np.float32)}
        line = describe(metrics, 10)
        assert (line["episodes"], line["return"]) == (2, pytest.approx(2.5))
        assert line["return_per_seed"] == [None, pytest.approx(2.5), None]
        json.dumps(line, allow_nan=False)


def test_a_diverged_seed_counts_in_no_mean_and_is_no_nan_in_json():
    metrics = {"evaluation_return": np.array([1.0, np.nan, 3.0]), "evaluation_length": np.array([5.0, np.nan, 7.0])}
    line = describe_evaluation(metrics)
    assert (line["evaluation_return"], line["evaluation_length"]) == (2.0, 6.0)
    assert line["evaluation_return_per_seed"] == [1.0, None, 3.0]
    json.dumps(line, allow_nan=False)
    line = describe_evaluation({name: np.full(2, np.nan) for name in metrics})
    assert line == {
        "evaluation_return": None,
        "evaluation_return_per_seed": [None, None],
        "evaluation_length": None,
    }


def with_config(workload=None, name="Catch-bsuite", params=None, sticky=0.0, **run):
    """What is changed -> an experiment."""
    workload = dataclasses.replace(WORKLOAD, **workload or {})
    return dataclasses.replace(experiment("", **run), workload=workload, env=Environment(name, params or {}, sticky))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "Breakout"}, "no environment 'Breakout'; did you mean Breakout-MinAtar"),
        ({"name": "Pendulum-v1"}, "Pendulum-v1 has continuous actions.*DQN needs discrete actions.*CartPole-v1"),
        ({"params": {"max_step": 5}}, "Catch-bsuite has no parameter 'max_step'; did you mean max_steps_in_episode"),
        ({"params": {"max_steps_in_episode": 0.5}}, "parameter max_steps_in_episode is 0.5; expected int"),
        ({"sticky": 1.0}, "env.sticky_actions is 1.0; it must be at least 0 and below 1"),
        ({"workload": {"capacity": 8}}, "capacity is 8, less than a batch of 16"),
        ({"workload": {"train_every": 6}}, "train_every is 6, not divisible by the 4 of num_envs"),
        ({"workload": {"learning_starts": 4}}, "learning_starts is 4: too few transitions for a batch of 16"),
        ({"evaluate_every": 25}, "evaluate_every is 25 train steps, above the 24 of total_steps"),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"seed": -1, "seeds": 2}, "seed is -1; it must be at least 0"),
        ({"devices": 3}, "num_envs 4 does not divide over 3 devices"),
        ({"devices": 2, "workload": {"batch_size": 15}}, "batch_size 15 does not divide over 2 devices"),
        ({"devices": 2, "seeds": 3}, "trainings of one program: 3 does not divide over 2 devices"),
        ({"devices": 99}, "devices is 99; this machine has 8"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_in_one_line_before_anything_compiles(changed, message, tmp_path, caplog):
    resolved = with_config(**changed)
    resolved = dataclasses.replace(resolved, run=dataclasses.replace(resolved.run, workdir=str(tmp_path / "run")))
    make_environment(Environment("Catch-bsuite"))  # its import compiles
    caplog.clear()
    with jax.log_compiles(), pytest.raises(ValueError, match=message) as error:
        resolved.bind().train(Console(file=io.StringIO()))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    assert [record.message for record in caplog.records if "compil" in record.message.lower()] == []


def test_an_environment_of_five_values_is_refused_in_python():
    env, params = make_environment(Environment("Catch-bsuite"))

    class Five:
        default_params, action_space, reset = params, env.action_space, env.reset

        def step(self, *arguments):
            observation, state, reward, terminated, _, info = env.step(*arguments)
            return observation, state, reward, terminated, info

    with pytest.raises(ValueError, match="step of Five returns 5 values; expected 6") as error:
        dqn.make(WORKLOAD, Five())
    assert "\n" not in str(error.value)
