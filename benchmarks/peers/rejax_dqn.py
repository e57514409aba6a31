"""Deep Q-learning in rejax: environment, replay and learner in one program, on the CPU.

    pip install rejax "gymnax>=1.0.1" "jax>=0.10,<0.12"
    python -m benchmarks.peers.rejax_dqn --task breakout

rejax 0.1.3 takes the five values of a step that gymnax had before 1.0. gymnax's own wrapper that gives them cannot be
copied, which rejax does, so there is an adapter here.
"""

from importlib import metadata
from typing import Any

from benchmarks.peers import dqn_tasks
from benchmarks.peers.dqn_tasks import Task
from benchmarks.peers.serving import Trainer


class FiveValues:
    """An environment of gymnax 1.0 whose step returns (observation, state, reward, done, info)."""

    def __init__(self, env: Any):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy asks before `_env` is there
            raise AttributeError(name)
        return getattr(self._env, name)

    def step(self, key: Any, state: Any, action: Any, params: Any = None) -> tuple[Any, Any, Any, Any, Any]:
        """Takes a step; an episode is done where it terminated and where it was truncated, as rejax has it."""
        observation, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        return observation, state, reward, terminated | truncated, info


def build(task: Task, seeds: int) -> Trainer:
    """`rejax.DQN` and the iterations of its `train`, without the evaluations between them."""
    import gymnax
    import jax
    import numpy as np
    from jax import lax
    from rejax import DQN
    from rejax.evaluate import evaluate

    env, env_params = gymnax.make(task.environment)
    algorithm: Any = DQN.create(
        env=FiveValues(env),
        env_params=env_params,
        agent_kwargs={"activation": "relu"},
        num_envs=task.num_envs,
        num_epochs=task.train_every // task.num_envs,
        total_timesteps=task.total_steps,
        learning_rate=task.learning_rate,
        gamma=task.discount,
        buffer_size=task.capacity,
        fill_buffer=task.learning_starts,
        batch_size=task.batch_size,
        target_update_freq=task.target_every,
        polyak=0.0,  # the target becomes a copy
        eps_start=task.epsilon_start,
        eps_end=task.epsilon_end,
        exploration_fraction=task.epsilon_steps / task.total_steps,
        ddqn=False,
    )
    algorithm = algorithm.replace(agent=agent(task, env.action_space(env_params).n))

    def iterate(state: Any, steps: Any) -> Any:
        return lax.fori_loop(0, steps // task.num_envs, lambda _, state: algorithm.train_iteration(state), state)

    key = jax.random.key(0)
    init, program = algorithm.init_state, iterate
    if seeds > 1:
        key = jax.random.split(key, seeds)
        init, program = jax.vmap(init), jax.vmap(iterate, in_axes=(0, None))
    state = jax.jit(init)(key)
    replay = sum(leaf.nbytes for leaf in jax.tree.leaves(state.replay_buffer))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.q_ts.params)) // seeds
    program, seconds = dqn_tasks.timed_compile(
        lambda: jax.jit(program, donate_argnums=0).lower(state, np.int32(task.train_every))
    )

    def run(steps: int) -> None:
        nonlocal state
        state = jax.block_until_ready(program(state, np.int32(steps)))

    def mean_return() -> float:
        first = state if seeds == 1 else jax.tree.map(lambda leaf: leaf[0], state)
        act, longest = algorithm.make_act(first), env_params.max_steps_in_episode
        _, returns = evaluate(act, jax.random.key(1), algorithm.env, env_params, 32, longest)
        return float(returns.mean())

    run(task.learning_starts)
    details = {**seconds, "bytes_per_transition": replay / task.capacity / seeds}
    versions = {name: metadata.version(name) for name in ("rejax", "gymnax", "jax", "flax", "optax")}
    return Trainer(run, parameters, versions, details, mean_return)


def agent(task: Task, actions: int) -> Any:
    """The task's network as rejax wants one: rejax's own behind a convolution, where there is one."""
    import jax
    from flax import linen as nn
    from rejax.networks import DiscreteQNetwork, EpsilonGreedyPolicy

    class ConvolutionalQNetwork(DiscreteQNetwork):
        @nn.compact
        def __call__(self, obs: jax.Array) -> jax.Array:
            hidden = nn.relu(nn.Conv(task.features, (3, 3), padding="VALID")(obs))
            return DiscreteQNetwork(self.hidden_layer_sizes, self.activation, self.action_dim)(hidden)

    network = ConvolutionalQNetwork if task.features else DiscreteQNetwork
    return EpsilonGreedyPolicy(network)(hidden_layer_sizes=task.hidden, activation=nn.relu, action_dim=actions)


if __name__ == "__main__":
    dqn_tasks.main(build)
