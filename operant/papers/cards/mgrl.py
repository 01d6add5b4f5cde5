"""Discount and lambda learned by meta-gradients, from a bad start and from a good one: Xu et al. 2018.

The paper's games are a matter of weeks; the claim under them is that the agent finds its return's parameters by itself.
Beside it stands the mechanism, after the paper's section 3.1: a chain whose values are to be predicted, where places
that pay noise are better discounted away, and places that look alike are not to be trusted.
"""

from operant.papers.paper import Arm, Comparison, Paper, Scale

SEGMENTS = {"num_envs": 16, "rollout_length": 16}
BAD, GOOD = {"gamma": 0.7, "gae_lambda": 0.5}, {"gamma": 0.99, "gae_lambda": 0.95}


CHAIN = "operant:NoisyChain-v0"
ALIASED = {"alternate": True, "alike": True, "noise": 0.3}
CONTROL = ("Catch-bsuite", "CartPole-v1", "Breakout-MinAtar", "Breakout-v5", "Pong-v5", "Qbert-v5", "SpaceInvaders-v5")


def fixed(start):
    return Arm("a2c", {**SEGMENTS, **start}, envs=CONTROL)


def learned(start, **more):
    """The outer objective's gamma is 0.99 whatever the start."""
    inner = {f"agent.{name}": value for name, value in {**SEGMENTS, **start}.items()}
    return Arm("meta-gradient:a2c", {**inner, "judge.gamma": 0.99, **more}, envs=CONTROL)


def predicted(env_options=None, **dials):
    """Predictions of undiscounted values, from whole episodes."""
    changes = {"num_envs": 1, "rollout_length": 11, "learning_rate": 1.0, "gamma": 1.0, "td_lambda": 1.0, **dials}
    return Arm("td", changes, env_options or {}, envs=(CHAIN,))


def by_state(dial, env_options=None):
    """The same, with one dial of its own for each place, which starts at 0.9."""
    plain = predicted(env_options).changes
    inner = {f"agent.{name}": value for name, value in {**plain, dial: 0.9}.items()}
    outer = {f"judge.{name}": value for name, value in plain.items()}
    tuned = {"over": (dial,), "by_state": True, "meta_learning_rate": 0.05}
    return Arm("meta-gradient:td", {**inner, **outer, **tuned}, env_options or {}, envs=(CHAIN,))


GAMES = {
    "learned, bad start": learned(BAD),
    "fixed, bad": fixed(BAD),
    "learned, good start": learned(GOOD),
    "fixed, good": fixed(GOOD),
    "gamma learned": learned(BAD, over=("gamma",)),
    "lambda learned": learned(BAD, over=("gae_lambda",)),
    "learned and shown": learned(BAD, condition=True),
}
CHAINS = {
    "a discount for each place": by_state("gamma"),
    "no discount": predicted(),
    "one discount, 0.9": predicted(gamma=0.9),
    "alike, a lambda for each place": by_state("td_lambda", ALIASED),
    "alike, lambda 1": predicted(ALIASED),
    "alike, lambda 0": predicted(ALIASED, td_lambda=0.0),
}

PAPER = Paper(
    slug="mgrl",
    title="Meta-Gradient Reinforcement Learning",
    authors="Xu, van Hasselt, Silver",
    venue="NeurIPS 2018",
    arxiv="1805.09801",
    family="meta",
    claim="An actor-critic that learns gamma and lambda by meta-gradients makes up for badly set ones.",
    arms={**GAMES, **CHAINS},
    comparisons=(
        Comparison("learned, bad start", "fixed, bad"),
        Comparison("learned, good start", "fixed, good", needed=False),
        Comparison("gamma learned", "fixed, bad", needed=False),
        Comparison("lambda learned", "fixed, bad", needed=False),
        Comparison("learned and shown", "learned, bad start", needed=False),
        Comparison("a discount for each place", "no discount", needed=False),
        Comparison("a discount for each place", "one discount, 0.9", needed=False),
        Comparison("alike, a lambda for each place", "alike, lambda 1", needed=False),
        Comparison("alike, a lambda for each place", "alike, lambda 0", needed=False),
    ),
    scales={
        "smoke": Scale(("Catch-bsuite",), steps=4_096, seeds=2, arms=("learned, bad start", "fixed, bad")),
        "laptop": Scale(("Catch-bsuite", "CartPole-v1", CHAIN), steps=300_000, seeds=10),
        "gpu": Scale(("Catch-bsuite", "CartPole-v1", "Breakout-MinAtar", CHAIN), steps=3_000_000, seeds=20),
        "paper": Scale(
            ("Breakout-v5", "Pong-v5", "Qbert-v5", "SpaceInvaders-v5"), steps=50_000_000, seeds=8,
            arms=tuple(GAMES),
        ),
    },
    notes="The metric is the return of the last tenth of training; in the chain a step's score is the squared error of "
    "its prediction, negative. The paper's agent is IMPALA with a deep residual "
    "network on 57 games; the scale of that name has four of them and A2C.",
)  # fmt: skip
