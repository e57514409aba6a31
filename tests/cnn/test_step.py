import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import cnn
from jaxai.runtime import parallel

FAST = cnn.Optimizer(learning_rate=1e-2)
MLP = cnn.Config(architecture="mlp", width=8, depth=1, image_shape=(4, 4, 1), num_classes=7)


def batch(examples: int = 12, classes: int = 7) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (examples, 4, 4, 1), np.uint8)
    return {"image": image, "label": generator.integers(0, classes, examples).astype(np.int32)}


def numpy_logits(params: dict, images: np.ndarray) -> np.ndarray:
    x = (images.reshape(len(images), -1) / 255.0 - 0.5) / 0.5
    hidden = np.maximum(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    return hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def numpy_log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@functools.cache
def started(config: cnn.Config) -> tuple:
    workload = cnn.make(config)
    return workload, jax.jit(workload.init)(jax.random.key(0))


def test_loss_and_accuracy_equal_numpy() -> None:
    workload, state = started(MLP)
    _, metrics = jax.jit(workload.train_step)(state, batch())
    logits = numpy_logits(jax.device_get(state.params), batch()["image"])
    labels = batch()["label"]
    expected = -numpy_log_softmax(logits)[np.arange(len(labels)), labels].mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(-1) == labels).mean())


def test_label_smoothing_equals_its_formula() -> None:
    workload, state = started(dataclasses.replace(MLP, label_smoothing=0.2))
    _, metrics = jax.jit(workload.train_step)(state, batch())
    log_p = numpy_log_softmax(numpy_logits(jax.device_get(state.params), batch()["image"]))
    targets = 0.8 * np.eye(7)[batch()["label"]] + 0.2 / 7
    np.testing.assert_allclose(metrics["loss"], -(targets * log_p).sum(-1).mean(), rtol=1e-5)


def test_gradient_equals_finite_differences() -> None:
    workload, state = started(MLP)
    gradient = jax.device_get(jax.jit(workload.gradients)(state, batch()))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(state.params))
    labels = batch()["label"]

    def loss(value: float) -> float:
        moved = {**params, "Dense_1": {**params["Dense_1"], "kernel": params["Dense_1"]["kernel"].copy()}}
        moved["Dense_1"]["kernel"][3, 2] += value
        return -numpy_log_softmax(numpy_logits(moved, batch()["image"]))[np.arange(len(labels)), labels].mean()

    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(gradient["Dense_1"]["kernel"][3, 2], difference, rtol=1e-3, atol=1e-6)


def test_plain_gradient_descent_takes_the_gradient() -> None:
    workload, state = started(dataclasses.replace(MLP, optimizer=cnn.Optimizer("sgd", learning_rate=0.5)))
    gradient = jax.jit(workload.gradients)(state, batch())
    after, metrics = jax.jit(workload.train_step)(state, batch())
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradient)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert int(after.step) == 1


@pytest.mark.parametrize("blocks", [2, 3, 12])
def test_accumulated_gradient_equals_that_of_the_whole_batch(blocks: int) -> None:
    whole, state = started(dataclasses.replace(MLP, gradient_blocks=1))
    parts, _ = started(dataclasses.replace(MLP, gradient_blocks=blocks))
    one, other = (jax.jit(workload.gradients)(state, batch()) for workload in (whole, parts))
    chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-6)


def test_blocks_that_do_not_divide_the_batch_are_refused() -> None:
    workload, state = started(dataclasses.replace(MLP, gradient_blocks=5))
    with pytest.raises(ValueError, match="gradient_blocks is 5, which does not divide the batch of 12"):
        workload.train_step(state, batch())


def test_averaged_weights_follow_the_formula_and_are_what_evaluation_uses() -> None:
    workload, state = started(dataclasses.replace(MLP, ema_decay=0.9))
    train_step, average = jax.jit(workload.train_step), jax.device_get(state.params)
    assert state.extra["ema"].keys() == {"params"}
    for step in range(5):
        state, _ = train_step(state, batch())
        decay = min(0.9, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.asarray(p), average, state.params)
    chex.assert_trees_all_close(state.extra["ema"], {"params": average}, rtol=1e-5, atol=1e-6)
    sums = jax.jit(workload.eval_step)(state, batch())
    labels = batch()["label"]
    expected = -numpy_log_softmax(numpy_logits(average, batch()["image"]))[np.arange(len(labels)), labels].sum()
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-4)


def test_evaluation_counts_only_what_the_mask_keeps() -> None:
    workload, state = started(MLP)
    mask = np.array([1] * 9 + [0] * 3, np.float32)
    sums = jax.device_get(jax.jit(workload.eval_step)(state, batch() | {"mask": mask}))
    logits, labels = numpy_logits(jax.device_get(state.params), batch()["image"])[:9], batch()["label"][:9]
    assert sums["count"] == 9
    assert sums["accuracy"] == (logits.argmax(-1) == labels).sum()
    top5 = np.argsort(-logits, axis=-1)[:, :5]
    assert sums["top5_accuracy"] == (top5 == labels[:, None]).any(-1).sum()
    confusion = np.zeros((7, 7))
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    np.testing.assert_array_equal(sums["confusion"], confusion)


def test_random_numbers_follow_from_the_step_alone() -> None:
    config = dataclasses.replace(MLP, dropout=0.5, augment=cnn.Augment(flip="random", crop_padding=1))
    workload, state = started(config)
    train_step = jax.jit(workload.train_step)
    once, _ = train_step(state, batch())
    again, _ = train_step(state, batch())
    chex.assert_trees_all_equal(once.params, again.params)
    _, other = train_step(state.replace(step=jnp.int32(1)), batch())
    _, first = train_step(state, batch())
    assert float(other["loss"]) != float(first["loss"])
    np.testing.assert_array_equal(jax.random.key_data(once.key), jax.random.key_data(state.key))


def test_seeds_train_side_by_side_under_vmap() -> None:
    workload, _ = started(MLP)
    keys = jax.random.split(jax.random.key(1), 3)
    states = jax.jit(jax.vmap(workload.init))(keys)
    states, metrics = jax.jit(jax.vmap(workload.train_step, in_axes=(0, None)))(states, batch())
    alone, expected = jax.jit(workload.train_step)(jax.jit(workload.init)(keys[2]), batch())
    np.testing.assert_allclose(metrics["loss"][2], expected["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-6), states.params, alone.params)


def test_bfloat16_compute_keeps_float32_parameters_and_learns() -> None:
    workload, state = started(dataclasses.replace(MLP, dtype="bfloat16", optimizer=cnn.Optimizer(learning_rate=1e-2)))
    train_step, losses = jax.jit(workload.train_step), []
    for _ in range(30):
        state, metrics = train_step(state, batch())
        losses.append(float(metrics["loss"]))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    assert metrics["loss"].dtype == jnp.float32
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1"),
        ({"image_std": (0.0,)}, "image_std is"),
        ({"image_mean": (0.1, 0.2)}, "image_mean has 2 values"),
        ({"image_mean": (125.3,)}, r"image_mean is \(125.3,\), and images are in \[0, 1\]: divide it by 255"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"gradient_blocks": -1}, "gradient_blocks is -1"),
    ],
)
def test_a_value_that_cannot_be_trained_with_is_refused_in_one_line(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        cnn.make(dataclasses.replace(MLP, **change))
    assert "\n" not in str(caught.value)


def test_accuracy_compares_with_the_label_and_one_out_of_range_is_never_right() -> None:
    workload, state = started(MLP)
    labels = numpy_logits(jax.device_get(state.params), batch()["image"]).argmax(-1).astype(np.int32)
    for wrong in (-1, 7, 100):
        given = labels.copy()
        given[[2, 5, 6]] = wrong
        _, metrics = jax.jit(workload.train_step)(state, batch() | {"label": given})
        sums = jax.jit(workload.eval_step)(state, batch() | {"label": given})
        assert float(metrics["accuracy"]) == pytest.approx(9 / 12)
        assert float(sums["accuracy"]) == 9
        assert np.isnan(metrics["loss"])
        assert np.isnan(sums["loss"])
        kept = np.ones(12, np.float32)
        kept[[2, 5, 6]] = 0
        assert np.isfinite(jax.jit(workload.eval_step)(state, batch() | {"label": given, "mask": kept})["loss"])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_accuracy_of_a_mixture_is_the_share_of_the_label_that_was_predicted(kind: str) -> None:
    config = dataclasses.replace(MLP, augment=cnn.Augment(**{kind: 1.0}))
    workload, state = started(config)
    _, metrics = jax.jit(workload.train_step)(state, batch())
    augment_key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    normalized = cnn.normalize(config, batch()["image"])
    images, mixed = cnn.augment(config.augment, augment_key, normalized, jax.nn.one_hot(batch()["label"], 7))
    logits = numpy_logits(jax.device_get(state.params), (np.asarray(images) + 1) * 127.5)
    expected = np.asarray(mixed)[np.arange(12), logits.argmax(-1)].mean()
    np.testing.assert_allclose(metrics["accuracy"], expected, rtol=1e-5)


NORMALIZED = dataclasses.replace(MLP, normalization="batch")


@pytest.mark.parametrize(
    ("changes", "examples"), [({}, 1), ({"gradient_blocks": 12}, 12)], ids=["one image", "blocks of one image"]
)
def test_batch_statistics_of_a_single_value_are_refused_in_training(changes: dict, examples: int) -> None:
    workload = cnn.make(dataclasses.replace(NORMALIZED, **changes))
    state = jax.eval_shape(workload.init, jax.random.key(0))
    with pytest.raises(ValueError, match="more than 1 value per channel, and gets 1 example") as error:
        jax.eval_shape(workload.train_step, state, batch(examples))
    assert "\n" not in str(error.value)
    jax.eval_shape(workload.eval_step, state, batch(1))
    pixels = cnn.make(dataclasses.replace(NORMALIZED, architecture="resnet", image_shape=(8, 8, 1)))
    one = {"image": np.zeros((1, 8, 8, 1), np.uint8), "label": np.zeros(1, np.int32)}
    jax.eval_shape(pixels.train_step, jax.eval_shape(pixels.init, jax.random.key(0)), one)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_devices_of_one_image_each_share_their_batch_statistics(mode: parallel.Mode) -> None:
    mesh, config = parallel.make_mesh(2), dataclasses.replace(NORMALIZED, ema_decay=0.5)
    workload = cnn.make(config, parallel.axis_name(mode))
    alone, state = started(config)
    expected, _ = jax.jit(alone.train_step)(state, batch(2))
    placed = parallel.place_state(jax.tree.map(jnp.copy, state), mesh, mode)
    after, _ = parallel.compile_step(workload.train_step, mesh, mode)(
        placed, parallel.place_batches(batch(2), mesh, mode)
    )
    chex.assert_trees_all_close(after.extra, expected.extra, rtol=1e-3, atol=1e-5)
    one = parallel.make_mesh(1)
    placed = parallel.place_state(jax.tree.map(jnp.copy, state), one, mode)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        parallel.compile_step(workload.train_step, one, mode)(placed, parallel.place_batches(batch(1), one, mode))


AVERAGED = dataclasses.replace(NORMALIZED, ema_decay=0.9, dropout=0.5)


def numpy_hidden(variables: dict, images: np.ndarray) -> np.ndarray:
    """What enters the batch normalisation."""
    return (images.reshape(len(images), -1) / 127.5 - 1) @ variables["params"]["Dense_0"]["kernel"]


def numpy_normalized_logits(variables: dict, images: np.ndarray) -> np.ndarray:
    params, (statistics,) = variables["params"], variables["batch_stats"]["Norm_0"].values()
    hidden = (numpy_hidden(variables, images) - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    hidden = np.maximum(hidden * params["Norm_0"]["BatchNorm_0"]["scale"] + params["Norm_0"]["BatchNorm_0"]["bias"], 0)
    return hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def trained(config: cnn.Config, steps: int = 5) -> tuple:
    workload, state = started(config)
    train_step, averages = jax.jit(workload.train_step), []
    for _ in range(steps):
        state, _ = train_step(state, batch())
        averages.append(jax.device_get({"params": state.params, "batch_stats": state.extra["batch_stats"]}))
    return workload, state, averages


def test_batch_statistics_are_averaged_with_the_weights_and_evaluated_with_them() -> None:
    workload, state, visited = trained(AVERAGED)
    start = jax.device_get(started(AVERAGED)[1])
    average = {"params": start.params, "batch_stats": start.extra["batch_stats"]}
    for step, current in enumerate(visited):
        decay = min(0.9, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, c, d=decay: d * np.float64(a) + (1 - d) * c, average, current)
    chex.assert_trees_all_close(state.extra["ema"], average, rtol=1e-5, atol=1e-6)
    logits = numpy_normalized_logits(average, batch()["image"])
    np.testing.assert_allclose(jax.jit(cnn.make_predict(AVERAGED))(state, batch()["image"]), logits, rtol=1e-3)
    np.testing.assert_allclose(jax.jit(cnn.make_features(AVERAGED))(state, batch()["image"])[1], logits, rtol=1e-3)
    sums = jax.jit(workload.eval_step)(state, batch())
    expected = -numpy_log_softmax(logits)[np.arange(12), batch()["label"]].sum()
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-4)
    live = numpy_normalized_logits({**average, "batch_stats": visited[-1]["batch_stats"]}, batch()["image"])
    assert np.abs(live - logits).max() > 0.01


@pytest.mark.parametrize("config", [AVERAGED, NORMALIZED], ids=["averaged", "plain"])
def test_recomputed_statistics_are_mean_and_variance_of_all_the_images_under_the_evaluated_weights(config) -> None:
    _, state, _ = trained(config)
    images = np.random.default_rng(5).integers(0, 256, (3, 8, 4, 4, 1), np.uint8)
    after = jax.jit(cnn.make_recompute(config))(state, images)
    variables = jax.device_get(cnn.variables(after))
    hidden = numpy_hidden(variables, images.reshape(-1, 4, 4, 1))
    (statistics,) = variables["batch_stats"]["Norm_0"].values()
    np.testing.assert_allclose(statistics["mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], hidden.var(0), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(variables["params"], cnn.variables(state)["params"])
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.structure(cnn.make_recompute(MLP)(started(MLP)[1], images)) == jax.tree.structure(started(MLP)[1])
