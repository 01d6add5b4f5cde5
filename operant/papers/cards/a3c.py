"""Parallel actors in place of replay: the four methods of Mnih et al. 2016, each with 16 actors and with one."""

from typing import Any

from operant.papers.paper import Arm, Comparison, Paper, Scale

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "one-step Q": ("online-q", {"q_lambda": 0.0}),
    "one-step Sarsa": ("online-q", {"q_lambda": 0.0, "following": "sarsa"}),
    "n-step Q": ("online-q", {"q_lambda": 1.0}),
    "actor-critic": ("a2c", {"anneal": 1.0}),
}
VALUE_METHODS = ("one-step Q", "one-step Sarsa", "n-step Q")

PAPER = Paper(
    slug="a3c",
    title="Asynchronous Methods for Deep Reinforcement Learning",
    authors="Mnih et al.",
    venue="ICML 2016",
    arxiv="1602.01783",
    family="online",
    claim="With as many environment steps, 16 parallel actors make value learning without replay better than one.",
    arms={
        f"{name}, {actors}": Arm(method, {**changes, "num_envs": actors})
        for name, (method, changes) in METHODS.items()
        for actors in (16, 1)
    },
    comparisons=(
        *(Comparison(f"{name}, 16", f"{name}, 1") for name in VALUE_METHODS),
        Comparison("actor-critic, 16", "actor-critic, 1", needed=False),
        Comparison("actor-critic, 16", "n-step Q, 16", needed=False),
        Comparison("n-step Q, 16", "one-step Q, 16", needed=False),
        Comparison("one-step Q, 16", "one-step Sarsa, 16", needed=False),
    ),
    tune={"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)},
    metric="evaluation",
    scales={
        "smoke": Scale(
            ("Catch-bsuite",), steps=1_000, seeds=2, arms=("one-step Sarsa, 16", "one-step Sarsa, 1"),
        ),
        "laptop": Scale(("CartPole-v1", "Catch-bsuite"), steps=300_000, seeds=8, tuning=(150_000, 2)),
        "gpu": Scale(
            ("CartPole-v1", "Catch-bsuite", "Breakout-MinAtar"), steps=2_000_000, seeds=10, tuning=(500_000, 2),
        ),
        "paper": Scale(
            ("BeamRider-v5", "Breakout-v5", "Pong-v5", "Qbert-v5", "SpaceInvaders-v5"), steps=10_000_000, seeds=8,
        ),
    },
    notes="The synchronous form: the gradients of all actors are averaged into one step. The step size is chosen for "
    "each method and number of actors, since the average of 16 gradients asks for another than one of them.",
)  # fmt: skip
