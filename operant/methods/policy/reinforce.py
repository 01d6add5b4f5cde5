"""REINFORCE with a learned baseline (Williams 1992, "Simple statistical gradient-following algorithms").

The likelihood-ratio gradient: each action's log-probability is pushed by the return that followed it, less a baseline
that does not depend on the action and so removes variance without adding bias.  The baseline is a value network.

Differs from a2c: (1) full returns to the end of the episode (the value stands in only where a rollout or a time limit
cuts the episode off); (2) the discounted weight of the theorem is left out, as is usual; (3) Adam.

Symbols: pi policy, b = V baseline, R return to go.
"""

from __future__ import annotations

from typing import ClassVar

import jax

from operant.actor_critic import ActorCritic
from operant.agent import agent, child, dial, option
from operant.gradient import count_steps, gradient_step
from operant.ops.losses import l2, masked_mean
from operant.ops.optimizers import adam
from operant.ops.returns import discounted_returns
from operant.types import transitions


@agent("reinforce")
class REINFORCE:
    """Policy gradient with Monte-Carlo returns and a value baseline: the simplest agent of the house."""

    learning_rate: float = dial(1e-3, "Adam's step size", low=0.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    entropy_cost: float = dial(0.0, "weight of the entropy bonus", low=0.0)
    value_cost: float = dial(0.5, "weight of the baseline's squared error", low=0.0)
    max_grad_norm: float = dial(float("inf"), "global norm at which the gradient is clipped; inf: off", low=0.0)
    num_envs: int = option(8, "environments of one agent", low=1)
    rollout_length: int = option(256, "steps in each environment between updates", low=1)
    network: ActorCritic = child(ActorCritic, "policy and baseline networks, normalisers")

    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "the best of five settings on CartPole-v1, 8 seeds (others than those of the results)",
            "entropy_cost": 0.01,
            "max_grad_norm": 0.5,
            "network.normalize_reward": True,
        },
        "minatar": {
            "source": "the better of two settings on Breakout-MinAtar, 4 seeds",
            "learning_rate": 5e-3,
            "entropy_cost": 0.01,
            "max_grad_norm": 0.5,
            "num_envs": 64,
            "rollout_length": 64,
            "network.torso": "mlp",
            "network.activation": "relu",
        },
        "atari": {
            "source": "A2C's environments and entropy cost, with rollouts long enough for a return; not measured here",
            "learning_rate": 3e-4,
            "entropy_cost": 0.01,
            "max_grad_norm": 0.5,
            "num_envs": 16,
            "rollout_length": 64,
            "network.activation": "relu",
        },
        "mujoco": {
            "source": "the best of four settings on Hopper-v4, 2 seeds, 500,000 steps",
            "learning_rate": 3e-3,
            "max_grad_norm": 0.5,
            "num_envs": 16,
            "rollout_length": 64,
            "network.normalize_observation": True,
            "network.normalize_reward": True,
        },
    }

    def init(self, key, spec):
        return self.network.init(key, spec, adam(self.learning_rate))

    def start(self, state, batch_size):
        return self.network.start(state, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.network.act(state, timestep, carry, key, explore, self.gamma)

    def loss(self, params, state, batch, key):
        """-log pi(a|s) (R - b(s)), the baseline's error, and the entropy, on a whole rollout."""
        baseline = jax.lax.stop_gradient(self.network.values(state, batch))
        returns = jax.vmap(discounted_returns, in_axes=(1, 1, 1, 1, None), out_axes=1)(
            self.network.rewards(state, batch), batch.discount, batch.valid, baseline, self.gamma
        )
        batch = transitions(batch)
        policy, value = self.network.evaluate(params, state, batch)
        policy_loss = masked_mean(-policy.log_prob(batch.action) * (returns - baseline[:-1]), batch.valid)
        value_loss = masked_mean(l2(returns - value), batch.valid)
        entropy = masked_mean(policy.entropy(), batch.valid)
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return policy_loss + self.value_cost * value_loss - self.entropy_cost * entropy, metrics

    def learn(self, state, batch, key):
        new, metrics = gradient_step(
            self.loss, adam(self.learning_rate), state, batch, key, max_grad_norm=self.max_grad_norm
        )
        new = self.network.update_norm(new, batch)
        return new.replace(steps=state.steps + count_steps(batch)), metrics, ()
