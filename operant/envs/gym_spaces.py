"""Gymnasium's spaces in our words, and values of each in the other's."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from operant.envs.base import box, channels_first
from operant.errors import UserError
from operant.types import Dict, Discrete, MultiDiscrete, PyTree, Space


def space_of(space: gymnasium.Space, acting: bool = False) -> Space:
    """A Gymnasium space in our words; UserError for those that agents cannot handle."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1 and acting:
        return MultiDiscrete(tuple(int(n) for n in space.nvec))
    if isinstance(space, gymnasium.spaces.MultiBinary) and len(space.shape) == 1 and acting:
        return MultiDiscrete((2,) * int(space.shape[0]))
    if isinstance(space, gymnasium.spaces.Dict) and not acting:
        return Dict(tuple((name, space_of(sub)) for name, sub in space.spaces.items()))
    if isinstance(space, gymnasium.spaces.Tuple) and not acting:
        return Dict(tuple((str(i), space_of(sub)) for i, sub in enumerate(space.spaces)))
    if isinstance(space, (gymnasium.spaces.MultiDiscrete, gymnasium.spaces.MultiBinary)) and not acting:
        high = space.nvec - 1.0 if isinstance(space, gymnasium.spaces.MultiDiscrete) else 1.0
        return box(space.shape, "float32", 0.0, high)
    if isinstance(space, gymnasium.spaces.Box):
        if acting and np.issubdtype(space.dtype, np.integer):
            low, high = space.low.astype(int).ravel(), space.high.astype(int).ravel()
            return MultiDiscrete(tuple(int(n) for n in high - low + 1))
        low, high = space.low, space.high
        if channels_first(space.shape, space.dtype):
            low, high = np.moveaxis(low, 0, -1), np.moveaxis(high, 0, -1)
        return box(low.shape, "uint8" if space.dtype == np.uint8 else "float32", low, high)
    kind = "action" if acting else "observation"
    raise UserError(f"the {kind} space {type(space).__name__} is not supported: wrap the environment to give arrays.")


def observe(value: Any, space: gymnasium.Space) -> PyTree:
    """A batch of native observations [B, ...] as members of `space_of(space)`."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: observe(value[name], sub) for name, sub in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return {str(i): observe(value[i], sub) for i, sub in enumerate(space.spaces)}
    if isinstance(space, gymnasium.spaces.Discrete):
        return (np.asarray(value) - space.start).astype(np.int32)
    value = np.asarray(value)
    if space.dtype == np.uint8 and isinstance(space, gymnasium.spaces.Box):
        return np.moveaxis(value, 1, -1) if channels_first(space.shape, space.dtype) else value.astype(np.uint8)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        value = value - space.start
    return value.astype(np.float32)


def native(action: np.ndarray, space: gymnasium.Space) -> np.ndarray:
    """Actions [B, ...] in the type that the environment expects."""
    if isinstance(space, (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)):
        return (action + space.start).astype(space.dtype)
    if isinstance(space, gymnasium.spaces.Box):
        if np.issubdtype(space.dtype, np.integer):
            return (action.reshape(-1, *space.shape) + space.low).astype(space.dtype)
        # Stretching in float32 may land a last bit outside of the bounds.
        return np.clip(action.astype(space.dtype), space.low, space.high)
    return action.astype(space.dtype)
