"""A stochastic policy that is paid for its entropy against DDPG's deterministic one: Haarnoja et al. 2018, figure 1."""

from operant.papers.cards.td3 import LITTLE, SHARED, TINY
from operant.papers.paper import Arm, Comparison, Paper, Scale

PAPER = Paper(
    slug="sac",
    name="SAC",
    title="Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning with a Stochastic Actor",
    authors="Haarnoja et al.",
    venue="ICML 2018",
    arxiv="1801.01290",
    family="online",
    claim="A stochastic policy that maximises return and entropy together earns more than DDPG in as many steps.",
    arms={
        "sac": Arm("sac"),
        "ddpg": Arm("ddpg"),
        "td3": Arm("td3"),
        "no entropy": Arm("sac", {"alpha": 1e-6, "alpha_learning_rate": 0.0}),
    },
    comparisons=(
        Comparison("sac", "ddpg"),
        Comparison("sac", "td3", needed=False),
        Comparison("sac", "no entropy", needed=False),
    ),
    tune={"actor_learning_rate": (3e-4, 1e-3), "critic_learning_rate": (3e-4, 1e-3)},
    metric="area",
    scales={
        "smoke": Scale(("Pendulum-v1",), steps=1_000, seeds=2, arms=("sac", "ddpg"), changes=TINY),
        "laptop": Scale(("Hopper-v4",), steps=50_000, seeds=8, tuning=(20_000, 2), changes=LITTLE),
        "gpu": Scale(("Hopper-v4", "Walker2d-v4"), steps=300_000, seeds=10, tuning=(100_000, 2), changes=SHARED),
        "paper": Scale(("Hopper-v4", "Walker2d-v4"), steps=1_000_000, seeds=8, changes=SHARED),
    },
    notes="The temperature is learned, as in the authors' later paper (arXiv 1812.05905), where the first one scales "
    "rewards by hand. DDPG explores with the noise of its own paper; without entropy SAC's policy stays stochastic, "
    "and nothing pays for that.",
)  # fmt: skip
