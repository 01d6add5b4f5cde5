"""Returns: what a sequence of rewards and values says each step was worth.

Every function takes ONE sequence of T transitions (callers `jax.vmap`), the t-th from observation t to t+1:

    reward    [T]
    discount  [T]    0 where the MDP terminated, else 1: a time limit keeps 1
    valid     [T]    0 for the pseudo-transition across an episode boundary, else 1
    values    [T+1]  V of each observation, the last one included
    gamma, lam       dials: a number, or one number per step [T]

Two quantities say all there is to say about the end of an episode.  `discount` decides whether the next value counts;
`valid` cuts the trace.  At a time limit the first is 1 and the second falls one step later, so the last step
bootstraps from its true last observation, and nothing leaks in from the next episode.

Most functions are written in error form, A_t = valid_t (delta_t + gamma discount_t lam A_{t+1}) with G = V + A.  In
return form the mask must not be multiplied in, or a time limit would turn into a death: there G_t = V_t where
`valid` is 0.  Either way a row that is not valid has no error, and its value as its return.

No gradient is stopped here: the returns are differentiable in their dials (which may be meta-learned).  For a
semi-gradient method hand over values that come from target parameters or went through `jax.lax.stop_gradient`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from operant.ops._shapes import check_shapes

Scalar = float | Float[Array, ""]
Dial = Scalar | Float[Array, "T"]


def _accumulate(add: Float[Array, "T"], keep: Float[Array, "T"], last: Scalar = 0.0) -> Float[Array, "T"]:
    """x_t = add_t + keep_t x_{t+1}, backwards from x_T = last."""
    dtype = jnp.result_type(add, keep, last)
    # Unrolled by 8 the loop costs a CPU nothing and saves an accelerator most of its launches; by 16 it is five
    # times slower on a CPU.
    return jax.lax.scan(_step, jnp.asarray(last, dtype), (add, keep), reverse=True, unroll=8)[1]


def _step(x, row):
    add, keep = row
    x = add + keep * x
    return x, x


# ----------------------------------------------------------------------------------------------------- state values
def discounted_returns(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    values: Float[Array, "T+1"],
    gamma: Dial,
) -> Float[Array, "T"]:
    """Monte-Carlo returns G_t = r_t + gamma discount_t G_{t+1}, to the end of the episode.

    Episodes that a time limit or the end of the sequence cuts short bootstrap from the value of their last
    observation (Sutton & Barto 2018, eq. 3.9).
    """
    check_shapes("discounted_returns", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"),
                 values=(values, "T+1"))  # fmt: skip
    return _accumulate(jnp.where(valid, reward, values[:-1]), valid * gamma * discount, last=values[-1])


def n_step_returns(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    values: Float[Array, "T+1"],
    gamma: Dial,
    n: int,
) -> Float[Array, "T"]:
    """n-step returns: n rewards, then the value (Sutton & Barto 2018, eq. 7.1).

    Fewer rewards where the episode or the sequence ends before: then the value of the last observation follows them.
    """
    check_shapes("n_step_returns", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"),
                 values=(values, "T+1"))  # fmt: skip
    if n < 1:
        raise ValueError(f"n_step_returns: `n` must be at least 1, got {n}")

    def look_one_step_further(_, returns):
        return returns.at[:-1].set(jnp.where(valid, reward + gamma * discount * returns[1:], values[:-1]))

    values = jnp.asarray(values, jnp.result_type(reward, discount, values, gamma))
    return jax.lax.fori_loop(0, n, look_one_step_further, values)[:-1]


def n_step_parts(
    reward: Float[Array, "n"], discount: Float[Array, "n"], valid: Float[Array, "n"], gamma: Dial
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The return of a window of n rows as (R, D): G = R + D V(end), for any V (Hessel et al. 2018, eq. 1).

    The window ends before its first row that is not valid, and D is 0 where the MDP terminated within.  For the
    targets of distributions (R + D z for each atom z) as well as of values.
    """
    check_shapes("n_step_parts", reward=(reward, "n"), discount=(discount, "n"), valid=(valid, "n"))
    inside = jnp.cumprod(valid)
    kept = jnp.where(inside > 0, gamma * discount, 1.0)
    before = jnp.concatenate([jnp.ones(1, kept.dtype), jnp.cumprod(kept)])
    return jnp.sum(before[:-1] * inside * reward), before[-1]


def gae(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    values: Float[Array, "T+1"],
    gamma: Dial,
    gae_lambda: Dial,
) -> Float[Array, "T"]:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16), zero where not valid.

    `values + gae(...)` are the lambda-returns.  A `gae_lambda` per step weighs, at t, the advantage of t+1.
    """
    check_shapes("gae", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"), values=(values, "T+1"))
    delta = reward + gamma * discount * values[1:] - values[:-1]
    return _accumulate(valid * delta, valid * gamma * discount * gae_lambda)


def lambda_returns(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    values: Float[Array, "T+1"],
    gamma: Dial,
    lam: Dial,
) -> Float[Array, "T"]:
    """G_t = r_t + gamma discount_t ((1 - lam) V_{t+1} + lam G_{t+1}) (Sutton & Barto 2018, eq. 12.18)."""
    check_shapes("lambda_returns", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"),
                 values=(values, "T+1"))  # fmt: skip
    return values[:-1] + gae(reward, discount, valid, values, gamma, lam)


LARGEST_LOG_RATIO = 20.0


class VTrace(NamedTuple):
    """targets: v_t, for the critic.  pg_advantages: q_estimate - V_t weighted by min(clip_pg, rho_t), for the actor."""

    targets: Float[Array, "T"]
    pg_advantages: Float[Array, "T"]
    q_estimate: Float[Array, "T"]


def vtrace(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    values: Float[Array, "T+1"],
    log_rhos: Float[Array, "T"],
    gamma: Dial,
    lam: Dial = 1.0,
    clip_rho: Scalar = 1.0,
    clip_c: Scalar = 1.0,
    clip_pg: Scalar = 1.0,
    alpha_rho: Scalar = 1.0,
    alpha_c: Scalar = 1.0,
) -> VTrace:
    """V-trace (Espeholt et al. 2018, eq. 1 and section 4.2), `log_rhos` being log pi(a_t) - log mu(a_t).

    v_t = V_t + rho_t delta_t + gamma discount_t c_t (v_{t+1} - V_{t+1}), with rho_t = min(clip_rho, pi / mu) and
    c_t = lam min(clip_c, pi / mu); an infinite clip switches it off.  The actor's Q_t = r_t + gamma discount_t
    ((1 - lam) V_{t+1} + lam v_{t+1}) is the paper's for lam = 1, and makes the advantage that of `gae` on policy.

    alpha_rho, alpha_c   what lies above a clip leaks through with weight 1 - alpha: rho_t = alpha_rho min(clip_rho,
                         pi / mu) + (1 - alpha_rho) pi / mu, the actor's weight likewise, and c_t with alpha_c; 1:
                         V-trace, 0: importance sampling (leaky V-trace; Zahavy et al. 2020).  It
                         contracts for alpha_rho >= alpha_c.

    Ratios above e^20 count as that, so that none is infinite and the 0 of alpha = 1 times it a NaN.  Under mu the mean
    of pi / mu is 1, hence fewer than one action in e^20 has such a ratio, and products of them overflow as rarely.
    """
    check_shapes("vtrace", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"), values=(values, "T+1"),
                 log_rhos=(log_rhos, "T"))  # fmt: skip
    ratio = jnp.exp(jnp.minimum(log_rhos, LARGEST_LOG_RATIO))

    def leaky(clip, alpha):
        return jnp.minimum(clip, ratio) + (1.0 - alpha) * jnp.maximum(ratio - clip, 0.0)

    delta = reward + gamma * discount * values[1:] - values[:-1]
    errors = _accumulate(
        valid * leaky(clip_rho, alpha_rho) * delta,
        valid * gamma * discount * lam * leaky(clip_c, alpha_c),
    )
    advantages = valid * (delta + gamma * discount * lam * _shift(errors))
    return VTrace(values[:-1] + errors, leaky(clip_pg, alpha_rho) * advantages, values[:-1] + advantages)


# ---------------------------------------------------------------------------------------------------- action values
def retrace(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    q_taken: Float[Array, "T"],
    values: Float[Array, "T+1"],
    log_rhos: Float[Array, "T"],
    gamma: Dial,
    lam: Dial,
) -> Float[Array, "T"]:
    """Retrace(lambda) targets for the actions taken (Munos et al. 2016, eq. 3 and 4); `q_taken` where not valid.

    `values[t]` is E_pi Q(s_t, .), the value under the target policy.  The trace of step t+1 is c = lam min(1, pi / mu).
    """
    check_shapes("retrace", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"), q_taken=(q_taken, "T"),
                 values=(values, "T+1"), log_rhos=(log_rhos, "T"))  # fmt: skip
    delta = reward + gamma * discount * values[1:] - q_taken
    traces = lam * jnp.minimum(1.0, jnp.exp(log_rhos))
    return q_taken + _accumulate(valid * delta, valid * gamma * discount * _shift(traces))


def pengs_q_lambda(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    q_values: Float[Array, "T+1 A"],
    gamma: Dial,
    lam: Dial,
) -> Float[Array, "T"]:
    """Peng's Q(lambda): lambda-returns over V = max Q, exploring actions included (Peng & Williams 1996)."""
    check_shapes("pengs_q_lambda", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"),
                 q_values=(q_values, "T+1 A"))  # fmt: skip
    return lambda_returns(reward, discount, valid, q_values.max(-1), gamma, lam)


def watkins_q_lambda(
    reward: Float[Array, "T"],
    discount: Float[Array, "T"],
    valid: Float[Array, "T"],
    q_values: Float[Array, "T+1 A"],
    action: Int[Array, "T"],
    gamma: Dial,
    lam: Dial,
) -> Float[Array, "T"]:
    """Watkins's Q(lambda): as `pengs_q_lambda`, with the trace cut at actions that are not greedy (Watkins 1989)."""
    check_shapes("watkins_q_lambda", reward=(reward, "T"), discount=(discount, "T"), valid=(valid, "T"),
                 q_values=(q_values, "T+1 A"), action=(action, "T"))  # fmt: skip
    best = q_values.max(-1)
    taken = jnp.take_along_axis(q_values[:-1], action[:, None], axis=-1)[:, 0]
    greedy = _shift(taken == best[:-1])
    return lambda_returns(reward, discount, valid, best, gamma, lam * greedy)


def _shift(x: Array) -> Array:
    """x_{t+1} at t, and zero at the end, where every trace has ended."""
    return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])


# ---------------------------------------------------------------------------------------- representations of a value
def value_rescale(x: Float[Array, "*shape"], epsilon: Scalar = 1e-3) -> Float[Array, "*shape"]:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x (Pohlen et al. 2018, proposition A.2).

    Written without the difference of near numbers, hence exact and differentiable around zero.
    """
    return x / (jnp.sqrt(jnp.abs(x) + 1.0) + 1.0) + epsilon * x


def value_unrescale(x: Float[Array, "*shape"], epsilon: Scalar = 1e-3) -> Float[Array, "*shape"]:
    """The inverse of `value_rescale`, for any epsilon >= 0."""
    # With w = sqrt(|y| + 1) - 1 for the wanted y, h reads epsilon w^2 + (1 + 2 epsilon) w = |x|, and |y| = w (w + 2).
    b = 1.0 + 2.0 * epsilon
    ratio = 2.0 / (b + jnp.sqrt(b**2 + 4.0 * epsilon * jnp.abs(x)))  # w / |x|
    return x * ratio * (jnp.abs(x) * ratio + 2.0)


def two_hot(x: Float[Array, "*shape"], atoms: Float[Array, "M"]) -> Float[Array, "*shape M"]:
    """x as probabilities of its two neighbours among the increasing `atoms`, so that their mean is x.

    Beyond the atoms, all the mass is on the nearest one (Schrittwieser et al. 2020, appendix F).
    """
    check_shapes("two_hot", atoms=(atoms, "M"))
    # How far x has come through each interval: 1 below it, 0 above, a fraction in its own.
    passed = jnp.clip((jnp.asarray(x)[..., None] - atoms[:-1]) / (atoms[1:] - atoms[:-1]), 0.0, 1.0)
    edge = jnp.ones_like(passed[..., :1])
    return jnp.concatenate([edge, passed], axis=-1) - jnp.concatenate([passed, 0.0 * edge], axis=-1)


def categorical_projection(
    atoms_from: Float[Array, "N"], probs: Float[Array, "N"], atoms_to: Float[Array, "M"]
) -> Float[Array, "M"]:
    """The distribution `probs` on `atoms_from`, projected on `atoms_to` (C51; Bellemare et al. 2017, eq. 7).

    Each atom's mass goes to its two neighbours, as in `two_hot`; the atoms need not be evenly spaced.
    """
    check_shapes("categorical_projection", atoms_from=(atoms_from, "N"), probs=(probs, "N"), atoms_to=(atoms_to, "M"))
    return probs @ two_hot(atoms_from, atoms_to)
