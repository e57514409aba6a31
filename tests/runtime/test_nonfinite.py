import dataclasses
import io
import json
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai import cli, cnn
from jaxai.core import Metric, State, Workload
from jaxai.data import Images
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime import nonfinite, parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.loop import fit
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder
from jaxai.runtime.training import Examples, Program, Scoring, Training

EXAMPLES, BATCH, SEED = 48, 8, 5
STEPS_PER_EPOCH = EXAMPLES // BATCH


def quiet():
    return Console(file=io.StringIO())


def step_of(example, seed=SEED):
    """The first step that learns from an example, and that step's examples: from the rule in the design alone."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), 0)
    order = np.asarray(jax.random.permutation(key, EXAMPLES))
    step = int(np.flatnonzero(order == example)[0]) // BATCH
    return step, order[step * BATCH : (step + 1) * BATCH].tolist()


def example_of(step):
    """An example that the first epoch first sees in `step`."""
    return next(example for example in range(EXAMPLES) if step_of(example)[0] == step)


def float_images():
    random = np.random.default_rng(0)

    def split(examples):
        label = np.arange(examples, dtype=np.int32) % 4
        return {"image": random.random((examples, 8, 8, 1), np.float32), "label": label}

    return Images(split(EXAMPLES), split(20), ("a", "b", "c", "d"), "floats")


def experiment(workdir, **run):
    return Experiment(
        workload=cnn.Config(architecture="mlp", width=4, depth=1, optimizer=cnn.Optimizer(name="sgd")),
        epochs=2,
        batch_size=BATCH,
        run=Run(**{"workdir": str(workdir), "seed": SEED, "devices": 1, "steps_per_call": 4} | run),
    )


def train_with_nan(workdir, example, **run):
    images = float_images()
    bound = experiment(workdir, **run).bind(images)
    images.train["image"][example, 3, 4, 0] = np.nan  # `bind` would refuse it
    with pytest.raises(FloatingPointError) as error:
        fit(bound.training(), bound.config, quiet())
    return bound.config, images, str(error.value)


@pytest.fixture(scope="module")
def nan_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("nan") / "run"
    example = example_of(2)
    return workdir, example, *train_with_nan(workdir, example)


def test_nan_image_is_found_at_its_step_with_its_batch_and_the_parameters_it_reaches(nan_run):
    workdir, example, _, _, message = nan_run
    step, indices = step_of(example)
    assert step == 2
    assert "\n" not in message
    assert message.startswith(f"step {step}: ")
    assert f"input image of example {example};" in message
    assert "gradient of Dense_0/kernel, " in message
    assert f"examples {', '.join(map(str, indices))};" in message
    assert f"jaxai replay {workdir}" in message
    report = json.loads((workdir / "nonfinite" / "report.json").read_text())
    assert report["step"] == step
    assert report["indices"] == indices
    with np.load(workdir / "nonfinite" / "batch.npz") as batch:
        assert batch["index"].tolist() == indices
        assert np.isnan(batch["image"]).any((1, 2, 3)).tolist() == [index == example for index in indices]


def test_run_stops_within_the_call_that_went_wrong(nan_run):
    workdir, *_ = nan_run
    lines = RunFolder(workdir).lines("metrics.jsonl")
    assert max((line["step"] for line in lines), default=0) <= 2


def test_last_good_checkpoint_restores_and_is_finite(nan_run):
    workdir, _, one, _, _ = nan_run
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = restored_state(one.of_run().make(), one.run, parallel.make_mesh(1), checkpoints)
    assert int(state.step) <= 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def assert_dumped_state_is_right_before(step, workdir, one, images):
    """Against single steps of the workload on one device."""
    workload, device = one.of_run().make(), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    dumped = nonfinite.restore_once(workdir / "nonfinite" / "state", like)
    state, train_step = jax.jit(workload.init)(jax.random.key(SEED)), jax.jit(workload.train_step)
    for earlier in range(step):
        _, index = step_of(example_of(earlier))
        state, _ = train_step(state, {name: array[np.array(index)] for name, array in images.train.items()})
    assert int(dumped.step) == step
    for a, b in zip(jax.tree.leaves(dumped.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_dumped_state_is_the_one_right_before_the_step(nan_run):
    workdir, _, one, images, _ = nan_run
    assert_dumped_state_is_right_before(2, workdir, one, images)


def test_replay_finds_it_again_and_names_the_operation(nan_run, capsys, monkeypatch, tmp_path):
    workdir, example, *_ = nan_run
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    cli.main(["replay", str(workdir)])
    out = capsys.readouterr().out
    assert "step 2 again on one device" in out
    assert f"image of example {example}" in out
    assert "Dense_0/kernel" in out
    assert re.search(r"first seen in: .*nan.* encountered in [a-z_]+ at cnn/\w+\.py:\d+", out)


def test_same_command_again_comes_to_the_same_error(nan_run, tmp_path):
    workdir, example, _, _, message = nan_run
    _, _, again = train_with_nan(workdir, example)
    assert again == message


@pytest.mark.parametrize(
    ("step", "run"),
    [
        (5, {"steps_per_call": 6, "placement": "host"}),
        (3, {"devices": 4, "mode": "shard_map", "checkpoint_every": 2}),
        (0, {"devices": 2, "mode": "pmap", "steps_per_call": 1}),
    ],
    ids=str,
)
def test_step_is_named_whatever_the_calls_the_placement_and_the_engine(tmp_path, step, run):
    example = example_of(step)
    one, images, message = train_with_nan(tmp_path / "run", example, **run)
    assert message.startswith(f"step {step}: ")
    assert_dumped_state_is_right_before(step, tmp_path / "run", one, images)
    report = json.loads((tmp_path / "run" / "nonfinite" / "report.json").read_text())
    assert report["indices"] == step_of(example)[1]


def test_exploding_learning_rate_stops_within_the_call_and_names_parameters(tmp_path):
    one = experiment(tmp_path / "run")
    optimizer = dataclasses.replace(one.workload.optimizer, learning_rate=1e30)
    one = dataclasses.replace(one, workload=dataclasses.replace(one.workload, optimizer=optimizer))
    with pytest.raises(FloatingPointError) as error:
        one.bind(float_images()).train(quiet())
    message = str(error.value)
    assert "\n" not in message
    step = json.loads((tmp_path / "run" / "nonfinite" / "report.json").read_text())["step"]
    assert step < 4
    assert message.startswith(f"step {step}: ")
    assert "kernel" in message
    lines = RunFolder(tmp_path / "run").lines("metrics.jsonl")
    assert lines == []


@dataclass(frozen=True)
class Hidden:
    """A configuration as `fit` takes one."""

    run: Run


def hides_the_nan(axis_name):
    """The gradient of one of two kernels is NaN at x = 0, while the loss is finite there and ever after.

    The square root's slope at 0 is infinite, and `where` multiplies it by 0; a comparison takes NaN for 0, as relu
    does in some of XLA's kernels.
    """

    def init(key):
        return State(jnp.int32(0), {"good": jnp.ones(()), "hidden": jnp.ones(())}, (), key)

    def loss(params, x):
        hidden = jnp.where(x > 0, jnp.sqrt(x * params["hidden"]), 0.0)
        return jnp.mean(jnp.square(jnp.where(hidden > 0, hidden, 0.0) - params["good"] * x))

    def train_step(state, batch):
        value, grads = jax.value_and_grad(loss)(state.params, batch["x"])
        params = jax.tree.map(lambda p, g: p - 0.01 * g, state.params, grads)
        return state.replace(step=state.step + 1, params=params), {"loss": value}

    def eval_step(state, batch):
        return {"accuracy": jnp.sum(batch["mask"]), "count": jnp.sum(batch["mask"])}

    return Workload(init, train_step, eval_step, lambda state, batch: jax.grad(loss)(state.params, batch["x"]))


def test_nan_in_one_kernel_is_caught_though_the_loss_stays_finite(tmp_path):
    example = example_of(4)
    x = np.random.default_rng(0).uniform(1, 2, EXAMPLES).astype(np.float32)
    x[example] = 0
    workload, state = hides_the_nan(None), hides_the_nan(None).init(jax.random.key(0))
    for _ in range(2):
        state, metrics = jax.jit(workload.train_step)(state, {"x": x})
        assert np.isfinite(metrics["loss"])
        assert np.isnan(state.params["hidden"])
        assert np.isfinite(state.params["good"])

    training = Training(
        Program(hides_the_nan),
        steps=12,
        data=Examples({"x": x}, BATCH),
        scoring=Scoring(STEPS_PER_EPOCH, "test_accuracy", splits={"test": {"x": x[:8]}}),
        metrics={"accuracy": Metric("accuracy", "%", better="higher")},
    )
    run = Run(workdir=str(tmp_path / "run"), seed=SEED, devices=1)
    with pytest.raises(FloatingPointError) as error:
        fit(training, Hidden(run), quiet())
    message = str(error.value)
    assert message.startswith("step 4: ")
    assert "hidden" in message.partition("on the examples")[0]
    assert "good" not in message.partition("on the examples")[0]
    assert ", ".join(map(str, step_of(example)[1])) in message
    found = nonfinite.rerun(RunFolder(run.workdir), workload)
    assert "hidden" in found
    # The slope of the square root at 0: 0.5 / 0.
    assert "encountered in div" in found


def test_folder_without_a_dump_has_nothing_to_replay(tmp_path):
    with pytest.raises(ValueError, match="has no dump of a non-finite step"):
        nonfinite.rerun(RunFolder(tmp_path), hides_the_nan(None))
