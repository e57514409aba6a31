import dataclasses
import io
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxai import gan
from jaxai.data import Data, Images, load
from jaxai.experiments.generation.drawing import nearest_images
from jaxai.experiments.generation.experiment import Experiment
from jaxai.experiments.generation.quality import Quality, found_wrong
from jaxai.experiments.generation.trained import label_number
from jaxai.runtime import parallel
from jaxai.runtime.checkpoint import Checkpoints
from jaxai.runtime.config import Run
from jaxai.runtime.loop import flops_per_step
from jaxai.runtime.presets import load_preset
from jaxai.runtime.restore import restored_state
from jaxai.runtime.run_folder import RunFolder

CHECKOUT = Path(__file__).parents[2]
EXAMPLES, BATCH, CLASSES, STEPS, EVERY = 160, 16, 4, 20, 10
ADAM = gan.Optimizer("adam", learning_rate=1e-2, b1=0.5)
WORKLOAD = gan.Config(
    width=2,
    latent_size=8,
    conditional=True,
    ema_decay=0.9,
    generator_optimizer=ADAM,
    discriminator_optimizer=ADAM,
)
MEASURES = ("kernel_distance", "precision", "recall", "density", "coverage")


@pytest.fixture(scope="module")
def images():
    return load(Data("synthetic", image_shape=(8, 8, 1), num_classes=CLASSES, examples=EXAMPLES, test_examples=40))


def experiment(workdir, workload=WORKLOAD, **settings):
    run = Run(workdir=str(workdir), devices=1, steps_per_call=5, evaluate_every=EVERY)
    settings = {"extractor": "pixels", "samples": 200, "epochs": 2.0, "batch_size": BATCH} | settings
    return Experiment(workload, run=run, **settings)


def train(workdir, images, callbacks=(), **settings):
    console = Console(file=io.StringIO(), width=200)
    return experiment(workdir, **settings).bind(images, console).train(
        console, callbacks=callbacks
    ), console.file.getvalue()


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """The one training that nearly all tests look at: folder, outcome, and what was shown."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return workdir, *train(workdir, images)


def resolved(workdir):
    return RunFolder(workdir).load_config().of_run()


def evaluations(workdir):
    return [line for line in RunFolder(workdir).lines("metrics.jsonl") if "frechet_distance" in line]


def saved(workdir, which="latest"):
    run = dataclasses.replace(resolved(workdir).config.run, mode="jit")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return restored_state(resolved(workdir).make(), run, parallel.make_mesh(1), checkpoints, which)


def differing(one, other):
    """Leaves of two states of which not every bit is the same."""
    one, other = (state.replace(key=jax.random.key_data(state.key)) for state in (one, other))
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
    return [path for (path, leaf), same in pairs if np.asarray(leaf).tobytes() != np.asarray(same).tobytes()]


def latents_of(key, count):
    return np.stack([jax.random.normal(jax.random.fold_in(key, index), (8,)) for index in range(count)])


def drawn_by_hand(state, key, labels):
    """Images as the networks make them, of the averaged generator, turned to bytes by NumPy."""
    generator, _ = gan.build(dataclasses.replace(WORKLOAD, dtype="float32"), (8, 8, 1), CLASSES)
    made = generator.apply(state.extra["ema"], latents_of(key, len(labels)), np.asarray(labels), train=False)
    return np.clip((np.asarray(made) + 1) * 127.5, 0, 255).round().astype(np.uint8)


def frechet_distance(first, second):
    """Heusel et al. 2017 in float64; the eigenvalues of a product of covariances are real and at least 0."""
    first, second = (each.astype(np.float64) for each in (first, second))
    covariances = np.cov(first.T), np.cov(second.T)
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)).sum()
    return np.sum((first.mean(0) - second.mean(0)) ** 2) + sum(map(np.trace, covariances)) - 2 * root


def test_run_folder_holds_pictures_and_a_result_with_floors(trained):
    workdir, outcome, text = trained
    files = {"config.json", "command.txt", "environment.json", "metrics.jsonl", "timing.jsonl", "result.json"}
    files |= {"data.json", "metrics.json", "README.md"}
    assert {path.name for path in workdir.iterdir()} - {"warnings.jsonl"} == files | {
        *("checkpoints", "pictures", "reference.npz")
    }
    result = json.loads((workdir / "result.json").read_text())
    assert result == outcome.result
    assert {f"{name}_floor" for name in MEASURES} | {"frechet_floor", *MEASURES} <= result.keys()
    assert (result["extractor"], result["steps"], result["devices"]) == ("pixels-8x8", STEPS, 1)
    for name in ("precision", "recall", "coverage"):
        assert 0 <= result[name] <= 1
    assert "Fidelity in the features of pixels-8x8" in text
    assert "kernel distance" in text
    assert "expected" not in text


def test_fidelity_is_measured_untrained_and_at_each_evaluation(trained):
    workdir, outcome, _ = trained
    lines = evaluations(workdir)
    assert [line["step"] for line in lines] == [0, EVERY, STEPS]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    distances = [line["frechet_distance"] for line in lines]
    result = outcome.result
    assert (result["frechet_untrained"], result["frechet_distance"]) == (distances[0], distances[-1])
    assert result["frechet_improvement"] == pytest.approx(distances[0] / distances[-1])
    assert result["best_frechet_distance"] == min(distances)
    assert result["best_step"] == lines[int(np.argmin(distances))]["step"]
    assert {line["frechet_floor"] for line in lines} == {result["frechet_floor"]}
    calls = [line for line in RunFolder(workdir).lines("metrics.jsonl") if "generator_loss" in line]
    assert [line["step"] for line in calls] == [5, 10, 15, 20]
    assert all(line["frechet_distance"] > line["frechet_floor"] > 0 for line in lines)


def test_reported_distance_is_that_of_images_drawn_by_hand_from_the_last_state(trained, images):
    workdir, outcome, _ = trained
    used = EXAMPLES // 2
    key = jax.random.fold_in(jax.random.key(0), 1_000_000)
    made = drawn_by_hand(saved(workdir), key, np.arange(used) % CLASSES)
    reference = jax.random.permutation(jax.random.split(jax.random.key(0))[0], EXAMPLES)[:used]
    halves = [each.reshape(used, -1) / 255 for each in (images.train["image"][np.asarray(reference)], made)]
    assert frechet_distance(*halves) == pytest.approx(outcome.result["frechet_distance"], rel=1e-3)


def test_pictures_show_samples_progress_the_way_between_latents_and_neighbours(trained):
    workdir, _, _ = trained
    pictures = workdir / "pictures"
    captions = json.loads((pictures / "captions.json").read_text())
    assert set(captions) == {"samples.png", "progress.gif", "interpolation.png", "neighbours.png"}
    assert "a column for each label" in captions["samples.png"]
    for name, rows, columns in (("samples", 8, CLASSES), ("interpolation", 8, 10), ("neighbours", 8, 6)):
        with Image.open(pictures / f"{name}.png") as picture:
            width, height = columns * 10 + 2, rows * 10 + 2
            assert picture.width * height == picture.height * width
            assert picture.width % width == 0
    with Image.open(pictures / "progress.gif") as animation:
        assert animation.n_frames == len(list((pictures / "progress").glob("*.png"))) == 3


def test_neighbours_tell_copies_from_images_as_far_as_new_ones(images):
    copies, ratio = nearest_images(WORKLOAD, images.train["image"][:64], images)
    assert ratio == 0
    cells = copies[2:].reshape(8, 10, -1, 1)[:, :8, 2:]
    np.testing.assert_array_equal(cells[:, :, :8], cells[:, :, 10:18])
    np.testing.assert_array_equal(cells[:, :, :8], images.train["image"][:8])
    assert nearest_images(WORKLOAD, images.test["image"], images)[1] == pytest.approx(1)
    floats = [{**part, "image": np.float32(part["image"] / 255)} for part in (images.train, images.test)]
    as_floats, same_ratio = nearest_images(
        WORKLOAD, images.train["image"][:64], dataclasses.replace(images, train=floats[0], test=floats[1])
    )
    np.testing.assert_array_equal(as_floats, copies)
    assert same_ratio == ratio


def test_training_stopped_at_half_ends_bitwise_where_the_other_did(trained, images, tmp_path, signal_at):
    workdir, outcome, _ = trained
    first, text = train(tmp_path / "run", images, [signal_at("frechet_distance", 2)])
    assert first.interrupted == "SIGTERM"
    assert f"saved at step {EVERY}" in text
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run" / "pictures").glob("*.*"))
    rest, text = train(tmp_path / "run", images)
    assert f"continuing at step {EVERY} of {STEPS}" in text
    for which in ("latest", "best"):
        assert differing(saved(tmp_path / "run", which), saved(workdir, which)) == []
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    clock = {"seconds", "compile_seconds", "examples_per_second_per_chip"}
    assert rest.result.keys() == outcome.result.keys()
    assert {name: rest.result[name] for name in rest.result.keys() - clock} == {
        name: outcome.result[name] for name in outcome.result.keys() - clock
    }
    for name in ("samples.png", "progress.gif", "interpolation.png", "neighbours.png", "captions.json"):
        assert (tmp_path / "run/pictures" / name).read_bytes() == (workdir / "pictures" / name).read_bytes()


def test_finished_training_started_again_changes_nothing_and_measures_nothing(trained, images, monkeypatch):
    workdir, outcome, _ = trained
    before = {name: (workdir / name).read_bytes() for name in ("metrics.jsonl", "result.json", "timing.jsonl")}
    measured = []
    for name in ("at_the_end", "during_training"):
        monkeypatch.setattr(Quality, name, lambda *arguments: measured.append(arguments))
    again, text = train(workdir, images)
    assert f"continuing at step {STEPS} of {STEPS}" in text
    assert again.result == outcome.result
    assert differing(again.state, outcome.state) == []
    assert {name: (workdir / name).read_bytes() for name in before} == before
    assert measured == []


def test_samples_follow_from_the_seed_and_few_are_the_first_of_many(trained):
    many = resolved(trained[0]).trained().samples(20, seed=3)
    assert many.image.shape == (20, 8, 8, 1)
    assert many.image.dtype == np.uint8
    assert many.label.tolist() == [index % CLASSES for index in range(20)]
    assert many.label.dtype == np.int32
    np.testing.assert_allclose(many.latent, latents_of(jax.random.key(3), 20), rtol=1e-6)
    for one, other in zip(resolved(trained[0]).trained().samples(5, seed=3), many, strict=True):
        np.testing.assert_array_equal(one, other[:5])
    other = resolved(trained[0]).trained().samples(5, seed=4)
    assert (other.image != many.image[:5]).any()
    assert (other.latent != many.latent[:5]).all()


def test_samples_are_those_of_the_averaged_generator_and_of_the_label_that_was_asked(trained):
    workdir, _, _ = trained
    for which in ("latest", "best"):
        for label in (None, CLASSES - 1):
            found = resolved(workdir).trained(which).samples(6, label, 3)
            labels = np.arange(6) % CLASSES if label is None else np.full(6, label)
            assert found.label.tolist() == labels.tolist()
            expected = drawn_by_hand(saved(workdir, which), jax.random.key(3), labels)
            # XLA may fuse what NumPy rounds in between.
            np.testing.assert_allclose(found.image.astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), r"^count is 0; it must be at least 1$"),
        ((1, CLASSES), rf"^label is {CLASSES}; this model has the labels 0 to {CLASSES - 1}$"),
        ((1, -1), r"^label is -1; this model has the labels"),
    ],
)
def test_what_cannot_be_sampled_is_refused(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        resolved(trained[0]).trained().samples(*arguments)


def test_unconditional_model_takes_no_label_and_a_run_without_checkpoint_gives_no_samples(tmp_path):
    plain = experiment(tmp_path, dataclasses.replace(WORKLOAD, conditional=False))
    with pytest.raises(ValueError, match=r"^label is 1, but this model takes none; .*--conditional$"):
        label_number(plain, 1)
    with pytest.raises(ValueError, match="has no best checkpoint"):
        plain.of_run().trained()


def test_evaluate_finds_what_the_training_found_of_the_same_checkpoint(trained, images):
    workdir, outcome, _ = trained
    console = Console(file=io.StringIO(), width=200)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.png")}
    for which, step in (("latest", STEPS), ("best", outcome.result["best_step"])):
        found = RunFolder(workdir).load_config().of_run(images).evaluate(console, which)
        assert (found["step"], found["checkpoint"]) == (step, which)
        (line,) = [line for line in evaluations(workdir) if line["step"] == step]
        for name in ("frechet_distance", "frechet_floor", "test_d_real"):
            assert found[name] == pytest.approx(line[name], rel=1e-4)
        assert found["extractor"] == line["extractor"]
        assert {f"{name}_floor" for name in MEASURES} <= found.keys()
        if which == "latest":
            assert {name: found[name] for name in MEASURES} == pytest.approx(
                {name: outcome.result[name] for name in MEASURES}, rel=1e-4
            )
    assert "kernel distance" in console.file.getvalue()
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.png")} == before


def test_another_extractor_than_the_runs_is_refused_in_one_line_that_names_both(trained, images):
    workdir, _, _ = trained
    stored = (workdir / "reference.npz").read_bytes()
    with np.load(workdir / "reference.npz") as arrays:
        reference = dict(arrays)
    # As if the run had been measured by a network.
    np.savez(workdir / "reference.npz", **reference | {"extractor": np.asarray("mine-0123abcd")})
    try:
        for refused in (
            lambda: RunFolder(workdir).load_config().of_run(images).evaluate(Console(), "latest"),
            lambda: train(workdir, images),
        ):
            with pytest.raises(ValueError, match=r"pixels-8x8.*mine-0123abcd") as error:
                refused()
            assert "\n" not in str(error.value)
    finally:
        (workdir / "reference.npz").write_bytes(stored)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_two_devices_measure_what_one_measures(trained, images, tmp_path, mode):
    workdir, _, _ = trained
    state, mesh = saved(workdir), parallel.make_mesh(2)
    training = experiment(tmp_path).bind(images).training()
    (tmp_path / "pictures").mkdir()
    found = training.scoring.measure(mesh, parallel.place_state(state, mesh, mode))
    assert found["frechet_distance"] == pytest.approx(evaluations(workdir)[-1]["frechet_distance"], rel=1e-3)


def call_of(accuracy=0.7, norm=0.1):
    return {"step": 50, "discriminator_accuracy": accuracy, "discriminator_grad_norm": norm}


def modes(covered, real=10, accuracy=0.9, confident=0.9):
    """An evaluation by a classifier, with what it says of real images."""
    values = {"step": 10, "modes_covered": covered, "modes_covered_floor": real, "confident_floor": confident}
    return values if accuracy is None else values | {"label_accuracy_floor": accuracy}


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (call_of(accuracy=0.9995), "discriminator", ["collapsed", "99.95%", "--diffaugment"]),
        (call_of(norm=5e-8), "discriminator", ["collapsed", "5e-08", "--loss"]),
        (modes(7), "modes", ["mode collapse", "7 labels", "10 of the real", "1%"]),
        (modes(2, real=3, accuracy=None), "modes", ["mode collapse", "2 labels", "3 of the real"]),
    ],
    ids=["accuracy", "gradient", "modes", "unknown labels"],
)
def test_collapse_is_told_in_a_line(values, kind, words):
    found = found_wrong(values)
    assert found.keys() == {kind}
    assert "\n" not in found[kind]
    assert [word for word in words if word not in found[kind]] == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (call_of(), {"discriminator": ""}),
        (call_of(accuracy=0.999, norm=1e-7), {"discriminator": ""}),
        (modes(8), {"modes": ""}),
        (modes(1, real=1, accuracy=None), {"modes": ""}),
        (modes(1, accuracy=0.7), {"modes": ""}),
        (modes(1, accuracy=None, confident=0.7), {"modes": ""}),
        (modes(1) | {"step": 0}, {}),
        ({"step": 10, "frechet_distance": 3.0}, {}),
    ],
    ids=["call", "nearly", "modes", "one label", "other images", "unsure", "untrained", "pixels"],
)
def test_what_is_well_is_not_told(values, expected):
    assert found_wrong(values) == expected


def of_shape(images, shape):
    """The same labels, on noise of another shape."""
    pixels = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *shape), np.uint8)
    return Images({**images.train, "image": pixels}, {**images.train, "image": pixels}, images.classes, "noise")


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (30, 30, 1), r"images are 30x30x1.*multiples of 4"),
        ({"batch_size": EXAMPLES + 1}, (8, 8, 1), rf"batch_size is {EXAMPLES + 1}.*the {EXAMPLES} training images"),
        ({"batch_size": 0}, (8, 8, 1), r"batch_size is 0"),
        ({"epochs": 0.0}, (8, 8, 1), r"epochs is 0.0; it must be above 0"),
        ({"samples": 0}, (8, 8, 1), r"samples is 0; it must be at least 1"),
        ({"fidelity_samples": 90}, (8, 8, 1), r"fidelity_samples is 90, and there are 160 real images.*at least 65"),
        ({"extractor": "mnits"}, (8, 8, 1), r"no extractor 'mnits'"),
        ({"extractor": "mnist"}, (8, 8, 1), r"takes images of shape \[28, 28, 1\]"),
        ({"workload": dataclasses.replace(WORKLOAD, discriminator_steps=11)}, (8, 8, 1), r"with 11 updates"),
        ({"workload": dataclasses.replace(WORKLOAD, discriminator_steps=0)}, (8, 8, 1), r"discriminator_steps is 0"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_in_one_line_and_leaves_no_run_behind(images, tmp_path, settings, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        train(tmp_path / "run", of_shape(images, shape), **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_schedules_end_with_the_training_of_each_network(images):
    several = experiment("unused", dataclasses.replace(WORKLOAD, discriminator_steps=2), epochs=3.0).bind(images)
    training = several.training()
    assert (training.steps, training.batch_size) == (3 * EXAMPLES // (2 * BATCH), 2 * BATCH)
    assert several.config.workload.generator_optimizer.decay_steps == training.steps
    assert several.config.workload.discriminator_optimizer.decay_steps == 2 * training.steps
    assert training.log.position(training.steps) == {"epoch": 3}
    chosen = dataclasses.replace(WORKLOAD, generator_optimizer=dataclasses.replace(ADAM, decay_steps=7))
    assert experiment("unused", chosen).resolve(images).workload.generator_optimizer.decay_steps == 7


def test_flops_of_a_penalty_now_and_then_are_its_share(images):
    def counted(**penalty):
        settings = experiment("unused", dataclasses.replace(WORKLOAD, **penalty)).bind(images)
        return flops_per_step(settings.training())

    always, never, sometimes = counted(r1=1.0), counted(r1=0.0), counted(r1=1.0, r1_interval=4)
    assert always > 1.1 * never
    assert sometimes == never + (always - never) / 4


def test_every_option_is_documented(documented_options):
    options = dict(documented_options(Experiment()))
    assert {"--width", "--loss", "--extractor", "--generator-optimizer.learning-rate", "--workdir"} <= options.keys()
    assert [option for option, comment in options.items() if not comment] == []


def test_preset_of_digits_trains_on_digits_and_says_so():
    config, description, _ = load_preset(str(CHECKOUT / "configs/mnist_dcgan.py"))
    assert description.strip()
    digits = load(config.data)
    workload = config.resolve(digits).workload
    assert (workload.image_shape, workload.num_classes) == ((28, 28, 1), 10)
    assert re.match("mnist", config.data.source)
