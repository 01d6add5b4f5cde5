"""The worlds of "What Can Learned Intrinsic Rewards Capture?" (Zheng et al. 2020, arXiv:1912.05500): one task, many
episodes.

A *lifetime* is `lifetime` episodes in one task, in which an agent is to find out what the task is, and then to use it.
What the paper leaves open is chosen here: the rooms have 13 x 13 cells with their walls, the agent starts in the middle
of the upper left one; in the others it starts in the middle of 5 x 5 cells, with A, B and C in corners.

`permuted` exchanges up with down and left with right, `extended` adds the four diagonals: action sets to transfer to.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from operant.envs.worlds.grids import everywhere, move, planes
from operant.types import Box, Discrete, struct


class _Room:
    """What the worlds share: their moves."""

    permuted: bool
    extended: bool

    @property
    def action(self) -> Discrete:
        return Discrete(8 if self.extended else 4)

    def _move(self, cell: Int[Array, ""], action: Int[Array, ""], wall: Bool[np.ndarray, "H W"]) -> Int[Array, ""]:
        directions = (2, 1, 4, 3, 8, 7, 6, 5) if self.permuted else (1, 2, 3, 4, 5, 6, 7, 8)  # of grids.ROWS
        return move(cell, jnp.asarray(directions)[action], jnp.asarray(wall))[0]


# --------------------------------------------------------------------------------------------------------------- rooms
def four_rooms(size: int) -> Bool[np.ndarray, "size size"]:
    """The walls of four rooms, with a door in the middle of each wall between two of them."""
    middle, quarter = size // 2, size // 4
    wall = np.zeros((size, size), bool)
    for line in (0, middle, size - 1):
        wall[line] = wall[:, line] = True
    for door in (quarter, size - 1 - quarter):
        wall[middle, door] = wall[door, middle] = False
    return wall


@struct
class RoomState:
    """The cell of the agent, and of the goal, which is the task."""

    cell: Int[Array, ""]
    task: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class EmptyRooms(_Room):
    """Four rooms and a goal that is not seen: reaching it pays 1 and ends the episode. It lies elsewhere in each task.

    The observation is a plane with the agent. 13 x 13 cells, 100 steps, 200 episodes; `small`: 9 x 9, 40 and 100.
    """

    small: bool = False
    permuted: bool = False
    extended: bool = False
    task: int = -1

    @property
    def size(self) -> int:
        return 9 if self.small else 13

    @property
    def time_limit(self) -> int:
        return 40 if self.small else 100

    @property
    def lifetime(self) -> int:
        """Episodes that an agent lives."""
        return 100 if self.small else 200

    @property
    def observation(self) -> Box:
        return Box((self.size, self.size, 1), "uint8", 0.0, 1.0)

    @property
    def _start(self) -> int:
        return (self.size // 4) * (self.size + 1)

    def draw(self, key: Key[Array, ""]) -> Int[Array, ""]:
        free = np.flatnonzero(~four_rooms(self.size))
        return jax.random.choice(key, jnp.asarray(free[free != self._start], jnp.int32))

    def reset(self, key: Key[Array, ""], task: Int[Array, ""]) -> tuple[RoomState, UInt8[Array, "H W 1"]]:
        state = RoomState(jnp.int32(self._start), task)
        return state, self._observe(state)

    def step(self, key: Key[Array, ""], state: RoomState, action: Int[Array, ""]) -> tuple:
        state = RoomState(self._move(state.cell, action, four_rooms(self.size)), state.task)
        arrived = state.cell == state.task
        return state, self._observe(state), arrived.astype(jnp.float32), arrived, False

    def everywhere(self, task: Int[Array, ""]) -> tuple[UInt8[Array, "H W H W 1"], Bool[Array, "H W"]]:
        """What is seen from each cell, and the open ones."""
        return everywhere(self, self.reset(jax.random.key(0), task)[0], four_rooms(self.size))

    def _observe(self, state: RoomState) -> UInt8[Array, "H W 1"]:
        return planes(state.cell[None], np.zeros(1, np.int32), self.observation.shape)


# ------------------------------------------------------------------------------------------------------------- letters
_SIDE = 5
_START, _KEY = 12, 0
_LETTERS = np.array([4, 20, 24], np.int32)  # A, B, C


@struct
class LetterState:
    """The cell of the agent, whether objects pay (in Key-Box: once it has the key), and the episodes lived before."""

    cell: Int[Array, ""]
    open: Bool[Array, ""]
    episode: Int[Array, ""]
    task: Float[Array, "3"]


@dataclasses.dataclass(frozen=True)
class _Letters(_Room):
    permuted: bool = False
    extended: bool = False
    task: int = -1

    keyed = False

    @property
    def observation(self) -> Box:
        return Box((_SIDE, _SIDE, 5 if self.keyed else 4), "uint8", 0.0, 1.0)

    def reset(self, key: Key[Array, ""], task: Float[Array, "3"]) -> tuple[LetterState, UInt8[Array, "5 5 C"]]:
        return self._begin(jnp.int32(0), task)

    def again(self, key: Key[Array, ""], state: LetterState) -> tuple[LetterState, UInt8[Array, "5 5 C"]]:
        return self._begin(state.episode + 1, state.task)

    def _begin(self, episode: Int[Array, ""], task: Float[Array, "3"]):
        state = LetterState(jnp.int32(_START), jnp.asarray(not self.keyed), episode, task)
        return state, self._observe(state)

    def step(self, key: Key[Array, ""], state: LetterState, action: Int[Array, ""]) -> tuple:
        cell = self._move(state.cell, action, np.zeros((_SIDE, _SIDE), bool))
        found = ~state.open & (cell == _KEY)
        state = LetterState(cell, state.open | found, state.episode, state.task)
        taken = state.open & (cell == _LETTERS)
        reward = jnp.sum(jnp.where(taken, self._rewards(state), 0.0)) - 0.1 * found
        return state, self._observe(state), reward, taken.any(), False

    def _rewards(self, state: LetterState) -> Float[Array, "3"]:
        return state.task

    def everywhere(self, task: Float[Array, "3"]) -> tuple[UInt8[Array, "5 5 5 5 C"], Bool[Array, "5 5"]]:
        """What is seen from each cell at an episode's beginning; all are open."""
        return everywhere(self, self.reset(jax.random.key(0), task)[0], np.zeros((_SIDE, _SIDE), bool))

    def _observe(self, state: LetterState) -> UInt8[Array, "5 5 C"]:
        cells = jnp.append(state.cell, _LETTERS)
        if self.keyed:
            cells = jnp.append(cells, jnp.where(state.open, -1, _KEY))
        return planes(cells, np.arange(len(cells)), self.observation.shape)


def _draw_rewards(key: Key[Array, ""]) -> Float[Array, "3"]:
    return jax.random.uniform(key, (3,), minval=jnp.array([-1.0, -0.5, 0.0]), maxval=jnp.array([1.0, 0.0, 0.5]))


@dataclasses.dataclass(frozen=True)
class RandomABC(_Letters):
    """Three objects in a room; collecting one pays its reward, and ends the episode.

    Per task A ~ U(-1, 1), B ~ U(-0.5, 0), C ~ U(0, 0.5). 10 steps, 50 episodes. Planes: agent, A, B, C.
    """

    time_limit = 10
    lifetime = 50

    def draw(self, key: Key[Array, ""]) -> Float[Array, "3"]:
        return _draw_rewards(key)


@dataclasses.dataclass(frozen=True)
class KeyBox(_Letters):
    """Random ABC with boxes: they pay, and end the episode, for who has the key from the upper left corner.

    Fetching it costs 0.1. 100 steps, 5000 episodes. Planes: agent, A, B, C, the key while it lies there.
    """

    keyed = True
    time_limit = 100
    lifetime = 5000

    def draw(self, key: Key[Array, ""]) -> Float[Array, "3"]:
        return _draw_rewards(key)


@dataclasses.dataclass(frozen=True)
class NonStationaryABC(_Letters):
    """A pays 1 or -1 and C the opposite, as the task says at first; they change places every 250 episodes. B pays -0.5.

    10 steps, 1000 episodes. Planes: agent, A, B, C.
    """

    time_limit = 10
    lifetime = 1000
    period = 250

    def draw(self, key: Key[Array, ""]) -> Float[Array, "3"]:
        sign = jax.random.rademacher(key, (), jnp.float32)
        return jnp.array([1.0, 0.0, -1.0]) * sign + jnp.array([0.0, -0.5, 0.0])

    def _rewards(self, state: LetterState) -> Float[Array, "3"]:
        return jnp.where(state.episode // self.period % 2 == 0, state.task, state.task[::-1])
