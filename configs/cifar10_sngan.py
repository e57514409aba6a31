"""The residual pair of SNGAN on CIFAR-10: hinge loss, spectral normalisation, five discriminator steps.

Command:  jaxai train configs/cifar10_sngan.py --data.dir DIR, where DIR has tfds's cifar10 prepared as array_record
Hardware: made for an accelerator.
Result:   not yet run. Miyato et al. 2018 (arXiv:1802.05957) train it for 50,000 generator steps.
"""

from jaxai.data import Data
from jaxai.experiments.generation import Experiment
from jaxai.gan import Config, Optimizer
from jaxai.runtime.config import Run

ADAM = Optimizer("adam", learning_rate=2e-4, b1=0.0, b2=0.9, schedule="linear")

config = Experiment(
    workload=Config(
        architecture="residual",
        latent_size=128,
        width=256,
        discriminator_width=128,
        spectral_normalization="discriminator",
        loss="hinge",
        discriminator_steps=5,
        generator_optimizer=ADAM,
        discriminator_optimizer=ADAM,
        ema_decay=0.9999,
    ),
    data=Data("tfds:cifar10"),
    epochs=320,
    batch_size=64,
    run=Run(workdir="runs/cifar10_sngan", mode="shard_map"),
)
