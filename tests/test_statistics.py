"""Running moments against NumPy on the whole stream; intervals against SciPy, by hand, and by their coverage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from operant import ops
from operant.ops import parallel
from operant.scores import mean_intervals


# ------------------------------------------------------------------------------------------------------ on the device
def test_moments_are_those_of_the_valid_rows_of_the_whole_stream():
    rng = np.random.default_rng(0)
    stream = 5.0 + 2.0 * rng.normal(size=(20, 7, 3, 2)).astype(np.float32)  # 20 batches [7, 3] of vectors [2]
    valid = (rng.random((20, 7, 3)) < 0.6).astype(np.float32)
    valid[3] = 0.0
    moments, update = ops.Moments.init(jnp.zeros(2)), jax.jit(ops.Moments.update)
    for x, v in zip(stream, valid, strict=True):
        moments = update(moments, jnp.where(v[..., None] > 0, x, jnp.nan), v)
    rows = stream[valid > 0]
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6), st.integers(1, 5))
def test_how_the_stream_is_cut_does_not_matter(x, cut):
    # Fixed shapes and a mask in place of slices, so that each cut is no new compilation.
    x, first = jnp.array(x), (jnp.arange(6) < cut).astype(jnp.float32)
    update = jax.jit(ops.Moments.update)
    whole = update(ops.Moments.init(jnp.zeros(())), x, jnp.ones(6))
    parts = update(update(ops.Moments.init(jnp.zeros(())), x, first), x, 1 - first)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(parts.variance, whole.variance, rtol=1e-3, atol=1e-2)


def test_before_and_without_data_normalising_changes_nothing():
    moments = ops.Moments.init(jnp.zeros(3)).update(jnp.full((4, 3), 7.0), jnp.zeros(4))
    x = jnp.array([-2.0, 0.0, 5.0])
    np.testing.assert_allclose(moments.normalize(x), x)
    assert moments.count == 0


def test_a_long_run_far_from_zero_stays_exact_in_float32():
    # 2,000 batches with mean 1,000 and deviation 1: sums of squares would have lost the variance long before.
    def body(moments, key):
        return moments.update(1000.0 + jax.random.normal(key, (256,)), jnp.ones(256)), None

    start = ops.Moments.init(jnp.zeros(()))
    moments, _ = jax.lax.scan(body, start, jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(moments.mean, 1000.0, atol=0.02)
    np.testing.assert_allclose(moments.variance, 1.0, rtol=0.01)


def test_a_saturated_count_keeps_moments_sound():
    old = ops.Moments(jnp.float32(2.0**30), jnp.float32(3.0), jnp.float32(4.0))
    moments = old.update(jnp.array([3.0]), jnp.ones(1))
    np.testing.assert_allclose([moments.mean, moments.variance], [3.0, 4.0], rtol=1e-6)
    assert moments.count == 2.0**30


def test_pytrees_images_and_clipping():
    example = {"image": jnp.zeros((2, 2), jnp.uint8), "speed": jnp.zeros(())}
    batch = {"image": jnp.full((5, 2, 2), 200, jnp.uint8), "speed": jnp.array([0.0, 0.0, 0.0, 10.0, 99.0])}
    moments = ops.Moments.init(example).update(batch, jnp.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(moments.mean["image"], np.full((2, 2), 200.0))
    np.testing.assert_allclose(moments.mean["speed"], 2.5)
    got = moments.normalize({"image": batch["image"][0], "speed": batch["speed"]}, clip=1.5)
    np.testing.assert_allclose(got["image"], np.zeros((2, 2)))
    deviation = np.sqrt(18.75)
    np.testing.assert_allclose(got["speed"], [-2.5 / deviation] * 3 + [1.5, 1.5], rtol=1e-5)
    np.testing.assert_allclose(moments.inverse_deviation()["speed"], 1 / deviation, rtol=1e-5)


def test_vmap_over_lanes_equals_a_loop():
    x = jax.random.normal(jax.random.key(0), (3, 8, 2))
    start = ops.Moments.init(jnp.zeros(2))
    lanes = jax.vmap(lambda x: start.update(x, jnp.ones(8)))(x)
    for lane in range(3):
        alone = start.update(x[lane], jnp.ones(8))
        np.testing.assert_allclose(lanes.variance[lane], alone.variance, rtol=1e-5)


def test_devices_arrive_at_the_moments_of_the_whole_batch():
    x = jax.random.normal(jax.random.key(0), (2, 8)) + jnp.array([[0.0], [5.0]])
    valid = jnp.ones((2, 8)).at[1, 3:].set(0)
    start = ops.Moments.init(jnp.zeros(()))

    def on_a_device(x, valid):
        with parallel.device_axis("device"):
            return start.update(x, valid)

    shared, whole = jax.vmap(on_a_device, axis_name="device")(x, valid), start.update(x, valid)
    for device in range(2):
        np.testing.assert_allclose(
            [shared.count[device], shared.mean[device], shared.variance[device]],
            [whole.count, whole.mean, whole.variance],
            rtol=1e-5,
        )


def test_a_batch_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \[4, 3\], expected the axes of `valid` \[4\] and then \[2\]"):
        ops.Moments.init(jnp.zeros(2)).update(jnp.zeros((4, 3)), jnp.ones(4))


# -------------------------------------------------------------------------------------------------------- on the host
def test_students_interval_is_scipy_s():
    x = np.array([1.0, 2.5, 3.0, 4.2, 7.0])
    expected = stats.t.interval(0.9, 4, loc=x.mean(), scale=stats.sem(x))
    np.testing.assert_allclose(ops.mean_interval(x, confidence=0.9), expected, rtol=1e-12)
    # By hand: mean 2, deviation 1, t(0.975, 2) = 4.3027.
    np.testing.assert_allclose(ops.mean_interval([1, 2, 3]), [2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], atol=1e-4)


def test_intervals_of_many_are_those_of_each():
    x = np.random.default_rng(0).normal(size=(4, 10, 5))
    mean, low, high = mean_intervals(x)
    each = [ops.mean_interval(seeds) for seeds in x.reshape(-1, 5)]
    np.testing.assert_allclose(mean, x.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(np.stack([low, high], -1).reshape(-1, 2), each, rtol=1e-12)


def test_intervals_of_many_leave_out_what_is_not_finite():
    nan, inf = np.nan, np.inf
    mean, low, high = mean_intervals([[1.0, nan, 3.0, inf], [0.1, 0.1, nan, 0.1], [7.0, nan, nan, -inf], [nan] * 4])
    np.testing.assert_array_equal(mean, [2.0, 0.1, 7.0, nan])
    np.testing.assert_array_equal([low[1], high[1]], [0.1, 0.1])  # constant, exactly
    np.testing.assert_allclose((low[0], high[0]), ops.mean_interval([1.0, 3.0]))
    assert np.isnan([low[2:], high[2:]]).all()  # one number has no interval


def coverage(interval, draw, truth, repeats=400):
    rng = np.random.default_rng(0)
    intervals = [interval(*draw(rng)) for _ in range(repeats)]
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("kind", ["t", "bootstrap_t"])
def test_mean_intervals_cover_what_they_say_with_eight_seeds(kind):
    # The exact number is 0.95, its standard error here 0.011; percentiles of a bootstrap cover 0.88.
    covered = coverage(lambda x: ops.mean_interval(x, kind, resamples=1000), lambda rng: (rng.normal(size=8),), 0.0)
    assert 0.92 <= covered <= 0.985


def test_bootstrap_t_leans_with_the_skew():
    x = np.array([0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.9, 4.0])
    low, high = ops.mean_interval(x, "bootstrap_t")
    assert high - x.mean() > 1.5 * (x.mean() - low)
    assert ops.mean_interval(x, "bootstrap_t") == (low, high)  # the same seed, the same interval
    assert ops.mean_interval(x, "bootstrap_t", seed=1) != (low, high)


def test_bootstrap_t_says_when_two_draws_are_too_few():
    assert ops.mean_interval([1.0, 2.0], "bootstrap_t") == (-np.inf, np.inf)


SCORES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed": lambda rng, n: rng.lognormal(0.0, 1.0, n),
    "saturated": lambda rng, n: np.minimum(rng.normal(1.0, 1.0, n), 1.5),  # three in ten are at the maximum
}


@pytest.mark.parametrize("seeds", [8, 10])
@pytest.mark.parametrize("kind", SCORES)
def test_iqm_difference_covers_what_it_says(kind, seeds):
    """Over 1,000 trials the 95 % interval has the truth in it in 93 to 97 %, for equal arms and for unequal ones."""
    draw, rng = SCORES[kind], np.random.default_rng(1)
    truth = ops.interquartile_mean(draw(rng, 1_000_000))  # of 2 x minus x
    equal = coverage(
        lambda a, b: ops.iqm_difference_interval(a, b, resamples=1000),
        lambda rng: (draw(rng, seeds), draw(rng, seeds)), 0.0, repeats=1000,
    )  # fmt: skip
    unequal = coverage(
        lambda a, b: ops.iqm_difference_interval(a, b, resamples=1000),
        lambda rng: (2.0 * draw(rng, seeds), draw(rng, seeds)), truth, repeats=1000,
    )  # fmt: skip
    assert 0.93 <= equal <= 0.97 and 0.93 <= unequal <= 0.97, (equal, unequal)


def test_aggregates_are_rliable_s():
    from rliable import library, metrics

    rng = np.random.default_rng(0)
    a, b = 0.6 + rng.normal(size=(8, 1)), rng.normal(size=(10, 1))

    def both(a, b):
        difference = metrics.aggregate_iqm(a) - metrics.aggregate_iqm(b)
        return np.array([difference, metrics.probability_of_improvement(a, b)])

    point, interval = library.get_interval_estimates({"arms": (a, b)}, both, reps=4000)
    a, b = a[:, 0], b[:, 0]
    ours = [ops.interquartile_mean(a) - ops.interquartile_mean(b), ops.probability_of_improvement(a, b)]
    np.testing.assert_allclose(ours, point["arms"], rtol=1e-6)
    # the same bootstrap with other random numbers: percentiles of 4,000 resamples agree within about a twentieth
    width = interval["arms"][1] - interval["arms"][0]
    for i, function in enumerate((ops.iqm_difference_interval, ops.probability_of_improvement_interval)):
        np.testing.assert_allclose(function(a, b), interval["arms"][:, i], atol=0.06 * width[i])


def test_interquartile_mean_is_scipy_s_trimmed_mean():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 5, 8, 11, 100):
        x = rng.normal(size=n)
        np.testing.assert_allclose(ops.interquartile_mean(x), stats.trim_mean(x, 0.25), rtol=1e-12)
    assert ops.interquartile_mean([[0.0, 1.0], [2.0, 1e9]]) == 1.5


def test_iqm_difference_interval_over_tasks_and_its_signs():
    rng = np.random.default_rng(0)
    a, b = 3.0 + rng.normal(size=(8, 4)), rng.normal(size=(10, 4))
    low, high = ops.iqm_difference_interval(a, b)
    assert 1.5 < low < ops.interquartile_mean(a) - ops.interquartile_mean(b) < high < 4.5
    np.testing.assert_allclose(ops.iqm_difference_interval(b, a), (-high, -low), atol=0.05)
    narrow = ops.iqm_difference_interval(a, b, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_seeds_of_a_task_stay_with_their_task():
    # Tasks of very different scores, seeds all equal: nothing varies, whereas mixing the tasks would.
    a, b = np.tile([0.0, 10.0, 100.0, 1000.0], (8, 1)), np.zeros((8, 4))
    assert ops.iqm_difference_interval(a, b) == (55.0, 55.0)


def test_probability_of_improvement():
    assert ops.probability_of_improvement([1, 2], [0]) == 1.0
    assert ops.probability_of_improvement([1, 2, 3], [2]) == 0.5
    assert ops.probability_of_improvement([0, 1], [1, 2, 3]) == pytest.approx(0.5 / 6)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 9), rng.integers(0, 5, 7)
    expected = stats.mannwhitneyu(a, b).statistic / 63
    assert ops.probability_of_improvement(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["t", "bootstrap_t"])
def test_constant_data_and_single_draws(kind):
    assert ops.mean_interval([0.1] * 7, kind) == (0.1, 0.1)
    assert np.all(np.isnan(ops.mean_interval([3.0], kind)))


def test_constant_arms_and_single_seeds():
    assert ops.iqm_difference_interval([3.0] * 5, [1.0] * 4) == (2.0, 2.0)
    assert np.all(np.isnan(ops.iqm_difference_interval([3.0], [1.0, 2.0])))


@pytest.mark.parametrize("bad", [[1.0, np.nan], [1.0, np.inf], []])
def test_failed_runs_are_not_averaged_away(bad):
    with pytest.raises(ValueError, match="finite numbers"):
        ops.mean_interval(bad)
    with pytest.raises(ValueError, match="finite numbers"):
        ops.interquartile_mean(bad)
    with pytest.raises(ValueError, match="finite numbers"):
        ops.iqm_difference_interval([1.0, 2.0], bad)
    with pytest.raises(ValueError, match="finite numbers"):
        ops.probability_of_improvement(bad, [1.0, 2.0])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`method` is 't' or 'bootstrap_t', not 'percentile'"):
        ops.mean_interval([1.0, 2.0], "percentile")
    with pytest.raises(ValueError, match="`confidence` is between 0 and 1, got 95"):
        ops.mean_interval([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="one number per seed"):
        ops.mean_interval(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"\[seeds, tasks\] twice"):
        ops.iqm_difference_interval(np.ones((3, 2)), np.ones((3, 4)))
