"""Deep Q-learning on MinAtar Freeway with sticky actions, the budget of Young and Tian (2019, arXiv:1903.03176).

Command:  jaxai train configs/freeway_dqn.py --seeds 10
Hardware: one accelerator chip. Not yet run: 10 seeds of 5 M frames take over an hour on 2 CPU cores.
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.experiments.qlearning import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        total_steps=5_000_000,
        batch_size=32,
        capacity=100_000,
        learning_starts=5_000,
        epsilon_steps=100_000,
        target_every=1_000,
        optimizer=Optimizer(learning_rate=3e-4),
    ),
    env=Environment("Freeway-MinAtar", sticky_actions=0.1),
    run=Run(workdir="runs/freeway_dqn", mode="shard_map"),
)
