"""Writes `dqn_losses.npz`: random transitions, and rlax's losses and gradients of them.

    python tests/golden/make_dqn_losses.py

It needs rlax, which the tests that read the file do not. Written with rlax 0.1.9 in float64.
"""

import pathlib

import jax
import numpy as np

BATCH, ACTIONS, ATOMS = 32, 5, 21


def transitions(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch in float32: one in eight has terminated, and rewards reach beyond the support of the atoms."""

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=(BATCH, *shape)).astype(np.float32)

    discount = np.where(np.arange(BATCH) % 8 == 0, 0.0, rng.uniform(0.9, 1.0, BATCH))
    return {
        "q_tm1": normal(ACTIONS),
        "q_t": normal(ACTIONS),
        "q_t_selector": normal(ACTIONS),
        "a_tm1": rng.integers(0, ACTIONS, BATCH).astype(np.int32),
        "r_t": 2 * normal(),
        "discount_t": discount.astype(np.float32),
        "logits_tm1": normal(ACTIONS, ATOMS),
        "logits_t": normal(ACTIONS, ATOMS),
        "quantiles_tm1": normal(ACTIONS, ATOMS),
        "quantiles_t": normal(ACTIONS, ATOMS),
        "quantiles_t_selector": normal(ACTIONS, ATOMS),
    }


def losses(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Value, [batch], and gradient by the first argument, the prediction, of each of rlax's losses."""
    import rlax  # the only thing here that the project does not depend on

    atoms = np.linspace(-4, 4, ATOMS)
    tau = (np.arange(ATOMS) + 0.5) / ATOMS
    action_last = {name: np.swapaxes(value, 1, 2) for name, value in given.items() if name.startswith("quantiles")}
    transition = given["a_tm1"], given["r_t"], given["discount_t"]
    functions = {
        "q_learning": (rlax.q_learning, given["q_tm1"], *transition, given["q_t"]),
        "double_q_learning": (
            rlax.double_q_learning,
            given["q_tm1"],
            *transition,
            given["q_t"],
            given["q_t_selector"],
        ),
        "categorical_q_learning": (
            lambda logits, a, r, d, logits_t: rlax.categorical_q_learning(atoms, logits, a, r, d, atoms, logits_t),
            given["logits_tm1"],
            *transition,
            given["logits_t"],
        ),
        "categorical_double_q_learning": (
            lambda logits, a, r, d, logits_t, selector: rlax.categorical_double_q_learning(
                atoms, logits, a, r, d, atoms, logits_t, selector
            ),
            given["logits_tm1"],
            *transition,
            given["logits_t"],
            given["q_t_selector"],
        ),
    }
    for huber in (0.0, 0.5, 1.0):
        for selector in ("quantiles_t", "quantiles_t_selector"):
            functions[f"quantile_q_learning/{selector}/{huber}"] = (
                lambda dist, a, r, d, selector, dist_t, huber=huber: rlax.quantile_q_learning(
                    dist, tau, a, r, d, selector, dist_t, huber
                ),
                action_last["quantiles_tm1"],
                *transition,
                action_last[selector],
                action_last["quantiles_t"],
            )
    for huber in (0.5, 1.0):
        functions[f"huber_loss/{huber}"] = (lambda x, huber=huber: rlax.huber_loss(x, huber), given["r_t"])
    functions["l2_loss"] = (rlax.l2_loss, given["r_t"])
    written = {}
    for name, (function, *arguments) in functions.items():
        doubles = [value if value.dtype == np.int32 else value.astype(np.float64) for value in arguments]
        value, gradient = jax.vmap(jax.value_and_grad(function))(*doubles)
        gradient = np.asarray(gradient)
        written[f"{name}/value"] = np.asarray(value)
        written[f"{name}/gradient"] = np.swapaxes(gradient, 1, 2) if name.startswith("quantile") else gradient
    return written


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    given = transitions(np.random.default_rng(0))
    path = pathlib.Path(__file__).with_name("dqn_losses.npz")
    np.savez_compressed(path, **given, **losses(given))
    print(f"{path}: {path.stat().st_size:,} bytes")
