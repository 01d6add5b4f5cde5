"""TD(lambda) and the world that it predicts: exact values, ends that change places, and an update by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK
from test_contract import rollouts

import operant as op
from operant import envs
from operant.actor_critic import advantages
from operant.agent import strong
from operant.envs.base import batched
from operant.envs.worlds import NoisyChain, RandomWalk
from operant.errors import UserError
from operant.learner import Online
from operant.methods.meta.frodo import FRODO
from operant.methods.value.td import TD

pytestmark = pytest.mark.of("td")

TRUE = np.array([-2, -1, 0, 1, 2]) / 3


def trained(agent, world, updates, lanes=1):
    """So many lanes after so many updates, and the metrics' course."""
    agent = strong(agent)
    env = batched(world, agent.num_envs * lanes)
    learner = Online(env, env.spec, lanes)

    @jax.jit
    def run(agents, keys):
        start = learner.init(agents, learner.init_agents(agents, keys), keys)
        return jax.lax.scan(lambda run, _: learner.update(run), start, None, length=updates)

    return run(jax.tree.map(lambda x: jnp.stack([x] * lanes), agent), jax.random.split(jax.random.key(0), lanes))


# --------------------------------------------------------------------------------------------------------------- world
def test_the_walk_has_the_values_that_it_says():
    """V = E[r + V'] with V = 0 behind the ends, by the exact probabilities of a step."""
    world = RandomWalk(period=10)
    for time, sign in ((0, 1.0), (9, 1.0), (10, -1.0), (25, 1.0)):
        at = lambda place, time=time: world.reset(None)[0].replace(place=jnp.int32(place), time=jnp.int32(time))  # noqa: E731
        values = np.array([world.value(at(i)) for i in range(5)])
        np.testing.assert_allclose(values, sign * TRUE, atol=1e-6)
        around = np.concatenate([[-sign], values, [sign]])
        np.testing.assert_allclose(values, (around[:-2] + around[2:]) / 2, atol=1e-6)


def test_a_step_goes_either_way_and_pays_at_the_ends():
    world = RandomWalk(places=3, period=4)
    step = jax.jit(jax.vmap(lambda key, state: world.step(key, state, jnp.zeros(1)), (0, None)))
    keys = jax.random.split(jax.random.key(0), 400)
    for time, sign in ((3, 1.0), (4, -1.0)):
        middle = world.reset(None)[0].replace(time=jnp.int32(time))
        after, place, reward, ended, _ = step(keys, middle)
        assert set(np.unique(place)) == {0, 2} and not ended.any() and not reward.any()
        assert 150 < np.sum(np.asarray(place) == 0) < 250 and (after.time == time + 1).all()
        _, place, reward, ended, _ = step(keys, middle.replace(place=jnp.int32(2)))
        assert set(zip(np.asarray(reward).tolist(), np.asarray(ended).tolist(), strict=True)) == {
            (0.0, False),
            (sign, True),
        }


@pytest.mark.parametrize("alternate", [False, True])
def test_the_chain_pays_what_it_says(alternate):
    """V = r + V' on average, place by place, to the end; places that look alike are the noisy ones."""
    world, plain = NoisyChain(signals=3, alternate=alternate, alike=True), NoisyChain(signals=3, alternate=alternate)
    step = jax.jit(jax.vmap(lambda key, state: world.step(key, state, jnp.zeros(1)), (0, None)))
    keys = jax.random.split(jax.random.key(0), 4000)
    state, shown = world.reset(None)
    _, number = plain.reset(None)
    passed, ended = [(int(shown), int(number))], False
    while not ended:
        after, seen, reward, end, _ = step(keys, state)
        _, number, *_ = plain.step(keys[0], state, jnp.zeros(1))
        ended = bool(end[0])
        following = 0.0 if ended else float(world.value(jax.tree.map(lambda x: x[0], after)))
        np.testing.assert_allclose(world.value(state), reward.mean() + following, atol=0.06)
        noisy = passed[-1][1] >= 3
        np.testing.assert_allclose(reward.std(), 1.0 if noisy else 0.0, atol=0.05)
        assert passed[-1][0] == (3 if noisy else passed[-1][1])
        state = jax.tree.map(lambda x: x[0], after)
        passed += [] if ended else [(int(seen[0]), int(number))]
    order = [0, 3, 1, 4, 2, 5] if alternate else [0, 1, 2, 3, 4, 5]
    assert [number for _, number in passed] == order


def test_time_goes_on_over_episodes_and_the_score_is_the_predictions_error():
    env = envs.make("operant:RandomWalk-v0", 8, period=30)
    step = jax.jit(env.step)
    state, timestep = env.reset(jax.random.split(jax.random.key(0), 8))
    taken = np.zeros(8, int)
    for _ in range(90):
        said = jnp.linspace(-1.0, 1.0, 8)[:, None]
        true = np.where(taken // 30 % 2 == 0, 1, -1) * TRUE[np.asarray(timestep.observation)]
        state, after = step(state, said)
        taken += ~np.asarray(after.first)
        expected = np.where(after.first, 0.0, -((true - np.asarray(said[:, 0])) ** 2))
        np.testing.assert_allclose(after.score, expected, atol=1e-6)
        paid = np.asarray(after.reward) != 0
        np.testing.assert_array_equal(paid, np.asarray(after.last))
        timestep = after
    assert (taken > 60).all() and (np.asarray(state.world.time) == taken).all()


# -------------------------------------------------------------------------------------------------------------- method
@pytest.mark.parametrize("td_lambda", [0.0, 0.9, 1.0])
def test_it_learns_the_values_of_a_walk_that_stays_as_it_is(td_lambda):
    agent = TD(num_envs=64, rollout_length=20, learning_rate=1.0, td_lambda=td_lambda)
    run, metrics = trained(agent, RandomWalk(period=0), 300)
    np.testing.assert_allclose(run.state.params["table"][0, :, 0], TRUE, atol=0.1)
    assert np.asarray(metrics["value_loss"])[0] > 0


def test_an_update_moves_predictions_by_their_mean_error():
    agent = strong(TD(num_envs=2, rollout_length=6, learning_rate=0.5, td_lambda=0.7, gamma=0.9))
    run, _ = trained(agent.replace(learning_rate=0.0), RandomWalk(), 2)
    theta = jax.tree.map(lambda x: x[0], run.state)
    table = jnp.linspace(-0.5, 0.8, 5)
    theta = theta.replace(params={"table": table[:, None]})
    _, _, (batch,) = rollouts(agent, batched(RandomWalk(), 2), 6, 1)
    value = table[batch.observation]
    batch = batch.replace(extras={"value": value[:-1]})
    returns = advantages(batch.reward, value, batch, 0.9, 0.7) + value[:-1]
    gradient = jnp.zeros(5).at[batch.observation[:-1]].add((returns - value[:-1]) * batch.valid / batch.valid.sum())
    found = jax.jit(agent.learn, compiler_options=QUICK)(theta, batch, jax.random.key(0))[0]
    np.testing.assert_allclose(found.params["table"][:, 0], table + 0.5 * gradient, rtol=1e-5, atol=1e-6)
    told = batch.replace(extras={**batch.extras, "target": jnp.zeros_like(batch.reward)})
    np.testing.assert_array_equal(agent.returns(theta, told), 0.0)


def test_discount_and_lambda_may_differ_by_state():
    """G_t = r + gamma(s') [(1 - lambda(s')) V' + lambda(s') G'], by hand; entries that are all alike are a number."""
    world = RandomWalk(places=3)
    _, state, (batch,) = rollouts(strong(TD(num_envs=4)), batched(world, 4), 8, 1)
    state = state.replace(params={"table": jnp.array([[0.3], [-0.2], [0.5]])})
    value = state.params["table"][batch.observation][..., 0]
    batch = batch.replace(extras={"value": value[:-1]})
    gamma, lam = np.array([0.9, 0.5, 0.1]), np.array([0.2, 1.0, 0.6])
    found = TD(gamma=jnp.array(gamma), td_lambda=jnp.array(lam)).returns(state, batch)
    place, reward, discount, valid = (
        np.asarray(x) for x in (batch.observation, batch.reward, batch.discount, batch.valid)
    )
    expected, v = np.zeros(reward.shape), np.asarray(value)
    for b in range(4):
        ahead = v[-1, b]
        for t in reversed(range(8)):
            s = place[t + 1, b]
            mixed = (1 - lam[s]) * v[t + 1, b] + lam[s] * ahead
            ahead = reward[t, b] + gamma[s] * discount[t, b] * mixed if valid[t, b] else v[t, b]
            expected[t, b] = ahead
    assert (valid == 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    alike = TD(gamma=jnp.full(3, 0.9), td_lambda=jnp.full(3, 0.7)).returns(state, batch)
    np.testing.assert_allclose(alike, TD(gamma=0.9, td_lambda=0.7).returns(state, batch), rtol=1e-5, atol=1e-6)


def test_its_action_is_its_prediction_in_any_shape():
    env = batched(RandomWalk(), 3)
    agent = strong(TD(num_envs=3))
    state = agent.init(jax.random.key(0), env.spec)
    state = state.replace(params={"table": jnp.arange(5.0)[:, None]})
    _, timestep = env.reset(jax.random.split(jax.random.key(0), 3))
    action, _, _ = agent.act(state, timestep, (), jax.random.key(0))
    np.testing.assert_array_equal(action, 2.0 * np.ones((3, 1)))


@pytest.mark.of("frodo")
def test_a_return_that_is_discovered_predicts_too():
    agent = op.methods.apply(
        FRODO(agent=TD()), {"agent.learning_rate": 1.0, "agent.num_envs": 16, "agent.td_lambda": 1.0}
    )
    run, _ = trained(agent, RandomWalk(period=0), 1000)
    found = np.asarray(run.state.agent.params["table"][0, :, 0])
    assert np.sqrt(np.mean((found - TRUE) ** 2)) < 0.2 and (np.diff(found) > 0).all()  # a table of zeros: 0.47
    with pytest.raises(UserError, match="no policy"):
        FRODO(agent=TD(), off_policy=True).check()
