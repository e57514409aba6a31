"""Deep Q-learning on CartPole within 100,000 environment steps: five updates where configs/cartpole_dqn.py has one.

Command:  jaxai train configs/cartpole_tuned.py --seeds 10
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.dqn.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        total_steps=100_000,
        updates_per_step=5,
        batch_size=128,
        capacity=10_000,
        learning_starts=1_000,
        epsilon_steps=50_000,
        epsilon_end=0.02,
        target_every=100,
        huber_delta=0.0,
        optimizer=Optimizer(learning_rate=2.5e-4),
    ),
    env=Environment("CartPole-v1"),
    run=Run(workdir="runs/cartpole_tuned", mode="shard_map"),
)
