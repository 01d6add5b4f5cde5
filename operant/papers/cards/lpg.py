"""A rule that is discovered, in worlds that it was not discovered in: Oh et al. 2020.

Four rules are discovered, each from seeds of its own, on small random grids, with and without a look at the
prediction to come.  Then agents learn by them as they stand, each in a grid of its own that no rule has seen; the seeds
of an arm have the four rules in turn.  A score is the return at the end of such a life, as a share of the best that
can be expected in its grid.
"""

from operant.papers.paper import Arm, Comparison, Paper, Scale

HOME = "operant:SmallGrid-v0"
AWAY = ("operant:LargerGrid-v0", "operant:Grid-dense-v0", "operant:Grid-sparse-v0")
BLIND = {"agent.bootstrap": False}  # the rule does not see the prediction at the next observation
A2C = {"num_envs": 16, "rollout_length": 20, "gamma": 0.995, "network.hidden": ()}  # tables, as LPG's agents have
A2C_TUNE = {"learning_rate": (0.01, 0.03, 0.1, 0.3), "gae_lambda": (0.9, 1.0)}

PAPER = Paper(
    slug="lpg",
    title="Discovering Reinforcement Learning Algorithms",
    authors="Oh et al.",
    venue="NeurIPS 2020",
    arxiv="2007.08794",
    family="meta",
    claim="A rule discovered on small grids teaches agents in grids it has not seen at least nine tenths as well as "
    "A2C, and needs to see predictions of what comes next.",
    arms={
        "lpg": Arm("lpg", begins="rule"),
        "a2c": Arm("a2c", A2C, tune=A2C_TUNE),
        "lpg, no bootstrapping": Arm("lpg", {"bootstrap": False}, begins="rule, no bootstrapping"),
        "a2c, no bootstrapping": Arm("a2c", {**A2C, "bootstrap": False}, tune=A2C_TUNE),
        "lpg, nothing discovered": Arm("lpg"),
    },
    before={
        "rule": Arm("discover:lpg", envs=(HOME,)),
        "rule, no bootstrapping": Arm("discover:lpg", BLIND, envs=(HOME,)),
    },
    comparisons=(
        Comparison("lpg", "a2c", margin=-1 / 9, envs=(HOME,)),
        Comparison("lpg", "lpg, no bootstrapping", envs=(HOME,)),
        Comparison("lpg", "lpg, nothing discovered", envs=(HOME,)),
        Comparison("lpg", "a2c", margin=-1 / 9, envs=AWAY, needed=False),
        Comparison("lpg", "lpg, no bootstrapping", envs=AWAY, needed=False),
        Comparison("lpg", "lpg, nothing discovered", envs=AWAY, needed=False),
        Comparison("lpg", "a2c, no bootstrapping", needed=False),
    ),
    tune={"learning_rate": (40.0, 80.0, 160.0, 320.0), "alpha_y": (0.5, 1.0)},
    metric="share",
    scales={
        "smoke": Scale(
            (HOME,), steps=8_000, seeds=3, arms=("lpg", "a2c"), before=(4_000, 2),
            before_changes={"lives": 2, "agent.num_envs": 4},
        ),
        "laptop": Scale((HOME, *AWAY), steps=80_000, seeds=60, tuning=(80_000, 8), before=(50_000_000, 4)),
        "gpu": Scale(
            (HOME, *AWAY, "operant:Grid-long-v0"), steps=400_000, seeds=120, tuning=(400_000, 8),
            before=(1_000_000_000, 4), before_changes={"lives": 256, "lifetime": 1000},
        ),
    },
    notes="An interval is over grids, with the four rules as they are: it does not say how much rules differ. The "
    "paper discovers over five kinds of worlds and goes on to Atari.",
)  # fmt: skip
