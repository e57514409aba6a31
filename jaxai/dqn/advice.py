"""Warnings about a configuration or a run that trains, but probably not as intended; one line each."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxai.dqn.config import Config

__all__ = ["of_call", "of_config"]

POLYAK = 0.1
"""Target rates up to this are meant for every update, as in Lillicrap et al. 2016 (0.001) and Stable-Baselines3."""
SLOW = 0.1
"""Largest share of the run by which the target network may lag."""
DISCARDED = 0.01
"""Largest share of discarded samples without a warning."""
RANDOM = 0.5
"""Largest final share of random actions without a warning."""
NAMED = 5
"""Largest number of trainings that a line names."""


def of_config(config: Config) -> dict[str, str]:
    """What is unusual about a configuration: kind -> line."""
    found = {}
    every = max(config.target_every, config.train_every)
    lag = every / max(config.target_rate, 1e-9)
    learning = config.total_steps - config.warmup_steps
    rarely = config.target_rate <= POLYAK and every > 10 * config.train_every
    if rarely or lag > (learning if config.target_rate == 1 else max(SLOW * learning, config.train_every)):
        found["target"] = (
            f"target_rate {config.target_rate:g} with target_every {config.target_every}: the target network lags about"
            f" {lag:,.0f} of {learning:,} environment steps behind; "
            + (f"try --target-every {config.train_every}" if config.target_rate < 1 else "lower --target-every")
        )
    if config.target_every < config.train_every:
        found["target_every"] = (
            f"target_every is {config.target_every}, below train_every: the target network is updated every"
            f" {config.train_every} environment steps, as the network changes only then"
        )
    start, end = config.epsilons
    share = min(1.0, config.total_steps / config.epsilon_steps)
    last = (
        start * (end / start) ** share if config.epsilon == "exponential" and start else start + (end - start) * share
    )
    if end <= RANDOM < last:
        found["epsilon_steps"] = (
            f"epsilon_steps is {config.epsilon_steps:g} and total_steps {config.total_steps}: {last:.0%} of the actions"
            f" are still random at the end, and not {end:.0%}; lower --epsilon-steps"
        )
    if config.warmup_steps > config.capacity:
        found["learning_starts"] = (
            f"learning_starts is {config.learning_starts}, above capacity: the first"
            f" {config.warmup_steps - config.capacity} random steps are overwritten before anything is learned"
        )
    return found


def of_call(values: Mapping[str, Any], config: Config, names: Sequence[str]) -> dict[str, str]:
    """Problems of a call: kind -> line, or "" if there is none.

    Args:
      values: the logged values of the call.
      config: of the run.
      names: of its trainings, as `seed 3`.
    """
    found = {}
    if "discarded" in values:
        found["discarded"] = ""
        if values["discarded"] > DISCARDED:
            spacing = config.truncation_spacing or "its longest episode"
            found["discarded"] = (
                f"{values['discarded']:.0%} of the draws are discarded: an environment truncates more often than every"
                f" {spacing} steps and the observations after are lost; lower --truncation-spacing to the fewest"
            )
    if "evaluation_return" in values:
        found["unfinished"] = ""
        if (share := values.get("evaluation_unfinished", 0.0)) and not config.evaluation_steps:
            found["unfinished"] = (
                f"{share:.0%} of the evaluation's episodes did not end: they are cut off after"
                f" {values['evaluation_length']:,.0f} steps and are counted as they are; --evaluation-steps is where"
            )
    if lost := [name for name, share in zip(names, values.get("diverged_per_seed", ()), strict=False) if share]:
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        # Each further diverged training is reported.
        found[f"diverged {len(lost)}"] = (
            f"{len(lost)} of {len(names)} trainings diverged ({', '.join(lost[:NAMED])}{more}): the others continue,"
            " and means are over them"
        )
    return found
