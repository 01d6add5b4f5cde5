"""TD3: twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv 1802.09477).

DDPG overestimates values, and its policy finds and exploits where.  Three remedies: the smaller of two critics' values
is the target (clipped double Q-learning), the target's action is smeared so that narrow peaks do not count (target
policy smoothing), and the policy and the targets move once for several steps of the critics (delay).

Differs from ddpg: (1) two critics, of which the smaller value counts; (2) noise on the target's action; (3) the policy
and the targets move in every `policy_delay`-th gradient step, and then by the critics of before that step; (4) Gaussian
noise, after random actions at the start.

Symbols: mu policy, Q critics, mu' and Q' their targets, R and D return and discount of n steps.
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import jax

from operant import actor_q as aq
from operant.agent import agent, child, dial, option
from operant.gradient import count_steps
from operant.memory import PrioritizedReplay, Replay
from operant.ops.exploration import gaussian_noise

_CONTROL = {
    "source": "Fujimoto et al. 2018 as in its authors' code of 2020 (256-256, batches of 256, 25,000 random steps): "
    "one update for each step, here 4 after a step of 4 environments",
    "memory.capacity": 1_000_000,
    "memory.learning_starts": 25_000,
    "random_steps": 25_000,
}


@agent("td3")
class TD3:
    """Twin delayed DDPG: a deterministic policy for continuous actions, two critics, few environment steps."""

    actor_learning_rate: float = dial(3e-4, "Adam's step size for the policy", low=0.0)
    critic_learning_rate: float = dial(3e-4, "Adam's step size for the critics", low=0.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    tau: float = dial(0.005, "the targets' step towards policy and critics", low=0.0, high=1.0)
    target_noise: float = dial(0.2, "deviation of the noise on the target's action", low=0.0)
    noise_clip: float = dial(0.5, "the most that this noise may be", low=0.0)
    max_grad_norm: float = dial(inf, "norm at which each part's gradient is clipped; inf: off", low=0.0)
    policy_delay: int = option(2, "gradient steps for each of the policy and the targets", low=1)
    random_steps: int = option(1_000, "environment steps at the start with random actions", low=0)
    num_envs: int = option(4, "environments of one agent", low=1)
    rollout_length: int = option(1, "steps in each environment between updates", low=1)
    actor: aq.Policy = child(aq.Policy, "the policy's network")
    critic: aq.Critic = child(aq.Critic, "the critics' networks")
    noise: Any = child(aq.GaussianNoise, "what is added to the policy's action to explore", choices=aq.NOISES)
    memory: Any = child(
        Replay,
        "where transitions are kept",
        choices=(Replay, PrioritizedReplay),
        batch_size=256,
        updates_per_rollout=4,
    )

    actions: ClassVar = ("continuous",)
    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "small networks with a brisk step size; chosen, not tuned",
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "actor.hidden": (64, 64),
            "critic.hidden": (64, 64),
        },
        "mujoco": _CONTROL,
        "dmc": _CONTROL,
        "brax": _CONTROL,
    }

    def init(self, key, spec):
        actor_key, critic_key = jax.random.split(key)
        params = {
            "actor": self.actor.init(actor_key, spec, "deterministic"),
            "critic": self.critic.init(critic_key, spec, 2),
        }
        return aq.begin(params, spec, targets=("actor", "critic"))

    def start(self, state, batch_size):
        return self.noise.start(state.spec, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        action = self.actor.apply(state.params["actor"], state.spec, "deterministic", timestep.observation)
        if not explore:
            return action, carry, {}
        noise_key, random_key = jax.random.split(key)
        action, carry = self.noise.add(noise_key, action, carry, timestep.first)
        return aq.random_at_first(random_key, state, self.random_steps, action, timestep), carry, {}

    def observe(self, state, batch):
        return state.replace(steps=state.steps + count_steps(batch))

    def loss(self, params, state, batch, key):
        """Algorithm 1: (Q_i(s, a) - y)^2 for the critics, -Q_1(s, mu(s)) for the policy."""
        spec, target, fixed = state.spec, state.target, jax.lax.stop_gradient(params)
        step = aq.transition(batch, self.gamma)
        here, there = step.here[0], step.there[0]

        next_action = self.actor.apply(target["actor"], spec, "deterministic", there)
        next_action = gaussian_noise(key, next_action, self.target_noise, self.noise_clip)  # eq. 14
        next_q = self.critic.of(target["critic"], spec, there, next_action).min(0)  # eq. 10
        q = self.critic.of(params["critic"], spec, here, step.action)
        critic_loss, priority = step.regression(q, step.target(next_q))

        action = self.actor.apply(params["actor"], spec, "deterministic", here)
        first = jax.tree.map(lambda x: x[:1], fixed["critic"])
        actor_loss = -step.mean(self.critic.of(first, spec, here, action)[0])
        metrics = {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "q": step.mean(q.mean(0)),
            "priority": priority,
        }
        return critic_loss + actor_loss, metrics

    def learn(self, state, batch, key):
        rates = {"actor": self.actor_learning_rate, "critic": self.critic_learning_rate}
        return aq.learn(
            self.loss,
            state,
            batch,
            key,
            rates,
            max_grad_norm=self.max_grad_norm,
            tau=self.tau,
            target_period=self.policy_delay,
            actor_period=self.policy_delay,
        )
