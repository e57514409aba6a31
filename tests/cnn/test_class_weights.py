"""Rare classes can weigh more in the training loss; evaluation does not know of it."""

import dataclasses
import io

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxai import cnn
from jaxai.data import Images
from jaxai.experiments.classification.experiment import Experiment
from jaxai.runtime import parallel
from jaxai.runtime.config import Run, from_dict, to_dict

WEIGHTS = (0.5, 2.0, 3.5)
PLAIN = cnn.Config(architecture="mlp", width=4, depth=1, image_shape=(4, 4, 1), num_classes=3)
WEIGHTED = dataclasses.replace(PLAIN, class_weights=WEIGHTS)
LABELS = np.array([0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 2, 1], np.int32)  # of two halves that differ
BATCH = {"image": np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8), "label": LABELS}


def started(config: cnn.Config, axis_name: str | None = None) -> tuple:
    workload = cnn.make(config, axis_name)
    return workload, jax.jit(workload.init)(jax.random.key(0))


def numpy_loss(config: cnn.Config, params: dict, images: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Keras's: each example's loss times its label's weight, over the number of examples."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = np.maximum(images.reshape(len(images), -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    logits = hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = (1 - smoothing) * labels + smoothing / labels.shape[1]
    return float(((labels @ np.array(WEIGHTS)) * -(targets * log_p).sum(-1)).mean())


@pytest.mark.parametrize(("smoothing", "mixup"), [(0.0, 0.0), (0.2, 0.0), (0.1, 1.0)], ids=str)
def test_weighted_loss_equals_numpy(smoothing: float, mixup: float) -> None:
    config = dataclasses.replace(WEIGHTED, label_smoothing=smoothing, augment=cnn.Augment(mixup=mixup))
    workload, state = started(config)
    _, metrics = jax.jit(workload.train_step)(state, BATCH)
    augment_key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    images, labels = cnn.augment(
        config.augment, augment_key, cnn.normalize(config, BATCH["image"]), jax.nn.one_hot(LABELS, 3)
    )
    expected = numpy_loss(config, state.params, np.asarray(images), np.asarray(labels, np.float64), smoothing)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("blocks", [2, 6])
def test_blocks_of_other_labels_add_up_to_the_whole_batch(blocks: int) -> None:
    whole, state = started(dataclasses.replace(WEIGHTED, gradient_blocks=1))
    parts, _ = started(dataclasses.replace(WEIGHTED, gradient_blocks=blocks))
    one, other = (jax.jit(workload.gradients)(state, BATCH) for workload in (whole, parts))
    chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_devices_of_other_labels_add_up_to_the_whole_batch(mode: parallel.Mode) -> None:
    alone, state = started(WEIGHTED)
    expected, metrics = jax.jit(alone.train_step)(state, BATCH)
    mesh = parallel.make_mesh(2)
    workload = cnn.make(WEIGHTED, parallel.axis_name(mode))
    placed = parallel.place_state(jax.tree.map(jnp.copy, state), mesh, mode)
    after, found = parallel.compile_step(workload.train_step, mesh, mode)(
        placed, parallel.place_batches(BATCH, mesh, mode)
    )
    assert float(found["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert float(found["grad_norm"]) == pytest.approx(float(metrics["grad_norm"]), rel=1e-4)
    chex.assert_trees_all_close(after.params, expected.params, rtol=1e-7, atol=1e-5)


def test_evaluation_is_not_weighted() -> None:
    sums = [jax.jit(workload.eval_step)(state, BATCH) for workload, state in map(started, (PLAIN, WEIGHTED))]
    chex.assert_trees_all_equal(*sums)


def test_balanced_weights_are_those_of_keras_and_keep_the_scale() -> None:
    weights = cnn.balanced_class_weights(LABELS, 3)
    assert weights == pytest.approx([12 / (3 * 7), 12 / (3 * 3), 12 / (3 * 2)])
    assert np.mean(np.array(weights)[LABELS]) == pytest.approx(1)
    with_empty = cnn.balanced_class_weights(LABELS, 5)
    assert with_empty == pytest.approx([*weights, 0, 0])


def test_balanced_is_filled_in_from_the_training_data(tmp_path) -> None:
    split = {name: np.asarray(array) for name, array in BATCH.items()}
    images = Images(split, {**split, "label": LABELS[::-1].copy()}, ("a", "b", "c"), "made here")
    workload = dataclasses.replace(PLAIN, class_weights="balanced")
    run = Run(workdir=str(tmp_path / "run"), devices=1, steps_per_call=1)
    experiment = Experiment(workload, epochs=1.0, batch_size=12, run=run)
    resolved = experiment.resolve(images)
    assert resolved.workload.class_weights == cnn.balanced_class_weights(LABELS, 3)
    assert from_dict(to_dict(resolved)) == resolved
    assert experiment.bind(images).train(Console(file=io.StringIO())).result["steps"] == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0), r"class_weights are \(1.0, 2.0\); give one for each of 3 classes"),
        ((0.0, 0.0, 0.0), "not all of them 0"),
        ((1.0, -1.0, 1.0), "class_weights is .* must be at least 0"),
        ((1.0, float("nan"), 1.0), "class_weights is .* must be"),
        ("balanced", "class_weights is 'balanced', .*cnn.balanced_class_weights"),
        ("blanced", "class_weights is 'blanced'; it must be one of none, balanced .did you mean balanced"),
    ],
    ids=str,
)
def test_weights_that_are_none_are_refused_in_one_line(weights, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        cnn.make(dataclasses.replace(PLAIN, class_weights=weights))
    assert "\n" not in str(error.value)


def test_weights_that_leave_no_training_image_are_refused(tmp_path) -> None:
    split = {"image": BATCH["image"], "label": LABELS % 2}
    images = Images(split, split, ("a", "b", "c"), "made here")
    workload = dataclasses.replace(PLAIN, class_weights=(0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="0 for every class that training images have"):
        Experiment(workload, batch_size=12, run=Run(workdir=str(tmp_path / "run"))).resolve(images)


@pytest.mark.parametrize("labels", [[], [0, 3], [-1, 0], [[0], [1]], [0.0, 1.0]], ids=str)
def test_labels_that_cannot_be_balanced_are_refused(labels) -> None:
    with pytest.raises(ValueError, match=r"^labels (are|have)") as error:
        cnn.balanced_class_weights(np.array(labels), 3)
    assert "\n" not in str(error.value)
