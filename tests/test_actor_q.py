"""Off-policy actor-critics: targets, expectations, temperatures and weights against what is computed by hand."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK

import operant as op
from operant import actor_q as aq
from operant import methods
from operant.agent import strong
from operant.errors import UserError
from operant.methods.value import mpo
from operant.ops.distributions import Categorical, MultiCategorical, Normal, masked
from operant.types import Batch, Box, Dict, Discrete, MultiDiscrete, Spec, zeros

pytestmark = pytest.mark.of("d4pg", "ddpg", "mpo", "sac", "td3")

GAMMA, KEY = 0.9, jax.random.key(3)
OBSERVATION = Box((3,), low=-1.0, high=1.0)
CONTINUOUS = Spec(OBSERVATION, Box((2,), low=-1.0, high=1.0), num_envs=2)
WINDOWS = {
    # valid, discount of three rows; then what D is, and how many rewards count
    "goes on": ((1, 1, 1), (1, 1, 1), GAMMA**3, 3),
    "terminated at once": ((1, 0, 1), (0, 1, 1), 0.0, 1),
    "terminated in the second step": ((1, 1, 0), (1, 0, 1), 0.0, 2),
    "time limit at once": ((1, 0, 1), (1, 1, 1), GAMMA, 1),
    "time limit after the second step": ((1, 1, 0), (1, 1, 1), GAMMA**2, 2),
}


def sample(spec: Spec, n_step: int = 3, weight: bool = True) -> tuple[Batch, np.ndarray, np.ndarray]:
    """One sample for each of `WINDOWS`, and R and D of each."""
    rng, size = np.random.default_rng(0), len(WINDOWS)
    valid, discount = (np.array([w[i][:n_step] for w in WINDOWS.values()], np.float32).T for i in (0, 1))
    reward = rng.normal(size=(n_step, size)).astype(np.float32)
    if isinstance(spec.action, Box):
        action = rng.uniform(-1, 1, (n_step, size, 2)).astype(np.float32)
    else:
        n = spec.action.nvec if isinstance(spec.action, MultiDiscrete) else spec.action.n
        shape = (n_step, size, len(n)) if isinstance(n, tuple) else (n_step, size)
        action = rng.integers(0, n, shape).astype(np.int32)
    batch = Batch(
        observation=jnp.asarray(rng.normal(size=(2, size, 3)), jnp.float32),
        first=jnp.zeros((2, size), bool),
        action=jnp.asarray(action),
        reward=jnp.asarray(reward),
        discount=jnp.asarray(discount),
        valid=jnp.asarray(valid),
        weight=jnp.asarray(rng.uniform(0.2, 1.0, (1, size)), jnp.float32) if weight else None,
    )
    returns = np.array([sum(GAMMA**k * reward[k, i] for k in range(w[3])) for i, w in enumerate(WINDOWS.values())])
    return batch, returns, np.array([w[2] for w in WINDOWS.values()])


def start(agent, spec: Spec = CONTINUOUS):
    """A small agent and a state whose policy is far from indifferent and whose targets differ from what they follow."""
    agent = strong(op.methods.apply(agent, {"actor.hidden": (8,), "critic.hidden": (8,)}).replace(gamma=GAMMA))
    state = compiled(lambda key: agent.init(key, spec))(KEY)
    noise = itertools.count()

    def shaken(tree, scale):
        draw = lambda x: x + scale * jax.random.normal(jax.random.fold_in(KEY, next(noise)), x.shape)  # noqa: E731
        return jax.tree.map(draw, tree)

    params = {name: shaken(x, 0.0 if name in ("log_alpha", "duals") else 0.3) for name, x in state.params.items()}
    return agent, state.replace(params=params, target=shaken(state.target, 0.5))


def compiled(function):
    return jax.jit(function, compiler_options=QUICK)


def evaluate(agent, state, batch):
    """The loss and its metrics."""
    return compiled(agent.loss)(state.params, state, batch, KEY)


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def q_by_hand(params, i, observation, action=None):
    """What the i-th critic says, layer by layer, in NumPy."""
    one = jax.tree.map(lambda x: np.asarray(x[i]), params)
    x = np.asarray(observation, np.float64)
    x = x if action is None else np.concatenate([x, np.asarray(action, np.float64)], -1)
    return dense(one["head"]["Dense_0"], np.maximum(dense(one["MLP_0"]["Dense_0"], x), 0.0))


def mu_by_hand(params, observation, layer="action"):
    hidden = np.maximum(dense(params["MLP_0"]["Dense_0"], np.asarray(observation, np.float64)), 0.0)
    return np.tanh(dense(params[layer], hidden))


def mean_loss(error, batch):
    return float(np.mean(0.5 * error**2 * np.asarray(batch.weight[0])))


# ------------------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize("order", [1, -1], ids=["the first is smaller", "the second is smaller"])
def test_the_target_of_sac(order: int):
    agent, state = start(op.SAC().replace(alpha=0.3))
    state = state.replace(target=jax.tree.map(lambda x: x[::order], state.target))
    batch, returns, discount = sample(CONTINUOUS)
    _, metrics = evaluate(agent, state, batch)
    key = jax.random.split(KEY)[0]
    policy = agent.policy(state.params, CONTINUOUS, (batch.observation[1], None))
    action, log_prob = policy.sample_and_log_prob(key)
    qs = [q_by_hand(state.target["critic"], i, batch.observation[1], action)[:, 0] for i in (0, 1)]
    assert (order * (qs[1] - qs[0]) > 0.1).all()
    following = np.minimum(*qs) - 0.3 * np.asarray(log_prob)
    target = returns + discount * following
    errors = [
        target - q_by_hand(state.params["critic"], i, batch.observation[0], batch.action[0])[:, 0] for i in (0, 1)
    ]
    np.testing.assert_allclose(metrics["critic_loss"], sum(mean_loss(e, batch) for e in errors), rtol=1e-4)
    np.testing.assert_allclose(metrics["priority"], np.abs(errors).mean(0), rtol=1e-4)
    assert np.abs(discount * following)[3:].min() > 0.05  # a time limit taken for a termination would show


def test_the_target_of_td3_with_its_noise_and_without():
    for noise in (0.0, 0.4):
        agent, state = start(op.TD3().replace(target_noise=noise, noise_clip=0.3))
        batch, returns, discount = sample(CONTINUOUS)
        _, metrics = evaluate(agent, state, batch)
        mu = mu_by_hand(state.target["actor"], batch.observation[1])
        drawn = noise * np.asarray(jax.random.normal(KEY, mu.shape))
        assert not noise or (np.abs(drawn) > 0.3).any()
        action = np.clip(mu + np.clip(drawn, -0.3, 0.3), -1, 1)
        qs = [q_by_hand(state.target["critic"], i, batch.observation[1], action)[:, 0] for i in (0, 1)]
        target = returns + discount * np.minimum(*qs)
        errors = [
            target - q_by_hand(state.params["critic"], i, batch.observation[0], batch.action[0])[:, 0] for i in (0, 1)
        ]
        np.testing.assert_allclose(metrics["critic_loss"], sum(mean_loss(e, batch) for e in errors), rtol=1e-4)
        mu = mu_by_hand(state.params["actor"], batch.observation[0])
        by_first = q_by_hand(state.params["critic"], 0, batch.observation[0], mu)[:, 0]
        np.testing.assert_allclose(metrics["actor_loss"], -by_first.mean(), rtol=1e-4)


def test_the_target_of_ddpg():
    agent, state = start(op.DDPG())
    batch, returns, discount = sample(CONTINUOUS)
    _, metrics = evaluate(agent, state, batch)
    action = mu_by_hand(state.target["actor"], batch.observation[1])
    following = q_by_hand(state.target["critic"], 0, batch.observation[1], action)[:, 0]
    q = q_by_hand(state.params["critic"], 0, batch.observation[0], batch.action[0])[:, 0]
    np.testing.assert_allclose(metrics["critic_loss"], mean_loss(returns + discount * following - q, batch), rtol=1e-4)


def test_the_target_of_d4pg_is_the_projected_distribution():
    agent, state = start(op.methods.apply(op.D4PG(), {"head.v_min": -2.0, "head.v_max": 3.0, "head.num_atoms": 11}))
    batch, returns, discount = sample(CONTINUOUS)
    _, metrics = evaluate(agent, state, batch)
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)  # noqa: E731
    action = mu_by_hand(state.target["actor"], batch.observation[1])
    following = softmax(q_by_hand(state.target["critic"], 0, batch.observation[1], action))
    chosen = softmax(q_by_hand(state.params["critic"], 0, batch.observation[0], batch.action[0]))
    atoms, losses = np.linspace(-2, 3, 11), []
    for i in range(len(returns)):
        target = np.zeros(11)
        for z, p in zip(atoms, following[i], strict=True):  # algorithm 1 of C51, atom by atom
            b = (np.clip(returns[i] + discount[i] * z, -2, 3) + 2) / 0.5
            low = min(int(b), 9)
            target[low] += p * (low + 1 - b)
            target[low + 1] += p * (b - low)
        assert abs(target.sum() - 1) < 1e-9
        losses.append(-np.sum(target * np.log(chosen[i])))
    np.testing.assert_allclose(metrics["critic_loss"], np.mean(losses * np.asarray(batch.weight[0])), rtol=1e-4)
    mu = mu_by_hand(state.params["actor"], batch.observation[0])
    mean = softmax(q_by_hand(state.params["critic"], 0, batch.observation[0], mu)) @ atoms
    np.testing.assert_allclose(metrics["actor_loss"], -mean.mean(), rtol=1e-4)


def test_without_weights_they_are_one():
    for agent in (op.SAC(), op.TD3(), op.DDPG(), op.MPO()):
        agent, state = start(agent)
        batch, _, _ = sample(CONTINUOUS, weight=False)
        ones = batch.replace(weight=jnp.ones((1, len(WINDOWS))))
        np.testing.assert_allclose(evaluate(agent, state, batch)[0], evaluate(agent, state, ones)[0], rtol=1e-6)


@pytest.mark.parametrize("agent", [op.SAC(), op.TD3(), op.DDPG(), op.D4PG(), op.MPO()], ids=lambda a: a.registered_name)
def test_each_term_has_a_gradient_for_its_own_part_only(agent):
    """The policy's is that of its own loss; the critics' does not see what the policy wants."""
    agent, state = start(agent)
    batch, _, _ = sample(CONTINUOUS)

    metrics = evaluate(agent, state, batch)[1]

    @compiled
    def gradients(params):
        """Of the loss, and of the metrics that are its terms."""

        def one(name):
            return jax.grad(lambda params: agent.loss(params, state, batch, KEY)[1][name])(params)

        terms = {name: one(name) for name in ("critic_loss", "actor_loss") if name in metrics}
        return jax.grad(lambda params: agent.loss(params, state, batch, KEY)[0])(params), terms

    total, of = gradients(state.params)
    size = lambda tree: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))  # noqa: E731
    near = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)  # noqa: E731
    near(total["critic"], of["critic_loss"]["critic"])
    assert size(of["critic_loss"]["actor"]) == 0.0 and size(total["critic"]) > 0.0
    if "actor_loss" in of:
        near(total["actor"], of["actor_loss"]["actor"])
        assert size(of["actor_loss"]["critic"]) == 0.0
    assert size(total["actor"]) > 0.0


# ------------------------------------------------------------------------------------------------------------ discrete
@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete((2, 3)), MultiDiscrete((3, 3))], ids=str)
@pytest.mark.parametrize("with_mask", [False, True])
def test_the_expectation_of_discrete_sac_against_brute_force(space, with_mask: bool):
    spec = Spec(OBSERVATION, space, num_envs=2, action_mask=with_mask)
    agent, state = start(op.SAC().replace(alpha=0.3), spec)
    batch, returns, discount = sample(spec)
    nvec = space.nvec if isinstance(space, MultiDiscrete) else (space.n,)
    rng, mask = np.random.default_rng(1), None
    if with_mask:
        mask = rng.random((2, len(WINDOWS), sum(nvec))) < 0.6
        mask[..., 0] = mask[..., nvec[0] :][..., :1] = True
        mask[..., 0] = True
    batch = batch.replace(action_mask=None if mask is None else jnp.asarray(mask))
    loss, metrics = evaluate(agent, state, batch)

    def soft(at: int, critics):
        """Sum over joint actions of pi (min Q - alpha log pi), and the entropy, for each sample."""
        hidden = np.maximum(dense(state.params["actor"]["MLP_0"]["Dense_0"], np.asarray(batch.observation[at])), 0)
        logits = dense(state.params["actor"]["policy"]["logits"], hidden)
        qs = np.minimum(*(q_by_hand(critics, i, batch.observation[at]) for i in (0, 1)))
        values, entropies = [], []
        for s in range(len(WINDOWS)):
            value = entropy = 0.0
            parts, begin = [], 0
            for n in nvec:
                part = logits[s, begin : begin + n].copy()
                if mask is not None:
                    part[~mask[at, s, begin : begin + n]] = -np.inf
                parts.append(np.exp(part) / np.exp(part).sum())
                begin += n
            for number, joint in enumerate(itertools.product(*map(range, nvec))):
                p = math.prod(part[a] for part, a in zip(parts, joint, strict=True))
                if p > 0:
                    value += p * (qs[s, number] - 0.3 * math.log(p))
                    entropy -= p * math.log(p)
            values.append(value)
            entropies.append(entropy)
        return np.array(values), np.array(entropies)

    action = np.asarray(batch.action[0]).reshape(len(WINDOWS), -1)
    number = np.ravel_multi_index(tuple(action.T), nvec)
    target = returns + discount * soft(1, state.target["critic"])[0]
    critics = [q_by_hand(state.params["critic"], i, batch.observation[0]) for i in (0, 1)]
    errors = [target - q[np.arange(len(number)), number] for q in critics]
    np.testing.assert_allclose(metrics["critic_loss"], sum(mean_loss(e, batch) for e in errors), rtol=1e-4)
    here, entropy = soft(0, state.params["critic"])
    np.testing.assert_allclose(metrics["actor_loss"], -here.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["entropy"], entropy.mean(), rtol=1e-4)
    allowed = np.full(len(WINDOWS), math.prod(nvec)) if mask is None else np.array(
        [math.prod(m.sum() for m in np.split(row, np.cumsum(nvec)[:-1])) for row in mask[0]]
    )  # fmt: skip
    excess = np.mean(entropy - 0.89 * np.log(allowed))
    slope = compiled(jax.grad(lambda params: agent.loss(params, state, batch, KEY)[0]))(state.params)["log_alpha"]
    np.testing.assert_allclose(slope, excess, rtol=1e-3, atol=1e-5)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(loss))


def test_joint_log_probabilities_are_those_of_the_policy():
    mask = jnp.asarray([[True, False, True, True, False]])
    logits = masked(jax.random.normal(KEY, (1, 5)), mask)
    policy = MultiCategorical(logits, (2, 3))
    joint = aq.joint_log_probs(policy)
    for number, action in enumerate(itertools.product(range(2), range(3))):
        expected = float(policy.log_prob(jnp.asarray([action]))[0])
        found = float(joint[0, number])
        assert found < -1e8 if expected < -1e8 else abs(found - expected) < 1e-5
    np.testing.assert_allclose(jnp.exp(joint).sum(), 1.0, rtol=1e-6)
    plain = Categorical(jax.random.normal(KEY, (2, 3)))
    np.testing.assert_allclose(jnp.exp(aq.joint_log_probs(plain)).sum(-1), 1.0, rtol=1e-6)


def test_the_values_of_many_actions_are_those_of_each():
    critic = aq.Critic(hidden=(8,))
    for spec in (CONTINUOUS, Spec(OBSERVATION, MultiDiscrete((2, 3)))):
        params = critic.init(KEY, spec, 2)
        observation = jax.random.normal(KEY, (4, 3))
        if isinstance(spec.action, Box):
            actions = jax.random.uniform(KEY, (5, 4, 2))
        else:
            actions = jax.random.randint(KEY, (5, 4, 2), 0, jnp.array([2, 3]))
        together = critic.of(params, spec, observation, actions)
        assert together.shape == (2, 5, 4)
        for i in range(5):
            np.testing.assert_allclose(together[:, i], critic.of(params, spec, observation, actions[i]), rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- temperature
@pytest.mark.parametrize("spec", [CONTINUOUS, Spec(OBSERVATION, Discrete(3), num_envs=2)], ids=["box", "discrete"])
def test_the_temperature_brings_the_entropy_to_its_target(spec: Spec):
    """From both sides, with a policy that answers to it."""
    target = -1.0 * 2 if spec is CONTINUOUS else 0.7 * math.log(3)
    for alpha in (0.005, 0.5):
        agent = op.SAC().replace(
            alpha=alpha, entropy_share=0.7, alpha_learning_rate=5e-3, actor_learning_rate=3e-3, critic_learning_rate=0.0
        )
        agent, state = start(agent, spec)
        batch, _, _ = sample(spec)

        def once(state, key, agent=agent, batch=batch):
            state, metrics, _ = agent.learn(state, batch, key)
            return state, (metrics["entropy"], metrics["alpha"])

        _, (entropy, alphas) = compiled(lambda s: jax.lax.scan(once, s, jax.random.split(KEY, 3000)))(state)
        too_much = float(entropy[:20].mean()) - target
        assert (float(alphas[20]) - alpha) * too_much < 0  # too much entropy: a lower price
        assert (float(alphas[-1]) > alpha) == (alpha == 0.005)
        assert abs(float(entropy[-500:].mean()) - target) < 0.15, (alpha, float(entropy[-500:].mean()), target)


def test_a_temperature_that_does_not_learn_stays():
    agent, state = start(op.SAC().replace(alpha=0.25, alpha_learning_rate=0.0))
    batch, _, _ = sample(CONTINUOUS)
    after = compiled(lambda s: agent.learn(s, batch, KEY)[0])(state)
    np.testing.assert_allclose(jnp.exp(after.params["log_alpha"]), 0.25, rtol=1e-6)


# ----------------------------------------------------------------------------------------------- steps, targets, delays
def test_the_policy_and_the_targets_of_td3_are_delayed():
    agent, state = start(op.TD3(policy_delay=3).replace(tau=0.25))
    batch, _, _ = sample(CONTINUOUS)
    learn = compiled(lambda state: agent.learn(state, batch, KEY)[0])
    same = lambda a, b: all(bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))  # noqa: E731
    for update in range(1, 7):
        after = learn(state)
        due = update % 3 == 0
        assert not same(after.params["critic"], state.params["critic"])
        for name in ("actor", "critic"):
            assert same(after.target[name], state.target[name]) != due
        assert same(after.params["actor"], state.params["actor"]) != due
        assert same(after.opt_state["actor"], state.opt_state["actor"]) != due
        if due:
            moved = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, state.target, after.params)
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), after.target, moved)
        state = after


def test_each_part_has_its_own_step_and_its_own_clipping():
    agent, state = start(op.TD3(policy_delay=1).replace(actor_learning_rate=0.0, critic_learning_rate=0.1))
    batch, _, _ = sample(CONTINUOUS)
    after = compiled(lambda s: agent.learn(s, batch, KEY)[0])(state)
    difference = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), after.params, state.params)
    assert max(jax.tree.leaves(difference["actor"])) == 0.0
    assert max(jax.tree.leaves(difference["critic"])) == pytest.approx(0.1, rel=1e-2)  # Adam's first step
    optimizer = aq.by_part({"a": 1.0, "b": 1.0}, max_grad_norm=1.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    gradients = {"a": jnp.array([30.0, 40.0]), "b": jnp.array([0.5])}
    _, new = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(new["a"].mean, [0.06, 0.08], rtol=1e-5)  # (1 - b1) times the clipped gradient
    np.testing.assert_allclose(new["b"].mean, [0.05], rtol=1e-5)


def test_copies_are_exact_and_in_time():
    agent, state = start(op.D4PG(target_period=2).replace(tau=1.0))
    batch, _, _ = sample(CONTINUOUS)
    learn = compiled(lambda state: agent.learn(state, batch, KEY)[0])
    once = learn(state)
    twice = learn(once)
    jax.tree.map(np.testing.assert_array_equal, once.target, state.target)
    jax.tree.map(np.testing.assert_array_equal, twice.target, twice.params)


# ----------------------------------------------------------------------------------------------------------------- mpo
def test_the_weights_and_the_dual_of_mpo_against_numpy():
    agent, state = start(op.MPO(num_actions=6).replace(epsilon_weights=0.2))
    duals = {"eta": jnp.float32(0.5), "alpha_mean": jnp.array([1.0, -1.0]), "alpha_std": jnp.array([0.3, 2.0])}
    state = state.replace(params={**state.params, "duals": duals})
    batch, returns, discount = sample(CONTINUOUS)
    next_key, here_key = jax.random.split(KEY)
    value, metrics = evaluate(agent, state, batch)
    drawn = compiled(lambda observation, key: agent.drawn(state, (observation, None), key))
    target, actions, q = drawn(batch.observation[0], here_key)
    actions, q = np.asarray(actions, np.float64), np.asarray(q, np.float64)
    for j in range(6):
        by_hand = q_by_hand(state.target["critic"], 0, batch.observation[0], np.clip(actions[j], -1, 1))[:, 0]
        np.testing.assert_allclose(q[j], by_hand, rtol=1e-4, atol=1e-5)
    softplus = lambda x: np.log1p(np.exp(np.asarray(x, np.float64)))  # noqa: E731
    eta = softplus(0.5)
    weights = np.exp(q / eta) / np.exp(q / eta).sum(0)
    dual = np.mean(eta * 0.2 + eta * np.log(np.mean(np.exp(q / eta), 0)))
    policy = agent.actor.apply(state.params["actor"], CONTINUOUS, mpo.HEAD, batch.observation[0])
    (m0, s0), (m1, s1) = ((np.asarray(p.mean, np.float64), np.exp(np.asarray(p.log_std, np.float64)))
                          for p in (target, policy))  # fmt: skip
    log_density = lambda x, m, s: np.sum(-0.5 * ((x - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi), -1)  # noqa: E731
    fit = -np.mean(np.sum(weights * (log_density(actions, m1, s0) + log_density(actions, m0, s1)), 0))
    kl_mean = np.mean(0.5 * ((m1 - m0) / s0) ** 2, 0)
    kl_std = np.mean(np.log(s1 / s0) + 0.5 * (s0 / s1) ** 2 - 0.5, 0)
    np.testing.assert_allclose(metrics["fit"], fit, rtol=1e-4)
    np.testing.assert_allclose(metrics["kl_mean"], kl_mean.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl_std"], kl_std.mean(), rtol=1e-3)
    alpha_mean, alpha_std = softplus(duals["alpha_mean"]), softplus(duals["alpha_std"])
    trust = np.sum(alpha_mean * kl_mean) + np.sum(alpha_std * kl_std)
    bounds = np.sum(alpha_mean * (2.5e-3 - kl_mean)) + np.sum(alpha_std * (1e-6 - kl_std))
    _, _, next_q = drawn(batch.observation[1], next_key)
    y = returns + discount * np.asarray(next_q).mean(0)
    q_here = q_by_hand(state.params["critic"], 0, batch.observation[0], batch.action[0])[:, 0]
    critic = mean_loss(y - q_here, batch)
    np.testing.assert_allclose(metrics["critic_loss"], critic, rtol=1e-4)
    np.testing.assert_allclose(value, critic + fit + trust + dual + bounds, rtol=1e-4)


def test_the_temperature_of_mpo_meets_its_bound():
    """At the dual's minimum the divergence of weighted from drawn actions is epsilon."""
    q = np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32) * 3.0
    slope = compiled(jax.grad(lambda log_eta: mpo.temperature_loss(q, jnp.exp(log_eta), 0.1).sum()))
    log_eta = 0.0
    for _ in range(2000):
        log_eta = log_eta - 0.05 * slope(log_eta)
    weights = np.asarray(jax.nn.softmax(q / np.exp(log_eta), axis=0))
    assert abs(np.sum(weights * np.log(weights * 64)) - 0.1) < 1e-3


def test_divergences_by_dimension_add_up():
    a, b = (Normal(*jax.random.normal(jax.random.key(i), (2, 5, 3))) for i in (0, 1))
    np.testing.assert_allclose(mpo.by_dimension(a).kl(mpo.by_dimension(b)).sum(-1), a.kl(b), rtol=1e-4)


# --------------------------------------------------------------------------------------------------------- exploration
def timestep(spec: Spec, first: bool = False, mask=None):
    size = 4000
    nothing = jnp.zeros(size)
    return op.Timestep(
        observation=jnp.zeros((size, 3)), reward=nothing, discount=nothing + 1, first=jnp.full(size, first),
        last=nothing > 0, score=nothing, previous_action=zeros(spec.action, (size,)), action_mask=mask,
        env_index=jnp.arange(size),
    )  # fmt: skip


def test_actions_are_random_at_first_and_then_the_policys():
    agent, state = start(op.TD3(random_steps=100))
    act = compiled(lambda state: agent.act(state, timestep(CONTINUOUS), (), KEY)[0])
    random, own = act(state.replace(steps=jnp.int32(99))), act(state.replace(steps=jnp.int32(100)))
    np.testing.assert_allclose(np.quantile(random, [0.0, 0.25, 0.5, 0.75, 1.0]), [-1, -0.5, 0, 0.5, 1], atol=0.04)
    mu = mu_by_hand(state.params["actor"], np.zeros((1, 3)))
    assert np.abs(np.asarray(own).mean(0) - mu).max() < 0.02 and abs(float(np.asarray(own).std(0).max()) - 0.1) < 0.01
    evaluated = agent.act(state, timestep(CONTINUOUS), (), KEY, explore=False)[0]
    np.testing.assert_allclose(evaluated[:1], mu, rtol=1e-4)


def test_random_discrete_actions_are_allowed_and_equally_likely():
    spec = Spec(OBSERVATION, MultiDiscrete((2, 3)), num_envs=2, action_mask=True)
    agent, state = start(op.SAC(random_steps=100), spec)
    mask = jnp.broadcast_to(jnp.array([True, True, True, False, True]), (4000, 5))
    action = np.asarray(agent.act(state, timestep(spec, mask=mask), (), KEY)[0])
    pairs, counts = np.unique(action, axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]] and np.abs(counts - 1000).max() < 120


def test_noise_with_inertia_begins_at_zero_in_each_episode():
    noise = aq.OUNoise(theta=0.15, sigma=0.2)
    action, first = jnp.zeros((2, 1)), jnp.array([True, False])
    carry = jnp.full((2, 1), 0.5)
    added, after = noise.add(KEY, action, carry, first)
    draw = 0.2 * jax.random.normal(KEY, (2, 1))
    np.testing.assert_allclose(after, jnp.array([[0.0], [0.5 * 0.85]]) + draw, rtol=1e-5)
    np.testing.assert_array_equal(added, jnp.clip(after, -1, 1))
    assert noise.start(CONTINUOUS, 3).shape == (3, 2)


# ----------------------------------------------------------------------------------------------- what cannot be is said
def test_actions_without_bounds_are_refused():
    spec = Spec(OBSERVATION, Box((2,)), num_envs=2)
    for agent in (op.SAC(), op.TD3(), op.D4PG()):
        with pytest.raises(op.UserError, match="no bounds"):
            agent.init(KEY, spec)


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg", "d4pg", "mpo"])
def test_images_dictionaries_and_priorities_learn(name: str):
    """One compiled update from a prioritized memory: finite, and with a priority for each sample."""
    space = Dict((("image", Box((6, 6, 1), "uint8", 0.0, 255.0)), ("place", Box((2,), low=-1.0, high=1.0))))
    spec = Spec(space, CONTINUOUS.action, num_envs=2)
    agent = strong(op.methods.apply(op.build(name), {"memory": "prioritized", "actor.hidden": (8,),
                                                     "critic.hidden": (8,)}))  # fmt: skip
    batch, _, _ = sample(CONTINUOUS)
    image = jax.random.randint(KEY, (2, len(WINDOWS), 6, 6, 1), 0, 255).astype(jnp.uint8)
    batch = batch.replace(observation={"image": image, "place": batch.observation[..., :2]})

    @compiled
    def once(key):
        return agent.learn(agent.init(key, spec), batch, key)

    state, metrics, priority = once(KEY)
    assert priority.shape == (len(WINDOWS),) and (np.asarray(priority) > 0).all()
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((state.params, metrics)))


@pytest.mark.parametrize("name", ["ddpg", "d4pg"])
def test_streams_are_for_several_actions(name: str):
    agent = methods.build(name)
    agent.check()
    with pytest.raises(UserError, match="2 streams.*expected head.streams 1"):
        methods.apply(agent, {"head.streams": 2}).check()
