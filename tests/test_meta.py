"""Meta-gradients: both modes against finite differences in float64, MGRL's closed form, and what the learner calls."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, Probe, course, leaves, shrink
from test_contract import doubled, rollouts
from test_td import trained as trained_in

import operant as op
from operant import methods
from operant.agent import boxed, dials, strong, unboxed, with_dials
from operant.envs.base import batched
from operant.envs.worlds import NoisyChain
from operant.errors import UserError
from operant.meta import Tape, push
from operant.methods.meta.meta_gradient import MetaGradient
from operant.methods.value.td import TD
from operant.nn.convolution import product
from operant.ops.optimizers import sgd
from operant.ops.returns import lambda_returns
from operant.types import struct

pytestmark = pytest.mark.of("meta-gradient")

K = 3
BASES = {
    "a2c": ("gamma", "gae_lambda", "entropy_cost", "value_cost", "learning_rate"),
    "ppo": ("gamma", "gae_lambda", "entropy_cost"),
    "reinforce": ("gamma", "entropy_cost"),
    "dqn": ("gamma", "learning_rate"),
    "sac": ("gamma", "critic_learning_rate", "actor_learning_rate"),
}


@functools.cache
def experience(base: str):
    """A small agent, its state, and K + 1 of the batches that it is handed: rollouts, or samples of its memory."""
    agent = shrink(methods.build(base, "CartPole-v1"), normalize_observation=False, normalize_reward=False)
    agent = strong(agent.replace(num_envs=2, rollout_length=8))
    env = batched(Probe(), agent.num_envs)
    spec = env.spec.replace(total_steps=1000)
    if agent.memory is None:
        _, state, batches = rollouts(agent, env, 8, K + 1)
        learn = jax.jit(agent.learn, compiler_options=QUICK)
        for batch in batches:  # an optimizer that has run is smooth on the scale of finite differences
            state, *_ = learn(state, batch, jax.random.key(9))
        return agent, state, tuple(batches)
    run = course(agent, Probe(), 4)[-1][0]
    one = jax.tree.map(lambda axis, x: x if axis is None else jax.tree.map(lambda y: y[0], x),
                       run.memory.lane_axes, run.memory, is_leaf=lambda x: x is None)  # fmt: skip
    batches = [agent.memory.sample(one, jax.random.key(i), spec)[0] for i in range(K + 1)]
    return agent, jax.tree.map(lambda x: x[0], run.state), tuple(batches)


@pytest.mark.parametrize(("base", "number"), [*((base, 1) for base in BASES), ("reinforce", K), ("ppo", 2)])
def test_both_modes_are_the_derivative_by_finite_differences(base: str, number: int):
    """d J'(tau'; theta_K) / d eta, through K updates of theta_0.

    What an update holds constant (values to bootstrap from) is constant to the meta-gradient too, so that over more
    than one update only agents that do not bootstrap agree with finite differences: both modes agree for all.
    """
    agent, theta, batches = experience(base)
    keys = [jax.random.key(i) for i in range(number)]
    with jax.enable_x64(True):
        agent, theta, batches = doubled((agent, theta, batches))
        eta = doubled(unboxed(agent, BASES[base]))

        def update(eta, theta, batch, key):
            return with_dials(agent, boxed(agent, eta)).learn(theta, batch, key)

        def judge(params):
            if base == "sac":  # its loss holds the critic constant to the actor: not a function to be differentiated
                return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(params))
            return agent.loss(params, theta, batches[number], jax.random.key(6))[0]

        @functools.partial(jax.jit, compiler_options=QUICK)
        def forward(eta):
            state, tangent = theta, None
            for batch, key in zip(batches[:number], keys, strict=True):
                (state, _, _), tangent = push(update, eta, state, tangent, batch, key)
            return tangent.slope(jax.grad(judge)(state.params), eta)

        @functools.partial(jax.jit, compiler_options=QUICK, static_argnums=1)
        def reverse(eta, remat):
            tape, state = Tape.blank(theta, (batches[0], keys[0]), number), theta
            for batch, key in zip(batches[:number], keys, strict=True):
                tape, state = tape.write(state, (batch, key)), update(eta, state, batch, key)[0]
            replayed = lambda eta: judge(tape.replay(update, eta, remat).params)  # noqa: E731
            return jax.value_and_grad(replayed)(eta)

        value, gradient = reverse(eta, True)
        assert value.dtype == jnp.float64
        kept = (
            [reverse(eta, False)[1]] if number == K else []
        )  # without rematerialisation: nothing of it is the agent's
        for other in (forward(eta), *kept):
            for name in eta:
                np.testing.assert_allclose(other[name], gradient[name], rtol=1e-4, atol=1e-12, err_msg=name)
        if number > 1 and base != "reinforce":
            return
        h = 1e-5
        for name in eta:
            up, down = (float(reverse({**eta, name: eta[name] + sign * h}, True)[0]) for sign in (1, -1))
            np.testing.assert_allclose(gradient[name], (up - down) / (2 * h), rtol=2e-3, atol=1e-9, err_msg=name)
            assert abs(float(gradient[name])) > 1e-10, name


def test_mgrl_has_its_closed_form():
    """With plain gradient descent d theta' / d eta = alpha dG/d eta (dlog pi + c dV) / d theta: Xu et al., eq. 11."""
    alpha, c, length = 0.1, 0.5, 6
    keys = jax.random.split(jax.random.key(0), 4)
    features, reward = jax.random.normal(keys[0], (length + 1, 3)), jax.random.normal(keys[1], (length,))
    action = jax.random.randint(keys[2], (length,), 0, 2)
    discount, valid = jnp.array([1.0, 1, 0, 1, 1, 1]), jnp.array([1.0, 1, 1, 0, 1, 1])
    theta = {"pi": jax.random.normal(keys[3], (3, 2)), "v": jnp.array([0.3, -0.2, 0.5])}
    eta = {"gamma": jnp.asarray(0.9), "lam": jnp.asarray(0.7)}

    def returns(eta):
        value = jax.lax.stop_gradient(features @ theta["v"])
        return lambda_returns(reward, discount, valid, value, eta["gamma"], eta["lam"])

    def loss(params, eta):
        log_pi = jnp.take_along_axis(jax.nn.log_softmax(features[:-1] @ params["pi"]), action[:, None], 1)[:, 0]
        value, target = features[:-1] @ params["v"], returns(eta)
        advantage = target - jax.lax.stop_gradient(value)
        return jnp.sum(valid * (-advantage * log_pi + c / 2 * (target - value) ** 2))

    @struct
    class Theta:
        params: dict

    def update(eta, state):
        gradient = jax.grad(loss)(state.params, eta)
        updates, _ = sgd(alpha).update(gradient, (), state.params)
        return (Theta(jax.tree.map(jnp.add, state.params, updates)),)

    _, tangent = push(update, eta, Theta(theta), None)
    probs = jax.nn.softmax(features[:-1] @ theta["pi"])
    score = jnp.einsum("tf,ta->tfa", features[:-1], jax.nn.one_hot(action, 2) - probs)
    slopes = jax.jacfwd(returns)(eta)
    for i, name in enumerate(eta):
        slope = slopes[name] * valid
        np.testing.assert_allclose(
            tangent.state.params["pi"][i], alpha * jnp.einsum("t,tfa->fa", slope, score), rtol=2e-5
        )
        np.testing.assert_allclose(
            tangent.state.params["v"][i], alpha * c * slope @ features[:-1], rtol=2e-5, atol=1e-7
        )


KEYS = jax.random.split(jax.random.key(3), 2)


def trained(agent, updates=7, keys=KEYS):
    """The last run, and what each update told: [updates, lanes]."""
    seen = course(agent, Probe(), updates, keys)
    return seen[-1][0], {name: np.stack([m[name] for _, m in seen]) for name in seen[0][1]}


def small(base="a2c", **changes):
    wrapped = methods.build(f"meta-gradient:{base}")
    agent = shrink(wrapped, normalize_observation=False, normalize_reward=False)
    return agent.replace(**{"meta_learning_rate": 0.1, **changes})


@pytest.mark.parametrize("horizon", [1, 3])
def test_the_modes_learn_the_same_dials(horizon: int):
    """In float32, over a run: forward and reverse see the same updates, whole windows of `horizon` of them."""
    courses = [
        trained(small(mode=mode, horizon=horizon, over=("gamma", "entropy_cost")))[1] for mode in ("forward", "reverse")
    ]
    for name in ("dial gamma", "dial entropy_cost", "loss"):
        np.testing.assert_allclose(courses[0][name], courses[1][name], rtol=1e-3, atol=1e-5)
    gamma = courses[0]["dial gamma"][:, 0]
    assert len(np.unique(gamma)) == 1 + 6 // horizon  # a meta step before every horizon-th update but the first
    assert (gamma[:horizon] == gamma[0]).all()


def test_a_trace_that_is_not_kept_is_mu_zero():
    kept = trained(small(accumulate=True, mu=0.0))[1]
    plain = trained(small())[1]
    longer = trained(small(accumulate=True, mu=0.9))[1]
    np.testing.assert_allclose(kept["dial gamma"], plain["dial gamma"], rtol=1e-5)
    assert np.abs(longer["dial gamma"][2:] - plain["dial gamma"][2:]).max() > 1e-5


def test_a_population_equals_its_members():
    together, run = trained(small())[0], trained(small(), keys=KEYS[1:])[0]
    for name, value in run.state.eta.items():
        np.testing.assert_allclose(value[0], together.state.eta[name][1], rtol=1e-4)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("base", ["dqn", "sac"])
def test_agents_with_a_memory_are_tuned_on_its_samples(base: str, mode: str):
    run, metrics = trained(small(base, over=("gamma",), mode=mode, horizon=2), updates=8)
    gamma = metrics["dial gamma"]
    assert np.isfinite(gamma).all() and (gamma[-1] != gamma[0]).all()
    assert (metrics["learning"] == 1).all()


@pytest.mark.parametrize("learning_starts", [0, 33])
def test_the_tape_is_of_the_updates_since_the_meta_step_before(learning_starts: int):
    """Replayed, it leads to the parameters that the agent has: whenever learning began, and however often it learns."""
    agent = small("dqn", over=("gamma",), mode="reverse", horizon=2)
    agent = methods.apply(shrink(agent, learning_starts=learning_starts), {"agent.memory.updates_per_rollout": 1})
    period, seen = agent.meta_period, course(agent, Probe(), 8)
    replay = jax.jit(lambda agent, state: state.past.replay(agent.update, state.eta).params)
    gammas, learns = [], []
    for run, metrics in seen:
        agent, state = (jax.tree.map(lambda x: x[0], tree) for tree in (run.agent, run.state))
        gammas.append(float(metrics["dial gamma"][0]))
        learns.append(int(run.learns[0]))
        if learns[-1] and learns[-1] % period == 0:  # a meta step is due before the next
            for name, x in leaves(replay(agent, state)).items():
                np.testing.assert_allclose(x, leaves(state.agent.params)[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert learns[-1] == int(state.past.count) == 8 - learns.count(0)
    assert (learns.count(0) > 0) == (learning_starts > 0)
    meta_steps = [i for i in range(1, 8) if learns[i - 1] and gammas[i] != gammas[i - 1]]
    assert meta_steps == [i for i in range(1, 8) if learns[i - 1] and learns[i - 1] % period == 0]


def in_the_chain(**changes):
    """TD whose discount is tuned, place by place, for undiscounted values of the whole chain."""
    base = TD(learning_rate=1.0, rollout_length=11, num_envs=1, gamma=0.9, td_lambda=1.0)
    changes = {"over": ("gamma",), "by_state": True, "meta_learning_rate": 0.05, **changes}
    return MetaGradient(agent=base, judge=base.replace(gamma=1.0), **changes)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_dials_by_state_have_their_derivatives(mode: str):
    """d J'(tau'; theta') / d logit of gamma(s) by finite differences, for every state."""
    agent = strong(in_the_chain(over=("gamma", "td_lambda"), mode=mode))
    _, state, (tau, fresh) = rollouts(agent, batched(NoisyChain(signals=2), 1), 11, 2)
    with jax.enable_x64(True):
        agent, state, tau, fresh = doubled((agent, state, tau, fresh))
        table = jnp.linspace(-0.3, 0.4, 4)[:, None]
        theta = state.agent.replace(params={"table": table})
        tau, fresh = (b.replace(extras={"value": table[b.observation[:-1], 0]}) for b in (tau, fresh))
        eta = {name: x + 0.3 * jnp.arange(4.0) for name, x in state.eta.items()}

        def judged(eta):
            after = agent.update(eta, theta, tau, KEYS[0])[0]
            return agent.outer().loss(after.params, learned.agent, fresh, KEYS[0])[0]

        learned = agent.learn(state.replace(agent=theta, eta=eta), tau, KEYS[0])[0]
        after = agent.meta_learn(learned, fresh, KEYS[0])
        gradients = jax.tree.map(lambda x: x / 0.1, after.opt_state.mean)  # Adam's first mean is a tenth of it
        for name in eta:
            for i in range(4):
                nudge = jnp.zeros(4).at[i].set(1e-5)
                up, down = (float(judged({**eta, name: eta[name] + sign * nudge})) for sign in (1, -1))
                np.testing.assert_allclose(gradients[name][i], (up - down) / 2e-5, rtol=1e-4, atol=1e-10)


def test_noisy_places_are_learned_to_be_discounted_away():
    """Section 3.1: gamma stays high where signals follow and falls where noise does, and predictions are better."""
    learned, told = trained_in(in_the_chain(), NoisyChain(), 6_000, lanes=8)
    gamma = np.array([told[f"dial gamma {i}"][-1].mean() for i in range(10)])
    assert gamma[1:5].mean() - gamma[5:].mean() > 0.5, gamma  # nothing arrives at place 0
    plain, _ = trained_in(in_the_chain().judge, NoisyChain(), 6_000, lanes=8)
    tables = [np.asarray(state.params["table"])[:, :, 0] for state in (learned.state.agent, plain.state)]
    error = [np.square(table - [0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0, 0]).sum(-1).mean() for table in tables]
    assert error[0] < 0.5 * error[1], error


def test_outer_dials_are_the_judges_and_stay():
    """The same start with another judge goes elsewhere; the judge's numbers never move."""
    near = trained(small(judge=op.A2C(gamma=0.3)))
    far = trained(small(judge=op.A2C(gamma=0.99)))
    assert np.abs(near[1]["dial gamma"][-1] - far[1]["dial gamma"][-1]).max() > 1e-4
    np.testing.assert_array_equal(far[0].agent.judge.gamma, np.float32([0.99, 0.99]))
    default = dials(MetaGradient().outer())
    assert (default["entropy_cost"], default["value_cost"], default["gae_lambda"]) == (0.0, 0.0, 1.0)


def test_networks_see_the_dials_where_asked():
    run, _ = trained(small(condition=True), updates=2)
    state = jax.tree.map(lambda x: x[0], run.state)
    agent = jax.tree.map(lambda x: x[0], run.agent)
    timestep = jax.tree.map(lambda x: x[0], run.stage.timestep)
    carry = agent.start(state, agent.num_envs)
    value = lambda state: agent.act(state, timestep, carry, jax.random.key(0))[2]["value"]  # noqa: E731
    moved = state.replace(eta={**state.eta, "gamma": state.eta["gamma"] - 3.0})
    assert np.abs(value(moved) - value(state)).max() > 1e-4
    # the judge asks the critic under the outer dials, whatever was kept from acting
    batch = experience("a2c")[2][0]
    judged = lambda batch: agent._loss(agent.outer(), state.params, state.agent, batch, jax.random.key(0))[0]  # noqa: E731
    other = batch.replace(extras={**batch.extras, "value": batch.extras["value"] + 7.0})
    np.testing.assert_array_equal(judged(batch), judged(other))


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (MetaGradient(over=()), "name at least one dial"),
        (MetaGradient(over=("gama",)), "'gama' is no dial"),
        (MetaGradient(over=("max_grad_norm",), agent=op.A2C(max_grad_norm=float("inf"))), "max_grad_norm is infinite"),
        (MetaGradient(judge=op.PPO()), "expected a2c"),
        (MetaGradient(over=("agent.gamma",), agent=MetaGradient()), "without one"),
        (MetaGradient(accumulate=True, mode="reverse"), "accumulate needs forward"),
        (MetaGradient(by_state=True), "a2c has no dials by state"),
        (MetaGradient(by_state=True, condition=True, agent=TD(), over=("gamma",)), "by_state or condition"),
    ],
)
def test_mistakes_are_named(agent, words: str):
    with pytest.raises(UserError, match=words):
        agent.check()


@pytest.mark.parametrize("rows", [6, 32_768])
def test_a_product_is_differentiable_in_both_modes_and_batched(rows: int):
    """To the second order, under vmap, with the grouped gradient of many rows and without."""
    x, w = jax.random.normal(jax.random.key(0), (rows, 4)) / rows, jax.random.normal(jax.random.key(1), (4, 3))
    ours, plain = (lambda w, x, f=f: jnp.sum(jnp.tanh(f(x, w)) ** 2 * rows) for f in (product, jnp.matmul))
    way = jax.random.normal(jax.random.key(2), w.shape)
    derivatives = (
        lambda f: jax.jvp(lambda w: f(w, x), (w,), (way,))[1],
        lambda f: jax.grad(f)(w, x),
        lambda f: jax.grad(f, argnums=1)(w, x),
        lambda f: jax.jvp(lambda w: jax.grad(f)(w, x), (w,), (way,))[1],
        lambda f: jax.grad(lambda w: jnp.vdot(jax.grad(f)(w, x), way))(w),
        lambda f: jax.vmap(lambda a: jax.jvp(lambda w: jax.grad(f)(w, a * x), (w,), (way,))[1])(jnp.arange(3.0)),
        lambda f: jax.grad(lambda w: jax.vmap(lambda a: f(a * w, x))(jnp.arange(3.0)).sum())(w),
    )
    for derivative in derivatives:
        np.testing.assert_allclose(jax.jit(derivative, static_argnums=0)(ours), derivative(plain), rtol=2e-4, atol=1e-5)
