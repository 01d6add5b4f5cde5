"""Stored recurrent states in replay: Kapturowski et al. 2019, section 3."""

from operant.papers.paper import Arm, Comparison, Paper, Scale

PAPER = Paper(
    slug="r2d2",
    name="R2D2",
    title="Recurrent Experience Replay in Distributed Reinforcement Learning",
    authors="Kapturowski et al.",
    venue="ICLR 2019",
    arxiv="",
    family="online",
    claim="Where memory outlasts a replayed sequence, beginning it in the state that was stored beats a zero state.",
    arms={
        "stored state": Arm("r2d2"),
        "zero state": Arm("r2d2", {"start_state": "zero"}),
        "no burn-in": Arm("r2d2", {"memory.burn_in": 0}),
        "no memory (dqn)": Arm("dqn"),
    },
    comparisons=(
        Comparison("stored state", "zero state"),
        Comparison("stored state", "no memory (dqn)"),
        Comparison("stored state", "no burn-in", needed=False),
    ),
    metric="evaluation",
    scales={
        "smoke": Scale(
            ("MemoryChain-bsuite",), steps=1_500, seeds=2, arms=("stored state", "zero state"),
            env_options={"memory_length": 30},
        ),
        "laptop": Scale(("MemoryChain-bsuite",), steps=100_000, seeds=8, env_options={"memory_length": 30}),
        "gpu": Scale(("MemoryChain-bsuite",), steps=1_000_000, seeds=16, env_options={"memory_length": 60}),
    },
    notes="MemoryChain shows a bit once and asks for it 30 steps later; a replayed sequence is 24 steps long.",
)  # fmt: skip
