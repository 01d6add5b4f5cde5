"""A return that is discovered, where trajectories are too short to hold a reward: Xu et al. 2020, the game of Catch.

The rule sees 4 steps at a time, an episode has 9, and only its last step pays.  Each arm learns from 320 steps an
update; the two with returns that somebody wrote down have trajectories of 4 steps.
"""

from operant.papers.paper import Arm, Comparison, Paper, Scale

SHORT = {"num_envs": 80, "rollout_length": 4}
WHOLE = {"agent.num_envs": 16, "agent.rollout_length": 20, "window": 4}

PAPER = Paper(
    slug="frodo",
    name="FRODO",
    title="Meta-Gradient RL with an Objective Discovered Online",
    authors="Xu, van Hasselt, Hessel, Oh, Singh, Silver",
    venue="NeurIPS 2020",
    arxiv="2007.08433",
    family="meta",
    claim="From trajectories too short to hold a reward, a learned return discovers bootstrapping.",
    arms={
        "discovered": Arm("frodo:a2c", WHOLE),
        "n-step": Arm("a2c", SHORT),
        "no bootstrap": Arm("a2c", {**SHORT, "bootstrap": False}),
        "without consistency": Arm("frodo:a2c", {**WHOLE, "consistency_cost": 0.0}),
    },
    comparisons=(
        Comparison("discovered", "no bootstrap"),
        Comparison("n-step", "discovered", needed=False),
        Comparison("discovered", "without consistency", needed=False),
    ),
    metric="area",
    scales={
        "smoke": Scale(("Catch-bsuite",), steps=6_400, seeds=2, arms=("discovered", "no bootstrap")),
        "laptop": Scale(("Catch-bsuite",), steps=1_000_000, seeds=10),
        "gpu": Scale(("Catch-bsuite", "Breakout-MinAtar"), steps=5_000_000, seeds=20),
        "paper": Scale(("Breakout-v5", "Pong-v5", "Qbert-v5", "SpaceInvaders-v5"), steps=50_000_000, seeds=8),
    },
    notes="The scale of the paper has four of its 57 games, and A2C in place of IMPALA.",
)
