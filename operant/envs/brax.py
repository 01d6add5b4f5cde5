"""Brax's environments: rigid-body locomotion and manipulation, in JAX. An optional extra: `operant[brax]`.

Time limits are Operant's (1000 steps by default, as in Brax's own training scripts): Brax is asked for the bare
environment, without its episode and auto-reset wrappers.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant.envs import wrappers
from operant.envs.base import Environment, batched
from operant.errors import MissingExtra, UserError, check_options, near
from operant.types import Box, PyTree

BACKENDS = ("generalized", "positional", "spring", "mjx")
TIME_LIMIT = 1000


def names() -> list[str]:
    """Brax's environments, without the one that only exists to test Brax."""
    return sorted(name for name in _envs()._envs if name != "fast")


def make(name: str, num_envs: int, seeds: list[int], **options: Any) -> Environment:
    """Options: `backend` (generalized, positional, spring or mjx), `time_limit` and the wrappers'."""
    if name not in names():
        raise UserError(f"Brax has no environment {name!r}.{near(name, names())} It has: {', '.join(names())}.")
    check_options(f"brax:{name}", options, ("backend", "time_limit", *wrappers.OPTIONS))
    backend = options.pop("backend", "generalized")
    if backend not in BACKENDS:
        raise UserError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}.")
    limit = options.pop("time_limit", TIME_LIMIT)
    env = batched(BraxWorld(name, backend), num_envs, name=f"brax:{name}", time_limit=limit)
    return wrappers.wrap(env, **options)


def _envs() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from brax import envs
    except ImportError as error:
        raise MissingExtra("Brax", "brax") from error
    return envs


@functools.cache
def _build(name: str, backend: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brax warns at every construction that it is in maintenance
        return _envs().get_environment(name, backend=backend)


@dataclasses.dataclass(frozen=True)
class BraxWorld:
    """One Brax environment as a functional world."""

    name: str
    backend: str = "generalized"

    time_limit = TIME_LIMIT

    @property
    def observation(self) -> Box:
        return Box((int(_build(self.name, self.backend).observation_size),))

    @property
    def action(self) -> Box:
        # Brax's own wrappers act in [-1, 1] and leave the actuators' ranges to the model.
        return Box((int(np.prod(_build(self.name, self.backend).action_size)),), low=-1.0, high=1.0)

    def reset(self, key: jax.Array) -> tuple[PyTree, jax.Array]:
        state = jax.tree.map(jnp.asarray, _build(self.name, self.backend).reset(key))
        return state, state.obs

    def step(self, key: jax.Array, state: PyTree, action: jax.Array) -> tuple:
        after = _build(self.name, self.backend).step(state, action)
        after = jax.tree.map(lambda new, old: jnp.asarray(new).astype(jnp.asarray(old).dtype), after, state)
        return after, after.obs, after.reward, after.done > 0.5, False
