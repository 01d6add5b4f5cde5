"""Tiny worlds with known optimal returns, one for each kind of observation, action and episode end.

They exist so that every method can be run, and be seen to learn, within seconds. Each is a frozen dataclass that obeys
`operant.envs.base.World`; `optimal_return` and `random_return` are expected undiscounted returns of an episode under
the best policy and under the uniformly random one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from operant.errors import UserError
from operant.types import Box, Dict, Discrete, MultiDiscrete, struct

_STEP_COST = 0.1


@struct
class CellState:
    position: Int[Array, ""]
    goal: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Cells:
    """A corridor of four cells: walk right to the last one.

    Each step costs 0.1, arriving in cell 3 pays 1 and terminates; an episode is cut after 8 steps. It starts in cell 0
    or 1 with equal chance, so the best policy (always right) earns 1 - 0.1 * (3 + 2) / 2 = 0.75.
    """

    observation = Box((4,), low=0.0, high=1.0)
    action = Discrete(2)
    time_limit = 8
    optimal_return = 0.75
    random_return = -121 / 1280

    def reset(self, key: Key[Array, ""]) -> tuple[CellState, Float[Array, "4"]]:
        position = jax.random.randint(key, (), 0, 2)
        return CellState(position, jnp.int32(3)), jax.nn.one_hot(position, 4)

    def step(self, key: Key[Array, ""], state: CellState, action: Int[Array, ""]) -> tuple:
        position, reward, arrived = _walk(state, action)
        return CellState(position, state.goal), jax.nn.one_hot(position, 4), reward, arrived, False


@dataclasses.dataclass(frozen=True)
class Seek:
    """The corridor with a goal in any cell but the agent's; the observation is a dictionary.

    The mean distance between two different cells of four is 5/3, so the best policy earns 1 - 0.1 * 5/3 = 5/6.
    """

    observation = Dict((("position", Box((4,), low=0.0, high=1.0)), ("goal", Discrete(4))))
    action = Discrete(2)
    time_limit = 8
    optimal_return = 5 / 6
    random_return = 393 / 1280

    def reset(self, key: Key[Array, ""]) -> tuple[CellState, dict]:
        place, goal = jax.random.split(key)
        position = jax.random.randint(place, (), 0, 4)
        state = CellState(position, (position + jax.random.randint(goal, (), 1, 4)) % 4)
        return state, self._observe(state)

    def step(self, key: Key[Array, ""], state: CellState, action: Int[Array, ""]) -> tuple:
        position, reward, arrived = _walk(state, action)
        state = CellState(position, state.goal)
        return state, self._observe(state), reward, arrived, False

    def _observe(self, state: CellState) -> dict[str, Any]:
        return {"position": jax.nn.one_hot(state.position, 4), "goal": state.goal}


def _walk(state: CellState, action: Int[Array, ""]) -> tuple[Int[Array, ""], Float[Array, ""], Bool[Array, ""]]:
    position = jnp.clip(state.position + 2 * action - 1, 0, 3)
    arrived = position == state.goal
    return position, arrived.astype(jnp.float32) - _STEP_COST, arrived


@dataclasses.dataclass(frozen=True)
class Target:
    """Name the number that is shown: reward -(a - target)^2, with a in [-2, 2] and a new target in [-1, 1] each step.

    Five steps, cut by the time limit. The best policy earns 0; a uniform action earns -(4/3 + 1/3) a step.
    """

    observation = Box((1,), low=-1.0, high=1.0)
    action = Box((1,), low=-2.0, high=2.0)
    time_limit = 5
    optimal_return = 0.0
    random_return = -25 / 3

    def reset(self, key: Key[Array, ""]) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
        target = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return target, target

    def step(self, key: Key[Array, ""], state: Float[Array, "1"], action: Float[Array, "1"]) -> tuple:
        target, observation = self.reset(key)
        return target, observation, -jnp.sum((action - state) ** 2), False, False


@struct
class CueState:
    cue: Int[Array, "..."]
    time: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two cues, one of 2 and one of 3, are to be named by a pair of actions; half a point for each that is right.

    New cues each step; terminates after 4. The best policy earns 4, a random one 4 * (1/2 + 1/3) / 2 = 5/3.
    """

    observation = Box((5,), low=0.0, high=1.0)
    action = MultiDiscrete((2, 3))
    time_limit = None
    optimal_return = 4.0
    random_return = 5 / 3

    def reset(self, key: Key[Array, ""]) -> tuple[CueState, Float[Array, "5"]]:
        state = CueState(jax.random.randint(key, (2,), 0, jnp.array([2, 3])), jnp.int32(0))
        return state, self._observe(state)

    def step(self, key: Key[Array, ""], state: CueState, action: Int[Array, "2"]) -> tuple:
        fresh, observation = self.reset(key)
        time = state.time + 1
        return fresh.replace(time=time), observation, jnp.mean(1.0 * (action == state.cue)), time >= 4, False

    def _observe(self, state: CueState) -> Float[Array, "5"]:
        return jnp.concatenate([jax.nn.one_hot(state.cue[0], 2), jax.nn.one_hot(state.cue[1], 3)])


@struct
class MaskedState:
    cue: Int[Array, ""]
    mask: Bool[Array, "4"]
    time: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Masked:
    """Two of four actions are allowed; a cue says whether the lower or the higher of them pays 1.

    The other allowed action pays 0, a forbidden one -1. Terminates after 5 steps. The observation is the cue (one of 2)
    and the mask. The best policy earns 5; uniform over the allowed actions earns 2.5, which is `random_return`.
    """

    observation = Box((6,), low=0.0, high=1.0)
    action = Discrete(4)
    time_limit = None
    optimal_return = 5.0
    random_return = 2.5

    def reset(self, key: Key[Array, ""]) -> tuple[MaskedState, Float[Array, "6"]]:
        cue, allowed = jax.random.split(key)
        mask = jax.random.permutation(allowed, jnp.array([True, True, False, False]))
        state = MaskedState(jax.random.randint(cue, (), 0, 2), mask, jnp.int32(0))
        return state, jnp.concatenate([jax.nn.one_hot(state.cue, 2), 1.0 * mask])

    def step(self, key: Key[Array, ""], state: MaskedState, action: Int[Array, ""]) -> tuple:
        lower, higher = jnp.argmax(state.mask), 3 - jnp.argmax(state.mask[::-1])
        right = action == jnp.where(state.cue == 0, lower, higher)
        reward = jnp.where(state.mask[action], 1.0 * right, -1.0)
        fresh, observation = self.reset(key)
        time = state.time + 1
        return fresh.replace(time=time), observation, reward, time >= 5, False

    def action_mask(self, state: MaskedState) -> Bool[Array, "4"]:
        return state.mask


@dataclasses.dataclass(frozen=True)
class Recall:
    """A cue (one of 2) is shown at the first step only, and must be named `delay` steps later: +1 if right, else -1.

    The observation is the cue, one-hot, and a flag that asks for the answer. Terminates after the answer, at step
    `delay` + 1. A policy with memory earns 1, any policy without earns 0 on average.
    """

    delay: int = 3

    def __post_init__(self):
        if self.delay < 0:
            raise UserError(f"delay is {self.delay}, expected at least 0.")

    observation = Box((3,), low=0.0, high=1.0)
    action = Discrete(2)
    time_limit = None
    optimal_return = 1.0
    random_return = 0.0

    def reset(self, key: Key[Array, ""]) -> tuple[CueState, Float[Array, "3"]]:
        state = CueState(jax.random.randint(key, (), 0, 2), jnp.int32(0))
        return state, self._observe(state)

    def step(self, key: Key[Array, ""], state: CueState, action: Int[Array, ""]) -> tuple:
        asked = state.time == self.delay
        reward = jnp.where(asked, jnp.where(action == state.cue, 1.0, -1.0), 0.0)
        state = CueState(state.cue, state.time + 1)
        return state, self._observe(state), reward, asked, False

    def _observe(self, state: CueState) -> Float[Array, "3"]:
        cue = jnp.where(state.time == 0, jax.nn.one_hot(state.cue, 2), 0.0)
        return jnp.append(cue, 1.0 * (state.time == self.delay))


@dataclasses.dataclass(frozen=True)
class Pixels:
    """An image of 10 x 10 pixels with one bright dot: say whether it is in the left half (0) or the right half (1).

    Each right answer pays 1; a new image each step; four steps, cut by the time limit. The best policy earns 4.
    """

    observation = Box((10, 10, 3), dtype="uint8", low=0.0, high=255.0)
    action = Discrete(2)
    time_limit = 4
    optimal_return = 4.0
    random_return = 2.0

    def reset(self, key: Key[Array, ""]) -> tuple[Int[Array, "3"], UInt8[Array, "10 10 3"]]:
        dot = jax.random.randint(key, (3,), 0, jnp.array([10, 10, 3]))
        return dot, jnp.zeros((10, 10, 3), jnp.uint8).at[dot[0], dot[1], dot[2]].set(255)

    def step(self, key: Key[Array, ""], state: Int[Array, "3"], action: Int[Array, ""]) -> tuple:
        dot, image = self.reset(key)
        return dot, image, 1.0 * (action == state[1] // 5), False, False
