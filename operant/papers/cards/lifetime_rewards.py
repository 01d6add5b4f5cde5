"""A reward learned over whole lives: Zheng, Oh et al. 2020, Random ABC, the cheapest of the paper's worlds.

The score is the mean return of all episodes of all lives, young and old, in the last tenth of (meta-)training: where
nothing is learned over lives, in any tenth.  Each arm's step size is the best of the same few.
"""

from operant.papers.paper import Arm, Comparison, Paper, Scale

PAPER = Paper(
    slug="lifetime-rewards",
    title="What Can Learned Intrinsic Rewards Capture?",
    authors="Zheng, Oh et al.",
    venue="ICML 2020",
    arxiv="1912.05500",
    family="meta",
    claim="Newborn agents earn more over their lives by a reward learned over lives than by the task's own reward.",
    arms={
        "learned": Arm("lifetime-rewards"),
        "task": Arm("lifetime-rewards", {"agent.teacher": "task"}),
        "count bonus": Arm("lifetime-rewards", {"agent.teacher": "count"}),
        "learned, present moment": Arm("lifetime-rewards", {"agent.reward.cell": ""}),
        "learned, episodic": Arm("lifetime-rewards", {"value.objective": "episodic"}),
    },
    comparisons=(
        Comparison("learned", "task"),
        Comparison("learned", "count bonus"),
        Comparison("learned", "learned, present moment"),
        Comparison("learned", "learned, episodic"),
    ),
    scales={
        "smoke": Scale(
            ("operant:RandomABC-v0",), steps=8_000, seeds=2, changes={"lives": 4}, arms=("learned", "task")
        ),
        "laptop": Scale(("operant:RandomABC-v0",), steps=3_000_000, seeds=8, tuning=(1_000_000, 2)),
        "gpu": Scale(
            ("operant:RandomABC-v0", "operant:EmptyRooms-v0", "operant:NonStationaryABC-v0"),
            steps=30_000_000, seeds=8, tuning=(10_000_000, 2), changes={"lives": 256},
        ),
    },
    tune={"agent.learning_rate": (1.0, 2.0, 4.0)},
    notes="The paper evaluates the reward, frozen, on 30 fresh lifetimes; here lives are born all the time, and earn "
    "by the reward as it stands.",
)  # fmt: skip
