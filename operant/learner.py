"""Learners: what the runner runs.  `init(keys) -> run_state`, `update(run_state) -> run_state, metrics`, both jittable.

`Online` is the usual one: act in environments, hand the experience to memory or straight to the agent, learn.  All of
a run is in its `RunState`, one pytree: save it, load it, and go on bit for bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from operant.agent import tree_names
from operant.envs.base import select
from operant.memory import Stored
from operant.ops import parallel
from operant.rollout import (
    LANE_AXES,
    Stage,
    begin,
    blank_batch,
    environment_keys,
    fold,
    index_in_lane,
    rollout,
    task_keys,
    unfold,
)
from operant.types import Batch, PyTree, Spec, struct


@struct
class Health:
    """Which lanes are alive, and, for those that are not, where the first NaN or infinity stood.

    frozen_at   the update at which the lane froze, -1 while it lives
    culprit     index into `Online.suspects()`, the tensors in the order in which they are looked at
    """

    frozen_at: Int[Array, "K"]
    culprit: Int[Array, "K"]

    @property
    def alive(self) -> Bool[Array, "K"]:
        return self.frozen_at < 0


@struct
class RunState:
    """The whole of a run. Leading axis [K] (lanes) everywhere but in the environments' state, which is [K*B].

    steps     experience: environment steps that were valid, in each lane
    updates   calls of `Online.update`, each with a rollout
    learns    calls of the agents' `learn`: one an update, or, with a memory, as many as it says, once it is ready;
              equal in all lanes of a device
    """

    agent: Any
    state: PyTree
    memory: PyTree
    stage: Stage
    key: PRNGKeyArray
    health: Health
    steps: Int[Array, "K"]
    updates: Int[Array, ""]
    learns: Int[Array, "K"]


@dataclasses.dataclass(frozen=True)
class Online:
    """K lanes of one agent (its dials may differ by lane), learning while they act in `env` (K*B environments)."""

    env: Any
    spec: Spec
    lanes: int

    def init_agents(self, agents: Any, keys: PRNGKeyArray) -> PyTree:
        """Fresh agent states [K]. keys: [K], one per lane, from which everything random in that lane comes."""
        return jax.vmap(lambda agent, key: agent.init(jax.random.fold_in(key, 0), self.spec))(agents, keys)

    def init(self, agents: Any, states: PyTree, keys: PRNGKeyArray) -> RunState:
        """A run at its start: `agents` (dials [K]) with `states` from `init_agents` of the same keys."""
        env_key, run_key = (jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in (1, 2))
        width = self.env.num_envs // self.lanes
        env_keys = jax.vmap(lambda key: environment_keys(key, width))(env_key).reshape(-1)
        stage = begin(agents, states, self.env, env_keys, self.lanes, task_keys(keys))
        memory = () if agents.memory is None else self._init_memory(agents, states)
        health = Health(jnp.full((self.lanes,), -1, jnp.int32), jnp.full((self.lanes,), -1, jnp.int32))
        steps = jnp.zeros((self.lanes,), jnp.int32)
        updates = jnp.zeros((), jnp.int32)
        return RunState(agents, states, memory, stage, run_key, health, steps, updates, jnp.zeros_like(steps))

    def update(self, run: RunState) -> tuple[RunState, dict[str, Float[Array, "K"]]]:
        """One rollout and the learning that follows it. Metrics are one number per lane."""
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(run.key)
        act_keys = jax.vmap(parallel.local_key)(keys[:, 1])
        stage = self._new_tasks(run, keys[:, 2])
        stage, batch = rollout(run.agent, run.state, self.env, stage, act_keys, run.agent.rollout_length)
        if run.agent.memory is None:
            memory, learned = run.memory, 1
            state = self._meta_learn(run.agent, run.state, batch, keys[:, 2], run.learns.max(), LANE_AXES)
            state, metrics, _ = jax.vmap(lambda a, s, b, k: a.learn(s, b, k), in_axes=(0, 0, LANE_AXES, 0))(
                run.agent, state, batch, keys[:, 2]
            )
        else:
            memory, state, metrics, learned = self._learn_from_memory(run, batch, keys[:, 2])
        state, health = self._keep_sound(run, batch, state, metrics)
        going = self.going(run)
        # what a finished lane plays on, since it cannot be left out of the fold, is no part of its training
        count = lambda new, old: jnp.where(going[:, None], new, old)  # noqa: E731
        stage = stage.replace(episodes=jax.tree.map(count, stage.episodes, run.stage.episodes))
        new_steps = parallel.psum(batch.valid.sum((0, 2))).astype(jnp.int32) * going
        metrics = {**metrics, "learning": (going & health.alive).astype(jnp.float32)}
        run = run.replace(
            state=state,
            memory=memory,
            stage=stage,
            key=keys[:, 0],
            health=health,
            steps=run.steps + new_steps,
            updates=run.updates + 1,
            learns=run.learns + learned,
        )
        return run, metrics

    def _new_tasks(self, run: RunState, keys: PRNGKeyArray) -> Stage:
        """Where interaction stands, after the environments that the agents give up have begun in new tasks."""
        if run.agent.new_tasks is None or not getattr(self.env, "tasks", False):
            return run.stage
        new, tasks = fold(jax.vmap(lambda a, s: a.new_tasks(s))(run.agent, run.state))
        width = self.env.num_envs // self.lanes
        keys = jax.vmap(lambda key: environment_keys(jax.random.fold_in(key, 2), width))(keys).reshape(-1)

        def begin(stage):
            fresh = self.env.reset(keys, tasks)
            env_state, timestep = select(new, fresh, (stage.env_state, fold(stage.timestep)))
            timestep = unfold(index_in_lane(timestep, width), self.lanes)
            return stage.replace(
                env_state=env_state, timestep=timestep, episodes=stage.episodes.abandon(unfold(new, self.lanes))
            )

        return jax.lax.cond(new.any(), begin, lambda stage: stage, run.stage)

    def _meta_learn(self, agents: Any, states: PyTree, batch: Batch, keys: PRNGKeyArray, count, axes) -> PyTree:
        """The agents' states, after the meta step before every `meta_period`-th learn but the first.

        A real branch, as `count` (of the learns so far) has no lane axis.
        """
        if not agents.meta_period:
            return states
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        step = jax.vmap(lambda a, s, b, k: a.meta_learn(s, b, k), in_axes=(0, 0, axes, 0))
        due = (count > 0) & (count % agents.meta_period == 0)
        return jax.lax.cond(due, lambda states: step(agents, states, batch, keys), lambda states: states, states)

    def going(self, run: RunState) -> Bool[Array, "K"]:
        """Lanes whose planned length is not reached. The others stand still at the update that reached it, so that a
        run's end does not depend on how its updates were grouped."""
        if not self.spec.total_steps:
            return jnp.ones((self.lanes,), bool)
        return run.steps < self.spec.total_steps

    # --------------------------------------------------------------------------------------------------------- memory
    def _init_memory(self, agents: Any, states: PyTree) -> Stored:
        """An empty memory for every lane."""
        agent, state = jax.tree.map(lambda x: x[0], (agents, states))
        one = agent.memory.init(blank_batch(agent, state, self.spec, agent.rollout_length), self.spec)
        spread = lambda axis, part: part if axis is None else _copies(part, self.lanes)  # noqa: E731
        return jax.tree.map(spread, one.lane_axes, one, is_leaf=lambda x: x is None)

    def _learn_from_memory(self, run: RunState, batch: Batch, keys: PRNGKeyArray):
        """Stores the rollout, then samples and learns `updates_per_rollout` times once the memory is ready."""
        memory, axes = run.agent.memory, run.memory.lane_axes
        state = jax.vmap(lambda agent, s, b: agent.observe(s, b), in_axes=(0, 0, LANE_AXES))(
            run.agent, run.state, batch
        )
        stored = jax.vmap(
            lambda memory, s, b: memory.add(s, b, self.spec), in_axes=(0, axes, LANE_AXES), out_axes=axes
        )(memory, run.memory, batch)
        # The rows are only read from here on: a loop that carried them would copy them.
        rows, row_axes = stored.replace(index=()), axes.replace(index=())

        def once(carried, inputs):
            (index, state), (count, keys) = carried, inputs
            sample_key, learn_key = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
            draw = lambda agent, rows, index, key: agent.memory.sample(rows.replace(index=index), key, self.spec)  # noqa: E731
            sample, ticket = jax.vmap(draw, in_axes=(0, row_axes, 0, 0))(run.agent, rows, index, sample_key)
            state = self._meta_learn(run.agent, state, sample, learn_key, count, 0)
            state, metrics, feedback = jax.vmap(lambda a, s, b, k: a.learn(s, b, k))(
                run.agent, state, sample, learn_key
            )
            index = jax.vmap(lambda a, i, t, f: a.memory.update(i, t, f))(run.agent, index, ticket, feedback)
            return (index, state), metrics

        def learn(carried):
            number = memory.updates_per_rollout
            each = jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key, number))(keys), 0, 1)
            carried, metrics = jax.lax.scan(once, carried, (run.learns.max() + jnp.arange(number), each))
            return carried, jax.tree.map(lambda x: x.mean(0), metrics)

        shapes = jax.eval_shape(learn, (stored.index, state))[1]

        def wait(carried):
            # NaN would read as a failure: nothing was learned yet, so the metrics are zero
            return carried, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        # one real branch for the lanes of a device: they insert equally many rows, and learn once all are ready
        ready = jax.vmap(lambda memory, s: memory.ready(s), in_axes=(0, axes))(memory, stored).all()
        (index, state), metrics = jax.lax.cond(ready, learn, wait, (stored.index, state))
        return stored.replace(index=index), state, metrics, ready * memory.updates_per_rollout

    # ------------------------------------------------------------------------------------------------ NaN and infinity
    def suspects(self, run: RunState) -> list[str]:
        """Names of the tensors that are looked at for NaN and infinity, in the order of blame."""
        names = ["environment observation", "environment reward"]
        return names + ["learned " + name for name in tree_names(_floats(run.state))]

    def _keep_sound(self, run: RunState, batch: Batch, state: PyTree, metrics: dict) -> tuple[PyTree, Health]:
        """Keeps the old state of every lane whose update brought a NaN or an infinity, for good, and of finished lanes.

        Frozen lanes still act (their environments cannot be left out of the fold), with their last finite state.
        """

        def per_lane(x, lane_axis=0):
            return jnp.moveaxis(x, lane_axis, 0).reshape(self.lanes, -1)

        observations = [x for x in jax.tree.leaves(batch.observation) if jnp.issubdtype(x.dtype, jnp.floating)]
        groups = [[(x, 1) for x in observations], [(batch.reward, 1)]]
        groups += [[(x, 0)] for x in jax.tree.leaves(_floats(state))]

        # a sum is finite only if every term is (finite terms that overflow are past saving too): one cheap reduction
        # per tensor; a metric that is not finite counts against the parameters it was computed with
        def sound(group):
            return sum((per_lane(x, axis).sum(1) for x, axis in group), jnp.zeros(self.lanes))

        totals = jnp.stack([parallel.psum(sound(group)) for group in groups])
        finite = jnp.isfinite(totals)
        metrics_finite = jnp.isfinite(sum(metrics.values(), jnp.zeros(self.lanes)))
        ok = finite.all(0) & metrics_finite
        newly = run.health.alive & self.going(run) & ~ok
        # only a metric was bad: the loss overflowed but its update did not, so blame what was learned
        culprit = jnp.where(finite.all(0), len(groups), jnp.argmin(finite, axis=0)).astype(jnp.int32)
        health = Health(
            jnp.where(newly, run.updates, run.health.frozen_at), jnp.where(newly, culprit, run.health.culprit)
        )
        keep = health.alive & self.going(run)
        select = lambda new, old: jnp.where(keep.reshape(-1, *[1] * (new.ndim - 1)), new, old)  # noqa: E731
        return jax.tree.map(select, state, run.state), health

    def diagnose(self, run: RunState) -> list[str]:
        """One line for each frozen lane: which, when, and the tensor."""
        names = [*self.suspects(run), "loss or another metric"]
        frozen_at, culprit = np.asarray(run.health.frozen_at), np.asarray(run.health.culprit)
        return [
            f"lane {lane}: NaN or infinity in {names[culprit[lane]]} at update {frozen_at[lane]}; the lane is frozen "
            "with its last finite parameters"
            for lane in range(len(frozen_at))  # of the whole run; self.lanes are one device's
            if frozen_at[lane] >= 0
        ]


def _copies(tree: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), tree)


def _floats(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)
