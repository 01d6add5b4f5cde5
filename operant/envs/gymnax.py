"""Gymnax's environments: classic control, MinAtar, bsuite and small worlds, in JAX.

Terminations are Gymnax's own (`step_env`), time limits its `max_steps_in_episode`; where both fall on one step it is a
termination. What differs from the originals: MinAtar here has no sticky actions (the paper's 0.1: `sticky=0.1`), has a
time limit of 1000 steps (2500 in Freeway, where it replaces the game's own clock, so that it is no termination), and
minimal action sets; difficulty ramping is on, as in the paper; its observations, which are 0 or 1, are bytes.
`MNISTBandit-bsuite` downloads a data set when it is made, and is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp

from operant.envs import wrappers
from operant.envs.base import Environment, batched, box
from operant.envs.options import defaults, like, positive
from operant.errors import UserError, check_options
from operant.types import Box, Dict, Discrete, PyTree, Space, zeros


class _Late(types.ModuleType):
    """A module that is imported when something is first asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def _import_gymnax() -> Any:
    """Gymnax without its plotting libraries, which are two thirds of its import: they come when a plot is drawn."""
    late = [name for name in ("seaborn", "matplotlib.pyplot") if name not in sys.modules]
    sys.modules.update({name: _Late(name) for name in late})
    try:
        return importlib.import_module("gymnax")
    finally:
        for name in late:
            del sys.modules[name]


gymnax = _import_gymnax()

LEFT_OUT = {"MNISTBandit-bsuite": "Gymnax downloads the MNIST data set when it is made."}


def make(name: str, num_envs: int, seeds: list[int], **options: Any) -> Environment:
    """Options: `time_limit`, the wrappers', and those of the environment's constructor and parameters."""
    if name not in gymnax.registered_envs or name in LEFT_OUT:
        raise UserError(f"Gymnax has no environment {name!r}." if name not in LEFT_OUT else LEFT_OUT[name])
    constructor, parameters = _valid(name)
    check_options(name, options, (*constructor, *parameters, *wrappers.OPTIONS, "time_limit"))
    limit = options.pop("time_limit", None)
    known = {**constructor, **parameters}
    own = {
        option: like(option, options.pop(option), known[option])
        for option in list(options)
        if option not in wrappers.OPTIONS
    }
    for option, value in own.items():
        if not isinstance(value, (bool, int, float, str)):
            raise UserError(f"{name}: {option} is a {type(value).__name__}, expected a number, a flag or a text.")
    if limit is not None:
        own["max_steps_in_episode"] = positive("time_limit", limit)
    world = GymnaxWorld(name, tuple(sorted(own.items())))
    if own.keys() - {"max_steps_in_episode"}:
        _trace(world)
    return wrappers.wrap(batched(world, num_envs, name=name), **options)


def _trace(world: GymnaxWorld) -> None:
    """Traces a reset and a step: UserError with whatever Gymnax objects to, or stumbles over, in these options."""
    try:
        _build(world.name, world.options)  # some constructors cannot be traced
        state, _ = jax.eval_shape(world.reset, jax.random.key(0))
        jax.eval_shape(world.step, jax.random.key(0), state, zeros(world.action))
    except Exception as error:  # Gymnax, and JAX within it, raise of every kind
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        options = ", ".join(f"{option}={value!r}" for option, value in world.options)
        raise UserError(f"Gymnax cannot play {world.name} with {options}: {reason}") from error


@functools.cache
def _valid(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of its constructor and its parameters, with their defaults."""
    env, params = gymnax.make(name)
    constructor = {option: x for option, x in defaults(type(env)).items() if option not in ("args", "kwargs")}
    fields = (f.name for f in dataclasses.fields(params) if f.name != "max_steps_in_episode")
    return constructor, {option: getattr(params, option) for option in fields}


@functools.cache
def _build(name: str, options: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    constructor, _ = _valid(name)
    env, params = gymnax.make(name, **{k: v for k, v in options if k in constructor})
    # In the type of the default: some limits are floats, and Gymnax compares without conversion.
    changes = {k: type(getattr(params, k))(v) for k, v in options if k not in constructor}
    return env, params.replace(**changes)


@dataclasses.dataclass(frozen=True)
class GymnaxWorld:
    """One Gymnax environment as a functional world; equal names and options are equal worlds."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def observation(self) -> Space:
        env, params = _build(self.name, self.options)
        example = jax.eval_shape(lambda key: env.reset_env(key, params)[0], jax.random.key(0))
        if self._binary:
            return Box(example.shape, "uint8", 0.0, 1.0)
        return _space(env.observation_space(params), example)

    @property
    def _binary(self) -> bool:
        """MinAtar's channels are yes or no: as bytes they take a quarter of a replay memory."""
        return self.name.endswith("-MinAtar")

    def _observe(self, observation: PyTree) -> PyTree:
        return observation.astype(jnp.uint8) if self._binary else observation

    @property
    def action(self) -> Space:
        env, params = _build(self.name, self.options)
        return _space(env.action_space(params), None)

    @property
    def time_limit(self) -> int | None:
        _, params = _build(self.name, self.options)
        return int(params.max_steps_in_episode)

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        env, params = _build(self.name, self.options)
        observation, state = env.reset_env(key, params)
        # Some states begin as Python numbers: given a type of their own, the first step compiles like all others.
        state = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.result_type(x)), state)
        return state, self._observe(observation)

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> tuple:
        env, params = _build(self.name, self.options)
        observation, after, reward, terminated, _ = env.step_env(key, state, action, params)
        after = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), after, state)
        return after, self._observe(observation), reward, terminated, env.is_truncated(after, params)


def _space(space: Any, example: Any) -> Space:
    # The shapes and kinds that environments return are believed, where their declared spaces differ.
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "Dict":
        return Dict(tuple((k, _space(v, None if example is None else example[k])) for k, v in space.spaces.items()))
    shape = tuple(space.shape if example is None else example.shape)
    return box(shape, "float32", space.low, space.high)
