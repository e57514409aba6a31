"""The runtime and the report know no metric by its name."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxai
from jaxai import cnn, dqn, gan, population, seq2seq
from jaxai.experiments.generation.metrics import METRICS as GENERATION
from jaxai.experiments.qlearning.metrics import METRICS as QLEARNING
from jaxai.experiments.translation.experiment import METRICS as TRANSLATION
from jaxai.metrics import Meanings
from jaxai.runtime.timing import METRICS as TIMING

DECLARED = {**cnn.METRICS, **population.METRICS, **GENERATION, **QLEARNING, **TRANSLATION}
SOURCES = sorted(path for room in ("runtime", "report") for path in (Path(jaxai.__file__).parent / room).glob("*.py"))
# What the loop measures by itself, what it reports about several seeds, and a parameter of `jax.lax.scan`.
OWN = {*TIMING, "seeds", "diverged", "length"}


def names_in(path):
    """The strings of a file that could be names: no docstrings, no sentences."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from (word.strip("_") for word in [node.value] if word.replace("_", "a").isidentifier())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_metric_of_a_workload_is_named(path):
    meanings = Meanings({name: metric for name, metric in DECLARED.items() if name not in OWN})
    assert [name for name in names_in(path) if meanings.parse(name).metric in meanings.metrics] == []


def test_names_are_found_where_they_are(tmp_path):
    (tmp_path / "x.py").write_text('"""loss"""\nA = ("loss", f"best_{1}_accuracy", "no sentence", "test_")\n')
    assert {"loss", "accuracy", "test"} <= {*names_in(tmp_path / "x.py")}
    assert [*names_in(tmp_path / "x.py")].count("loss") == 1


def shapes(workload, batch):
    state = jax.eval_shape(workload.init, jax.random.key(0))
    return jax.eval_shape(workload.train_step, state, batch)[1], jax.eval_shape(workload.eval_step, state, batch)


def test_all_metrics_of_the_steps_that_take_batches_are_declared():
    images = {
        "image": jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.uint8),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    pairs = seq2seq.Config(source_vocabulary=9, target_vocabulary=9)
    adversarial = gan.Config(image_shape=(28, 28, 1), width=2, discriminator_width=2, gradient_penalty=1.0, r1=1.0)
    for workload, config, batch in (
        (cnn, cnn.Config(architecture="mlp", image_shape=(28, 28, 1), width=4), images),
        (gan, adversarial, images),
        (seq2seq, pairs, seq2seq.example_batch(pairs, 2)),
    ):
        trained, evaluated = shapes(workload.make(config), batch)
        assert trained.keys() <= workload.METRICS.keys()
        assert {name for name, value in evaluated.items() if value.shape == ()} - {"count"} <= workload.METRICS.keys()


def test_all_metrics_of_deep_q_learning_are_declared():
    config = dqn.Config(num_envs=2, batch_size=4, capacity=20, learning_starts=4, train_every=2, total_steps=20)
    trained, evaluated = shapes(dqn.make(config, *dqn.make_environment(dqn.Environment("Catch-bsuite"))), None)
    assert trained.keys() <= dqn.METRICS.keys()
    assert evaluated.keys() - {"count"} <= dqn.METRICS.keys()
