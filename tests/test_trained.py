"""Runs that are loaded, used, exported and fine-tuned. Each training is one or two seconds long."""

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxai as package
from jaxai import cnn, dqn, gan, population, seq2seq, weights
from jaxai.data import Images, digests
from jaxai.data.text import TextData
from jaxai.experiments.classification.experiment import Experiment as Classification
from jaxai.experiments.generation.experiment import Experiment as Generation
from jaxai.experiments.qlearning.experiment import Experiment as QLearning
from jaxai.experiments.translation.corpus import Tokens
from jaxai.experiments.translation.experiment import Experiment as Translation
from jaxai.report import pictures
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.run_folder import RunFolder
from tests.runtime import logistic

NAMES = ("cat", "dog", "cow", "ant")
PICTURES = np.random.default_rng(0).integers(0, 255, (700, 8, 8, 1), np.uint8)


def images(classes=NAMES):
    labels = (np.arange(64) % len(classes)).astype(np.int32)
    split = {"image": PICTURES[:64], "label": labels}
    return Images(train=split, test={name: array[:20] for name, array in split.items()}, classes=classes, name="mine")


def classification(folder, **changes):
    fields = {"width": 2, "depth": 1, "normalization": "batch", "ema_decay": 0.5, "image_shape": (8, 8, 1)}
    workload = cnn.Config(**(fields | changes))
    return Classification(workload, epochs=2, batch_size=16, run=Run(workdir=str(folder), devices=1))


NETWORKS = gan.Config(width=2, latent_size=8, conditional=True, ema_decay=0.5, image_shape=(8, 8, 1), num_classes=4)
TRANSLATION = Translation(
    seq2seq.Config(hidden=8, embed=4, bidirectional=False),
    data=TextData("reverse", examples=60, validation_examples=10, test_examples=10, longest=4),
    tokens=Tokens("character", batch=64, buckets=1),
    epochs=1,
    scored=4,
)
ENVIRONMENT = dqn.Environment("Catch-bsuite")
LEARNER = dqn.Config(
    hidden=(8,),
    total_steps=132,
    num_envs=4,
    train_every=4,
    learning_starts=36,
    batch_size=16,
    capacity=256,
    evaluation_episodes=4,
    optimizer=dqn.Optimizer(learning_rate=1e-2),
)


def written(experiment, identity=None):
    """A run folder with the checkpoints of an initial state, which takes less time than a training."""
    folder, workload = RunFolder(experiment.run.workdir), experiment.of_run().make()
    folder.open(experiment, identity)
    state = jax.jit(workload.init)(jax.random.key(0))
    with Checkpoints(folder.checkpoints, workload.stored) as checkpoints:
        checkpoints.save(state, "best")
        checkpoints.save(state)


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """They take most of the time of a training as short as these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "available", lambda: False)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of each workload."""
    folder = tmp_path_factory.mktemp("runs")
    classification(folder / "images").bind(images()).train()
    written(Generation(NETWORKS, run=Run(workdir=str(folder / "digits"))), digests.describe_images(images()))
    dataclasses.replace(TRANSLATION, run=Run(workdir=str(folder / "dates"), devices=1)).bind().train()
    written(QLearning(LEARNER, ENVIRONMENT, run=Run(workdir=str(folder / "catch"), seeds=2)))
    return folder


def digest(folder):
    """Path -> what the file holds, of everything below a folder."""
    return {
        str(path.relative_to(folder)): path.is_file() and hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
    }


def test_a_classifier_predicts_new_images(runs):
    run = package.load(runs / "images")
    probabilities = run.predict(PICTURES)
    assert probabilities.shape == (700, 4)
    assert run.classes == NAMES
    expected = jax.nn.softmax(cnn.make_predict(run.config.workload)(run.state, PICTURES))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    # One image, a few, floats and bool: the same rows.
    np.testing.assert_allclose(run.predict(PICTURES[3]), probabilities[3], atol=1e-6)
    np.testing.assert_allclose(run.predict((PICTURES[:5] / 255).astype(np.float32)), probabilities[:5], atol=1e-5)
    black_and_white = PICTURES[:2] > 127
    np.testing.assert_array_equal(run.predict(black_and_white), run.predict(black_and_white * np.uint8(255)))
    assert run.features(PICTURES[:5]).shape == (5, 4)
    assert set(run.feature_maps(PICTURES[:5], ["Conv_0"])) == {"Conv_0"}


def test_a_translator_a_generator_and_an_agent(runs):
    translator, generator, agent = (package.load(runs / name) for name in ("dates", "digits", "catch"))
    one = translator.translate("abc", method="greedy")
    assert isinstance(one, str)
    assert translator.translate(["abc", "d"], method="greedy")[0] == one
    assert len(translator.translate(["abc"], n_best=3)[0]) == 3
    drawn = generator.sample(5, label="cow", seed=1)
    assert (drawn.shape, drawn.dtype) == ((5, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(drawn[:2], generator.sample(2, label=2, seed=1))
    latents = np.ones((2, 8), np.float32)
    chex.assert_trees_all_equal(
        generator.predict({"latent": latents, "label": [1, 2]}), generator.predict(latents, [1, 2])
    )
    observation, _ = agent.env.reset(jax.random.key(0), agent.env_params)
    values = agent.predict(observation)
    assert agent.act(observation) == values.argmax() == agent.act(observation[None])[0]
    mask = np.arange(3) == values.argmin()
    assert agent.act(observation, mask) == values.argmin()
    other = package.load(runs / "catch", member=1 - agent.member)
    assert not np.array_equal(other.predict(observation), values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda runs: package.load(runs / "none"), "does not exist; give the workdir of a training"),
        (lambda runs: package.load(runs), "is no run folder: it has no config.json"),
        (lambda runs: package.load(runs / "images", "newest"), "checkpoint is 'newest'; expected best or latest"),
        (lambda runs: package.load(runs / "images", member=1), "member is 1, but .* holds one training"),
        (lambda runs: package.load(runs / "catch", member=2), "member is 2; the run has 2 trainings, 0 to 1"),
        (
            lambda runs: package.load(runs / "images").predict(PICTURES[:, :7]),
            r"images have shape \[700, 7, 8, 1\]; expected \[batch, height, width, channels\]",
        ),
        (lambda runs: package.load(runs / "images").predict(PICTURES / 255), "images have dtype float64"),
        (
            lambda runs: package.load(runs / "images").predict(PICTURES[:2].astype(np.float32)),
            r"expected floats in \[0, 1\]: divide by 255",
        ),
        (lambda runs: package.load(runs / "digits").sample(2, label="cew"), "did you mean cow?"),
        (lambda runs: package.load(runs / "dates").translate(["a"], top_k=2), "top_k has no effect with method beam"),
        (lambda runs: package.load(None), "the run folder is None; expected a path"),
        (
            lambda runs: package.load(runs / "images", env_name="mine:make"),
            "env_name is given, and .*images needs none",
        ),
        (lambda runs: package.load(runs / "images", workload=lambda axis: 3), "is a function that returns a int"),
        (lambda runs: package.load(runs / "images").init_from(None), "workload is a NoneType; expected"),
        (
            lambda runs: package.load(runs / "images").export("x", batch_size=2.5),
            "batch_size is 2.5; it must be a whole",
        ),
        (lambda runs: package.load(runs / "images").export("x", platforms=None), "platforms is None; expected a list"),
        (
            lambda runs: package.load(runs / "images").export("x", inputs=PICTURES),
            r"inputs is a ndarray; .*inputs=\(array,\)",
        ),
        (lambda runs: package.load(runs / "digits").sample(2.5), "count is 2.5; it must be a whole number"),
        (lambda runs: package.load(runs / "digits").sample(2, label=[1, 2]), r"label is \[1, 2\]; expected one number"),
        (lambda runs: package.load(runs / "dates").translate(None), "texts is a NoneType; expected a list of str"),
        (lambda runs: package.load(runs / "catch").act(np.zeros((2, 3))), r"observations have shape \[2, 3\]"),
    ],
)
def test_a_mistake_is_one_line(runs, call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        call(runs)
    assert "\n" not in str(error.value)


def test_reading_writes_nothing(runs, tmp_path, monkeypatch, jaxai):
    """Neither in the run folder nor in the working directory, and from any of them."""
    monkeypatch.chdir(tmp_path)
    before = digest(runs)
    (runs / "images").chmod(0o555)
    try:
        package.load(runs / "images").predict(PICTURES[:3])
        package.load(runs / "dates", "average").translate(["abc"])
        repr(package.load(runs / "catch").act(np.zeros((10, 5), np.float32)))
        package.load(runs / "digits").sample(2)
    finally:
        (runs / "images").chmod(0o755)
    for arguments in (["evaluate", "--help"], ["report", runs / "images", "--output", tmp_path / "page.html"]):
        assert jaxai(*arguments)[0] == 0
    assert digest(runs) == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


CONSUMER = """
import sys, numpy, jax
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
inputs = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], program.call(*(inputs[name] for name in inputs))[..., :])
assert not {name for name in sys.modules if name.split(".")[0] in ("jaxai", "flax", "optax", "orbax")}
"""


def test_an_exported_program_needs_jax_alone(runs, tmp_path):
    run = package.load(runs / "images")
    run.export(tmp_path / "images.jaxexport", platforms=["cpu", "cuda", "tpu"])
    np.savez(tmp_path / "inputs.npz", images=PICTURES[:5])
    files = [tmp_path / name for name in ("images.jaxexport", "inputs.npz", "outputs.npy")]
    subprocess.run([sys.executable, "-c", CONSUMER, *map(str, files)], check=True, cwd=tmp_path, timeout=120)
    np.testing.assert_allclose(np.load(files[2]), run.predict(PICTURES[:5]), atol=1e-6)


def test_every_workload_is_exported_for_any_batch_size(runs, tmp_path):
    def program(run, **options):
        return jax.export.deserialize(bytearray(run.export(tmp_path / "program", **options).read_bytes())).call

    generator, agent, translator = (package.load(runs / name) for name in ("digits", "catch", "dates"))
    drawn = generator.samples(3)
    made = program(generator)(drawn.latent, drawn.label)
    np.testing.assert_allclose(np.asarray(made, int), drawn.image, atol=1)
    observations = np.random.default_rng(0).random((3, 10, 5), np.float32)
    actions, values = program(agent, batch_size=3)(observations)
    np.testing.assert_array_equal(actions, agent.act(observations))
    np.testing.assert_allclose(values, agent.predict(observations), atol=1e-6)
    texts = ["abc", "da"]
    shapes = jax.ShapeDtypeStruct((1, 8), np.int32), jax.ShapeDtypeStruct((1,), np.int32)
    batch = seq2seq.make_batch([translator.source.encode(text) for text in texts], [[3], [3]])
    source = np.pad(batch["source"], ((0, 0), (0, 8 - batch["source"].shape[1])))
    tokens, lengths = program(translator, inputs=shapes)(source.astype(np.int32), batch["source_length"])
    found = [
        translator.target.decode(row[:count].tolist()) for row, count in zip(np.asarray(tokens), lengths, strict=True)
    ]
    assert found == translator.translate(texts, method="greedy")


def test_weights_come_back_as_they_were(runs, tmp_path):
    run = package.load(runs / "images")
    variables = package.load_params(run.save_params(tmp_path / "images.safetensors"))
    chex.assert_trees_all_equal(variables, run.variables)
    assert set(variables) == {"params", "batch_stats"}
    network = cnn.build(run.config.workload, 4)
    logits = network.apply(variables, cnn.normalize(run.config.workload, jnp.asarray(PICTURES[:3])), train=False)
    np.testing.assert_allclose(jax.nn.softmax(logits), run.predict(PICTURES[:3]), atol=1e-6)


def test_fine_tuning_takes_what_fits_and_reports_what_is_new(runs, tmp_path, jaxai):
    experiment = classification(tmp_path / "fine", optimizer=cnn.Optimizer("sgd", 0.0))
    shutil.copytree(runs / "images", tmp_path / "source")
    tuning = dataclasses.replace(experiment.run, init_from=str(tmp_path / "source"))
    experiment = dataclasses.replace(experiment, run=tuning)
    more = images((*NAMES, "bee"))
    training = experiment.bind(more).training()
    assert "new: Dense_1/bias (4 -> 5 classes), Dense_1/kernel (4 -> 5 classes)" in training.log.opening
    experiment.bind(more).train()
    source, result = package.load(runs / "images"), package.load(tmp_path / "fine")
    taken = {name: value for name, value in source.params.items() if name != "Dense_1"}
    chex.assert_trees_all_close({name: result.state.params[name] for name in taken}, taken, atol=1e-6)
    wider = dataclasses.replace(experiment, workload=dataclasses.replace(experiment.workload, width=3))
    wider = dataclasses.replace(wider, run=dataclasses.replace(tuning, workdir=str(tmp_path / "wider")))
    with pytest.raises(ValueError, match=r"^--init-from: .* has shape .* give the same network$"):
        wider.bind(more).train()
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(ValueError, match=r"^init_from: the run folder .* does not exist"):
        wider.bind(more)
    assert not (tmp_path / "wider").exists()
    assert not experiment.bind(more).training().log.opening  # it has begun, and needs the other run no more


def test_every_workload_starts_from_a_run(runs, tmp_path):
    def initial(experiment, source, data=None, **options):
        run = Run(workdir=str(tmp_path / "new"), devices=1, init_from=str(runs / source), **options)
        training = dataclasses.replace(experiment, run=run).bind(data).training()
        state = jax.jit(training.program.make(None).init)(jax.random.key(5))
        return training.program.prepare(state), package.load(runs / source), training.log.opening

    state, run, _ = initial(Generation(NETWORKS, batch_size=16, extractor="none"), "digits", images())
    chex.assert_trees_all_equal((state.params, state.extra["ema"]), (run.state.params, run.variables))
    state, run, opening = initial(TRANSLATION, "dates")
    chex.assert_trees_all_equal(state.params, run.params)
    assert opening.endswith("are taken")
    words = dataclasses.replace(TRANSLATION, data=dataclasses.replace(TRANSLATION.data, longest=5, seed=2))
    words = dataclasses.replace(words, tokens=Tokens("word", batch=64, buckets=1))
    assert "new: " in initial(words, "dates")[2]
    state, run, _ = initial(QLearning(LEARNER, ENVIRONMENT), "catch", seeds=2)
    for member in (0, 1):
        found = population.member_of(state, member)
        chex.assert_trees_all_equal((found.params, found.extra["target"]), (run.params, run.params))


def test_fine_tuning_in_python(runs):
    run = package.load(runs / "images")
    config = dataclasses.replace(run.config.workload, num_classes=9, optimizer=cnn.Optimizer("adam", 1e-3))
    state = jax.jit(run.init_from(cnn.make(config)).init)(jax.random.key(1))
    assert int(state.step) == 0
    chex.assert_trees_all_equal(state.extra["ema"]["params"], state.params)
    chex.assert_trees_all_equal(state.extra["batch_stats"], run.variables["batch_stats"])
    assert state.params["Dense_1"]["kernel"].shape == (4, 9)


def test_a_workload_of_ones_own_comes_out_of_its_run(tmp_path):
    run = tmp_path / "own"
    package.train(logistic.make, logistic.data(), steps=4, workdir=run, console=Console(file=io.StringIO()))
    found = package.load(run, workload=logistic.make)
    x = logistic.data()["x"].astype(np.float32)
    np.testing.assert_allclose(found.predict(x), logistic.logits(found.params, x), atol=1e-6)
    assert (found.step, found.config.steps) == (4, 4)
    with pytest.raises(ValueError, match=r"is a run of jaxai.train, .* jaxai.load\(folder, workload=workload\)"):
        package.load(run)
    chex.assert_trees_all_equal(found.init_from(logistic.make)(None).init(jax.random.key(0)).params, found.params)
    program = found.export(tmp_path / "program", inputs=(x,))
    np.testing.assert_allclose(
        jax.export.deserialize(bytearray(program.read_bytes())).call(x), found.predict(x), atol=1e-6
    )


def test_weights_keep_their_dtypes_and_names(tmp_path):
    variables = {"params": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}, "batch_stats": {"Dense_0/kernel/u": jnp.ones(2)}}
    chex.assert_trees_all_equal(weights.load(weights.save(tmp_path / "a", variables, {"step": 3})), variables)
    (tmp_path / "b").write_text("{}")
    with pytest.raises(ValueError, match="b: it is not a safetensors file, or is damaged"):
        weights.load(tmp_path / "b")


def test_a_run_of_the_first_version_is_loaded(runs, tmp_path):
    shutil.copytree(runs / "images", tmp_path / "old")
    config = json.loads((tmp_path / "old/config.json").read_text())
    config["type"] = "jaxai.cnn.experiment:Experiment"
    config["workload"]["compute_dtype"] = config["workload"].pop("dtype")
    del config["run"]["init_from"]
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    (tmp_path / "old/data.json").unlink()
    run = package.load(tmp_path / "old")
    np.testing.assert_array_equal(run.predict(PICTURES[:2]), package.load(runs / "images").predict(PICTURES[:2]))
    assert run.classes == ("0", "1", "2", "3")
