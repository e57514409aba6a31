"""What holds for every workload in every engine.

It learns, compiles once, keeps the structure of its state, donates it, has the same parameters on all devices, and
moves nothing between host and devices inside the loop.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import cnn, dqn, gan, seq2seq
from jaxai.core import Workload
from jaxai.runtime import parallel
from tests.dqn.chain import PLACES, TINY, Chain

DEVICES, STEPS, EXAMPLES, BATCH = 8, 20, 64, 32
MODES: tuple[parallel.Mode, ...] = ("jit", "shard_map", "pmap")


class Case(NamedTuple):
    """A workload that learns in a few steps.

    Attributes:
      make: of the workload, from an axis name.
      data: arrays [examples, ...]; None where the workload makes its own.
      inputs: of `Workload.predict`.
      score: outputs -> how much of the task has been learnt, 0 to 1.
      calls: of `STEPS` steps, after which it has learnt it.
    """

    make: Callable[[str | None], Workload]
    data: dict[str, np.ndarray] | None
    inputs: Any
    score: Callable[[Any], float]
    calls: int = 3


def classifier() -> Case:
    """The brightest of three rows is the class."""
    label = np.arange(EXAMPLES, dtype=np.int32) % 3
    image = np.random.default_rng(0).integers(0, 100, (EXAMPLES, 3, 6, 1)).astype(np.uint8)
    image[np.arange(EXAMPLES), label] += 100
    config = cnn.Config(
        architecture="mlp",
        image_shape=(3, 6, 1),
        num_classes=3,
        width=8,
        depth=1,
        normalization="batch",
        dropout=0.1,
        ema_decay=0.9,
        optimizer=cnn.Optimizer(learning_rate=1e-2),
    )
    return Case(
        lambda axis_name: cnn.make(config, axis_name),
        {"image": image, "label": label},
        image,
        lambda logits: float((logits.argmax(-1) == label).mean()),
    )


def generator() -> Case:
    """All images are white."""
    adam = gan.Optimizer("adam", learning_rate=2e-2, b1=0.5)
    config = gan.Config(
        image_shape=(8, 8, 1),
        width=2,
        latent_size=4,
        generator_optimizer=adam,
        discriminator_optimizer=adam,
    )
    image = np.full((EXAMPLES, 8, 8, 1), 255, np.uint8)
    return Case(
        lambda axis_name: gan.make(config, axis_name),
        {"image": image},
        jax.random.normal(jax.random.key(5), (EXAMPLES, 4)),
        lambda images: float((images > 0.5).mean()),
    )


def translator() -> Case:
    """The target is the first token of the source."""
    sources = np.random.default_rng(0).integers(4, 10, (EXAMPLES, 3))
    data = seq2seq.make_batch(sources, sources[:, :1])
    config = seq2seq.Config(
        source_vocabulary=10,
        target_vocabulary=10,
        hidden=16,
        embed=8,
        dropout=0.1,
        bidirectional=False,
        optimizer=seq2seq.Optimizer("adam", 3e-2),
    )
    return Case(
        lambda axis_name: seq2seq.make(config, axis_name),
        data,
        data,
        lambda logits: float((logits[:, 0].argmax(-1) == data["target"][:, 0]).mean()),
    )


def agent() -> Case:
    """One action of each place earns a bonus."""
    config = dataclasses.replace(
        TINY, num_envs=8, batch_size=16, epsilon_end=1.0, discount=0.5, optimizer=dqn.Optimizer("adam", 1e-2)
    )
    return Case(
        lambda axis_name: dqn.make(config, Chain(), axis_name=axis_name),
        None,
        np.eye(PLACES, dtype=np.float32),
        lambda values: float((values.argmax(-1) == np.arange(PLACES) % 2).mean()),
        calls=5,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make_case", [classifier, generator, translator, agent], ids=["cnn", "gan", "seq2seq", "dqn"])
def test_workload_learns_compiles_once_keeps_its_state_and_stays_on_the_device(
    make_case: Callable[[], Case], mode: parallel.Mode
) -> None:
    case, mesh = make_case(), parallel.make_mesh(DEVICES)
    workload = case.make(parallel.axis_name(mode))
    chex.clear_trace_counter()
    # Two traces compile a call of several steps: one finds the shapes of the metrics, one is the loop's body.
    step = chex.assert_max_traces(workload.train_step, n=2)
    call = parallel.compile_step(step, mesh, mode, STEPS)

    first = jax.jit(workload.init)(jax.random.key(0))
    shapes = jax.eval_shape(lambda: first)
    state = parallel.place_state(first, mesh, mode)
    dataset = None if case.data is None else parallel.place_dataset(case.data, mesh)
    rows = np.random.default_rng(1).integers(0, EXAMPLES, (case.calls, STEPS, BATCH)).astype(np.int32)
    batches = [None if dataset is None else parallel.place_batches(row, mesh, mode, STEPS) for row in rows]

    given = state
    state, _ = call(given, batches[0], dataset)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.params)), "the state is not donated"
    with jax.transfer_guard("disallow"):
        for batch in batches[1:]:
            state, metrics = call(state, batch, dataset)
    for leaf in jax.tree.leaves((state.params, state.opt_state, state.extra)):
        copies = [shard.data for shard in leaf.addressable_shards]
        chex.assert_trees_all_equal(*copies)
    after = parallel.gather_state(state, mode)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(lambda: after), shapes)
    assert int(after.step) == case.calls * STEPS
    chex.assert_tree_all_finite({name: jnp.float32(value) for name, value in jax.device_get(metrics).items()})

    alone = case.make(None)
    assert alone.predict is not None
    predict = jax.jit(alone.predict)
    before, found = (
        case.score(np.asarray(predict(each, case.inputs))) for each in (alone.init(jax.random.key(0)), after)
    )
    assert before < 0.8
    assert found > 0.95
