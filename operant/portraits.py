"""What an agent has learned to learn by, as lines and maps: a run draws its agent's `portrait(state, seen)`, if any.

`seen` is what the environment shows from each cell of its map, and which cells are open (`World.everywhere`); None
where the environment has no map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from operant.types import Batch, Discrete, PyTree, Space


class Panel(NamedTuple):
    """Lines over one axis, by their names; a name that begins with `_` is not told."""

    title: str
    axis: str
    x: Float[np.ndarray, "N"]
    lines: dict[str, Float[np.ndarray, "N"]]


class Map(NamedTuple):
    """A number for each cell, row by row; NaN where there is none."""

    title: str
    values: Float[np.ndarray, "H W"]


def of_cells(title: str, told: Callable[[PyTree], Float[Array, "N"]], seen: tuple[PyTree, Bool[Array, "H W"]]) -> Map:
    """The map of what is told of N observations, each open cell's being one."""
    observation, is_open = seen
    values = told(jax.tree.map(lambda x: x.reshape(is_open.size, *x.shape[2:]), observation))
    return Map(title, np.where(is_open, np.asarray(values).reshape(is_open.shape), np.nan))


def of_actions(
    title: str,
    told: Callable[[PyTree, Int[Array, "N"]], Float[Array, "N"]],
    action: Space,
    seen: tuple[PyTree, Bool[Array, "H W"]] | None,
) -> list[Map]:
    """Maps of what is told of observations and actions: the mean over actions, and the dearest. None without a map."""
    if seen is None or not isinstance(action, Discrete):
        return []

    def each(observation):
        number = len(jax.tree.leaves(observation)[0])
        return jax.vmap(lambda a: told(observation, jnp.full(number, a)))(jnp.arange(action.n))

    return [
        of_cells(f"{title}: mean over actions", lambda observation: each(observation).mean(0), seen),
        of_cells(f"{title}: the dearest action", lambda observation: each(observation).max(0), seen),
    ]


def of_rule(
    told: Callable[[Batch, Float[Array, "T B"], Float[Array, "T1 B m"]], tuple[Array, Array]],
    blank: Callable[[int, int], Batch],
    actions: int,
    axis: str,
    places: Float[Array, "N"],
    probes: Float[Array, "N m"],
    dull: Float[Array, "m"],
    length: int = 20,
) -> list[Panel]:
    """How an update rule answers to rewards, ends of episodes and predictions, everything else being dull.

    told    (pi_hat [T, B], y_hat [T, B, ...]) for a batch, the probabilities of its actions and the predictions
    blank   the batch of zeros with so many steps and columns
    probes  predictions to be shown to it, `places` on an `axis` of that name; `dull` is one that says nothing
    """

    def asked(columns, at=None, **changes):
        """What the rule says at the first step, the probes being shown `at` a step; actions are equally likely."""
        batch = blank(length, columns)
        batch = batch.replace(discount=jnp.ones_like(batch.reward), valid=jnp.ones_like(batch.reward))
        y = jnp.broadcast_to(dull, (length + 1, columns, len(dull)))
        y = y if at is None else y.at[at].set(probes)
        pi_hat, y_hat = told(batch.replace(**changes), jnp.full((length, columns), 1.0 / actions), y)
        return np.asarray(pi_hat[0]), np.asarray(y_hat[0])

    rewards = jnp.linspace(-1.0, 1.0, 41)
    now = jnp.zeros((length, len(rewards))).at[0].set(rewards)
    goes_on, y_hat = asked(len(rewards), reward=now)
    ends, _ = asked(len(rewards), reward=now, discount=jnp.ones_like(now).at[0].set(0.0))
    later, _ = asked(length, reward=jnp.eye(length))
    never, _ = asked(1)
    panels = [
        Panel("policy: by the reward", "reward now", np.asarray(rewards), {"goes on": goes_on, "ends": ends}),
        Panel("policy: credit for a reward of 1", "steps until it comes", np.arange(length), {"_": later - never}),
    ]
    if len(places):
        lines = {name: asked(len(places), at)[0] for at, name in enumerate(("here", "at the next step"))}
        panels.append(Panel("policy: by the prediction", axis, np.asarray(places), lines))
    if y_hat.shape[-1]:
        lines = {f"_{j}": line for j, line in enumerate(y_hat.T)}
        panels.append(Panel("prediction's target: by the reward", "reward now", np.asarray(rewards), lines))
    return panels
