"""Exploration: frequencies against probabilities, limits exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operant import ops

DRAWS = 20_000


def frequencies(actions, number):
    return np.bincount(np.asarray(actions).ravel(), minlength=number) / np.asarray(actions).size


def assert_close_to_probabilities(actions, probabilities):
    """Within five standard errors of a multinomial; impossible actions never."""
    probabilities = np.asarray(probabilities)
    got = frequencies(actions, len(probabilities))
    error = np.sqrt(probabilities * (1 - probabilities) / np.asarray(actions).size)
    assert np.all(np.abs(got - probabilities) <= 5 * error + 1e-12), (got, probabilities)


def test_epsilon_greedy_has_the_right_frequencies():
    preferences = jnp.broadcast_to(jnp.array([0.0, 3.0, 1.0, -1.0]), (DRAWS, 4))
    actions = ops.epsilon_greedy(jax.random.key(0), preferences, 0.4)
    assert actions.shape == (DRAWS,) and actions.dtype == jnp.int32
    assert_close_to_probabilities(actions, [0.1, 0.7, 0.1, 0.1])


def test_epsilon_greedy_respects_the_mask_whether_or_not_it_explores():
    preferences = jnp.broadcast_to(jnp.array([0.0, 3.0, 1.0, -1.0]), (DRAWS, 4))
    mask = jnp.array([True, False, True, False])  # the best one is forbidden
    actions = ops.epsilon_greedy(jax.random.key(0), preferences, 0.4, mask)
    assert_close_to_probabilities(actions, [0.2, 0.0, 0.8, 0.0])
    assert_close_to_probabilities(ops.greedy(jax.random.key(0), preferences, mask), [0, 0, 1, 0])


def test_epsilon_may_differ_between_environments():
    preferences = jnp.broadcast_to(jnp.array([1.0, 0.0]), (DRAWS, 3, 2))
    actions = np.asarray(ops.epsilon_greedy(jax.random.key(1), preferences, jnp.array([0.0, 0.5, 1.0])))
    assert np.all(actions[:, 0] == 0)
    assert_close_to_probabilities(actions[:, 1], [0.75, 0.25])
    assert_close_to_probabilities(actions[:, 2], [0.5, 0.5])


def test_ties_are_broken_at_random():
    preferences = jnp.broadcast_to(jnp.array([2.0, 0.0, 2.0, 2.0]), (DRAWS, 4))
    assert_close_to_probabilities(ops.greedy(jax.random.key(2), preferences), [1 / 3, 0, 1 / 3, 1 / 3])
    assert_close_to_probabilities(ops.epsilon_greedy(jax.random.key(2), preferences, 0.0), [1 / 3, 0, 1 / 3, 1 / 3])


@pytest.mark.parametrize("preferences", [[-1e30, -2e30], [-jnp.inf, 0.0][::-1], [0.0, -jnp.inf]])
def test_very_low_preferences_are_ordered_too(preferences):
    many = jnp.broadcast_to(jnp.array(preferences), (100, 2))
    assert np.all(np.asarray(ops.greedy(jax.random.key(0), many)) == 0)


def test_a_forbidden_action_is_not_taken_even_where_the_allowed_ones_are_worth_minus_infinity():
    many = jnp.broadcast_to(jnp.array([5.0, -jnp.inf]), (100, 2))
    assert np.all(np.asarray(ops.greedy(jax.random.key(0), many, jnp.array([False, True]))) == 1)


def test_linear_schedule():
    schedule = jax.vmap(ops.linear_schedule, (0, None, None, None))
    steps = jnp.array([0, 25, 50, 100, 101, 10**8])
    np.testing.assert_allclose(schedule(steps, 1.0, 0.2, 100), [1, 0.8, 0.6, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(ops.linear_schedule(0, 1.0, 0.2, 0), 0.2)
    np.testing.assert_allclose(jax.grad(ops.linear_schedule, 2)(25.0, 1.0, 0.2, 100.0), 0.25)


def test_ape_x_epsilons():
    np.testing.assert_allclose(ops.ape_x_epsilons(1), [0.4], rtol=1e-6)
    np.testing.assert_allclose(ops.ape_x_epsilons(3), [0.4, 0.4**4.5, 0.4**8], rtol=1e-5)
    np.testing.assert_allclose(ops.ape_x_epsilons(2, base=0.5, alpha=1.0), [0.5, 0.25], rtol=1e-6)


def test_gaussian_noise():
    action = jnp.zeros((DRAWS, 2))
    noisy = ops.gaussian_noise(jax.random.key(0), action, 0.2)
    assert noisy.shape == action.shape
    np.testing.assert_allclose(noisy.std(), 0.2, rtol=0.03)
    np.testing.assert_allclose(noisy.mean(), 0.0, atol=0.01)
    assert np.abs(ops.gaussian_noise(jax.random.key(0), action + 0.9, 1.0)).max() == 1.0
    smoothed = np.asarray(ops.gaussian_noise(jax.random.key(0), action + 0.3, 1.0, noise_clip=0.5))
    np.testing.assert_allclose([smoothed.min(), smoothed.max()], [-0.2, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(ops.gaussian_noise(jax.random.key(0), action, 0.0), action)


def test_ornstein_uhlenbeck():
    # Without noise it decays by (1 - theta dt); with it, its variance settles at sigma^2 / (1 - (1 - theta)^2).
    np.testing.assert_allclose(ops.ornstein_uhlenbeck(jax.random.key(0), jnp.full(3, 2.0), 0.25, 0.0, 0.5), 1.75)
    step = lambda x, key: (ops.ornstein_uhlenbeck(key, x, theta=0.3, sigma=0.2),) * 2  # noqa: E731
    last, path = jax.lax.scan(step, jnp.zeros(DRAWS), jax.random.split(jax.random.key(1), 40))
    np.testing.assert_allclose(last.std(), 0.2 / np.sqrt(1 - 0.7**2), rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(path[-2], path[-1])[0, 1], 0.7, atol=0.03)
