"""Deep Q-learning in SBX: Stable-Baselines3 with jitted updates, gymnasium's environments in Python, on the CPU.

pip install sbx-rl
python -m benchmarks.peers.sbx_dqn
"""

from benchmarks.peers import dqn_tasks, sb3_dqn
from benchmarks.peers.dqn_tasks import Task
from benchmarks.peers.serving import Trainer


def build(task: Task, seeds: int) -> Trainer:
    """`sbx.DQN` with its `MlpPolicy`, two layers of one width."""
    import jax
    from sbx import DQN

    arguments = {"policy_kwargs": {"net_arch": list(task.hidden)}}
    libraries = ("sbx-rl", "stable-baselines3", "jax", "flax", "gymnasium")
    model, trainer = sb3_dqn.learner(DQN, task, seeds, arguments, libraries)
    return trainer._replace(parameters=sum(leaf.size for leaf in jax.tree.leaves(model.policy.qf_state.params)))


if __name__ == "__main__":
    dqn_tasks.main(build)
