"""From scores to a verdict: what each comparison says, and whether the claim that rests on them is reproduced."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from operant.papers.paper import FEWEST_SEEDS, Comparison
from operant.scores import (
    interquartile_mean,
    iqm_difference_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
)

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Scores = dict[str, dict[str, list[float]]]  # environment -> arm -> one score a seed


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One comparison in one environment.

    `difference` is of interquartile means, `interval` its 95 % interval; `holds` is True where the claimed difference
    is there, False where it is refuted, None where the seeds do not tell.
    """

    env: str
    better: str
    worse: str
    margin: float
    needed: bool
    difference: float
    interval: tuple[float, float]
    probability: float
    probability_interval: tuple[float, float]
    holds: bool | None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def judge(scores: Scores, comparisons: tuple[Comparison, ...]) -> tuple[Verdict, list[Outcome]]:
    """The verdict and what it rests on: every comparison in every environment that has both of its arms.

    Reproduced: each needed difference lies above its margin, by its whole 95 % interval.  As all of them have to, no
    correction for their number is due.  Not reproduced: some needed difference lies below its margin by its whole
    interval at 1 - 0.05 / k, k being the number of needed comparisons (Bonferroni), so that chance alone refutes no
    more than one claim in forty.  Anything else, and anything below 8 seeds an arm, is inconclusive.
    """
    pairs = [
        (env, c)
        for env, arms in scores.items()
        for c in comparisons
        if c.better in arms and c.worse in arms and (not c.envs or env in c.envs)
    ]
    needed = sum(c.needed for _, c in pairs)
    outcomes = [_compare(env, scores[env], c, strict=max(needed, 1)) for env, c in pairs]
    rests_on = [outcome.holds for outcome in outcomes if outcome.needed]
    if False in rests_on:
        return "not reproduced", outcomes
    if rests_on and all(rests_on):
        return "reproduced", outcomes
    return "inconclusive", outcomes


def _compare(env: str, arms: dict[str, list[float]], comparison: Comparison, strict: int) -> Outcome:
    a, b = np.asarray(arms[comparison.better]), np.asarray(arms[comparison.worse])
    difference = interquartile_mean(a) - interquartile_mean(b)
    # a difference of `margin` times the better arm's score is what the claim calls none
    threshold = comparison.margin * abs(interquartile_mean(a))
    interval = iqm_difference_interval(a, b)
    holds: bool | None = None
    if min(len(a), len(b)) >= FEWEST_SEEDS:
        if interval[0] > threshold:
            holds = True
        elif iqm_difference_interval(a, b, confidence=1.0 - 0.05 / strict)[1] < threshold:
            holds = False
    return Outcome(
        env, comparison.better, comparison.worse, comparison.margin, comparison.needed, difference, interval,
        probability_of_improvement(a, b), probability_of_improvement_interval(a, b), holds,
    )  # fmt: skip
