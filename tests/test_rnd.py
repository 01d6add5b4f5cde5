"""RND around agents that normalise their rewards, and around those that learn from a memory."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import course, shrink

import operant as op
from operant import methods
from operant.envs.base import batched
from operant.rollout import rollout
from operant.types import Box, Discrete


@dataclasses.dataclass(frozen=True)
class Unpaid:
    """Random observations, and never a reward."""

    observation = Box((5,))
    action = Discrete(2)
    time_limit = 20

    def reset(self, key):
        return jnp.zeros(()), jax.random.normal(key, (5,))

    def step(self, key, state, action):
        return state, jax.random.normal(key, (5,)), 0.0, False, False


def test_where_the_task_pays_nothing_the_bonus_is_learned_from_as_it_is():
    agent = shrink(methods.build("rnd:ppo", "CartPole-v1"), num_envs=4, rollout_length=16, num_minibatches=1)
    assert agent.agent.network.normalize_reward
    run = course(agent, Unpaid(), 3)[-1][0]
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    agent, state = first(run.agent), first(run.state)
    _, batch = rollout(
        run.agent, run.state, batched(Unpaid(), 4), run.stage, jax.random.split(jax.random.key(3), 1), 16
    )
    batch = jax.tree.map(lambda x: x[:, 0], batch.replace(carry=()))
    richer, error = agent.with_bonus(state, batch)
    seen = np.asarray(batch.valid) > 0
    learned_from = np.asarray(agent.agent.network.rewards(state.agent, richer))[seen]
    bonus = np.asarray(error * state.predictor.norm["bonus"].inverse_deviation())[seen]
    np.testing.assert_allclose(learned_from, bonus, rtol=1e-4)
    assert bonus.std() > 0.1 * bonus.mean() > 0


def test_the_bonus_goes_around_agents_with_a_memory():
    agent = shrink(methods.build("rnd:dqn"), learning_starts=0)
    agent.check()
    run = course(agent, Unpaid(), 3)[-1][0]
    assert int(run.state.agent.steps[0]) > 0 and int(run.state.predictor.steps[0]) > 0
    assert float(run.state.predictor.norm["bonus"].count[0]) > 0


def test_a_memory_of_several_steps_is_refused():
    with pytest.raises(op.UserError, match="n_step 3.*--agent.memory.n-step 1"):
        methods.build("rnd:dqn", "CartPole-v1").check()
