import dataclasses
import functools
import math
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxai import gan
from jaxai.core import State, Workload
from jaxai.gan import losses
from jaxai.runtime import parallel

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden/gan_update.npz"))
BATCH, LATENT = 4, 4
# eps: where a gradient is 0 but for rounding, Adam would make a whole step of it.
ADAM = gan.Optimizer("adam", learning_rate=1e-2, b1=0.5, eps=1e-4)
FALLING = dataclasses.replace(ADAM, schedule="linear", decay_steps=8)
TINY = gan.Config(
    image_shape=(8, 8, 1),
    width=2,
    latent_size=LATENT,
    num_classes=3,
    generator_optimizer=ADAM,
    discriminator_optimizer=ADAM,
    ema_decay=0.15,
)
CASES: dict[str, dict[str, Any]] = {
    "alternating": {},
    "simultaneous": {"updates": "simultaneous"},
    "least_squares": {
        "loss": "least_squares",
        "smooth_real": 0.1,
        "smooth_fake": 0.05,
        "discriminator_normalization": "batch",
    },
    "hinge": {"loss": "hinge", "r1": 2.0},
    "wasserstein": {"loss": "wasserstein"},
    "two_updates": {"discriminator_steps": 2, "discriminator_optimizer": FALLING},
}


def changed(**changes: Any) -> gan.Config:
    return dataclasses.replace(TINY, **changes)


def batch(step: int = 0, images: int = BATCH) -> dict[str, np.ndarray]:
    return {"image": GOLDEN["images"][step][:images], "label": np.arange(images, dtype=np.int32) % 3}


def tree(prefix: str) -> Any:
    """What the golden file has under a prefix."""
    return unflatten_dict({k[len(prefix) + 1 :]: v for k, v in GOLDEN.items() if k.startswith(prefix + "/")}, sep="/")


def filled(shapes: Any, who: str, seed: int | None = None) -> Any:
    """The golden file's numbers, drawn ones with a seed; else the zeros and ones that a layer begins with."""
    rng, arrays = np.random.default_rng(seed), {}
    for path, leaf in flatten_dict(shapes).items():  # spectral normalisation has names with a slash in them
        name = "/".join(path)
        value = np.full(leaf.shape, float(name.endswith(("scale", "var", "sigma"))), leaf.dtype)
        if seed is not None:
            value += (rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]) + 1)).astype(leaf.dtype)
            value = np.abs(value) if name.endswith(("var", "sigma")) else value
        arrays[path] = GOLDEN.get(f"start/{who}/{name}", value) if seed is None else value
    return unflatten_dict(arrays)


@functools.cache
def started(config: gan.Config, seed: int | None = None) -> tuple[Workload, Any, State]:
    """A workload, its jitted train step, and a first state, made without compiling `init`."""
    workload = gan.make(config)
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    names = ("generator", "discriminator")
    params = gan.Players(*(filled(t, who, seed) for t, who in zip(shapes.params, names, strict=True)))
    variables = gan.Players(*(filled(t, "", seed) for t in shapes.extra["variables"]))
    extra = {"variables": variables}
    if config.ema_decay:
        extra["ema"] = {"params": params.generator, **variables.generator}
    opt_state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.opt_state)
    state = State(jnp.int32(0), params, opt_state, jax.random.key(0), extra)
    return workload, jax.jit(workload.train_step), state


@functools.cache
def case(name: str) -> tuple[State, list[tuple[State, dict[str, np.ndarray]]]]:
    """The first state of a case of the golden file, and what its two steps leave behind."""
    config = changed(**CASES[name])
    _, train_step, state = started(config)
    first, after = state, []
    for step in range(2):
        state, metrics = train_step(state, batch(step, BATCH * config.discriminator_steps))
        after.append(jax.device_get((state.replace(key=()), metrics)))
    return first, after


def differs(one: Any, other: Any) -> bool:
    return any((np.asarray(a) != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def replaced(params: Any, **leaves: Any) -> Any:
    """Parameters, with those changed whose path ends so: `Dense_0__kernel=0.0` fills that one with zeros."""
    flat = flatten_dict(params, sep="/")
    for name, value in leaves.items():
        (path,) = [path for path in flat if path.endswith(name.replace("__", "/"))]
        flat[path] = np.full_like(flat[path], value)
    return unflatten_dict(flat, sep="/")


# What a step computes.


def test_noise_is_drawn_from_the_key_and_the_step() -> None:
    for step in range(2):
        key = jax.random.fold_in(jax.random.key(0), step)
        keys = {
            "discriminator": jax.random.split(jax.random.fold_in(key, 1))[0],
            "generator": jax.random.split(jax.random.fold_in(key, 0), 3)[0],
        }
        for name, noise_key in keys.items():
            latents = jax.random.normal(jax.random.split(noise_key)[0], (BATCH, LATENT))
            np.testing.assert_allclose(latents, GOLDEN[f"latents/{name}"][step], rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_two_steps_equal_pytorch(name: str) -> None:
    _, after = case(name)
    for step, (state, metrics) in enumerate(after):
        for metric in ("generator_loss", "discriminator_loss", "r1", "gradient_penalty", "d_real"):
            golden = GOLDEN.get(f"{name}/metrics/{metric}")
            assert (golden is None) == (metric not in metrics)
            if golden is not None and not (metric == "d_real" and name in ("least_squares", "wasserstein")):
                np.testing.assert_allclose(metrics[metric], golden[step], rtol=2e-5, err_msg=metric)
        if f"{name}/after_{step + 1}/generator/Dense_0/kernel" not in GOLDEN:
            continue
        for who in gan.Players._fields:
            expected = tree(f"{name}/after_{step + 1}/{who}")
            chex.assert_trees_all_close(getattr(state.params, who), expected, rtol=2e-5, atol=2e-5)
            statistics = tree(f"{name}/after_{step + 1}/{who}_statistics")
            variables = getattr(state.extra["variables"], who)
            chex.assert_trees_all_close(
                variables, {"batch_stats": statistics} if statistics else {}, rtol=2e-5, atol=2e-5
            )


def test_generator_meets_the_updated_discriminator_unless_both_move_at_once() -> None:
    (one, metrics), (other, others) = case("alternating")[1][0], case("simultaneous")[1][0]
    chex.assert_trees_all_equal(one.params.discriminator, other.params.discriminator)
    chex.assert_trees_all_equal(metrics["discriminator_loss"], others["discriminator_loss"])
    assert differs(one.params.generator, other.params.generator)
    # The updated discriminator is harder to fool or easier, but not the same: the losses are PyTorch's above.
    assert abs(float(metrics["generator_loss"] - others["generator_loss"])) > 1e-3


def test_each_update_of_the_discriminator_counts_and_follows_its_own_schedule() -> None:
    _, after = case("two_updates")
    for step, (state, metrics) in enumerate(after):
        counts = gan.Players(*({int(leaf) for leaf in jax.tree.leaves(s) if leaf.ndim == 0} for s in state.opt_state))
        assert counts == gan.Players({step + 1}, {2 * (step + 1)})
        np.testing.assert_allclose(metrics["generator_learning_rate"], 1e-2, rtol=1e-6)
        np.testing.assert_allclose(metrics["discriminator_learning_rate"], 1e-2 * (1 - 2 * step / 8), rtol=1e-6)
        assert int(state.step) == step + 1


def test_a_penalty_now_and_then_weighs_as_many_times_more() -> None:
    _, train_step, state = started(changed(loss="hinge", r1=1.0, r1_interval=2))
    _, unpenalized, _ = started(changed(loss="hinge"))
    after, metrics = train_step(state, batch())
    np.testing.assert_allclose(metrics["r1"], GOLDEN["hinge/metrics/r1"][0], rtol=2e-5)  # where r1 is 2
    chex.assert_trees_all_close(after.params, case("hinge")[1][0][0].params, rtol=1e-6, atol=1e-6)
    state = state.replace(step=jnp.int32(1))
    (after, metrics), (expected, _) = (step(state, batch()) for step in (train_step, unpenalized))
    assert float(metrics["r1"]) == 0
    chex.assert_trees_all_close(after.params, expected.params, rtol=1e-6, atol=1e-6)


def test_a_penalty_counts_the_discriminators_updates() -> None:
    config = changed(loss="hinge", r1=2.0, r1_interval=2, discriminator_steps=2)
    _, train_step, state = started(config)
    shares = batch(images=BATCH)["image"]
    doubled = {"image": np.stack([shares, 255 - shares], 1).reshape(-1, *shares.shape[1:])}  # share by share
    _, metrics = train_step(state, doubled)
    # Of two shares the first is penalized, with twice the weight: the mean is what it is at once.
    np.testing.assert_allclose(metrics["r1"], GOLDEN["hinge/metrics/r1"][0], rtol=2e-5)


def test_a_batch_that_does_not_divide_into_shares_is_refused() -> None:
    workload, _, state = started(changed(**CASES["two_updates"]))
    with pytest.raises(ValueError, match=r"a batch of 5 images on a device does not divide into 2 shares"):
        jax.eval_shape(workload.train_step, state, batch(images=5))


def test_gradients_are_those_that_the_step_applies() -> None:
    workload, _, state = started(TINY)
    assert workload.gradients is not None
    grads = jax.device_get(jax.jit(workload.gradients)(state, batch()))
    metrics = case("alternating")[1][0][1]
    norms = [np.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in jax.tree.leaves(grad))) for grad in grads]
    found = [metrics[name] for name in ("generator_grad_norm", "discriminator_grad_norm", "grad_norm")]
    np.testing.assert_allclose(found, [*norms, np.hypot(*norms)], rtol=1e-5)
    # Adam's first step moves by the rate against the sign of the gradient.
    moved = jax.tree.map(lambda after, before: after - before, case("alternating")[1][0][0].params, state.params)
    expected = jax.tree.map(lambda grad: -1e-2 * grad / (np.abs(grad) + 1e-4), grads)
    chex.assert_trees_all_close(moved, expected, rtol=1e-5, atol=1e-5)


def test_same_key_gives_the_same_run_and_every_step_fresh_noise() -> None:
    _, train_step, state = started(TINY)
    after, metrics = train_step(state, batch())
    chex.assert_trees_all_equal(jax.device_get(after.params), case("alternating")[1][0][0].params)
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))
    for other in (state.replace(step=jnp.int32(1)), state.replace(key=jax.random.key(1))):
        _, others = train_step(other, batch())
        assert float(others["d_real"]) == float(metrics["d_real"])
        assert float(others["d_fake"]) != float(metrics["d_fake"])
        assert float(others["generator_loss"]) != float(metrics["generator_loss"])


# The averaged generator, and sampling.


@functools.cache
def sampler(config: gan.Config) -> Any:
    predict = gan.make_predict(config)
    return jax.jit(lambda state, latents, labels=None: predict(state, {"latent": latents, "label": labels}))


def test_average_follows_its_formula() -> None:
    _, train_step, state = started(TINY)
    average = jax.device_get(state.extra["ema"])
    for step in range(3):
        state, _ = train_step(state, batch())
        decay = min(0.15, (1 + step) / (10 + step))
        now = {"params": state.params.generator, **state.extra["variables"].generator}
        average = jax.tree.map(lambda a, n, d=decay: d * a + (1 - d) * np.asarray(n), average, now)
    chex.assert_trees_all_close(jax.device_get(state.extra["ema"]), average, rtol=1e-6, atol=1e-6)


def test_images_are_those_of_the_averaged_generator_with_its_running_statistics() -> None:
    state = case("alternating")[1][1][0]
    images = sampler(TINY)(state.replace(key=None), GOLDEN["latents/generator"][1])
    np.testing.assert_allclose(images, GOLDEN["alternating/images"], atol=2e-5)


def test_images_without_an_average_are_those_of_the_generator_itself() -> None:
    state, latents = case("alternating")[1][1][0].replace(key=None), GOLDEN["latents/generator"][1]
    plain = state.replace(extra={"variables": state.extra["variables"]})
    averaged = {"params": state.params.generator, **state.extra["variables"].generator}
    same = state.replace(extra=state.extra | {"ema": averaged})
    images = sampler(changed(ema_decay=0.0))(plain, latents)
    np.testing.assert_array_equal(images, sampler(TINY)(same, latents))
    assert np.abs(images - GOLDEN["alternating/images"]).max() > 1e-4


def test_an_image_depends_on_its_own_latent_alone() -> None:
    state = case("alternating")[1][1][0].replace(key=None)
    latents = GOLDEN["latents/generator"][1]
    images = sampler(TINY)(state, latents)
    others = sampler(TINY)(state, np.concatenate([latents[:1], 3 * latents[:0:-1]]))
    np.testing.assert_allclose(others[0], images[0], atol=1e-6)
    assert np.abs(others[1:] - images[1:]).max() > 1e-3
    np.testing.assert_allclose(sampler(TINY)(state, latents[2:3])[0], images[2], atol=1e-6)


def test_pixels_come_back_as_they_went_in() -> None:
    pixels = np.arange(256, dtype=np.uint8)[:, None]
    scaled = gan.normalize(TINY, jnp.asarray(pixels))
    np.testing.assert_allclose(scaled[[0, 255], 0], [-1, 1])
    np.testing.assert_allclose(gan.normalize(TINY, jnp.asarray(pixels / 255, jnp.float32)), scaled, atol=1e-6)
    np.testing.assert_array_equal(gan.as_uint8(scaled), pixels)


def test_labels_matter_to_a_conditional_pair() -> None:
    config = changed(conditional=True, ema_decay=0.0)
    _, train_step, state = started(config, seed=1)
    (one, metrics), (other, others) = (
        train_step(state, {"image": batch()["image"], "label": np.full(BATCH, label, np.int32)}) for label in (0, 1)
    )
    assert float(metrics["d_real"]) != float(others["d_real"])
    assert differs(one.params.discriminator, other.params.discriminator)
    latents = np.tile(GOLDEN["latents/generator"][0, :1], (3, 1))
    images = sampler(config)(state, latents, np.array([0, 1, 1], np.int32))
    np.testing.assert_allclose(images[1], images[2], atol=1e-6)
    assert np.abs(images[0] - images[1]).max() > 1e-2
    with pytest.raises(ValueError, match="a conditional model was given no labels"):
        gan.make_predict(config)(state, latents)


# Evaluation and metrics.


def test_evaluation_counts_only_what_the_mask_keeps() -> None:
    workload, _, state = started(TINY)
    assert workload.eval_step is not None
    evaluate = jax.jit(workload.eval_step)
    whole = evaluate(state, batch() | {"mask": np.ones(BATCH, np.float32)})
    assert float(whole["count"]) == BATCH
    np.testing.assert_allclose(whole["d_real"] / BATCH, GOLDEN["alternating/metrics/d_real"][0], rtol=1e-5)
    ragged, image = np.array([1, 1, 1, 0], np.float32), batch()["image"].copy()
    kept = evaluate(state, batch() | {"mask": ragged})
    rest = evaluate(state, batch() | {"mask": 1 - ragged})
    assert float(kept["count"]) == 3
    np.testing.assert_allclose(kept["d_real"] + rest["d_real"], whole["d_real"], rtol=1e-6)
    image[3] = 255 - image[3]
    chex.assert_trees_all_equal(evaluate(state, batch() | {"image": image, "mask": ragged}), kept)


ALWAYS = {
    *("generator_loss", "discriminator_loss", "d_real", "d_fake", "discriminator_accuracy", "grad_norm"),
    *("generator_grad_norm", "discriminator_grad_norm", "generator_learning_rate", "discriminator_learning_rate"),
}


@pytest.mark.parametrize(
    ("loss", "penalties"),
    [(loss, {}) for loss in losses.LOSSES]
    + [(loss, {"r1": 1.0, "gradient_penalty": 1.0}) for loss in ("non_saturating", "wasserstein")],
    ids=str,
)
def test_metrics_are_scalars_and_penalties_are_among_them_where_they_are_on(loss: Any, penalties: dict) -> None:
    workload = gan.make(changed(loss=loss, **penalties))
    state = jax.eval_shape(workload.init, jax.random.key(0))
    after, metrics = jax.eval_shape(workload.train_step, state, batch())
    assert after == state
    penalized = penalties.get("gradient_penalty", 10.0 if loss == "wasserstein" else 0.0)
    switched = {"gradient_penalty": penalized, "r1": penalties.get("r1")}
    assert set(metrics) == ALWAYS | {name for name, weight in switched.items() if weight}
    assert {(metric.shape, metric.dtype) for metric in metrics.values()} == {((), np.dtype("float32"))}
    assert workload.gradients is not None
    assert jax.eval_shape(workload.gradients, state, batch()) == state.params


@pytest.mark.parametrize(("real", "fake", "accuracy"), [(255, -10.0, 1.0), (0, 10.0, 0.0), (255, 10.0, 0.5)])
def test_accuracy_is_the_share_that_is_told_apart(real: int, fake: float, accuracy: float) -> None:
    _, train_step, state = started(TINY)
    # A discriminator that holds white images to be real and black ones to be generated.
    judge = replaced(
        state.params.discriminator,
        **{"Conv_0__kernel": 0.1, "Conv_1__kernel": 0.1, "logit__kernel": 0.1},
        **{"Conv_0__bias": 0.0, "Conv_1__bias": 0.0, "logit__bias": 0.0},
    )
    painter = replaced(state.params.generator, ConvTranspose_2__kernel=0.0, ConvTranspose_2__bias=fake)
    image = np.full_like(batch()["image"], real)
    _, metrics = train_step(state.replace(params=gan.Players(painter, judge)), batch() | {"image": image})
    assert float(metrics["discriminator_accuracy"]) == accuracy
    assert (0.5 < float(metrics["d_real"]) < 1) == (real == 255)
    assert (0 < float(metrics["d_fake"]) < 0.5) == (fake < 0)


# Many devices, many steps.

DEVICES = changed(
    discriminator_normalization="batch",
    ema_decay=0.0,
    generator_optimizer=gan.Optimizer("sgd", learning_rate=0.5),
    discriminator_optimizer=gan.Optimizer("sgd", learning_rate=0.5),
)
PLACES: tuple[tuple[parallel.Mode, int], ...] = (("jit", 1), ("jit", 2), ("shard_map", 2), ("pmap", 2))


def batches() -> dict[str, np.ndarray]:
    """Two batches of 16 images."""
    return {"image": np.concatenate([GOLDEN["images"], GOLDEN["images"][::-1, :, ::-1]], axis=1)}


@functools.cache
def compiled(mode: parallel.Mode, devices: int) -> tuple[Any, Any]:
    """Two steps in a call, and its mesh."""
    workload, mesh = gan.make(DEVICES, parallel.axis_name(mode)), parallel.make_mesh(devices)
    call = parallel.compile_step(workload.train_step, mesh, mode, 2)
    if mode == "pmap":
        return call, mesh
    state = parallel.place_state(started(DEVICES)[2], mesh, mode)
    return call.compile(state, parallel.place_batches(batches(), mesh, mode, 2)), mesh


def trained(mode: parallel.Mode, devices: int, state: State | None = None, split: tuple[int, ...] = (2,)) -> Any:
    """The state without its key after calls of so many steps, and the last call's metrics."""
    call, mesh = compiled(mode, devices)
    # A copy: the call takes its state away.
    first = jax.tree.map(np.array, (state or started(DEVICES)[2]).replace(key=()))
    placed, done = parallel.place_state(first.replace(key=jax.random.key(0)), mesh, mode), 0
    for steps in split:
        rows = {name: np.roll(leaf, -done, axis=0) for name, leaf in batches().items()}
        placed, metrics = call(placed, parallel.place_batches(rows, mesh, mode, 2), steps=steps)
        done += steps
    return jax.device_get((placed.replace(key=()), metrics))


def test_pmap_equals_shard_map_bitwise() -> None:
    chex.assert_trees_all_equal(trained("shard_map", 2), trained("pmap", 2))


def test_jit_over_the_mesh_equals_one_device() -> None:
    chex.assert_trees_all_close(trained("jit", 2), trained("jit", 1), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("place", PLACES[1:], ids=str)
def test_gradients_do_not_depend_on_the_number_of_devices(place: tuple[parallel.Mode, int]) -> None:
    """Plain gradient descent moves by the gradient: one that is N times too large shows."""
    state = started(DEVICES)[2]
    # A generator that ignores its latents, of which every device draws its own.
    painter = replaced(state.params.generator, Dense_0__kernel=0.0)
    state = state.replace(params=state.params._replace(generator=painter))
    found, expected = (trained(*at, state, (1,)) for at in (place, PLACES[0]))
    params = [replaced(after.params.generator, Dense_0__kernel=0.0) for after, _ in (found, expected)]
    chex.assert_trees_all_close(params[0], params[1], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(found[0].params.discriminator, expected[0].params.discriminator, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(found[0].extra, expected[0].extra, rtol=1e-5, atol=1e-5)
    for name in ("generator_loss", "discriminator_loss", "d_real", "d_fake", "discriminator_grad_norm"):
        np.testing.assert_allclose(found[1][name], expected[1][name], rtol=1e-4)
    # They did move.
    assert np.abs(params[1]["ConvTranspose_2"]["kernel"] - painter["ConvTranspose_2"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("place", [PLACES[0], PLACES[2]], ids=str)
def test_any_split_of_a_run_into_calls_gives_the_same_bits(place: tuple[parallel.Mode, int]) -> None:
    chex.assert_trees_all_equal(trained(*place, split=(1, 1))[0], trained(*place, split=(2,))[0])


@pytest.mark.parametrize("place", [PLACES[0], PLACES[2]], ids=str)
def test_the_state_is_donated(place: tuple[parallel.Mode, int]) -> None:
    (call, mesh), first = compiled(*place), started(DEVICES)[2]
    tree = (first.step, first.params, first.opt_state, first.extra)
    aliased = call.function.memory_analysis().alias_size_in_bytes
    assert aliased >= sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    state = parallel.place_state(jax.tree.map(jnp.array, first), mesh, place[0])
    call(state, parallel.place_batches(batches(), mesh, place[0], 2))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


# Switches.


def assert_trains(config: gan.Config) -> None:
    _, train_step, state = started(config, seed=2)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *config.image_shape), np.uint8)
    after, metrics = train_step(state, {"image": images, "label": batch()["label"]})
    for name, value in metrics.items():
        assert np.isfinite(value), name
    tree = (after.params, after.extra)
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    moved = [
        (np.asarray(a) != b).any() for a, b in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True)
    ]
    assert np.mean(moved) > 0.9
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, state.params)


def test_bfloat16_compute_trains_float32_parameters() -> None:
    assert_trains(changed(dtype="bfloat16"))


@pytest.mark.slow  # a minute of compiling; the layers' own tests have each of them
def test_all_switches_train_together() -> None:
    config = changed(
        architecture="residual",
        image_shape=(8, 8, 3),
        conditional=True,
        spectral_normalization="both",
        attention=4,
        minibatch_std=2,
        dropout=0.3,
        discriminator_normalization="layer",
        gradient_penalty=1.0,
        r1=1.0,
        diffaugment=("color", "translation", "cutout"),
    )
    assert_trains(config)


def test_init_gives_both_networks_and_an_average_of_its_own() -> None:
    workload, _, _ = started(TINY)
    state = jax.jit(workload.init)(jax.random.key(0))
    assert int(state.step) == 0
    chex.assert_trees_all_equal(state.extra["ema"]["params"], state.params.generator)
    assert not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(jax.random.key(0)))
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1]
    assert all(0.01 < np.std(leaf) < 0.04 for leaf in map(np.asarray, kernels))  # Radford et al. 2016: 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "logistic"}, "loss is 'logistic'; it must be one of minimax, non_saturating"),
        ({"updates": "both"}, "updates is 'both'; it must be one of alternating, simultaneous"),
        ({"smooth_real": 0.5}, "smooth_real is 0.5; it must be at least 0 and below 0.5"),
        ({"smooth_fake": -0.1}, "smooth_fake is -0.1; it must be at least 0 and below 0.5"),
        ({"smooth_real": float("nan")}, "smooth_real is nan"),
        ({"loss": "hinge", "smooth_real": 0.1}, "smooth_real is 0.1.* the hinge loss has no labels to smooth"),
        ({"loss": "wasserstein", "smooth_fake": 0.1}, "smooth_fake is 0.1.* the wasserstein loss has no labels"),
        ({"gradient_penalty": -1.0}, "gradient_penalty is -1.0; it must be at least 0"),
        ({"gradient_penalty": float("inf")}, "gradient_penalty is inf"),
        ({"r1": float("nan")}, "r1 is nan; it must be finite and at least 0"),
        ({"r1": 1.0, "r1_interval": 0}, "r1_interval is 0; it must be at least 1"),
        (
            {"r1": 1.0, "discriminator_normalization": "batch"},
            "discriminator_normalization is 'batch', .* choose layer",
        ),
        ({"gradient_penalty": 1.0, "discriminator_normalization": "batch"}, "discriminator_normalization is 'batch'"),
        ({"loss": "wasserstein", "discriminator_normalization": "batch"}, "discriminator_normalization is 'batch'"),
        ({"discriminator_steps": 0}, "discriminator_steps is 0; it must be at least 1"),
        ({"updates": "simultaneous", "discriminator_steps": 2}, "updates is 'simultaneous' with discriminator_steps 2"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be at least 0 and below 1"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1"),
        ({"diffaugment": ("rotation",)}, "rotation"),
        ({"width": 0}, "width is 0"),
        ({"image_shape": (9, 8, 1)}, "images are 9x8x1"),
        ({"conditional": True, "num_classes": 1}, "conditional needs labels of at least 2 classes"),
        ({"generator_optimizer": gan.Optimizer("adamm")}, "'adamm'.* did you mean adam"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_with_is_told_in_a_line_before_anything_compiles(
    changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with jax.log_compiles(), pytest.raises(ValueError, match=message) as told:
        gan.make(changed(**changes))
    assert "\n" not in str(told.value)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


@pytest.mark.parametrize("changes", [{}, {"discriminator_normalization": "batch"}], ids=["generator", "both"])
def test_batch_statistics_of_one_pixel_of_one_image_are_refused(changes):
    config = gan.Config(width=2, latent_size=4, image_shape=(4, 4, 1), **changes)
    workload = gan.make(config)
    state = jax.eval_shape(workload.init, jax.random.key(0))
    images = jnp.zeros((2, 4, 4, 1), jnp.uint8)
    with pytest.raises(ValueError, match="more than 1 value per channel") as error:
        jax.eval_shape(workload.train_step, state, {"image": images[:1]})
    assert "\n" not in str(error.value)
    jax.eval_shape(workload.train_step, state, {"image": images})
