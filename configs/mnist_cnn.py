"""A small CNN on MNIST-5k."""

from jaxai.cnn import Config, Optimizer
from jaxai.cnn.experiment import Experiment
from jaxai.data import Data
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(optimizer=Optimizer(learning_rate=1e-3)),
    data=Data("mnist5k"),
    epochs=12,
    batch_size=64,
    run=Run(workdir="runs/mnist_cnn"),
)
