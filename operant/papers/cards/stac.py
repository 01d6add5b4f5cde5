"""An agent that tunes most of its loss by itself, from good starts and from bad ones: Zahavy et al. 2020.

Rollouts wait before they are learned from, as an actor's do, so that importance weights differ from 1.
"""

from operant.papers.paper import Arm, Comparison, Paper, Scale

LAG = {"lag": 8, "network.shared": "yes"}


def inner(**changes):
    return {f"agent.{name}": value for name, value in {**LAG, **changes}.items()}


ONE_HEAD = {"auxiliary_heads": 0}
LITTLE_ENTROPY, SHORT_SIGHT = {"entropy_cost": 1e-4}, {"gamma": 0.9}

PAPER = Paper(
    slug="stac",
    name="STAC",
    title="A Self-Tuning Actor-Critic Algorithm",
    authors="Zahavy et al.",
    venue="NeurIPS 2020",
    arxiv="2002.12928",
    family="meta",
    claim="An actor-critic that tunes most of its loss's parameters earns more than one with fixed ones.",
    arms={
        "fixed": Arm("impala", LAG),
        "gamma and lambda": Arm("meta-gradient:impala", {**inner(), "over": ("gamma", "gae_lambda")}),
        "stac": Arm("stac", {**inner(), **ONE_HEAD}),
        "stacx": Arm("stac", inner()),
        "fixed, little entropy": Arm("impala", {**LAG, **LITTLE_ENTROPY}),
        "stacx, little entropy": Arm("stac", inner(**LITTLE_ENTROPY)),
        "fixed, short sight": Arm("impala", {**LAG, **SHORT_SIGHT}),
        "stacx, short sight": Arm("stac", inner(**SHORT_SIGHT)),
    },
    comparisons=(
        Comparison("stacx", "fixed"),
        Comparison("stac", "fixed", needed=False),
        Comparison("stacx", "stac", needed=False),
        Comparison("gamma and lambda", "fixed", needed=False),
        Comparison("stacx, little entropy", "fixed, little entropy", needed=False),
        Comparison("stacx, short sight", "fixed, short sight", needed=False),
    ),
    metric="area",
    scales={
        "smoke": Scale(("Catch-bsuite",), steps=6_400, seeds=2, arms=("fixed", "stacx")),
        "laptop": Scale(("CartPole-v1",), steps=300_000, seeds=10),
        "gpu": Scale(("Breakout-MinAtar", "SpaceInvaders-MinAtar"), steps=3_000_000, seeds=10),
        "paper": Scale(("Breakout-v5", "Pong-v5", "Qbert-v5", "SpaceInvaders-v5"), steps=50_000_000, seeds=8),
    },
    notes="The scale of the paper has four of its 57 games. The robustness of the paper's appendix is there in two bad "
    "starts.",
)
