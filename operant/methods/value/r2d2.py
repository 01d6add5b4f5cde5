"""R2D2: recurrent experience replay in distributed reinforcement learning (Kapturowski et al. 2019, ICLR).

Q-learning with memory, from sequences in a replay memory.  The recurrent state that a sequence began in was computed by
older parameters, so it is stored with the sequence and then brought up to date: the network is run over the sequence's
first transitions, the burn-in, from which nothing is learned.  Values are learned on a squashed scale, h(Q), so that
rewards need no clipping, and a sequence's priority mixes its largest error with its mean one (section 2.3).

Differs from dqn: (1) the network is recurrent, (2) the memory holds sequences with their recurrent states and burns
them in, online and target network each by its own parameters, (3) every transition after the burn-in is learned from,
towards n rewards and then h^-1 of the target network's value, all under h, and (4) double targets, a dueling head,
priorities and an epsilon for each environment are the rule.

Differs from the paper: actors and learner take turns on one machine; sequences may run over the end of an episode
(the state is reset there, no return crosses it, and the row across it is not learned from); the last n transitions of
a sequence are learned from too, with the fewer rewards that there are; new sequences get the largest priority so far
instead of one computed by their actor; and the loss is a mean over transitions, which Adam scales away.  The paper's
network also reads the previous action and reward: here the environment's option `previous_action_reward` puts them into
the observation, for whichever method.

Symbols: Q action values (on the scale of h), Q' those of the target network, delta = target - Q(s_t, a_t), eta the
share of the largest |delta| in the priority.
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import action_value as av
from operant.agent import agent, child, dial, option
from operant.gradient import count_steps, gradient_step
from operant.memory import SequenceReplay
from operant.ops.losses import huber, masked_mean
from operant.ops.optimizers import adam
from operant.ops.returns import n_step_returns, value_rescale, value_unrescale

_SHORT = {
    "source": "short sequences and a small network for tasks of few numbers; of two values of eps the better on "
    "CartPole-v1, 4 seeds (the other value had those of the results), the rest not tuned",
    "learning_rate": 1e-3,
    "eps": 1e-5,
    "target_period": 1_000,
    "rollout_length": 8,
    "network.hidden": (32, 32),
    "network.recurrent_size": 32,
    "memory.length": 24,
    "memory.burn_in": 8,
    "memory.batch_size": 32,
    "memory.learning_starts": 1_000,
    "memory.updates_per_rollout": 2,
}


@agent("r2d2")
class R2D2:
    """Recurrent Q-learning from replayed sequences: discrete actions in tasks that must be remembered."""

    learning_rate: float = dial(1e-4, "Adam's step size", low=0.0)
    gamma: float = dial(0.997, "discount factor", low=0.0, high=1.0)
    eps: float = dial(1e-3, "Adam's epsilon", low=0.0)
    max_grad_norm: float = dial(40.0, "global norm at which the gradient is clipped; inf: off", low=0.0)
    eta: float = dial(0.9, "share of the largest error in a sequence's priority, beside the mean", low=0.0, high=1.0)
    linear: float = dial(
        1e-3, "epsilon of h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x, the scale of values", low=0.0
    )
    n_step: int = option(5, "rewards before the target bootstraps", low=1)
    start_state: str = option(
        "stored", "what a sequence is begun in: the state that was stored with it, or zero", choices=("stored", "zero")
    )
    target_period: int = option(10_000, "environment steps between copies to the target network; 0: none", low=0)
    num_envs: int = option(16, "environments of one agent", low=1)
    rollout_length: int = option(40, "steps in each environment between updates; sequences begin where they do", low=1)
    network: Any = child(av.RecurrentQNetwork, "the network of action values", choices=(av.RecurrentQNetwork,))
    head: Any = child(av.Dueling, "what a value is", choices=(av.Plain, av.Dueling), huber=inf)
    target: Any = child(av.Double, "which next action counts", choices=av.TARGETS)
    exploration: Any = child(av.ByIndex, "the schedule of epsilon", choices=av.EXPLORATIONS)
    memory: Any = child(SequenceReplay, "where sequences are kept", choices=(SequenceReplay,), learning_starts=5_000)

    actions: ClassVar = ("discrete", "multi-discrete", "masked")
    presets: ClassVar[dict] = {
        "classic_control": {
            **_SHORT,
            "target_period": 500,
            "memory.updates_per_rollout": 4,
            "network.hidden": (64, 64),
        },
        "bsuite": _SHORT,
        "minatar": {
            "source": "the paper's, with the step size, the lengths and the state of a small task; chosen, not tuned",
            "learning_rate": 3e-4,
            "eps": 1e-5,
            "num_envs": 32,
            "rollout_length": 16,
            "memory.length": 48,
            "memory.burn_in": 16,
            "memory.capacity": 200_000,
            "memory.updates_per_rollout": 4,
        },
        "atari": {
            "source": "Kapturowski et al. 2019, table 2, for one machine: 64 actors instead of 256, a quarter of the "
            "memory, a target of 2,500 updates; its environment options are reward_clip=false, "
            "previous_action_reward=true",
            "num_envs": 64,
            "target_period": 3_200_000,
            "network.recurrent_size": 512,
            "memory.capacity": 1_000_000,
            "memory.learning_starts": 50_000,
            "memory.updates_per_rollout": 2,
        },
    }

    def optimizer(self):
        return adam(self.learning_rate, eps=self.eps)

    def init(self, key, spec):
        params = self.network.init(key, spec, self.head)
        zero = jnp.zeros((), jnp.int32)
        return av.TargetState(params, self.optimizer().init(params), zero, (), spec, params, zero)

    def start(self, state, batch_size):
        return self.network.start(state.spec, self.head, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        act_key, noise_key = jax.random.split(key)
        spec, noise = state.spec, noise_key if explore else None
        observation, first = jax.tree.map(lambda x: x[None], (timestep.observation, timestep.first))
        q, carry = self.network.unroll(state.params, spec, self.head, observation, carry, first, noise)
        epsilon = self.exploration.epsilon(state, timestep.env_index) if explore else 0.0
        return av.choose_action(act_key, q[0], epsilon, timestep.action_mask, spec.action), carry, {}

    def observe(self, state, batch):
        return av.copy_when_due(state.replace(steps=state.steps + count_steps(batch)), self.target_period)

    def values(self, params, spec, batch, noise):
        """Q of all observations after the burn-in [M+1, S, A], from the state that the burn-in leads to."""
        burn_in, seen = self.memory.burn_in, (batch.observation, batch.first)
        carry = batch.carry if self.start_state == "stored" else jax.tree.map(jnp.zeros_like, batch.carry)
        if burn_in:
            observation, first = jax.tree.map(lambda x: x[:burn_in], seen)
            frozen = jax.lax.stop_gradient(params)
            carry = self.network.unroll(frozen, spec, self.head, observation, carry, first, noise)[1]
        observation, first = jax.tree.map(lambda x: x[burn_in:], seen)
        return self.network.unroll(params, spec, self.head, observation, carry, first, noise)[0]

    def loss(self, params, state, batch, key):
        """delta_t = h(sum_k gamma^k r_{t+k} + gamma^n h^-1(Q'(s_{t+n}, argmax_a Q))) - Q(s_t, a_t), section 2.3."""
        spec, (online_key, target_key) = state.spec, jax.random.split(key)
        q = self.values(params, spec, batch, online_key)
        frozen = jax.lax.stop_gradient(params if self.target_period == 0 else state.target)
        following = self.values(frozen, spec, batch, target_key)
        action, reward, discount, valid, mask = jax.tree.map(
            lambda x: x[self.memory.burn_in :],
            (av.number_of(batch.action, spec.action), batch.reward, batch.discount, batch.valid, batch.action_mask),
        )
        pick = lambda q, action: jnp.take_along_axis(q, action[..., None], axis=-1)[..., 0]  # noqa: E731
        allowed = lambda q: av.allowed_values(q, mask, spec.action)  # noqa: E731
        best = self.target.choose(allowed(following), allowed(jax.lax.stop_gradient(q)))
        bootstrap = value_unrescale(pick(following, best), self.linear)
        returns = jax.vmap(lambda *rows: n_step_returns(*rows, self.gamma, self.n_step), in_axes=1, out_axes=1)
        target = value_rescale(returns(reward, discount, valid, bootstrap), self.linear)
        chosen = pick(q[:-1], action)
        error = target - chosen
        size = jnp.abs(error) * valid
        priority = self.eta * size.max(0) + (1.0 - self.eta) * size.sum(0) / jnp.maximum(valid.sum(0), 1.0)
        weight = 1.0 if batch.weight is None else batch.weight
        metrics = {"q": masked_mean(chosen, valid), "error": masked_mean(size, valid), "priority": priority}
        return masked_mean(weight * huber(error, self.head.huber), valid), metrics

    def learn(self, state, batch, key):
        new, metrics = gradient_step(self.loss, self.optimizer(), state, batch, key, max_grad_norm=self.max_grad_norm)
        priority = metrics.pop("priority")
        return new, metrics, priority
