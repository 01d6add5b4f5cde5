"""Distributions against distrax, against numeric integration, and at their edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operant.ops.distributions import Categorical, MultiCategorical, Normal, SquashedNormal, masked

distrax = pytest.importorskip("distrax")

KEY = jax.random.key(0)
BATCH, D, A, NVEC = (3, 4), 2, 5, (2, 4, 3)


def draw(i, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, i), shape)


def ours_and_oracle(name, i=0):
    """A distribution of this library, distrax's, and a function that sums distrax's parts."""
    if name == "categorical":
        logits = 2 * draw(i, *BATCH, A)
        return Categorical(logits), [(distrax.Categorical(logits), lambda a: a)]
    if name == "multi":
        logits = 2 * draw(i, *BATCH, sum(NVEC))
        parts = jnp.split(logits, np.cumsum(NVEC)[:-1], axis=-1)
        return MultiCategorical(logits, NVEC), [
            (distrax.Categorical(x), lambda a, j=j: a[..., j]) for j, x in enumerate(parts)
        ]
    mean, log_std = draw(i, *BATCH, D), 0.3 * draw(i + 1, *BATCH, D)
    normal = distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))
    if name == "normal":
        return Normal(mean, log_std), [(normal, lambda a: a)]
    return SquashedNormal(mean, log_std), [(distrax.Transformed(normal, distrax.Block(distrax.Tanh(), 1)), lambda a: a)]


NAMES = ["categorical", "multi", "normal", "squashed"]


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_entropy_and_kl_equal_distrax(name):
    p, oracle = ours_and_oracle(name)
    q, other = ours_and_oracle(name, 7)
    action = p.sample(KEY)
    expected = sum(d.log_prob(part(action)) for d, part in oracle)
    assert p.log_prob(action).shape == BATCH
    np.testing.assert_allclose(p.log_prob(action), expected, rtol=1e-4, atol=1e-5)
    kl = sum(a.kl_divergence(b) for (a, _), (b, _) in zip(oracle, other, strict=True))
    np.testing.assert_allclose(p.kl(q), kl, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(p.kl(p), 0, atol=1e-6)
    if name != "squashed":  # distrax has no entropy of a squashed Gaussian
        np.testing.assert_allclose(p.entropy(), sum(d.entropy() for d, _ in oracle), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_sample_and_log_prob_agree_with_the_methods_apart(name):
    p, _ = ours_and_oracle(name)
    action, log_prob = jax.jit(lambda p, k: p.sample_and_log_prob(k))(p, KEY)
    np.testing.assert_allclose(action, p.sample(KEY), atol=1e-6)
    np.testing.assert_allclose(log_prob, p.log_prob(action), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_is_a_pytree_over_leading_axes(name):
    p, _ = ours_and_oracle(name)
    action = p.sample(KEY)
    one = jax.tree.map(lambda x: x[1], p)
    np.testing.assert_allclose(one.log_prob(action[1]), p.log_prob(action)[1], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda p: p.entropy())(p), p.entropy(), rtol=1e-6)
    several = jax.vmap(p.sample)(jax.random.split(KEY, 6))
    np.testing.assert_allclose(p.log_prob(several)[2], p.log_prob(several[2]), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_mean_negative_log_prob_of_samples_is_the_entropy(name):
    p, _ = ours_and_oracle(name)
    log_probs = jax.vmap(lambda k: p.sample_and_log_prob(k)[1])(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(-log_probs.mean(0), p.entropy(), atol=0.06)
    assert p.entropy(KEY).shape == BATCH


def test_frequencies_and_moments_of_samples():
    logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    actions = Categorical(jnp.broadcast_to(logits, (40_000, 3))).sample(KEY)
    assert actions.dtype == jnp.int32
    np.testing.assert_allclose(np.bincount(actions, minlength=3) / 40_000, [0.1, 0.2, 0.7], atol=0.01)
    mean, std = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    x = Normal(jnp.broadcast_to(mean, (40_000, 2)), jnp.broadcast_to(jnp.log(std), (40_000, 2))).sample(KEY)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(x.std(0), std, rtol=0.02)


def test_modes_are_the_most_probable():
    p, _ = ours_and_oracle("categorical")
    np.testing.assert_array_equal(p.mode(), p.logits.argmax(-1))
    every = jnp.stack(jnp.meshgrid(*map(jnp.arange, NVEC), indexing="ij"), -1).reshape(-1, 1, 1, len(NVEC))
    p, _ = ours_and_oracle("multi")
    every = jnp.broadcast_to(every, (every.shape[0], *BATCH, len(NVEC)))
    log_probs = p.log_prob(every)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(p.log_prob(p.mode()), log_probs.max(0), rtol=1e-6)
    p, _ = ours_and_oracle("squashed")
    np.testing.assert_allclose(p.mode(), jnp.tanh(p.mean), rtol=1e-6)


def test_event_shapes_sum_over_the_event():
    mean, log_std = draw(0, 7, 6), 0.1 * draw(1, 7, 6)
    for kind in (Normal, SquashedNormal):
        flat, shaped = kind(mean, log_std), kind(mean, log_std, (2, 3))
        action = shaped.sample(KEY)
        assert action.shape == shaped.mode().shape == (7, 2, 3)
        np.testing.assert_allclose(shaped.log_prob(action), flat.log_prob(action.reshape(7, 6)), rtol=1e-6)
        scalar = kind(mean[:, :1], log_std[:, :1], ())
        assert scalar.log_prob(scalar.sample(KEY)).shape == scalar.sample(KEY).shape == (7,)
        with pytest.raises(ValueError, match="expected actions of shape"):
            flat.log_prob(action.reshape(7, 6)[:, :1])  # would broadcast, silently
        with pytest.raises(ValueError, match="expected actions of shape"):
            shaped.log_prob(action.reshape(7, 6))


def test_nvec_must_fit_the_logits():
    with pytest.raises(ValueError, match="asks for 9 logits; got 8"):
        MultiCategorical(jnp.zeros(8), NVEC).entropy()


# ---------------------------------------------------------------------------------------------------------- masks
def test_masked_equals_the_distribution_over_the_allowed_alone():
    logits, other = draw(0, 50, A), draw(1, 50, A)
    mask = jnp.array([True, False, True, True, False])
    p, q = Categorical(masked(logits, mask)), Categorical(masked(other, mask))
    p_alone, q_alone = Categorical(logits[:, mask]), Categorical(other[:, mask])
    np.testing.assert_allclose(p.entropy(), p_alone.entropy(), rtol=1e-5)
    np.testing.assert_allclose(p.kl(q), p_alone.kl(q_alone), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(p.log_prob(jnp.full(50, 2)), p_alone.log_prob(jnp.full(50, 1)), rtol=1e-5)
    samples = jax.vmap(p.sample)(jax.random.split(KEY, 200))
    assert np.isin(samples, np.flatnonzero(mask)).all() and np.isin(p.mode(), np.flatnonzero(mask)).all()


@pytest.mark.parametrize("nvec", [NVEC, (3, 3, 3)])
def test_masked_parts_never_leave_their_range(nvec):
    mask = jnp.array([False] * nvec[0] + [True] * (sum(nvec) - nvec[0]))  # nothing is allowed in part 0
    p = MultiCategorical(masked(draw(0, 500, sum(nvec)), mask), nvec)
    assert (p.sample(KEY) < jnp.array(nvec)).all() and (p.mode() < jnp.array(nvec)).all()
    np.testing.assert_allclose(p.parts.entropy()[:, 0], np.log(nvec[0]), rtol=1e-5)


def finite(tree):
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("allowed", [5, 1, 0])
def test_masked_derivatives_are_finite(allowed):
    mask, logits = jnp.arange(A) < allowed, 30 * draw(0, A)

    def f(logits):
        p = Categorical(masked(logits, mask))
        q = Categorical(masked(0.5 * logits, mask))
        return p.entropy() + p.kl(q) + p.log_prob(jnp.array(0))

    gradient, hessian = jax.jit(jax.grad(f))(logits), jax.jit(jax.hessian(f))(logits)
    assert finite((f(logits), gradient, hessian))
    assert (gradient[~mask] == 0).all()


# -------------------------------------------------------------------------------------------------------- squashed
def test_squashed_is_finite_with_two_derivatives_at_the_edges():
    def f(x, action):
        p = SquashedNormal(x[:1], x[1:])
        sample, log_prob = p.sample_and_log_prob(KEY)
        return p.log_prob(action[None]) + p.entropy() + p.entropy(KEY) + log_prob + sample.sum()

    edges = [-20.0, -3.0, 0.0, 3.0, 20.0], [-5.0, 0.0, 2.0], [-1.0, -0.999999, 0.0, 0.999999, 1.0]
    mean, log_std, action = (jnp.ravel(x) for x in jnp.meshgrid(*map(jnp.array, edges)))
    everything = jax.vmap(lambda x, a: (f(x, a), jax.grad(f, (0, 1))(x, a), jax.hessian(f, (0, 1))(x, a)))
    assert finite(jax.jit(everything)(jnp.stack([mean, log_std], -1), action))


def test_squashed_density_is_exact_where_tanh_rounds_to_one():
    mean, log_std = jnp.array([12.0]), jnp.array([-1.0])
    action, log_prob = SquashedNormal(mean, log_std).sample_and_log_prob(KEY)
    x = np.float64(Normal(mean, log_std).sample(KEY)[0])
    density = -0.5 * ((x - 12) * np.e) ** 2 + 1 - 0.5 * np.log(2 * np.pi)
    slope = np.log(4) - 2 * x - 2 * np.log1p(np.exp(-2 * x))  # of sech^2, in float64
    assert action[0] == 1.0
    np.testing.assert_allclose(log_prob, density - slope, rtol=1e-5)


def test_squashed_density_integrates_to_one():
    x = np.linspace(-1, 1, 20_001)[1:-1]
    p = SquashedNormal(jnp.full((x.size, 1), 0.3), jnp.full((x.size, 1), -0.5))
    density = np.exp(np.float64(p.log_prob(jnp.asarray(x[:, None], jnp.float32))))
    np.testing.assert_allclose(np.trapezoid(density, x), 1, atol=1e-4)


@pytest.mark.parametrize(("std", "tolerance"), [(0.1, 1e-4), (1.0, 1e-3), (2.0, 5e-3), (4.0, 0.06), (7.4, 0.25)])
def test_squashed_entropy_without_a_key_is_as_exact_as_it_says(std, tolerance):
    noise = np.linspace(-10, 10, 100_001)
    weight = np.exp(-0.5 * noise**2)
    for mean in (0.0, 0.7, 3.0):
        x = mean + std * noise
        slope = 2 * (np.log(2) - x - np.logaddexp(0, -2 * x))
        expected = np.log(std) + 0.5 * np.log(2 * np.pi * np.e) + (weight * slope).sum() / weight.sum()
        got = SquashedNormal(jnp.array([mean]), jnp.log(jnp.array([std]))).entropy()
        np.testing.assert_allclose(got, expected, atol=tolerance)


def test_samples_are_differentiable_in_the_parameters():
    def mean_action(mean, kind):
        return kind(jnp.full((2000, 1), mean), jnp.zeros((2000, 1))).sample(KEY).mean()

    np.testing.assert_allclose(jax.grad(mean_action)(0.5, Normal), 1, atol=1e-5)
    h = 1e-2
    slope = (mean_action(0.5 + h, SquashedNormal) - mean_action(0.5 - h, SquashedNormal)) / (2 * h)
    np.testing.assert_allclose(jax.grad(mean_action)(0.5, SquashedNormal), slope, rtol=1e-2)
