"""Deep Q-learning on CartPole, environments, replay and learner in one program.

Command:  jaxai train configs/cartpole_dqn.py --seeds 10
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.dqn.experiment import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        total_steps=500_000,
        num_envs=10,
        train_every=10,
        batch_size=128,
        capacity=10_000,
        learning_starts=10_000,
        epsilon_steps=250_000,
        epsilon_end=0.05,
        huber_delta=0.0,
        optimizer=Optimizer(learning_rate=2.5e-4),
    ),
    env=Environment("CartPole-v1"),
    run=Run(workdir="runs/cartpole_dqn", mode="shard_map"),
)
