"""A small DCGAN on digits: non-saturating loss, lazy R1, self-modulation, an averaged generator.

Command:  jaxai train configs/mnist_dcgan.py
          jaxai train configs/mnist_dcgan.py --data.source tfds:mnist --data.dir DIR --epochs 14
Hardware: 1 CPU core, float32.  Time: 8 min on the bundled MNIST-5k; 24 to 26 min on all of MNIST.
Result:   Frechet distance 14.2 on MNIST-5k (1 seed; untrained 424, real images 1.56), 86.9 % of samples confidently
          a digit; 3.7 on all of MNIST (3 seeds; untrained 407, real images 0.29) and 91.2 %.
"""

from jaxai.data import Data
from jaxai.experiments.generation import Experiment
from jaxai.gan import Config, Optimizer
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        width=16,
        discriminator_width=32,
        discriminator_hidden=128,
        self_modulation=32,
        minibatch_std=4,
        r1=0.5,
        r1_interval=4,
        ema_decay=0.998,
        generator_optimizer=Optimizer("adam", 2e-3, schedule="cosine", final_fraction=0.05, b1=0.5, b2=0.99),
        discriminator_optimizer=Optimizer("adam", 2e-3, schedule="cosine", final_fraction=0.05, b1=0.5, b2=0.99),
    ),
    data=Data("mnist5k"),
    epochs=60,
    batch_size=32,
    expected=17.0,
    run=Run(workdir="runs/mnist_dcgan"),
)
