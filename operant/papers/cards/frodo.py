"""A return that is discovered: Xu et al. 2020, a random walk whose ends change places, and the game of Catch.

In the walk values are predicted, while what they are changes every 960 steps; the score of a step is the squared error
of its prediction, negative.  Step sizes and lambdas are the best of a search on other seeds (16 of them, 300,000 steps;
25 settings for each length of trajectories, and eight for the discovered return, 4 seeds).

In Catch only the last of nine steps pays.  Trajectories of one step hold no reward but in one case of nine: without
bootstrapping only the last move is learned.  Each arm learns from 320 steps an update.

Off policy the parameters that act are renewed after every 16 updates.  The discovered return is judged by V-trace, and
replaces it in what is learned; without correction n-step returns are learned as if nothing lagged.
"""

from operant.papers.paper import Arm, Comparison, Paper, Scale

WALK, CATCH = "operant:RandomWalk-v0", "Catch-bsuite"
ATARI = ("Breakout-v5", "Pong-v5", "Qbert-v5", "SpaceInvaders-v5")


def td(length: int, learning_rate: float, td_lambda: float) -> Arm:
    changes = {"rollout_length": length, "learning_rate": learning_rate, "td_lambda": td_lambda}
    return Arm("td", changes, envs=(WALK,))


def caught(window: int, **changes) -> Arm:
    """A return that is discovered from trajectories of so many steps."""
    whole = {"agent.num_envs": 16, "agent.rollout_length": 20, "window": window}
    return Arm("frodo:a2c", {**whole, **changes}, envs=(CATCH,))


def written(length: int, **changes) -> Arm:
    """The n-step return, from trajectories of so many steps."""
    return Arm("a2c", {"num_envs": 320 // length, "rollout_length": length, **changes}, envs=(CATCH,))


LAGGED = {"lag": 16, "num_envs": 16, "rollout_length": 20, "learning_rate": 1e-3, "anneal": 0.0}


def lagged(correction: str) -> Arm:
    return Arm("impala", {**LAGGED, "correction": correction}, envs=(CATCH,))


def lagged_frodo(**changes) -> Arm:
    return Arm("frodo:impala", {**{f"agent.{k}": v for k, v in LAGGED.items()}, **changes}, envs=(CATCH,))


SMALL = {
    "discovered": Arm("frodo:td", {"agent.td_lambda": 1.0, "agent.learning_rate": 3.0}, envs=(WALK,)),
    "TD(0), 2 steps": td(2, 0.25, 0.0),
    "TD(0.2), 5 steps": td(5, 0.6, 0.2),
    "TD(0.2), 20 steps": td(20, 2.5, 0.2),
    "one step, discovered": caught(1),
    "one step, bootstrap": written(1),
    "one step, no bootstrap": written(1, bootstrap=False),
    "four steps, discovered": caught(4),
    "four steps, no consistency": caught(4, consistency_cost=0.0),
    "four steps, bootstrap": written(4),
    "four steps, no bootstrap": written(4, bootstrap=False),
    "lagged, discovered": lagged_frodo(off_policy=True),
    "lagged, ratios unseen": lagged_frodo(),
    "lagged, no correction": lagged("none"),
    "lagged, V-trace": lagged("vtrace"),
}
LARGE = {
    "Atari, discovered": Arm("frodo:a2c", {"agent.rollout_length": 20}, envs=ATARI),
    "Atari, bootstrap": Arm("a2c", {"rollout_length": 20}, envs=ATARI),
}

PAPER = Paper(
    slug="frodo",
    name="FRODO",
    title="Meta-Gradient RL with an Objective Discovered Online",
    authors="Xu, van Hasselt, Hessel, Oh, Singh, Silver",
    venue="NeurIPS 2020",
    arxiv="2007.08433",
    family="meta",
    claim="A return discovered online tracks changing values better than TD(lambda), and finds out how to bootstrap.",
    arms={**SMALL, **LARGE},
    comparisons=(
        Comparison("discovered", "TD(0), 2 steps"),
        Comparison("discovered", "TD(0.2), 5 steps"),
        Comparison("discovered", "TD(0.2), 20 steps"),
        Comparison("one step, discovered", "one step, no bootstrap"),
        Comparison("Atari, discovered", "Atari, bootstrap"),
        Comparison("one step, bootstrap", "one step, discovered", needed=False),
        Comparison("four steps, discovered", "four steps, no bootstrap", needed=False),
        Comparison("four steps, bootstrap", "four steps, discovered", needed=False),
        Comparison("four steps, discovered", "four steps, no consistency", needed=False),
        Comparison("lagged, discovered", "lagged, no correction", needed=False),
        Comparison("lagged, discovered", "lagged, ratios unseen", needed=False),
        Comparison("lagged, V-trace", "lagged, discovered", needed=False),
    ),
    metric="final",
    metrics={CATCH: "area"},
    scales={
        "smoke": Scale((WALK, CATCH), steps=6_400, seeds=2,
                       arms=("discovered", "TD(0.2), 20 steps", "one step, discovered", "one step, no bootstrap")),
        "laptop": Scale((WALK, CATCH), steps=1_000_000, seeds=10, arms=tuple(SMALL)),
        "gpu": Scale((WALK, CATCH), steps=5_000_000, seeds=20, arms=tuple(SMALL)),
        "paper": Scale(ATARI, steps=50_000_000, seeds=8, arms=tuple(LARGE)),
    },
    notes="Trajectories of four steps came first: no bootstrap is needed to win from them, as the paddle is never more "
    "than two moves away. The scale of the paper has four of its 57 games, and A2C in place of IMPALA.",
)  # fmt: skip
