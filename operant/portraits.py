"""What an agent has learned to learn by, as panels of lines: a run draws the `portrait(state)` of an agent with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from operant.types import Batch

SURE = 0.9


class Panel(NamedTuple):
    """Lines over one axis, by their names; a name that begins with `_` is not told."""

    title: str
    axis: str
    x: Float[np.ndarray, "N"]
    lines: dict[str, Float[np.ndarray, "N"]]


def of_rule(
    told: Callable[[Batch, Float[Array, "T B"], Float[Array, "T1 B m"]], tuple[Array, Array]],
    blank: Callable[[int, int], Batch],
    actions: int,
    m: int,
    length: int = 20,
) -> list[Panel]:
    """How an update rule answers to rewards, ends of episodes and predictions, everything else being dull.

    told   (pi_hat [T, B], y_hat [T, B, m]) for a batch, the probabilities of its actions and the predictions
    blank  the batch of zeros with so many steps and columns
    """

    def asked(columns, **changes):
        """What the rule says at the first step; y is even, actions are equally likely, episodes go on."""
        batch = blank(length, columns)
        batch = batch.replace(discount=jnp.ones_like(batch.reward), valid=jnp.ones_like(batch.reward))
        y = changes.pop("y", jnp.full((length + 1, columns, m), 1.0 / m))
        pi_hat, y_hat = told(batch.replace(**changes), jnp.full((length, columns), 1.0 / actions), y)
        return np.asarray(pi_hat[0]), np.asarray(y_hat[0])

    rewards = jnp.linspace(-1.0, 1.0, 41)
    now = jnp.zeros((length, len(rewards))).at[0].set(rewards)
    alive = jnp.ones_like(now)
    goes_on, y_hat = asked(len(rewards), reward=now)
    ends, _ = asked(len(rewards), reward=now, discount=alive.at[0].set(0.0))
    later, _ = asked(length, reward=jnp.eye(length))
    never, _ = asked(1)
    sure = SURE * jax.nn.one_hot(jnp.arange(m), m) + (1 - SURE) / m
    even = jnp.full((length + 1, m, m), 1.0 / m)
    here, there = (asked(m, y=even.at[at].set(sure))[0] for at in (0, 1))
    entries = np.arange(m)
    return [
        Panel("policy: by the reward", "reward now", np.asarray(rewards), {"goes on": goes_on, "ends": ends}),
        Panel("policy: credit for a reward of 1", "steps until it comes", np.arange(length), {"_": later - never}),
        Panel("policy: by the prediction", "entry it is sure of", entries, {"here": here, "at the next step": there}),
        Panel("prediction's target: by the reward", "reward now", np.asarray(rewards),
              {f"_{j}": y_hat[:, j] for j in entries}),
    ]  # fmt: skip
