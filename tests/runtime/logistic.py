"""Logistic regression: a workload of a user's own, in what `jaxai.core` and optax offer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxai.core import State, Workload, pmean, psum

EXAMPLES, TESTED, CLASSES = 64, 20, 3
OPTIMIZER = optax.sgd(0.5)


def logits(params, x):
    return x @ params["w"] + params["b"]


def losses(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch["x"]), batch["y"])


def make(axis_name=None):
    def init(key):
        params = {"w": jnp.zeros((4, CLASSES)), "b": jnp.zeros(CLASSES)}
        return State(jnp.int32(0), params, OPTIMIZER.init(params), key)

    def train_step(state, batch):
        loss, grads = jax.value_and_grad(lambda params: losses(params, batch).mean())(state.params)
        updates, opt_state = OPTIMIZER.update(pmean(grads, axis_name), state.opt_state)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        return state, {"loss": pmean(loss, axis_name)}

    def eval_step(state, batch):
        right = logits(state.params, batch["x"]).argmax(-1) == batch["y"]
        mask = batch["mask"]
        sums = {"loss": (mask * losses(state.params, batch)).sum(), "accuracy": (mask * right).sum()}
        return psum(sums | {"count": mask.sum()}, axis_name)

    return Workload(init, train_step, eval_step, predict=lambda state, x: logits(state.params, x))


def data(examples=EXAMPLES, seed=0):
    """Separable by its three first columns; float64 and int64, as NumPy makes them."""
    x = np.random.default_rng(seed).normal(size=(examples, 4))
    return {"x": x, "y": x[:, :CLASSES].argmax(-1)}
