"""A reward that the agent learns, where the task's comes late: Zheng, Oh and Singh 2018, the MuJoCo experiments."""

from operant.papers.paper import Arm, Comparison, Paper, Scale

LATE = {"reward_delay": 20}
# PPO standardises advantages, so that a reward's scale is nothing to its policy; a critic learns small values sooner
LEARNED = {"extrinsic_scale": 0.0, "intrinsic_scale": 0.01}
BESIDE = {"extrinsic_scale": 1.0, "intrinsic_scale": 0.1}
# six settings for each arm: what PPO can do about late rewards by itself is a longer lambda
OWN = {"learning_rate": (3e-4, 1e-3, 3e-3), "gae_lambda": (0.95, 1.0)}
BOTH = {"agent.learning_rate": (1e-3, 3e-3), "meta_learning_rate": (3e-4, 1e-3, 3e-3)}
MUJOCO = ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4")

PAPER = Paper(
    slug="lirpg",
    name="LIRPG",
    title="On Learning Intrinsic Rewards for Policy Gradient Methods",
    authors="Zheng, Oh, Singh",
    venue="NeurIPS 2018",
    arxiv="1804.06459",
    family="meta",
    claim="Where the task pays every 20 steps only, PPO learns more from a learned reward alone than from the task's.",
    arms={
        "ppo": Arm("ppo", tune=OWN),
        "learned reward": Arm("lirpg:ppo", LEARNED, tune=BOTH),
        "learned reward beside": Arm("lirpg:ppo", BESIDE, tune=BOTH),
        "ppo, constant bonus": Arm("ppo", env_options={"live_bonus": 0.1}, tune=OWN),
        "ppo, dense": Arm("ppo", env_options={"reward_delay": 1}, tune=OWN),
    },
    comparisons=(
        Comparison("learned reward", "ppo"),
        Comparison("learned reward", "ppo, constant bonus", needed=False),
        Comparison("learned reward beside", "ppo", needed=False),
        Comparison("ppo, dense", "learned reward", needed=False),
    ),
    scales={
        "smoke": Scale(("Pendulum-v1",), steps=4_000, seeds=2, env_options=LATE),
        "laptop": Scale(("Pendulum-v1",), steps=200_000, seeds=10, tuning=(200_000, 3), env_options=LATE),
        "gpu": Scale(("brax:hopper", "brax:halfcheetah"), steps=1_000_000, seeds=10, env_options=LATE),
        "paper": Scale(MUJOCO, steps=1_000_000, seeds=10, env_options=LATE),
    },
)
