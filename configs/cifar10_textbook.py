"""The textbook CNN on CIFAR-10 as tutorials train it: Adam, batch 64, 10 epochs, no augmentation.

Command:  jaxai train configs/cifar10_textbook.py --data.dir DIR, where DIR has tfds's cifar10 prepared as array_record
Hardware: 2 CPU cores, float32.  Time: 3 min 24 s per seed.
Result:   test accuracy 71.03 % ± 0.75 (mean and standard deviation of 3 seeds).
"""

from jaxai.cnn import Config, Optimizer
from jaxai.data import Data
from jaxai.experiments.classification import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(optimizer=Optimizer("adam", learning_rate=1e-3)),
    data=Data("tfds:cifar10"),
    epochs=10,
    batch_size=64,
    expected=0.69,
    run=Run(workdir="runs/cifar10_textbook"),
)
