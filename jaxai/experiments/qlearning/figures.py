"""The metrics that a run of deep Q-learning logs: of a call, of an evaluation, and of the result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxai.report.statistics import bootstrap_interval, interquartile_mean

LAST_EPISODES = 100
"""Number of episodes in the training return of the result, as in OpenAI Gym's threshold for solving."""


def last_returns(lines: Sequence[Mapping[str, Any]], episodes: int = LAST_EPISODES) -> list[float | None]:
    """Mean return of the last training episodes of each seed, over the last calls with at least `episodes` episodes."""
    calls = [line for line in lines if "return" in line]
    found: list[float | None] = []
    for seed in range(len(_per_seed(calls[0], "return")) if calls else 0):
        total = number = 0.0
        for line in reversed(calls):
            ended, mean = _per_seed(line, "episodes")[seed], _per_seed(line, "return")[seed]
            if number < episodes and ended:
                total, number = total + ended * mean, number + ended
        found.append(total / number if number else None)
    return found


def _per_seed(line: Mapping[str, Any], name: str) -> list[Any]:
    return line.get(f"{name}_per_seed", [line[name]])


def describe(metrics: Mapping[str, np.ndarray], steps: int) -> dict[str, Any]:
    """The metrics of one call: means over seeds and `NAME_per_seed`; mean return and length of episodes.

    A seed that diverged is left out of every mean but that of `diverged`.
    """
    arrays = {name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in metrics.items()}
    episodes = np.rint(arrays.pop("episodes") * steps)
    sums = {name: arrays.pop(f"{name}_sum") * steps for name in ("return", "length")}
    diverged = arrays.get("diverged", np.zeros(len(episodes)))
    well = diverged == 0 if (diverged == 0).any() else np.ones(len(diverged), bool)
    values: dict[str, Any] = {name: float(value[well].mean()) for name, value in arrays.items() if name != "diverged"}
    if "diverged" in arrays:
        values["diverged"] = float(diverged.mean())
    total = episodes.sum()
    values |= {
        "episodes": total,
        "return": sums["return"].sum() / total if total else None,
        "episode_length": sums["length"].sum() / total if total else None,
    }
    if len(episodes) > 1:
        means = [float(s / n) if n else None for s, n in zip(sums["return"], episodes, strict=True)]
        values |= {"return_per_seed": means, "episodes_per_seed": episodes.tolist()}
        if "loss" in arrays:
            losses = zip(arrays["loss"].tolist(), diverged, strict=True)
            values["loss_per_seed"] = [None if lost else loss for loss, lost in losses]
        if "diverged" in arrays:
            values["diverged_per_seed"] = diverged.tolist()
    return values


def describe_evaluation(metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Mean, interquartile mean and 95 % bootstrap interval over seeds, without those that diverged."""
    returns = np.atleast_1d(metrics["evaluation_return"])
    lengths = np.atleast_1d(metrics["evaluation_length"])
    finite = returns[np.isfinite(returns)]
    values: dict[str, Any] = {"evaluation_return": float(finite.mean()) if len(finite) else None}
    if len(returns) > 1 and len(finite):
        low, high = bootstrap_interval(finite)
        values |= {
            "evaluation_return_iqm": float(interquartile_mean(finite)),
            "evaluation_return_low": float(low),
            "evaluation_return_high": float(high),
        }
    values["evaluation_return_per_seed"] = [score if np.isfinite(score) else None for score in returns.tolist()]
    unfinished = np.atleast_1d(metrics.get("evaluation_unfinished", 0.0))
    if (unfinished > 0).any():
        values["evaluation_unfinished"] = float(np.nanmean(unfinished))
    return values | {"evaluation_length": float(np.nanmean(lengths)) if len(finite) else None}


def of_result(values: Mapping[str, Any]) -> dict[str, Any]:
    """`evaluation_return` as `return_mean`, `evaluation_return_low` as `return_low`, and so on."""
    renamed = {name.removeprefix("evaluation_"): value for name, value in values.items()}
    return {"return_mean" if name == "return" else name: value for name, value in renamed.items()}
