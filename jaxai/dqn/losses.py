"""The losses of deep Q-learning: pure functions of one transition, to be batched with `jax.vmap`.

The action is taken at time t-1, and time t is the result; distributions have the layout [actions, atoms]. The named
losses (`q_learning` to `quantile_q_learning`) are composed of the building blocks before them, which combine freely:

* a policy at time t: `greedy_policy` of the network itself (Q-learning) or of another one (double Q-learning), or
  `soft_policy` (Munchausen);
* a reward, to which Munchausen adds `munchausen_bonus`;
* a target of both: `value_target`, `categorical_target` or `quantile_target`, constants to the gradient;
* a loss against it: `td_loss`, `categorical_loss` or `quantile_loss` of the action taken, which `select_action` picks.

Common arguments are `a_tm1`: [] int, the action taken; `r_t`: [] float, the reward, of one or n steps;
`discount_t`: [] 0 to 1, gamma**n, and 0 where terminated; `policy_t`: [actions] probabilities; `entropy_bonus`: [] from
`soft_policy`, 0 for a greedy policy. Losses and TD errors are []; all but actions is float. An argument of the wrong
rank raises ValueError, so that a forgotten `vmap` does not broadcast silently.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = [
    "Scalar",
    "categorical_double_q_learning",
    "categorical_loss",
    "categorical_q_learning",
    "categorical_target",
    "double_q_learning",
    "greedy_policy",
    "legal_values",
    "munchausen_bonus",
    "munchausen_q_learning",
    "q_learning",
    "quantile_loss",
    "quantile_q_learning",
    "quantile_target",
    "select_action",
    "soft_policy",
    "td_loss",
    "value_target",
]

Scalar = Array | float

ILLEGAL = -1e30
"""The value of an action that is not legal; finite, so that 0 times it is 0 and not NaN."""

# A matrix unit that rounds its inputs would pick q values in bfloat16 or TF32.
_dot = functools.partial(jnp.dot, precision=lax.Precision.HIGHEST)


def _expect_rank(rank: int, **arguments: Scalar) -> None:
    for name, value in arguments.items():
        if jnp.ndim(value) != rank:
            raise ValueError(
                f"{name} has shape {jnp.shape(value)}, expected {rank} axes: this takes one transition, "
                "batch it with jax.vmap"
            )


def legal_values(q: Array, mask: Array | None) -> Array:
    """q values in which every action that is not legal has the value `ILLEGAL`, so that no policy takes it.

    Args:
      q: [..., actions].
      mask: as `q`, bool, True where an action is legal; None: all are.
    """
    return q if mask is None else jnp.where(mask, q, ILLEGAL)


def select_action(values: Array, action: Array | int) -> Array:
    """The entry of one action: [] of values [actions], [atoms] of values [actions, atoms].

    A product with a one-hot vector: its gradient is faster than the scatter of an index, twice so on CPU with atoms.
    """
    _expect_rank(0, action=action)
    return _dot(jax.nn.one_hot(action, values.shape[0], dtype=values.dtype), values)


def greedy_policy(q_t_selector: Array) -> Array:
    """Probability 1 for the first of the actions with the highest q value: [actions] -> [actions]."""
    _expect_rank(1, q_t_selector=q_t_selector)
    return jax.nn.one_hot(jnp.argmax(q_t_selector), q_t_selector.shape[0], dtype=q_t_selector.dtype)


def _scaled_log_policy(q: Array, temperature: Scalar) -> Array:
    """`temperature * log softmax(q / temperature)`, whose exponent never overflows (arXiv:2007.14430)."""
    below_best = q - jnp.max(q)
    return below_best - temperature * jax.nn.logsumexp(below_best / temperature)


def soft_policy(q: Array, temperature: Scalar) -> tuple[Array, Array]:
    """The softmax policy of q values and the bonus for its entropy (Vieillard et al. 2020, arXiv:2007.14430).

    Args:
      q: [actions].
      temperature: [] above 0, in units of q; 0.03 in the paper. Towards 0 it becomes the greedy policy.

    Returns:
      `softmax(q / temperature)`, [actions], and `temperature` times its entropy in nats, [].
    """
    _expect_rank(1, q=q)
    scaled_log_policy = _scaled_log_policy(q, temperature)
    policy = jnp.exp(scaled_log_policy / temperature)
    return policy, -_dot(policy, scaled_log_policy)


def munchausen_bonus(
    q_tm1: Array, a_tm1: Array | int, temperature: Scalar, coefficient: Scalar, minimum: Scalar
) -> Array:
    """The term that Munchausen adds to the reward: `coefficient * clip(temperature * log pi(a_tm1), minimum, 0)`.

    Args:
      q_tm1: [actions] of the target network, which pi is the softmax of.
      a_tm1: [] int, the action taken.
      temperature: [] above 0; 0.03 in the paper (arXiv:2007.14430).
      coefficient: [] share of the log-policy, 0 to 1; 0.9 in the paper.
      minimum: [] at most 0, lower bound of the scaled log-policy; -1 in the paper.

    Returns:
      [] at most 0.
    """
    _expect_rank(1, q_tm1=q_tm1)
    return coefficient * jnp.clip(select_action(_scaled_log_policy(q_tm1, temperature), a_tm1), minimum, 0.0)


def value_target(r_t: Scalar, discount_t: Scalar, q_t: Array, policy_t: Array, entropy_bonus: Scalar = 0.0) -> Array:
    """The return that one step and the policy's values predict: `r_t + discount_t * (policy_t . q_t + entropy_bonus)`.

    Args:
      r_t: [] float, the reward of one step or of n steps.
      discount_t: [] float, 0 to 1; gamma**n, and 0 where terminated.
      q_t: [actions] float.
      policy_t: [actions] float, probabilities that sum to 1.
      entropy_bonus: [] float, from `soft_policy`; 0 for a greedy policy.

    Returns:
      [] without a gradient.
    """
    _expect_rank(0, r_t=r_t, discount_t=discount_t, entropy_bonus=entropy_bonus)
    _expect_rank(1, q_t=q_t, policy_t=policy_t)
    return lax.stop_gradient(r_t + discount_t * (_dot(policy_t, q_t) + entropy_bonus))


def categorical_target(
    atoms: Array,
    logits_t: Array,
    r_t: Scalar,
    discount_t: Scalar,
    policy_t: Array,
    entropy_bonus: Scalar = 0.0,
    atoms_t: Array | None = None,
) -> Array:
    """The distribution of `r_t + discount_t * (Z + entropy_bonus)`, projected on the atoms (arXiv:1707.06887, eq. 7).

    Z is the mixture of the actions' distributions by `policy_t`. Each shifted atom, clipped to the support, gives its
    probability to its two neighbours in proportion to nearness; as a product with the triangular kernel, not a scatter.

    Args:
      atoms: [atoms] equally spaced, ascending, two or more.
      logits_t: [actions, atoms at time t].
      r_t, discount_t, policy_t, entropy_bonus: as in `value_target`.
      atoms_t: [atoms at time t], the support of `logits_t`; None: `atoms`.

    Returns:
      Probabilities, [atoms] without a gradient.
    """
    _expect_rank(0, r_t=r_t, discount_t=discount_t, entropy_bonus=entropy_bonus)
    _expect_rank(1, atoms=atoms, policy_t=policy_t)
    _expect_rank(2, logits_t=logits_t)
    probabilities = _dot(policy_t, jax.nn.softmax(logits_t))
    spacing = (atoms[-1] - atoms[0]) / (atoms.shape[0] - 1)
    support = atoms if atoms_t is None else atoms_t
    shifted = jnp.clip(r_t + discount_t * (support + entropy_bonus), atoms[0], atoms[-1])
    nearness = jnp.clip(1.0 - jnp.abs(shifted[None, :] - atoms[:, None]) / spacing, 0.0, 1.0)
    return lax.stop_gradient(_dot(nearness, probabilities))


def quantile_target(
    quantiles_t: Array, r_t: Scalar, discount_t: Scalar, policy_t: Array, entropy_bonus: Scalar = 0.0
) -> Array:
    """Samples of the return, `r_t + discount_t * (policy_t . quantiles_t + entropy_bonus)`.

    The sum over actions is taken quantile by quantile, as Munchausen-IQN does (arXiv:2007.14430).

    Args:
      quantiles_t: [actions, atoms].
      r_t, discount_t, policy_t, entropy_bonus: as in `value_target`.

    Returns:
      [atoms] without a gradient.
    """
    _expect_rank(0, r_t=r_t, discount_t=discount_t, entropy_bonus=entropy_bonus)
    _expect_rank(1, policy_t=policy_t)
    _expect_rank(2, quantiles_t=quantiles_t)
    return lax.stop_gradient(r_t + discount_t * (_dot(policy_t, quantiles_t) + entropy_bonus))


def td_loss(td_error: Array, huber_delta: float) -> Array:
    """The Huber loss, `0.5 * x**2` up to `|x| = huber_delta` and a line of slope `huber_delta` beyond (Huber 1964).

    The factor is that of rlax's and optax's `huber_loss` and of optax's `l2_loss`: the gradient is the error, clipped.

    Args:
      td_error: any shape, the units of the reward.
      huber_delta: 0 or more; 0 means squared everywhere, `0.5 * x**2`.

    Returns:
      The shape of `td_error`.
    """
    clipped = jnp.clip(td_error, -huber_delta, huber_delta) if huber_delta > 0 else td_error
    return clipped * (td_error - 0.5 * clipped)


def categorical_loss(logits: Array, target_probabilities: Array) -> Array:
    """The cross-entropy in nats of predicted logits [atoms] against target probabilities [atoms]: []."""
    _expect_rank(1, logits=logits, target_probabilities=target_probabilities)
    return -_dot(lax.stop_gradient(target_probabilities), jax.nn.log_softmax(logits))


def quantile_loss(quantiles: Array, target: Array, huber_delta: float, tau: Array | None = None) -> Array:
    """The quantile regression loss (Dabney et al. 2018, arXiv:1710.10044, eq. 10), as rlax reduces it.

    With `u_ij = target_j - quantiles_i`: the sum over i of the mean over j of `|tau_i - 1[u_ij < 0]| * L(u_ij)`. L is
    `td_loss` with `huber_delta`, which is not divided by it (IQN's is), or `|u|` where `huber_delta` is 0.

    Args:
      quantiles: [atoms] predicted.
      target: [samples] of the return, equally likely; without a gradient.
      huber_delta: 0 or more, the units of the reward; 1 in the paper's QR-DQN-1.
      tau: [atoms] the fraction below each predicted quantile, 0 to 1; None: the midpoints `(i + 0.5) / atoms`.
    """
    _expect_rank(1, quantiles=quantiles, target=target)
    if tau is None:
        tau = (jnp.arange(quantiles.shape[0], dtype=quantiles.dtype) + 0.5) / quantiles.shape[0]
    return _quantile_loss(quantiles, lax.stop_gradient(target), lax.stop_gradient(tau), huber_delta)


# By autodiff loss and gradient take over four times as long on CPU. It needs one more product of the same weights.
@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _quantile_loss(quantiles: Array, target: Array, tau: Array, huber_delta: float) -> Array:
    return _quantile_loss_and_gradient(quantiles, target, tau, huber_delta)[0]


@_quantile_loss.defjvp
def _quantile_loss_jvp(
    huber_delta: float, primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    loss, gradient = _quantile_loss_and_gradient(*primals, huber_delta)
    return loss, _dot(gradient, tangents[0])


def _quantile_loss_and_gradient(quantiles: Array, target: Array, tau: Array, huber_delta: float) -> tuple[Array, Array]:
    error = target[None, :] - quantiles[:, None]
    if huber_delta > 0:
        slope = jnp.clip(error, -huber_delta, huber_delta)
        beyond = error - 0.5 * slope
    else:
        slope, beyond = jnp.sign(error), error
    weighted_slope = jnp.where(error < 0, 1.0 - tau[:, None], tau[:, None]) * slope
    # The mean as a product: XLA's CPU backend does not vectorise a sum along the last axis.
    mean = jnp.full(target.shape, 1.0 / target.shape[0], error.dtype)
    return jnp.sum(_dot(weighted_slope * beyond, mean)), -_dot(weighted_slope, mean)


def q_learning(q_tm1: Array, a_tm1: Array | int, r_t: Scalar, discount_t: Scalar, q_t: Array) -> Array:
    """The TD error of Q-learning, `r_t + discount_t * max q_t - q_tm1[a_tm1]` (Watkins 1989; Mnih et al. 2015).

    Args:
      q_tm1: [actions], the only argument with a gradient.
      a_tm1: [] int, the action taken, 0 to actions - 1.
      r_t: [] float, the reward of one step or of n steps.
      discount_t: [] float, 0 to 1; gamma**n, and 0 where terminated.
      q_t: [actions], of the target network in DQN.
    """
    return double_q_learning(q_tm1, a_tm1, r_t, discount_t, q_t, q_t)


def double_q_learning(
    q_tm1: Array, a_tm1: Array | int, r_t: Scalar, discount_t: Scalar, q_t_value: Array, q_t_selector: Array
) -> Array:
    """The TD error of double Q-learning, `r_t + discount_t * q_t_value[argmax q_t_selector] - q_tm1[a_tm1]`.

    van Hasselt et al. 2016 (arXiv:1509.06461): the online network selects, the target network gives the value.

    Args:
      q_tm1: [actions], the only argument with a gradient.
      a_tm1, r_t, discount_t: [] each, as in `q_learning`.
      q_t_value, q_t_selector: [actions], of the target network and of the online network.
    """
    return value_target(r_t, discount_t, q_t_value, greedy_policy(q_t_selector)) - select_action(q_tm1, a_tm1)


def munchausen_q_learning(
    q_tm1: Array,
    a_tm1: Array | int,
    r_t: Scalar,
    discount_t: Scalar,
    q_t: Array,
    q_target_tm1: Array,
    temperature: Scalar = 0.03,
    coefficient: Scalar = 0.9,
    minimum: Scalar = -1.0,
) -> Array:
    """The TD error of Munchausen DQN (Vieillard et al. 2020, arXiv:2007.14430, the log-policy clipped).

    `r_t + coefficient * clip(temperature * log pi_tm1[a_tm1], minimum, 0)
    + discount_t * sum(pi_t * (q_t - temperature * log pi_t)) - q_tm1[a_tm1]`,
    where `pi_tm1 = softmax(q_target_tm1 / temperature)` and `pi_t = softmax(q_t / temperature)`.

    Args:
      q_tm1: [actions], the only argument with a gradient.
      a_tm1, r_t, discount_t: [] each, as in `q_learning`.
      q_t: [actions] of the target network at time t.
      q_target_tm1: [actions] of the target network at time t-1.
      temperature, coefficient, minimum: as in `munchausen_bonus`.
    """
    policy_t, entropy_bonus = soft_policy(q_t, temperature)
    reward = r_t + munchausen_bonus(q_target_tm1, a_tm1, temperature, coefficient, minimum)
    return value_target(reward, discount_t, q_t, policy_t, entropy_bonus) - select_action(q_tm1, a_tm1)


def categorical_q_learning(
    q_atoms_tm1: Array,
    q_logits_tm1: Array,
    a_tm1: Array | int,
    r_t: Scalar,
    discount_t: Scalar,
    q_atoms_t: Array,
    q_logits_t: Array,
) -> Array:
    """The loss of C51 (Bellemare et al. 2017, arXiv:1707.06887, algorithm 1).

    `categorical_double_q_learning` where the means of `q_logits_t` select the next action.

    Args:
      q_atoms_tm1: [atoms] equally spaced, the support at time t-1.
      q_logits_tm1: [actions, atoms], the only argument with a gradient.
      a_tm1, r_t, discount_t: [] each, as in `q_learning`.
      q_atoms_t: [atoms] the support at time t; usually the same as at time t-1.
      q_logits_t: [actions, atoms], of the target network.
    """
    q_t = _dot(jax.nn.softmax(q_logits_t), q_atoms_t)
    return categorical_double_q_learning(q_atoms_tm1, q_logits_tm1, a_tm1, r_t, discount_t, q_atoms_t, q_logits_t, q_t)


def categorical_double_q_learning(
    q_atoms_tm1: Array,
    q_logits_tm1: Array,
    a_tm1: Array | int,
    r_t: Scalar,
    discount_t: Scalar,
    q_atoms_t: Array,
    q_logits_t: Array,
    q_t_selector: Array,
) -> Array:
    """The loss of C51 with double Q-learning (Hessel et al. 2018, arXiv:1710.02298).

    The cross-entropy of the action taken against `r_t + discount_t * Z_t[argmax q_t_selector]`, projected on the atoms.

    Args:
      q_atoms_tm1, q_logits_tm1, q_atoms_t, q_logits_t: as in `categorical_q_learning`.
      a_tm1, r_t, discount_t: [] each, as in `q_learning`.
      q_t_selector: [actions] means of the online network.
    """
    policy_t = greedy_policy(q_t_selector)
    target = categorical_target(q_atoms_tm1, q_logits_t, r_t, discount_t, policy_t, atoms_t=q_atoms_t)
    return categorical_loss(select_action(q_logits_tm1, a_tm1), target)


def quantile_q_learning(
    dist_q_tm1: Array,
    tau_q_tm1: Array,
    a_tm1: Array | int,
    r_t: Scalar,
    discount_t: Scalar,
    dist_q_t_selector: Array | None,
    dist_q_t: Array,
    huber_param: float = 0.0,
) -> Array:
    """The loss of QR-DQN (Dabney et al. 2018, arXiv:1710.10044, algorithm 1).

    `quantile_loss` of the action taken against `r_t + discount_t * dist_q_t[argmax mean(dist_q_t_selector)]`. The
    layout is [actions, atoms]; rlax's is [atoms, actions].

    Args:
      dist_q_tm1: [actions, atoms] quantiles, the only argument with a gradient.
      tau_q_tm1: [atoms] the fraction below each quantile, 0 to 1.
      a_tm1, r_t, discount_t: [] each, as in `q_learning`.
      dist_q_t_selector: [actions, atoms] of the online network for double Q-learning; None: `dist_q_t`.
      dist_q_t: [actions, atoms], of the target network.
      huber_param: 0 or more, in the units of the reward; 0: the absolute value.
    """
    selector = dist_q_t if dist_q_t_selector is None else dist_q_t_selector
    target = quantile_target(dist_q_t, r_t, discount_t, greedy_policy(jnp.mean(selector, axis=-1)))
    return quantile_loss(select_action(dist_q_tm1, a_tm1), target, huber_param, tau_q_tm1)
