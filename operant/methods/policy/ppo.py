"""PPO: Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347).

Several epochs of minibatch descent on each rollout, made safe by a surrogate objective that stops paying once the
probability ratio has left [1 - clip, 1 + clip].  The details that matter (Huang et al. 2022, "The 37 implementation
details of PPO") are here: orthogonal initialisation, advantages standardised per minibatch, Adam with eps 1e-5, a step
size annealed to 0, a clipped value loss, the gradient's global norm clipped, normalised observations and rewards.

Differs from a2c: (1) the clipped surrogate takes the place of log pi * A, which allows (2) epochs of minibatches on
one rollout; (3) the value loss is clipped; (4) Adam, annealed, takes the place of RMSProp.

Symbols: pi policy, V value, A advantage, G = A + V value target, r = pi / pi_old probability ratio, H entropy.
"""

from __future__ import annotations

from math import inf
from typing import ClassVar

import jax.numpy as jnp

from operant.actor_critic import ActorCritic, explained_variance
from operant.agent import agent, child, dial, option
from operant.errors import UserError
from operant.gradient import State, count_steps, gradient_step
from operant.ops.losses import (
    clipped_surrogate,
    clipped_value_loss,
    masked_standardize,
    mean_weights,
    weighted_sum,
)
from operant.ops.optimizers import adam
from operant.types import transitions

_CONTROL = {
    "source": "Schulman et al. 2017, table 3 (2048 steps, 10 epochs, minibatches of 64), normalised as in Huang et al.",
    "learning_rate": 3e-4,
    "value_clip": inf,
    "entropy_cost": 0.0,
    "num_envs": 8,
    "rollout_length": 256,
    "num_epochs": 10,
    "num_minibatches": 32,
    "network.normalize_observation": True,
    "network.normalize_reward": True,
}


@agent("ppo")
class PPO:
    """Proximal Policy Optimization: the on-policy agent to try first, for discrete and continuous actions alike."""

    learning_rate: float = dial(2.5e-4, "Adam's step size at the start", low=0.0)
    anneal: float = dial(1.0, "share of the step size that is annealed away by the end", low=0.0, high=1.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    gae_lambda: float = dial(0.95, "lambda of generalised advantage estimation", low=0.0, high=1.0)
    clip: float = dial(0.2, "how far the probability ratio may move from 1", low=0.0)
    value_clip: float = dial(0.2, "how far a value may move from the one that acted; inf: off", low=0.0)
    entropy_cost: float = dial(0.01, "weight of the entropy bonus", low=0.0)
    value_cost: float = dial(0.5, "weight of the value loss", low=0.0)
    max_grad_norm: float = dial(0.5, "global norm at which the gradient is clipped; inf: off", low=0.0)
    num_envs: int = option(8, "environments of one agent", low=1)
    rollout_length: int = option(128, "steps in each environment between updates", low=1)
    num_epochs: int = option(4, "passes over each rollout", low=1)
    num_minibatches: int = option(4, "parts each pass is cut into", low=1)
    network: ActorCritic = child(ActorCritic, "policy and value networks, normalisers")

    takes: ClassVar = ("target", "advantage")  # what a batch may bring of its own, in extras
    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "the best of six settings on CartPole-v1, 8 seeds (others than those of the results)",
            "learning_rate": 1e-3,
            "value_clip": inf,
            "network.normalize_reward": True,
        },
        "Pendulum-v1": {
            "source": "classic_control with the usual changes for control; the better of two settings, 8 seeds",
            "learning_rate": 1e-3,
            "value_clip": inf,
            "entropy_cost": 0.0,
            "network.normalize_reward": True,
            "network.normalize_observation": True,
        },
        "bsuite": {
            "source": "short rollouts of many environments, recurrent networks too; chosen, not tuned",
            "learning_rate": 1e-3,
            "value_clip": inf,
            "num_envs": 64,
            "rollout_length": 16,
        },
        "minatar": {
            "source": "PureJaxRL's settings for MinAtar (Lu et al. 2022), without value clipping",
            "learning_rate": 5e-3,
            "value_clip": inf,
            "num_envs": 64,
            "num_minibatches": 8,
            "network.torso": "mlp",
            "network.activation": "relu",
        },
        "atari": {
            "source": "Schulman et al. 2017, table 5, with the clip of Huang et al. 2022",
            "clip": 0.1,
            "value_clip": 0.1,
            "network.activation": "relu",
        },
        "mujoco": {
            **_CONTROL,
            "source": "Schulman et al. 2017, table 3, normalised; rollouts and gamma: the best of three settings on "
            "Hopper-v4, 5 seeds (others than those of the results)",
            "gamma": 0.995,
            "num_envs": 4,
            "rollout_length": 512,
        },
        "dmc": _CONTROL,
        "brax": _CONTROL,
    }

    def check(self) -> None:
        rows, unit = self.num_envs * self.rollout_length, "num_envs * rollout_length"
        if self.network.recurrent:
            rows, unit = self.num_envs, "num_envs (recurrent networks learn from whole sequences)"
        if rows % self.num_minibatches:
            raise UserError(f"ppo: num_minibatches {self.num_minibatches} does not divide {unit} = {rows}")

    def optimizer(self, state: State | None = None):
        progress = state.progress if state is not None else 0.0
        return adam(self.learning_rate * (1.0 - self.anneal * progress), eps=1e-5)

    def init(self, key, spec):
        return self.network.init(key, spec, self.optimizer())

    def start(self, state, batch_size):
        return self.network.start(state, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.network.act(state, timestep, carry, key, explore, self.gamma)

    def prepare(self, minibatch):
        """Advantages standardised over the minibatch, and the weights of its rows in means."""
        advantage = masked_standardize(minibatch.extras["advantage"], minibatch.valid)
        extras = {**minibatch.extras, "advantage": advantage, "weight": mean_weights(minibatch.valid)}
        return minibatch.replace(extras=extras)

    def loss(self, params, state, batch, key):
        """The objective of eq. 9, with sign turned, on a minibatch or a whole rollout."""
        batch = self.network.rows(state, batch, self.gamma, self.gae_lambda)
        if "weight" not in batch.extras:
            batch = self.prepare(batch)
        policy, value = self.network.evaluate(params, state, batch)
        extras = batch.extras

        def mean(x):
            return weighted_sum(x, extras["weight"])

        log_prob, entropy = policy.log_prob(batch.action), mean(policy.entropy())
        surrogate = mean(clipped_surrogate(log_prob, extras["log_prob"], extras["advantage"], self.clip))  # eq. 7
        value_loss = mean(clipped_value_loss(value, extras["value"], extras["target"], self.value_clip))
        log_ratio = log_prob - extras["log_prob"]
        metrics = {
            "policy_loss": surrogate,
            "value_loss": value_loss,
            "entropy": entropy,
            "approximate_kl": mean(jnp.expm1(log_ratio) - log_ratio),
            "clip_fraction": mean(1.0 * (jnp.abs(jnp.expm1(log_ratio)) > self.clip)),
        }
        return surrogate + self.value_cost * value_loss - self.entropy_cost * entropy, metrics  # eq. 9

    def learn(self, state, batch, key):
        batch = self.network.with_advantages(state, batch, self.gamma, self.gae_lambda)
        extras = batch.extras
        new, metrics = gradient_step(
            self.loss,
            self.optimizer(state),
            state,
            transitions(batch),
            key,
            max_grad_norm=self.max_grad_norm,
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
            whole_sequences=bool(self.network.recurrent),
            prepare=self.prepare,
        )
        metrics["explained_variance"] = explained_variance(extras["value"], extras["target"], batch.valid)
        new = self.network.update_norm(new, batch)
        return new.replace(steps=state.steps + count_steps(batch)), metrics, ()
