"""Deep Q-learning in jaxai: environment, replay and learner in one program, on the CPU.

pip install -e ".[rl]"
python -m benchmarks.peers.jaxai_dqn --task breakout --seeds 8
"""

import math
from importlib import metadata
from typing import Literal

from benchmarks.peers import dqn_tasks
from benchmarks.peers.dqn_tasks import Task
from benchmarks.peers.serving import Trainer

MODE: Literal["shard_map"] = "shard_map"
MOST_TRAIN_STEPS = 2**20
"""In a call; a block is one call."""


def build(task: Task, seeds: int) -> Trainer:
    """`dqn.make` under `compile_step`, as `jaxai train` runs it; several seeds as a population."""
    import jax

    from jaxai import dqn, population
    from jaxai.runtime import chips, parallel

    # As `jaxai train --seeds 8`: several seeds share the cores, each on one.
    devices = math.gcd(seeds, chips.usable_cores())
    parallel.use_cpu_devices(devices, one_thread=not task.features)  # before gymnax, whose import uses JAX's devices
    env, env_params = dqn.make_environment(dqn.Environment(task.environment))
    config = dqn.Config(
        torso="minatar" if task.features else "mlp",
        hidden=task.hidden,
        total_steps=task.total_steps,
        num_envs=task.num_envs,
        learning_starts=task.learning_starts,
        train_every=task.train_every,
        batch_size=task.batch_size,
        capacity=task.capacity,
        discount=task.discount,
        epsilon_start=task.epsilon_start,
        epsilon_end=task.epsilon_end,
        epsilon_steps=task.epsilon_steps,
        target_every=task.target_every,
        huber_delta=0.0,  # squared, as rejax; under Huber's the values of this task grow without end
        evaluation_episodes=32,
        optimizer=dqn.Optimizer(learning_rate=task.learning_rate),
    )
    workload = dqn.make(config, env, env_params)
    if seeds > 1:
        workload = population.make(workload, range(seeds))
    mesh, mode = parallel.make_mesh(devices), MODE
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
    members = population.members_of(state) if seeds > 1 else state
    replay = sum(leaf.nbytes for leaf in jax.tree.leaves(members.local.memory))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(members.params)) // seeds
    call = parallel.compile_step(workload.train_step, mesh, mode, steps_per_call=MOST_TRAIN_STEPS)
    program, seconds = dqn_tasks.timed_compile(lambda: call.lower(state, None))
    call = call._replace(function=program)

    def run(steps: int) -> None:
        nonlocal state
        state, metrics = call(state, None, None, steps // task.train_every)
        jax.block_until_ready((state, metrics))

    def mean_return() -> float:
        assert workload.eval_step is not None
        sums = jax.jit(workload.eval_step)(state, None)
        return float(sums["return"].sum() / sums["count"].sum())

    details = {**seconds, "bytes_per_transition": replay / task.capacity / seeds}
    versions = {name: metadata.version(name) for name in ("gymnax", "jax", "flax", "optax")}
    return Trainer(run, parameters, versions, details, mean_return)


if __name__ == "__main__":
    dqn_tasks.main(build)
