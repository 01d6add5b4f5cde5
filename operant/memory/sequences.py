"""Sequence replay: stretches of experience with the recurrent state that they began in (Kapturowski et al. 2019, R2D2).

A recurrent state is kept for each rollout's first row, so sequences begin where rollouts did, and those of length L
overlap by L - `rollout_length` rows: R2D2's 80 steps after 40 of burn-in, overlapping by 40 as they are learned from,
are `length=120` with rollouts of 40.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from operant.agent import dial, option, part
from operant.errors import UserError
from operant.memory import ring, sum_tree
from operant.memory.prioritized import Priorities, importance, reprioritized
from operant.memory.replay import Ticket
from operant.memory.ring import Stored
from operant.types import Batch, Spec


@part("sequences")
class SequenceReplay:
    """Prioritized replay of sequences; `learn` gives a priority for each sequence as its feedback."""

    capacity: int = option(100_000, "transitions that are kept, over all environments", low=1)
    batch_size: int = option(64, "sequences in a sample", low=1)
    length: int = option(120, "transitions in a sequence, burn-in included", low=1)
    burn_in: int = option(40, "transitions at the start that only bring the recurrent state up to date", low=0)
    learning_starts: int = option(1_000, "transitions before learning starts", low=0)
    updates_per_rollout: int = option(1, "samples that are learned from after each rollout", low=1)
    alpha: float = dial(0.9, "exponent of the priorities; 0: uniform", low=0.0)
    beta: float = dial(0.6, "exponent of the importance weights", low=0.0, high=1.0)

    def check(self) -> None:
        if self.burn_in >= self.length:
            raise UserError(f"sequences: burn_in {self.burn_in} leaves nothing of length {self.length} to learn from")

    def init(self, blank: Batch, spec: Spec) -> Stored:
        """An empty memory for rollouts like `blank`, whose carry it keeps."""
        stored = ring.empty(self.capacity, blank, spec, carries=True)
        ring.check_room(self, stored, self.length + 1 + stored.rollout)
        return stored.replace(index=Priorities(sum_tree.empty(stored.slots * stored.width), jnp.ones(())))

    def add(self, stored: Stored, batch: Batch, spec: Spec) -> Stored:
        """The memory with a rollout [T+1, B] in place of its oldest rows."""
        stored = ring.write(stored, batch, spec)
        whole = -(-(self.length + 1) // stored.rollout)
        # The one rollout that has become the start of a whole sequence; those after it wait, and the one beyond the
        # ring's seam, the oldest, has lost its stack where there is one.
        start = stored.written // stored.rollout - whole
        numbers = start + jnp.arange(whole + (ring.deepest_stack(spec.observation) > 1))
        weight = jnp.where((numbers == start) & (start >= 0), stored.index.largest**self.alpha, 0.0)
        places = (numbers % stored.slots)[:, None] * stored.width + jnp.arange(stored.width)
        weights = jnp.broadcast_to(weight[:, None], places.shape)
        tree = sum_tree.assign(stored.index.tree, places.ravel(), weights.ravel())
        return stored.replace(index=stored.index.replace(tree=tree))

    def ready(self, stored: Stored) -> Array:
        """Whether there is enough to learn from."""
        rows = max(self.learning_starts // stored.width, self.length + 1 + stored.rollout)
        return stored.written >= min(rows, stored.length)

    def sample(self, stored: Stored, key: PRNGKeyArray, spec: Spec) -> tuple[Batch, Ticket]:
        """`batch_size` sequences by priority: a `Batch` [length, S] with its carry, and where they came from."""
        places = sum_tree.stratified(stored.index.tree, key, self.batch_size)
        slot, envs = places // stored.width, places % stored.width
        newest = stored.written // stored.rollout - 1
        start = (newest - (newest - slot) % stored.slots) * stored.rollout
        batch = ring.sequences(stored, start, envs, self.length, spec).replace(
            carry=jax.tree.map(lambda x: x[slot, envs], stored.carries),
            weight=importance(stored.index.tree, places, self.beta)[None],
        )
        return batch, Ticket(start, envs, places)

    def update(self, index: Priorities, ticket: Ticket, feedback: Float[Array, "S"]) -> Priorities:
        """New priorities for the sequences of a sample."""
        return reprioritized(index, ticket.places, feedback, self.alpha)
