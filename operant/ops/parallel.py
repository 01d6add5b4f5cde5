"""Sums and means that reach over the devices among which one agent's environments are divided.

The runner names the mesh axis while it traces; everywhere else the axis is None and these are the plain operations.
So a method is written once, and its statistics and gradients are those of the whole batch wherever it is sharded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

_axis: ContextVar[str | None] = ContextVar("device_axis", default=None)


@contextlib.contextmanager
def device_axis(name: str | None) -> Iterator[None]:
    """While tracing inside, batches are one device's share of axis `name`."""
    token = _axis.set(name)
    try:
        yield
    finally:
        _axis.reset(token)


def psum(tree: Any) -> Any:
    """Sum over the devices that share this batch."""
    axis = _axis.get()
    return tree if axis is None else _packed(lambda x: jax.lax.psum(x, axis), tree)


def pmean(tree: Any) -> Any:
    """Mean over the devices that share this batch."""
    axis = _axis.get()
    return tree if axis is None else _packed(lambda x: jax.lax.pmean(x, axis), tree)


def _packed(reduce: Callable[[Array], Array], tree: Any) -> Any:
    """All leaves of one dtype side by side: one meeting of the devices instead of one for each tensor."""
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    done: dict[int, Array] = {}
    for dtype in dict.fromkeys(x.dtype for x in leaves):
        where = [i for i, x in enumerate(leaves) if x.dtype == dtype]
        total = reduce(jnp.concatenate([leaves[i].ravel() for i in where]))
        pieces = jnp.split(total, np.cumsum([leaves[i].size for i in where])[:-1])
        done.update({i: piece.reshape(leaves[i].shape) for i, piece in zip(where, pieces, strict=True)})
    return jax.tree.unflatten(structure, [done[i] for i in range(len(leaves))])


def local_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """A key of this device's own, for whatever differs between its rows and the other devices' (actions, shuffles)."""
    axis = _axis.get()
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))


def number_of_devices() -> int:
    """How many devices share this batch."""
    axis = _axis.get()
    return 1 if axis is None else jax.lax.axis_size(axis)


def device_index() -> Any:
    """This device's place on the axis; 0 where there is none."""
    axis = _axis.get()
    return 0 if axis is None else jax.lax.axis_index(axis)
