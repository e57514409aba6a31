"""A network, a transformation and a loss of one's own in `cnn.make`; program by program as a user writes them."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import linen as nn
from flax import nnx

from jaxai import averages, cnn, population
from jaxai import optimizer as optimizers
from jaxai.runtime import parallel

CONFIG = cnn.Config(image_shape=(4, 4, 1), num_classes=7, ema_decay=0.9, optimizer=cnn.Optimizer("sgd", 0.1))
GENERATOR = np.random.default_rng(0)
BATCH = {
    "image": GENERATOR.integers(0, 256, (16, 4, 4, 1), np.uint8),
    "label": GENERATOR.integers(0, 7, 16).astype(np.int32),
}


class Own(nn.Module):
    """Batch normalization, dropout, a counter of its own, a value that is sown in each of two collections."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3))(images)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x)
        calls = self.variable("calls", "count", lambda: jnp.int32(0))
        if train:
            calls.value += 1
        self.sow("losses", "activity", (x**2).mean((1, 2, 3)))
        x = nn.Dropout(0.5)(nn.relu(x).reshape(len(x), -1), deterministic=not train)
        if train:
            x = x + 0.01 * jax.random.normal(self.make_rng("noise"), x.shape)
        self.sow("intermediates", "features", x)
        return nn.Dense(7)(x)


class NnxNet(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(width, 7, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(images), use_running_average=not train))
        return self.out(self.drop(x.mean((1, 2)), deterministic=not train))


def initial(workload: Any) -> Any:
    return jax.jit(workload.init)(jax.random.key(0))


def trained(workload: Any, steps: int = 3) -> tuple[Any, Any]:
    state = jax.jit(workload.init)(jax.random.key(0))
    chex.clear_trace_counter()  # chex counts all functions of one place in the source together
    step = jax.jit(chex.assert_max_traces(workload.train_step, n=1))
    for _ in range(steps):
        after, metrics = step(state, BATCH)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    return state, metrics


def test_a_network_of_ones_own_keeps_its_collections_and_is_what_evaluation_uses() -> None:
    workload = cnn.make(CONFIG, network=Own())
    state, metrics = trained(workload)
    assert state.extra.keys() == {"batch_stats", "calls", "ema"}  # what is sown is of one call
    assert int(state.extra["calls"]["count"]) == 3
    assert state.extra["ema"].keys() == {"params", "batch_stats"}

    @jax.jit
    def everything(state: Any, images: jax.Array) -> Any:
        variables = {**state.extra["ema"], "calls": state.extra["calls"]}
        logits = Own().apply(variables, cnn.normalize(CONFIG, images), train=False)
        features, again = cnn.make_features(CONFIG, network=Own())(state, images)
        predicted = (workload.predict(state, images), cnn.make_predict(CONFIG, network=Own())(state, images), again)
        return logits, predicted, features, workload.eval_step(state, BATCH)

    logits, predicted, features, sums = everything(state, BATCH["image"])
    for each in predicted:
        np.testing.assert_allclose(each, logits, rtol=1e-4, atol=1e-5)
    assert features.shape == (16, 64)
    np.testing.assert_allclose(sums["accuracy"], (logits.argmax(-1) == BATCH["label"]).sum())
    assert set(metrics) == {"loss", "accuracy", "grad_norm", "learning_rate"}


def test_the_network_of_the_config_handed_in_gives_the_same_bits() -> None:
    config = dataclasses.replace(CONFIG, architecture="mlp", width=8, depth=1, normalization="batch", dropout=0.2)
    own = cnn.make(
        config,
        network=cnn.build(config, 7),
        transformation=optimizers.make(config.optimizer),
        loss=cnn.cross_entropy,
    )
    (state, metrics), (expected, usual) = trained(own), trained(cnn.make(config))
    chex.assert_trees_all_equal(state.params, expected.params)
    chex.assert_trees_all_equal(state.extra, expected.extra)
    chex.assert_trees_all_equal(metrics["loss"], usual["loss"])


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_statistics_of_a_network_that_knows_no_axis_are_averaged_over_devices(mode: parallel.Mode) -> None:
    mesh = parallel.make_mesh(2)
    workload = cnn.make(CONFIG, parallel.axis_name(mode), network=Own())
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
    state, _ = parallel.compile_step(workload.train_step, mesh, mode)(state, parallel.place_batches(BATCH, mesh, mode))
    first = jax.jit(workload.init)(jax.random.key(0))
    images = cnn.normalize(CONFIG, BATCH["image"])
    convolved = nn.Conv(4, (3, 3)).apply({"params": first.params["Conv_0"]}, images)
    mean = state.extra["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.01 * convolved.mean((0, 1, 2)), rtol=1e-3, atol=1e-6)
    assert int(state.extra["calls"]["count"]) == 1


def test_an_nnx_model_trains_through_the_bridge() -> None:
    network = nnx.bridge.to_linen(NnxNet, 4)
    workload = cnn.make(dataclasses.replace(CONFIG, optimizer=cnn.Optimizer(learning_rate=0.05)), network=network)
    state, first = trained(workload, 1)
    start = initial(workload).extra["batch_stats"]
    assert float(abs(state.extra["batch_stats"]["norm"]["mean"] - start["norm"]["mean"]).max()) > 0
    state, last = trained(workload, 40)
    assert float(last["loss"]) < 0.9 * float(first["loss"])
    # Back into an nnx model, with the weights and statistics that evaluation uses.
    model = NnxNet(4, rngs=nnx.Rngs(0))
    nnx.update(model, nnx.merge_state(*map(nnx.State, cnn.variables(state).values())))
    logits = model(cnn.normalize(CONFIG, BATCH["image"]), train=False)
    np.testing.assert_allclose(workload.predict(state, BATCH["image"]), logits, rtol=1e-4, atol=1e-5)
    step = jax.jit(workload.train_step)
    _, once = step(state, BATCH)
    _, other = step(state.replace(step=state.step + 1), BATCH)
    assert float(once["loss"]) != float(other["loss"])  # another dropout mask


def test_layers_freeze_and_learn_at_rates_of_their_own_with_statistics_and_average_intact() -> None:
    def label(path: Any, leaf: Any) -> str:
        return {"Conv_0": "frozen", "BatchNorm_0": "slow"}.get(path[0].key, "fast")

    labels = functools.partial(jax.tree_util.tree_map_with_path, label)
    own = optax.multi_transform(
        {"frozen": optax.set_to_zero(), "slow": optax.sgd(1e-3), "fast": optax.adam(1e-2)}, labels
    )
    workload = cnn.make(CONFIG, network=Own(), transformation=own)
    first = jax.jit(workload.init)(jax.random.key(0))
    state, metrics = trained(workload)
    chex.assert_trees_all_equal(state.params["Conv_0"], first.params["Conv_0"])
    assert float(abs(state.params["Dense_0"]["kernel"] - first.params["Dense_0"]["kernel"]).max()) > 1e-3
    assert 0 < float(abs(state.params["BatchNorm_0"]["bias"] - first.params["BatchNorm_0"]["bias"]).max()) < 1e-2
    for moved in (state.extra["batch_stats"], state.extra["ema"]["batch_stats"]):
        assert float(abs(moved["BatchNorm_0"]["mean"]).max()) > 0
    assert "learning_rate" not in metrics


@pytest.mark.parametrize(
    "own",
    [
        optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1, cooldown=0)),
        optax.chain(
            optax.adam(1e-2), optax.masked(optax.set_to_zero(), {"Dense_0": True, "Dense_1": False, "Dense_2": False})
        ),
        optax.contrib.schedule_free_adamw(1e-2),
        optax.polyak_sgd(max_learning_rate=0.1),
        optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(5)),
    ],
    ids=["reduce_on_plateau", "masked", "schedule_free", "polyak", "lbfgs"],
)
def test_transformations_of_every_kind_train(own: optax.GradientTransformation) -> None:
    workload = cnn.make(dataclasses.replace(CONFIG, ema_decay=0.0, architecture="mlp", width=8), transformation=own)
    state, last = trained(workload, 15)
    before, after = (jax.jit(workload.eval_step)(each, BATCH)["loss"] / 16 for each in (initial(workload), state))
    assert float(last["loss"]) < float(before)
    assert float(after) < float(before)


def test_the_line_search_of_a_batch_in_blocks_sees_the_same_loss_as_the_gradient() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, value: Any, value_fn: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, updates), (value, value_fn(params))

    own = optax.GradientTransformationExtraArgs(lambda params: (0.0, 1.0), update)
    config = dataclasses.replace(CONFIG, architecture="mlp", width=8, dropout=0.5, gradient_blocks=4)
    workload = cnn.make(config, transformation=own)
    state, metrics = trained(workload, 1)
    np.testing.assert_allclose(state.opt_state, metrics["loss"], rtol=1e-5)


def test_a_step_of_ones_own_from_gradients_keeps_statistics_and_average() -> None:
    gradients, own = cnn.make_gradients(CONFIG, network=Own()), optax.sgd(0.1)

    def train_step(state: Any, batch: Any) -> Any:
        grads, collections, metrics = gradients(state, batch)
        grads = jax.tree.map(jnp.sign, grads)
        return averages.advance(state, own, grads, collections, ema_decay=0.9, value=metrics["loss"]), metrics

    workload = cnn.make(CONFIG, network=Own(), transformation=own)
    state, _ = trained(workload._replace(train_step=train_step))
    first = jax.jit(workload.init)(jax.random.key(0))
    assert int(state.step) == 3
    assert int(state.extra["calls"]["count"]) == 3
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), state.params, first.params)
    np.testing.assert_allclose(max(jax.tree.leaves(moved)), 0.3, rtol=1e-3)


def focal(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Lin et al. 2017, arXiv:1708.02002, eq. 4, with gamma 2."""
    return -(labels * (1 - jax.nn.softmax(logits)) ** 2 * jax.nn.log_softmax(logits)).sum(-1)


def test_a_loss_of_ones_own_is_what_is_minimised_and_evaluated() -> None:
    config = dataclasses.replace(CONFIG, architecture="mlp", width=8, class_weights=tuple(range(7)))
    workload = cnn.make(config, loss=focal)
    state = jax.jit(workload.init)(jax.random.key(0))
    logits = np.asarray(jax.jit(workload.predict)(state, BATCH["image"]), np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True))[np.arange(16), BATCH["label"]]
    expected = -((1 - p) ** 2) * np.log(p)
    _, metrics = jax.jit(workload.train_step)(state, BATCH)
    np.testing.assert_allclose(metrics["loss"], (expected * BATCH["label"]).mean(), rtol=1e-4)
    np.testing.assert_allclose(jax.jit(workload.eval_step)(state, BATCH)["loss"], expected.sum(), rtol=1e-4)


def test_many_seeds_of_a_classifier_train_in_one_program_at_learning_rates_of_their_own() -> None:
    rates = jnp.array([0.0, 0.01, 0.1])
    own = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)

    def prepare(members: Any) -> Any:
        return members.replace(opt_state=optax.tree.set(members.opt_state, learning_rate=rates))

    config = dataclasses.replace(CONFIG, architecture="mlp", width=8, normalization="batch")
    workload = population.make(cnn.make(config, transformation=own), seeds=[0, 1, 2], prepare=prepare)
    state = jax.jit(workload.init)(jax.random.key(0))
    first = population.members_of(state).params
    state, metrics = jax.jit(workload.train_step)(state, BATCH)
    np.testing.assert_allclose(metrics["learning_rate"], rates)
    moved = jax.tree.map(
        lambda a, b: abs(a - b).max(tuple(range(1, a.ndim))), population.members_of(state).params, first
    )
    assert all((np.asarray(leaf) > 0).tolist() == [False, True, True] for leaf in (moved["Dense_0"]["kernel"],))
    one = cnn.make(config, transformation=optax.sgd(0.1))
    alone, _ = jax.jit(one.train_step)(jax.jit(one.init)(jax.random.key(2)), BATCH)
    chex.assert_trees_all_close(population.member_of(state, 2).params, alone.params, rtol=1e-4, atol=1e-6)
    assert jax.eval_shape(workload.predict, state, BATCH["image"]).shape == (3, 16, 7)


def test_feature_maps_of_any_layer_and_the_gradient_by_them() -> None:
    config = cnn.Config(architecture="resnet", width=2, depth=1, image_shape=(8, 8, 1), num_classes=7)
    images = GENERATOR.integers(0, 256, (3, 8, 8, 1), np.uint8)
    state = jax.jit(cnn.make(config).init)(jax.random.key(0))
    feature_maps = cnn.make_feature_maps(config)
    logits, maps = jax.jit(feature_maps)(state, images)
    np.testing.assert_allclose(logits, jax.jit(cnn.make_predict(config))(state, images), rtol=1e-5, atol=1e-6)
    assert {"Conv_0", "ResidualBlock_2", "ResidualBlock_2/Conv_1", "features", "Dense_0"} <= maps.keys()
    assert maps["ResidualBlock_2"].shape == (3, 2, 2, 8)
    # The last block is averaged over its pixels: the gradient of a logit by it is the kernel over the pixels.
    last = cnn.make_feature_maps(config, layers=["ResidualBlock_2"])
    by_map = jax.jit(jax.grad(lambda x: last(state, images, {"ResidualBlock_2": x})[0][:, 4].sum()))
    gradient = by_map(maps["ResidualBlock_2"])
    kernel = state.params["Dense_0"]["kernel"][:, 4]
    np.testing.assert_allclose(gradient, jnp.broadcast_to(kernel / 4, (3, 2, 2, 8)), rtol=1e-5)
    assert jax.eval_shape(last, state, images)[1].keys() == {"ResidualBlock_2"}
    with pytest.raises(ValueError, match=r"no layer 'ResidualBlok_2'; did you mean ResidualBlock_2"):
        jax.eval_shape(last, state, images, {"ResidualBlok_2": maps["Conv_0"]})


class NoTrain(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(7)(x)


class Wide(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(3)(images.reshape(len(images), -1))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"network": Own}, r"^network is the class Own; give a module: Own\(\.\.\.\)$"),
        ({"network": jnp.tanh}, r"^network is a .*; expected a linen module that is called as \(images, \*, train\)$"),
        ({"network": NoTrain()}, r"^network is called as \(x\); define its __call__\(self, images, \*, train\)$"),
        ({"network": Wide()}, r"^network returns shape \[batch, 3\]; expected logits \[batch, 7\]$"),
        (
            {"network": NnxNet(4, rngs=nnx.Rngs(0))},
            r"nnx module NnxNet; make it .*nnx.bridge.to_linen\(NnxNet, \.\.\.\)$",
        ),
        ({"transformation": cnn.Optimizer()}, r"^transformation is a Optimizer; expected an optax.GradientTransf"),
        ({"loss": lambda logits, labels: logits.mean()}, r"^loss returns shape \[\] .* each; leave out its mean$"),
        ({"loss": "focal"}, r"^loss is a str; expected a function \(logits, labels\) -> \[batch\]"),
        (
            {"loss": lambda logits: logits},
            r"^loss fails.* with TypeError: .* 1 positional .*; expected \(logits, labels\)",
        ),
        (
            {"loss": lambda x, y: x[0] if x[0, 0] > 0 else y[0]},
            r"^loss cannot be traced by JAX .* at test_own_parts.py:",
        ),
        ({"loss": lambda logits, labels: logits.argmax(-1)}, r"^loss returns int32, which has no gradient"),
    ],
)
def test_parts_of_another_form_are_refused_in_one_line_before_anything_compiles(own: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        cnn.make(CONFIG, **own)
    assert "\n" not in str(caught.value)
