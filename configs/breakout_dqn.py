"""Deep Q-learning on MinAtar Breakout with sticky actions, 1 M frames.

Command:  jaxai train configs/breakout_dqn.py --seeds 10
Hardware: 2 CPU cores, float32.  Time: 35 min for all seeds, on a busy machine.
Result:   mean greedy return 11.1 (95 %: 9.1 to 13.2, 10 seeds); Young and Tian (2019) report about 9.

Not yet run: 5 M frames (--total-steps 5000000), over an hour for 10 seeds on this hardware.
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.experiments.qlearning import Experiment
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
        target_every=1_000,
        optimizer=Optimizer(learning_rate=3e-4),
    ),
    env=Environment("Breakout-MinAtar", sticky_actions=0.1),
    run=Run(workdir="runs/breakout_dqn", mode="shard_map"),
)
