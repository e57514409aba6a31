"""Deep Q-learning in Stable-Baselines3: PyTorch, gymnasium's environments in Python, on the CPU.

pip install stable-baselines3
python -m benchmarks.peers.sb3_dqn
"""

from importlib import metadata
from typing import Any

from benchmarks.peers import dqn_tasks
from benchmarks.peers.dqn_tasks import Task
from benchmarks.peers.serving import Trainer


def build(task: Task, seeds: int) -> Trainer:
    """`stable_baselines3.DQN` with its `MlpPolicy`."""
    from stable_baselines3 import DQN

    arguments = {"policy_kwargs": {"net_arch": list(task.hidden)}, "device": "cpu"}
    model, trainer = learner(DQN, task, seeds, arguments, ("stable-baselines3", "torch", "gymnasium"))
    return trainer._replace(parameters=sum(parameter.numel() for parameter in model.q_net.parameters()))


def learner(
    algorithm: Any, task: Task, seeds: int, arguments: dict[str, Any], libraries: tuple[str, ...]
) -> tuple[Any, Trainer]:
    """A learner with the interface of Stable-Baselines3, its replay filled: (the model, a trainer)."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    if task.features or seeds > 1:
        raise SystemExit(f"gymnasium has no {task.environment}, and this learner trains one seed at a time")

    class WholeSchedule(BaseCallback):
        """Lets the schedule of epsilon go on over calls of `learn`, each of which would run it to its end."""

        def _on_training_start(self) -> None:
            self.model._total_timesteps = task.total_steps

        def _on_step(self) -> bool:
            return True

    model = algorithm(
        "MlpPolicy",
        make_vec_env(task.environment, task.num_envs, seed=0),
        learning_rate=task.learning_rate,
        buffer_size=task.capacity,
        learning_starts=task.learning_starts,
        batch_size=task.batch_size,
        gamma=task.discount,
        train_freq=task.train_every // task.num_envs,  # in steps of all environments
        gradient_steps=1,
        target_update_interval=task.target_every,
        exploration_fraction=task.epsilon_steps / task.total_steps,
        exploration_initial_eps=task.epsilon_start,
        exploration_final_eps=task.epsilon_end,
        seed=0,
        **arguments,
    )

    def run(steps: int) -> None:
        model.learn(steps, WholeSchedule(), log_interval=2**30, reset_num_timesteps=False)

    def mean_return() -> float:
        return float(evaluate_policy(model, make_vec_env(task.environment, 1, seed=1), n_eval_episodes=10)[0])

    run(task.learning_starts)
    replay = model.replay_buffer
    arrays = (replay.observations, replay.next_observations, replay.actions, replay.rewards, replay.dones)
    stored = sum(array.nbytes for array in (*arrays, replay.timeouts))
    versions = {name: metadata.version(name) for name in libraries}
    return model, Trainer(run, 0, versions, {"bytes_per_transition": stored / task.capacity}, mean_return)


if __name__ == "__main__":
    dqn_tasks.main(build)
