"""What becomes of DDPG where its critic's overestimation is dealt with: Fujimoto et al. 2018, figure 5 and table 2."""

from operant.papers.paper import Arm, Comparison, Paper, Scale

# what all arms share, so that only the three remedies tell them apart (the paper's "our DDPG", AHE in its table 2)
SHARED = {"tau": 0.005, "memory.batch_size": 256, "actor.hidden": (256, 256), "critic.hidden": (256, 256)}
LITTLE = {
    **SHARED, "memory.batch_size": 100, "actor.hidden": (64, 64), "critic.hidden": (64, 64),
    "memory.capacity": 100_000, "memory.learning_starts": 1_000, "random_steps": 1_000,
}  # fmt: skip
TINY = {
    **LITTLE, "memory.batch_size": 16, "actor.hidden": (8,), "critic.hidden": (8,), "memory.updates_per_rollout": 1,
    "memory.learning_starts": 100, "random_steps": 100,
}  # fmt: skip

PAPER = Paper(
    slug="td3",
    name="TD3",
    title="Addressing Function Approximation Error in Actor-Critic Methods",
    authors="Fujimoto, van Hoof, Meger",
    venue="ICML 2018",
    arxiv="1802.09477",
    family="online",
    claim="The smaller of two critics, a smoothed target and delayed updates make DDPG earn more in as many steps.",
    arms={
        "td3": Arm("td3"),
        "ddpg": Arm("ddpg", {"noise": "gaussian-noise"}),
        "no smoothing": Arm("td3", {"target_noise": 0.0}),
        "no delay": Arm("td3", {"policy_delay": 1}),
    },
    comparisons=(
        Comparison("td3", "ddpg"),
        Comparison("td3", "no smoothing", needed=False),
        Comparison("td3", "no delay", needed=False),
    ),
    tune={"actor_learning_rate": (3e-4, 1e-3), "critic_learning_rate": (3e-4, 1e-3)},
    metric="area",
    scales={
        "smoke": Scale(("Pendulum-v1",), steps=1_000, seeds=2, arms=("td3", "ddpg"), changes=TINY),
        "laptop": Scale(("Hopper-v4",), steps=50_000, seeds=8, tuning=(20_000, 2), changes=LITTLE),
        "gpu": Scale(("Hopper-v4", "Walker2d-v4"), steps=300_000, seeds=10, tuning=(100_000, 2), changes=SHARED),
        "paper": Scale(
            ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4"), steps=1_000_000, seeds=10, changes=SHARED,
        ),
    },
    notes="DDPG has TD3's networks, batches, targets and noise; each arm has its own step sizes, chosen on other "
    "seeds. At the scale laptop networks are small and Hopper is given a twentieth of the paper's steps.",
)  # fmt: skip
