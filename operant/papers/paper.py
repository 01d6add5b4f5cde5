"""What an executable card says: a paper's claim as arms that are run and comparisons that are tested.

A card is a file in `operant/papers/cards/` with one object, `PAPER`.  All of it is fixed before anything is run: which
arms, how they are tuned, what is measured, and what would make the claim reproduced or not.  Nothing here needs JAX.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from operant.errors import UserError, near

Metric = Literal["final", "share", "evaluation", "area"]
METRICS: dict[str, str] = {
    "final": "mean return of the episodes that ended in the last tenth of training",
    "share": "mean return of the episodes that ended in the last tenth of training, as a share of the best that can be "
    "expected in the seed's task",
    "evaluation": "mean return of the last evaluation",
    "area": "mean over all evaluations of the run, evenly spaced in steps",
}
SCALES: dict[str, str] = {
    "smoke": "seconds: does everything run?",
    "laptop": "minutes to an hour on two cores",
    "gpu": "about an hour on one GPU",
    "paper": "the original setting",
}
FEWEST_SEEDS = 8  # below, the interval of a difference is too narrow to rest a verdict on


@dataclasses.dataclass(frozen=True)
class Arm:
    """One thing that is compared: a method by name, how it differs from its preset (dotted names of fields), and how
    its environment differs from the scale's.

    envs    the environments that it is for; none named: all of a scale's
    tune    the search over its own dials, where `Paper.tune` names dials that it does not have; as many settings
    begins  the run of `Paper.before` whose parameters its agents begin with (`operant train --init-from`)
    """

    method: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    env_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    envs: tuple[str, ...] = ()
    tune: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    begins: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`better` is to score more than `worse`, by more than `margin` times the score of `better`.

    margin  below 0: it may score less by as much ("at least nine tenths as good" is -1/9)
    needed  whether the claim rests on it; the others are reported beside
    envs    where it is made; none named: wherever both arms are run
    """

    better: str
    worse: str
    margin: float = 0.0
    needed: bool = True
    envs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is run: environments, steps and seeds of each arm, and what is changed in every agent to fit.

    `tuning` gives steps and seeds of the search over `Paper.tune`, the same for each arm, on seeds that the verdict
    does not use; None: each arm has what its preset has.  `before` gives steps and seeds of each run of `Paper.before`,
    and `before_changes` what is changed in their agents; seeds of an arm begin with theirs in turn.
    """

    envs: tuple[str, ...]
    steps: int
    seeds: int
    tuning: tuple[int, int] | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    env_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    arms: tuple[str, ...] = ()  # which arms; none named: all
    before: tuple[int, int] = (0, 0)
    before_changes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Paper:
    """An executable card. See the module's text."""

    slug: str
    title: str
    authors: str
    venue: str
    arxiv: str
    family: str
    claim: str
    arms: dict[str, Arm]
    comparisons: tuple[Comparison, ...]
    scales: dict[str, Scale]
    name: str = ""  # the short one, where the list of the corpus has none
    metric: Metric = "final"
    metrics: dict[str, Metric] = dataclasses.field(default_factory=dict)  # of environments with one of their own
    tune: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    before: dict[str, Arm] = dataclasses.field(default_factory=dict)  # runs that arms begin from, each in one world
    notes: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a card that contradicts itself."""

        def demand(condition: bool, what: str) -> None:
            if not condition:
                raise ValueError(f"card {self.slug}: {what}")

        demand(set(self.scales) <= set(SCALES), f"scales are {', '.join(SCALES)}; it has {', '.join(self.scales)}")
        demand("smoke" in self.scales, "it has no scale smoke, which the tests run")
        for metric in (self.metric, *self.metrics.values()):
            demand(metric in METRICS, f"metric is {metric}; expected one of {', '.join(METRICS)}")
        demand(any(c.needed for c in self.comparisons), "no comparison is needed for its claim")
        for comparison in self.comparisons:
            for name in (comparison.better, comparison.worse):
                demand(name in self.arms, f"a comparison names the arm '{name}', which is not there")
            demand(-1.0 < comparison.margin < 1.0, f"a margin is {comparison.margin}; expected a fraction")
        for name, arm in self.before.items():
            demand(
                len(arm.envs) == 1, f"the run '{name}' that arms begin from names {len(arm.envs)} worlds; expected 1"
            )
        for name, arm in self.arms.items():
            known = not arm.begins or arm.begins in self.before
            demand(known, f"the arm '{name}' begins from a run '{arm.begins}', which is not there")
        for name, scale in self.scales.items():
            demand(bool(scale.envs) and scale.steps > 0 and scale.seeds > 0, f"scale {name} runs nothing")
            demand(set(scale.arms) <= set(self.arms), f"scale {name} names arms that are not there")
            for arm in self.arms_of(scale).values():
                demand(not arm.envs or bool(set(arm.envs) & set(scale.envs)), f"scale {name} has no world for {arm}")
            if scale.tuning is not None:
                tuned = [self.tune_of(arm) for arm in self.arms_of(scale).values()]
                demand(all(tuned), f"scale {name} tunes, but the card says not what")
                numbers = {math.prod(len(values) for values in tune.values()) for tune in tuned}
                demand(len(numbers) == 1, f"scale {name} tunes some arms over more settings than others")
                demand(min(numbers) > 1, f"scale {name} tunes over one setting")
            if self.before_of(scale):
                demand(min(scale.before) > 0, f"scale {name} has arms that begin from a run, but says not how long")
            both = any(c.needed for c in self.comparisons_of(scale))
            demand(both, f"scale {name} has both arms of no comparison that is needed")

    def scale(self, name: str) -> Scale:
        """Raises UserError for a scale that the card does not have."""
        if name not in self.scales:
            raise UserError(
                f"{self.slug} has no scale '{name}'.{near(name, self.scales)} It has {', '.join(self.scales)}"
            )
        return self.scales[name]

    def arms_of(self, scale: Scale) -> dict[str, Arm]:
        """The arms of a scale, in the card's order."""
        return {name: arm for name, arm in self.arms.items() if not scale.arms or name in scale.arms}

    def before_of(self, scale: Scale) -> dict[str, Arm]:
        """The runs that arms of a scale begin from, in the card's order."""
        begun = {arm.begins for arm in self.arms_of(scale).values()}
        return {name: arm for name, arm in self.before.items() if name in begun}

    def tune_of(self, arm: Arm) -> dict[str, tuple[float, ...]]:
        """What is searched for an arm: values of its dials."""
        return arm.tune or self.tune

    def pairs_of(self, scale: Scale) -> list[tuple[str, str, Arm]]:
        """Everything that a scale runs: environment, arm's name, arm."""
        arms = self.arms_of(scale).items()
        return [(env, name, arm) for env in scale.envs for name, arm in arms if not arm.envs or env in arm.envs]

    def metric_of(self, env: str) -> Metric:
        return self.metrics.get(env, self.metric)

    @property
    def measured(self) -> str:
        """What is measured, in words."""
        others = "".join(f"; on {env}: {METRICS[metric]}" for env, metric in self.metrics.items())
        return METRICS[self.metric] + others

    def comparisons_of(self, scale: Scale) -> tuple[Comparison, ...]:
        """The comparisons both of whose arms the scale runs."""
        kept = self.arms_of(scale)
        return tuple(c for c in self.comparisons if c.better in kept and c.worse in kept)
