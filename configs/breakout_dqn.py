"""Deep Q-learning on MinAtar Breakout with sticky actions.

Command:  jaxai train configs/breakout_dqn.py --seeds 10
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.dqn.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        total_steps=1_000_000,
        num_envs=10,
        train_every=10,
        batch_size=32,
        capacity=100_000,
        learning_starts=5_000,
        epsilon_steps=100_000,
        epsilon_end=0.05,
        target_every=1_000,
        optimizer=Optimizer(learning_rate=3e-4),
    ),
    env=Environment("Breakout-MinAtar", sticky_actions=0.1),
    run=Run(workdir="runs/breakout_dqn", mode="shard_map"),
)
