"""Small additions to any `Environment`. Each is an environment itself, and keeps the auto-reset convention."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from operant.envs.base import Environment, Native, clear, conform, describe, remake, select
from operant.envs.options import flag, number, positive, repeats
from operant.errors import UserError
from operant.types import Box, Dict, Discrete, MultiDiscrete, PyTree, Space, Spec, Timestep, struct

OPTIONS = ("frame_stack", "live_bonus", "previous_action_reward", "reward_clip", "reward_delay", "sticky")
"""What `make` accepts for every environment, beside the options of its adapter."""


def wrap(
    env: Environment,
    frame_stack: int = 1,
    reward_clip: bool = False,
    sticky: float = 0.0,
    previous_action_reward: bool = False,
    reward_delay: int = 1,
    live_bonus: float = 0.0,
) -> Environment:
    """`env` with the wrappers that the options ask for.

    frame_stack             the last n observations, joined along the last axis
    reward_clip             `reward` clipped to [-1, 1]; `score` stays what the environment said
    sticky                  the probability with which the previous action is repeated instead of the new one
    previous_action_reward  the observation also holds the previous action and reward
    reward_delay            rewards are summed, and paid every n steps and at the end of an episode
    live_bonus              what every step pays besides
    """
    for what, space in (("observations", env.spec.observation), ("actions", env.spec.action)):
        if (
            isinstance(space, (Discrete, MultiDiscrete))
            and min(space.nvec if isinstance(space, MultiDiscrete) else (space.n,)) < 1
        ):
            raise UserError(f"{env.spec.name} has no {what} with these options: {describe(space)}.")
    if sticky != 0:
        env = StickyActions(env, sticky)
    if flag("reward_clip", reward_clip):
        env = ClipReward(env)
    if positive("reward_delay", reward_delay) > 1:
        env = DelayReward(env, reward_delay)
    if live_bonus != 0:
        env = LiveBonus(env, live_bonus)
    if positive("frame_stack", frame_stack) > 1:
        env = FrameStack(env, frame_stack)
    if flag("previous_action_reward", previous_action_reward):
        env = PreviousActionReward(env)
    return env


@struct
class Wrapped:
    """A wrapper's state around the state of the environment within. It may hold a `Host`."""

    inner: PyTree
    memory: PyTree


class _Around:
    """What every wrapper passes on."""

    env: Environment

    @property
    def spec(self) -> Spec:
        return self.env.spec

    @property
    def num_envs(self) -> int:
        return self.env.num_envs

    @property
    def host(self) -> bool:
        return self.env.host

    @property
    def tasks(self) -> bool:
        return getattr(self.env, "tasks", False)

    @property
    def native(self) -> Native | None:
        return getattr(self.env, "native", None)

    def _begin(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None) -> tuple[PyTree, Timestep]:
        env: Any = self.env  # only one with tasks takes their keys
        return env.reset(keys) if task_keys is None else env.reset(keys, task_keys)

    def everywhere(self, task_key: Key[Array, ""]) -> tuple[PyTree, Bool[Array, "H W"]] | None:
        """The map of the environment within, if it has one."""
        env: Any = self.env
        return env.everywhere(task_key) if hasattr(env, "everywhere") else None

    def best_return(self, task_key: Key[Array, ""]) -> Float[Array, ""] | None:
        """That of the environment within, if it is known."""
        env: Any = self.env
        return env.best_return(task_key) if hasattr(env, "best_return") else None

    def remake(self, num_envs: int, seeds: list[int]) -> Environment:
        around: Any = self  # every wrapper is a dataclass
        return dataclasses.replace(around, env=remake(self.env, num_envs, seeds))

    def close(self) -> None:
        self.env.close()


@dataclasses.dataclass(frozen=True)
class FrameStack(_Around):
    """The last `n` observations joined along the last axis, oldest first; at a first step, n times the same one."""

    env: Environment
    n: int = 4

    @property
    def spec(self) -> Spec:
        return self.env.spec.replace(observation=self._stacked(self.env.spec.observation))

    def _stacked(self, space: Space) -> Space:
        if isinstance(space, Dict):
            return Dict(tuple((name, self._stacked(sub)) for name, sub in space.items))
        if not isinstance(space, Box) or not space.shape:
            raise UserError(f"{self.env.spec.name} has observations that cannot be stacked: {space}.")

        def repeat(bound):
            if np.ndim(bound) == 0:
                return bound
            return tuple(float(b) for b in np.tile(np.reshape(bound, space.shape), self.n).ravel())

        shape = (*space.shape[:-1], space.shape[-1] * self.n)
        # of frames that are stacks themselves a memory could not keep the newest alone
        stack = self.n if space.stack == 1 else 1
        return Box(shape, space.dtype, repeat(space.low), repeat(space.high), stack)

    @property
    def native(self) -> Native | None:
        inner = super().native
        return inner and dataclasses.replace(inner, example=None)

    def _refill(self, observation: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.concatenate([x] * self.n, -1), observation)

    def everywhere(self, task_key: Key[Array, ""]) -> tuple[PyTree, Bool[Array, "H W"]] | None:
        seen = super().everywhere(task_key)
        return seen and (self._refill(seen[0]), seen[1])

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[Wrapped, Timestep]:
        inner, timestep = self._begin(keys, task_keys)
        stack = self._refill(timestep.observation)
        return Wrapped(inner, stack), timestep.replace(observation=stack)

    def step(self, state: Wrapped, action: PyTree) -> tuple[Wrapped, Timestep]:
        inner, timestep = self.env.step(state.inner, action)
        push = lambda old, new: jnp.concatenate([old[..., new.shape[-1] :], new], -1)  # noqa: E731
        pushed = jax.tree.map(push, state.memory, timestep.observation)
        stack = select(timestep.first, self._refill(timestep.observation), pushed)
        return Wrapped(inner, stack), timestep.replace(observation=stack)


@dataclasses.dataclass(frozen=True)
class ClipReward(_Around):
    """`reward` clipped to [-1, 1], for learning. `score` is untouched: returns that are reported sum it."""

    env: Environment

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[PyTree, Timestep]:
        return self._begin(keys, task_keys)

    def step(self, state: PyTree, action: PyTree) -> tuple[PyTree, Timestep]:
        state, timestep = self.env.step(state, action)
        return state, timestep.replace(reward=timestep.reward.clip(-1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class DelayReward(_Around):
    """`reward` summed, and paid every `every` steps of an episode and where it ends, a time limit included.

    `score` is untouched (Zheng et al. 2018 delay the rewards of MuJoCo so).
    """

    env: Environment
    every: int = 20

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[Wrapped, Timestep]:
        inner, timestep = self._begin(keys, task_keys)
        return Wrapped(inner, (jnp.zeros_like(timestep.reward), jnp.zeros(self.num_envs, jnp.int32))), timestep

    def step(self, state: Wrapped, action: PyTree) -> tuple[Wrapped, Timestep]:
        owed, elapsed = state.memory
        inner, timestep = self.env.step(state.inner, action)
        owed = jnp.where(timestep.first, 0.0, owed) + timestep.reward
        elapsed = jnp.where(timestep.first, 0, elapsed + 1)
        due = (elapsed % self.every == 0) | timestep.last
        paid, owed = jnp.where(due, owed, 0.0), jnp.where(due, 0.0, owed)
        return Wrapped(inner, (owed, elapsed)), timestep.replace(reward=paid)


@dataclasses.dataclass(frozen=True)
class LiveBonus(_Around):
    """`bonus` added to the `reward` of every step of an episode: what staying alive is worth. `score` is untouched."""

    env: Environment
    bonus: float

    def __post_init__(self):
        number("live_bonus", self.bonus)

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[PyTree, Timestep]:
        return self._begin(keys, task_keys)

    def step(self, state: PyTree, action: PyTree) -> tuple[PyTree, Timestep]:
        state, timestep = self.env.step(state, action)
        return state, timestep.replace(reward=timestep.reward + jnp.where(timestep.first, 0.0, self.bonus))


@dataclasses.dataclass(frozen=True)
class StickyActions(_Around):
    """With `probability`, the action that was executed last is executed again (Machado et al. 2018, section 5.2).

    Never across an episode's start. The timestep's `previous_action` is the agent's own choice, as it is where an
    emulator does the repeating.
    """

    env: Environment
    probability: float = 0.25

    def __post_init__(self):
        repeats("sticky", self.probability)
        if self.env.spec.action_mask:
            raise UserError(f"sticky actions could repeat a forbidden action: {self.env.spec.name} has action masks.")

    def best_return(self, task_key: Key[Array, ""]) -> None:
        """None: it is another than without repeats."""
        return None

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[Wrapped, Timestep]:
        inner, timestep = self._begin(keys, task_keys)
        count = jnp.zeros(self.num_envs, jnp.uint32)
        return Wrapped(inner, (keys, count, timestep.previous_action, timestep.first)), timestep

    def step(self, state: Wrapped, action: PyTree) -> tuple[Wrapped, Timestep]:
        keys, count, executed, fresh = state.memory
        action = conform(action, self.spec.action, "action")
        draw = jax.vmap(lambda key, n: jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, 0x57), n)))
        chosen = select((draw(keys, count) < self.probability) & ~fresh, executed, action)
        inner, timestep = self.env.step(state.inner, chosen)
        memory = (keys, count + 1, chosen, timestep.first)
        return Wrapped(inner, memory), timestep.replace(previous_action=clear(timestep.first, action))


@struct
class Clock:
    """Keys [B], resets so far, steps in this episode, and whether this wrapper ended it."""

    key: Key[Array, "B"]
    count: Int[Array, "B"]
    elapsed: Int[Array, "B"]
    cut: Bool[Array, "B"]


@dataclasses.dataclass(frozen=True)
class TimeLimit(_Around):
    """Episodes are cut after `limit` steps; the MDP goes on, so the discount stays 1.

    `make(..., time_limit=)` is the usual way, and cheaper. This wrapper is for functional environments that came as
    finished objects; the state of the inner one must have the environments as the first axis of every leaf.
    """

    env: Environment
    limit: int

    def __post_init__(self):
        positive("time_limit", self.limit)
        if self.env.host or self.tasks:  # a reset would begin another life
            raise UserError(f"{self.env.spec.name} cannot be reset from outside: make it with time_limit= instead.")

    def best_return(self, task_key: Key[Array, ""]) -> None:
        """None: it is another than in longer episodes."""
        return None

    @property
    def spec(self) -> Spec:
        inner = self.env.spec.time_limit
        return self.env.spec.replace(time_limit=self.limit if inner is None else min(inner, self.limit))

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[Wrapped, Timestep]:
        inner, timestep = self._begin(keys, task_keys)
        zero = jnp.zeros(self.num_envs, jnp.int32)
        return Wrapped(inner, Clock(keys, zero, zero, zero > 0)), timestep

    def step(self, state: Wrapped, action: PyTree) -> tuple[Wrapped, Timestep]:
        clock = state.memory
        inner, timestep = self.env.step(state.inner, action)
        count = clock.count + clock.cut

        def renew():
            keys = jax.vmap(lambda key, n: jax.random.fold_in(jax.random.fold_in(key, 0x71), n))(clock.key, count)
            return select(clock.cut, self.env.reset(keys), (inner, timestep))

        inner, timestep = jax.lax.cond(jnp.any(clock.cut), renew, lambda: (inner, timestep))
        elapsed = jnp.where(timestep.first, 0, clock.elapsed + 1)
        cut = (elapsed >= self.limit) & ~timestep.last
        return Wrapped(inner, Clock(clock.key, count, elapsed, cut)), timestep.replace(last=timestep.last | cut)


@dataclasses.dataclass(frozen=True)
class PreviousActionReward(_Around):
    """The observation is a dictionary: observation, previous_action and previous_reward (zeros at a first step).

    Agents that learn to learn across episodes need both (Duan et al. 2016, RL^2; Wang et al. 2016).
    """

    env: Environment

    @property
    def spec(self) -> Spec:
        spec = self.env.spec
        items = (("observation", spec.observation), ("previous_action", spec.action), ("previous_reward", Box(())))
        return spec.replace(observation=Dict(items))

    @property
    def native(self) -> Native | None:
        inner = super().native
        return inner and dataclasses.replace(inner, example=None)

    def everywhere(self, task_key: Key[Array, ""]) -> None:
        """None: a cell alone does not say with what action and reward it was arrived at."""
        return None

    def _observe(self, timestep: Timestep) -> Timestep:
        observation: dict[str, Any] = {
            "observation": timestep.observation,
            "previous_action": timestep.previous_action,
            "previous_reward": timestep.reward,
        }
        return timestep.replace(observation=observation)

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[PyTree, Timestep]:
        state, timestep = self._begin(keys, task_keys)
        return state, self._observe(timestep)

    def step(self, state: PyTree, action: PyTree) -> tuple[PyTree, Timestep]:
        state, timestep = self.env.step(state, action)
        return state, self._observe(timestep)
