"""An evaluation's numbers, with an honest interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from operant.rollout import Outcome
from operant.scores import mean_interval


def summarize(outcome: Outcome) -> dict[str, Any]:
    """An evaluation's numbers, with a 95 % interval over seeds, or over episodes where there is one seed."""
    returns = np.asarray(outcome.returns, np.float64)
    finished = np.asarray(outcome.finished)
    means = returns.mean(1)
    over_seeds = len(means) > 1
    sample = means if over_seeds else returns[0]
    finite = sample[np.isfinite(sample)]
    low, high = mean_interval(finite) if len(finite) > 1 else (math.nan, math.nan)
    return {
        "return_mean": float(finite.mean()) if len(finite) else math.nan,
        "return_ci": [low, high],
        "ci_over": "seeds" if over_seeds else "episodes",
        "seeds": len(means),
        "episodes": int(returns.shape[1]),
        "returns": means.tolist(),
        "length_mean": float(np.asarray(outcome.lengths).mean()),
        "unfinished": int((~finished).sum()),
    }
