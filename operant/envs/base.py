"""The contract of an environment, and the adapter that makes it out of a functional world.

Time: *next-step auto-reset*. After a timestep with `last`, the next step ignores its action and returns the first
observation of the next episode (`first`, reward 0, discount 1).  Both functions are called inside `jit` and
`lax.scan`, never under `vmap`: environments are a batch already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from operant.envs.options import positive
from operant.envs.planning import optimal_return
from operant.errors import UserError
from operant.types import Box, Dict, Discrete, MultiDiscrete, PyTree, Space, Spec, Timestep, struct, to_native, zeros


@runtime_checkable
class Environment(Protocol):
    """A batch of `num_envs` environments: final, static and hashable.

    spec      what agents may know: spaces, time limit, masks, name
    host      True if the state lives in another library's memory: it cannot be copied, checkpointed or vmapped

    `reset(keys)` begins new episodes. Functional environments take all their randomness from `keys`, one for each
    environment. Host environments were seeded when they were made, and go on with their own generators.
    An environment whose attribute `tasks` is true also takes `reset(keys, task_keys)`, one key for the task of each.
    Optional: `everywhere(task_key) -> (observation [H, W, ...], open [H, W]) | None`, as in `World`,
    `best_return(task_key) -> float | None`, the best expected return of an episode, and
    `remake(num_envs, seeds) -> Environment`, another one like it, of any width, whose episodes are its own. One around
    another library's environments has `native`, how that library puts observations and actions.
    """

    spec: Spec
    num_envs: int
    host: bool

    def reset(self, keys: Key[Array, "B"]) -> tuple[PyTree, Timestep]: ...

    def step(self, env_state: PyTree, action: PyTree) -> tuple[PyTree, Timestep]: ...

    def close(self) -> None: ...


@struct
class Host:
    """The state of a host environment as `jit` sees it. Never checkpoint a Host: it means nothing to another process.

    handle  an opaque array, passed from call to call, so that no call is reordered, merged or dropped
    memory  what the adapter carries from step to step
    """

    handle: Array
    memory: PyTree = ()


@dataclasses.dataclass(frozen=True)
class Native:
    """Observations and actions as the library behind an environment has them, where an agent sees others.

    example  one observation of that library: arrays, in dictionaries and tuples; None where agents are shown more than
             one observation, and no conversion of one gives what they see
    observe  that library's observations [B, ...] -> the agent's
    act      actions [B, ...], in the units of `spec.action` (`to_native`) -> that library's
    """

    example: PyTree
    observe: Callable[[Any], PyTree]
    act: Callable[[Any], Any]


class World(Protocol):
    """One functional environment: what a user writes to have an environment of their own in JAX.

    observation, action  spaces of `operant.types`
    time_limit           steps until the episode is cut (the MDP goes on: discount stays 1), or None

    `step` returns (state, observation, reward, terminated, truncated); the action comes in the units of `action`.
    Optional: `action_mask(state)`, True for the actions that are allowed now; `optimal_return` and `random_return`,
    the expected return of the best and of the uniformly random policy. A world on a map has `everywhere(*task)`:
    what is seen at an episode's beginning with the agent in each of H x W cells, [H, W, ...], and which of them are
    open; what was learned is then drawn as a map. A world should be a frozen dataclass: equal worlds then share
    compilations.

    Optional as well: `score(state, action)`, what a step is worth in reports, where that is not its reward (a
    prediction's error); and `again(key, state) -> state, observation`, which begins the next episode from the state in
    which the last one ended, so that something can change with time; without it that is `reset`.

    A world of many *tasks* (mazes, rewards, probabilities) has `draw(key) -> task`, a pytree of fixed shape, and its
    `reset(key, task)` begins the first episode of a life in that task; the next one is begun by `again`, or by
    `reset(key, state.task)`. The environments of one lane live in one task. An int
    `task` of at least 0 is the seed of the task that all lanes get; -1 leaves it to each lane's seed.
    """

    observation: Space
    action: Space
    time_limit: int | None

    def reset(self, key: Key[Array, ""]) -> tuple[PyTree, PyTree]: ...

    def step(self, key: Key[Array, ""], state: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Any, Any, Any]: ...


@struct
class WorldState:
    """State of `Batched`: [B] worlds, their base keys, steps since reset, steps in this episode, episode over."""

    world: PyTree
    key: Key[Array, "B"]
    count: Int[Array, "B"]
    elapsed: Int[Array, "B"]
    over: Bool[Array, "B"]


@dataclasses.dataclass(frozen=True)
class Batched:
    """`num_envs` copies of a functional world, with next-step auto-reset."""

    world: Any
    spec: Spec

    host = False

    @property
    def num_envs(self) -> int:
        return self.spec.num_envs

    @property
    def tasks(self) -> bool:
        """Whether the world draws tasks."""
        return callable(getattr(self.world, "draw", None))

    def reset(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None = None) -> tuple[WorldState, Timestep]:
        """Begin an episode in each environment. All randomness until the next `reset` comes from `keys`.

        task_keys  what the tasks are drawn with, where the world has tasks; equal keys are equal tasks. Without them
                   each environment draws a task of its own.
        """
        check_keys(keys, self.num_envs)
        nothing = jnp.zeros(self.num_envs, jnp.int32)
        tasks = (jax.vmap(self.world.draw)(self._task_keys(keys, task_keys)),) if self.tasks else ()
        world, observation = jax.vmap(self.world.reset)(_keys(keys, nothing, 1), *tasks)
        state = WorldState(world=world, key=keys, count=nothing, elapsed=nothing, over=nothing > 0)
        observation = conform(observation, self.spec.observation)
        return state, first_timestep(self.spec, observation, self._mask(world))

    def step(self, state: WorldState, action: PyTree) -> tuple[WorldState, Timestep]:
        """One step of each environment, or the first observation of its next episode."""
        over, count = state.over, state.count + 1
        action = conform(action, self.spec.action, "action")
        # The keys are derived, not split and carried: for a deterministic world XLA drops the derivation altogether.
        stepped, observation, reward, terminated, truncated = jax.vmap(self.world.step)(
            _keys(state.key, count, 0), state.world, to_native(action, self.spec.action)
        )
        observation = conform(observation, self.spec.observation)

        def renew():
            world, fresh = jax.vmap(self._again)(_keys(state.key, count, 1), state.world)
            return select(over, (world, conform(fresh, self.spec.observation)), (stepped, observation))

        # A real branch, since nothing here is under vmap: no reset is computed while no episode has ended.
        world, observation = jax.lax.cond(jnp.any(over), renew, lambda: (stepped, observation))
        elapsed = jnp.where(over, 0, state.elapsed + 1)
        live = ~over
        score = reward
        if hasattr(self.world, "score"):
            score = jax.vmap(self.world.score)(state.world, to_native(action, self.spec.action))
        terminated = jnp.asarray(terminated, bool) & live
        truncated = jnp.asarray(truncated, bool) & live
        if self.spec.time_limit is not None:
            truncated = truncated | (elapsed >= self.spec.time_limit)
        last = terminated | truncated
        reward = jnp.where(live, jnp.asarray(reward, jnp.float32), 0.0)
        timestep = Timestep(
            observation=observation,
            reward=reward,
            discount=1.0 - terminated.astype(jnp.float32),
            first=over,
            last=last,
            score=jnp.where(live, jnp.asarray(score, jnp.float32), 0.0),
            previous_action=clear(over, action),
            action_mask=self._mask(world),
            env_index=jnp.arange(self.num_envs, dtype=jnp.int32),
        )
        return WorldState(world=world, key=state.key, count=count, elapsed=elapsed, over=last), timestep

    def _again(self, key: Key[Array, ""], world: PyTree) -> tuple[PyTree, PyTree]:
        """The next episode of the life that `world` is in."""
        if hasattr(self.world, "again"):
            return self.world.again(key, world)
        return self.world.reset(key, world.task) if self.tasks else self.world.reset(key)

    def everywhere(self, task_key: Key[Array, ""]) -> tuple[PyTree, Bool[Array, "H W"]] | None:
        """What is seen from each cell of the map, [H, W, ...], and which are open; None for a world without a map."""
        if not hasattr(self.world, "everywhere"):
            return None
        task = (self._task(task_key),) if self.tasks else ()
        observation, is_open = self.world.everywhere(*task)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), observation)
        flat = conform(flat, self.spec.observation)
        return jax.tree.map(lambda x: x.reshape(*is_open.shape, *x.shape[1:]), flat), is_open

    def best_return(self, task_key: Key[Array, ""]) -> Float[Array, ""] | None:
        """The best expected return of an episode in the task of this key; None where that is not known."""
        if self.spec.time_limit != self.world.time_limit:  # it is another than in episodes of the world's own length
            return None
        if hasattr(self.world, "optimal_return"):
            return jnp.float32(self.world.optimal_return)
        return optimal_return(self.world, self._task(task_key)) if hasattr(self.world, "backup") else None

    def _task(self, task_key: Key[Array, ""]) -> PyTree:
        """The task of this key, or the one that all lanes are given."""
        fixed = getattr(self.world, "task", -1)
        return self.world.draw(jax.random.key(fixed) if fixed >= 0 else task_key)

    def _task_keys(self, keys: Key[Array, "B"], task_keys: Key[Array, "B"] | None) -> Key[Array, "B"]:
        if getattr(self.world, "task", -1) >= 0:
            return jnp.broadcast_to(jax.random.key(self.world.task), keys.shape)
        if task_keys is None:
            return _keys(keys, jnp.zeros(self.num_envs, jnp.int32), 0)  # a number that no step has
        check_keys(task_keys, self.num_envs)
        return task_keys

    def _mask(self, world: PyTree) -> PyTree:
        return jax.vmap(self.world.action_mask)(world) if self.spec.action_mask else None

    def remake(self, num_envs: int, seeds: list[int]) -> Batched:
        return dataclasses.replace(self, spec=self.spec.replace(num_envs=num_envs))

    def close(self) -> None:
        """Nothing to release."""


def batched(world: World, num_envs: int, *, name: str = "", time_limit: int | None = None) -> Batched:
    """`num_envs` copies of `world`; `time_limit` replaces the world's own where given.

    A world that truncates by a clock of its own is never cut later than that clock says.
    """
    task = getattr(world, "task", -1)
    if callable(getattr(world, "draw", None)) and (isinstance(task, bool) or not isinstance(task, int) or task < -1):
        raise UserError(f"task is {task!r}, expected the seed of a task, a whole number, or -1: by lane.")
    limit = getattr(world, "time_limit", None) if time_limit is None else positive("time_limit", time_limit)
    return Batched(
        world,
        Spec(
            observation=world.observation,
            action=world.action,
            num_envs=positive("num_envs", num_envs),
            time_limit=limit,
            action_mask=callable(getattr(world, "action_mask", None)),
            name=name or type(world).__name__,
        ),
    )


# ------------------------------------------------------------------------------------------------ parts for adapters
def remake(env: Environment, num_envs: int, seeds: list[int]) -> Environment:
    """An environment like `env`, and never the same simulators; UserError if there is no way to make one."""
    if hasattr(env, "remake"):
        return env.remake(num_envs, seeds)
    if env.host or env.num_envs != num_envs:
        raise UserError(
            f"{env.spec.name} was made with num_envs={env.num_envs}, and has no `remake` to make another one with "
            f"{num_envs}: hand over a callable (num_envs, seeds) that returns one."
        )
    return env


def allowed(mask: Any, space: Space, whose: str) -> np.ndarray:
    """One mask over actions as flags [A], the choices of all parts side by side; UserError if it has another shape.

    mask  such flags, or one row of them for each part: an array [parts, n], or a tuple or list of [n_i]
    """
    if not isinstance(space, (Discrete, MultiDiscrete)):
        raise UserError(f"{whose} has an action mask, but its actions are {describe(space)}: only choices are masked.")
    sizes = (space.n,) if isinstance(space, Discrete) else space.nvec
    rows = tuple((n,) for n in sizes)
    shape: Any
    if isinstance(mask, (tuple, list)) and any(np.ndim(part) for part in mask):
        shape = tuple(np.shape(part) for part in mask)
        if shape == rows:
            return np.concatenate([np.asarray(part, bool) for part in mask])
    else:
        mask = np.asarray(mask)
        shape = mask.shape
        alike = len(set(sizes)) == 1 and shape[-1:] == rows[0] and mask.size == sum(sizes)
        if shape == (sum(sizes),) or alike:
            return mask.astype(bool).ravel()
    parts = f" or a row for each part, of {', '.join(map(str, sizes))}" if len(sizes) > 1 else ""
    raise UserError(f"{whose} has an action mask of shape {shape}; expected {sum(sizes)} flags{parts}.")


def check_keys(keys: Array, num_envs: int) -> None:
    """Raise UserError unless `keys` holds one JAX key for each environment."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != (num_envs,):
        raise UserError(
            f"reset expects one key for each environment, jax.random.split(key, {num_envs}); "
            f"got {keys.dtype}{keys.shape}."
        )


def first_timestep(spec: Spec, observation: PyTree, action_mask: PyTree = None) -> Timestep:
    """The timestep [B] that begins an episode in every environment."""
    shape = (spec.num_envs,)
    return Timestep(
        observation=observation,
        reward=jnp.zeros(shape, jnp.float32),
        discount=jnp.ones(shape, jnp.float32),
        first=jnp.ones(shape, bool),
        last=jnp.zeros(shape, bool),
        score=jnp.zeros(shape, jnp.float32),
        previous_action=zeros(spec.action, shape),
        action_mask=action_mask,
        env_index=jnp.arange(spec.num_envs, dtype=jnp.int32),
    )


def select(where: Bool[Array, "B"], yes: PyTree, no: PyTree) -> PyTree:
    """Per environment: `yes` where `where` holds, else `no`. Leaves [B, ...]; keeps the dtypes of `no`."""

    def pick(a, b):
        if a is b:  # such as the task that a life is spent in: not copied at each step
            return b
        a = jnp.asarray(a).astype(b.dtype) if not jnp.issubdtype(b.dtype, jax.dtypes.prng_key) else a
        return jnp.where(where.reshape(where.shape + (1,) * (b.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)


def clear(where: Bool[Array, "B"], tree: PyTree) -> PyTree:
    """`tree` [B, ...] with zeros where `where` holds."""
    return select(where, jax.tree.map(jnp.zeros_like, tree), tree)


def conform(tree: PyTree, space: Space, what: str = "observation") -> PyTree:
    """`tree` in the exact dtype of `space`; a shape other than [B, *space.shape] is an error."""
    if isinstance(space, Dict):
        return {name: conform(tree[name], sub, what) for name, sub in space.items}
    tree = jnp.asarray(tree)
    if tree.shape[1:] != tuple(space.shape):
        raise UserError(f"the {what} has the shape {tree.shape[1:]} after the batch, expected {tuple(space.shape)}.")
    return tree.astype(space.dtype)


def channels_first(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether bytes of this shape are an image with its channels in front: [C, H, W] with C below H and W."""
    return np.dtype(dtype) == np.uint8 and len(shape) == 3 and shape[0] < min(shape[1:])


def describe(space: Space) -> str:
    """A space in a few characters: `Discrete(4)`, `float32[3] in [-2, 2]`, `{position: float32[4], ...}`."""
    if isinstance(space, Discrete):
        return f"Discrete({space.n})"
    if isinstance(space, MultiDiscrete):
        same = len(set(space.nvec)) == 1 and len(space.nvec) > 3
        return f"MultiDiscrete({space.nvec[0]} x {len(space.nvec)})" if same else f"MultiDiscrete{space.nvec}"
    if isinstance(space, Dict):
        return "{" + ", ".join(f"{name}: {describe(sub)}" for name, sub in space.items) + "}"
    text = f"{space.dtype}[{','.join(map(str, space.shape))}]"
    usual = space.dtype == "uint8" and np.ndim(space.high) == 0 and space.high == 255  # brightness
    if space.bounded and not usual and np.ndim(space.low) == 0 and np.ndim(space.high) == 0:
        text += f" in [{space.low:g}, {space.high:g}]"
    return text


def box(shape: tuple[int, ...], dtype: str, low: Any, high: Any) -> Box:
    """A Box with its bounds in their shortest form. Bounds at the limits of a float type mean that there are none."""
    low, high = (np.asarray(x, np.float64).ravel() for x in (low, high))
    none = [float(np.finfo(t).max) * 0.99 for t in (np.float32, np.float64)]
    low = np.where(low <= -none[0], -np.inf, low)
    high = np.where(high >= none[0], np.inf, high)

    def short(x):
        return float(x[0]) if np.all(x == x[0]) else tuple(float(v) for v in np.broadcast_to(x, (int(np.prod(shape)),)))

    return Box(shape=tuple(int(n) for n in shape), dtype=dtype, low=short(low), high=short(high))


def _keys(keys: Key[Array, "B"], count: Int[Array, "B"], stream: int) -> Key[Array, "B"]:
    # Two interleaved streams: even numbers are the keys of steps, odd ones of resets.
    return jax.vmap(jax.random.fold_in)(keys, 2 * count.astype(jnp.uint32) + stream)
