"""PPO against A2C, and what its details are worth: Schulman et al. 2017; Huang et al. 2022."""

from math import inf

from operant.papers.paper import Arm, Comparison, Paper, Scale

DETAILS = {
    "no clipping": {"clip": 1e6, "value_clip": inf},
    "one epoch": {"num_epochs": 1},
    "one minibatch": {"num_minibatches": 1},
    "no annealing": {"anneal": 0.0},
    "no lambda": {"gae_lambda": 1.0},
    "no gradient clipping": {"max_grad_norm": inf},
}

PAPER = Paper(
    slug="ppo",
    name="PPO",
    title="Proximal Policy Optimization Algorithms",
    authors="Schulman et al.",
    venue="2017",
    arxiv="1707.06347",
    family="online",
    claim="Several epochs on each rollout, made safe by clipping the probability ratio, learn more than one of A2C.",
    arms={"ppo": Arm("ppo"), "a2c": Arm("a2c"), **{name: Arm("ppo", changes) for name, changes in DETAILS.items()}},
    comparisons=(
        Comparison("ppo", "a2c"),
        Comparison("ppo", "no clipping"),
        Comparison("ppo", "one epoch"),
        *(Comparison("ppo", name, needed=False) for name in list(DETAILS)[2:]),
    ),
    tune={"learning_rate": (3e-4, 1e-3, 3e-3, 1e-2)},
    metric="final",
    scales={
        "smoke": Scale(("Breakout-MinAtar",), steps=5_000, seeds=2, arms=("ppo", "a2c")),
        "laptop": Scale(("Breakout-MinAtar", "SpaceInvaders-MinAtar"), steps=1_000_000, seeds=8, tuning=(300_000, 2)),
        "gpu": Scale(
            ("Asterix-MinAtar", "Breakout-MinAtar", "SpaceInvaders-MinAtar"), steps=10_000_000, seeds=16,
            tuning=(3_000_000, 2),
        ),
        "paper": Scale(("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Swimmer-v4"), steps=1_000_000, seeds=8),
    },
)  # fmt: skip
