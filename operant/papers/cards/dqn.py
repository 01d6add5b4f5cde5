"""Replay and a target network: the 2 x 2 ablation of Mnih et al. 2015, extended data table 3."""

from operant.papers.paper import Arm, Comparison, Paper, Scale

# "no replay" learns from the transitions of the last roll-out alone: 16 environments, 4 steps each
NO_REPLAY = {"memory.capacity": 64, "memory.learning_starts": 64}
NO_TARGET = {"target_period": 0}

PAPER = Paper(
    slug="dqn",
    title="Playing Atari with Deep Reinforcement Learning; Human-level control through deep reinforcement learning",
    authors="Mnih et al.",
    venue="NIPS Deep Learning Workshop 2013; Nature 518, 2015",
    arxiv="1312.5602",
    family="online",
    claim="Experience replay and a separate target network each make deep Q-learning better, and replay matters most.",
    arms={
        "replay and target": Arm("dqn"),
        "replay only": Arm("dqn", NO_TARGET),
        "target only": Arm("dqn", NO_REPLAY),
        "neither": Arm("dqn", {**NO_REPLAY, **NO_TARGET}),
    },
    comparisons=(
        Comparison("replay and target", "replay only", margin=0.1),
        Comparison("replay and target", "target only", margin=0.1),
        Comparison("replay only", "neither"),
        Comparison("target only", "neither", needed=False),
    ),
    tune={"learning_rate": (1e-4, 3e-4, 1e-3)},
    metric="final",
    scales={
        "smoke": Scale(
            ("Breakout-MinAtar",), steps=2_000, seeds=2, arms=("replay and target", "target only"),
            changes={"memory.capacity": 2_000, "memory.learning_starts": 200, "memory.updates_per_rollout": 2},
        ),
        "laptop": Scale(("Breakout-MinAtar",), steps=250_000, seeds=8, tuning=(60_000, 2)),
        "gpu": Scale(
            ("Breakout-MinAtar", "SpaceInvaders-MinAtar", "Asterix-MinAtar"), steps=1_000_000, seeds=10,
            tuning=(250_000, 4),
        ),
        "paper": Scale(
            ("Breakout-v5", "Enduro-v5", "Seaquest-v5", "SpaceInvaders-v5"), steps=10_000_000, seeds=8,
        ),
    },
    notes="On MinAtar the target network's part may be small. Without replay the agent learns from the last roll-out "
    "of 64 transitions, with as many updates of the same size; each arm has its own step size, chosen on other seeds.",
)  # fmt: skip
