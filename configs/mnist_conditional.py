"""Digits on demand: the small DCGAN, conditional by projection and conditional BatchNorm.

Command:  jaxai train configs/mnist_conditional.py
          jaxai train configs/mnist_conditional.py --data.source tfds:mnist --data.dir DIR --epochs 5
Hardware: 1 CPU core, float32.  Time: 18 to 27 min on all of MNIST, beside another run.
Result:   there, Frechet distance 2.46 (3 seeds; untrained 424.5, real images 0.29), 98.6 % labelled as asked.
          On the bundled MNIST-5k, which the first command takes: not run to its end yet.
"""

from jaxai.data import Data
from jaxai.gan import Config, Optimizer
from jaxai.gan.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        conditional=True,
        width=16,
        discriminator_width=32,
        minibatch_std=4,
        r1=0.2,
        ema_decay=0.998,
        generator_optimizer=Optimizer("adam", 2e-3, schedule="cosine", final_fraction=0.05, b1=0.5, b2=0.99),
        discriminator_optimizer=Optimizer("adam", 3e-3, schedule="cosine", final_fraction=0.05, b1=0.5, b2=0.99),
    ),
    data=Data("mnist5k"),
    epochs=75,
    batch_size=32,
    run=Run(workdir="runs/mnist_conditional"),
)
