"""Networks that remember a whole life, across the ends of its episodes, and the value of what is left of one."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from operant.agent import child, dial, option, part
from operant.nn import CELLS, Torso
from operant.nn.torsos import dense
from operant.ops.losses import l2
from operant.ops.optimizers import adam
from operant.ops.returns import gae
from operant.types import Batch, PyTree, Spec, Timestep


class _Lifelong(nn.Module):
    """A number for each moment, [T, P], and the memory to go on with: see `Lifelong`."""

    spec: Spec
    torso: str
    hidden: tuple[int, ...]
    cell: str
    size: int

    @nn.compact
    def __call__(self, moments: dict[str, PyTree], memory: PyTree) -> tuple[Float[Array, "T P"], PyTree]:
        seen = [
            Torso(self.spec.observation, self.torso, self.hidden, "relu")(moments["observation"]),
            # as wide, or a reward would be one number that is learned about slowly among all those of a place
            nn.relu(dense(self.size, 2**0.5)(moments["told"])),
        ]
        if "action" in moments:  # to an episode's beginning none has led
            seen.append(Torso(self.spec.action, "mlp", ())(moments["action"]) * moments["told"][..., :1])
        features = now = jnp.concatenate(seen, -1)
        if self.cell:
            never = jnp.zeros(features.shape[:2], bool)
            features, memory = CELLS[self.cell](self.size, name="cell")(features, memory, never)
        else:
            features = nn.relu(dense(self.size, 2**0.5)(features))
        # the present beside the past: else it takes long until a reward of now is told from one of then
        features = jnp.concatenate([features, now], -1)
        return dense(1, 0.01)(features)[..., 0], memory


@part("lifelong")
class Lifelong:
    """Says a number at each moment of a life, from everything that was seen until then, across the ends of episodes.

    A *moment* is what was seen on arriving at an observation: the observation itself, whether a step led there (or an
    episode begins), the discount, and, where they are shown, reward and action.  What is remembered, [P, H], is zero at
    a life's beginning, and is handed from rollout to rollout.
    """

    torso: str = option("auto", "encoder of observations: auto, mlp, nature, nips, impala, minatar")
    hidden: tuple[int, ...] = option((64,), "widths of the hidden layers before the cell", low=1)
    cell: str = option("lstm", "recurrent cell; empty: the present moment is all it sees", choices=("", *CELLS))
    size: int = option(64, "units of the cell", low=1)

    def _module(self, spec: Spec) -> _Lifelong:
        return _Lifelong(spec, self.torso, self.hidden, self.cell, self.size)

    def start(self, width: int) -> PyTree:
        """What is remembered at the beginning of a life of so many environments: zeros."""
        return CELLS[self.cell](self.size).initial_carry(width) if self.cell else ()

    def extras(self, timestep: Timestep) -> dict[str, PyTree]:
        """What `act` is to return, so that a batch says what its first observation came with."""
        return {"reward": timestep.reward, "discount": timestep.discount, "action": timestep.previous_action}

    def moments(self, batch: Batch, reward: bool, action: bool) -> dict[str, PyTree]:
        """The moments of one life's batch, leaves [T+1, P, ...], with rewards and actions where they are to be seen."""
        arrived = lambda before, rows: jnp.concatenate([before[:1], rows])  # noqa: E731
        step = 1.0 - batch.first
        told = [step, arrived(batch.extras["discount"], batch.discount)]
        told += [arrived(batch.extras["reward"], batch.reward) * step] if reward else []
        moments = {"observation": batch.observation, "told": jnp.stack(told, -1)}
        return moments | ({"action": jax.tree.map(arrived, batch.extras["action"], batch.action)} if action else {})

    def init(self, key: PRNGKeyArray, spec: Spec, moments: dict[str, PyTree]) -> PyTree:
        """Parameters for moments like these."""
        return self._module(spec).init(key, moments, self.start(spec.num_envs))["params"]

    def along(
        self, params: PyTree, spec: Spec, moments: dict[str, PyTree], memory: PyTree
    ) -> tuple[Float[Array, "T P"], PyTree]:
        """What it says at these moments, and what it remembers after them."""
        return self._module(spec).apply({"params": params}, moments, memory)


BUCKETS = 2**14


def count_visits(table: Float[Array, "BUCKETS"], batch: Batch) -> tuple[Float[Array, "T P"], Float[Array, "BUCKETS"]]:
    """How often in this life the observation that each step arrived at was seen by then, itself included.

    table  counts by hashed observation, zero at birth; the second result is the table to go on with.  Observations are
           told apart bit by bit; two different ones share a bucket once in 16,384 pairs.
    """
    rows = [x[1:].astype(jnp.float32).reshape(*batch.valid.shape, -1) for x in jax.tree.leaves(batch.observation)]
    bits = jax.lax.bitcast_convert_type(jnp.concatenate(rows, -1), jnp.uint32)
    factors = jax.random.bits(jax.random.key(0), bits.shape[-1:]) | 1
    # the lower bits of small whole numbers are zero as floats: upper ones are mixed into them, and into the place
    mixed = jnp.sum((bits ^ (bits >> 16)) * factors, -1)
    place = (mixed * jnp.uint32(2654435769)) >> 18  # Fibonacci hashing

    def step(table, row):
        place, valid = row
        table = table.at[place].add(valid)
        return table, table[place]

    table, counts = jax.lax.scan(step, table, (place, batch.valid))
    return jnp.maximum(counts, 1.0), table


@part("lifetime-value")
class LifetimeValue:
    """What the rest of a life is worth, in the task's rewards, by all that was seen of it; and the returns over it."""

    learning_rate: float = dial(1e-3, "Adam's step size", low=0.0)
    gamma: float = dial(0.99, "discount of the task's rewards over a lifetime", low=0.0, high=1.0)
    gae_lambda: float = dial(1.0, "lambda of advantages; 1: returns to the end of the window", low=0.0, high=1.0)
    objective: str = option("lifetime", "returns over the lifetime, or to the end of the episode",
                            choices=("lifetime", "episodic"))  # fmt: skip
    network: Lifelong = child(Lifelong, "its layers")

    def init(self, key: PRNGKeyArray, spec: Spec, batch: Batch) -> tuple[PyTree, PyTree]:
        """(parameters, optimizer's state) for batches like this one."""
        phi = self.network.init(key, spec, self.network.moments(batch, True, False))
        return phi, adam(self.learning_rate).init(phi)

    def advantage(self, batch: Batch, value: Float[Array, "T1 P"]) -> Float[Array, "T P"]:
        """A of the task's rewards over constant values.

        Over a lifetime the sums run on where episodes end, and from there to the next one no time passes.
        """
        reward, valid, one = batch.reward * batch.valid, batch.valid, jnp.ones_like(batch.valid)
        if self.objective == "lifetime":
            columns = (reward, one, one, value, jnp.where(valid, self.gamma, 1.0))
        else:
            columns = (reward, batch.discount, valid, value, one * self.gamma)
        return jax.vmap(gae, (1, 1, 1, 1, 1, None), 1)(*columns, self.gae_lambda)

    def of(self, phi: PyTree, spec: Spec, batches: Batch, memory: PyTree, over: Any) -> tuple[Array, tuple]:
        """One life's batches in a row, leaves [N, ...]: the mean squared error, A [N, T, P], and what is remembered
        before the last observation.  Behind the end of a life that is `over` there is nothing."""
        join = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)  # noqa: E731
        moments = jax.vmap(lambda batch: self.network.moments(batch, True, False))(batches)
        before, last = join(jax.tree.map(lambda x: x[:, :-1], moments)), jax.tree.map(lambda x: x[-1, -1:], moments)
        value, memory = self.network.along(phi, spec, before, memory)
        end, _ = self.network.along(phi, spec, last, memory)
        constant = jax.lax.stop_gradient(jnp.concatenate([value, end * (1.0 - over)]))
        rows = batches.replace(**join({name: getattr(batches, name) for name in ("reward", "discount", "valid")}))
        advantage = self.advantage(rows, constant)
        error = jnp.mean(l2(constant[:-1] + advantage - value))
        return error, (advantage.reshape(batches.reward.shape), memory)

    def learn(self, critic: tuple, spec: Spec, batches: Batch, memories: PyTree, over: Array) -> tuple:
        """One step towards the returns of L lives, batches [N, L, ...]: what `init` gave, the error before, A
        [N, L, T, P] by the values before, and what is remembered of each life."""
        phi, opt_state = critic

        def error(phi):
            errors, rest = jax.vmap(self.of, (None, None, 1, 0, 0), (0, (1, 0)))(phi, spec, batches, memories, over)
            return errors.mean(), rest

        (value, (advantage, memories)), slope = jax.value_and_grad(error, has_aux=True)(phi)
        updates, opt_state = adam(self.learning_rate).update(slope, opt_state, phi)
        return (jax.tree.map(jnp.add, phi, updates), opt_state), value, advantage, memories
