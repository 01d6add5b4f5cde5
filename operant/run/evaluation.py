"""An evaluation's numbers, with an honest interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from operant.rollout import Outcome
from operant.scores import mean_interval


def summarize(outcome: Outcome, settings: int = 1) -> dict[str, Any]:
    """An evaluation's numbers, with a 95 % interval over seeds, or over episodes where there is one seed.

    In a sweep of some `settings` (lanes [settings * seeds]) they are those of the one that did best, whose number is
    `setting`: seeds differ by chance, settings do not, and are not pooled.
    """
    returns = np.asarray(outcome.returns, np.float64)
    finished = np.asarray(outcome.finished)
    means = returns.mean(1)
    setting, seeds = best_setting(means, settings)
    over_seeds = len(seeds) > 1
    sample = seeds if over_seeds else returns[setting]
    finite = sample[np.isfinite(sample)]
    low, high = mean_interval(finite) if len(finite) > 1 else (math.nan, math.nan)
    return {
        "return_mean": _mean(sample),
        "return_ci": [low, high],
        "ci_over": "seeds" if over_seeds else "episodes",
        "seeds": len(seeds),
        "episodes": int(returns.shape[1]),
        "returns": means.tolist(),
        "length_mean": float(np.asarray(outcome.lengths).mean()),
        "unfinished": int((~finished).sum()),
        **({"setting": setting} if settings > 1 else {}),
    }


def best_setting(means: np.ndarray, settings: int) -> tuple[int, np.ndarray]:
    """The number of the setting whose seeds did best, and their means. means: [settings * seeds], by lanes."""
    by_setting = means.reshape(settings, -1)
    best = int(np.argmax([_mean(seeds) if np.isfinite(seeds).any() else -math.inf for seeds in by_setting]))
    return best, by_setting[best]


def _mean(sample: np.ndarray) -> float:
    finite = sample[np.isfinite(sample)]
    return float(finite.mean()) if len(finite) else math.nan
