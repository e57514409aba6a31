import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxai import cli

CLASSIFIER = '''"""A toy: an MLP on noise."""

from jaxai.cnn import Config
from jaxai.experiments.classification.experiment import Experiment
from jaxai.data import Data
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(architecture="mlp", width=6, depth=1),
    data=Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=160, test_examples=40),
    epochs=1,
    batch_size=16,
    run=Run(devices=1, steps_per_call=5),
)
'''
ADVERSARIAL = '''"""A toy: two networks of two channels."""

from jaxai.data import Data
from jaxai.gan import Config, Optimizer
from jaxai.experiments.generation.experiment import Experiment
from jaxai.runtime.config import Run

ADAM = Optimizer("adam", learning_rate=1e-2, b1=0.5)
config = Experiment(
    workload=Config(
        width=2, latent_size=8, conditional=True, ema_decay=0.9, generator_optimizer=ADAM, discriminator_optimizer=ADAM
    ),
    data=Data("synthetic", image_shape=(8, 8, 1), num_classes=4, examples=160, test_examples=40),
    samples=200,
    epochs=2,
    batch_size=16,
    run=Run(devices=1, steps_per_call=5, evaluate_every=10),
)
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The preset, a classifier's run, and an adversarial one that is measured by the classifier."""
    folder = tmp_path_factory.mktemp("cli_gan")
    (folder / "toy_mlp.py").write_text(CLASSIFIER)
    (folder / "toy_gan.py").write_text(ADVERSARIAL)
    cli.main(["train", str(folder / "toy_mlp.py"), "--workdir", str(folder / "classifier")])
    options = ("--workdir", str(folder / "gan"), "--extractor", str(folder / "classifier"))
    cli.main(["train", str(folder / "toy_gan.py"), *options])
    return folder / "toy_gan.py", folder / "classifier", folder / "gan"


def one_line(text):
    assert text.startswith("jaxai: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text


def test_training_leaves_a_report_with_its_pictures_and_what_the_classifier_says(runs):
    _, _, run = runs
    page = (run / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/gif" in page
    assert "frechet" in page.lower() or "Fréchet" in page
    result = json.loads((run / "result.json").read_text())
    assert result["extractor"].startswith("classifier-")
    assert {"frechet_distance", "frechet_floor", "frechet_untrained", "kernel_distance"} <= result.keys()
    assert len(result["label_shares"]) == 4
    assert 1 <= result["modes_covered"] <= 4
    assert 0 <= result["label_accuracy"] <= 1
    assert result["least_mode"] == pytest.approx(min(result["label_shares"]))


def test_model_card_states_the_generator_and_its_lines_draw_images(runs):
    text = (runs[2] / "README.md").read_text()
    for part in (
        "# Conditional image generator",
        "| input | labels | [examples] int32, 0 to 3 |",
        "| all | 2,044 |",
        "pipeline_tag: unconditional-image-generation",
        "| train | 160 |",
        "`frechet_distance`",
        "lower is better",
        f"jaxai sample {runs[2]} --grid",
    ):
        assert part in text
    exec(text.split("```python\n")[1].split("```")[0], scope := {})
    assert scope["images"].shape == (64, 8, 8, 1)


def test_evaluate_writes_the_figures_of_the_run(jaxai, runs):
    _, _, run = runs
    code, out, _ = jaxai("evaluate", run)
    assert code == 0
    found, result = (json.loads((run / name).read_text()) for name in ("evaluation.json", "result.json"))
    for name in ("frechet_distance", "frechet_floor", "kernel_distance", "precision", "label_accuracy"):
        assert found[name] == pytest.approx(result[name], rel=1e-4)
    assert (found["step"], found["checkpoint"], found["extractor"]) == (20, "best", result["extractor"])
    assert f"{found['frechet_distance']:.4g}" in out


def test_evaluate_in_other_features_is_refused_in_a_line_that_names_both(jaxai, runs):
    _, classifier, run = runs
    code, _, err = jaxai("evaluate", run, "--extractor", "pixels")
    assert code == 2
    assert "pixels-8x8" in one_line(err)
    assert json.loads((run / "result.json").read_text())["extractor"] in err
    code, _, err = jaxai("evaluate", classifier, "--extractor", "pixels")
    assert code == 2
    assert "--extractor" in err  # which a classifier's evaluate does not have


def test_samples_are_written_with_their_latents_as_a_grid_or_one_by_one(jaxai, runs, tmp_path):
    _, _, run = runs
    code, out, _ = jaxai("sample", run, "--count", "8", "--seed", "1", "--grid")
    folder = run / "samples" / "seed-1"
    assert code == 0
    assert out.replace("\n", "") == f"wrote {folder / 'samples.npz'} and {folder / 'grid.png'}"
    assert {path.name for path in folder.iterdir()} == {"samples.npz", "grid.png"}
    with np.load(folder / "samples.npz") as arrays:
        images, latents, labels = (arrays[name] for name in ("image", "latent", "label"))
    assert (images.shape, images.dtype, latents.shape) == ((8, 8, 8, 1), np.uint8, (8, 8))
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    with Image.open(folder / "grid.png") as grid:
        scale = 900 // 32  # as often as fits into 900 pixels; three columns of 8 pixels, and borders of 2
        assert grid.size == (32 * scale, 32 * scale)
    code, out, _ = jaxai("sample", run, "--count", "8", "--seed", "1", "--output", tmp_path / "new")
    assert code == 0
    assert out == f"wrote {tmp_path / 'new' / 'samples.npz'} and 8 PNGs\n"
    assert len(list((tmp_path / "new").glob("*.png"))) == 8
    for index, image in enumerate(images):
        with Image.open(tmp_path / "new" / f"{index:04}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image[..., 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count is 0; it must be at least 1"),
        (["--label", "4"], "--label is 4; this model has the labels 0 to 3"),
        (["--label", "-1"], "--label is -1; this model has the labels 0 to 3"),
        (["--label", "dog"], "--label is dog; this model has the labels 0 to 3, or the names of its classes"),
    ],
    ids=["none", "beyond", "negative", "name"],
)
def test_a_mistake_in_sampling_ends_with_2_and_one_line(jaxai, runs, tmp_path, options, message):
    code, _, err = jaxai("sample", runs[2], "--output", tmp_path / "none", *options)
    assert (code, one_line(err)) == (2, f"jaxai: {message}\n")
    assert not (tmp_path / "none").exists()


def test_a_run_without_generator_has_no_samples_and_one_without_checkpoint_none_yet(jaxai, runs, tmp_path):
    _, classifier, run = runs
    code, _, err = jaxai("sample", classifier)
    assert code == 2
    assert f"{classifier} is a run of classification, which has no sample" in one_line(err)
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    code, _, err = jaxai("sample", tmp_path)
    assert code == 2
    assert "has no best checkpoint" in one_line(err)
    code, _, err = jaxai("sample", tmp_path / "nothing")
    assert code == 2
    assert str(tmp_path / "nothing") in one_line(err)


def test_label_for_an_unconditional_model_is_refused(jaxai, runs, tmp_path):
    config = json.loads((runs[2] / "config.json").read_text())
    config["workload"]["conditional"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, err = jaxai("sample", tmp_path, "--label", "1")
    assert code == 2
    assert "label is 1" in one_line(err)
    assert "--conditional" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.image-shape", "30", "30", "1"], "images are 30x30x1"),
        (["--batch-size", "161"], "--batch-size is 161"),
        (["--epochs", "0"], "epochs is 0.0; it must be above 0"),
        (["--extractor", "mnits"], "no extractor 'mnits'"),
    ],
    ids=["size", "batch", "epochs", "extractor"],
)
def test_what_cannot_run_ends_with_2_and_one_line_before_a_folder_is_made(jaxai, runs, tmp_path, options, words):
    code, _, err = jaxai("train", runs[0], "--workdir", tmp_path / "run", *options)
    assert code == 2
    assert words in one_line(err)
    assert not (tmp_path / "run").exists()


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch-size", "32"], "--batch-size: 16 -> 32 cannot change"),
        (["--width", "4"], "--width: 2 -> 4 cannot change"),
        (["--discriminator-optimizer.name", "nadam"], "--discriminator-optimizer.name: adam -> nadam"),
        (["--epochs", "1"], "this configuration ends at step 10"),
    ],
    ids=["batch", "width", "optimizer", "epochs"],
)
def test_refused_change_leaves_every_byte_as_it_was(jaxai, runs, options, words):
    preset, classifier, run = runs
    before = snapshot(run)
    same = ("train", preset, "--workdir", run, "--extractor", classifier)
    code, _, err = jaxai(*same, *options, "--resume-with-changes")
    assert code == 2
    assert words in one_line(err)
    assert snapshot(run) == before


def test_real_images_of_a_conditional_run_are_judged_as_the_class_that_their_name_says(runs):
    """The same images with their classes in another order, and a classifier that has yet another."""
    from rich.console import Console

    from jaxai.experiments.generation.evaluator import Evaluator
    from jaxai.runtime.run_folder import RunFolder

    experiment = RunFolder(runs[2]).load_config()
    images, order = experiment.load(), [2, 0, 3, 1]
    table = np.argsort(order).astype(np.int32)
    other = dataclasses.replace(
        images,
        train={**images.train, "label": table[images.train["label"]]},
        test={**images.test, "label": table[images.test["label"]]},
        classes=tuple(images.classes[i] for i in order),
    )
    quiet = Console(file=io.StringIO(), width=200)
    one, two = (experiment.of_run(each).evaluate(quiet) for each in (images, other))
    assert "not that of the run" not in quiet.file.getvalue()
    assert one == two
    floors = [Evaluator(experiment, each)._quality._classified["label_accuracy_floor"] for each in (images, other)]
    assert floors[0] == floors[1]
    unlike = dataclasses.replace(images, classes=("aardvark", *images.classes[1:]))
    with pytest.raises(ValueError, match="has the class aardvark"):
        experiment.of_run(unlike).evaluate(quiet)


def test_labels_of_a_classifier_are_found_by_name(runs):
    from jaxai.experiments.generation.extractor import load_extractor

    extractor = load_extractor(str(runs[1]), (8, 8, 1))
    names = extractor.names
    assert len(names) == 4
    order = [2, 0, 3, 1]
    assert extractor.labels_of([names[i] for i in order]).tolist() == order
    assert extractor.labels_of(("aardvark", *names[1:])) is None
    assert extractor._replace(names=()).labels_of("abcd").tolist() == [0, 1, 2, 3]
