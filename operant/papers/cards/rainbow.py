"""Rainbow and what each of its parts is worth: Hessel et al. 2018, figure 3."""

from operant.papers.paper import Arm, Comparison, Paper, Scale

PARTS = {
    "no multi-step": {"memory.n_step": 1},
    "no priorities": {"memory": "replay", "memory.n_step": 3},
    "no distributions": {"head": "dueling"},
    "no noisy nets": {"network.noise": "none", "exploration.start": 1.0, "exploration.end": 0.05},
    "no dueling": {"head.streams": 1},
    "no double": {"target": "max"},
}

PAPER = Paper(
    slug="rainbow",
    name="Rainbow",
    title="Rainbow: Combining Improvements in Deep Reinforcement Learning",
    authors="Hessel et al.",
    venue="AAAI 2018",
    arxiv="1710.02298",
    family="online",
    claim="The improvements of DQN together beat DQN, and priorities and multi-step returns matter most among them.",
    arms={"rainbow": Arm("rainbow"), "dqn": Arm("dqn"), **{name: Arm("rainbow", c) for name, c in PARTS.items()}},
    comparisons=(
        Comparison("rainbow", "dqn"),
        Comparison("rainbow", "no multi-step"),
        Comparison("rainbow", "no priorities"),
        *(Comparison("rainbow", name, needed=False) for name in list(PARTS)[2:]),
    ),
    tune={"learning_rate": (1e-4, 3e-4, 1e-3)},
    metric="final",
    scales={
        "smoke": Scale(
            ("Breakout-MinAtar",), steps=1_000, seeds=2, arms=("rainbow", "dqn"),
            changes={"memory.capacity": 2_000, "memory.learning_starts": 200, "memory.updates_per_rollout": 2},
        ),
        "laptop": Scale(("Breakout-MinAtar",), steps=200_000, seeds=8),
        "gpu": Scale(("Breakout-MinAtar", "SpaceInvaders-MinAtar"), steps=1_000_000, seeds=10, tuning=(250_000, 2)),
        "paper": Scale(
            ("Breakout-v5", "Pong-v5", "Qbert-v5", "Seaquest-v5", "SpaceInvaders-v5"), steps=50_000_000, seeds=8,
        ),
    },
    notes="At the scale laptop nothing is tuned: every arm has Rainbow's preset but for the part that is taken away, "
    "as in the paper.",
)  # fmt: skip
