"""Losses: elementwise where possible (any shape), else for one transition (callers `jax.vmap`).

Reduce them with `masked_mean(loss, valid)`: the pseudo-transition across an episode boundary is not experience.  In
temporal-difference errors `discount` is 0 where the MDP terminated, else 1 (a time limit keeps 1).

No gradient is stopped here.  For a semi-gradient method hand over next values that come from target parameters or
went through `jax.lax.stop_gradient`, and advantages likewise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from operant.ops import parallel
from operant.ops._shapes import check_shapes
from operant.ops.safe import safe_sqrt

Scalar = float | Float[Array, ""]


# ----------------------------------------------------------------------------------------------- means over the valid
def mean_weights(valid: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Weights w with `sum(w * x)` the mean of x over the valid entries; all 0 if there is none.

    Where devices share the batch (`parallel`), each device's sum is weighted by its share of the valid entries: the
    plain mean over devices, as it is taken of losses and gradients, is then the mean over the whole batch.
    """
    return valid * (parallel.number_of_devices() / jnp.maximum(parallel.psum(jnp.sum(valid)), 1))


def weighted_sum(x: Float[Array, "*shape"], weights: Float[Array, "*shape"]) -> Float[Array, ""]:
    """sum(weights * x). What stands where a weight is 0 has no influence, be it NaN."""
    return jnp.sum(jnp.where(weights, x, 0.0) * weights)


def masked_mean(x: Float[Array, "*shape"], valid: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The mean of `x` over the valid entries; 0 if there is none. What stands in the others has no influence.

    Where devices share the batch, each has its part of the mean (`mean_weights`): the mean over devices is the mean.
    """
    if jnp.shape(x) != jnp.shape(valid):
        raise ValueError(f"masked_mean: `x` {jnp.shape(x)} and `valid` {jnp.shape(valid)} must have the same shape")
    return weighted_sum(x, mean_weights(valid))


def masked_standardize(
    x: Float[Array, "*shape"], valid: Float[Array, "*shape"], epsilon: float = 1e-8
) -> Float[Array, "*shape"]:
    """(x - mean) / (standard deviation + epsilon) over the valid entries, and 0 in the others.

    Constant entries give zeros, with finite derivatives of the first and second order.
    """
    total, count = parallel.psum((jnp.sum(jnp.where(valid, x, 0.0)), jnp.sum(valid)))
    count = jnp.maximum(count, 1)
    centred = jnp.where(valid, x - total / count, 0.0)
    return centred / (safe_sqrt(parallel.psum(jnp.sum(centred**2)) / count) + epsilon)


# ------------------------------------------------------------------------------------------------------------ policies
def policy_gradient_loss(log_prob: Float[Array, "*shape"], advantage: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """-log pi(a) A, whose gradient is that of the policy gradient theorem (Williams 1992; Sutton et al. 2000)."""
    return -log_prob * advantage


def clipped_surrogate(
    log_prob: Float[Array, "*shape"],
    old_log_prob: Float[Array, "*shape"],
    advantage: Float[Array, "*shape"],
    clip: Scalar,
) -> Float[Array, "*shape"]:
    """PPO's loss -min(r A, clip(r, 1 - clip, 1 + clip) A) with r = pi / pi_old (Schulman et al. 2017, eq. 7)."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


# -------------------------------------------------------------------------------------------------------- regression
def l2(error: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """error**2 / 2."""
    return 0.5 * error**2


def huber(error: Float[Array, "*shape"], delta: Scalar = 1.0) -> Float[Array, "*shape"]:
    """`l2` up to |error| = delta, from there a line of slope delta (Huber 1964). An infinite `delta` gives `l2`."""
    clipped = jnp.clip(error, -delta, delta)
    return clipped * (error - 0.5 * clipped)


def clipped_value_loss(
    value: Float[Array, "*shape"],
    old_value: Float[Array, "*shape"],
    target: Float[Array, "*shape"],
    clip: Scalar = jnp.inf,
) -> Float[Array, "*shape"]:
    """PPO's value loss: the larger `l2` of the value and of the value kept within `clip` of the old one.

    Not in the paper, but in its authors' code.  An infinite `clip` gives `l2(value - target)`, gradients included.
    """
    near = old_value + jnp.clip(value - old_value, -clip, clip)
    return jnp.maximum(l2(value - target), l2(near - target))


def quantile_huber(
    quantiles: Float[Array, "N"], taus: Float[Array, "N"], targets: Float[Array, "M"], delta: Scalar = 1.0
) -> Float[Array, ""]:
    """Quantile regression with Huber's loss, one transition (Dabney et al. 2018, eq. 10).

    `quantiles[i]` estimates the `taus[i]`-quantile of the distribution that `targets` are samples (or quantiles) of.
    Summed over the quantiles, averaged over the targets.
    """
    check_shapes("quantile_huber", quantiles=(quantiles, "N"), taus=(taus, "N"), targets=(targets, "M"))
    error = targets[None, :] - quantiles[:, None]
    weight = jnp.abs(taus[:, None] - (error < 0))
    return jnp.sum(jnp.mean(weight * huber(error, delta), axis=1))


def categorical_cross_entropy(
    probs: Float[Array, "*shape M"], logits: Float[Array, "*shape M"]
) -> Float[Array, "*shape"]:
    """-sum_i probs_i log softmax(logits)_i."""
    return -jnp.sum(probs * jax.nn.log_softmax(logits), axis=-1)


# ---------------------------------------------------------------------------------- temporal-difference errors
def q_learning_error(
    q: Float[Array, "A"],
    action: Int[Array, ""],
    reward: Scalar,
    discount: Scalar,
    next_q: Float[Array, "A"],
    gamma: Scalar,
) -> Float[Array, ""]:
    """r + gamma discount max_a Q'(s', a) - Q(s, a) for one transition (Watkins 1989)."""
    check_shapes("q_learning_error", q=(q, "A"), action=(action, ""), reward=(reward, ""), discount=(discount, ""),
                 next_q=(next_q, "A"))  # fmt: skip
    return reward + gamma * discount * next_q.max() - q[action]


def double_q_learning_error(
    q: Float[Array, "A"],
    action: Int[Array, ""],
    reward: Scalar,
    discount: Scalar,
    next_q: Float[Array, "A"],
    next_q_selector: Float[Array, "A"],
    gamma: Scalar,
) -> Float[Array, ""]:
    """Q-learning whose next action is the best of `next_q_selector` (the online network), valued by `next_q`.

    Van Hasselt et al. 2016, eq. 4.
    """
    check_shapes("double_q_learning_error", q=(q, "A"), action=(action, ""), reward=(reward, ""),
                 discount=(discount, ""), next_q=(next_q, "A"), next_q_selector=(next_q_selector, "A"))  # fmt: skip
    return reward + gamma * discount * next_q[next_q_selector.argmax()] - q[action]


def sarsa_error(
    q: Float[Array, "A"],
    action: Int[Array, ""],
    reward: Scalar,
    discount: Scalar,
    next_q: Float[Array, "A"],
    next_action: Int[Array, ""],
    gamma: Scalar,
) -> Float[Array, ""]:
    """r + gamma discount Q(s', a') - Q(s, a) for one transition (Sutton & Barto 2018, eq. 6.7)."""
    check_shapes("sarsa_error", q=(q, "A"), action=(action, ""), reward=(reward, ""), discount=(discount, ""),
                 next_q=(next_q, "A"), next_action=(next_action, ""))  # fmt: skip
    return reward + gamma * discount * next_q[next_action] - q[action]


def expected_sarsa_error(
    q: Float[Array, "A"],
    action: Int[Array, ""],
    reward: Scalar,
    discount: Scalar,
    next_q: Float[Array, "A"],
    next_probs: Float[Array, "A"],
    gamma: Scalar,
) -> Float[Array, ""]:
    """Sarsa in expectation over the policy's next action (Sutton & Barto 2018, eq. 6.9)."""
    check_shapes("expected_sarsa_error", q=(q, "A"), action=(action, ""), reward=(reward, ""),
                 discount=(discount, ""), next_q=(next_q, "A"), next_probs=(next_probs, "A"))  # fmt: skip
    return reward + gamma * discount * jnp.vdot(next_probs, next_q) - q[action]
