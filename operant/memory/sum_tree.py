"""A sum tree with many children to a node: draws a leaf with probability proportional to its weight.

Nodes have `BRANCHES` children, so that a million leaves are three levels deep, and a level is one gather and one sum
over a batch.  A parent is always the sum of its children as they stand: nothing drifts as differences would.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

BRANCHES = 128

SumTree = tuple[Float[Array, "_"], ...]
"""Levels from the leaves to the root, which has at most `BRANCHES` nodes; each but the root padded to whole nodes."""


def empty(leaves: int) -> SumTree:
    """A tree of so many leaves of weight zero."""
    levels = []
    while leaves > BRANCHES:
        parents = -(-leaves // BRANCHES)
        levels.append(jnp.zeros(parents * BRANCHES))
        leaves = parents
    return (*levels, jnp.zeros(leaves))


def assign(tree: SumTree, leaves: Int[Array, "S"], weights: Float[Array, "S"]) -> SumTree:
    """The tree with new weights (at least zero) for some leaves. One that occurs twice gets one of its weights."""
    levels, nodes = [], leaves
    new = tree[0].at[nodes].set(weights)
    for above in tree[1:]:
        levels.append(new)
        nodes = nodes // BRANCHES
        new = above.at[nodes].set(new.reshape(-1, BRANCHES)[nodes].sum(-1))
    return (*levels, new)


def total(tree: SumTree) -> Float[Array, ""]:
    """The sum of all weights."""
    return tree[-1].sum()


def find(tree: SumTree, share: Float[Array, "S"]) -> Int[Array, "S"]:
    """The leaf at each share, in [0, 1), of the total: uniform shares give leaves in proportion to their weights.

    A leaf of weight zero is never found, unless all are.
    """
    children = jnp.broadcast_to(tree[-1], (share.shape[0], tree[-1].shape[0]))
    rest = share * total(tree)
    node, rest = _descend(children, rest)
    for level in tree[-2::-1]:
        child, rest = _descend(level.reshape(-1, BRANCHES)[node], rest)
        node = node * BRANCHES + child
    return node


def stratified(tree: SumTree, key: PRNGKeyArray, number: int) -> Int[Array, "S"]:
    """`number` leaves at random, one from each equal part of the total (Schaul et al. 2016, section 3.3)."""
    return find(tree, (jnp.arange(number) + jax.random.uniform(key, (number,))) / number)


def _descend(children: Float[Array, "S C"], rest: Float[Array, "S"]) -> tuple[Int[Array, "S"], Float[Array, "S"]]:
    """The child in which `rest` falls, and what is left of it there."""
    upto = jnp.cumsum(children, axis=1)
    last = children.shape[1] - 1 - jnp.argmax(children[:, ::-1] > 0, axis=1)  # rounding must not lead beyond it
    child = jnp.minimum(jnp.sum(upto <= rest[:, None], axis=1), last)
    pick = lambda x: jnp.take_along_axis(x, child[:, None], axis=1)[:, 0]  # noqa: E731
    return child, jnp.clip(rest - (pick(upto) - pick(children)), 0.0, pick(children))
