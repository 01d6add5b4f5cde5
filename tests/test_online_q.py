"""Q-learning and Sarsa without a memory: losses by hand, and that Sarsa learns of each transition exactly once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import Ends, Probe, tiny_agent

from operant import action_value as av
from operant.envs.base import batched
from operant.rollout import begin, environment_keys, rollout
from operant.types import Box, Discrete, Spec, zeros

pytestmark = pytest.mark.of("online-q")

GAMMA = 0.9


def returns(reward, discount, valid, values, lam):
    """G_t = r + gamma d ((1 - lam) V + lam G) backwards, begun anew at the end of an episode."""
    found, last = np.zeros_like(reward), values[-1]
    for t in reversed(range(len(reward))):
        on = reward[t] + GAMMA * discount[t] * ((1 - lam) * values[t + 1] + lam * last)
        last = found[t] = np.where(valid[t] > 0, on, values[t])
    return found


@pytest.mark.parametrize("following, lam", [("max", 0.0), ("max", 1.0), ("max", 0.6), ("sarsa", 0.0), ("sarsa", 1.0)])
def test_the_loss_equals_one_by_hand(following, lam):
    ends = Ends("online-q", following=following, q_lambda=lam, gamma=GAMMA)
    batch, _ = ends.batch()
    state = ends.state.replace(target=jax.tree.map(lambda x: 0.5 * x + 0.1, ends.state.params))
    loss, metrics = ends.agent.loss(state.params, state, batch, jax.random.key(0))
    network, head = ends.agent.network, ends.agent.head
    online = np.asarray(network.apply(state.params, ends.spec, head, batch.observation))
    target = np.asarray(network.apply(state.target, ends.spec, head, batch.observation))
    action = np.asarray(batch.action)
    chosen = np.take_along_axis(online[:5], action[..., None], -1)[..., 0]
    reward, discount, valid = ends.reward, ends.discount, ends.valid
    if following == "sarsa":  # the last transition waits for its next action
        chosen, valid = chosen[:4], valid[:4]
        values = np.take_along_axis(target[:5], action[..., None], -1)[..., 0]
        goal = returns(reward[:4], discount[:4], valid, values, lam)
    else:
        goal = returns(reward, discount, valid, target.max(-1), lam)
    error = np.sum(valid * 0.5 * (goal - chosen) ** 2) / valid.sum()
    np.testing.assert_allclose(loss, error, rtol=1e-5)
    np.testing.assert_allclose(metrics["q"], np.sum(valid * chosen) / valid.sum(), rtol=1e-5)


def test_sarsa_learns_of_every_transition_once_and_across_rollouts():
    agent = tiny_agent("online-q", following="sarsa", rollout_length=5)
    env = batched(Probe(), 2)
    spec = env.spec.replace(total_steps=200)
    state = agent.init(jax.random.key(0), spec)
    one = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)  # noqa: E731
    stage = begin(one(agent), one(state), env, environment_keys(jax.random.key(1), 2), 1)
    experience, learned = ([], []), ([], [])
    for i in range(4):
        key = jax.random.fold_in(jax.random.key(2), i)
        stage, batch = rollout(one(agent), one(state), env, stage, key[None], 5)
        batch = jax.tree.map(lambda x: x[:, 0], batch.replace(carry=())).replace(carry=batch.carry[0])
        earlier, taken = agent._one_step_earlier(batch)
        np.testing.assert_array_equal(taken, batch.action)
        for seen, found in ((batch, experience), (earlier, learned)):
            for t in range(5):
                for lane in range(2):
                    if seen.valid[t, lane]:
                        ends = np.asarray(seen.observation[t : t + 2, lane]).ravel().tolist()
                        found[lane].append((*ends, int(seen.action[t, lane]), float(seen.reward[t, lane])))
    for lane in range(2):
        # all in their order; only a transition of the very last step waits for an action that was not taken yet
        waiting = int(batch.valid[-1, lane])
        assert learned[lane] == experience[lane][: len(experience[lane]) - waiting]


def test_every_worker_has_an_end_of_epsilon_of_its_own():
    spec = Spec(Box((2,)), Discrete(2), num_envs=10, total_steps=1000)
    state = av.TargetState({}, (), jnp.asarray(0), (), spec, {}, jnp.asarray(0))
    workers = av.ByWorker(fraction=0.5)
    np.testing.assert_allclose(workers.epsilon(state, jnp.arange(10)), np.ones(10))
    ends = workers.epsilon(state.replace(steps=jnp.asarray(500)), jnp.arange(10))
    np.testing.assert_allclose(ends, [0.1] * 4 + [0.01] * 3 + [0.5] * 3, rtol=1e-6)
    half = workers.epsilon(state.replace(steps=jnp.asarray(250)), jnp.arange(10))
    np.testing.assert_allclose(half, (1 + np.asarray(ends)) / 2, rtol=1e-6)


def test_the_carry_of_sarsa_is_an_observation_and_that_of_q_learning_nothing():
    state = Ends("online-q").state
    assert jax.tree.leaves(tiny_agent("online-q").start(state, 3)) == []
    carry = tiny_agent("online-q", following="sarsa").start(state, 3)
    assert carry.shape == zeros(state.spec.observation, (3,)).shape


def test_a_terminal_observation_may_allow_no_action():
    """Nothing is to be done there, and its value, which a discount of 0 takes off, must be a number."""
    ends = Ends("online-q")
    batch, _ = ends.batch()
    nothing = np.argwhere(ends.discount == 0)
    mask = np.ones((6, ends.discount.shape[1], ends.spec.action.n), bool)
    for t, env in nothing:
        mask[t + 1, env] = False
    losses = [
        ends.agent.loss(ends.state.params, ends.state, batch.replace(action_mask=seen), jax.random.key(0))[0]
        for seen in (None, jnp.asarray(mask))
    ]
    assert len(nothing) and np.isfinite(losses[0])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
