"""Episodic replay: whole episodes, each as likely (for returns to the end, and for agents that look at all of one)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from operant.agent import option, part
from operant.memory import ring, sum_tree
from operant.memory.replay import Ticket
from operant.memory.ring import Stored
from operant.memory.sum_tree import SumTree
from operant.types import Batch, PyTree, Spec, struct


@struct
class Episodes:
    """starts: weight 1 at the first row of each episode that has ended; began: the first row of those that go on."""

    starts: SumTree
    began: Int[Array, "B"]


@part("episodes")
class EpisodicReplay:
    """Uniform replay of whole episodes; of one longer than `length`, the first `length` transitions."""

    capacity: int = option(100_000, "transitions that are kept, over all environments", low=1)
    batch_size: int = option(16, "episodes in a sample", low=1)
    length: int = option(500, "transitions in a sample's sequences; shorter episodes are filled up", low=1)
    learning_starts: int = option(1_000, "transitions before learning starts", low=0)
    updates_per_rollout: int = option(1, "samples that are learned from after each rollout", low=1)

    def init(self, blank: Batch, spec: Spec) -> Stored:
        """An empty memory for rollouts like `blank`."""
        stored = ring.empty(self.capacity, blank, spec)
        ring.check_room(self, stored, self.length + 1)
        index = Episodes(sum_tree.empty(stored.length * stored.width), jnp.zeros(stored.width, jnp.int32))
        return stored.replace(index=index)

    def add(self, stored: Stored, batch: Batch, spec: Spec) -> Stored:
        """The memory with a rollout [T+1, B] in place of its oldest rows, and so without the episodes begun there."""
        before = stored.written
        stored = ring.write(stored, batch, spec)
        envs = jnp.arange(stored.width)
        rows = before + jnp.arange(batch.reward.shape[0])
        places = (rows % stored.length)[:, None] * stored.width + envs
        tree = sum_tree.assign(stored.index.starts, places.ravel(), jnp.zeros(places.size))

        def look(carried, inputs):
            began, tree = carried
            row, valid = inputs
            ended = valid == 0  # this row is the pseudo-transition after an episode's last
            whole = ended & (began >= stored.written - stored.length) & (began < row)
            place = began % stored.length * stored.width + envs
            tree = sum_tree.assign(tree, place, jnp.where(whole, 1.0, tree[0][place]))
            return (jnp.where(ended, row + 1, began), tree), None

        (began, tree), _ = jax.lax.scan(look, (stored.index.began, tree), (rows, batch.valid))
        return stored.replace(index=Episodes(tree, began))

    def ready(self, stored: Stored) -> Array:
        """Whether there is enough to learn from: one episode at least."""
        enough = stored.written >= min(self.learning_starts // stored.width, stored.length)
        return enough & (sum_tree.total(stored.index.starts) > 0)

    def sample(self, stored: Stored, key: PRNGKeyArray, spec: Spec) -> tuple[Batch, Ticket]:
        """`batch_size` episodes: a `Batch` [length, S] whose `valid` ends with each episode."""
        tree = stored.index.starts
        places = sum_tree.find(tree, jax.random.uniform(key, (self.batch_size,)))
        at, envs = places // stored.width, places % stored.width
        start = stored.written - 1 - (stored.written - 1 - at) % stored.length
        batch = ring.sequences(stored, start, envs, self.length, spec)
        batch = batch.replace(valid=batch.valid * ring.leading(batch.valid))
        return batch, Ticket(start, envs, places)

    def update(self, index: PyTree, ticket: Ticket, feedback: PyTree) -> PyTree:
        """The index does not depend on what was learned."""
        return index
