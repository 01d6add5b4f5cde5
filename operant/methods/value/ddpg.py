"""DDPG: deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971).

Q-learning for continuous actions: the greedy action, which no one can search for, is the output of a second network,
which follows the critic's gradient through its action.  What the critic's value is, is a part handed over (a number, a
distribution); so are the noise and the memory.  `d4pg` is this agent with the parts of its paper.

Differs from dqn: (1) a deterministic policy takes the place of the argmax; (2) the targets of policy and critic follow
slowly instead of by copies; (3) noise on the action takes the place of epsilon.  Policy and critic are updated at once:
the policy follows the critic from before its step, where the paper updates the critic first.  Two things of the paper
are left out: batch normalisation, and the critic's weight decay.

Symbols: mu policy, Q critic, mu' and Q' their targets, R and D return and discount of n steps.
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import jax

from operant import action_value as av
from operant import actor_q as aq
from operant.agent import agent, child, dial, option
from operant.errors import UserError
from operant.gradient import count_steps
from operant.memory import PrioritizedReplay, Replay

HEADS = (av.Plain, av.Categorical, av.Quantile)

_CONTROL = {
    "source": "Lillicrap et al. 2016, section 7: one update for each step, here 4 after a step of 4 environments; "
    "random steps at the start as in Fujimoto et al. 2018",
    "memory.capacity": 1_000_000,
    "memory.learning_starts": 10_000,
    "random_steps": 10_000,
}


@agent("ddpg")
class DDPG:
    """Deep deterministic policy gradient: a deterministic policy for continuous actions, and one critic."""

    actor_learning_rate: float = dial(1e-4, "Adam's step size for the policy", low=0.0)
    critic_learning_rate: float = dial(1e-3, "Adam's step size for the critic", low=0.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    tau: float = dial(0.001, "the targets' step towards policy and critic", low=0.0, high=1.0)
    max_grad_norm: float = dial(inf, "norm at which each part's gradient is clipped; inf: off", low=0.0)
    target_period: int = option(1, "gradient steps between the targets' steps", low=1)
    random_steps: int = option(1_000, "environment steps at the start with random actions", low=0)
    num_envs: int = option(4, "environments of one agent", low=1)
    rollout_length: int = option(1, "steps in each environment between updates", low=1)
    actor: aq.Policy = child(aq.Policy, "the policy's network", hidden=(400, 300))
    critic: aq.Critic = child(aq.Critic, "the critic's network", hidden=(400, 300))
    head: Any = child(av.Plain, "what a value is", choices=HEADS, huber=inf)
    noise: Any = child(aq.OUNoise, "what is added to the policy's action to explore", choices=aq.NOISES)
    memory: Any = child(
        Replay, "where transitions are kept", choices=(Replay, PrioritizedReplay), batch_size=64, updates_per_rollout=4
    )

    actions: ClassVar = ("continuous",)
    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "small networks with a brisk step size; chosen, not tuned",
            "actor_learning_rate": 1e-3,
            "tau": 0.005,
            "actor.hidden": (64, 64),
            "critic.hidden": (64, 64),
        },
        "mujoco": _CONTROL,
        "dmc": _CONTROL,
        "brax": _CONTROL,
    }

    def check(self) -> None:
        if self.head.streams != 1:
            raise UserError(
                f"{self.registered_name}: head has {self.head.streams} streams, but a continuous action has no "
                "others beside it to be compared with; expected head.streams 1"
            )

    def init(self, key, spec):
        actor_key, critic_key = jax.random.split(key)
        params = {
            "actor": self.actor.init(actor_key, spec, "deterministic"),
            "critic": self.critic.init(critic_key, spec, 1, self.head.shape),
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

    def outputs(self, params, spec, observation, action):
        """What the critic's head says of an action."""
        return self.critic.of(params, spec, observation, action, self.head.shape)[0]

    def loss(self, params, state, batch, key):
        """The critic's error towards R + D Q'(s', mu'(s')) (eq. 4 and 5), and -Q(s, mu(s)) for the policy (eq. 6)."""
        spec, target, fixed = state.spec, state.target, jax.lax.stop_gradient(params)
        step = aq.transition(batch, self.gamma)
        here, there = step.here[0], step.there[0]

        next_action = self.actor.apply(target["actor"], spec, "deterministic", there)
        following = self.outputs(target["critic"], spec, there, next_action)
        outputs = self.outputs(params["critic"], spec, here, step.action)
        error, priority = self.head.loss(outputs, jax.lax.stop_gradient(following), step.reward, step.discount)
        critic_loss = step.mean(error * step.weight)

        action = self.actor.apply(params["actor"], spec, "deterministic", here)
        actor_loss = -step.mean(self.head.values(self.outputs(fixed["critic"], spec, here, action)))
        metrics = {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "q": step.mean(self.head.values(outputs)),
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
            target_period=self.target_period,
        )
