"""Exploration: choosing something other than the best. Any leading axes; one key draws for all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Scalar = float | Float[Array, ""]


def _draw(key: PRNGKeyArray, candidates: Bool[Array, "*batch A"]) -> Int[Array, "*batch"]:
    """One of the candidates, each as likely."""
    noise = jax.random.uniform(key, candidates.shape)
    return jnp.where(candidates, noise, -1.0).argmax(-1).astype(jnp.int32)


def _best(
    preferences: Float[Array, "*batch A"], mask: Bool[Array, "*batch A"] | None
) -> tuple[Bool[Array, "*batch A"], Bool[Array, "*batch A"]]:
    """Which actions are allowed, and which of them are the best."""
    allowed = jnp.ones(preferences.shape, bool) if mask is None else jnp.broadcast_to(mask, preferences.shape)
    preferences = jnp.where(allowed, preferences, -jnp.inf)
    return allowed, allowed & (preferences == preferences.max(-1, keepdims=True))


def greedy(
    key: PRNGKeyArray, preferences: Float[Array, "*batch A"], mask: Bool[Array, "*batch A"] | None = None
) -> Int[Array, "*batch"]:
    """The best allowed action (`mask` True: allowed); one of the best at random where they tie."""
    return _draw(key, _best(preferences, mask)[1])


def epsilon_greedy(
    key: PRNGKeyArray,
    preferences: Float[Array, "*batch A"],
    epsilon: Scalar | Float[Array, "*batch"],
    mask: Bool[Array, "*batch A"] | None = None,
) -> Int[Array, "*batch"]:
    """With probability `epsilon` any allowed action, each as likely; else the `greedy` one."""
    explore_key, draw_key = jax.random.split(key)
    explore = jax.random.uniform(explore_key, preferences.shape[:-1]) < epsilon
    allowed, best = _best(preferences, mask)
    return _draw(draw_key, jnp.where(explore[..., None], allowed, best))


def linear_schedule(step: Scalar | Int[Array, ""], start: Scalar, end: Scalar, duration: Scalar) -> Float[Array, ""]:
    """From `start` at step 0 in a line to `end` at step `duration`, and `end` from there on."""
    fraction = jnp.where(step >= duration, 1.0, step / jnp.where(duration > 0, duration, 1.0))
    return start + fraction * (end - start)


def ape_x_epsilons(num_envs: int, base: Scalar = 0.4, alpha: Scalar = 7.0) -> Float[Array, "num_envs"]:
    """An epsilon per environment, base ** (1 + alpha i / (num_envs - 1)) (Horgan et al. 2018, section 4.1).

    From `base`, the most exploring, down; a single environment explores with `base`.
    """
    return base ** (1.0 + alpha * jnp.arange(num_envs) / max(num_envs - 1, 1))


def gaussian_noise(
    key: PRNGKeyArray, action: Float[Array, "*shape"], scale: Scalar, noise_clip: Scalar = jnp.inf
) -> Float[Array, "*shape"]:
    """`action` in [-1, 1] plus normal noise of deviation `scale`, clipped to [-1, 1] again.

    With the noise itself first kept within `noise_clip`, TD3's target policy smoothing (Fujimoto et al. 2018, eq. 14).
    """
    noise = scale * jax.random.normal(key, action.shape, action.dtype)
    return jnp.clip(action + jnp.clip(noise, -noise_clip, noise_clip), -1.0, 1.0)


def ornstein_uhlenbeck(
    key: PRNGKeyArray,
    noise: Float[Array, "*shape"],
    theta: Scalar = 0.15,
    sigma: Scalar = 0.2,
    dt: Scalar = 1.0,
) -> Float[Array, "*shape"]:
    """The next state of noise with inertia, drawn back to zero at rate `theta` (Lillicrap et al. 2016, section 3).

    dx = -theta x dt + sigma dW, one step of length `dt` by Euler and Maruyama.  Begin each episode at zero.
    """
    return noise - theta * noise * dt + sigma * jnp.sqrt(dt) * jax.random.normal(key, noise.shape, noise.dtype)
