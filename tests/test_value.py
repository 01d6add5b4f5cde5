"""The DQN lineage: targets against oracles and by hand, and the parts one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from scipy.special import xlogy

import operant as op
from operant import action_value as av
from operant import methods
from operant.agent import strong
from operant.errors import UserError
from operant.memory import PrioritizedReplay, Replay
from operant.methods.value.dqn import DQN
from operant.ops import n_step_parts
from operant.types import Batch, Box, Discrete, MultiDiscrete, Spec

pytestmark = pytest.mark.of("dqn", "rainbow")

KEY = jax.random.key(0)
SPEC = Spec(Box((3,)), Discrete(4), num_envs=2, total_steps=1000)


def sample(n: int, size: int = 5, mask: bool = False, action: tuple[int, ...] = ()) -> Batch:
    """A sample of n-step transitions: one that goes on, one that terminates, one that a time limit cuts, ..."""
    rng = np.random.default_rng(n)
    valid, discount = np.ones((n, size), np.float32), np.ones((n, size), np.float32)
    discount[n - 1, 1] = 0
    valid[n // 2 + 1 :, 2] = 0
    discount[0, 3] = 0
    valid[1:, 3] = 0
    masks = rng.random((2, size, 4)) < 0.6
    masks[..., 0] = True
    return Batch(
        observation=jnp.asarray(rng.normal(size=(2, size, 3)), jnp.float32),
        first=jnp.zeros((2, size), bool),
        action=jnp.asarray(rng.integers(0, 4, (n, size, *action)), jnp.int32),
        reward=jnp.asarray(rng.normal(size=(n, size)), jnp.float32),
        discount=jnp.asarray(discount),
        valid=jnp.asarray(valid),
        action_mask=jnp.asarray(masks) if mask else None,
    )


def parts(batch: Batch, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """(R, D) of each sample, summed step by step."""
    n, size = batch.reward.shape
    total, kept = np.zeros(size), np.ones(size)
    for i in range(size):
        for k in range(n):
            if not batch.valid[k, i]:
                break
            total[i] += kept[i] * float(batch.reward[k, i])
            kept[i] *= gamma * float(batch.discount[k, i])
    return total, kept


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_parts_of_an_n_step_return_stop_where_the_episode_does(n):
    batch = sample(n)
    found = jax.vmap(n_step_parts, (1, 1, 1, None))(batch.reward, batch.discount, batch.valid, 0.9)
    for mine, by_hand in zip(found, parts(batch, 0.9), strict=True):
        np.testing.assert_allclose(mine, by_hand, rtol=1e-5)


def made(spec: Spec = SPEC, **changes):
    agent = strong(methods.apply(DQN(memory=Replay(n_step=3)), {"network.hidden": (8,), **changes}))
    state = agent.init(KEY, spec)
    other = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), state.params)
    return agent, state.replace(target=other)


def outputs(agent, state, params, observation):
    return np.asarray(agent.network.apply(params, state.spec, agent.head, observation), np.float64)


@pytest.mark.parametrize("rule", ["max", "double"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("head", ["plain", "dueling"])
def test_the_loss_of_action_values_by_hand(rule, mask, head):
    agent, state = made(target=rule, head=head)
    batch = sample(3, mask=mask)
    q = outputs(agent, state, state.params, batch.observation[0])
    next_q, online = (outputs(agent, state, p, batch.observation[1]) for p in (state.target, state.params))
    reward, discount = parts(batch, 0.99)
    losses, errors = [], []
    for i in range(5):
        allowed = np.asarray(batch.action_mask[1, i]) if mask else np.ones(4, bool)
        select = np.where(allowed, online[i] if rule == "double" else next_q[i], -np.inf)
        error = reward[i] + discount[i] * next_q[i, select.argmax()] - q[i, batch.action[0, i]]
        errors.append(abs(error))
        losses.append(0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5)
    loss, metrics = agent.loss(state.params, state, batch, KEY)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-4)
    np.testing.assert_allclose(metrics["priority"], errors, rtol=1e-4)
    weighted, _ = agent.loss(state.params, state, batch.replace(weight=jnp.arange(5.0)[None]), KEY)
    assert float(weighted) == pytest.approx(np.mean(losses * np.arange(5)), rel=1e-4)


def test_the_categorical_loss_is_that_of_rlax():
    agent, state = made(head="categorical")
    agent = methods.apply(agent, {"head.v_min": -2.0, "head.v_max": 3.0})
    batch = sample(3)
    reward, discount = parts(batch, 0.99)
    logits = outputs(agent, state, state.params, batch.observation[0]).astype(np.float32)
    following = outputs(agent, state, state.target, batch.observation[1]).astype(np.float32)
    atoms = np.linspace(-2, 3, 51, dtype=np.float32)
    expected = [
        rlax.categorical_q_learning(
            atoms, logits[i], batch.action[0, i], reward[i], discount[i], atoms, following[i]
        )
        for i in range(5)
    ]  # fmt: skip
    loss, metrics = agent.loss(state.params, state, batch, KEY)
    assert float(loss) == pytest.approx(float(np.mean(expected)), rel=1e-4)
    moved = reward[:, None] + discount[:, None] * atoms
    target = [
        np.asarray(rlax.categorical_l2_project(moved[i], np.asarray(jax.nn.softmax(best)), atoms))
        for i, best in enumerate(following[range(5), following_action(following, atoms)])
    ]
    log_q = np.asarray(jax.nn.log_softmax(logits[range(5), batch.action[0]]))
    divergence = [np.sum(xlogy(p, p) - p * q) for p, q in zip(np.array(target), log_q, strict=True)]
    np.testing.assert_allclose(metrics["priority"], divergence, rtol=1e-3, atol=1e-5)
    assert np.min(divergence) > 1e-3


def following_action(outputs, atoms):
    """The best next action [S] by the mean of its distribution."""
    return np.argmax(np.asarray(jax.nn.softmax(outputs)) @ atoms, -1)


def test_the_quantile_loss_is_that_of_rlax():
    agent, state = made(head="quantile", target="double")
    batch = sample(3)
    reward, discount = parts(batch, 0.99)
    here = outputs(agent, state, state.params, batch.observation[0])
    following, online = (outputs(agent, state, p, batch.observation[1]) for p in (state.target, state.params))
    taus = (np.arange(200) + 0.5) / 200
    expected = [
        rlax.quantile_q_learning(
            here[i].T, taus, batch.action[0, i], reward[i], discount[i], online[i].T, following[i].T, 1.0
        )
        for i in range(5)
    ]  # fmt: skip
    loss, metrics = agent.loss(state.params, state, batch, KEY)
    assert float(loss) == pytest.approx(float(np.mean(expected)), rel=1e-4)
    best = online.mean(-1).argmax(-1)
    error = reward + discount * following.mean(-1)[range(5), best] - here.mean(-1)[range(5), batch.action[0]]
    np.testing.assert_allclose(metrics["priority"], np.abs(error), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("env", "low", "high"), [("CartPole-v1", 1, 100), ("Acrobot-v1", -100, 0)])
def test_the_atoms_of_rainbow_cover_what_returns_can_be(env: str, low: float, high: float):
    head = methods.build("rainbow", env).head
    assert head.v_min <= low and head.v_max >= high  # a point a step for ever, at this discount


def test_rainbow_explores_by_its_noise_alone_but_on_small_grids():
    for env, epsilon in (("CartPole-v1", (0.0, 0.0)), ("Breakout-MinAtar", (1.0, 0.05)), ("Pong-v5", (0.0, 0.0))):
        agent = methods.build("rainbow", env)
        assert agent.network.noise == "noisy" and agent.evaluation_epsilon == 0.0
        assert (agent.exploration.start, agent.exploration.end) == epsilon


def test_without_a_target_network_the_online_one_is_the_target_and_no_gradient_flows_through_it():
    agent, state = made()
    agent = agent.replace(target_period=0)
    batch = sample(3)
    loss, _ = agent.loss(state.params, state, batch, KEY)
    same, _ = agent.replace(target_period=5).loss(state.params, state.replace(target=state.params), batch, KEY)
    assert float(loss) == float(same)
    first, second = (
        jax.grad(lambda p, a=a, s=s: a.loss(p, s, batch, KEY)[0])(state.params)
        for a, s in ((agent, state), (agent.replace(target_period=5), state.replace(target=state.params)))
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), first, second)


def test_the_target_is_copied_when_its_period_has_passed():
    _, state = made()
    for steps, copied in ((9, False), (10, True)):
        after = av.copy_when_due(state.replace(steps=jnp.int32(steps)), 10)
        same = jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), after.target, state.params))
        assert same == copied and int(after.copied) == (steps if copied else 0)


def test_joint_actions_of_a_multi_discrete_space():
    space = MultiDiscrete((2, 3, 4))
    numbers = jnp.arange(24)
    actions = av.action_of(numbers, space)
    assert len({tuple(a) for a in np.asarray(actions).tolist()}) == 24
    np.testing.assert_array_equal(av.number_of(actions, space), numbers)
    mask = jnp.array([True, False, True, True, False, False, True, True, True])
    joint = av.joint_mask(mask, space)
    sides = np.split(np.asarray(mask), [2, 5])
    for i, action in enumerate(np.asarray(actions)):
        assert bool(joint[i]) == all(side[a] for side, a in zip(sides, action, strict=True))
    with pytest.raises(UserError, match="too many"):
        av.num_actions(MultiDiscrete((10,) * 6))
    with pytest.raises(UserError, match="choose ppo or sac"):
        av.num_actions(Box((2,)))


def test_epsilon_by_time_and_by_index():
    _, state = made()
    by_time = av.ByTime(start=1.0, end=0.1, fraction=0.5)
    for steps, epsilon in ((0, 1.0), (250, 0.55), (500, 0.1), (900, 0.1)):
        found = by_time.epsilon(state.replace(steps=jnp.int32(steps)), jnp.arange(2))
        np.testing.assert_allclose(found, epsilon, rtol=1e-5)
    np.testing.assert_allclose(av.ByIndex().epsilon(state, jnp.arange(2)), [0.4, 0.4**8], rtol=1e-5)


def test_a_part_is_chosen_by_its_name_and_keeps_what_was_set():
    agent = methods.apply(DQN(), {"memory.capacity": 777, "memory": "prioritized", "memory.alpha": 0.3})
    assert isinstance(agent.memory, PrioritizedReplay) and agent.memory.capacity == 777 and agent.memory.alpha == 0.3
    assert agent.memory.updates_per_rollout == 8  # DQN's own default for this place
    with pytest.raises(UserError, match="expected one of plain, dueling, categorical, quantile"):
        methods.apply(DQN(), {"head": "cubic"})
    assert op.methods.from_json(op.to_json(agent)) == agent
