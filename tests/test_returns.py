"""Returns against an episode-splitting reference, rlax, numbers by hand, identities and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from operant import ops

GAMMA, LAM, N = 0.9, 0.8, 3


# ----------------------------------------------------------------------------------------- a written-out reference
# Each function below knows one episode (or the part of it that the sequence holds), ends with the value of the last
# observation, and knows nothing of `valid`: R rewards, V and Q with one more row, `end` = 0 if the MDP terminated.
def monte_carlo(e, gamma, lam):
    future, out = e["end"] * e["V"][-1], []
    for r in e["R"][::-1]:
        future = r + gamma * future
        out.append(future)
    return out[::-1]


def n_step(e, gamma, lam):
    length, out = len(e["R"]), []
    for t in range(length):
        stop = min(t + N, length)
        total = sum(gamma ** (k - t) * e["R"][k] for k in range(t, stop))
        out.append(total + gamma ** (stop - t) * e["V"][stop] * (e["end"] if stop == length else 1.0))
    return out


def weighted_deltas(e, gamma, V, Q, trace, first_weight=None):
    """sum_k (prod_{j=1..k} gamma trace_{t+j}) weight delta_{t+k}, by the double sum."""
    length, out = len(e["R"]), []
    for t in range(length):
        total, factor = 0.0, 1.0
        for k in range(t, length):
            if k > t:
                factor *= gamma * trace(k)
            following = V[k + 1] * (e["end"] if k == length - 1 else 1.0)
            weight = 1.0 if first_weight is None else first_weight(k)
            total += factor * weight * (e["R"][k] + gamma * following - Q[k])
        out.append(total)
    return np.array(out)


def advantage(e, gamma, lam):
    return weighted_deltas(e, gamma, e["V"], e["V"], lambda k: lam)


def lambda_return(e, gamma, lam):
    return advantage(e, gamma, lam) + e["V"][:-1]


def vtrace_targets(e, gamma, lam, alpha_rho=1.0, alpha_c=1.0):
    # The trace from t to t+1 belongs to the action at t: written as a product over the steps that were left behind.
    is_t = np.exp(e["log_rho"])
    c = alpha_c * np.minimum(1.1, is_t) + (1 - alpha_c) * is_t
    rho = alpha_rho * np.minimum(0.9, is_t) + (1 - alpha_rho) * is_t
    return e["V"][:-1] + weighted_deltas(e, gamma, e["V"], e["V"], lambda k: lam * c[k - 1], lambda k: rho[k])


def vtrace_advantages(e, gamma, lam, alpha_rho=1.0, alpha_c=1.0):
    targets, is_t = np.append(vtrace_targets(e, gamma, lam, alpha_rho, alpha_c), e["V"][-1]), np.exp(e["log_rho"])
    weight, out = alpha_rho * np.minimum(1.2, is_t) + (1 - alpha_rho) * is_t, []
    for t, r in enumerate(e["R"]):
        end = e["end"] if t == len(e["R"]) - 1 else 1.0
        following = (1 - lam) * e["V"][t + 1] + lam * targets[t + 1]
        out.append(weight[t] * (r + gamma * end * following - e["V"][t]))
    return out


def leaky_targets(e, gamma, lam):
    return vtrace_targets(e, gamma, lam, 0.7, 0.4)


def leaky_advantages(e, gamma, lam):
    return vtrace_advantages(e, gamma, lam, 0.7, 0.4)


def retrace_targets(e, gamma, lam):
    taken = e["Q"][np.arange(len(e["R"])), e["A"]]
    rho = np.exp(e["log_rho"])
    return taken + weighted_deltas(e, gamma, e["V"], taken, lambda k: lam * min(1.0, rho[k]))


def peng(e, gamma, lam):
    best = e["Q"].max(-1)
    return best[:-1] + weighted_deltas(e, gamma, best, best, lambda k: lam)


def watkins(e, gamma, lam):
    best = e["Q"].max(-1)
    greedy = e["Q"][:-1].argmax(-1) == e["A"]
    return best[:-1] + weighted_deltas(e, gamma, best, best, lambda k: lam * greedy[k])


def value(s):
    return s["V"][:-1]


def zero(s):
    return np.zeros(len(s["R"]))


def q_taken(s):
    return s["Q"][np.arange(len(s["R"])), s["A"]]


def common(s):
    return s["R"], s["discount"], s["valid"]


# name: (the operation on a sequence, the reference for one episode, what a row that is no experience gives)
OPERATIONS = {
    "discounted_returns": (lambda s, g, lam: ops.discounted_returns(*common(s), s["V"], g), monte_carlo, value),
    "n_step_returns": (lambda s, g, lam: ops.n_step_returns(*common(s), s["V"], g, N), n_step, value),
    "gae": (lambda s, g, lam: ops.gae(*common(s), s["V"], g, lam), advantage, zero),
    "lambda_returns": (lambda s, g, lam: ops.lambda_returns(*common(s), s["V"], g, lam), lambda_return, value),
    "vtrace_targets": (
        lambda s, g, lam: ops.vtrace(*common(s), s["V"], s["log_rho"], g, lam, 0.9, 1.1, 1.2).targets,
        vtrace_targets,
        value,
    ),
    "vtrace_advantages": (
        lambda s, g, lam: ops.vtrace(*common(s), s["V"], s["log_rho"], g, lam, 0.9, 1.1, 1.2).pg_advantages,
        vtrace_advantages,
        zero,
    ),
    "leaky_vtrace_targets": (
        lambda s, g, lam: ops.vtrace(*common(s), s["V"], s["log_rho"], g, lam, 0.9, 1.1, 1.2, 0.7, 0.4).targets,
        leaky_targets,
        value,
    ),
    "leaky_vtrace_advantages": (
        lambda s, g, lam: ops.vtrace(*common(s), s["V"], s["log_rho"], g, lam, 0.9, 1.1, 1.2, 0.7, 0.4).pg_advantages,
        leaky_advantages,
        zero,
    ),
    "retrace": (
        lambda s, g, lam: ops.retrace(*common(s), q_taken(s), s["V"], s["log_rho"], g, lam),
        retrace_targets,
        q_taken,
    ),
    "pengs_q_lambda": (
        lambda s, g, lam: ops.pengs_q_lambda(*common(s), s["Q"], g, lam),
        peng,
        lambda s: s["Q"][:-1].max(-1),
    ),
    "watkins_q_lambda": (
        lambda s, g, lam: ops.watkins_q_lambda(*common(s), s["Q"], s["A"], g, lam),
        watkins,
        lambda s: s["Q"][:-1].max(-1),
    ),
}
jitted = {name: jax.jit(operation) for name, (operation, _, _) in OPERATIONS.items()}
each_operation = pytest.mark.parametrize("name", OPERATIONS)


def by_episode(s, name, gamma=GAMMA, lam=LAM):
    """The expected result: the sequence cut into episodes at the rows that are no experience, each on its own."""
    _, reference, invalid = OPERATIONS[name]
    out, T, t = np.array(invalid(s), np.float64), len(s["R"]), 0
    while t < T:
        if not s["valid"][t]:
            t += 1
            continue
        stop = t
        while stop < T and s["valid"][stop]:
            stop += 1
        episode = {k: s[k][t:stop] for k in ("R", "A", "log_rho")} | {k: s[k][t : stop + 1] for k in ("V", "Q")}
        out[t:stop] = reference(episode | {"end": s["discount"][stop - 1]}, gamma, lam)
        t = stop
    return out


def sequence(ends: dict[int, str], T: int = 9, seed: int = 0, starts_at_a_reset: bool = False):
    """Random numbers, with the episode ending at the given rows ("terminated" or "time limit").

    The row after an end is the pseudo-transition, whose reward, action and log_rho are garbage on purpose.
    """
    rng = np.random.default_rng(seed)
    s = {
        "R": rng.normal(size=T),
        "V": 3.0 + rng.normal(size=T + 1),
        "Q": 3.0 + rng.normal(size=(T + 1, 3)),
        "A": rng.integers(3, size=T),
        "log_rho": 0.5 * rng.normal(size=T),
        "discount": np.ones(T),
        "valid": np.ones(T),
    }
    s["A"] = np.where(rng.random(T) < 0.7, s["Q"][:-1].argmax(-1), s["A"])  # mostly greedy: traces survive in Watkins's
    s["valid"][0] = 0.0 if starts_at_a_reset else 1.0
    for row, kind in ends.items():
        s["discount"][row] = 0.0 if kind == "terminated" else 1.0
        if row + 1 < T:
            s["valid"][row + 1] = 0.0
    garbage = s["valid"] == 0
    s["R"] = np.where(garbage, 100.0, s["R"])
    s["log_rho"] = np.where(garbage, 5.0, s["log_rho"])
    return s


def compute(s, name, gamma=GAMMA, lam=LAM):
    s = {k: jnp.asarray(v, jnp.int32 if k == "A" else jnp.float32) for k, v in s.items()}
    return np.asarray(jitted[name](s, gamma, lam))


# --------------------------------------------------------------------------------------------------- the four cases
CASES = {
    "goes on": {},
    "terminated": {4: "terminated"},
    "time limit": {4: "time limit"},
    "terminated, then a time limit": {2: "terminated", 6: "time limit"},
    "a time limit, then terminated": {2: "time limit", 6: "terminated"},
    "terminated at the first row": {0: "terminated"},
    "time limit at the first row": {0: "time limit"},
    "terminated at the last row": {8: "terminated"},
    "time limit at the last row": {8: "time limit"},
    "terminated before the last row": {7: "terminated"},
    "time limit before the last row": {7: "time limit"},
    "episodes of one step": {1: "terminated", 3: "time limit", 5: "terminated", 7: "time limit"},
}


CASES_FROM = [(case, False) for case in CASES] + [(case, True) for case in CASES if 0 not in CASES[case]]


@each_operation
@pytest.mark.parametrize("case, starts_at_a_reset", CASES_FROM)
def test_every_operation_equals_its_episodes_alone(name, case, starts_at_a_reset):
    s = sequence(CASES[case], starts_at_a_reset=starts_at_a_reset)
    np.testing.assert_allclose(compute(s, name), by_episode(s, name), rtol=1e-5, atol=1e-5)


def a_time_limit_is_a_death(s):
    """done = terminated or truncated, and 1 - done in place of `discount`: the field's most repeated bug."""
    ends = np.append(s["valid"][1:] == 0, False)
    return s | {"discount": s["discount"] * (1 - ends)}


def the_boundary_is_experience(s):
    return s | {"valid": np.ones_like(s["valid"])}


def the_mask_is_a_discount(s):
    """discount * valid, then no mask: the pseudo-transition's own reward is learned from."""
    return s | {"discount": s["discount"] * s["valid"], "valid": np.ones_like(s["valid"])}


@each_operation
@pytest.mark.parametrize("mistake", [a_time_limit_is_a_death, the_boundary_is_experience, the_mask_is_a_discount])
def test_the_table_would_catch_the_usual_mistakes(name, mistake):
    s = sequence(CASES["time limit"])
    before = slice(0, 5)  # rows up to the time limit: all experience, all should know better
    assert not np.allclose(compute(mistake(s), name)[before], by_episode(s, name)[before], atol=1e-2)


@each_operation
def test_a_death_is_not_a_time_limit(name):
    dead, cut = (compute(sequence({4: kind}), name) for kind in ("terminated", "time limit"))
    assert abs(dead[4] - cut[4]) > 0.1
    np.testing.assert_array_equal(dead[5:], cut[5:])


@each_operation
def test_the_neighbours_of_a_boundary_do_not_see_across_it(name):
    s = sequence(CASES["time limit"])
    other = sequence(CASES["time limit"], seed=1)
    changed = {k: np.concatenate([v[:6], other[k][6:]]) for k, v in s.items()}  # everything after the boundary
    np.testing.assert_array_equal(compute(s, name)[:6], compute(changed, name)[:6])


def test_two_steps_to_a_time_limit_by_hand():
    # Reward 1 each, V = 10 everywhere, gamma 0.9: 1 + 0.9 * 10 = 10 at every step, so nothing is to be learned.
    s = {
        "R": np.array([1.0, 1.0, 0.0]),
        "discount": np.ones(3),
        "valid": np.array([1.0, 1.0, 0.0]),
        "V": np.full(4, 10.0),
        "Q": np.full((4, 3), 10.0),
        "A": np.zeros(3, int),
        "log_rho": np.zeros(3),
    }
    for name in OPERATIONS:
        expected = [0.0, 0.0] if name == "gae" or name.endswith("advantages") else [10.0, 10.0]
        np.testing.assert_allclose(compute(s, name)[:2], expected, rtol=1e-6, atol=1e-5, err_msg=name)

    wrong, future = [], 10.0  # the mask multiplied into the return
    for r, valid in zip(s["R"][::-1], s["valid"][::-1], strict=True):
        future = valid * (r + GAMMA * future)
        wrong.append(future)
    np.testing.assert_allclose(wrong[::-1], [1.9, 1.0, 0.0])
    assert abs(compute(s, "discounted_returns")[0] - wrong[-1]) > 8


def test_the_last_step_before_a_death_by_hand():
    reward, discount = jnp.array([1.0, 2.0, 0.0, 4.0]), jnp.array([1.0, 0.0, 1.0, 1.0])
    valid = jnp.array([1.0, 1.0, 0.0, 1.0])
    values = jnp.array([10.0, 20.0, 30.0, 40.0, 50.0])
    np.testing.assert_allclose(
        ops.discounted_returns(reward, discount, valid, values, 0.5), [1 + 0.5 * 2, 2, 30, 4 + 0.5 * 50]
    )
    np.testing.assert_allclose(
        ops.gae(reward, discount, valid, values, 0.5, 0.5), [1 + 10 - 10 + 0.25 * (2 - 20), 2 - 20, 0, 4 + 25 - 40]
    )


# ------------------------------------------------------------------------------------------------------- identities
@st.composite
def sequences(draw):
    T = draw(st.sampled_from([1, 2, 9]))  # few lengths, few compilations
    ends, row = {}, draw(st.integers(0, 5))
    while row < T:
        ends[row] = draw(st.sampled_from(["terminated", "time limit"]))
        row += draw(st.integers(2, 6))
    return sequence(ends, T, seed=draw(st.integers(0, 1000)))


dials = st.floats(0.0, 1.0, width=32)


@settings(max_examples=30, deadline=None)
@given(sequences(), dials, dials)
def test_all_operations_on_random_episodes(s, gamma, lam):
    for name in OPERATIONS:
        np.testing.assert_allclose(
            compute(s, name, gamma, lam), by_episode(s, name, gamma, lam), rtol=1e-4, atol=1e-4, err_msg=name
        )


@settings(max_examples=30, deadline=None)
@given(sequences(), dials)
def test_identities(s, gamma):
    f = {k: jnp.asarray(v, jnp.float32) for k, v in s.items()}
    row, V, T = (f["R"], f["discount"], f["valid"]), f["V"], len(s["R"])
    near = dict(rtol=1e-4, atol=1e-4)
    full = ops.discounted_returns(*row, V, gamma)
    np.testing.assert_allclose(V[:-1] + ops.gae(*row, V, gamma, 1.0), full, **near)
    np.testing.assert_allclose(ops.n_step_returns(*row, V, gamma, T), full, **near)
    np.testing.assert_allclose(ops.lambda_returns(*row, V, gamma, 0.0), ops.n_step_returns(*row, V, gamma, 1), **near)

    on_policy = ops.vtrace(*row, V, jnp.zeros(T), gamma, 1.0)
    np.testing.assert_allclose(on_policy.targets, ops.n_step_returns(*row, V, gamma, T), **near)
    leaky = ops.vtrace(*row, V, jnp.zeros(T), gamma, 0.7)
    np.testing.assert_allclose(leaky.pg_advantages, ops.gae(*row, V, gamma, 0.7), **near)
    np.testing.assert_allclose(leaky.q_estimate, V[:-1] + leaky.pg_advantages, **near)

    q = jnp.asarray(q_taken(s), jnp.float32)
    one_step = q + f["valid"] * (f["R"] + gamma * f["discount"] * V[1:] - q)
    np.testing.assert_allclose(ops.retrace(*row, q, V, f["log_rho"], gamma, 0.0), one_step, **near)
    greedy = jnp.asarray(s["Q"][:-1].argmax(-1))
    np.testing.assert_allclose(
        ops.watkins_q_lambda(*row, f["Q"], greedy, gamma, 0.6), ops.pengs_q_lambda(*row, f["Q"], gamma, 0.6), **near
    )


def test_vtrace_with_infinite_clips_is_full_importance_sampling():
    s = {k: jnp.asarray(v, jnp.float32) for k, v in sequence({}).items()}
    result = ops.vtrace(*common(s), s["V"], s["log_rho"], GAMMA, 1.0, jnp.inf, jnp.inf, jnp.inf)
    expected, error = [], 0.0
    for t in reversed(range(9)):
        delta = s["R"][t] + GAMMA * s["V"][t + 1] - s["V"][t]
        error = np.exp(s["log_rho"][t]) * (delta + GAMMA * error)
        expected.append(error + s["V"][t])
    np.testing.assert_allclose(result.targets, expected[::-1], rtol=1e-5)


def test_a_leak_goes_from_vtrace_to_importance_sampling():
    s = {k: jnp.asarray(v, jnp.float32) for k, v in sequence({2: "terminated", 6: "time limit"}).items()}
    run = jax.jit(lambda *dials: ops.vtrace(*common(s), s["V"], s["log_rho"], GAMMA, LAM, *dials))
    for got, expected in zip(run(0.9, 1.1, 1.2, 1.0, 1.0), run(0.9, 1.1, 1.2), strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(run(0.9, 1.1, 1.2, 0.0, 0.0), run(jnp.inf, jnp.inf, jnp.inf), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [1.0, jnp.inf])
def test_no_ratio_is_too_large_for_a_finite_number_and_its_gradients(alpha, clip):
    s = {k: jnp.asarray(v, jnp.float32) for k, v in sequence({5: "terminated"}).items()}
    log_rho = s["log_rho"].at[jnp.array([1, 5, 6])].set(jnp.array([1e3, -1e3, 1e3]))  # row 6 is no experience

    def objective(log_rho, alpha, clip):
        result = ops.vtrace(*common(s), s["V"], log_rho, GAMMA, LAM, clip, clip, clip, alpha, alpha)
        return jnp.sum(result.targets) + jnp.sum(result.pg_advantages)

    value, gradient = jax.jit(jax.value_and_grad(objective, (0, 1, 2)))(log_rho, alpha, clip)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in gradient)
    # importance sampling sees the ratio, truncation does not
    assert (abs(value) > 1e6) == (alpha < 1 or clip == jnp.inf)


# ------------------------------------------------------------------------------------------------------------- rlax
@pytest.fixture(params=[{}, {3: "terminated"}], ids=["goes on", "terminated"])
def plain(request):
    """What rlax can say: all rows valid, so an end is followed at once by the next episode (it stores no boundary)."""
    s = sequence(request.param)
    s["R"] = np.clip(s["R"], -3, 3)
    return {k: jnp.asarray(v, jnp.int32 if k == "A" else jnp.float32) for k, v in (s | {"valid": np.ones(9)}).items()}


def test_rlax_state_values(plain):
    s, row, d = plain, common(plain), GAMMA * plain["discount"]
    V, near = s["V"], dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        ops.gae(*row, V, GAMMA, LAM), rlax.truncated_generalized_advantage_estimation(s["R"], d, LAM, V), **near
    )
    np.testing.assert_allclose(
        ops.lambda_returns(*row, V, GAMMA, LAM), rlax.lambda_returns(s["R"], d, V[1:], LAM), **near
    )
    np.testing.assert_allclose(
        ops.discounted_returns(*row, V, GAMMA), rlax.discounted_returns(s["R"], d, V[1:]), **near
    )
    for n in (1, 2, 5, 9):
        np.testing.assert_allclose(
            ops.n_step_returns(*row, V, GAMMA, n), rlax.n_step_bootstrapped_returns(s["R"], d, V[1:], n), **near
        )
    ours = ops.vtrace(*row, V, s["log_rho"], GAMMA, LAM, 0.9, 1.0, 1.2)
    theirs = rlax.vtrace_td_error_and_advantage(V[:-1], V[1:], s["R"], d, jnp.exp(s["log_rho"]), LAM, 0.9, 1.2)
    np.testing.assert_allclose(ours.targets - V[:-1], theirs.errors, **near)
    np.testing.assert_allclose(ours.pg_advantages, theirs.pg_advantage, **near)
    np.testing.assert_allclose(ours.q_estimate, theirs.q_estimate, **near)
    rho = jnp.exp(s["log_rho"])
    for alpha in (0.0, 0.3, 1.0):
        ours = ops.vtrace(*row, V, s["log_rho"], GAMMA, LAM, 0.9, 1.0, 1.0, alpha, alpha)
        theirs = rlax.leaky_vtrace(V[:-1], V[1:], s["R"], d, rho, alpha, LAM, 0.9, stop_target_gradients=False)
        np.testing.assert_allclose(ours.targets - V[:-1], theirs, **near)


def test_rlax_action_values(plain):
    s, row, d = plain, common(plain), GAMMA * plain["discount"]
    Q, q, near = s["Q"], jnp.asarray(q_taken(plain)), dict(rtol=1e-5, atol=1e-5)
    c = LAM * jnp.minimum(1.0, jnp.exp(s["log_rho"]))
    np.testing.assert_allclose(
        ops.retrace(*row, q, s["V"], s["log_rho"], GAMMA, LAM),
        rlax.general_off_policy_returns_from_q_and_v(q[1:], s["V"][1:], s["R"], d, c[1:]),
        **near,
    )
    np.testing.assert_allclose(
        ops.pengs_q_lambda(*row, Q, GAMMA, LAM) - q,
        rlax.q_lambda(Q[:-1], s["A"], s["R"], d, Q[1:], LAM * jnp.ones(9)),
        **near,
    )
    greedy = jnp.append(s["A"][1:] == Q[1:-1].argmax(-1), False)
    np.testing.assert_allclose(
        ops.watkins_q_lambda(*row, Q, s["A"], GAMMA, LAM) - q,
        rlax.q_lambda(Q[:-1], s["A"], s["R"], d, Q[1:], LAM * greedy),
        **near,
    )


# -------------------------------------------------------------------------------------------------------- gradients
@each_operation
def test_gradients_of_the_dials_are_those_of_finite_differences(name):
    with jax.enable_x64(True):
        s = {k: jnp.asarray(v) for k, v in sequence({2: "terminated", 6: "time limit"}).items()}
        weights = jnp.cos(jnp.arange(9.0))

        @jax.jit
        def objective(gamma, lam):
            return jnp.vdot(weights, OPERATIONS[name][0](s, gamma, lam))

        got = jax.jit(jax.grad(objective, (0, 1)))(GAMMA, LAM)
        h = 1e-6
        expected = (
            (objective(GAMMA + h, LAM) - objective(GAMMA - h, LAM)) / (2 * h),
            (objective(GAMMA, LAM + h) - objective(GAMMA, LAM - h)) / (2 * h),
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
        assert abs(got[0]) > 1e-3
        if name not in ("discounted_returns", "n_step_returns"):
            assert abs(got[1]) > 1e-3


@pytest.mark.parametrize("part", ["targets", "pg_advantages"])
def test_gradients_of_vtraces_dials_are_those_of_finite_differences(part):
    with jax.enable_x64(True):
        s = {k: jnp.asarray(v) for k, v in sequence({2: "terminated", 6: "time limit"}).items()}
        weights = jnp.cos(jnp.arange(9.0))

        @jax.jit
        def objective(dials):
            return jnp.vdot(weights, getattr(ops.vtrace(*common(s), s["V"], s["log_rho"], *dials), part))

        # gamma, lambda, clip_rho, clip_c, clip_pg, alpha_rho, alpha_c
        at, h = jnp.array([GAMMA, LAM, 0.9, 1.1, 1.2, 0.7, 0.4]), 1e-6
        got = jax.jit(jax.grad(objective))(at)
        expected = [(objective(at + step) - objective(at - step)) / (2 * h) for step in h * jnp.eye(7)]
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)
        unused = 4 if part == "targets" else None
        assert all(abs(x) > 1e-3 for i, x in enumerate(got) if i != unused), got


def test_the_gradient_of_a_hand_made_return():
    # G_0 = 1 + g (2 + g V): dG/dg = 2 + 2 g V.
    def returns(g):
        return ops.discounted_returns(jnp.array([1.0, 2.0]), jnp.ones(2), jnp.ones(2), jnp.full(3, 5.0), g)[0]

    np.testing.assert_allclose(jax.grad(returns)(0.5), 2 + 2 * 0.5 * 5.0, rtol=1e-6)


# -------------------------------------------------------------------------------------------------- vmap and errors
@each_operation
def test_vmap_equals_a_loop_and_dials_may_be_one_per_step(name):
    batch = [sequence({2: "terminated", 6: "time limit"}, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(v) for v in x], 1), *batch)
    run = jax.vmap(lambda s, gamma: OPERATIONS[name][0](s, gamma, LAM), in_axes=(1, None), out_axes=1)
    expected = np.stack([compute(s, name) for s in batch], 1)
    np.testing.assert_allclose(jax.jit(run)(stacked, GAMMA), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(run)(stacked, jnp.full(9, GAMMA)), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_handed_over_without_vmap_is_refused_by_name():
    with pytest.raises(ValueError, match=r"gae: `reward` must have shape \[T\], got \[5, 2\].*vmap"):
        ops.gae(jnp.ones((5, 2)), jnp.ones((5, 2)), jnp.ones((5, 2)), jnp.ones((6, 2)), 0.9, 0.9)


def test_values_without_the_last_one_are_refused_by_name():
    with pytest.raises(ValueError, match=r"lambda_returns: `values` must have shape \[T\+1\], got \[5\] where T = 5"):
        jax.jit(ops.lambda_returns)(jnp.ones(5), jnp.ones(5), jnp.ones(5), jnp.ones(5), 0.9, 0.9)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        ops.n_step_returns(jnp.ones(5), jnp.ones(5), jnp.ones(5), jnp.ones(6), 0.9, 0)


# ---------------------------------------------------------------------------------------- representations of a value
ATOMS = jnp.linspace(-2.0, 2.0, 5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6), st.integers(0, 100))
def test_projection_is_rlax_s_on_any_atoms(atoms_from, seed):
    rng = np.random.default_rng(seed)
    atoms_from = jnp.sort(jnp.asarray(atoms_from, jnp.float32))
    probs = jnp.asarray(rng.dirichlet(np.ones(len(atoms_from))), jnp.float32)
    atoms_to = jnp.asarray(np.cumsum(0.1 + rng.random(5)) - 1.5, jnp.float32)
    ours = ops.categorical_projection(atoms_from, probs, atoms_to)
    np.testing.assert_allclose(ours, rlax.categorical_l2_project(atoms_from, probs, atoms_to), atol=1e-5)
    np.testing.assert_allclose(ours.sum(), 1.0, rtol=1e-5)


def test_projection_by_hand():
    # A termination (all mass at the reward 0.25), and a shift beyond the edge.
    np.testing.assert_allclose(
        ops.categorical_projection(jnp.full(2, 0.25), jnp.array([0.4, 0.6]), ATOMS), [0, 0, 0.75, 0.25, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        ops.categorical_projection(ATOMS + 1.5, jnp.full(5, 0.2), ATOMS), [0, 0.1, 0.2, 0.2, 0.5], atol=1e-6
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(-3, 3, width=32))
def test_two_hot_keeps_the_mean_on_two_neighbours(x):
    probs = np.asarray(ops.two_hot(jnp.float32(x), ATOMS))
    np.testing.assert_allclose(probs @ ATOMS, np.clip(x, -2, 2), atol=1e-5)
    assert np.all(probs >= -1e-6) and np.sum(probs > 1e-6) <= 2
    support = np.flatnonzero(probs > 1e-6)
    assert support.max() - support.min() <= 1


def test_two_hot_takes_any_shape_and_carries_gradient():
    x = jnp.array([[-5.0, 0.5], [1.0, 9.0]])
    expected = [[[1, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0]], [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]]
    np.testing.assert_allclose(ops.two_hot(x, ATOMS), expected)
    slope = jax.vmap(jax.grad(lambda x: ops.two_hot(x, ATOMS) @ ATOMS))(jnp.array([0.3, 1.0, -1.7, 5.0]))
    np.testing.assert_allclose(slope, [1, 1, 1, 0])


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 1.0])
def test_rescaling_is_rlax_s_and_its_inverse(epsilon):
    x = jnp.concatenate([-jnp.logspace(-6, 5, 50), jnp.zeros(1), jnp.logspace(-6, 5, 50)])
    np.testing.assert_allclose(ops.value_rescale(x, epsilon), rlax.signed_hyperbolic(x, epsilon), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(ops.value_unrescale(ops.value_rescale(x, epsilon), epsilon), x, rtol=3e-6)
    with jax.enable_x64(True):
        y = jnp.linspace(-30.0, 30.0, 41)
        np.testing.assert_allclose(
            ops.value_unrescale(y, epsilon), rlax.signed_parabolic(y, epsilon), rtol=1e-9, atol=1e-9
        )


def test_rescaling_at_zero():
    np.testing.assert_allclose(jax.grad(ops.value_rescale)(0.0), 0.5 + 1e-3, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(ops.value_unrescale)(0.0), 1 / (0.5 + 1e-3), rtol=1e-6)
    np.testing.assert_allclose(ops.value_unrescale(jnp.float32(2.0), 0.0), 8.0)  # sqrt(8 + 1) - 1 = 2
