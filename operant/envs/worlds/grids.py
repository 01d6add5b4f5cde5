"""Grid worlds with objects to collect, the training worlds of LPG (Oh et al. 2020, arXiv:2007.08794, appendix).

An object is of a type (count, reward, P(the episode ends when it is collected), P(it is back, per step of absence)).
A step is, in this order: the agent moves; what it collects pays, is removed, and may end the episode; every object that
is absent may come back, but for the one collected in this very step; the clock advances. An episode is cut after `cap`
steps. There are nine moves (stay, four straight, four diagonal); into a wall, or over the edge, the agent stays.

`Grid` and `SmallGrid` are tabular: what is drawn once per task (a maze's start and its objects' cells) stays as it is
through episodes and returns of objects, and the observation is the number of a state, cell and presence of each object.
`RandomGrid` puts objects in new cells at every episode's start and at every return, and shows planes.

Tasks are pytrees (`GridTask`), so thousands of them are simulated side by side, and planned in (`planning`). The mazes
and objects of the paper's worlds are tables in `mazes`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from operant.envs.worlds.mazes import Objects
from operant.errors import UserError
from operant.types import Box, Discrete, struct

ROWS = (0, -1, 1, 0, 0, -1, -1, 1, 1)
COLUMNS = (0, 0, 0, -1, 1, -1, 1, -1, 1)
"""What a move adds: stay, up, down, left, right, then the diagonals."""


@struct
class GridTask:
    """A maze of H x W cells, N objects, and the steps of an episode. Cells are numbered row by row; -1 is nowhere."""

    wall: Bool[Array, "H W"]
    start: Int[Array, ""]
    cells: Int[Array, "N"]
    reward: Float[Array, "N"]
    end: Float[Array, "N"]
    respawn: Float[Array, "N"]
    cap: Int[Array, ""]


@struct
class GridState:
    """Where the agent and the objects are, which objects are there, and the steps of this episode."""

    cell: Int[Array, ""]
    cells: Int[Array, "N"]
    present: Bool[Array, "N"]
    time: Int[Array, ""]
    task: GridTask


# --------------------------------------------------------------------------------------------------------------- parts
def move(
    cell: Int[Array, "*B"], direction: Int[Array, "*B"], wall: Bool[Array, "H W"]
) -> tuple[Int[Array, "*B"], Bool[Array, "*B"]]:
    """The cell in that direction (an index of `ROWS`), or the same where it is no open one; and whether it is open."""
    height, width = wall.shape
    row = cell // width + jnp.asarray(ROWS)[direction]
    column = cell % width + jnp.asarray(COLUMNS)[direction]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    target = jnp.where(inside, row * width + column, cell)
    is_open = inside & ~wall.reshape(-1).at[target].get(mode="promise_in_bounds")
    return jnp.where(is_open, target, cell), is_open


def distinct(
    uniform: Float[Array, "N"], among: int | Int[Array, ""], drawn: Bool[Array, "N"] | bool = True
) -> Int[Array, "N"]:
    """Different numbers below `among`, every ordered choice being equally likely, from uniform ones in [0, 1).

    Where `drawn` does not hold, what comes out means nothing, and takes no number from the others.
    """
    drawn = jnp.broadcast_to(drawn, uniform.shape)
    left = among - (jnp.cumsum(drawn) - drawn)
    ranks = jnp.minimum((uniform * left).astype(jnp.int32), left - 1)
    # The i-th is a rank among what the earlier ones left: each of them, from the last to the first, makes room.
    numbers, order = ranks, jnp.arange(len(uniform))
    for i in reversed(range(len(uniform) - 1)):
        numbers = numbers + (drawn[i] & (order > i) & (numbers >= ranks[i]))
    return numbers


def uniform(key: Key[Array, ""], number: int) -> Float[Array, "number"]:
    """Uniform numbers from 0 to 1 that are exact to 2^-32: u / p is uniform too, where u is below a small p."""
    return jax.random.bits(key, (number,), jnp.uint32).astype(jnp.float32) * 2.0**-32


def vacant(ranks: Int[Array, "N"], occupied: Int[Array, "K"]) -> Int[Array, "N"]:
    """The cells of these ranks among all that are not `occupied`; occupied cells differ, those below 0 do not count."""
    cells = ranks
    for cell in jnp.sort(jnp.where(occupied < 0, np.iinfo(np.int32).max, occupied)):
        cells = cells + (cell <= cells)
    return cells


def planes(cells: Int[Array, "N"], plane: Int[np.ndarray, "N"], shape: tuple[int, ...]) -> UInt8[Array, "H W C"]:
    """Planes of zeros with a one in each of the cells, in the plane named beside it; none for cells below 0."""
    height, width, number = shape
    size = height * width * number
    at = jnp.where(cells < 0, size, cells * number + plane)
    return jnp.zeros(size, jnp.uint8).at[at].set(1, mode="drop").reshape(shape)


def everywhere(world: Any, state: Any, wall: Bool[Array, "H W"]) -> tuple[Array, Bool[Array, "H W"]]:
    """What `world` shows with the agent in each cell, all else being as in `state`: [H, W, ...]; and the open cells."""
    cells = jnp.arange(wall.size, dtype=jnp.int32).reshape(wall.shape)
    return jax.vmap(jax.vmap(lambda cell: world._observe(state.replace(cell=cell))))(cells), ~jnp.asarray(wall)


def _collect(state: GridState, action: Int[Array, ""], chance: Float[Array, "N1"], explicit: bool):
    """Move, collect, come back and tick. Returns the next state, the reward, and whether the episode ended.

    chance  uniform numbers: one for the end, then one for the return of each object
    """
    task = state.task
    target, is_open = move(state.cell, action % 9 if explicit else action, task.wall)
    collecting = is_open & (action >= 9) if explicit else True
    cell = jnp.where(action < 9, target, state.cell) if explicit else target
    taken = state.present & (state.cells == target) & collecting
    reward = jnp.sum(jnp.where(taken, task.reward, 0.0))
    ended = chance[0] < jnp.sum(jnp.where(taken, task.end, 0.0))
    present = ~taken & (state.present | (chance[1:] < task.respawn))
    return GridState(cell, state.cells, present, state.time + 1, task), reward, ended


class _Tabular(abc.ABC):
    """What the worlds share whose observation is the number of a state."""

    collect: bool

    @property
    @abc.abstractmethod
    def height(self) -> int:
        """Rows of the largest maze."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Columns of the largest maze."""

    @property
    @abc.abstractmethod
    def number(self) -> int:
        """The most objects that there can be."""

    @property
    def observation(self) -> Discrete:
        return Discrete(self.height * self.width * 2**self.number)

    @property
    def action(self) -> Discrete:
        return Discrete(18 if self.collect else 9)

    def reset(self, key: Key[Array, ""], task: GridTask) -> tuple[GridState, Int[Array, ""]]:
        state = GridState(task.start, task.cells, task.cells >= 0, jnp.int32(0), task)
        return state, self._observe(state)

    def step(self, key: Key[Array, ""], state: GridState, action: Int[Array, ""]) -> tuple:
        state, reward, ended = _collect(state, action, uniform(key, self.number + 1), self.collect)
        return state, self._observe(state), reward, ended, state.time >= state.task.cap

    def _observe(self, state: GridState) -> Int[Array, ""]:
        bits = jnp.sum(state.present * 2 ** jnp.arange(self.number), dtype=jnp.int32)
        return bits * (self.height * self.width) + state.cell

    def everywhere(self, task: GridTask) -> tuple[Int[Array, "H W"], Bool[Array, "H W"]]:
        """The state's number with the agent in each cell at an episode's beginning, and the open cells."""
        return everywhere(self, self.reset(jax.random.key(0), task)[0], task.wall)

    # -------------------------------------------------------------------------------------------------------- planning
    def first(self, task: GridTask) -> Int[Array, ""]:
        """The state in which every episode begins."""
        return self.reset(jax.random.key(0), task)[1]

    def backup(self, task: GridTask, values: Float[Array, "S"], gamma: float) -> Float[Array, "S A"]:
        """Expected reward, plus gamma times the value of the next state, of each action in each state."""
        number, size = self.number, self.height * self.width
        bits, grid, objects = jnp.arange(2**number), jnp.arange(size), jnp.arange(number)

        def returned(respawn):
            """The values before absent objects may come back: a mean over both cases, object by object."""
            mean = values
            for i in range(number):
                absent, there = jnp.moveaxis(mean.reshape(-1, 2, 2**i * size), 1, 0)
                mean = jnp.stack([absent + respawn[i] * (there - absent), there], 1)
            return mean.reshape(2**number, size)

        calm = gamma * returned(task.respawn)
        # An object that was just collected does not come back in the same step.
        after = jax.vmap(returned)(jnp.where(jnp.eye(number, dtype=bool), 0.0, task.respawn))
        without = jax.vmap(lambda i: after[i][bits & ~(1 << i)])(objects)
        gain = task.reward[:, None, None] + gamma * (1.0 - task.end)[:, None, None] * without
        there = ((bits >> objects[:, None]) & 1)[:, :, None] > 0  # [N, 2^N, 1]

        def direction(way):
            target, is_open = jax.vmap(lambda cell: move(cell, way, task.wall))(grid)
            if not self.collect:
                here = there & (grid == task.cells[:, None, None])
                arrived = jnp.where(here.any(0), jnp.sum(jnp.where(here, gain, 0.0), 0), calm)
                return (arrived[:, target],)
            near = there & (is_open & (target == task.cells[:, None]))[:, None]
            return calm[:, target], jnp.where(near.any(0), jnp.sum(jnp.where(near, gain, 0.0), 0), calm)

        of_actions = jnp.concatenate(jax.vmap(direction)(jnp.arange(9)))
        return jnp.moveaxis(of_actions, 0, -1).reshape(2**number * size, -1)


# -------------------------------------------------------------------------------------------------------------- worlds
def _objects(types: Objects) -> dict[str, Float[Array, "N"]]:
    counts = [kind[0] for kind in types]
    columns = np.repeat(np.array([kind[1:] for kind in types], np.float32), counts, axis=0).T
    return dict(zip(("reward", "end", "respawn"), map(jnp.asarray, columns), strict=True))


class _Maze:
    """What the worlds share that are given by a map."""

    maze: tuple[str, ...]
    objects: Objects
    cap: int

    @property
    def height(self) -> int:
        return len(self.maze)

    @property
    def width(self) -> int:
        return len(self.maze[0])

    @property
    def number(self) -> int:
        """How many objects there are."""
        return sum(kind[0] for kind in self.objects)

    @property
    def time_limit(self) -> int:
        return self.cap

    @property
    def _wall(self) -> Bool[np.ndarray, "H W"]:
        return np.array([[cell == "#" for cell in row] for row in self.maze])

    def _task(self, start: Int[Array, ""], cells: Int[Array, "N"]) -> GridTask:
        return GridTask(jnp.asarray(self._wall), start, cells, **_objects(self.objects), cap=jnp.int32(self.cap))


@dataclasses.dataclass(frozen=True)
class Grid(_Maze, _Tabular):
    """A tabular grid world in a given maze: where the agent starts and where objects are is drawn once per task.

    maze     rows of open cells (`.`) and walls (`#`)
    objects  types: (count, reward, P(end), P(return))
    cap      steps after which an episode is cut
    collect  walking does not collect: nine more actions do, from the cell in their direction
    task     the task's seed; -1: by lane
    """

    maze: tuple[str, ...]
    objects: Objects
    cap: int
    collect: bool = False
    task: int = -1

    def draw(self, key: Key[Array, ""]) -> GridTask:
        free = np.flatnonzero(~self._wall).astype(np.int32)
        start, *cells = jnp.asarray(free)[distinct(uniform(key, self.number + 1), len(free))]
        return self._task(start, jnp.stack(cells))


@dataclasses.dataclass(frozen=True)
class SmallGrid(_Tabular):
    """Small random tabular grids: the size, walls, objects and all their numbers are drawn per task.

    Squares of `smallest` to `largest` cells a side, up to `walls` walls (which may shut cells off), one to three
    objects with rewards U(-1, 1), the first one's positive; P(end) log-uniform in [0.01, 1], P(return) in [0.001, 0.1];
    episodes are cut after 20 to 100 steps. Tasks of all sizes have the shape of the largest.
    """

    smallest: int = 4
    largest: int = 6
    walls: int = 7
    collect: bool = False
    task: int = -1

    number = 3
    time_limit = 100

    def __post_init__(self):
        if not 1 <= self.smallest <= self.largest or not 0 <= self.walls <= self.smallest**2 - 1 - self.number:
            raise UserError(
                f"a grid of {self.smallest} to {self.largest} cells a side with {self.walls} walls: expected "
                f"1 <= smallest <= largest, and room for the walls, an agent and {self.number} objects in the smallest."
            )

    @property
    def height(self) -> int:
        return self.largest

    @property
    def width(self) -> int:
        return self.largest

    def draw(self, key: Key[Array, ""]) -> GridTask:
        places, sizes, numbers = jax.random.split(key, 3)
        low = jnp.array([self.smallest, 0, 1, 20])
        size, walls, objects, cap = jax.random.randint(
            sizes, (4,), low, jnp.array([self.largest, self.walls, 3, 100]) + 1
        )
        number, total = self.number, self.largest**2
        where = distinct(uniform(places, 1 + number + self.walls), size**2)
        where = where // size * self.largest + where % size
        start, cells, blocks = where[0], where[1 : 1 + number], where[1 + number :]
        outside = jnp.arange(self.largest) >= size
        blocks = jnp.where(jnp.arange(self.walls) < walls, blocks, -1)
        wall = outside | outside[:, None] | (jnp.arange(total)[:, None] == blocks).any(-1).reshape(-1, self.largest)
        u = jax.random.uniform(numbers, (3, number))
        reward = jnp.where(jnp.arange(number) == 0, u[0], 2.0 * u[0] - 1.0)
        there = jnp.arange(number) < objects
        return GridTask(
            wall=wall,
            start=start,
            cells=jnp.where(there, cells, -1),
            reward=reward,
            end=0.01 ** (1.0 - u[1]),
            respawn=jnp.where(there, 0.1 * 0.01 ** (1.0 - u[2]), 0.0),
            cap=cap,
        )


@dataclasses.dataclass(frozen=True)
class RandomGrid(_Maze):
    """A grid world whose objects are put in free cells, drawn anew at every episode's start and at every return.

    The agent's start is drawn once per task. The observation is a plane for the agent and one for each type of object:
    there are too many states for a table. Fields as in `Grid`.
    """

    maze: tuple[str, ...]
    objects: Objects
    cap: int
    collect: bool = False
    task: int = -1

    @property
    def observation(self) -> Box:
        return Box((self.height, self.width, 1 + len(self.objects)), "uint8", 0.0, 1.0)

    @property
    def action(self) -> Discrete:
        return Discrete(18 if self.collect else 9)

    def draw(self, key: Key[Array, ""]) -> GridTask:
        free = np.flatnonzero(~self._wall).astype(np.int32)
        return self._task(jax.random.choice(key, jnp.asarray(free)), jnp.full(self.number, -1, jnp.int32))

    def reset(self, key: Key[Array, ""], task: GridTask) -> tuple[GridState, UInt8[Array, "H W C"]]:
        present = jnp.ones(self.number, bool)
        state = GridState(task.start, task.cells, ~present, jnp.int32(0), task)
        state = state.replace(cells=self._places(state, uniform(key, self.number), present), present=present)
        return state, self._observe(state)

    def step(self, key: Key[Array, ""], state: GridState, action: Int[Array, ""]) -> tuple:
        chance = uniform(key, self.number + 1)
        after, reward, ended = _collect(state, action, chance, self.collect)
        back = after.present & ~state.present
        # That an object comes back says of its number only that it is below P(return): it also serves for the place.
        where = chance[1:] / jnp.maximum(state.task.respawn, 1e-9)
        places = self._places(after.replace(present=after.present & ~back), where, back)
        after = after.replace(cells=jnp.where(back, places, state.cells))
        return after, self._observe(after), reward, ended, after.time >= after.task.cap

    def everywhere(self, task: GridTask) -> tuple[UInt8[Array, "H W H W C"], Bool[Array, "H W"]]:
        """What is seen with the agent in each cell at the beginning of one episode, and the open cells."""
        return everywhere(self, self.reset(jax.random.key(0), task)[0], task.wall)

    def _places(self, state: GridState, chance: Float[Array, "N"], new: Bool[Array, "N"]) -> Int[Array, "N"]:
        """A free cell for each of the `new` objects: all different, as likely as any others."""
        walls = np.flatnonzero(self._wall).astype(np.int32)
        taken = jnp.where(state.present, state.cells, -1)
        agent = jnp.where((taken == state.cell).any(), -1, state.cell)  # it may stand where an object is
        occupied = jnp.concatenate([agent[None], taken, jnp.asarray(walls)])
        free = self.height * self.width - jnp.sum(occupied >= 0, dtype=jnp.int32)
        return vacant(distinct(chance, free, new), occupied)

    def _observe(self, state: GridState) -> UInt8[Array, "H W C"]:
        shown = jnp.append(jnp.where(state.present, state.cells, -1), state.cell)
        plane = np.append(np.repeat(1 + np.arange(len(self.objects)), [kind[0] for kind in self.objects]), 0)
        return planes(shown, plane, self.observation.shape)
