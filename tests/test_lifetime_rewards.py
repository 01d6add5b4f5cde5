"""Rewards learned over lives: the meta-gradient by finite differences, memories, returns over lifetimes, and use."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, Probe, assert_slopes, course, differing, shrink
from test_contract import doubled

import operant as op
from operant import methods
from operant.agent import strong
from operant.errors import UserError
from operant.lifelong import BUCKETS
from operant.methods.meta.lifetime_rewards import LifetimeRewards
from operant.run.figures import draw_portrait

pytestmark = pytest.mark.of("lifetime-rewards", "pupil")


def small(**changes):
    """Three lives of two environments each."""
    agent = shrink(methods.build("lifetime-rewards"), lives=3, rollout_length=6)
    return methods.apply(agent, {"agent.learning_rate": 2.0, "lifetime": 1_000_000, **changes})


@functools.cache
def experience():
    """Agent, state in its second window with a reward that says something, and the window's two batches [L, T, P]."""
    agent = strong(small())
    run = course(agent, Probe(), 3)[-1][0]
    state = jax.tree.map(lambda x: x[0], run.state)
    loud = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), state.eta)
    batches = state.past.inputs[0]
    assert (np.asarray(batches.valid) == 0).any((0, 2, 3)).all()  # episodes end in every life
    return agent, state.replace(eta=loud), batches


def one_life():
    """The base agent, its state at birth with the loud reward, and two batches of one life that follow each other."""
    agent, state, batches = experience()
    theta = jax.tree.map(lambda x: x[1], state.past.before).replace(eta=state.eta)
    theta = theta.replace(memory=jax.tree.map(jnp.zeros_like, theta.memory))
    second, first = (jax.tree.map(lambda x, i=i: x[i, 1], batches) for i in (0, 1))
    return agent.agent, theta, first, second


def rewards(agent, theta, batch):
    return np.asarray(paid(agent, theta, batch)[0])


def quick(method):
    """A method of an agent, compiled."""
    return jax.jit(lambda agent, *args: getattr(agent, method)(*args), compiler_options=QUICK)


paid, learned = quick("rewards"), quick("learn")


# ------------------------------------------------------------------------------------------------------- the meta step
def test_the_meta_gradient_is_that_of_finite_differences():
    """d (mean judgement after each of two updates of all lives) / d eta, for the largest entry of each tensor."""
    agent, state, batches = experience()
    advantage = jax.random.normal(jax.random.key(2), batches.reward.shape)
    with jax.enable_x64(True):
        agent, state, batches, advantage = doubled((agent, state, batches, advantage))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def value_and_slope(eta):
            return jax.value_and_grad(agent.judge)(eta, state.past, batches, advantage)

        slopes = value_and_slope(state.eta)[1]
        assert_slopes(slopes, lambda eta: value_and_slope(eta)[0], state.eta, step=1e-5, rtol=1e-4, least=1e-7)


def test_every_policy_of_the_window_is_judged_on_the_trajectory_that_it_acted_in():
    """The replayed policies are those that the lives had; the judgement is -A log pi under each, by hand."""
    agent = strong(small())
    runs = [jax.tree.map(lambda x: x[0], run.state) for run, _ in course(agent, Probe(), 4)]
    before, after = runs[1], runs[2]  # theta_2, that a window of two ends with, and theta_3, one behind it
    replayed = jax.jit(lambda state: state.past.replay(agent.update, state.eta, every=True))(before)
    last = jax.jit(lambda state: state.past.replay(agent.update, state.eta))(before)
    for each, end, lived in zip(*map(jax.tree.leaves, (replayed, last, before.agent.agents[0])), strict=True):
        np.testing.assert_allclose(each[-1], end, rtol=1e-6)
        np.testing.assert_allclose(end, lived, rtol=1e-4, atol=1e-6)
    judged = jax.tree.map(lambda past, now: jnp.stack([past[1], now[0]]), before.past.inputs[0], after.past.inputs[0])
    advantage = jax.random.normal(jax.random.key(4), judged.reward.shape)
    total = 0.0
    for life in range(3):
        for i, thetas in enumerate((runs[0].agent.agents[0], before.agent.agents[0])):
            theta = jax.tree.map(lambda x, life=life: x[life], thetas)
            batch = jax.tree.map(lambda x, i=i, life=life: x[i, life], judged)
            logits = agent.agent.taught(theta, batch).logits
            chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(batch.action)[..., None], -1)
            total += -(chosen[..., 0] * advantage[i, life] * batch.valid).sum() / batch.valid.sum() / 6
    np.testing.assert_allclose(quick("judge")(agent, before.eta, before.past, judged, advantage), total, rtol=1e-4)


def lifetime_returns(reward, valid, value, gamma):
    """From the end: nothing stops at an episode's end, and no time passes from there to the next beginning."""
    returns = [value[-1]]
    for r, v in zip(reward[::-1], valid[::-1], strict=True):
        returns.append(r + gamma * returns[-1] if v else returns[-1])
    return np.array(returns[:0:-1])


@pytest.mark.parametrize("over", [0.0, 1.0])
def test_lifetime_returns_run_on_across_the_ends_of_episodes(over):
    agent, state, batches = experience()
    life = jax.tree.map(lambda x: x[:, 1], batches)
    memory = jax.tree.map(lambda x: x[1], state.agent.agents[1])
    spec, phi = state.agent.agents[0].spec, jax.tree.map(lambda x: 2.0 * x, state.critic[0])
    error, (advantage, after) = agent.value.of(phi, spec, life, memory, over)
    moments = [agent.value.network.moments(jax.tree.map(lambda x, i=i: x[i], life), True, False) for i in range(2)]
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a[:-1], b]), *moments)
    value = np.asarray(agent.value.network.along(phi, spec, whole, memory)[0], np.float64)
    value[-1] *= 1.0 - over  # behind a life's end there is nothing
    for column in range(value.shape[1]):
        rows = (np.asarray(x, np.float64)[..., column].ravel() for x in (life.reward, life.valid))
        expected = lifetime_returns(*rows, value[:, column], float(agent.value.gamma)) - value[:-1, column]
        np.testing.assert_allclose(advantage[..., column].ravel(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(error, np.square(advantage).mean() / 2, rtol=1e-5)
    # a later episode's reward counts for an earlier one, unless episodes are what is judged
    end = int(np.flatnonzero(np.asarray(life.valid[..., 0]).ravel() == 0)[0])
    richer = life.replace(
        reward=life.reward.at[1, -1].add(1.0) if life.valid[1, -1, 0] else life.reward.at[1, -2].add(1)
    )
    for objective, reaches in (("lifetime", True), ("episodic", False)):
        critic = agent.value.replace(objective=objective)
        first, second = (critic.of(phi, spec, b, memory, over)[1][0][..., 0].ravel() for b in (life, richer))
        assert (np.abs(second - first)[:end].max() > 1e-3) == reaches


# --------------------------------------------------------------------------------------------------------- the reward
def test_a_memory_goes_on_across_episodes_and_rollouts():
    agent, theta, first, second = one_life()
    reward, memory = paid(agent, theta, first)
    went_on = paid(agent, theta.replace(memory=memory), second)
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a, b[1:]]), *map(agent.moments, (first, second)))
    along, end = agent.reward.along(
        theta.eta, theta.spec, jax.tree.map(lambda x: x[1:], whole), agent.reward.start(first.reward.shape[1])
    )
    np.testing.assert_allclose(np.concatenate([reward, went_on[0]]), jnp.tanh(along), rtol=1e-5, atol=1e-6)
    for x, y in zip(jax.tree.leaves(went_on[1]), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    # the first reward of the life is still remembered in the next rollout, episodes later; later ones are not foreseen
    other = rewards(agent, theta, first.replace(reward=first.reward.at[0].add(3.0)))
    assert np.abs(other - reward)[-1].max() > 1e-4
    later = rewards(agent, theta, first.replace(reward=first.reward.at[3].add(3.0)))
    np.testing.assert_array_equal(later[:3], reward[:3])
    blank = agent.replace(reward=agent.reward.replace(cell=""))
    assert blank.reward.start(2) == ()


def test_lives_end_after_their_episodes_and_newborns_remember_nothing():
    agent = small(lifetime=6, inner_updates=2)
    runs = course(agent, Probe(), 16)
    born = 0
    for (run, _), (after, _) in zip(runs, runs[1:], strict=False):
        old, new = (jax.tree.map(lambda x: np.asarray(x)[0], r.state.agent) for r in (run, after))
        renewed = old.task != new.task
        born += renewed.sum()
        assert (old.left[renewed] <= 0).all()
        thetas, memory, record = new.agents
        for x in (*jax.tree.leaves((thetas.memory, memory)), record):
            assert (x[renewed] == 0).all()
        for x in jax.tree.leaves(thetas.memory):
            assert (x[(old.age > 0) & ~renewed] != 0).any((1, 2)).all()
        assert (record[~renewed, 1].sum(-1) >= old.agents[2][~renewed, 1].sum(-1)).all()
    assert born >= 4
    assert all(np.isfinite(float(metrics["value_loss"][0])) for _, metrics in runs)


def test_without_its_reward_input_nothing_of_the_tasks_reward_reaches_the_policy():
    agent, theta, first, _ = one_life()
    richer = first.replace(reward=first.reward + 1.0, extras={**first.extras, "reward": first.extras["reward"] + 1.0})
    for sees in (True, False):
        blind = agent.replace(sees_reward=sees)
        eta = blind.reward.init(jax.random.key(0), theta.spec, blind.moments(first))
        eta = jax.tree.map(lambda x: x + 0.3, eta)
        states = [learned(blind, theta.replace(eta=eta), b, jax.random.key(0))[0] for b in (first, richer)]
        assert bool(differing(*states)) == sees


@pytest.mark.parametrize("teacher", ["learned", "task"])
def test_an_update_is_reinforce_by_hand(teacher):
    """Returns to the end of the episode or of the rollout, of the learned rewards or of the task's."""
    agent, theta, first, _ = one_life()
    agent = agent.replace(teacher=teacher)
    reward = np.asarray(first.reward) if teacher == "task" else rewards(agent, theta, first)
    returns, following = np.zeros_like(reward), np.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        following = np.where(first.valid[t], reward[t] + float(agent.gamma) * first.discount[t] * following, 0.0)
        returns[t] = following

    def loss(params):
        log_pi = jax.nn.log_softmax(agent.taught(theta.replace(params=params), first).logits)
        gain = returns * jnp.take_along_axis(log_pi, first.action[..., None], -1)[..., 0]
        gain -= agent.entropy_cost * (jnp.exp(log_pi) * log_pi).sum(-1)
        return -(gain * first.valid).sum() / first.valid.sum()

    expected = jax.tree.map(lambda p, g: p - agent.learning_rate * g, theta.params, jax.grad(loss)(theta.params))
    found = learned(agent, theta, first, jax.random.key(0))[0]
    for x, y in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_rewards_depend_on_actions_only_where_these_are_shown():
    agent, theta, first, _ = one_life()
    other = first.replace(action=1 - first.action)
    np.testing.assert_array_equal(rewards(agent, theta, first), rewards(agent, theta, other))
    told = agent.replace(sees_action=True, bound="arctan")
    theta = theta.replace(eta=told.reward.init(jax.random.key(0), theta.spec, told.moments(first)))
    assert np.abs(rewards(told, theta, first) - rewards(told, theta, other)).max() > 1e-6


def test_the_portrait_shows_what_arriving_is_worth(tmp_path):
    agent, theta, first, _ = one_life()
    cells = jnp.arange(6)[:, None] * jnp.linspace(0.1, 0.2, 5)
    seen = cells.reshape(2, 3, 5), jnp.array([[True, True, False], [True, True, True]])
    remembered = paid(agent, theta, first)[1]
    newborn, older = agent.portrait(theta.replace(memory=remembered), seen)
    one = lambda x: jnp.zeros_like(x[:1, :1])  # noqa: E731
    for i in (0, 1, 5):
        # a rollout of one step, which arrives at that cell, and on which the task pays nothing
        blank = jax.tree.map(one, first.replace(observation=None, carry=()))
        batch = blank.replace(
            observation=jnp.stack([cells[:1], cells[i : i + 1]]),
            first=jnp.zeros((2, 1)),
            discount=jnp.ones((1, 1)),
            valid=jnp.ones((1, 1)),
        )
        for memory, panel in ((agent.reward.start(2), newborn), (remembered, older)):
            state = theta.replace(memory=jax.tree.map(lambda x: x[:1], memory))
            np.testing.assert_allclose(panel.values.reshape(-1)[i], rewards(agent, state, batch)[0, 0], rtol=1e-4)
    assert np.isnan(newborn.values[0, 2]) and np.abs(newborn.values - older.values)[0, 0] > 1e-6
    assert agent.portrait(theta, None) == [] and agent.replace(teacher="task").portrait(theta, seen) == []
    assert draw_portrait([newborn, older], tmp_path / "portrait.png", "paid").stat().st_size > 5_000
    trainer, state, _ = experience()
    names = [panel.title for panel in trainer.portrait(state, seen)]
    assert names[0] == "paid to a newborn" and len(names) > 1


def test_a_count_bonus_counts_this_lifes_visits():
    """beta / sqrt(n) for each arrival, n over all environments and rollouts of the life so far."""
    agent, theta, first, second = one_life()
    agent = agent.replace(teacher="count", bonus=0.5)
    cells = [jax.nn.one_hot(jnp.argmax(b.observation[..., :4], -1), 4) for b in (first, second)]  # four states
    first, second = (b.replace(observation=x) for b, x in zip((first, second), cells, strict=True))
    memory, seen = jnp.zeros(BUCKETS), np.zeros(4)
    for batch in (first, second):
        reward, memory = paid(agent, theta.replace(memory=memory), batch)
        arrived = np.asarray(jnp.argmax(batch.observation[1:], -1))
        for t, valid in enumerate(np.asarray(batch.valid)):
            np.add.at(seen, arrived[t], valid)
            expected = batch.reward[t] + 0.5 / np.sqrt(seen[arrived[t]])
            np.testing.assert_allclose(reward[t][valid > 0], expected[valid > 0], rtol=1e-5)
    assert sorted(memory[memory > 0].tolist()) == sorted(seen[seen > 0].tolist())


def test_a_reward_is_found_that_teaches(tmp_path):
    """After some hundred meta steps newborns earn in late life, and do so by another run's frozen reward as well."""
    world = "operant:RandomABC-v0"
    agent = methods.apply(methods.build("lifetime-rewards", world), {"meta_learning_rate": 3e-3})
    steps = agent.num_envs * agent.rollout_length
    run = op.train(agent, world, steps=500 * steps, quiet=True, run_dir=tmp_path / "found")
    late = np.concatenate([np.ravel(row["return_late"]) for row in run.directory.metrics() if "return_late" in row])
    assert late[-10:].mean() > 0.1 > 0.05 > abs(late[1:10].mean()), late
    with pytest.raises(UserError, match="init-from"):
        run.evaluate()
    pupil = methods.build("pupil", world)
    used = op.train(pupil, world, steps=400, seeds=2, quiet=True, init_from=run.path, run_dir=tmp_path / "used")
    for found, kept in zip(jax.tree.leaves(run.state.state.eta), jax.tree.leaves(used.state.state.eta), strict=True):
        np.testing.assert_array_equal(np.broadcast_to(found, kept.shape), kept)
    assert np.isfinite(used.evaluate()["return_mean"])


def test_only_pupils_are_taught():
    with pytest.raises(UserError, match="expected pupil"):
        LifetimeRewards(agent=op.PPO()).check()


def test_a_life_may_have_several_environments():
    """Each has a memory of its own: the same experience twice is learned from as once."""
    pupil, theta, first, _ = one_life()
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x], 1), first)
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), theta.memory)
    once, _, _ = learned(pupil, theta, first, jax.random.key(0))
    other, _, _ = learned(pupil, theta.replace(memory=both), twice, jax.random.key(0))
    for x, y in zip(jax.tree.leaves(once.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
