"""The textbook CNN on CIFAR-10 with augmentation, a schedule and averaged weights: the same 122,570 parameters.

Command:  jaxai train configs/cifar10_augmented.py --data.dir DIR, where DIR has tfds's cifar10 as array_record
Hardware: 2 CPU cores, float32.  Time: 17 min 39 s.
Result:   test accuracy 81.51 % (one seed).
"""

from jaxai.cnn import Augment, Config, Optimizer
from jaxai.data import Data
from jaxai.experiments.classification import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        image_mean=(0.4914, 0.4822, 0.4465),
        image_std=(0.2470, 0.2435, 0.2616),
        ema_decay=0.999,
        test_time="flip",
        optimizer=Optimizer("adamw", learning_rate=3e-3, schedule="cosine", warmup_steps=500, weight_decay=0.01),
        augment=Augment(flip="alternating", crop_padding=2),
    ),
    data=Data("tfds:cifar10"),
    epochs=40,
    batch_size=128,
    expected=0.76,
    run=Run(workdir="runs/cifar10_augmented"),
)
