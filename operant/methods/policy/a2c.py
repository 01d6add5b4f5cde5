"""A2C: advantage actor-critic, the synchronous form of A3C (Mnih et al. 2016, arXiv 1602.01783).

Many environments in step take the place of A3C's asynchronous workers: their experience is decorrelated enough to
learn from each short rollout once, without a memory, with one gradient step on actor, critic and entropy together.

Differs from reinforce: (1) bootstraps from V after a few steps instead of waiting for the episode's return;
(2) RMSProp takes the place of Adam.

Symbols: pi policy, V value, G n-step return, A = G - V advantage, H entropy.
"""

from __future__ import annotations

from typing import ClassVar

from operant.actor_critic import ActorCritic, explained_variance
from operant.agent import agent, child, dial, option
from operant.gradient import State, count_steps, gradient_step
from operant.ops.losses import l2, masked_mean
from operant.ops.optimizers import rmsprop


@agent("a2c")
class A2C:
    """Advantage actor-critic: one small step after each short rollout of many environments."""

    learning_rate: float = dial(7e-4, "RMSProp's step size at the start", low=0.0)
    anneal: float = dial(0.0, "share of the step size that is annealed away by the end", low=0.0, high=1.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    gae_lambda: float = dial(1.0, "lambda of the advantage estimate; 1: n-step returns", low=0.0, high=1.0)
    entropy_cost: float = dial(0.01, "weight of the entropy bonus", low=0.0)
    value_cost: float = dial(0.5, "weight of the value loss", low=0.0)
    max_grad_norm: float = dial(0.5, "global norm at which the gradient is clipped; inf: off", low=0.0)
    num_envs: int = option(16, "environments of one agent", low=1)
    rollout_length: int = option(5, "steps in each environment between updates (the n of n-step)", low=1)
    bootstrap: bool = option(True, "let the value stand for what comes behind a rollout; off: nothing does")
    network: ActorCritic = child(ActorCritic, "policy and value networks, normalisers")

    takes: ClassVar = ("target", "advantage")  # what a batch may bring of its own, in extras
    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "the best of five settings on CartPole-v1, 8 seeds (others than those of the results)",
            "anneal": 1.0,
            "network.normalize_reward": True,
        },
        "minatar": {
            "source": "among the best of seven settings on Breakout-MinAtar, 4 seeds (not those of the results)",
            "learning_rate": 2e-3,
            "anneal": 1.0,
            "network.torso": "mlp",
            "network.activation": "relu",
        },
        "atari": {
            "source": "the A2C of Wu et al. 2017 (arXiv 1708.05144): the defaults, annealed; not measured here",
            "anneal": 1.0,
            "network.activation": "relu",
        },
        "mujoco": {
            "source": "the defaults, annealed, with PPO's normalisation and no entropy bonus; not measured here",
            "anneal": 1.0,
            "entropy_cost": 0.0,
            "network.normalize_observation": True,
            "network.normalize_reward": True,
        },
    }

    def optimizer(self, state: State | None = None):
        progress = state.progress if state is not None else 0.0
        return rmsprop(self.learning_rate * (1.0 - self.anneal * progress), decay=0.99, eps=1e-5)

    def init(self, key, spec):
        return self.network.init(key, spec, self.optimizer())

    def start(self, state, batch_size):
        return self.network.start(state, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.network.act(state, timestep, carry, key, explore, self.gamma)

    def loss(self, params, state, batch, key):
        """Policy gradient, value error and entropy of section 4, on a rollout or transitions of one."""
        batch = self.network.rows(state, batch, self.gamma, self.gae_lambda, self.bootstrap)
        policy, value = self.network.evaluate(params, state, batch)
        extras, valid = batch.extras, batch.valid
        policy_loss = masked_mean(-policy.log_prob(batch.action) * extras["advantage"], valid)
        value_loss = masked_mean(l2(extras["target"] - value), valid)
        entropy = masked_mean(policy.entropy(), valid)
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "explained_variance": explained_variance(extras["value"], extras["target"], valid),
        }
        return policy_loss + self.value_cost * value_loss - self.entropy_cost * entropy, metrics

    def learn(self, state, batch, key):
        new, metrics = gradient_step(
            self.loss, self.optimizer(state), state, batch, key, max_grad_norm=self.max_grad_norm
        )
        new = self.network.update_norm(new, batch)
        return new.replace(steps=state.steps + count_steps(batch)), metrics, ()
