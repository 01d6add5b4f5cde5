"""D4PG: distributed distributional deterministic policy gradient (Barth-Maron et al. 2018, arXiv 1804.08617).

What is learned and what acts is that of `ddpg`, with other parts: the critic learns the distribution of returns, from
transitions of five steps, and the noise on the actions is independent from step to step.  Here the actors are the
environments of one process.

Differs from ddpg: (1) a categorical critic, whose mean the policy climbs; (2) returns of n = 5 steps; (3) Gaussian
noise; (4) larger batches, and targets that are copied; (5) optionally, priorities (`memory` prioritized).

Symbols: as in ddpg; Z the distribution of returns, on atoms from v_min to v_max, which must fit the task.
"""

from __future__ import annotations

from typing import Any, ClassVar

from operant import action_value as av
from operant import actor_q as aq
from operant.agent import agent, child, dial, option
from operant.memory import PrioritizedReplay, Replay
from operant.methods.value.ddpg import DDPG, HEADS

_CONTROL = {
    "source": "Barth-Maron et al. 2018, appendix A: batches of 256, copies every 100 gradient steps; one update for "
    "each step, as in Acme's single-process form, here 4 after a step of 4 environments",
    "memory.capacity": 1_000_000,
    "memory.learning_starts": 10_000,
    "random_steps": 10_000,
}


@agent("d4pg")
class D4PG(DDPG):
    """Distributional DDPG: a critic of the distribution of returns, n-step targets, continuous actions."""

    critic_learning_rate: float = dial(1e-4, "Adam's step size for the critic", low=0.0)
    tau: float = dial(1.0, "the targets' step towards policy and critic; 1: they are copied", low=0.0, high=1.0)
    target_period: int = option(100, "gradient steps between the targets' steps", low=1)
    actor: aq.Policy = child(aq.Policy, "the policy's network")
    critic: aq.Critic = child(aq.Critic, "the critic's network")
    head: Any = child(av.Categorical, "what a value is", choices=HEADS, v_min=-150.0, v_max=150.0)
    noise: Any = child(
        aq.GaussianNoise, "what is added to the policy's action to explore", choices=aq.NOISES, scale=0.3
    )
    memory: Any = child(
        Replay,
        "where transitions are kept",
        choices=(Replay, PrioritizedReplay),
        n_step=5,
        batch_size=256,
        updates_per_rollout=4,
    )

    presets: ClassVar[dict] = {
        "Pendulum-v1": {
            "source": "atoms over its returns, small networks with a brisk step size; chosen, not tuned",
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "head.v_min": -1_500.0,
            "head.v_max": 0.0,
            "actor.hidden": (64, 64),
            "critic.hidden": (64, 64),
        },
        "dmc": _CONTROL,
        "mujoco": {**_CONTROL, "head.v_min": -500.0, "head.v_max": 1_500.0},
        "brax": {**_CONTROL, "head.v_min": -500.0, "head.v_max": 1_500.0},
    }
