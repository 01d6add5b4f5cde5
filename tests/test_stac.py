"""STAC: its meta-gradient against finite differences, the judge by hand, and what auxiliary heads may touch."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, Ends, differing, largest_difference
from test_contract import doubled

from operant import methods
from operant.agent import dials, strong
from operant.errors import UserError
from operant.methods.meta.stac import COSTS, SHARES, STAC
from operant.types import Box, Discrete

pytestmark = pytest.mark.of("stac")

KEY = jax.random.key(3)


@functools.cache
def situation(auxiliary_heads: int, recurrent: str = ""):
    """(agent, state, batch): a small agent whose policy has moved on from the one that acted, and all four cases."""
    case = Ends("stac", auxiliary_heads=auxiliary_heads, recurrent=recurrent)
    agent = methods.apply(case.agent, {"agent.lag": 0, "agent.max_grad_norm": 0.05, "agent.learning_rate": 0.02})
    agent = strong(agent.replace(begin=0.8))
    batch, _ = case.batch()
    state = agent.init(jax.random.key(4), case.spec)
    noise = iter(jax.random.split(jax.random.key(7), 100))
    moved = lambda x: x + 0.4 * jax.random.normal(next(noise), x.shape)  # noqa: E731
    theta = state.agent.replace(
        params=jax.tree.map(moved, state.agent.params),
        opt_state=jax.tree.map(lambda x: jnp.abs(moved(x)) * 1e-3, state.agent.opt_state),
    )
    eta = {name: x + 0.3 * i + 0.1 * jnp.arange(x.size) for i, (name, x) in enumerate(state.eta.items())}
    return agent, state.replace(agent=theta, eta=eta), batch


def value_of(agent, name: str, logit: float) -> float:
    ceiling = 1.0 if name in SHARES else float(dials(agent.agent)[name])
    return ceiling / (1 + np.exp(-float(logit)))


def test_it_begins_a_hundredth_below_the_untuned_agent():
    agent = strong(STAC(auxiliary_heads=1))
    spec = Ends("stac").spec
    state = agent.init(KEY, spec)
    base, now = dials(agent.agent), agent.current(state)
    for name in dials(agent.agent):
        expected = 0.99 if name in SHARES else 0.99 * base[name] if name in COSTS else base[name]
        np.testing.assert_allclose(now[name], expected, rtol=1e-5)
    assert set(state.eta) == {*SHARES, *COSTS} and all(x.shape == (2,) for x in state.eta.values())


@pytest.mark.parametrize("recurrent", ["", "gru"])
def test_alone_its_update_is_impalas_with_the_dials_that_eta_says(recurrent: str):
    agent, state, batch = situation(0, recurrent)
    told = {name: value_of(agent, name, x[0]) for name, x in state.eta.items()}
    assert {name: round(float(x), 5) for name, x in agent.current(state).items() if name in told} == {
        name: round(x, 5) for name, x in told.items()
    }
    base = strong(methods.apply(agent.agent, {**told, "network.shared": "yes"}))
    expected, metrics, _ = jax.jit(base.learn, compiler_options=QUICK)(state.agent, batch, KEY)
    new, reported, _ = jax.jit(agent.learn, compiler_options=QUICK)(state, batch, KEY)
    assert differing(new.agent, state.agent)
    for ours, theirs in ((new.agent, expected), ({name: reported[name] for name in metrics}, metrics)):
        error, leaf = largest_difference(ours, theirs)
        assert error < 1e-5, f"{leaf} differs by {error:g}"
    for name, x in told.items():
        np.testing.assert_allclose(reported[f"dial {name}"], x, rtol=1e-5)


@pytest.mark.parametrize("auxiliary_heads", [0, 2])
def test_the_meta_gradient_is_that_of_finite_differences(auxiliary_heads: int):
    """sum over theta' of (the slope of the judge) * (d theta' / d eta), the latter by moving each logit."""
    agent, state, batch = situation(auxiliary_heads)
    with jax.enable_x64(True):
        agent, state, batch = doubled((agent, state, batch))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def after(eta):
            return agent.learn(state.replace(eta=eta), batch, KEY)[0].agent.params

        new, metrics, _ = jax.jit(agent.learn, compiler_options=QUICK)(state, batch, KEY)
        found = {name: np.asarray(x) / 0.1 for name, x in new.opt_state.mean.items()}  # Adam's first mean is g / 10
        judge = lambda params: agent.judge(params, state.agent, batch)  # noqa: E731
        value, slope = jax.jit(jax.value_and_grad(judge), compiler_options=QUICK)(after(state.eta))
        np.testing.assert_allclose(metrics["meta_loss"], value, rtol=1e-10)
        for name, x in state.eta.items():
            for i in range(1 + auxiliary_heads):
                h = 1e-5
                up, down = (after({**state.eta, name: x.at[i].add(sign * h)}) for sign in (1, -1))
                along = jax.tree.map(lambda s, a, b: jnp.vdot(s, a - b), slope, up, down)
                expected = float(sum(jax.tree.leaves(along))) / (2 * h)
                np.testing.assert_allclose(found[name][i], expected, rtol=1e-4, atol=1e-10, err_msg=f"{name} {i}")
                assert abs(expected) > 1e-8, f"{name} of head {i} has no effect"
        assert float(metrics["grad_norm"]) > float(agent.agent.max_grad_norm)  # the clipping is differentiated too


def test_the_judge_is_the_untuned_loss_of_the_first_pair_and_a_divergence():
    agent, state, batch = situation(2)
    theta = state.agent
    base = strong(methods.apply(agent.agent, {"network.shared": "yes"}))
    noise = iter(jax.random.split(jax.random.key(8), 100))
    params = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(noise), x.shape), theta.params)

    def divergence(p, q):
        (p, _), (q, _) = (base.network.evaluate(params, theta, batch) for params in (p, q))
        p, q = (np.asarray(jax.nn.log_softmax(x.logits[:-1]), np.float64) for x in (p, q))
        return (np.exp(p) * (p - q)).sum(-1)[np.asarray(batch.valid) > 0].mean()

    loss = base.loss(params, theta, batch, KEY)[0]
    for cost in (0.0, 1.0, 3.0):
        judged = strong(agent.replace(kl_cost=cost)).judge(params, theta, batch)
        np.testing.assert_allclose(judged, loss + cost * divergence(params, theta.params), rtol=1e-5)
    assert divergence(params, theta.params) > 1e-3 and divergence(params, theta.params) != divergence(
        theta.params, params
    )
    # where nothing has moved there is no divergence, and it pulls nowhere
    here, there = (
        jax.grad(lambda p, f=f: f(p))(theta.params)
        for f in (lambda p: agent.judge(p, theta, batch), lambda p: base.loss(p, theta, batch, KEY)[0])
    )
    error, leaf = largest_difference(here, there)
    assert error < 1e-6, f"{leaf} differs by {error:g}"


def test_auxiliary_heads_act_through_the_torso_alone():
    agent, state, batch = situation(2)
    theta = state.agent
    # with the costs of the pair that acts at zero, only the auxiliary heads are left in the loss
    eta = {name: x.at[0].set(-100.0) if name in COSTS else x for name, x in state.eta.items()}
    slope = jax.grad(lambda params: agent.losses(eta, params, theta, batch)[0])(theta.params)
    size = {name: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(part)) for name, part in slope.items()}
    assert size["policy"] == size["value"] == 0.0
    assert size["torso"] > 1e-4 and size["auxiliary"] > 1e-4
    # and they neither act nor are judged
    other = {**theta.params, "auxiliary": jax.tree.map(lambda x: x + 1.0, theta.params["auxiliary"])}
    (policy, value), (policy_too, value_too) = (
        agent.base.network.evaluate(params, theta, batch) for params in (theta.params, other)
    )
    assert differing((policy, value), (policy_too, value_too)) == []
    assert float(agent.judge(theta.params, theta, batch)) == float(agent.judge(other, theta, batch))
    assert float(agent.losses(state.eta, theta.params, theta, batch)[0]) != float(
        agent.losses(state.eta, other, theta, batch)[0]
    )


def test_each_head_has_the_loss_of_an_agent_with_its_dials():
    agent, state, batch = situation(2)
    theta = state.agent
    pair, features = agent.see(theta.params, theta, batch.observation, batch.first, None, ())
    pairs = [pair, *agent.auxiliary(theta.spec).apply({"params": theta.params["auxiliary"]}, features, None)]
    total = 0.0
    for i, (policy, value) in enumerate(pairs):
        told = {name: value_of(agent, name, x[i]) for name, x in state.eta.items()}
        one = strong(methods.apply(agent.agent, told))
        reward = one.network.rewards(theta, batch)
        total += float(one.head_loss(jax.tree.map(lambda x: x[:-1], policy), value, reward, batch)[0])
    np.testing.assert_allclose(agent.losses(state.eta, theta.params, theta, batch)[0], total, rtol=1e-5)


@pytest.mark.parametrize("recurrent", ["", "lstm"])
@pytest.mark.parametrize("space", [Box((3,)), Box((6, 6, 2), "uint8", 0.0, 255.0), Discrete(5)], ids=str)
def test_what_the_heads_see_is_what_the_first_pair_is_made_from(recurrent: str, space):
    """The kept features, put through the first pair's own layers, give its policy and value."""
    agent = strong(methods.apply(STAC(), {"agent.network.hidden": (8,), "agent.network.recurrent": recurrent,
                                          "agent.network.recurrent_size": 8}))  # fmt: skip
    spec = Ends("stac").spec.replace(observation=space)
    theta = agent.init(KEY, spec).agent
    observation = jax.random.randint(KEY, (4, 2, *space.shape), 0, 5).astype(space.dtype)
    carry = agent.base.network.start(theta, 2).network
    first = jnp.zeros((4, 2), bool)
    (policy, value), features = agent.see(theta.params, theta, observation, first, None, carry)
    logits = features @ theta.params["policy"]["logits"]["kernel"] + theta.params["policy"]["logits"]["bias"]
    np.testing.assert_allclose(policy.logits, logits, atol=1e-6)
    head = theta.params["value"]["Dense_0"]
    np.testing.assert_allclose(value, (features @ head["kernel"] + head["bias"])[..., 0], atol=1e-5)


def test_only_the_dials_in_over_are_tuned():
    case = Ends("stac", auxiliary_heads=0)
    agent = strong(case.agent.replace(over=("gamma", "gae_lambda")))
    batch, _ = case.batch()
    state = agent.init(KEY, case.spec)
    new, metrics, _ = jax.jit(agent.learn, compiler_options=QUICK)(state, batch, KEY)
    assert sorted(differing(new.eta, state.eta)) == ["gae_lambda", "gamma"]
    assert {name for name in metrics if name.startswith("dial ")} == {"dial gamma", "dial gae_lambda"}
    for name in ("truncation", *COSTS):
        assert agent.current(new)[name] == dials(agent.agent)[name]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"over": ()}, "over"),
        ({"over": ("gamma", "learning_rate")}, "over"),
        ({"over": ("gamma", "gamma")}, "over"),
        ({"agent.network.shared": "no"}, "shared"),
        ({"agent": methods.load("ppo")()}, "impala"),
    ],
)
def test_what_it_cannot_tune_is_refused(fields: dict, word: str):
    with pytest.raises(UserError, match=word):
        methods.apply(STAC(), fields).check()
    methods.apply(STAC(), {"auxiliary_heads": 0, "agent.network.shared": "no"}).check()
