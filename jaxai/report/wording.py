"""How a run's figures are called and written where people read them."""

import math
from typing import Any

import numpy as np

from jaxai.report.run_record import FIDELITY, PER_SEED, SPLITS, Record, is_number

NAMES = {
    "mfu": "MFU",
    "seconds": "time",
    "compile_seconds": "compile time",
    "data_wait": "wait for data",
    "grad_norm": "gradient norm",
    "q_mean": "mean Q value",
    "discarded": "discarded draws",
    "env_steps": "environment steps",
    "env_steps_per_second_per_chip": "environment steps/s/chip",
    "examples_per_second_per_chip": "examples/s/chip",
    "target_tokens_per_second_per_chip": "target tokens/s/chip",
    "flops_per_target_token": "training FLOPs per target token",
    "frechet_distance": "Fréchet distance",
    "best_frechet_distance": "best Fréchet distance",
    "frechet_floor": "Fréchet distance of real images (floor)",
    "frechet_untrained": "Fréchet distance before training",
    "frechet_improvement": "Fréchet distance fell by a factor of",
    "kernel_distance_error": "kernel distance, standard error",
    "d_real": "D(x)",
    "d_fake": "D(G(z))",
    "test_d_real": "D(x), test",
    "r1": "R1 penalty",
    "generator_grad_norm": "gradient norm, generator",
    "discriminator_grad_norm": "gradient norm, discriminator",
    "generator_learning_rate": "learning rate, generator",
    "discriminator_learning_rate": "learning rate, discriminator",
    "digits_covered": "digits covered",
    "modes_covered": "labels covered",
    "least_mode": "share of the rarest label",
    "label_shares": "shares of the labels",
    "label_accuracy": "samples labelled as asked",
    "confident": "samples that the classifier is sure of",
}
NAMES |= {f"{name}_floor": f"{NAMES[name]} (real images)" for name in ("modes_covered", "least_mode", "label_shares")}
NAMES |= {
    "label_accuracy_floor": "real images that the classifier labels right",
    "confident_floor": "real images that the classifier is sure of",
}
SPREAD = ("_std", PER_SEED, "_low", "_high")
SHARES = ("data_wait", "mfu", "confident", "least_mode", "label_shares", "discarded")
LISTED = 12  # seeds; of more only the lowest and the highest are told


def words(key: str) -> str:
    """A figure's name as a heading."""
    plain = key.removesuffix(PER_SEED)
    plain = plain if plain in NAMES else plain.removesuffix("_mean")
    text = NAMES.get(plain, plain.replace("_iqm", ", interquartile mean").replace("_", " "))
    text = text.replace("bleu", "BLEU").replace("chrf", "chrF")
    return text if text.startswith("chrF") else text[:1].upper() + text[1:]


def value_of(key: str, value: Any) -> str:
    """A value as a reader wants it: shares in percent, seconds as time, thousands apart."""
    if isinstance(value, list | tuple):
        return ", ".join(value_of(key, item) for item in value)
    if value is None:
        return "none"
    if not (is_number(value) and math.isfinite(value)):
        return str(value)
    if is_share(key) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    if key.endswith("seconds"):
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return (
            f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{value:.3g} s"
        )
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def shown_keys(record: Record) -> list[str]:
    """The keys of a result that stand for themselves, without those that `spread_of` tells beside another."""
    return [
        key
        for key in record
        if not any(
            key.endswith(suffix) and any(f"{key.removesuffix(suffix)}{end}" in record for end in ("", "_mean"))
            for suffix in SPREAD
        )
    ]


def mean_of(record: Record, key: str) -> Any:
    """What a result says under a key; of a list over seeds its mean."""
    numbers = _numbers(record.get(key))
    return float(np.mean(numbers)) if key.endswith(PER_SEED) and numbers else record.get(key)


def spread_of(record: Record, key: str) -> tuple[str, str, str]:
    """What a result tells beside a figure: deviation, 95 % interval, values per seed; empty where there is none.

    Args:
      record: a result.
      key: of the figure; `return` and `return_mean` alike have `return_low`, `return_high` and `return_per_seed`.
    """
    name = key.removesuffix(PER_SEED).removesuffix("_mean")
    listed = record.get(name + PER_SEED)
    listed = listed if isinstance(listed, list) else []
    if len(listed) == 1:
        return "", "", ""
    numbers = _numbers(listed)
    deviation = record.get(key + "_std", float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None)
    low, high = record.get(name + "_low"), record.get(name + "_high")
    each = ", ".join("-" if value is None else value_of(key, value) for value in listed)
    if len(numbers) > LISTED:
        each = f"{len(numbers)} seeds, {value_of(key, min(numbers))} to {value_of(key, max(numbers))}"
    return (
        f"± {value_of(key, deviation)}" if is_number(deviation) else "",
        f"95 %: {value_of(key, low)} to {value_of(key, high)}" if is_number(low) and is_number(high) else "",
        each,
    )


def _numbers(values: Any) -> list[float]:
    return [value for value in values if is_number(value)] if isinstance(values, list) else []


def is_share(key: str) -> bool:
    """Whether a figure is between 0 and 1 and read in percent."""
    rates = ("error_rate", "exact_match")
    return (
        "accuracy" in key
        or key.removesuffix("_low").removesuffix("_high").endswith(rates)
        or key.removesuffix("_floor") in SHARES
    )


def is_measured(key: str) -> bool:
    """Whether a figure is one of an evaluation, now and then, and not of the steps."""
    return (
        bool(split_of(key))
        or key.startswith(FIDELITY)
        or key.startswith(("modes_covered", "digits_covered", "least_mode"))
    )


def split_of(key: str) -> str:
    """The prefix of an evaluation figure; empty for one of training."""
    return next((prefix for prefix in SPLITS if key.startswith(prefix)), "")
