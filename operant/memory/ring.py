"""The storage under every memory: the last rows of experience of B environments, each row kept once.

Rows are written by whole rollouts and never moved: row t of an environment is followed by row t+1, so an observation
serves as the end of one transition and the start of the next, and frames that an observation stacks are kept once.
The ring is only written by `add`; what changes while an agent learns is the memory's `index`, so that a loop of
updates never carries the rows.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from operant.errors import UserError
from operant.types import Batch, Box, Dict, PyTree, Space, Spec, struct, transitions


@struct(static=("rollout",))
class Stored:
    """A memory's contents: N rows of B environments, of which those of the last `written` are there.

    rows      a `Batch` of leaves [N, B, ...]; of stacked frames the newest only
    carries   recurrent states [N/T, B, ...] before each rollout's first row; () unless the memory keeps sequences
    index     what is known of the rows for sampling (priorities); () where they are drawn evenly
    written   rows ever written to each environment's column, the same in all lanes: it has no lane axis
    rollout   T, the rows of a rollout
    """

    rows: Batch
    carries: PyTree
    index: PyTree
    written: Int[Array, ""]
    rollout: int

    @property
    def lane_axes(self) -> Stored:
        """Where the lane axis of each part is, for `vmap`."""
        return Stored(rows=0, carries=0, index=0, written=None, rollout=self.rollout)  # type: ignore[arg-type]

    @property
    def length(self) -> int:
        """N, the rows that there is room for."""
        return self.rows.reward.shape[0]

    @property
    def width(self) -> int:
        """B, the environments."""
        return self.rows.reward.shape[1]

    @property
    def slots(self) -> int:
        """N/T, the rollouts that there is room for."""
        return self.length // self.rollout


def empty(capacity: int, blank: Batch, spec: Spec, index: PyTree = (), carries: bool = False) -> Stored:
    """A ring for rollouts like `blank`, all zero."""
    rollout, width = blank.reward.shape
    slots = max(capacity // (rollout * width), 2)  # whole rollouts, so that none is cut by the ring's end
    one = newest(transitions(blank).replace(carry=(), weight=None), spec.observation)
    rows = jax.tree.map(lambda x: jnp.zeros((slots * rollout, *x.shape[1:]), x.dtype), one)
    kept = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape), x.dtype), blank.carry) if carries else ()
    return Stored(rows, kept, index, jnp.zeros((), jnp.int32), rollout)


def check_room(memory: Any, stored: Stored, rows: int) -> None:
    """Raises UserError unless the ring holds a rollout and `rows` more, which are what one sample needs."""
    needed = stored.rollout + rows
    if stored.length < needed:
        raise UserError(
            f"{memory.registered_name}: a capacity of {memory.capacity} is {stored.length} rows of {stored.width} "
            f"environments; a sample needs {needed}: raise the capacity to {needed * stored.width} or more"
        )


def write(stored: Stored, batch: Batch, spec: Spec) -> Stored:
    """Puts a rollout where the oldest rows are."""
    at = stored.written % stored.length
    rows = newest(transitions(batch).replace(carry=(), weight=None), spec.observation)
    put = lambda to, x, i: jax.lax.dynamic_update_slice_in_dim(to, x.astype(to.dtype), i, 0)  # noqa: E731
    carries = stored.carries
    if jax.tree.leaves(carries):
        carries = jax.tree.map(lambda to, x: put(to, x[None], at // stored.rollout), carries, batch.carry)
    return stored.replace(
        rows=jax.tree.map(lambda to, x: put(to, x, at), stored.rows, rows),
        carries=carries,
        written=stored.written + stored.rollout,
    )


def oldest(stored: Stored, spec: Spec) -> Int[Array, ""]:
    """The number, counted from the run's start, of the oldest row whose observation is whole: the stack of one that
    lies on the ring's seam has lost its first frames."""
    lost = jnp.where(stored.written > stored.length, deepest_stack(spec.observation) - 1, 0)
    return jnp.maximum(stored.written - stored.length, 0) + lost


def take(stored: Stored, rows: Int[Array, "*n S"], envs: Int[Array, "S"], what: PyTree) -> PyTree:
    """`what` (leaves [N, B, ...]) at some rows (by number, any age) of some environments: leaves [*n, S, ...]."""
    at = rows % stored.length
    return jax.tree.map(lambda x: x[at, jnp.broadcast_to(envs, at.shape)], what)


def sequences(stored: Stored, start: Int[Array, "S"], envs: Int[Array, "S"], length: int, spec: Spec) -> Batch:
    """The `length` rows from each start on, as a `Batch` [length, S] without carry."""
    window = start + jnp.arange(length + 1)[:, None]
    steps = stored.rows.replace(observation=(), first=(), action_mask=None)
    return take(stored, window[:-1], envs, steps).replace(
        observation=observations(stored, window, envs, spec),
        first=take(stored, window, envs, stored.rows.first),
        action_mask=take(stored, window, envs, stored.rows.action_mask),
    )


def observations(stored: Stored, rows: Int[Array, "*n S"], envs: Int[Array, "S"], spec: Spec) -> PyTree:
    """The observations at some rows, frames stacked as they were seen: within the episode, its first one repeated."""
    deepest = deepest_stack(spec.observation)
    first = take(stored, rows - jnp.arange(deepest - 1).reshape(-1, *[1] * rows.ndim), envs, stored.rows.first)

    def stacked(space: Space, frames: PyTree) -> PyTree:
        if isinstance(space, Dict):
            return {name: stacked(sub, frames[name]) for name, sub in space.items}
        depth = _depth(space)
        if depth == 1:
            return take(stored, rows, envs, frames)
        # how far back the k-th frame lies: k steps, but never beyond the episode's start
        back = jnp.cumsum(jnp.cumprod(~first[: depth - 1], axis=0), axis=0)
        back = jnp.concatenate([back[::-1], jnp.zeros_like(back[:1])])
        found = take(stored, rows - back, envs, frames)
        return jnp.concatenate(list(found), axis=-1)

    return stacked(spec.observation, stored.rows.observation)


def newest(batch: Batch, space: Space) -> Batch:
    """The batch with the newest frame only of every stack in its observations."""

    def last_frame(space: Space, x: PyTree) -> PyTree:
        if isinstance(space, Dict):
            return {name: last_frame(sub, x[name]) for name, sub in space.items}
        depth = _depth(space)
        return x if depth == 1 else x[..., -(x.shape[-1] // depth) :]

    return batch.replace(observation=last_frame(space, batch.observation))


def deepest_stack(space: Space) -> int:
    """The most frames that an observation stacks."""
    return max([deepest_stack(sub) for _, sub in space.items] if isinstance(space, Dict) else [_depth(space)])


def _depth(space: Space) -> int:
    return space.stack if isinstance(space, Box) else 1


def size_in_bytes(stored: PyTree) -> int:
    """Bytes that the arrays (or their shapes) take."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(stored))


def progress(stored: Stored, spec: Spec) -> Any:
    """How much of the planned length was written, 0 to 1; 0 where none was planned. For schedules of a memory."""
    if not spec.total_steps:
        return 0.0
    return jnp.minimum(stored.written * (stored.width / spec.total_steps), 1.0)


def leading(valid: Array) -> Bool[Array, "n S"]:
    """True for the rows of a window [n, S] before its first that is not valid: those of the window's first episode."""
    return jnp.cumprod(valid > 0, axis=0) > 0
