"""Logistic regression on two clouds of points: a stranger's workload, as a preset."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxai import Metric, State, Workload
from jaxai.core import pmean
from jaxai.experiments.arrays import ArraysExperiment
from jaxai.ranges import Count, Natural, Positive
from jaxai.runtime.config import Run

METRICS = {"hits": Metric("hit rate", "%", better="higher", shown=True), "loss": Metric("loss", "nats")}


def make(features, learning_rate, axis_name=None):
    optimizer = optax.sgd(learning_rate)

    def init(key):
        params = {"w": jnp.zeros(features), "b": jnp.zeros(())}
        return State(jnp.int32(0), params, optimizer.init(params), key)

    def predict(state, x):
        return jax.nn.sigmoid(x @ state.params["w"] + state.params["b"])

    def losses(params, batch):
        return optax.sigmoid_binary_cross_entropy(batch["x"] @ params["w"] + params["b"], batch["y"])

    def train_step(state, batch):
        loss, gradients = jax.value_and_grad(lambda params: losses(params, batch).mean())(state.params)
        gradients, loss = pmean((gradients, loss), axis_name)
        updates, opt_state = optimizer.update(gradients, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        return state, {"loss": loss, "grad_norm": optax.tree.norm(gradients)}

    def eval_step(state, batch):
        right = (predict(state, batch["x"]) > 0.5) == batch["y"]
        sums = {"loss": losses(state.params, batch), "hits": right, "count": jnp.ones(len(right))}
        return {name: (value * batch["mask"]).sum() for name, value in sums.items()}

    return Workload(init, train_step, eval_step, predict=predict)


@dataclass(frozen=True)
class Logistic(ArraysExperiment):
    learning_rate: Positive = 0.5  # of gradient descent
    points: Count = 256  # number of training points
    features: Natural = 0  # filled in from the data
    score = "test_hits"
    metrics = METRICS

    def load(self):
        y = np.random.default_rng(0).integers(0, 2, self.points + 100).astype(np.float32)
        x = np.random.default_rng(1).normal(size=(len(y), 3)).astype(np.float32) + 2 * y[:, None]
        train, test = slice(0, self.points), slice(self.points, None)
        return {"train": {"x": x[train], "y": y[train]}, "test": {"x": x[test], "y": y[test]}}

    def resolve(self, data):
        return dataclasses.replace(self, features=data["train"]["x"].shape[1])

    def make(self, axis_name=None):
        return make(self.features, self.learning_rate, axis_name)


config = Logistic(epochs=4, batch_size=32, run=Run(workdir="runs/logistic", devices=1))
