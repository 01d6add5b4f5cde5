"""Rainbow: improvements of DQN combined (Hessel et al. 2018, arXiv 1710.02298).

DQN with all parts of its lineage at once: the double target, dueling streams, returns of three steps, a categorical
head (C51), prioritized replay by the KL loss, and noisy layers in place of epsilon.  Take a part away to ablate it:
`--target max`, `--head.streams 1`, `--memory.n-step 1`, `--head plain`, `--memory replay`, and
`--network.noise none --exploration.start 1 --exploration.end 0.05`.

Symbols: as in dqn.

Differs from dqn: the parts that it is made of, and their settings; nothing in the algorithm.
"""

from __future__ import annotations

from typing import Any, ClassVar

from operant import action_value as av
from operant.agent import agent, child, dial
from operant.memory import PrioritizedReplay
from operant.methods.value.dqn import DQN, MEMORIES


@agent("rainbow")
class Rainbow(DQN):
    """All of DQN's improvements at once: distributions, priorities, noise, n-step returns, dueling, double."""

    eps: float = dial(1.5e-4, "the optimizer's epsilon", low=0.0)
    max_grad_norm: float = dial(10.0, "global norm at which the gradient is clipped; inf: off", low=0.0)
    network: av.QNetwork = child(av.QNetwork, "the network of action values", noise="noisy")
    head: Any = child(av.Categorical, "what a value is", choices=av.HEADS, streams=2)
    target: Any = child(av.Double, "which next action counts", choices=av.TARGETS)
    exploration: Any = child(av.ByTime, "the schedule of epsilon", choices=av.EXPLORATIONS, start=0.0, end=0.0)
    memory: Any = child(
        PrioritizedReplay,
        "where transitions are kept",
        choices=MEMORIES,
        n_step=3,
        alpha=0.5,
        updates_per_rollout=8,
    )

    presets: ClassVar[dict] = {
        "CartPole-v1": {**DQN.presets["classic_control"], "head.v_min": 0.0, "head.v_max": 100.0},
        "classic_control": {
            **DQN.presets["classic_control"],
            "source": "DQN's; a point a step for ever, paid or charged, is worth 100 or -100 at this discount",
            "head.v_min": -100.0,
            "head.v_max": 100.0,
        },
        "minatar": {
            **DQN.presets["minatar"],
            "source": "DQN's, its random actions too: without sticky actions these games have little chance or none, "
            "and the network's noise alone soon plays the same game again and again; a point in five steps for ever, "
            "as fast as Space Invaders lets one shoot, is worth 20",
            "exploration.start": 1.0,
            "exploration.end": 0.05,
            "head.v_min": -20.0,
            "head.v_max": 20.0,
        },
        "atari": {
            **DQN.presets["atari"],
            "source": "Hessel et al. 2018, table 1 (one environment there, eight here, as many updates a step)",
            "evaluation_epsilon": 0.0,
            "exploration.end": 0.0,  # the noise of the network explores
        },
    }
