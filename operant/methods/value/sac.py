"""SAC: soft actor-critic (Haarnoja et al. 2018, arXiv 1801.01290, and 1812.05905; discrete: Christodoulou 2019).

The return that is maximised has the policy's entropy in it, at a price alpha (the temperature), which is learned so
that the entropy stays at a target.  The policy follows the gradient of the smaller of two critics: through its action
where actions are continuous (a tanh-Gaussian), and where they are discrete through the exact expectation over all
joint actions (arXiv 1910.07207), so that nothing is sampled.

Differs from dqn: (1) a policy, stochastic and learned, takes the place of the greedy action, so that actions may be
continuous; (2) values are soft; (3) the smaller of two critics counts; (4) targets follow slowly instead of by copies.
Policy, critics and temperature are updated from the same parameters, in one backward pass.

Symbols: pi policy, Q critics, Q' their targets, alpha temperature, H entropy, R and D return and discount of n steps.
"""

from __future__ import annotations

import math
from math import inf
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import action_value as av
from operant import actor_q as aq
from operant.agent import agent, child, dial, option
from operant.gradient import count_steps
from operant.memory import PrioritizedReplay, Replay
from operant.types import Box

_CONTROL = {
    "source": "Haarnoja et al. 2018 (1812.05905), table 1: one update for each step, here 4 after a step of 4 "
    "environments; 5,000 random steps",
    "memory.capacity": 1_000_000,
    "memory.learning_starts": 5_000,
    "random_steps": 5_000,
}


@agent("sac")
class SAC:
    """Soft actor-critic: few environment steps, continuous and discrete actions, no noise to be tuned."""

    actor_learning_rate: float = dial(3e-4, "Adam's step size for the policy", low=0.0)
    critic_learning_rate: float = dial(3e-4, "Adam's step size for the critics", low=0.0)
    alpha_learning_rate: float = dial(3e-4, "Adam's step size for log alpha; 0: alpha stays as it is", low=0.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    tau: float = dial(0.005, "the targets' step towards the critics", low=0.0, high=1.0)
    alpha: float = dial(1.0, "the temperature at the start", low=1e-8)
    entropy_per_dimension: float = dial(-1.0, "target entropy of continuous actions, nats a dimension", high=0.69)
    entropy_share: float = dial(0.89, "target entropy of discrete actions, of the largest one", low=0.0, high=1.0)
    max_grad_norm: float = dial(inf, "norm at which each part's gradient is clipped; inf: off", low=0.0)
    target_period: int = option(1, "gradient steps between the targets' steps", low=1)
    random_steps: int = option(1_000, "environment steps at the start with random actions", low=0)
    num_envs: int = option(4, "environments of one agent", low=1)
    rollout_length: int = option(1, "steps in each environment between updates", low=1)
    actor: aq.Policy = child(aq.Policy, "the policy's network")
    critic: aq.Critic = child(aq.Critic, "the critics' networks")
    memory: Any = child(
        Replay,
        "where transitions are kept",
        choices=(Replay, PrioritizedReplay),
        batch_size=256,
        updates_per_rollout=4,
    )

    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "small networks with a brisk step size; chosen, not tuned",
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "alpha_learning_rate": 1e-3,
            "actor.hidden": (64, 64),
            "critic.hidden": (64, 64),
        },
        "mujoco": _CONTROL,
        "dmc": _CONTROL,
        "brax": _CONTROL,
        "atari": {
            "source": "Christodoulou 2019 with the target entropy, copies and batches of CleanRL's sac_atari; the "
            "layer of 512 belongs to the encoder",
            "tau": 1.0,
            "target_period": 2_000,
            "random_steps": 20_000,
            "actor.hidden": (),
            "critic.hidden": (),
            "memory.batch_size": 64,
            "memory.learning_starts": 20_000,
            "memory.updates_per_rollout": 1,
        },
    }

    def init(self, key, spec):
        actor_key, critic_key = jax.random.split(key)
        params = {
            "actor": self.actor.init(actor_key, spec, "squashed"),
            "critic": self.critic.init(critic_key, spec, 2),
            "log_alpha": jnp.log(jnp.asarray(self.alpha, jnp.float32)),
        }
        return aq.begin(params, spec, targets=("critic",))

    def start(self, state, batch_size):
        return ()

    def act(self, state, timestep, carry, key, explore=True):
        policy = self.policy(state.params, state.spec, (timestep.observation, timestep.action_mask))
        if not explore:
            return policy.mode(), (), {}
        act_key, random_key = jax.random.split(key)
        action = aq.random_at_first(random_key, state, self.random_steps, policy.sample(act_key), timestep)
        return action, (), {}

    def observe(self, state, batch):
        return state.replace(steps=state.steps + count_steps(batch))

    def policy(self, params, spec, place):
        """pi(. | s) at an observation with its mask."""
        return self.actor.apply(params["actor"], spec, "squashed", *place)

    def expected(self, policy, critics, spec, place, key, values=None):
        """E_pi[min Q] and E_pi[log pi]: by one sampled action, or exactly by the values [2, S, A] of all."""
        if isinstance(spec.action, Box):
            action, log_prob = policy.sample_and_log_prob(key)
            return self.critic.of(critics, spec, place[0], action).min(0), log_prob
        values = self.critic.all(critics, spec, place[0]) if values is None else values
        log_probs = aq.joint_log_probs(policy)
        probs = jnp.exp(log_probs)
        return jnp.sum(probs * values.min(0), -1), jnp.sum(probs * log_probs, -1)

    def target_entropy(self, spec, mask):
        """The entropy that alpha keeps the policy at, in nats."""
        if isinstance(spec.action, Box):
            return self.entropy_per_dimension * math.prod(spec.action.shape)
        if mask is None:
            return self.entropy_share * math.log(av.num_actions(spec.action))
        return self.entropy_share * jnp.log(jnp.maximum(av.joint_mask(mask, spec.action).sum(-1), 1))

    def loss(self, params, state, batch, key):
        """J_Q (eq. 5) + J_pi (eq. 7) + J(alpha) (eq. 18 of 1812.05905), each with a gradient for its own part only."""
        spec, (next_key, here_key) = state.spec, jax.random.split(key)
        step, fixed = aq.transition(batch, self.gamma), jax.lax.stop_gradient(params)
        alpha, target = jnp.exp(fixed["log_alpha"]), state.target["critic"]

        next_policy = self.policy(fixed, spec, step.there)
        next_q, next_log_prob = self.expected(next_policy, target, spec, step.there, next_key)
        if isinstance(spec.action, Box):
            values, q = None, self.critic.of(params["critic"], spec, step.here[0], step.action)
        else:  # one pass for both losses
            values = self.critic.all(params["critic"], spec, step.here[0])
            q = aq.chosen(values, step.action, spec.action)
        critic_loss, priority = step.regression(q, step.target(next_q - alpha * next_log_prob))

        policy, values = self.policy(params, spec, step.here), jax.lax.stop_gradient(values)
        best_q, log_prob = self.expected(policy, fixed["critic"], spec, step.here, here_key, values)
        actor_loss = step.mean(alpha * log_prob - best_q)

        entropy = -jax.lax.stop_gradient(log_prob)
        excess = step.mean(entropy - self.target_entropy(spec, step.here[1]))
        alpha_loss = params["log_alpha"] * excess
        metrics = {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "q": step.mean(q.mean(0)),
            "entropy": step.mean(entropy),
            "alpha": alpha,
            "priority": priority,
        }
        return critic_loss + actor_loss + alpha_loss, metrics

    def learn(self, state, batch, key):
        rates = {
            "actor": self.actor_learning_rate,
            "critic": self.critic_learning_rate,
            "log_alpha": self.alpha_learning_rate,
        }
        return aq.learn(
            self.loss,
            state,
            batch,
            key,
            rates,
            max_grad_norm=self.max_grad_norm,
            tau=self.tau,
            target_period=self.target_period,
        )
