"""Deep Q-learning on MountainCar, whose reward comes only at the top.

Command:  jaxai train configs/mountain_car_dqn.py --seeds 10
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.dqn.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        total_steps=500_000,
        learning_starts=10_000,
        batch_size=128,
        capacity=100_000,
        epsilon_steps=200_000,
        epsilon_end=0.02,
        target_every=2_000,
        n_step=3,
        double=True,
        huber_delta=0.0,
        optimizer=Optimizer(learning_rate=1e-3, schedule="linear"),
    ),
    env=Environment("MountainCar-v0"),
    run=Run(workdir="runs/mountain_car_dqn", mode="shard_map"),
)
