"""LIRPG: intrinsic rewards learned for policy gradients (Zheng, Oh and Singh 2018, arXiv 1804.06459).

A network pays a bonus r_in(s, a) of its own beside the task's reward, and the agent learns from the mixture.  Was the
bonus any good?  The policy that a step led to is judged on the same experience by the task's reward alone, and the
gradient of that judgement goes back through the step to the network.  Every minibatch moves both, from the same theta.

Differs from its base agent (a2c or ppo): (1) rewards are c_ex r + c_in r_in; (2) each of its steps is differentiated
with respect to the bonus; (3) a second value function, of the task's reward alone, serves the judgement (algorithm 1).
Rewards that the base agent normalises are mixed after that: r_in is in their units, and no part of their deviation.
Reward network and second value function see one observation, also where the base agent has a memory.

Symbols: theta the base agent, theta' = theta after the step, eta the weights of r_in and of v_ex, r the task's reward,
v_mix and v_ex values of the mixed and of the task's rewards, A_mix and A_ex the advantages over them.
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import nn, portraits
from operant.actor_critic import advantages, normalize
from operant.actor_q import Critic
from operant.agent import agent, child, dial, option
from operant.errors import UserError
from operant.gradient import count_steps, descend, over_minibatches
from operant.meta import MetaState
from operant.methods.policy.a2c import A2C
from operant.methods.policy.ppo import PPO
from operant.ops import parallel
from operant.ops.losses import clipped_surrogate, clipped_value_loss, masked_mean, masked_standardize
from operant.ops.optimizers import adam, rmsprop
from operant.types import transitions, zeros


@agent("lirpg")
class LIRPG:
    """Learns a reward of its own for A2C or PPO, by the gradient of the task's return through each of their steps."""

    meta_learning_rate: float = dial(1e-4, "the step size for eta at the start; annealed as the agent's", low=0.0)
    extrinsic_scale: float = dial(1.0, "weight of the task's reward in what the policy learns from (c_ex)", low=0.0)
    intrinsic_scale: float = dial(0.01, "weight of the learned reward beside it (c_in, the paper's lambda)", low=0.0)
    value_cost: float = dial(0.5, "weight of the second value function's loss beside the judgement", low=0.0)
    max_grad_norm: float = dial(0.5, "global norm at which eta's gradient is clipped; inf: off", low=0.0)
    meta_optimizer: str = option("adam", "optimizer of eta", choices=("adam", "rmsprop"))
    statistics: str = option(
        "auto", "the inner optimizer's running squares to the derivative; auto: constant for ppo (Adam), "
        "differentiated for a2c (RMSProp)", choices=("auto", "constant", "differentiated"),
    )  # fmt: skip
    reward: Critic = child(Critic, "layers of the reward network and of v_ex", hidden=(64, 64), activation="tanh")
    agent: Any = child(PPO, "the agent that learns from the mixed reward: a2c or ppo")

    presets: ClassVar[dict] = {
        "atari": {
            "source": "the authors' settings for A2C; not measured here",
            "meta_learning_rate": 7e-4,
            "value_cost": 0.1,
            "meta_optimizer": "rmsprop",
            "reward.hidden": (512,),
            "reward.activation": "relu",
        },
        "mujoco": {
            "source": "the authors' settings for PPO, whose policy sees no task reward; not measured here",
            "extrinsic_scale": 0.0,
            "intrinsic_scale": 1.0,
        },
        "classic_control": {
            "source": "as mujoco, with the task's reward kept; chosen, not tuned",
            "meta_learning_rate": 3e-4,
            "intrinsic_scale": 0.1,
        },
    }

    def check(self):
        if not isinstance(self.agent, (A2C, PPO)):
            name = getattr(self.agent, "registered_name", type(self.agent).__name__)
            raise UserError(f"lirpg: agent is {name}; expected a2c or ppo, whose step it differentiates")

    # --------------------------------------------------------------------------------------------------- as its base
    def optimizer(self, theta=None):
        rate = self.meta_learning_rate * (1.0 - self.agent.anneal * (0.0 if theta is None else theta.progress))
        return adam(rate, eps=1e-5) if self.meta_optimizer == "adam" else rmsprop(rate, decay=0.99, eps=1e-5)

    def init(self, key, spec):
        agent_key, reward_key, value_key = jax.random.split(key, 3)
        value = self._value(spec).init(value_key, zeros(spec.observation, (1,)))["params"]
        eta = {"reward": self.reward.init(reward_key, spec, 1), "value": value}
        return MetaState.begin(self.agent.init(agent_key, spec), eta, self.optimizer())

    def start(self, state, batch_size):
        return self.agent.start(state.agent, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.agent.act(state.agent, timestep, carry, key, explore)

    # ------------------------------------------------------------------------------------------------ r_in, v_ex, A
    def _value(self, spec):
        return nn.Critic(spec.observation, 0, (), self.reward.torso, self.reward.hidden, self.reward.activation)

    def _seen(self, theta, observation):
        if not self.agent.network.normalize_observation:
            return observation
        return normalize(observation, theta.norm.observation, theta.spec.observation, clip=10.0)

    def task_value(self, eta, theta, observation):
        """v_ex of every observation [*B, ...] -> [*B]"""
        return self._value(theta.spec).apply({"params": eta["value"]}, self._seen(theta, observation))

    def paid(self, eta, theta, observation, action):
        """r_in(s, a) in [-1, 1] of observations and actions [*B, ...] -> [*B]"""
        return jnp.tanh(self.reward.of(eta["reward"], theta.spec, self._seen(theta, observation), action)[0])

    def intrinsic(self, eta, theta, batch):
        """r_in of every transition -> [T, B], 0 where it is no experience."""
        return self.paid(eta, theta, transitions(batch).observation, batch.action) * batch.valid

    def mixed(self, eta, theta, batch):
        """c_ex r + c_in r_in [T, B]"""
        task = self.agent.network.rewards(theta, batch)
        return self.extrinsic_scale * task + self.intrinsic_scale * self.intrinsic(eta, theta, batch)

    def advantage(self, reward, value, batch):
        """A [T, B] of rewards [T, B], whose gradient is kept, over constant values [T+1, B]."""
        value = jax.lax.stop_gradient(value)
        return advantages(reward, value, batch, self.agent.gamma, self.agent.gae_lambda)

    def loss(self, params, state, batch, key):
        """The base agent's loss on a rollout with mixed rewards, at the present eta."""
        richer = batch.replace(reward=self.mixed(state.eta, state.agent, batch))
        network = self.agent.network.replace(normalize_reward=False)  # these are normalised
        richer = network.with_advantages(state.agent, richer, self.agent.gamma, self.agent.gae_lambda)
        return self.agent.loss(params, state.agent, transitions(richer), key)

    # ------------------------------------------------------------------------------------------ theta and eta at once
    def inner(self, eta, theta, batch, value, minibatch, key):
        """theta' = theta - alpha dL/dtheta on a minibatch, whose A_mix comes from the whole rollout; metrics too."""
        advantage = self.advantage(self.mixed(eta, theta, batch), value, batch).reshape(-1)[minibatch.extras["row"]]
        extras = {**minibatch.extras, "advantage": advantage, "target": advantage + minibatch.extras["value"]}
        base, optimizer = self.agent, self.agent.optimizer(theta)
        if self.statistics == "constant" or (self.statistics == "auto" and isinstance(base, PPO)):
            optimizer = optimizer.constant_scale()
        minibatch, now = minibatch.replace(extras=extras), (theta.params, theta.opt_state)
        clipped = {"max_grad_norm": base.max_grad_norm}
        (params, opt_state), told = descend(base.loss, optimizer, theta, *now, minibatch, key, **clipped)
        return theta.replace(params=params, opt_state=opt_state), told

    def outer(self, eta, theta, minibatch):
        """theta' judged by the task's reward on the same minibatch, with sign turned, beside v_ex's own loss."""
        policy, _ = self.agent.network.evaluate(theta.params, theta, minibatch)
        extras, valid, advantage = minibatch.extras, minibatch.valid, minibatch.extras["task_advantage"]
        value, old = self.task_value(eta, theta, minibatch.observation), extras["task_value"]
        value_loss = clipped_value_loss(value, old, old + advantage, getattr(self.agent, "value_clip", inf))
        if isinstance(self.agent, PPO):
            advantage = masked_standardize(advantage, valid)
        clip = getattr(self.agent, "clip", inf)  # without one: the ratio to the policy that acted, times A_ex
        surrogate = clipped_surrogate(policy.log_prob(minibatch.action), extras["log_prob"], advantage, clip)
        value_loss = masked_mean(value_loss, valid)
        return masked_mean(surrogate, valid) + self.value_cost * value_loss, {"task_value_loss": value_loss}

    def prepared(self, state, batch):
        """v_mix [T+1, B] of the rollout; and its transitions, with what no step changes: values, A_ex and the place."""
        theta, network = state.agent, self.agent.network
        value, task_value = network.values(theta, batch), self.task_value(state.eta, theta, batch.observation)
        task_advantage = self.advantage(network.rewards(theta, batch), task_value, batch)
        row = jnp.arange(batch.reward.size).reshape(batch.reward.shape)
        known = {"task_value": task_value[:-1], "task_advantage": task_advantage, "value": value[:-1], "row": row}
        return value, transitions(batch.replace(extras={**batch.extras, **known}))

    def portrait(self, state, seen):
        """r_in over the map."""
        paid = lambda observation, action: self.paid(state.eta, state.agent, observation, action)  # noqa: E731
        return portraits.of_actions("paid for leaving", paid, state.agent.spec.action, seen)

    def learn(self, state, batch, key):
        base, theta = self.agent, state.agent
        value, rows = self.prepared(state, batch)
        epochs, number = getattr(base, "num_epochs", 1), getattr(base, "num_minibatches", 1)

        def step(state, minibatch, key):
            def judged(eta):
                after, metrics = self.inner(eta, state.agent, batch, value, minibatch, key)
                loss, told = self.outer(eta, after, minibatch)
                return loss, (after, {**metrics, **parallel.pmean(told)})

            (loss, (after, metrics)), gradient = jax.value_and_grad(judged, has_aux=True)(state.eta)
            state = state.descend(loss, gradient, self.optimizer(theta), self.max_grad_norm).replace(agent=after)
            return state, {**metrics, **state.report}

        bonus = parallel.pmean(masked_mean(self.intrinsic(state.eta, theta, batch), batch.valid))
        state, metrics = over_minibatches(step, state, rows, key, epochs, number, bool(base.network.recurrent))
        theta = base.network.update_norm(state.agent, batch)
        theta = theta.replace(steps=theta.steps + count_steps(batch))
        return state.replace(agent=theta), {**metrics, "intrinsic_reward": bonus}, ()
