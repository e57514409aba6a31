import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxai.optimizer import Optimizer, kernels, make, schedule

NAMES = ["sgd", "adam", "adamw", "lion", "muon", "rmsprop", "adagrad", "lamb", "nadam", "adafactor", "radam", "adan"]
NAMES += ["adabelief", "yogi", "signum", "sm3", "rprop", "lars", "novograd", "adopt", "ademamix", "prodigy"]
RATES = {"adagrad": 0.1, "radam": 0.05, "lars": 10.0, "prodigy": 1.0, "muon": 0.05}


def parameters():
    generator = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "norm": {"scale": (4,)}, "head": {"kernel": (4, 3)}}
    return jax.tree.map(
        lambda shape: generator.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def run(optimizer, params, gradients):
    """The parameters after each of the given gradients."""
    transformation = make(optimizer)
    state, history = transformation.init(params), []
    update = jax.jit(transformation.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def random_gradients(params, count):
    generator = np.random.default_rng(1)
    return [
        jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), params) for _ in range(count)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_named_optimizer_lowers_a_quadratic(name):
    transformation = make(Optimizer(name=name, learning_rate=RATES.get(name, 0.01)))
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32), "bias": jnp.ones(3)}

    def loss(params):
        return sum(jnp.sum((leaf - 0.3) ** 2) for leaf in jax.tree.leaves(params))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = transformation.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, transformation.init(params)), length=100)[0][0]

    assert loss(train(params)) < 0.7 * loss(params)


def test_sgd_with_nesterov_and_weight_decay_is_pytorchs_update():
    rate, momentum, decay = 0.1, 0.9, 0.01
    optimizer = Optimizer("sgd", rate, momentum=momentum, nesterov=True, weight_decay=decay)
    params = {"kernel": np.ones((3, 2), np.float32)}
    gradients = random_gradients(params, 5)
    weights, velocity = params["kernel"].astype(np.float64), 0.0
    for gradient, after in zip(gradients, run(optimizer, params, gradients), strict=True):
        total = gradient["kernel"] + decay * weights
        velocity = momentum * velocity + total
        weights = weights - rate * (total + momentum * velocity)
        np.testing.assert_allclose(after["kernel"], weights, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_is_the_papers_update_and_adamw_decays_apart_from_it(name):
    rate, b1, b2, eps, decay = 0.1, 0.8, 0.95, 1e-5, 0.1
    params = {"kernel": np.ones((3, 2), np.float32)}
    gradients = random_gradients(params, 5)
    optimizer = Optimizer(name, rate, b1=b1, b2=b2, eps=eps, weight_decay=decay)
    weights, mean, square = params["kernel"].astype(np.float64), 0.0, 0.0
    for step, (gradient, after) in enumerate(zip(gradients, run(optimizer, params, gradients), strict=True), start=1):
        total = gradient["kernel"] + (decay * weights if name == "adam" else 0)
        mean = b1 * mean + (1 - b1) * total
        square = b2 * square + (1 - b2) * total**2
        update = mean / (1 - b1**step) / (np.sqrt(square / (1 - b2**step)) + eps)
        weights = weights - rate * (update + (decay * weights if name == "adamw" else 0))
        np.testing.assert_allclose(after["kernel"], weights, atol=2e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "lamb", "muon"])
def test_weight_decay_moves_kernels_and_leaves_biases_and_scales_alone(name):
    params = parameters()
    gradients = random_gradients(params, 1)
    with_decay, without = (run(Optimizer(name, 0.1, weight_decay=decay), params, gradients)[0] for decay in (0.5, 0.0))
    jax.tree.map(
        lambda a, b, kernel: np.testing.assert_equal(np.array_equal(a, b), not kernel),
        with_decay,
        without,
        {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False}, "head": {"kernel": True}},
    )


def test_a_bias_of_two_axes_is_no_kernel():
    assert kernels({"bias": np.ones((2, 3)), "kernel": np.ones((2, 3)), "scale": np.ones(3)}) == {
        "bias": False,
        "kernel": True,
        "scale": False,
    }


def test_no_optimizer_decays_weights_unless_told_to():
    zeros = jax.tree.map(np.zeros_like, parameters())
    for name in ("adamw", "lion", "muon"):
        after = run(Optimizer(name, 0.1), parameters(), [zeros])[0]
        chex.assert_trees_all_equal(after, parameters())


def test_muon_makes_orthogonal_updates_of_convolution_kernels_and_adam_ones_of_the_rest():
    params = parameters()
    (gradient,) = random_gradients(params, 1)
    updates = jax.tree.map(
        lambda a, b: b - a, params, run(Optimizer("muon", 1.0, nesterov=False), params, [gradient])[0]
    )
    # Newton-Schulz brings the singular values near 1, not to it (Jordan et al. 2024).
    for update, rows in [(updates["conv"]["kernel"], 18), (updates["head"]["kernel"], 4)]:
        singular = np.linalg.svd(np.asarray(update).reshape(rows, -1), compute_uv=False)
        assert np.all((singular > 0.6) & (singular < 1.3))
    np.testing.assert_allclose(updates["conv"]["bias"], -np.sign(gradient["conv"]["bias"]), atol=1e-4)


def test_muon_takes_a_learning_rate_of_its_own_for_the_rest():
    params = parameters()
    (gradient,) = random_gradients(params, 1)
    after = run(Optimizer("muon", 1.0, nesterov=False, parameters=("adam_learning_rate=0.5",)), params, [gradient])[0]
    np.testing.assert_allclose(
        params["norm"]["scale"] - after["norm"]["scale"], 0.5 * np.sign(gradient["norm"]["scale"]), atol=1e-4
    )


def test_clipping_scales_all_gradients_by_one_factor():
    params = parameters()
    (gradient,) = random_gradients(params, 1)
    norm = math.sqrt(sum(np.sum(leaf.astype(np.float64) ** 2) for leaf in jax.tree.leaves(gradient)))
    for limit, factor in [(0.5, 0.5 / norm), (2 * norm, 1.0), (0.0, 1.0)]:
        after = run(Optimizer("sgd", 1.0, clip_norm=limit), params, [gradient])[0]
        expected = jax.tree.map(lambda before, g, factor=factor: before - factor * g, params, gradient)
        chex.assert_trees_all_close(after, expected, rtol=1e-7, atol=1e-6)


def expected_rate(kind, step):
    if step < 10:
        return 2.0 * step / 10
    done = min((step - 10) / 100, 1)
    return (
        2.0
        * {
            "constant": 1,
            "cosine": 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2,
            "linear": 1 - 0.9 * done,
            "step": 0.2 ** ((step >= 55) + (step >= 99)),
        }[kind]
    )


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "step"])
def test_schedules_are_their_closed_forms(kind):
    optimizer = Optimizer("sgd", 2.0, kind, 10, 110, final_fraction=0.1, step_boundaries=(0.5, 0.9), step_factor=0.2)
    steps = [0, 1, 9, 10, 11, 54, 55, 60, 98, 99, 109, 110, 500]
    rates = jax.jit(schedule(optimizer))(np.array(steps))
    np.testing.assert_allclose(rates, [expected_rate(kind, step) for step in steps], rtol=1e-5, atol=1e-6)


def test_cosine_with_warm_up_is_the_one_of_optax():
    rates = schedule(Optimizer("sgd", 0.5, "cosine", 7, 50, 0.2))(np.arange(60))
    expected = optax.warmup_cosine_decay_schedule(0.0, 0.5, 7, 50, 0.1)(jnp.arange(60))
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_the_optimizer_follows_the_schedule():
    params = {"kernel": np.zeros((1, 1), np.float32)}
    ones = [{"kernel": np.ones((1, 1), np.float32)}] * 6
    history = run(Optimizer("sgd", 1.0, "linear", 2, 6), params, ones)
    taken = -np.diff([0.0, *(float(after["kernel"][0, 0]) for after in history)])
    np.testing.assert_allclose(taken, [0, 0.5, 1, 0.75, 0.5, 0.25], atol=1e-6)


def test_the_learning_rate_can_be_swept_under_vmap():
    def moved(rate):
        transformation = make(Optimizer("adam", rate, "cosine", 0, 10))
        params = {"kernel": jnp.ones((2, 2))}
        updates, _ = transformation.update(params, transformation.init(params), params)
        return updates["kernel"][0, 0]

    np.testing.assert_allclose(jax.jit(jax.vmap(moved))(jnp.array([0.1, 0.2])), [-0.1, -0.2], rtol=1e-5)


def test_parameters_reach_optax_as_numbers_booleans_and_none():
    params = parameters()
    gradients = random_gradients(params, 3)
    after = run(
        Optimizer("rmsprop", 0.1, parameters=("decay=0.5", "centered=True", "momentum=None")), params, gradients
    )
    reference = optax.rmsprop(0.1, decay=0.5, centered=True)
    state = reference.init(params)
    for gradient, got in zip(gradients, after, strict=True):
        updates, state = reference.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        chex.assert_trees_all_close(got, params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "adamm"}, "optimizer.name is 'adamm'.*did you mean.*adam"),
        ({"name": "lbfgs"}, "optimizer.name is 'lbfgs'"),
        ({"name": "scale_by_adam"}, "optimizer.name is 'scale_by_adam'"),
        ({"schedule": "cosine"}, "optimizer.decay_steps is 0, expected more than the 0 of optimizer.warmup_steps"),
        ({"schedule": "linear", "warmup_steps": 9, "decay_steps": 9}, "optimizer.decay_steps is 9"),
        ({"schedule": "cubic"}, "optimizer.schedule is 'cubic'; it must be one of constant, cosine, linear, step"),
        ({"schedule": "step", "decay_steps": 9, "step_boundaries": (3.0,)}, "optimizer.step_boundaries"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate is -1.0"),
        ({"learning_rate": math.nan}, "optimizer.learning_rate is nan"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay is -0.1"),
        ({"clip_norm": -1.0}, "optimizer.clip_norm is -1.0; it must be at least 0"),
        ({"momentum": 0.9}, "optimizer.momentum is 0.9, but adam takes none.*nesterov, b1, b2, eps"),
        ({"name": "sm3", "warmup_steps": 5}, "'sm3', which takes no schedule"),
        ({"parameters": ("decay=0.9",)}, "'decay', which adam does not take; it takes b1, b2, eps"),
        ({"parameters": ("learning_rate=0.9",)}, "'learning_rate'"),
        ({"parameters": ("b1",)}, "'b1', expected name=value"),
        ({"parameters": ("b1=2",)}, "optimizer.parameters b1 is 2; it must be at least 0 and below 1"),
        ({"parameters": ("eps=nan",)}, "optimizer.parameters eps is nan; it must be finite and at least 0"),
        ({"parameters": ("eps_root=Inf",)}, "optimizer.parameters eps_root is inf; it must be finite"),
        ({"parameters": ("eps_root=small",)}, "optimizer.parameters eps_root is 'small'; it must be a number"),
        ({"parameters": ("nesterov=maybe",)}, "optimizer.parameters nesterov is 'maybe'; it must be True or False"),
        ({"name": "muon", "parameters": ("beta=1.5",)}, "optimizer.parameters beta is 1.5; it must be at least 0 and"),
        ({"name": "adabelief", "parameters": ("nesterov=7",)}, "optimizer.parameters nesterov is 7; it must be True"),
    ],
)
def test_a_bad_field_is_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(Optimizer(**change))
    assert "\n" not in str(caught.value)
