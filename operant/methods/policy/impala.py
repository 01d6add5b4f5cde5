"""IMPALA's learner: actor-critic with V-trace (Espeholt et al. 2018, arXiv 1802.01561).

Actors that play with parameters a few updates old need not wait for the learner, if it corrects for what they did: each
step's error is weighted by the truncated ratio of the two policies (V-trace).  The ratios' truncation may leak, as in
STAC (Zahavy et al. 2020, arXiv 2002.12928), and every cost is a dial, for a method that tunes them by gradients.

Differs from a2c: (1) V-trace's targets and weights take the place of plain returns: the same on policy; (2) the values
in the targets are those of the parameters learned from, not of those that acted, so that the loss makes sense for any
parameters; (3) with a `lag` the acting parameters are copies, renewed after every `lag` updates.

Differs from the paper: actors and learner take turns on one machine, so the lag is chosen instead of left to queues;
losses are means over transitions, not sums.

Symbols: pi policy, mu the one that acted, V value, v V-trace target, rho = min(rho_bar, pi / mu), c = lambda min(c_bar,
pi / mu), H entropy.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from operant.actor_critic import ActorCritic, explained_variance
from operant.agent import agent, child, dial, option
from operant.gradient import State, count_steps, gradient_step
from operant.ops.losses import l2, masked_mean, policy_gradient_loss
from operant.ops.optimizers import rmsprop
from operant.ops.returns import vtrace
from operant.types import PyTree, struct


@struct(static=("spec",))
class LaggedState(State):
    """`State` with the parameters that act, which are older ones, and the number of updates so far."""

    acting: PyTree
    updates: Int[Array, ""]


@agent("impala")
class IMPALA:
    """Actor-critic with V-trace: learns from rollouts of a policy that may be a few updates old."""

    learning_rate: float = dial(6e-4, "RMSProp's step size at the start", low=0.0)
    anneal: float = dial(1.0, "share of the step size that is annealed away by the end", low=0.0, high=1.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    gae_lambda: float = dial(1.0, "lambda of the traces c: on policy, targets are lambda-returns", low=0.0, high=1.0)
    truncation: float = dial(1.0, "alpha of leaky V-trace; 1: V-trace, 0: plain importance sampling", low=0.0, high=1.0)
    clip_rho: float = dial(1.0, "rho_bar, bound of the ratios that weight errors and the policy's gradient", low=0.0)
    clip_c: float = dial(1.0, "c_bar, bound of the ratios within a trace", low=0.0)
    entropy_cost: float = dial(0.01, "weight of the entropy bonus", low=0.0)
    value_cost: float = dial(0.5, "weight of the value loss", low=0.0)
    policy_cost: float = dial(1.0, "weight of the policy loss", low=0.0)
    max_grad_norm: float = dial(0.5, "global norm at which the gradient is clipped; inf: off", low=0.0)
    decay: float = dial(0.99, "RMSProp's decay of the mean square", low=0.0, high=1.0)
    eps: float = dial(2.5e-7, "RMSProp's epsilon, under the root", low=0.0)
    lag: int = option(0, "updates between renewals of the parameters that act; 0 or 1: they are the newest", low=0)
    correction: str = option(
        "vtrace",
        "what makes up for older acting parameters; one-step: ratios in the policy's gradient only",
        choices=("vtrace", "one-step", "none"),
    )
    num_envs: int = option(32, "environments of one agent", low=1)
    rollout_length: int = option(20, "steps in each environment between updates", low=1)
    network: ActorCritic = child(ActorCritic, "policy and value networks, normalisers")

    takes: ClassVar = ("target", "advantage")  # what a batch may bring of its own, in extras
    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "among the best of six settings on CartPole-v1, 4 and 8 seeds (others than those of the results)",
            "learning_rate": 3e-3,
            "num_envs": 16,
            "network.normalize_reward": True,
        },
        "bsuite": {
            "source": "the better of two step sizes on Catch-bsuite, 8 seeds",
            "learning_rate": 3e-3,
        },
        "minatar": {
            "source": "the best of six settings on Breakout-MinAtar at 500,000 steps, 2 seeds",
            "learning_rate": 3e-3,
            "network.torso": "mlp",
            "network.activation": "relu",
        },
        "atari": {
            "source": "Espeholt et al. 2018, appendix D and G, its sums over 32 x 20 transitions turned into means: "
            "max_grad_norm is 40 / 640; eps, the default, 0.1 / 640^2; not measured here",
            "max_grad_norm": 0.0625,
            "network.torso": "impala",
            "network.activation": "relu",
        },
        "mujoco": {
            "source": "the defaults with PPO's normalisation and no entropy bonus; not measured here",
            "entropy_cost": 0.0,
            "network.normalize_observation": True,
            "network.normalize_reward": True,
        },
    }

    def optimizer(self, state: State | None = None):
        progress = state.progress if state is not None else 0.0
        return rmsprop(self.learning_rate * (1.0 - self.anneal * progress), self.decay, self.eps, eps_inside=True)

    def init(self, key, spec):
        state = self.network.init(key, spec, self.optimizer())
        if self.lag <= 1:
            return state
        return LaggedState(**vars(state), acting=state.params, updates=jnp.zeros((), jnp.int32))

    def start(self, state, batch_size):
        return self.network.start(state, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        """With the lagged parameters while it explores, with the newest in evaluation."""
        if self.lag > 1 and explore:
            state = state.replace(params=state.acting)
        return self.network.act(state, timestep, carry, key, explore, self.gamma)

    def head_loss(self, policy, value, reward, batch):
        """The loss of one pair of heads, with the dials of this agent: policy and reward [T, B], value [T+1, B].

        A method with several pairs calls it for each on a copy of the agent with that pair's dials.
        """
        log_prob, valid = policy.log_prob(batch.action), batch.valid
        log_rho, constant = jax.lax.stop_gradient((log_prob - batch.extras["log_prob"], value))
        target, advantage = self.estimates(reward, batch, constant, log_rho)
        policy_loss = masked_mean(policy_gradient_loss(log_prob, advantage), valid)
        value_loss = masked_mean(l2(target - value[:-1]), valid)
        entropy = masked_mean(policy.entropy(), valid)
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "explained_variance": explained_variance(constant[:-1], target, valid),
            "off_policy_kl": masked_mean(-log_rho, valid),  # KL(mu || pi), of which this is an unbiased estimate
            "truncated": masked_mean(1.0 * (log_rho > jnp.log(self.clip_rho) + 1e-3), valid),
        }
        return self.policy_cost * policy_loss + self.value_cost * value_loss - self.entropy_cost * entropy, metrics

    def estimates(self, reward, batch, value, log_rho):
        """What the values learn, v, and what weights the policy's gradient [T, B]: section 4.1, or without correction
        as in section 5.2.2.  A batch that brings estimates of its own keeps them."""
        if "advantage" in batch.extras:
            return batch.extras["target"], batch.extras["advantage"]
        estimate = functools.partial(
            vtrace, gamma=self.gamma, lam=self.gae_lambda, clip_rho=self.clip_rho, clip_c=self.clip_c,
            clip_pg=self.clip_rho, alpha_rho=self.truncation, alpha_c=self.truncation,
        )  # fmt: skip
        seen = log_rho if self.correction == "vtrace" else jnp.zeros_like(log_rho)
        trace = jax.vmap(estimate, in_axes=1, out_axes=1)(reward, batch.discount, batch.valid, value, seen)
        weight = jnp.minimum(jnp.exp(log_rho), self.clip_rho) if self.correction == "one-step" else 1.0
        return trace.targets, weight * trace.pg_advantages

    def loss(self, params, state, batch, key):
        """Section 4.2 on a whole rollout, for any parameters: `batch.extras` holds log mu of the actions taken."""
        policy, value = self.network.evaluate(params, state, batch)
        policy = jax.tree.map(lambda x: x[:-1], policy)
        return self.head_loss(policy, value, self.network.rewards(state, batch), batch)

    def learn(self, state, batch, key):
        return *self.descend(self.loss, state, batch, key), ()

    def descend(self, loss, state, batch, key):
        """One update of the state along a loss, this agent's or one made of several heads', and its metrics."""
        new, metrics = gradient_step(loss, self.optimizer(state), state, batch, key, max_grad_norm=self.max_grad_norm)
        new = self.network.update_norm(new, batch)
        new = new.replace(steps=state.steps + count_steps(batch))
        if self.lag > 1:
            updates = state.updates + 1
            renew = lambda now, old: jnp.where(updates % self.lag == 0, now, old)  # noqa: E731
            new = new.replace(acting=jax.tree.map(renew, new.params, state.acting), updates=updates)
        return new, metrics
