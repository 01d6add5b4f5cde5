"""Losses against rlax, NumPy, numbers by hand and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from operant import ops
from operant.gradient import State, gradient_step
from operant.ops import parallel
from operant.types import Batch, Discrete, Spec

ARRAYS = st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4).map(lambda x: np.array(x, np.float32))


# ----------------------------------------------------------------------------------------------- means over the valid
@settings(max_examples=50, deadline=None)
@given(ARRAYS, st.lists(st.booleans(), min_size=4, max_size=4).filter(any))
def test_masked_mean_and_standardize_see_the_valid_only(x, valid):
    valid = np.array(valid)
    dirty = jnp.asarray(np.where(valid, x, np.nan)).reshape(2, 2)
    mask = jnp.asarray(valid, jnp.float32).reshape(2, 2)
    np.testing.assert_allclose(ops.masked_mean(dirty, mask), x[valid].mean(), rtol=1e-4, atol=1e-5)
    got = np.asarray(ops.masked_standardize(dirty, mask)).reshape(4)
    np.testing.assert_array_equal(got[~valid], 0.0)
    if x[valid].std() > 1e-2:
        expected = (x[valid] - x[valid].mean()) / (x[valid].std() + 1e-8)
        np.testing.assert_allclose(got[valid], expected, rtol=1e-3, atol=1e-3)


def test_without_a_valid_entry_all_is_zero_and_so_is_the_gradient():
    x, none = jnp.arange(3.0), jnp.zeros(3)
    for value, slope in (
        (ops.masked_mean(x, none), jax.grad(ops.masked_mean)(x, none)),
        (ops.masked_standardize(x, none), jax.jacobian(ops.masked_standardize)(x, none)),
    ):
        np.testing.assert_array_equal(value, jnp.zeros_like(value))
        np.testing.assert_array_equal(slope, jnp.zeros_like(slope))


@pytest.mark.parametrize("x", [[2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1e-12, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 9]])
def test_standardize_has_finite_second_derivatives(x):
    x, valid = jnp.array(x), jnp.array([1.0, 1.0, 1.0, 0.0])
    assert np.all(np.isfinite(ops.masked_standardize(x, valid)))
    assert np.all(np.isfinite(jax.jacobian(ops.masked_standardize)(x, valid)))
    assert np.all(np.isfinite(jax.hessian(ops.masked_standardize)(x, valid)))

    def textbook(x):
        return (x - x.mean()) / (jnp.sqrt(jnp.mean((x - x.mean()) ** 2)) + 1e-8)

    assert not np.all(np.isfinite(jax.jacobian(textbook)(jnp.zeros(4))))  # which is why it is written otherwise


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="must have the same shape"):
        ops.masked_mean(jnp.ones((4, 1)), jnp.ones(4))


def test_the_mean_over_devices_is_the_mean_over_the_whole_batch():
    # Two "devices" with unequal numbers of valid entries, played by vmap's named axis.
    x, valid = jnp.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    scale = jnp.float32(2.0)

    def on_a_device(scale, x, valid):
        with parallel.device_axis("device"):
            mean, slope = jax.value_and_grad(lambda s: ops.masked_mean(s * x, valid))(scale)
            return parallel.pmean((mean, slope)), ops.masked_standardize(x, valid)

    (mean, slope), standardized = jax.vmap(on_a_device, (None, 0, 0), axis_name="device")(scale, x, valid)
    np.testing.assert_allclose(mean, [8.0, 8.0])
    np.testing.assert_allclose(slope, [4.0, 4.0])
    np.testing.assert_allclose(standardized, ops.masked_standardize(x, valid), rtol=1e-6)


def test_a_weighted_sum_with_mean_weights_is_the_mean_and_ignores_what_is_not_valid():
    x, valid = jnp.array([1.0, jnp.nan, 4.0]), jnp.array([1.0, 0.0, 1.0])
    value, slope = jax.value_and_grad(ops.weighted_sum)(x, ops.mean_weights(valid))
    np.testing.assert_allclose(value, 2.5)
    np.testing.assert_allclose(slope, [0.5, 0.0, 0.5])
    np.testing.assert_array_equal(ops.mean_weights(jnp.zeros(3)), 0.0)


def test_a_gradient_step_over_devices_is_the_step_on_the_whole_batch():
    # The statistics that `prepare` takes are those of all rows, and so are the gradient and the metrics.
    state = State(jnp.float32(0.5), (), jnp.int32(0), (), Spec(Discrete(2), Discrete(2)))
    key = jax.random.key(0)
    rewards, valid = jax.random.normal(key, (2, 4)), jnp.array([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])

    def prepare(batch):
        standard = ops.masked_standardize(batch.reward, batch.valid)
        return batch.replace(extras={"standard": standard, "weight": ops.mean_weights(batch.valid)})

    def loss(params, state, batch, key):
        error = (params * batch.reward - batch.extras["standard"]) ** 2
        return ops.weighted_sum(error, batch.extras["weight"]), {}

    def step(reward, valid, axis=None):
        with parallel.device_axis(axis):
            zero = jnp.zeros_like(reward)[:, None]
            batch = Batch(zero, zero > 0, zero, reward[:, None], zero, valid[:, None])
            return gradient_step(loss, ops.sgd(0.1), state, batch, key, prepare=prepare)

    whole, metrics = step(rewards.ravel(), valid.ravel())
    parts, part_metrics = jax.vmap(lambda r, v: step(r, v, "device"), axis_name="device")(rewards, valid)
    np.testing.assert_allclose(parts.params, [whole.params] * 2, rtol=1e-6)
    np.testing.assert_allclose(part_metrics["loss"], [metrics["loss"]] * 2, rtol=1e-6)
    np.testing.assert_allclose(part_metrics["grad_norm"], [metrics["grad_norm"]] * 2, rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- safe roots
@pytest.mark.parametrize("x", [0.0, 1e-30, 1e-21, 1e-12, 0.25, 4.0, 1e20])
def test_safe_sqrt_has_the_root_s_values_and_finite_derivatives(x):
    np.testing.assert_array_equal(ops.safe_sqrt(jnp.float32(x)), jnp.sqrt(jnp.float32(x)))
    slope, curvature = jax.grad(ops.safe_sqrt)(x), jax.grad(jax.grad(ops.safe_sqrt))(x)
    if x <= 1e-20:
        assert slope == curvature == 0.0
    else:
        np.testing.assert_allclose(slope, 0.5 * x**-0.5, rtol=1e-5)
        np.testing.assert_allclose(curvature, -0.25 * x**-1.5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ policies
@settings(max_examples=50, deadline=None)
@given(ARRAYS, ARRAYS, ARRAYS, st.floats(0.0, 0.5, width=32))
def test_clipped_surrogate_is_rlax_s(log_prob, old_log_prob, advantage, clip):
    log_prob, old_log_prob = log_prob / 10, old_log_prob / 10
    ours = ops.clipped_surrogate(log_prob, old_log_prob, advantage, clip)
    theirs = rlax.clipped_surrogate_pg_loss(jnp.exp(log_prob - old_log_prob), jnp.asarray(advantage), clip)
    np.testing.assert_allclose(np.mean(ours), theirs, rtol=1e-4, atol=1e-4)


def test_clipped_surrogate_by_hand():
    # Ratio 2 and 0.5, clip 0.2: a gain is not chased beyond the clip, a loss is felt in full.
    ratio, advantage = jnp.log(jnp.array([2.0, 2.0, 0.5, 0.5])), jnp.array([1.0, -1.0, 1.0, -1.0])
    loss = lambda r: ops.clipped_surrogate(r, jnp.zeros(4), advantage, 0.2)  # noqa: E731
    np.testing.assert_allclose(loss(ratio), [-1.2, 2.0, -0.5, 0.8], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda r: loss(r).sum())(ratio), [0.0, 2.0, -0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(ops.policy_gradient_loss(ratio, advantage), -ratio * advantage)


def test_on_policy_the_surrogate_s_gradient_is_the_policy_gradient():
    advantage = jnp.array([0.5, -2.0, 1.0])
    log_prob = jnp.array([-0.1, -1.0, -3.0])
    surrogate = jax.grad(lambda x: ops.clipped_surrogate(x, log_prob, advantage, 0.2).sum())(log_prob)
    plain = jax.grad(lambda x: ops.policy_gradient_loss(x, advantage).sum())(log_prob)
    np.testing.assert_allclose(surrogate, plain, rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- regression
def test_huber_by_hand_and_its_derivatives():
    error = jnp.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(ops.huber(error, 1.0), [2.5, 0.125, 0.0, 0.125, 2.5])
    np.testing.assert_allclose(ops.huber(error, 1.0), rlax.huber_loss(error, 1.0))
    np.testing.assert_allclose(ops.huber(error, jnp.inf), ops.l2(error))
    np.testing.assert_allclose(jax.vmap(jax.grad(ops.huber), (0, None))(error, 1.0), [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(jax.vmap(jax.grad(ops.huber), (0, None))(error, jnp.inf), error)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(ops.huber)), (0, None))(error, 1.0), [0, 1, 1, 1, 0])
    np.testing.assert_allclose(jax.vmap(jax.grad(ops.huber, 1), (0, None))(error, 1.0), [2, 0, 0, 0, 2])
    np.testing.assert_array_equal(jax.vmap(jax.grad(ops.huber, 1), (0, None))(error, jnp.inf), jnp.zeros(5))


@settings(max_examples=50, deadline=None)
@given(ARRAYS, ARRAYS, ARRAYS)
def test_an_infinite_clip_is_no_clip(value, old_value, target):
    clipped = lambda *x: ops.clipped_value_loss(*x).sum()  # noqa: E731
    plain = lambda v, old, target: ops.l2(v - target).sum()  # noqa: E731
    args = jnp.asarray(value), jnp.asarray(old_value), jnp.asarray(target), jnp.float32(jnp.inf)
    np.testing.assert_allclose(clipped(*args), plain(*args[:3]), rtol=1e-4, atol=1e-4)
    got = jax.grad(clipped, (0, 1, 2, 3))(*args)
    for ours, expected in zip(got[:3], jax.grad(plain, (0, 1, 2))(*args[:3]), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert got[3] == 0.0


def test_clipped_value_loss_by_hand():
    # Old value 0, target 1, clip 0.2. V = 0.5 is nearer to the target than 0.2 is: the farther counts, with no slope.
    loss = jax.value_and_grad(lambda v: ops.clipped_value_loss(v, 0.0, 1.0, 0.2))
    for value, expected, slope in ((0.1, 0.405, -0.9), (0.5, 0.32, 0.0), (-0.5, 1.125, -1.5), (3.0, 2.0, 2.0)):
        np.testing.assert_allclose(loss(value), (expected, slope), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(ARRAYS, ARRAYS, st.floats(0.25, 4, width=32))
def test_quantile_huber_is_rlax_s(quantiles, targets, delta):
    taus = (jnp.arange(4) + 0.5) / 4
    np.testing.assert_allclose(
        ops.quantile_huber(jnp.asarray(quantiles), taus, jnp.asarray(targets), delta),
        rlax.quantile_regression_loss(jnp.asarray(quantiles), taus, jnp.asarray(targets), delta),
        rtol=1e-4,
        atol=1e-5,
    )


def test_quantile_huber_finds_the_quantiles():
    targets = jnp.asarray(np.random.default_rng(0).normal(size=2000), jnp.float32)
    taus = jnp.array([0.1, 0.5, 0.9])
    descend = jax.jit(lambda q: q - 0.5 * jax.grad(ops.quantile_huber)(q, taus, targets, 0.01) / 0.01)
    quantiles = jnp.zeros(3)
    for _ in range(300):
        quantiles = descend(quantiles)
    np.testing.assert_allclose(quantiles, np.quantile(targets, taus), atol=0.03)


def test_categorical_cross_entropy_by_hand():
    probs = jnp.array([[1.0, 0.0], [0.5, 0.5]])
    logits = jnp.log(jnp.array([[0.25, 0.75], [0.2, 0.8]])) + 3.0
    expected = [-np.log(0.25), -0.5 * (np.log(0.2) + np.log(0.8))]
    np.testing.assert_allclose(ops.categorical_cross_entropy(probs, logits), expected, rtol=1e-5)


# ---------------------------------------------------------------------------------- temporal-difference errors
@settings(max_examples=30, deadline=None)
@given(ARRAYS, ARRAYS, ARRAYS, st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 1.0]))
def test_temporal_difference_errors_are_rlax_s(q, next_q, selector, action, next_action, discount):
    q, next_q, selector = jnp.asarray(q), jnp.asarray(next_q), jnp.asarray(selector)
    probs, action, next_action = jax.nn.softmax(selector), jnp.int32(action), jnp.int32(next_action)
    r, d = jnp.float32(1.5), jnp.float32(discount)
    near = dict(rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        ops.q_learning_error(q, action, r, d, next_q, 0.9), rlax.q_learning(q, action, r, 0.9 * d, next_q), **near
    )
    np.testing.assert_allclose(
        ops.double_q_learning_error(q, action, r, d, next_q, selector, 0.9),
        rlax.double_q_learning(q, action, r, 0.9 * d, next_q, selector),
        **near,
    )
    np.testing.assert_allclose(
        ops.sarsa_error(q, action, r, d, next_q, next_action, 0.9),
        rlax.sarsa(q, action, r, 0.9 * d, next_q, next_action),
        **near,
    )
    np.testing.assert_allclose(
        ops.expected_sarsa_error(q, action, r, d, next_q, probs, 0.9),
        rlax.expected_sarsa(q, action, r, 0.9 * d, next_q, probs),
        **near,
    )


NEXT = {
    "q_learning": (ops.q_learning_error, ()),
    "double_q_learning": (ops.double_q_learning_error, (jnp.array([0.0, 1.0]),)),
    "sarsa": (ops.sarsa_error, (jnp.int32(1),)),
    "expected_sarsa": (ops.expected_sarsa_error, (jnp.array([0.0, 1.0]),)),
}


@pytest.mark.parametrize("name", NEXT)
def test_only_a_termination_drops_the_next_value_by_hand(name):
    # Q(s, a) = 2, reward 1, the next action's value 10, gamma 0.5: 1 + 5 - 2 going on or at a time limit, 1 - 2 dead.
    error, extra = NEXT[name]
    q, next_q = jnp.array([2.0, 7.0]), jnp.array([4.0, 10.0])
    one = lambda discount, gamma=0.5: error(q, jnp.int32(0), 1.0, discount, next_q, *extra, gamma)  # noqa: E731
    np.testing.assert_allclose(jax.vmap(one)(jnp.array([1.0, 0.0])), [4.0, -1.0])
    np.testing.assert_allclose(jax.grad(one, 1)(1.0, 0.5), 10.0)  # the dial carries gradient


def test_a_batch_handed_over_without_vmap_is_refused_by_name():
    with pytest.raises(ValueError, match=r"q_learning_error: `q` must have shape \[A\], got \[5, 2\].*vmap"):
        ops.q_learning_error(jnp.ones((5, 2)), jnp.zeros(5, int), jnp.ones(5), jnp.ones(5), jnp.ones((5, 2)), 0.9)
