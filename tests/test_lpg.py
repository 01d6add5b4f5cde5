"""LPG and its discovery: the update by hand, the meta-gradient by finite differences, lives, and rules in use."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, Probe, assert_slopes, course, shrink
from test_contract import doubled

import operant as op
from operant import methods
from operant.agent import dials, strong
from operant.envs.worlds import SmallGrid
from operant.errors import UserError
from operant.lives import FACTORS, Lives
from operant.meta import Tape
from operant.methods.meta.discover import Discover
from operant.rollout import blank_batch
from operant.rules import PREDICTIONS
from operant.run.figures import draw_portrait

pytestmark = pytest.mark.of("lpg", "discover")


def small(**changes):
    agent = shrink(methods.build("discover:lpg"), lives=3, rollout_length=6)
    return methods.apply(agent, {"agent.learning_rate": 5.0, **changes})


KINDS = [cls.registered_name for cls in PREDICTIONS]


@functools.cache
def experience(kind="own-prediction"):
    """Discovery in its second window, with a rule that says something, its agents, and the last two batches."""
    agent = strong(small(inner_updates=2, lifetime=1_000_000, **{"agent.prediction": kind}))
    run = course(agent, Probe(), 3)[-1][0]
    state = jax.tree.map(lambda x: x[0], run.state)
    loud = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), state.eta)
    batches = jax.tree.map(lambda x: x, state.past.inputs[0])
    return agent, state.replace(eta=loud), batches


def one_life(kind="own-prediction"):
    agent, state, batches = experience(kind)
    theta = jax.tree.map(lambda x: x[1], state.agent.agents[0]).replace(eta=state.eta)
    return agent.agent, theta, jax.tree.map(lambda x: x[0, 1], batches)


def test_an_update_is_the_one_by_hand():
    """Plain descent of -mean(pi_hat log pi - alpha_y KL(y || y_hat)), all that the rule says being constant."""
    agent, theta, batch = one_life()
    agent = agent.replace(max_grad_norm=jnp.asarray(jnp.inf))

    def outputs(params):
        return agent.heads(params, theta, batch.observation)

    pi_hat, y_hat = agent.told(theta, *outputs(theta.params), batch)

    def loss(params):
        logits, y = outputs(params)
        probs, y = jax.nn.softmax(logits[:-1]), jax.nn.softmax(y[:-1])
        log_pi = jnp.log(jnp.take_along_axis(probs, batch.action[..., None], -1)[..., 0])
        kl = (y * (jnp.log(y) - jnp.log(y_hat))).sum(-1)
        return -jnp.sum(batch.valid * (pi_hat * log_pi - agent.alpha_y * kl)) / batch.valid.sum()

    expected = jax.tree.map(lambda p, g: p - agent.learning_rate * g, theta.params, jax.grad(loss)(theta.params))
    after, metrics, _ = agent.learn(theta, batch, jax.random.key(0))
    for found, wanted in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert float(metrics["pi_hat"]) > 0.01


@pytest.mark.parametrize("kind", KINDS[1:])
def test_other_predictions_are_learned_by_hand(kind):
    """A value goes to its lambda-return, which the rule has no say in; without a prediction the policy learns alone."""
    agent, theta, batch = one_life(kind)
    agent = agent.replace(max_grad_norm=jnp.asarray(jnp.inf))
    logits, y = agent.heads(theta.params, theta, batch.observation)
    pi_hat, y_hat = agent.told(theta, logits, y, batch)
    assert y_hat.shape[-1] == 0 and y.shape[-1] == (kind == "value-prediction")
    reward, discount, valid, value = (
        np.asarray(x, np.float64) for x in (batch.reward, batch.discount, batch.valid, y.sum(-1))
    )
    gamma, lam, error = float(agent.gamma), 0.9, np.zeros_like(value)
    for t in reversed(range(len(reward))):
        delta = reward[t] + gamma * discount[t] * value[t + 1] - value[t]
        error[t] = valid[t] * (delta + gamma * lam * discount[t] * error[t + 1])
    target = (value + error)[:-1]

    def loss(params):
        logits, y = agent.heads(params, theta, batch.observation)
        log_pi = jnp.take_along_axis(jax.nn.log_softmax(logits[:-1]), batch.action[..., None], -1)[..., 0]
        squares = 0.5 * (jnp.float32(target) - y[:-1].sum(-1)) ** 2 if y.shape[-1] else 0.0
        return -jnp.sum(batch.valid * (pi_hat * log_pi - agent.alpha_y * squares)) / batch.valid.sum()

    expected = jax.tree.map(lambda p, g: p - agent.learning_rate * g, theta.params, jax.grad(loss)(theta.params))
    after, metrics, _ = agent.learn(theta, batch, jax.random.key(0))
    for found, wanted in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert (float(metrics["prediction_loss"]) > 0) == (kind == "value-prediction")


def test_the_rule_sees_to_the_end_of_an_episode_and_no_further():
    agent, theta, batch = one_life()
    said = lambda batch: np.asarray(agent.told(theta, *agent.heads(theta.params, theta, batch.observation), batch)[0])  # noqa: E731
    rows, columns = np.nonzero(np.asarray(batch.valid) == 0)
    row, column = rows[0], columns[0]
    later = batch.replace(reward=batch.reward.at[row:, column].add(3.0))
    np.testing.assert_array_equal(said(batch)[:row, column], said(later)[:row, column])
    earlier = batch.replace(reward=batch.reward.at[row - 1, column].add(3.0))
    assert (np.abs(said(earlier) - said(batch))[:row, column] > 1e-6).all()
    if batch.discount[row - 1, column] == 1:  # a time limit: the prediction at its last observation counts
        moved = batch.replace(observation=batch.observation.at[row, column].add(0.7))
        assert np.abs(said(moved) - said(batch))[row - 1, column] > 1e-6
    blind = agent.replace(bootstrap=False)
    other = blind.told(theta, *agent.heads(theta.params, theta, batch.observation), batch)[0]
    assert np.abs(other - said(batch)).max() > 1e-4


@pytest.mark.parametrize(("updates", "kind"), [(0, KINDS[0]), *((1, kind) for kind in KINDS)])
def test_the_meta_gradient_is_that_of_finite_differences(updates, kind):
    """d (mean judgement of all lives) / d eta, for the largest entry of each tensor of eta: the sizes of what the rule
    says before an update, the rest after one.

    What the rule is shown of an agent is a constant to the derivative, and not to a difference: so sizes, which depend
    on it once eta has moved the agent, are left out there, and more updates are too.
    """
    agent, state, batches = experience(kind)
    fresh = jax.tree.map(lambda x: x[1], batches)
    if updates:
        sizes = [name for name in dials(agent) if name.endswith("size_cost")]
        agent = methods.apply(agent, dict.fromkeys(sizes, 0.0))
        agent = strong(agent)
    with jax.enable_x64(True):
        agent, state, batches, fresh = doubled((agent, state, batches, fresh))
        thetas, critics = state.agent.agents
        inputs = jax.tree.map(lambda x: x[:updates], (batches, state.agent.setting[None]))
        tape = Tape(thetas, inputs, jnp.asarray(updates))

        @functools.partial(jax.jit, compiler_options=QUICK)
        @jax.value_and_grad
        def value_and_slope(eta):
            def judge(theta, critic, b):
                advantage = agent.critic.advantages(critic, b, theta.spec, agent.agent.gamma)
                return agent.agent.judge(theta.replace(eta=eta), b, advantage)[0]

            return jax.vmap(judge)(tape.replay(agent.update, eta), critics, fresh).mean()

        slopes = value_and_slope(state.eta)[1]
        assert_slopes(slopes, lambda eta: value_and_slope(eta)[0], state.eta)


def test_lives_end_and_begin_in_new_tasks_of_their_own():
    """Each life keeps its task; a reborn one has a new agent, a new task, and learns nothing of its predecessor's."""
    agent = small(inner_updates=2, lifetime=4)
    runs = course(agent, SmallGrid(), 12)
    born = 0
    for (run, _), (after, _) in zip(runs, runs[1:], strict=False):
        old, new = (jax.tree.map(lambda x: np.asarray(x)[0], r.state.agent) for r in (run, after))
        renewed = old.task != new.task
        born += renewed.sum()
        assert (new.age[renewed] == 0).all()  # its environments begin before the next roll-out
        assert (new.age[~renewed] == old.age[~renewed] + 1).all()
        walls = np.asarray(after.stage.env_state.world.task.cells).reshape(agent.lives, agent.agent.num_envs, -1)
        assert (walls == walls[:, :1]).all()  # all environments of a life are in one task
        before = np.asarray(run.stage.env_state.world.task.cells).reshape(walls.shape)
        same = (walls == before).all((1, 2))
        assert same[old.age > 0].all()  # and stay in it
        table = np.asarray(new.agents[0].params["table"])
        assert (table[renewed] == 0).all()
    assert born >= agent.lives and len({tuple(x) for x in walls[:, 0].tolist()}) > 1
    assert all(np.isfinite(float(metrics["meta_loss"][0])) for _, metrics in runs)


def test_a_bandit_prefers_settings_that_did_well():
    lives = Lives.begin(lambda key, setting: setting, 64, 3, 10, jax.random.key(0))
    reward = jnp.where(lives.setting == 2, 1.0, 0.0)
    renewed = lives.renew(jnp.ones(64, bool), lambda key, setting: setting, reward, 10, jax.random.key(1))
    counts = np.bincount(np.asarray(renewed.setting), minlength=3)
    assert counts[2] > counts[0] > 0 and counts[2] > counts[1] > 0
    np.testing.assert_allclose(renewed.score, [0.0, 0.0, 1.0])
    none = lives.renew(jnp.zeros(64, bool), lambda key, setting: -setting, reward, 10, jax.random.key(1))
    np.testing.assert_array_equal(none.agents, lives.agents)
    np.testing.assert_array_equal(none.score, 0.0)


def test_lives_differ_in_their_step_sizes():
    agent = small()
    rates = {float(agent.member(jnp.asarray(i)).learning_rate) for i in range(9)}
    assert rates == {5.0 * factor for factor in FACTORS}
    assert {float(agent.member(jnp.asarray(i)).alpha_y) for i in range(9)} == {0.5 * factor for factor in FACTORS}


def test_a_rule_is_found_that_teaches(tmp_path):
    """After a few hundred meta steps on one-step bandit-like grids, agents earn more than under the first rule; the
    rule is then used by another run."""
    agent = methods.apply(
        methods.build("discover:lpg", "operant:SmallGrid-v0"),
        {"meta_learning_rate": 3e-3, "lives": 16, "agent.num_envs": 8, "agent.size": 16, "lifetime": 40},
    )
    run = op.train(agent, "operant:SmallGrid-v0", steps=1_600_000, quiet=True, run_dir=tmp_path / "found",
                   env_options={"largest": 4})  # fmt: skip
    rewards = np.concatenate([np.ravel(row["reward"]) for row in run.directory.metrics() if "reward" in row])
    assert rewards[-5:].mean() > 1.5 * rewards[:5].mean()
    with pytest.raises(UserError, match="init-from"):
        run.evaluate()
    used = op.train(
        methods.apply(methods.build("lpg", "operant:SmallGrid-v0"), {"size": 16}), "operant:SmallGrid-v0",
        steps=1_000, quiet=True, init_from=run.path, run_dir=tmp_path / "used", env_options={"largest": 4},
    )  # fmt: skip
    for found, kept in zip(jax.tree.leaves(run.state.state.eta), jax.tree.leaves(used.state.state.eta), strict=True):
        np.testing.assert_array_equal(found, kept)


def test_only_agents_with_a_rule_are_discovered():
    for agent in (op.A2C(), op.MetaGradient(), op.FRODO()):
        with pytest.raises(UserError, match="no rule to learn"):
            Discover(agent=agent).check()
    with pytest.raises(UserError, match="vary names gae_lambda"):
        Discover(vary=("gae_lambda",)).check()


def test_the_portrait_shows_what_the_rule_says(tmp_path):
    agent, theta, _ = one_life()
    panels = agent.portrait(theta)
    by_reward, credit, by_prediction, target = panels
    assert all(len(line) == len(panel.x) for panel in panels for line in panel.lines.values())
    at = int(np.argmin(np.abs(by_reward.x - 0.5)))
    even = jnp.full((21, 1, agent.prediction.m), 1.0 / agent.prediction.m)
    blank = blank_batch(agent, theta, theta.spec.replace(num_envs=1), 20)
    alive = jnp.ones_like(blank.reward)
    batch = blank.replace(reward=blank.reward.at[0].set(0.5), discount=alive, valid=alive)
    prob = jnp.full((20, 1), 1.0 / theta.spec.action.n)
    pi_hat, y_hat = agent.rule.apply({"params": theta.eta}, batch, agent.gamma, prob, even)
    np.testing.assert_allclose(by_reward.lines["goes on"][at], pi_hat[0, 0], rtol=1e-4)
    np.testing.assert_allclose([line[at] for line in target.lines.values()], y_hat[0, 0], rtol=1e-4)
    zero = int(np.argmin(np.abs(by_reward.x)))
    gained = by_reward.lines["goes on"][-1] - by_reward.lines["goes on"][zero]
    np.testing.assert_allclose(credit.lines["_"][0], gained, rtol=1e-3, atol=1e-6)
    assert np.ptp(by_prediction.lines["here"]) > 0
    titles = [[panel.title for panel in a.portrait(t)] for a, t, _ in map(one_life, KINDS[1:])]
    assert titles == [[panel.title for panel in panels][:n] for n in (3, 2)]  # no targets; no prediction either
    assert draw_portrait(panels, tmp_path / "figures" / "portrait.png", "rule").stat().st_size > 10_000
