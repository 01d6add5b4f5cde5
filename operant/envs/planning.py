"""Exact values of tabular tasks, by backward induction over the steps of an episode.

A world can be planned in if its observation is the number of a state, and if it has

    backup(task, values, gamma) -> [S, A]    expected reward plus gamma times the value of the next state
    first(task)                 -> state     in which every episode begins
    time_limit                               steps of the longest episode; `task.cap` of this task's

A cap on steps is a part of these problems: values are those of an episode's first step, with all its steps to go.
All functions are pure, and can be jitted and mapped over tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from operant.types import PyTree


def optimal_values(world: Any, task: PyTree, gamma: float = 1.0) -> Float[Array, "S"]:
    """The best expected return within the cap, from each state."""
    return _values(world, task, gamma, lambda of_actions: of_actions.max(-1))


def random_values(world: Any, task: PyTree, gamma: float = 1.0) -> Float[Array, "S"]:
    """The expected return of the uniformly random policy within the cap, from each state."""
    return _values(world, task, gamma, lambda of_actions: of_actions.mean(-1))


def optimal_return(world: Any, task: PyTree, gamma: float = 1.0) -> Float[Array, ""]:
    """The best expected return of an episode."""
    return optimal_values(world, task, gamma)[world.first(task)]


def random_return(world: Any, task: PyTree, gamma: float = 1.0) -> Float[Array, ""]:
    """The expected return of an episode under the uniformly random policy."""
    return random_values(world, task, gamma)[world.first(task)]


def _values(world: Any, task: PyTree, gamma: float, of: Callable[[Array], Array]) -> Float[Array, "S"]:
    def longer(values, steps):
        """Values with one step more to go."""
        return jnp.where(steps < task.cap, of(world.backup(task, values, gamma)), values), None

    nothing = jnp.zeros(world.observation.n)
    return jax.lax.scan(longer, nothing, jnp.arange(world.time_limit))[0]
