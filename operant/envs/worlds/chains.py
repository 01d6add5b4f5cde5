"""Delayed chains: the first action is paid for at the end (Oh et al. 2020, arXiv:2007.08794, appendix)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from operant.errors import UserError
from operant.types import Box, Discrete, PyTree, struct


@struct
class ChainTask:
    """Which first action is good (0 or 1), and the steps of an episode."""

    good: Int[Array, ""]
    length: Int[Array, ""]


@struct
class ChainState:
    """What is good in this episode, the branch that was taken, and the steps since."""

    good: Int[Array, ""]
    branch: Int[Array, ""]
    time: Int[Array, ""]
    task: ChainTask


@dataclasses.dataclass(frozen=True)
class Chain:
    """The first of two actions picks a branch; at the end the good branch pays 1, the other -1. The rest is waiting.

    The length, uniform from `shortest` to `longest`, and the good branch are drawn once per task. The observation is
    the number of a place: the start, or branch and depth.

    noisy        every step before the last pays 1 or -1, by chance
    redraw       the good branch is drawn anew for every episode, and there are two starts that tell which it is
    distractors  with these the observation is bits: which action is good, whether it was taken (0 at the start), and
                 this many random ones, new at each step
    task         the task's seed; -1: by lane
    """

    shortest: int = 5
    longest: int = 30
    noisy: bool = False
    redraw: bool = False
    distractors: int = 0
    task: int = -1

    action = Discrete(2)
    time_limit = None
    optimal_return = 1.0
    random_return = 0.0

    def __post_init__(self):
        if not 0 <= self.distractors <= 30:
            raise UserError(f"distractors is {self.distractors}, expected a number from 0 to 30.")
        if not 1 <= self.shortest <= self.longest:
            raise UserError(f"a chain of {self.shortest} to {self.longest} steps: expected 1 <= shortest <= longest.")

    @property
    def observation(self) -> Discrete | Box:
        if self.distractors:
            return Box((2 + self.distractors,), low=0.0, high=1.0)
        return Discrete(self._starts + 2 * self.longest)

    @property
    def _starts(self) -> int:
        return 2 if self.redraw else 1

    def draw(self, key: Key[Array, ""]) -> ChainTask:
        good, length = jax.random.split(key)
        return ChainTask(
            jax.random.bernoulli(good).astype(jnp.int32),
            jax.random.randint(length, (), self.shortest, self.longest + 1),
        )

    def reset(self, key: Key[Array, ""], task: ChainTask) -> tuple[ChainState, PyTree]:
        bits = jax.random.bits(key, (), jnp.uint32)
        good = (bits >> 31).astype(jnp.int32) if self.redraw else task.good
        state = ChainState(good, jnp.int32(0), jnp.int32(0), task)
        return state, self._observe(state, bits)

    def step(self, key: Key[Array, ""], state: ChainState, action: Int[Array, ""]) -> tuple:
        bits = jax.random.bits(key, (), jnp.uint32)
        branch = jnp.where(state.time == 0, action, state.branch)
        state = ChainState(state.good, branch, state.time + 1, state.task)
        ends = state.time >= state.task.length
        noise = 2.0 * (bits >> 31) - 1.0 if self.noisy else 0.0
        reward = jnp.where(ends, jnp.where(branch == state.good, 1.0, -1.0), noise)
        return state, self._observe(state, bits), reward, ends, False

    def _observe(self, state: ChainState, bits: Int[Array, ""]) -> PyTree:
        begun = state.time > 0
        if not self.distractors:
            start = state.good if self.redraw else 0
            return jnp.where(begun, self._starts + state.branch * self.longest + state.time - 1, start)
        random = (bits >> jnp.arange(self.distractors, dtype=jnp.uint32)) & 1
        informative = jnp.stack([state.good, begun & (state.branch == state.good)])
        return jnp.concatenate([informative.astype(jnp.float32), random.astype(jnp.float32)])
