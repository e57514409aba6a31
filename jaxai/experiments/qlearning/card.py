"""The facts in an agent's model card."""

from jaxai import dqn
from jaxai.core import PyTree
from jaxai.dqn.spec import EnvironmentSpec
from jaxai.runtime.model_card import Model

VARIANTS = ("double", "dueling", "noisy", "prioritized", "munchausen")
"""Fields of the configuration that are the name of a method which is on."""


def describe(config: dqn.Config, params: PyTree, spec: EnvironmentSpec, environment: str, members: int) -> Model:
    """The facts of a trained agent.

    Args:
      config: of the run.
      params: trained parameters of one agent.
      spec: of the environment.
      environment: its name.
      members: number of agents that were trained in one program.
    """
    first = spec.first_action
    found = [name for name in VARIANTS if getattr(config, name, False)]
    method = f"deep Q-learning{f' ({chr(44).join(found)})'.replace(',', ', ') if found else ''}"
    shape = ", ".join(map(str, ("observations", *spec.observation_shape)))
    several = f" One of {members} agents, which were trained in one program." if members > 1 else ""
    return Model(
        kind="Deep Q-learning agent",
        network=f"Action values by {method}",
        params=params,
        inputs={"observations": f"[{shape}] {spec.observation_dtype}"},
        outputs={"actions": f"[observations] int32, {first} to {first + spec.num_actions - 1}"},
        usage=("action = run.act(observation)",),
        commands=("jaxai play RUN", "jaxai evaluate RUN", "jaxai report RUN"),
        pipeline="reinforcement-learning",
        tags=("deep-reinforcement-learning", "dqn"),
        data=f"It generated its own data in the environment `{environment}`.{several}",
    )
