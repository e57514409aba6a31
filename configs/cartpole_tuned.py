"""Deep Q-learning on CartPole within 100,000 environment steps: a larger network, four times the updates.

Command:  jaxai train configs/cartpole_tuned.py --seeds 10
Hardware: 2 CPU cores, float32.  Time: 2 min 46 s for all seeds, on a busy machine.
Result:   mean greedy return 479 (95 %: 451 to 500, 10 seeds); 8 of 10 seeds above 475.
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.experiments.qlearning import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        total_steps=100_000,
        hidden=(128, 128),
        updates_per_step=4,
        batch_size=64,
        capacity=50_000,
        learning_starts=1_000,
        epsilon_steps=20_000,
        epsilon_end=0.01,
        target_every=200,
        double=True,
        n_step=3,
        huber_delta=0.0,
        optimizer=Optimizer(learning_rate=1e-3, schedule="linear"),
    ),
    env=Environment("CartPole-v1"),
    run=Run(workdir="runs/cartpole_tuned", mode="shard_map"),
)
