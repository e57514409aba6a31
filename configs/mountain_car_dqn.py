"""Deep Q-learning on MountainCar, whose reward comes only at the top.

Command:  jaxai train configs/mountain_car_dqn.py --seeds 10
Hardware: 2 CPU cores, float32.  Time: 8 min for all seeds, on a busy machine.
Result:   mean greedy return -126.8 (95 %: -153.1 to -106.3); 8 of 10 seeds at -99 to -124, 2 never reach the top.
"""

from jaxai.dqn import Config, Environment, Optimizer
from jaxai.experiments.qlearning import Experiment
from jaxai.runtime.config import Run

config = Experiment(
    workload=Config(
        total_steps=500_000,
        hidden=(128, 128),
        learning_starts=20_000,
        batch_size=128,
        capacity=100_000,
        epsilon_steps=150_000,
        target_every=2_000,
        n_step=3,
        huber_delta=0.0,
        evaluation_steps=200,
        optimizer=Optimizer(learning_rate=1e-3, schedule="linear"),
    ),
    # Five times the usual limit of 200, which evaluation uses: 200 random steps never reach the top.
    env=Environment("MountainCar-v0", params={"max_steps_in_episode": 1_000}),
    run=Run(workdir="runs/mountain_car_dqn", mode="shard_map"),
)
