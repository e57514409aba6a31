"""The network of airbench94 (Jordan 2024, arXiv:2404.00498) on CIFAR-10: whitening, GELU, BatchNorm, alternating flips.

Command:  jaxai train configs/cifar10_airbench.py --data.dir DIR, where DIR has tfds's cifar10 as array_record
For one accelerator, but not measured there yet; an epoch on 2 CPU cores takes many minutes.
"""

from jaxai.cnn import Augment, Config, Optimizer
from jaxai.data import Data
from jaxai.experiments.classification import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        architecture="airbench",
        width=64,
        image_mean=(0.4914, 0.4822, 0.4465),
        image_std=(0.2470, 0.2435, 0.2616),
        label_smoothing=0.2,
        ema_decay=0.99,
        test_time="flip_shift",
        optimizer=Optimizer(
            "sgd",
            learning_rate=0.5,
            momentum=0.85,
            nesterov=True,
            schedule="linear",
            warmup_steps=110,
            weight_decay=5e-4,
        ),
        augment=Augment(flip="alternating", crop_padding=2),
    ),
    data=Data("tfds:cifar10"),
    epochs=9.9,
    batch_size=1024,
    run=Run(workdir="runs/cifar10_airbench"),
)
