"""Agent x environment -> batch: the primitive under the learners and evaluation.

*Lanes* are independent agents side by side (seeds, the settings of a sweep): K lanes of B environments each.  `act` is
mapped over lanes; the environment sees one folded axis [K*B], so that host simulators, which cannot be mapped, work
like the others; the scan over time is outermost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from operant.ops import parallel
from operant.types import Batch, Discrete, PyTree, Space, Spec, Timestep, struct, zeros


@struct
class Stage:
    """Where interaction stands: the environments, the latest timestep [K, B], and what the agents carry [K, B]."""

    env_state: PyTree
    timestep: Timestep
    carry: PyTree
    episodes: Episodes


@struct
class Episodes:
    """Running and finished returns (sums of the true reward) and lengths. `finished_*` add up until they are read."""

    running_return: Float[Array, "K B"]
    running_length: Int[Array, "K B"]
    finished_return: Float[Array, "K B"]
    finished_square: Float[Array, "K B"]
    finished_length: Float[Array, "K B"]
    finished: Float[Array, "K B"]

    @staticmethod
    def start(lanes: int, width: int) -> Episodes:
        # distinct arrays, not one zero six times: the buffers are donated
        zero = lambda: jnp.zeros((lanes, width))  # noqa: E731
        return Episodes(zero(), jnp.zeros((lanes, width), jnp.int32), zero(), zero(), zero(), zero())

    def advance(self, timestep: Timestep) -> Episodes:
        alive, ends = ~timestep.first, timestep.last
        total = jnp.where(alive, self.running_return, 0.0) + timestep.score
        length = jnp.where(alive, self.running_length, -1) + 1
        return Episodes(
            running_return=total,
            running_length=length,
            finished_return=self.finished_return + jnp.where(ends, total, 0.0),
            finished_square=self.finished_square + jnp.where(ends, total**2, 0.0),
            finished_length=self.finished_length + jnp.where(ends, length, 0),
            finished=self.finished + ends,
        )

    def abandon(self, where: Bool[Array, "K B"]) -> Episodes:
        """Episodes that are left unfinished count for nothing."""
        zero = lambda x: jnp.where(where, 0, x)  # noqa: E731
        return self.replace(running_return=zero(self.running_return), running_length=zero(self.running_length))

    def read(self) -> tuple[Episodes, dict[str, Float[Array, "K"]]]:
        """The sums over environments since the last reading, and the counters set back to zero."""
        sums = {
            "episodes": self.finished.sum(1),
            "return_sum": self.finished_return.sum(1),
            "return_square_sum": self.finished_square.sum(1),
            "length_sum": self.finished_length.sum(1),
        }
        sums = parallel.psum(sums)
        zero = jnp.zeros_like(self.finished)
        return self.replace(finished_return=zero, finished_square=zero, finished_length=zero, finished=zero), sums


def fold(tree: PyTree) -> PyTree:
    """[K, B, ...] -> [K*B, ...]"""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def unfold(tree: PyTree, lanes: int) -> PyTree:
    """[K*B, ...] -> [K, B, ...]"""
    return jax.tree.map(lambda x: x.reshape(lanes, x.shape[0] // lanes, *x.shape[1:]), tree)


def index_in_lane(timestep: Timestep, width: int) -> Timestep:
    return timestep.replace(env_index=timestep.env_index % width)


def begin(
    agents: Any, states: PyTree, env: Any, keys: PRNGKeyArray, lanes: int, tasks: PRNGKeyArray | None = None
) -> Stage:
    """Resets all environments; keys: [K*B]; tasks: [K], the `task_keys` of the lanes, for environments that have tasks.

    The environments of one lane share its task.  Without `tasks` each environment has a task of its own.
    """
    width = env.num_envs // lanes
    if tasks is not None and getattr(env, "tasks", False):
        env_state, timestep = env.reset(keys, jnp.broadcast_to(tasks[:, None], (lanes, width)).reshape(-1))
    else:
        env_state, timestep = env.reset(keys)
    carry = jax.vmap(lambda agent, state: agent.start(state, width))(agents, states)
    return Stage(env_state, unfold(index_in_lane(timestep, width), lanes), carry, Episodes.start(lanes, width))


def interact(
    agents: Any, states: PyTree, env: Any, stage: Stage, keys: PRNGKeyArray, explore: bool = True
) -> tuple[Stage, Batch]:
    """One step of K agents in their environments. agents, states: leading axis [K]; keys: [K].

    Returns the stage reached, and a row of a batch (leaves [K, B, ...], without carry).
    """
    lanes, width = stage.timestep.first.shape
    timestep = stage.timestep
    action, carry, extras = jax.vmap(lambda a, s, t, c, k: a.act(s, t, c, k, explore))(
        agents, states, timestep, stage.carry, keys
    )
    env_state, after = env.step(stage.env_state, fold(action))
    after = unfold(index_in_lane(after, width), lanes)
    row = Batch(
        observation=timestep.observation,
        first=timestep.first,
        action=action,
        reward=after.reward,
        discount=after.discount,
        valid=1.0 - after.first,
        extras=extras,
        action_mask=timestep.action_mask,
    )
    return Stage(env_state, after, carry, stage.episodes.advance(after)), row


def rollout(
    agents: Any, states: PyTree, env: Any, stage: Stage, keys: PRNGKeyArray, length: int, explore: bool = True
) -> tuple[Stage, Batch]:
    """`length` steps of K agents in their environments.

    agents, states: leading axis [K]; keys: [K].  Returns the stage reached, and a batch whose leaves are [T, K, B, ...]
    (observation, first and action_mask [T+1, K, B, ...]; carry [K, B, ...]).
    """
    step_keys = jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key, length))(keys), 0, 1)
    start_carry = stage.carry
    stage, rows = jax.lax.scan(
        lambda stage, keys: interact(agents, states, env, stage, keys, explore), stage, step_keys
    )
    append = lambda rows, last: jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), rows, last)  # noqa: E731
    batch = rows.replace(
        observation=append(rows.observation, stage.timestep.observation),
        first=append(rows.first, stage.timestep.first),
        action_mask=append(rows.action_mask, stage.timestep.action_mask),
        carry=start_carry,
    )
    return stage, batch


class Outcome(NamedTuple):
    """What an evaluation saw, by lane: N = environments of a lane x episodes in each.

    finished is False for an episode that the cap on steps cut; its return is what it had until then.
    """

    returns: Float[Array, "K N"]
    lengths: Int[Array, "K N"]
    finished: Bool[Array, "K N"]


def play_episodes(
    agents: Any,
    states: PyTree,
    env: Any,
    keys: PRNGKeyArray,
    episodes: int,
    max_steps: int,
    explore: bool = False,
    tasks: PRNGKeyArray | None = None,
) -> Outcome:
    """Plays `episodes` whole episodes in *each* environment from a fresh start, and stops early when all are done.

    The same number in each, since counting the first N episodes to finish would favour the short ones.  keys: [K];
    tasks: [K], as `begin` has them.
    """
    lanes = keys.shape[0]
    width = env.num_envs // lanes
    reset_key, act_key = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 2))(keys), 1, 0)
    env_keys = jax.vmap(lambda key: environment_keys(key, width))(reset_key).reshape(-1)
    stage = begin(agents, states, env, env_keys, lanes, tasks)
    slots = jnp.arange(episodes)

    def unfinished(carried):
        _, t, count, _, _ = carried
        return (count < episodes).any() & (t < max_steps)

    def step(carried):
        stage, t, count, returns, lengths = carried
        keys = jax.vmap(lambda key: jax.random.fold_in(key, t))(act_key)
        stage, _ = interact(agents, states, env, stage, keys, explore)
        current = (slots == count[..., None]) & ~stage.timestep.first[..., None]
        returns = jnp.where(current, stage.episodes.running_return[..., None], returns)
        lengths = jnp.where(current, stage.episodes.running_length[..., None], lengths)
        return stage, t + 1, count + stage.timestep.last, returns, lengths

    shape = (lanes, width, episodes)
    start = (stage, 0, jnp.zeros((lanes, width), jnp.int32), jnp.zeros(shape), jnp.zeros(shape, jnp.int32))
    _, _, count, returns, lengths = jax.lax.while_loop(unfinished, step, start)
    finished = slots < count[..., None]
    return Outcome(*(x.reshape(lanes, -1) for x in (returns, lengths, finished)))


def environment_keys(key: PRNGKeyArray, number: int) -> PRNGKeyArray:
    """One key per environment of a lane; the i-th does not depend on how many there are, nor on their devices."""
    index = jnp.arange(number) + parallel.device_index() * number
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def task_keys(keys: PRNGKeyArray) -> PRNGKeyArray:
    """The keys [K] that the lanes' tasks are drawn with, from the keys [K] of the lanes' seeds.

    They depend on nothing else, so that a lane is trained, evaluated and filmed in one task.
    """
    return jax.vmap(lambda key: jax.random.fold_in(key, 3))(keys)


def blank_batch(agent: Any, state: PyTree, spec: Spec, length: int) -> Batch:
    """A batch of zeros, [length, spec.num_envs], of the shapes that a rollout of `agent` (one lane) will have."""
    width = spec.num_envs
    none = jnp.zeros(width)
    action_mask = jnp.ones((width, action_mask_size(spec.action)), bool) if spec.action_mask else None
    timestep = Timestep(
        observation=zeros(spec.observation, (width,)),
        reward=none,
        discount=none,
        first=none > 0,
        last=none > 0,
        score=none,
        previous_action=zeros(spec.action, (width,)),
        action_mask=action_mask,
        env_index=jnp.arange(width),
    )
    carry = agent.start(state, width)
    action, carry, extras = jax.eval_shape(agent.act, state, timestep, carry, jax.random.key(0))
    stack = lambda tree, n: jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), tree)  # noqa: E731
    return Batch(
        observation=stack(timestep.observation, length + 1),
        first=stack(timestep.first, length + 1),
        action=stack(action, length),
        reward=stack(none, length),
        discount=stack(none, length),
        valid=stack(none, length),
        extras=stack(extras, length),
        carry=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry),
        action_mask=stack(action_mask, length + 1),
    )


def action_mask_size(space: Space) -> int:
    """How many numbers a mask over actions has: the choices of all parts side by side."""
    return space.n if isinstance(space, Discrete) else sum(space.nvec)


LANE_AXES = Batch(
    observation=1, first=1, action=1, reward=1, discount=1, valid=1, extras=1, carry=0, action_mask=1, weight=1
)
"""Where the lanes stand in a rollout's batch, for `vmap`."""
