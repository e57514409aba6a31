"""Rainbow (Hessel et al. 2018, arXiv:1710.02298) on MinAtar Breakout with sticky actions.

Command:  jaxai train configs/rainbow_breakout.py --seeds 10
Hardware: one accelerator chip. Not yet run to the end: a seed takes about 20 minutes on 2 CPU cores.
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.experiments.qlearning import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        double=True,
        dueling=True,
        noisy=True,
        prioritized=True,
        n_step=3,
        distribution="categorical",
        value_min=-1.0,
        value_max=30.0,
        total_steps=1_000_000,
        batch_size=32,
        capacity=100_000,
        learning_starts=5_000,
        epsilon_start=0.0,
        epsilon_end=0.0,
        target_every=1_000,
        optimizer=Optimizer(learning_rate=2.5e-4, eps=1.5e-4),
    ),
    env=Environment("Breakout-MinAtar", sticky_actions=0.1),
    run=Run(workdir="runs/rainbow_breakout", mode="shard_map"),
)
