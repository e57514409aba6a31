"""DCGAN."""

from jaxai.data import Data
from jaxai.gan import Config
from jaxai.gan.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(ema_decay=0.999),
    data=Data("mnist5k"),
    epochs=40,
    batch_size=64,
    run=Run(workdir="runs/mnist_dcgan"),
)
