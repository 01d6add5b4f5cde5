"""Prioritized replay: transitions drawn in proportion to how much was last learned from them (Schaul et al. 2016)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from operant.agent import dial, part
from operant.memory import ring, sum_tree
from operant.memory.replay import Replay, Ticket
from operant.memory.ring import Stored
from operant.memory.sum_tree import SumTree
from operant.types import Batch, Spec, struct

SMALLEST = 1e-6
"""Added to every priority, so that none is zero (section 3.3)."""


@struct
class Priorities:
    """tree: p ** alpha of every row and environment; largest: the largest p so far, which new transitions get."""

    tree: SumTree
    largest: Float[Array, ""]


@part("prioritized")
class PrioritizedReplay(Replay):
    """Proportional prioritized replay of n-step transitions, with importance weights.

    `learn` gives a priority for each sampled transition as its feedback, usually the size of its error.
    """

    alpha: float = dial(0.6, "exponent of the priorities; 0: uniform", low=0.0)
    beta: float = dial(0.4, "exponent of the importance weights at the start", low=0.0, high=1.0)
    beta_end: float = dial(1.0, "exponent of the importance weights at the end of the run", low=0.0, high=1.0)

    def init(self, blank: Batch, spec: Spec) -> Stored:
        stored = super().init(blank, spec)
        return stored.replace(index=Priorities(sum_tree.empty(stored.length * stored.width), jnp.ones(())))

    def add(self, stored: Stored, batch: Batch, spec: Spec) -> Stored:
        before = stored.written
        stored = super().add(stored, batch, spec)
        # What can be drawn has moved on by a rollout: from `n_step` rows before its start to `n_step` before its end.
        # The rows after those wait for their ends, and beyond the ring's seam they have lost their stack.
        lost = ring.deepest_stack(spec.observation) - 1
        span = batch.reward.shape[0] + self.n_step + lost
        rows = before - self.n_step + jnp.arange(span)
        at = rows % stored.length
        drawable = (rows >= 0) & (rows < stored.written - self.n_step)
        weight = stored.index.largest**self.alpha * (stored.rows.valid[at] * drawable[:, None])
        leaves = at[:, None] * stored.width + jnp.arange(stored.width)
        tree = sum_tree.assign(stored.index.tree, leaves.ravel(), weight.ravel())
        return stored.replace(index=stored.index.replace(tree=tree))

    def sample(self, stored: Stored, key: PRNGKeyArray, spec: Spec) -> tuple[Batch, Ticket]:
        """`batch_size` transitions by priority, one from each equal part of the total (section 3.3)."""
        places = sum_tree.stratified(stored.index.tree, key, self.batch_size)
        at, envs = places // stored.width, places % stored.width
        age = (stored.written - 1 - at) % stored.length
        ticket = Ticket(stored.written - 1 - age, envs, places)
        beta = self.beta + ring.progress(stored, spec) * (self.beta_end - self.beta)
        weight = importance(stored.index.tree, places, beta)
        return self.transitions(stored, ticket, spec).replace(weight=weight[None]), ticket

    def update(self, index: Priorities, ticket: Ticket, feedback: Float[Array, "S"]) -> Priorities:
        """New priorities for the transitions of a sample."""
        return reprioritized(index, ticket.places, feedback, self.alpha)


def importance(tree: SumTree, places: Int[Array, "S"], beta: Float[Array, ""] | float) -> Float[Array, "S"]:
    """Importance weights (N P)^-beta over their largest in the sample, in which N cancels (section 3.4)."""
    probability = jnp.maximum(tree[0][places] / sum_tree.total(tree), 1e-12)
    weight = (probability / probability.min()) ** -beta
    return weight / weight.max()


def reprioritized(
    index: Priorities, places: Int[Array, "S"], priority: Float[Array, "S"], alpha: Float[Array, ""] | float
) -> Priorities:
    """The index with new priorities (of any sign; their size counts) at some places."""
    priority = jnp.abs(priority) + SMALLEST
    tree = sum_tree.assign(index.tree, places, priority**alpha)
    return Priorities(tree, jnp.maximum(index.largest, priority.max()))
