"""Q-learning and Sarsa from parallel environments (Mnih et al. 2016, arXiv 1602.01783, algorithms 1 and 2).

Many environments in step take the place of a replay memory: what they see at one time is varied enough to learn from
at once.  Three of the four methods of the paper are here, in their synchronous form (`a2c` is the fourth): one-step
Q-learning (`q_lambda` 0), one-step Sarsa (`q_lambda` 0, `following` sarsa) and n-step Q-learning (`q_lambda` 1, from
each step to the end of the rollout).

Differs from dqn: (1) no memory: each rollout is learned from once; (2) lambda-returns along the rollout; (3) an end of
epsilon for each environment.  Differs from the paper: the workers' gradients are averaged and applied together, where
theirs are applied one after another by whoever comes.

Symbols: Q values, Q' target network, G returns.
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import action_value as av
from operant.agent import agent, child, dial, option
from operant.gradient import count_steps, gradient_step
from operant.ops.losses import huber, masked_mean
from operant.ops.optimizers import rmsprop
from operant.ops.returns import lambda_returns
from operant.types import zeros


@agent("online-q")
class OnlineQ:
    """Q-learning and Sarsa without a memory, from parallel environments: discrete actions, cheap steps."""

    learning_rate: float = dial(7e-4, "RMSProp's step size at the start", low=0.0)
    anneal: float = dial(1.0, "share of the step size that is annealed away by the end", low=0.0, high=1.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    q_lambda: float = dial(1.0, "lambda of the returns; 0: one step, 1: to the rollout's end", low=0.0, high=1.0)
    max_grad_norm: float = dial(inf, "global norm at which the gradient is clipped; inf: off", low=0.0)
    following: str = option("max", "the next action: the best, or the one that was taken", choices=("max", "sarsa"))
    target_period: int = option(1_000, "environment steps between copies to the target network; 0: none", low=0)
    num_envs: int = option(16, "environments of one agent", low=1)
    rollout_length: int = option(5, "steps in each environment between updates (the n of n-step)", low=1)
    network: av.QNetwork = child(av.QNetwork, "the network of action values")
    head: Any = child(av.Plain, "what a value is", choices=(av.Plain, av.Dueling), huber=inf)
    exploration: Any = child(av.ByWorker, "the schedule of epsilon", choices=av.EXPLORATIONS)

    actions: ClassVar = ("discrete", "multi-discrete", "masked")
    takes: ClassVar = ("target",)  # what a batch may bring of its own, in extras
    presets: ClassVar[dict] = {
        "atari": {
            "source": "Mnih et al. 2016, section 8: the target network every 40,000 frames, epsilon over 4 million of "
            "the planned 40; not measured here",
            "target_period": 10_000,
            "max_grad_norm": 40.0,
        },
    }

    def optimizer(self, state=None):
        progress = state.progress if state is not None else 0.0
        return rmsprop(self.learning_rate * (1.0 - self.anneal * progress), decay=0.99, eps=1e-5)

    def init(self, key, spec):
        params = self.network.init(key, spec, self.head)
        zero = jnp.zeros((), jnp.int32)
        return av.TargetState(params, self.optimizer().init(params), zero, (), spec, params, zero)

    def start(self, state, batch_size):
        """Sarsa learns of a transition once the next action is known: the carry keeps where it began."""
        return zeros(state.spec.observation, (batch_size,)) if self.following == "sarsa" else ()

    def act(self, state, timestep, carry, key, explore=True):
        values = self.network.apply(state.params, state.spec, self.head, timestep.observation)
        epsilon = self.exploration.epsilon(state, timestep.env_index) if explore else 0.0
        action = av.choose_action(key, values, epsilon, timestep.action_mask, state.spec.action)
        if self.following == "max":
            return action, carry, {}
        arrived = {"reward": timestep.reward, "discount": timestep.discount, "action": timestep.previous_action}
        return action, timestep.observation, arrived

    def evaluate(self, params, state, batch):
        """As an actor-critic's: no policy, and the best action's value at every observation of the batch."""
        values = self.network.apply(params, state.spec, self.head, batch.observation)
        best = av.allowed_values(values, batch.action_mask, state.spec.action).argmax(-1)
        return (), _pick(values, best)  # finite also where an episode has ended and no action is allowed

    def rewards(self, state, batch):
        """The batch's rewards as they are learned from: as they are."""
        return batch.reward

    def returns(self, params, state, batch, taken=None):
        """G [T, B], bootstrapped from Q' at the best next action, or at the one taken: [T, B].

        A batch that brings targets of its own keeps them.
        """
        if "target" in batch.extras:
            return batch.extras["target"]
        frozen = jax.lax.stop_gradient(params if self.target_period == 0 else state.target)
        if taken is None:
            following = self.evaluate(frozen, state, batch)[1]
        else:
            values = self.network.apply(frozen, state.spec, self.head, batch.observation)
            following = _pick(values[1:], av.number_of(taken, state.spec.action))
            following = jnp.concatenate([following[:1], following])  # the first row is the value of nothing
        columns = (batch.reward, batch.discount, batch.valid, following, self.gamma, self.q_lambda)
        return jax.vmap(lambda_returns, (1, 1, 1, 1, None, None), 1)(*columns)

    def loss(self, params, state, batch, key):
        """(G - Q(s, a))^2: algorithms 1 and 2, as losses."""
        taken = None
        if self.following == "sarsa":
            batch, taken = self._one_step_earlier(batch)
        returns = self.returns(params, state, batch, taken)
        values = self.network.apply(params, state.spec, self.head, batch.observation)
        chosen = _pick(values[:-1], av.number_of(batch.action, state.spec.action))
        metrics = {"q": masked_mean(chosen, batch.valid)}
        return masked_mean(huber(returns - chosen, self.head.huber), batch.valid), metrics

    def _one_step_earlier(self, batch):
        """The transitions that arrived at each observation of the batch, and the actions taken there."""
        earlier = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y[:-1]]), batch.carry, batch.observation)
        arrived = batch.extras
        return batch.replace(
            observation=earlier, action=arrived["action"], reward=arrived["reward"], discount=arrived["discount"],
            valid=1.0 - batch.first[:-1],
        ), batch.action  # fmt: skip

    def learn(self, state, batch, key):
        new, metrics = gradient_step(
            self.loss, self.optimizer(state), state, batch, key, max_grad_norm=self.max_grad_norm
        )
        new = new.replace(steps=state.steps + count_steps(batch))
        return av.copy_when_due(new, self.target_period), metrics, ()


def _pick(values, action):
    """values[..., action]: [T, B, A] and [T, B] -> [T, B]."""
    return jnp.take_along_axis(values, action[..., None], -1)[..., 0]
