"""Discount and lambda learned by meta-gradients, from a bad start and from a good one: Xu et al. 2018.

The paper's games are a matter of weeks; the claim under them is that the agent finds its return's parameters by itself.
"""

from operant.papers.paper import Arm, Comparison, Paper, Scale

SEGMENTS = {"num_envs": 16, "rollout_length": 16}
BAD, GOOD = {"gamma": 0.7, "gae_lambda": 0.5}, {"gamma": 0.99, "gae_lambda": 0.95}


def fixed(start):
    return Arm("a2c", {**SEGMENTS, **start})


def learned(start, **more):
    """The outer objective's gamma is 0.99 whatever the start."""
    inner = {f"agent.{name}": value for name, value in {**SEGMENTS, **start}.items()}
    return Arm("meta-gradient:a2c", {**inner, "judge.gamma": 0.99, **more})


PAPER = Paper(
    slug="mgrl",
    title="Meta-Gradient Reinforcement Learning",
    authors="Xu, van Hasselt, Silver",
    venue="NeurIPS 2018",
    arxiv="1805.09801",
    family="meta",
    claim="An actor-critic that learns gamma and lambda by meta-gradients makes up for badly set ones.",
    arms={
        "learned, bad start": learned(BAD),
        "fixed, bad": fixed(BAD),
        "learned, good start": learned(GOOD),
        "fixed, good": fixed(GOOD),
        "gamma learned": learned(BAD, over=("gamma",)),
        "lambda learned": learned(BAD, over=("gae_lambda",)),
        "learned and shown": learned(BAD, condition=True),
    },
    comparisons=(
        Comparison("learned, bad start", "fixed, bad"),
        Comparison("learned, good start", "fixed, good", needed=False),
        Comparison("gamma learned", "fixed, bad", needed=False),
        Comparison("lambda learned", "fixed, bad", needed=False),
        Comparison("learned and shown", "learned, bad start", needed=False),
    ),
    scales={
        "smoke": Scale(("Catch-bsuite",), steps=4_096, seeds=2, arms=("learned, bad start", "fixed, bad")),
        "laptop": Scale(("Catch-bsuite", "CartPole-v1"), steps=300_000, seeds=10),
        "gpu": Scale(("Catch-bsuite", "CartPole-v1", "Breakout-MinAtar"), steps=3_000_000, seeds=20),
        "paper": Scale(
            ("Breakout-v5", "Pong-v5", "Qbert-v5", "SpaceInvaders-v5"), steps=50_000_000, seeds=8,
        ),
    },
    notes="The metric is the return of the last tenth of training. The paper's agent is IMPALA with a deep residual "
    "network on 57 games; the scale of that name has four of them and A2C.",
)  # fmt: skip
