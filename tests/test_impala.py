"""IMPALA: its loss off the policy by hand, A2C as the case on policy, the lag of the parameters that act."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, WIDTH, Ends, Probe, differing, largest_difference, tiny_agent
from test_agents import plan, train
from test_contract import NARROW, doubled, situations, two_batches

import operant as op
from operant.agent import dials, strong, with_dials
from operant.envs.base import batched
from operant.envs.worlds import Cells
from operant.gradient import State
from operant.ops.losses import l2
from operant.rollout import begin, environment_keys, rollout
from operant.types import transitions

pytestmark = pytest.mark.of("impala")

KEY = jax.random.key(2)
EPISODES = [(0, 0, 2), (0, 3, 5), (1, 0, 2), (1, 3, 5)]
"""(environment, first row, end) of the four episodes in the harness's batch; only the first terminates."""
DIALS = {
    "on policy's corner": {},
    "leaky": {"gae_lambda": 0.8, "truncation": 0.4, "clip_rho": 1.1, "clip_c": 0.9},
    "importance sampling": {"gae_lambda": 0.9, "truncation": 0.0},
    "truncated to nothing but one step": {"clip_c": 0.0, "clip_rho": 0.7, "policy_cost": 0.3},
}


@functools.cache
def situation():
    """(agent, state, batch, params): a roll-out in all four cases, and parameters that would act otherwise."""
    case = Ends("impala")
    batch, _ = case.batch()
    noise = iter(jax.random.split(jax.random.key(7), 100))
    params = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(next(noise), x.shape), case.state.params)
    return case.agent.replace(lag=0), case.state, batch, params


def by_hand(agent, batch, value, log_prob):
    """Targets, and advantages with their weights, episode by episode and backwards, in NumPy [T, B]."""
    d = {name: float(x) for name, x in dials(agent).items()}
    ratio = np.exp(log_prob - np.asarray(batch.extras["log_prob"], np.float64))
    rho = d["truncation"] * np.minimum(d["clip_rho"], ratio) + (1 - d["truncation"]) * ratio
    c = d["gae_lambda"] * (d["truncation"] * np.minimum(d["clip_c"], ratio) + (1 - d["truncation"]) * ratio)
    reward, targets, advantages = np.asarray(batch.reward, np.float64), np.zeros((5, WIDTH)), np.zeros((5, WIDTH))
    for b, begin_, end in EPISODES:
        error = 0.0
        for t in reversed(range(begin_, end)):
            goes_on = 0.0 if (b, t) == (0, 1) else 1.0
            leads_to = value[t + 1, b] + d["gae_lambda"] * error
            advantages[t, b] = rho[t, b] * (reward[t, b] + d["gamma"] * goes_on * leads_to - value[t, b])
            delta = rho[t, b] * (reward[t, b] + d["gamma"] * goes_on * value[t + 1, b] - value[t, b])
            error = delta + d["gamma"] * goes_on * c[t, b] * error
            targets[t, b] = value[t, b] + error
    return targets, advantages


@pytest.mark.parametrize("name", DIALS)
def test_the_loss_of_other_parameters_and_its_gradient_equal_those_by_hand(name: str):
    agent, state, batch, params = situation()
    agent = strong(with_dials(agent, DIALS[name]))
    loss = jax.jit(jax.value_and_grad(agent.loss, has_aux=True), compiler_options=QUICK)
    (total, metrics), gradient = loss(params, state, batch, KEY)

    def parts(params):
        policy, value = agent.network.evaluate(params, state, batch)
        return jax.tree.map(lambda x: x[:-1], policy), value

    policy, value = parts(params)
    log_prob = np.asarray(policy.log_prob(batch.action), np.float64)
    log_ratio = log_prob - np.asarray(batch.extras["log_prob"])
    valid = np.asarray(batch.valid) > 0
    assert (log_ratio[valid] > 0.1).any() and (log_ratio[valid] < -0.1).any()
    targets, advantages = by_hand(agent, batch, np.asarray(value, np.float64), log_prob)

    def objective(params):
        """Targets and advantages are constants: gradients go through log pi, V and H alone."""
        policy, value = parts(params)
        mean = lambda x: jnp.sum(jnp.where(valid, x, 0.0)) / valid.sum()  # noqa: E731
        policy_loss = mean(-policy.log_prob(batch.action) * advantages)
        value_loss, entropy = mean(l2(targets - value[:-1])), mean(policy.entropy())
        costs = agent.policy_cost, agent.value_cost, -agent.entropy_cost
        return sum(cost * x for cost, x in zip(costs, (policy_loss, value_loss, entropy), strict=True)), (
            policy_loss, value_loss, entropy,
        )  # fmt: skip

    (expected, several), by_parts = jax.value_and_grad(objective, has_aux=True)(params)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for metric, x in zip(("policy_loss", "value_loss", "entropy"), several, strict=True):
        np.testing.assert_allclose(metrics[metric], x, rtol=1e-5)
    error, leaf = largest_difference(gradient, by_parts)
    assert error < 1e-5, f"{leaf} differs by {error:g}"
    np.testing.assert_allclose(metrics["off_policy_kl"], -log_ratio[valid].mean(), rtol=1e-5)
    beyond = log_ratio[valid] > np.log(float(agent.clip_rho)) + 1e-3
    np.testing.assert_allclose(metrics["truncated"], beyond.mean(), rtol=1e-5)


@pytest.mark.parametrize("gae_lambda", [1.0, 0.7])
def test_on_policy_it_is_a2c(gae_lambda: float):
    """And so, with lambda = 1, n-step actor-critic, whatever the clips above 1 and the leak."""
    agent, state, batch, _ = situation()
    agent = strong(with_dials(agent, {"gae_lambda": gae_lambda, "truncation": 0.3, "clip_rho": 1.5}))
    same = {name: x for name, x in dials(agent).items() if name in dials(op.A2C())}
    a2c = with_dials(op.A2C(network=agent.network), same)
    ours, theirs = (
        jax.jit(jax.value_and_grad(one.loss, has_aux=True), compiler_options=QUICK)(state.params, state, batch, KEY)
        for one in (agent, a2c)
    )
    np.testing.assert_allclose(ours[0][0], theirs[0][0], rtol=1e-5)
    np.testing.assert_allclose(ours[0][1]["value_loss"], theirs[0][1]["value_loss"], rtol=1e-5)
    error, leaf = largest_difference(ours[1], theirs[1])
    assert error < 1e-5, f"{leaf} differs by {error:g}"
    assert float(ours[0][1]["truncated"]) == 0 and abs(float(ours[0][1]["off_policy_kl"])) < 1e-6


def test_importance_sampling_of_an_action_that_was_next_to_impossible_stays_finite():
    agent, state, batch, params = situation()
    batch = batch.replace(extras={**batch.extras, "log_prob": batch.extras["log_prob"].at[0].set(-300.0)})

    def total(agent, params):
        return agent.loss(params, state, batch, KEY)[0]

    for truncation in (0.0, 0.5, 1.0):
        tuned = strong(with_dials(agent, {"truncation": truncation}))
        value, gradient = jax.jit(jax.value_and_grad(total, (0, 1)), compiler_options=QUICK)(tuned, params)
        assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_meta_gradients_of_all_dials_are_those_of_finite_differences():
    """d J(learn(theta, tau; agent)) / d agent, with the loss of A2C for J: its targets do not move with theta'."""
    agent = op.IMPALA(num_envs=2, network=NARROW).replace(
        learning_rate=0.02, gae_lambda=0.9, truncation=0.6, clip_rho=1.03, clip_c=1.01, max_grad_norm=0.05, eps=1e-4
    )
    outer, following = strong(op.A2C(num_envs=2, network=NARROW)), two_batches()[1][1]
    with jax.enable_x64(True):
        agent, outer, following = doubled((strong(agent), outer, following))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def objective_and_gradient(agent, state, tau):
            def objective(agent):
                after, _, _ = agent.learn(state, tau, jax.random.key(1))
                return outer.loss(after.params, state, following, jax.random.key(2))[0]

            return jax.value_and_grad(objective)(agent)

        for situation, state, tau in situations(agent):
            state, tau = doubled((state, tau))
            found = {name: float(x) for name, x in dials(objective_and_gradient(agent, state, tau)[1]).items()}
            assert all(np.isfinite(x) for x in found.values()), (situation, found)
            for name, x in dials(agent).items():
                h = 1e-6 * max(abs(float(x)), 0.1)
                h = min(h, float(x) / 2)  # eps must stay above 0
                up, down = (
                    float(objective_and_gradient(with_dials(agent, {name: x + sign * h}), state, tau)[0])
                    for sign in (1, -1)
                )
                expected = (up - down) / (2 * h)
                np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=5e-9, err_msg=f"{situation}: {name}")
            if situation == "running":
                assert all(abs(x) > 1e-8 for x in found.values()), found


# -------------------------------------------------------------------------------------------------------- correction
def test_corrections_differ_in_where_the_ratios_go():
    """One-step: returns as if on policy, and min(rho_bar, rho) on the policy's gradient alone; none: no ratio."""
    agent = tiny_agent("impala").replace(lag=3, learning_rate=1e-2)
    (*_, (state, batch, _)), _ = play(agent, 3)
    policy, value = agent.network.evaluate(state.params, state, batch)
    policy = jax.tree.map(lambda x: x[:-1], policy)
    log_rho = policy.log_prob(batch.action) - batch.extras["log_prob"]
    of = lambda kind, rho: agent.replace(correction=kind).estimates(batch.reward, batch, value, rho)  # noqa: E731
    plain, weighted, traced = (of(kind, log_rho) for kind in ("none", "one-step", "vtrace"))
    same = of("vtrace", jnp.zeros_like(log_rho))  # V-trace on policy
    for got, expected in zip(plain, same, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(weighted[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(weighted[1], np.minimum(np.exp(log_rho), agent.clip_rho) * plain[1], atol=1e-6)
    assert np.abs(traced[0] - plain[0]).max() > 1e-4


def test_a_batch_keeps_estimates_of_its_own():
    agent = tiny_agent("impala").replace(lag=3)
    (*_, (state, batch, _)), _ = play(agent, 2)
    told = {"target": jnp.full(batch.reward.shape, 2.0), "advantage": jnp.zeros(batch.reward.shape)}
    batch = batch.replace(extras={**batch.extras, **told})
    _, metrics = agent.loss(state.params, state, batch, KEY)
    value = agent.network.evaluate(state.params, state, batch)[1][:-1]
    expected = float((0.5 * (2.0 - value) ** 2 * batch.valid).sum() / batch.valid.sum())
    np.testing.assert_allclose(metrics["value_loss"], expected, rtol=1e-5)
    assert float(metrics["policy_loss"]) == 0.0


# --------------------------------------------------------------------------------------------------------------- lag
def play(agent, updates: int):
    """[(state before, batch, metrics)] of so many updates of one lane, and the state after them."""
    env = batched(Probe(), WIDTH)
    agent = strong(agent)
    one = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)  # noqa: E731

    @functools.partial(jax.jit, compiler_options=QUICK)
    def update(state, stage, key):
        act_key, learn_key = jax.random.split(key)
        stage, batch = rollout(one(agent), one(state), env, stage, act_key[None], agent.rollout_length)
        carry = jax.tree.map(lambda x: x[0], batch.carry)
        batch = jax.tree.map(lambda x: x[:, 0], batch.replace(carry=())).replace(carry=carry)
        new, metrics, _ = agent.learn(state, batch, learn_key)
        return new, stage, batch, metrics

    state = agent.init(jax.random.key(0), env.spec.replace(total_steps=1000))
    stage = begin(one(agent), one(state), env, environment_keys(jax.random.key(1), WIDTH), 1)
    history = []
    for i in range(updates):
        new, stage, batch, metrics = update(state, stage, jax.random.key(i))
        history.append((state, batch, metrics))
        state = new
    return history, state


def test_the_parameters_that_act_are_renewed_after_every_lag_updates():
    agent = tiny_agent("impala", learning_rate=1e-2).replace(lag=3, learning_rate=1e-2)
    history, last = play(agent, 7)
    states = [state for state, _, _ in history] + [last]
    for i, state in enumerate(states):
        assert int(state.updates) == i
        assert differing(state.acting, states[i - i % 3].params) == []
        assert bool(differing(state.acting, state.params)) == (i % 3 != 0)
    for i, (state, batch, metrics) in enumerate(history):
        policy, _ = agent.network.evaluate(state.acting, state, transitions(batch))
        rows = np.asarray(batch.valid) > 0
        np.testing.assert_allclose(
            np.asarray(policy.log_prob(batch.action))[rows], np.asarray(batch.extras["log_prob"])[rows], atol=1e-5
        )
        assert (abs(float(metrics["off_policy_kl"])) > 1e-4) == (i % 3 != 0)


def test_evaluation_plays_the_newest_parameters():
    agent = tiny_agent("impala").replace(lag=3, learning_rate=1e-2)
    (*_, (state, batch, _)), _ = play(agent, 3)
    assert differing(state.acting, state.params)
    row = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    stage = begin(*jax.tree.map(lambda x: jnp.asarray(x)[None], (strong(agent), state)), batched(Probe(), WIDTH),
                  environment_keys(KEY, WIDTH), 1)  # fmt: skip
    timestep = row(stage.timestep).replace(observation=row(batch.observation))
    carry = agent.start(state, WIDTH)
    value = {explore: agent.act(state, timestep, carry, KEY, explore)[2]["value"] for explore in (True, False)}
    for explore, params in ((True, state.acting), (False, state.params)):
        expected = agent.network.evaluate(params, state, transitions(batch))[1][0]
        np.testing.assert_allclose(value[explore], expected, atol=1e-6)
    assert differing(value[True], value[False])


def test_without_a_lag_there_is_no_copy():
    runs = [play(tiny_agent("impala").replace(lag=lag), 3) for lag in (0, 1)]
    assert all(type(last) is State for _, last in runs)
    assert differing(runs[0][1], runs[1][1]) == []
    assert all(abs(float(metrics["off_policy_kl"])) < 1e-6 for _, _, metrics in runs[0][0])


def test_it_learns_from_a_policy_that_is_eight_updates_old():
    agent, updates = plan("impala")
    world = Cells()
    returns = train(agent.replace(lag=8), world, updates)
    share = (returns - world.random_return) / (world.optimal_return - world.random_return)
    assert (share > 0.9).all(), share
