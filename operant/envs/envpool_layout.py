"""What EnvPool's declared arrays are in our words, and values of each in the other's."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from operant.envs.base import box, channels_first
from operant.errors import UserError
from operant.types import Box, Dict, Discrete, MultiDiscrete, PyTree, Space, Spec

NO_LIMIT = np.iinfo(np.int32).max  # what EnvPool has for the steps of an episode where there is no limit


@dataclasses.dataclass
class Layout:
    """How the outputs and inputs of a pool correspond to our spaces.

    flatten  observations of several vectors become one
    stack    the frames that an image observation holds, newest last
    """

    pool_spec: Any
    flatten: bool
    stack: int = 1

    def __post_init__(self):
        state, self.actions = self.pool_spec.state_array_spec, self.pool_spec.action_array_spec
        config = self.pool_spec.config._asdict()
        self.time_limit = None if config["max_episode_steps"] >= NO_LIMIT else int(config["max_episode_steps"])
        own = [k for k in self.actions if k not in ("env_id", "players.env_id")]
        if config.get("max_num_players", 1) > 1 or own != ["action"]:
            raise UserError("it has several players, and Operant's agents act alone.")
        self.action, self.action_low = _action_space(self.actions["action"])
        self.mask_key = None
        for key in ("obs:action_mask", "info:action_mask", "info:legal_action_mask"):
            if key in state and isinstance(self.action, Discrete) and shape_of(state[key]) == (self.action.n,):
                self.mask_key = key
        # An agent gets the mask with the timestep, not inside the observation.
        self.observed = [k for k in state if (k == "obs" or k.startswith("obs:")) and k != self.mask_key]
        self.spaces = {k: _observation_space(state[k]) for k in self.observed}
        self.flatten = self.flatten and all(
            isinstance(s, Box) and s.dtype == "float32" and len(s.shape) < 2 for s, _ in self.spaces.values()
        )

    def spec(self, name: str, num_envs: int) -> Spec:
        spaces = [space for space, _ in self.spaces.values()]
        if len(spaces) == 1:
            observation: Space = spaces[0]
            if self.stack > 1:
                observation = dataclasses.replace(observation, stack=self.stack)
        elif self.flatten:
            observation = Box((sum(int(np.prod(s.shape)) for s in spaces),))
        else:
            observation = Dict(tuple((k.removeprefix("obs:"), s) for k, (s, _) in self.spaces.items()))
        return Spec(
            observation=observation,
            action=self.action,
            num_envs=num_envs,
            time_limit=self.time_limit,
            action_mask=self.mask_key is not None,
            name=name,
        )

    def observe(self, out: dict[str, Array]) -> PyTree:
        parts = {}
        for key, (space, transform) in self.spaces.items():
            x = transform(out[key])
            parts[key.removeprefix("obs:")] = x.reshape(x.shape[0], *space.shape).astype(space.dtype)
        if len(parts) == 1:
            return next(iter(parts.values()))
        if self.flatten:
            return jnp.concatenate([x.reshape(x.shape[0], -1) for x in parts.values()], -1)
        return parts

    def example(self) -> PyTree:
        """One observation as EnvPool itself gives it: zeros."""
        state = self.pool_spec.state_array_spec
        parts = {key.removeprefix("obs:"): np.zeros(shape_of(state[key]), state[key].dtype) for key in self.observed}
        return parts["obs"] if self.observed == ["obs"] else parts

    def observe_native(self, observation: PyTree) -> PyTree:
        """EnvPool's own observations [B, ...] as the agent's."""
        if self.observed == ["obs"]:
            observation = {"obs": observation}
        out = {key: jnp.asarray(observation[key.removeprefix("obs:")]) for key in self.observed}
        return jax.device_get(self.observe(out))

    def act_native(self, action: Any) -> np.ndarray:
        """Actions in the units of the spec, as EnvPool's own `step` takes them."""
        declared = self.actions["action"]
        native = np.asarray(self.native_action(action), declared.dtype)
        low, high = _bounds(declared)  # stretching in float32 may land a last bit outside of them
        return native.clip(low, high).astype(declared.dtype) if isinstance(self.action, Box) else native

    def mask(self, out: dict[str, Array]) -> Array | None:
        return None if self.mask_key is None else out[self.mask_key].astype(bool)

    def native_action(self, action: Array) -> Array:
        return action if isinstance(self.action, Box) else action + self.action_low


def shape_of(declared: Any) -> tuple[int, ...]:
    """The shape of one environment's array. A leading -1 counts players, of whom there is one."""
    shape = tuple(int(n) for n in declared.shape)
    return shape[1:] if shape and shape[0] == -1 else shape


def _bounds(declared: Any) -> tuple[np.ndarray, np.ndarray]:
    """Declared bounds. A type's smallest *positive* number as the lower bound means that nothing was declared."""
    low, high = np.asarray(declared.minimum, np.float64), np.asarray(declared.maximum, np.float64)
    if np.all(high - low >= 2.0**32 - 1):
        return np.asarray(-np.inf), np.asarray(np.inf)
    tiny = [float(np.finfo(t).tiny) for t in (np.float32, np.float64)]
    return np.where(np.isin(low, tiny), -np.inf, low), high


def _action_space(declared: Any) -> tuple[Space, Any]:
    """Our action space, and what is added to an integer action to get the simulator's."""
    shape, (low, high) = shape_of(declared), _bounds(declared)
    if not (np.issubdtype(declared.dtype, np.integer) or declared.is_discrete):
        return box(shape, "float32", low, high), 0
    sizes = np.broadcast_to(high - low + 1, shape)
    if sizes.ndim == 0:
        return Discrete(int(sizes)), int(low)
    if sizes.ndim > 1:
        raise UserError("its actions are tables of integers, which no action space here describes.")
    return MultiDiscrete(tuple(int(n) for n in sizes)), np.broadcast_to(low, shape).astype(np.int32)


def _observation_space(declared: Any) -> tuple[Space, Any]:
    """Our space for one observed array, and the function that brings [B, ...] outputs into it."""
    shape, dtype = shape_of(declared), np.dtype(declared.dtype)
    low, high = _bounds(declared)
    if dtype == np.uint8:
        if channels_first(shape, dtype):
            return Box((*shape[1:], shape[0]), "uint8", 0.0, 255.0), lambda x: jnp.moveaxis(x, 1, -1)
        return Box(shape, "uint8", 0.0, 255.0), lambda x: x
    if np.issubdtype(dtype, np.integer) and shape == () and np.all(high - low < 2**16):
        return Discrete(int(high - low + 1)), lambda x: x - int(low)
    if dtype == np.bool_:
        low, high = np.asarray(0.0), np.asarray(1.0)
    return box(shape, "float32", low, high), lambda x: x
