"""DQN: deep Q-learning from a replay memory (Mnih et al. 2013, arXiv 1312.5602; 2015, Nature 518, 529-533).

Old transitions, drawn at random, break the correlation of successive ones, and a target network, a copy that is
renewed now and then, keeps the regression from chasing itself.  What the lineage added since are parts handed over:
the head (plain, dueling, categorical, quantile), the target (max, double), noise in the network, the exploration, and
the memory (replay, prioritized; n-step).  `target_period` 0 with `head.huber` inf is the form of 2013.

Differs from a2c: (1) it learns Q(s, a), from (2) transitions of a memory, towards (3) the best next action's value
under a target network, and (4) explores by epsilon instead of by its policy.

Symbols: Q action values, Q' those of the target network, R and D return and discount of n steps.
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import action_value as av
from operant.agent import agent, child, dial, option
from operant.gradient import count_steps, gradient_step
from operant.memory import PrioritizedReplay, Replay
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam, rmsprop
from operant.ops.returns import n_step_parts

MEMORIES = (Replay, PrioritizedReplay)

_ATARI = {
    "target_period": 8_000,
    "evaluation_epsilon": 0.001,
    "exploration.fraction": 0.02,
    "exploration.end": 0.01,
    "memory.capacity": 1_000_000,
    "memory.learning_starts": 20_000,
}


@agent("dqn")
class DQN:
    """Deep Q-learning from a replay memory, with every part of its lineage: discrete actions, few environment steps."""

    learning_rate: float = dial(3e-4, "the optimizer's step size", low=0.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    eps: float = dial(1e-8, "the optimizer's epsilon", low=0.0)
    max_grad_norm: float = dial(inf, "global norm at which the gradient is clipped; inf: off", low=0.0)
    evaluation_epsilon: float = dial(0.0, "probability of a random action in evaluation", low=0.0, high=1.0)
    optimizer: str = option("adam", "adam, or the centred RMSProp of 2015", choices=("adam", "rmsprop"))
    target_period: int = option(1_000, "environment steps between copies to the target network; 0: none", low=0)
    num_envs: int = option(8, "environments of one agent", low=1)
    rollout_length: int = option(4, "steps in each environment between updates", low=1)
    network: av.QNetwork = child(av.QNetwork, "the network of action values")
    head: Any = child(av.Plain, "what a value is", choices=av.HEADS)
    target: Any = child(av.Max, "which next action counts", choices=av.TARGETS)
    exploration: Any = child(av.ByTime, "the schedule of epsilon", choices=av.EXPLORATIONS)
    memory: Any = child(Replay, "where transitions are kept", choices=MEMORIES, updates_per_rollout=8)

    actions: ClassVar = ("discrete", "multi-discrete", "masked")
    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "the best of eleven settings on CartPole-v1, 3 to 8 seeds (others than those of the results); "
            "with one-step returns, relu or a larger step size the values grow beyond what returns can be, and seeds "
            "fail; with twice the updates, half as large, seeds fall back at times",
            "network.hidden": (128, 128),
            "network.activation": "tanh",
            "target": "double",
            "exploration.fraction": 0.3,
            "memory.batch_size": 128,
            "memory.updates_per_rollout": 4,
            "memory.n_step": 3,
        },
        "bsuite": {
            "source": "short episodes of many environments; chosen, not tuned",
            "num_envs": 32,
            "target_period": 2_000,
        },
        "minatar": {
            "source": "Young and Tian 2019, section 3, with Adam, and 16 environments: an update for four steps; "
            "a last epsilon of 0.05 (0.1 there), and learning from 1,000 steps on (5,000)",
            "learning_rate": 3e-4,
            "num_envs": 16,
            "rollout_length": 4,
            "memory.updates_per_rollout": 16,
        },
        "atari": {
            "source": "Hessel et al. 2018, table 1, less its improvements; the last epsilon, and that of evaluation, "
            "from van Hasselt et al. 2016 (tuned); eight environments, where the papers have one, with as many "
            "updates a step",
            "learning_rate": 6.25e-5,
            "eps": 1.5e-4,
            **_ATARI,
        },
        "atari-2015": {
            "source": "Mnih et al. 2015, extended data table 1; its eps of 0.01 is for a gradient summed over the "
            "batch; a lost life ended the return there: --env-options life_loss_terminates=true",
            "optimizer": "rmsprop",
            "learning_rate": 2.5e-4,
            "eps": 0.01 / 32**2,
            "num_envs": 1,
            "memory.updates_per_rollout": 1,
            **_ATARI,
            "target_period": 10_000,
            "evaluation_epsilon": 0.05,
            "exploration.end": 0.1,
            "memory.learning_starts": 50_000,
        },
        "atari-2013": {
            "source": "Mnih et al. 2013, section 5 (its 50 million frames apart)",
            "network.torso": "nips",
            "network.hidden": (256,),
            "optimizer": "rmsprop",
            "learning_rate": 2.5e-4,
            "eps": 0.01 / 32**2,
            "head.huber": inf,
            "num_envs": 1,
            "memory.updates_per_rollout": 1,
            **_ATARI,
            "target_period": 0,
            "evaluation_epsilon": 0.05,
            "exploration.end": 0.1,
            "exploration.fraction": 0.1,
        },
    }

    def make_optimizer(self):
        if self.optimizer == "adam":
            return adam(self.learning_rate, eps=self.eps)
        # "gradient momentum" (2015) is the decay of the mean gradient, which centring takes off: steps have none
        return rmsprop(self.learning_rate, decay=0.95, eps=self.eps, eps_inside=True, centred=True)

    def init(self, key, spec):
        params = self.network.init(key, spec, self.head)
        zero = jnp.zeros((), jnp.int32)
        return av.TargetState(params, self.make_optimizer().init(params), zero, (), spec, params, zero)

    def start(self, state, batch_size):
        return ()

    def act(self, state, timestep, carry, key, explore=True):
        act_key, noise_key = jax.random.split(key)
        spec, noise = state.spec, noise_key if explore else None
        outputs = self.network.apply(state.params, spec, self.head, timestep.observation, noise)
        epsilon = self.exploration.epsilon(state, timestep.env_index) if explore else self.evaluation_epsilon
        values = self.head.values(outputs)
        return av.choose_action(act_key, values, epsilon, timestep.action_mask, spec.action), (), {}

    def observe(self, state, batch):
        return av.copy_when_due(state.replace(steps=state.steps + count_steps(batch)), self.target_period)

    def loss(self, params, state, batch, key):
        """The error towards R + D Q'(s', argmax_a Q*(s', a)), with Q* = Q' or Q, over a sample of a memory."""
        spec, keys = state.spec, jax.random.split(key, 3)
        here, there = (jax.tree.map(lambda x, i=i: x[i], (batch.observation, batch.action_mask)) for i in (0, -1))
        outputs = self.network.apply(params, spec, self.head, here[0], keys[0])
        frozen = jax.lax.stop_gradient(params if self.target_period == 0 else state.target)
        following = self.network.apply(frozen, spec, self.head, there[0], keys[1])
        online = self.network.apply(jax.lax.stop_gradient(params), spec, self.head, there[0], keys[2])
        allowed = lambda values: av.allowed_values(self.head.values(values), there[1], spec.action)  # noqa: E731
        best = self.target.choose(allowed(following), allowed(online))
        pick = jax.vmap(lambda values, action: values[action])
        chosen = pick(outputs, av.number_of(jax.tree.map(lambda x: x[0], batch.action), spec.action))
        reward, discount = jax.vmap(n_step_parts, (1, 1, 1, None))(
            batch.reward, batch.discount, batch.valid, self.gamma
        )
        error, priority = self.head.loss(chosen, pick(following, best), reward, discount)
        weight = 1.0 if batch.weight is None else batch.weight[0]
        valid = batch.valid[0]
        metrics = {"q": masked_mean(self.head.values(chosen[:, None])[:, 0], valid), "priority": priority}
        return masked_mean(error * weight, valid), metrics

    def learn(self, state, batch, key):
        new, metrics = gradient_step(
            self.loss, self.make_optimizer(), state, batch, key, max_grad_norm=self.max_grad_norm
        )
        priority = metrics.pop("priority")
        return new, metrics, priority
