"""FRODO: the targets' network, its meta-gradient against finite differences, and what it is shown."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, Probe, assert_slopes, shrink
from test_contract import doubled, rollouts

import operant as op
from operant import methods
from operant.agent import strong
from operant.envs.base import batched
from operant.errors import UserError
from operant.methods.meta.frodo import FRODO

pytestmark = pytest.mark.of("frodo")


def small(base: str = "a2c", **changes):
    agent = shrink(methods.build(f"frodo:{base}"), normalize_observation=False, normalize_reward=False)
    return agent.replace(**changes)


@functools.cache
def experience(base: str = "a2c", **changes):
    agent = strong(small(base, **changes))
    _, state, batches = rollouts(agent, batched(Probe(continuous=base == "td"), agent.num_envs), 8, 3)
    loud = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), state.eta)
    state = state.replace(eta=loud)  # at first the rule says nearly nothing
    for batch in batches:
        state, *_ = agent.learn(state, batch, jax.random.key(1))
    return agent, state, tuple(batches)


@pytest.mark.parametrize("base", ["a2c", "ppo", "impala", "online-q", "td"])
def test_the_meta_gradient_is_that_of_finite_differences(base: str):
    """d (loss of theta_1 on the fresh trajectory) / d eta, for the largest entry of each tensor of eta.

    V-trace's estimates, which follow the judged parameters but are constants to their gradient, are held at theta_1.
    """
    agent, state, (tau, fresh, _) = experience(base, inner_updates=1)
    with jax.enable_x64(True):
        agent, state, tau, fresh = doubled((agent, state, tau, fresh))
        past = state.past.write(state.agent, (tau, jax.random.key(2)))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def value_and_slope(eta):
            def value(eta):
                after = past.replay(agent.update, eta)
                return agent.agent.loss(after.params, state.agent, fresh, jax.random.key(3))[0]

            return jax.value_and_grad(value)(eta)

        value, slopes = value_and_slope(state.eta)
        if base == "impala":
            params = past.replay(agent.update, state.eta).params
            policy, values = agent.agent.network.evaluate(params, state.agent, fresh)
            policy = jax.tree.map(lambda x: x[:-1], policy)
            log_rho = policy.log_prob(fresh.action) - fresh.extras["log_prob"]
            target, advantage = agent.agent.estimates(fresh.reward, fresh, values, log_rho)
            fresh = fresh.replace(extras={**fresh.extras, "target": target, "advantage": advantage})
            value_and_slope.clear_cache()
            np.testing.assert_allclose(value_and_slope(state.eta)[0], value, rtol=1e-9)
        assert_slopes(slopes, lambda eta: value_and_slope(eta)[0], state.eta, atol=1e-11)


def test_targets_do_not_see_beyond_an_episode_nor_a_window():
    agent, state, (batch, *_) = experience()
    starts = np.argwhere(np.asarray(batch.valid) == 0)
    assert len(starts)
    row, column = starts[0]
    targets = lambda batch, agent=agent: np.asarray(agent.targets(state.eta, state.agent, batch)[0])  # noqa: E731
    louder = batch.replace(reward=batch.reward.at[row + 1 :].add(5.0))
    np.testing.assert_array_equal(targets(batch)[: row + 1, column], targets(louder)[: row + 1, column])
    assert np.abs(targets(batch) - targets(louder)).max() > 1e-3
    earlier = batch.replace(reward=batch.reward.at[row - 1].add(5.0))
    assert np.abs(targets(batch)[row - 1, column] - targets(earlier)[row - 1, column]) > 1e-4

    cut = agent.replace(window=2)
    later = batch.replace(reward=batch.reward.at[2:].add(5.0))
    np.testing.assert_array_equal(targets(batch, cut)[:2], targets(later, cut)[:2])
    assert np.abs(targets(batch)[:2] - targets(later)[:2]).max() > 1e-4  # without a window they see it


def test_the_loss_of_consistency_is_the_one_by_hand():
    agent, state, (batch, *_) = experience()
    target, value = (np.asarray(x) for x in agent.targets(state.eta, state.agent, batch))
    reward, discount, valid = (np.asarray(x) for x in (batch.reward, batch.discount, batch.valid))
    total = count = 0.0
    for b in range(reward.shape[1]):
        for t in range(len(reward)):
            if not valid[t, b]:
                continue
            inside = t + 1 < len(reward) and valid[t + 1, b]
            after = target[t + 1, b] if inside else value[t + 1, b]
            total += (target[t, b] - reward[t, b] - float(agent.agent.gamma) * discount[t, b] * after) ** 2
            count += 1
    found = agent.consistency(state.eta, state.agent, batch)
    np.testing.assert_allclose(found, total / count, rtol=1e-5)


def test_the_agent_regresses_to_the_rules_targets():
    """The value loss of the base agent is the distance to G_eta; with a rule that says 0 it is V^2 / 2."""
    agent, state, (batch, *_) = experience()
    silent = jax.tree.map(jnp.zeros_like, state.eta)
    _, metrics, _ = agent.update(silent, state.agent, batch, jax.random.key(0))
    value = agent.agent.network.evaluate(state.agent.params, state.agent, batch)[1][:-1]
    expected = float((0.5 * value**2 * batch.valid).sum() / batch.valid.sum())
    np.testing.assert_allclose(metrics["value_loss"], expected, rtol=1e-5)


def test_a_q_function_regresses_to_the_rules_targets():
    """With a rule that says 0 the loss is Q(s, a)^2 / 2; its own returns, which judge, are the ones by hand."""
    agent, state, (batch, *_) = experience("online-q")
    silent = jax.tree.map(jnp.zeros_like, state.eta)
    apply = lambda params: agent.agent.network.apply(params, state.agent.spec, agent.agent.head, batch.observation)  # noqa: E731
    values, target = np.asarray(apply(state.agent.params)), np.asarray(apply(state.agent.target))
    chosen = np.take_along_axis(values[:-1], np.asarray(batch.action)[..., None], -1)[..., 0]
    told = agent.with_targets(silent, state.agent, batch)
    valid = np.asarray(batch.valid)
    found = agent.agent.loss(state.agent.params, state.agent, told, None)[0]
    np.testing.assert_allclose(found, (valid * chosen**2).sum() / valid.sum() / 2, rtol=1e-5)
    _, seen = agent.targets(silent, state.agent, batch)
    np.testing.assert_allclose(seen, values.max(-1), rtol=1e-5)
    returns, after = np.zeros_like(target[..., 0]), target.max(-1)
    returns[-1] = after[-1]
    for t in reversed(range(len(valid))):
        on = returns[t + 1] if t + 1 < len(valid) else after[-1]
        on = np.where(valid[t + 1] > 0, on, after[t + 1]) if t + 1 < len(valid) else on
        returns[t] = batch.reward[t] + float(agent.agent.gamma) * batch.discount[t] * on
    judged = agent.agent.loss(state.agent.params, state.agent, batch, None)[0]
    np.testing.assert_allclose(judged, (valid * (returns[:-1] - chosen) ** 2).sum() / valid.sum() / 2, rtol=1e-4)


def test_probabilities_are_shown_where_asked():
    agent, state, (batch, *_) = experience(off_policy=True)
    seen = agent.targets(state.eta, state.agent, batch)[0]
    other = batch.replace(extras={**batch.extras, "log_prob": batch.extras["log_prob"] - 1.0})
    assert np.abs(agent.targets(state.eta, state.agent, other)[0] - seen).max() > 1e-4


def test_off_the_policy_it_is_judged_with_correction_and_learns_without():
    """Around IMPALA with a lag: V-trace judges, and the inner update is the rule's targets alone, whatever acted."""
    agent, state, (*_, batch) = experience("impala", off_policy=False)
    other = batch.replace(extras={**batch.extras, "log_prob": batch.extras["log_prob"] - 1.0})
    after = [agent.update(state.eta, state.agent, b, jax.random.key(0))[0].params for b in (batch, other)]
    jax.tree.map(np.testing.assert_array_equal, *after)
    judged = [agent.agent.loss(state.agent.params, state.agent, b, None)[0] for b in (batch, other)]
    assert abs(judged[0] - judged[1]) > 1e-4


def test_only_actor_critics_take_targets():
    for agent in (op.DQN(), op.REINFORCE()):
        with pytest.raises(UserError, match="takes no targets"):
            FRODO(agent=agent).check()
    for agent, wrong in ((op.OnlineQ(), "no policy"), (op.TD(), "no policy")):
        with pytest.raises(UserError, match=wrong):
            FRODO(agent=agent, off_policy=True).check()
    with pytest.raises(UserError, match="sarsa"):
        FRODO(agent=op.OnlineQ(following="sarsa")).check()
    with pytest.raises(UserError, match="without one"):
        FRODO(agent=FRODO()).check()
