"""What finished runs say: means and differences of scores, one number per seed, with their intervals.

NumPy and SciPy alone: where results are only shown, JAX is not started.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Num


def mean_intervals(
    x: Num[np.ndarray, "*batch seeds"], confidence: float = 0.95
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Means over the last axis and the ends of their intervals (Student's t), of what is finite there.

    NaN where there is none: a single finite number has a mean and no interval.  Constant data give an interval of zero
    width.  Nothing is raised: this is for curves of runs that may have failed.
    """
    from scipy.special import stdtrit

    x = np.asarray(x, np.float64)
    finite = np.isfinite(x)
    n = finite.sum(-1)
    some, more = np.maximum(n, 1), np.maximum(n - 1, 1)
    least = np.where(finite, x, np.inf).min(-1, initial=np.inf)
    most = np.where(finite, x, -np.inf).max(-1, initial=-np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.where(finite, x / some[..., None], 0.0).sum(-1)
        mean = np.where(n > 0, np.where(least == most, least, mean), np.nan)
        squares = np.where(finite, x - mean[..., None], 0.0) ** 2
        half = stdtrit(more, 0.5 + confidence / 2.0) * np.sqrt(squares.sum(-1) / more / some)
    half = np.where((n > 1) & np.isfinite(half), half, np.nan)
    return mean, mean - half, mean + half


def mean_interval(
    x: Num[np.ndarray, "seeds"],
    method: Literal["t", "bootstrap_t"] = "t",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """A confidence interval for the mean of what `x` are independent draws of, such as scores of seeds.

    Student's t by default; "bootstrap_t" (Efron 1979; studentised resampling) lets a skewed sample have an uneven
    interval, which is infinite on a side where too many resamples are constant (below four draws).  A percentile
    bootstrap is not offered for means: over five seeds its 95 % interval covers about 81 %.

    Constant data give an interval of zero width, a single draw (nan, nan).  Raises ValueError on data that are not
    finite, or empty.
    """
    x = _draws("mean_interval", x)
    if x.ndim != 1:
        raise ValueError(f"mean_interval: expected one number per seed, got shape {x.shape}")
    if method not in ("t", "bootstrap_t"):
        raise ValueError(f"mean_interval: `method` is 't' or 'bootstrap_t', not {method!r}")
    tail = (1.0 - _fraction("mean_interval", confidence)) / 2.0
    n = len(x)
    if method == "t" or n == 1 or np.all(x == x[0]):
        _, low, high = mean_intervals(x, confidence)
        return float(low), float(high)
    mean, error = x.mean(), x.std(ddof=1) / np.sqrt(n)
    again = x[np.random.default_rng(seed).integers(n, size=(resamples, n))]
    constant = np.all(again == again[:, :1], axis=1)
    shift, errors = again.mean(1) - mean, again.std(1, ddof=1) / np.sqrt(n)
    # A constant resample is infinitely many of its own standard errors away from the mean.
    t = np.where(constant, np.copysign(np.inf, shift), shift / np.where(constant, 1.0, errors))
    low, high = np.quantile(t, [tail, 1.0 - tail], method="inverted_cdf")
    return float(mean - high * error), float(mean - low * error)


def interquartile_mean(x: Num[np.ndarray, "*shape"]) -> float:
    """The mean of the middle half of all the numbers (Agarwal et al. 2021, section 4.3): robust, yet not wasteful.

    A quarter of them, rounded down, is left out at either end.
    """
    return float(_trimmed_mean(_draws("interquartile_mean", x).ravel()))


def iqm_difference_interval(
    a: Num[np.ndarray, "seeds *tasks"],
    b: Num[np.ndarray, "other_seeds *tasks"],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """A confidence interval for interquartile_mean(a) - interquartile_mean(b): what a verdict on two arms rests on.

    Percentiles of a bootstrap stratified by arm (and by task, where there are columns): the seeds of each are drawn
    again among themselves (Agarwal et al. 2021, section 4.1).  For this difference, unlike for a single mean, they
    cover about what they say (in simulation, 94 to 97 % for 95 % with 5 to 20 seeds); use 8 seeds an arm at least.

    Constant arms give an interval of zero width, an arm of one seed (nan, nan).  Raises ValueError as `mean_interval`.
    """
    a, b = (_draws("iqm_difference_interval", arm) for arm in (a, b))
    if a.ndim not in (1, 2) or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"iqm_difference_interval: expected [seeds] or [seeds, tasks] twice, got {a.shape}, {b.shape}")
    tail = (1.0 - _fraction("iqm_difference_interval", confidence)) / 2.0
    if len(a) == 1 or len(b) == 1:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)

    def resampled(arm):
        rows = arm.reshape(len(arm), -1)
        index = rng.integers(len(rows), size=(resamples, *rows.shape))
        return _trimmed_mean(np.take_along_axis(rows[None], index, axis=1).reshape(resamples, -1))

    low, high = np.quantile(resampled(a) - resampled(b), [tail, 1.0 - tail])
    return float(low), float(high)


def probability_of_improvement(a: Num[np.ndarray, "seeds"], b: Num[np.ndarray, "other_seeds"]) -> float:
    """How often a random draw of `a` beats one of `b`, a tie being half a win (Agarwal et al. 2021, section 4.3)."""
    a, b = (_draws("probability_of_improvement", arm) for arm in (a, b))
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"probability_of_improvement: expected one number per seed, got shapes {a.shape}, {b.shape}")
    return float(np.mean((np.sign(a[:, None] - b[None, :]) + 1.0) / 2.0))


def probability_of_improvement_interval(
    a: Num[np.ndarray, "seeds"],
    b: Num[np.ndarray, "other_seeds"],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """A confidence interval for `probability_of_improvement(a, b)`: percentiles of a bootstrap stratified by arm.

    Arms that do not overlap at all give an interval of zero width: at 8 seeds an arm it is then too narrow, and says
    only that no draw of one was seen to beat the other.  Raises ValueError as `probability_of_improvement`.
    """
    a, b = (_draws("probability_of_improvement_interval", arm) for arm in (a, b))
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(
            f"probability_of_improvement_interval: expected one number per seed, got shapes {a.shape}, {b.shape}"
        )
    tail = (1.0 - _fraction("probability_of_improvement_interval", confidence)) / 2.0
    rng = np.random.default_rng(seed)
    wins = (np.sign(a[:, None] - b[None, :]) + 1.0) / 2.0
    # how often each seed is drawn in each resample: the mean over pairs is then a bilinear form
    drawn_a = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), resamples) / len(a)
    drawn_b = rng.multinomial(len(b), np.full(len(b), 1 / len(b)), resamples) / len(b)
    low, high = np.quantile(np.einsum("ri,ij,rj->r", drawn_a, wins, drawn_b, optimize=True), [tail, 1.0 - tail])
    return float(low), float(high)


def _trimmed_mean(x: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    n = x.shape[-1]
    cut = n // 4
    return np.sort(x, axis=-1)[..., cut : n - cut].mean(-1)


def _draws(function: str, x: Any) -> Float[np.ndarray, "..."]:
    x = np.asarray(x, np.float64)
    if x.size == 0 or x.ndim == 0 or not np.all(np.isfinite(x)):
        raise ValueError(f"{function}: expected a non-empty array of finite numbers (what of failed runs?), got {x}")
    return x


def _fraction(function: str, confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"{function}: `confidence` is between 0 and 1, got {confidence}")
    return confidence
