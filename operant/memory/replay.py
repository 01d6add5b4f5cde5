"""Replay: transitions drawn evenly from the last `capacity` (Lin 1992; Mnih et al. 2015)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from operant.agent import option, part
from operant.errors import UserError
from operant.memory import ring
from operant.memory.ring import Stored
from operant.types import Batch, PyTree, Spec, struct

TRIES = 8
"""Rows that are drawn for each sample, of which the first that is experience is taken: one in a few hundred to one in
ten is a pseudo-transition between episodes, so that all of them are that once in 1e8 samples (then its valid is 0)."""


@struct
class Ticket:
    """Where a sample came from: rows (numbered from the run's start), environments, and both as one place in the ring
    (row % N * B + environment), by which a memory keeps its index."""

    rows: Int[Array, "S"]
    envs: Int[Array, "S"]
    places: Int[Array, "S"]

    @staticmethod
    def of(stored: Stored, rows: Int[Array, "S"], envs: Int[Array, "S"]) -> Ticket:
        return Ticket(rows, envs, rows % stored.length * stored.width + envs)


@part("replay")
class Replay:
    """Uniform replay of n-step transitions."""

    capacity: int = option(100_000, "transitions that are kept, over all environments", low=1)
    batch_size: int = option(32, "transitions in a sample", low=1)
    n_step: int = option(1, "rewards between the two observations of a transition", low=1)
    learning_starts: int = option(1_000, "transitions before learning starts", low=0)
    updates_per_rollout: int = option(1, "samples that are learned from after each rollout", low=1)

    def check(self) -> None:
        if self.learning_starts > self.capacity:
            raise UserError(
                f"{self.registered_name}: learning_starts {self.learning_starts} is more than the capacity "
                f"{self.capacity}: learning would never start"
            )

    def init(self, blank: Batch, spec: Spec) -> Stored:
        """An empty memory for rollouts like `blank`."""
        stored = ring.empty(self.capacity, blank, spec)
        ring.check_room(self, stored, self.n_step + ring.deepest_stack(spec.observation))
        return stored

    def add(self, stored: Stored, batch: Batch, spec: Spec) -> Stored:
        """The memory with a rollout [T+1, B] in place of its oldest rows."""
        return ring.write(stored, batch, spec)

    def ready(self, stored: Stored) -> Array:
        """Whether there is enough to learn from."""
        rows = max(self.learning_starts // stored.width, self.n_step + 1)
        return stored.written >= min(rows, stored.length)

    def sample(self, stored: Stored, key: PRNGKeyArray, spec: Spec) -> tuple[Batch, Ticket]:
        """`batch_size` transitions, each as likely, and where they came from."""
        row_key, env_key = jax.random.split(key)
        shape = (TRIES, self.batch_size)
        low, high = ring.oldest(stored, spec), stored.written - self.n_step  # the end must have been stored
        rows = jax.random.randint(row_key, shape, low, high)
        envs = jax.random.randint(env_key, shape, 0, stored.width)
        valid = stored.rows.valid[rows % stored.length, envs] > 0
        chosen = jnp.argmax(valid, axis=0)
        ticket = Ticket.of(stored, *(jnp.take_along_axis(x, chosen[None], axis=0)[0] for x in (rows, envs)))
        return self.transitions(stored, ticket, spec), ticket

    def update(self, index: PyTree, ticket: Ticket, feedback: PyTree) -> PyTree:
        """The memory's index after `learn` gave this feedback on a sample: there is nothing to keep."""
        return index

    def transitions(self, stored: Stored, ticket: Ticket, spec: Spec) -> Batch:
        """The n-step transitions that start at some rows: n rows of rewards [n, S], two observations [2, S, ...]."""
        start, envs = ticket.rows, ticket.envs
        window = start + jnp.arange(self.n_step)[:, None]
        steps = stored.rows.replace(observation=(), first=(), action_mask=None)
        steps = ring.take(stored, window, envs, steps)
        # the last observation of this episode within the window: where a time limit cut it, the one it was cut at
        inside = ring.leading(steps.valid)
        ends = jnp.stack([start, start + jnp.maximum(inside.sum(0), 1)])
        return steps.replace(
            valid=steps.valid * inside,
            observation=ring.observations(stored, ends, envs, spec),
            first=ring.take(stored, ends, envs, stored.rows.first),
            action_mask=ring.take(stored, ends, envs, stored.rows.action_mask),
        )
