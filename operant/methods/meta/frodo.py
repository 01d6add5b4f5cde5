"""FRODO: an objective discovered online (Xu et al. 2020, "Meta-Gradient RL with an Objective Discovered Online",
arXiv 2007.08433).

The return that an agent regresses to is the output of a network, which reads a trajectory backwards.  How good were its
targets?  After M updates with them the parameters are judged on a fresh trajectory by the plain loss, and the gradient
goes back through all M updates.  So bootstrapping, tracking and off-policy correction are discovered.

Differs from its base agent: (1) G_eta(tau) takes the place of the return, in the value loss and in the advantage
G - V; (2) eta is learned by the base agent's own loss, its own returns included, M updates later; (3) consistency in
time, G_t = r + gamma G_{t+1}, is asked of G by a further loss.

Symbols: theta policy and value, eta the rule's weights, G_eta targets, tau a trajectory, M inner updates, mu(a|s) the
probability with which the action was taken, sg stop-gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from operant.agent import agent, child, dial, option
from operant.errors import UserError
from operant.meta import MetaState, Tape, blank_inputs
from operant.methods.policy.a2c import A2C
from operant.nn import CELLS, Backward
from operant.nn.torsos import dense
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam


class Targets(nn.Module):
    """G_eta of each step from what is seen there and everything after it: inputs [T, B, D] -> [T, B]."""

    cell: str
    size: int

    @nn.compact
    def __call__(self, inputs, discount, valid):
        features = nn.relu(dense(self.size, 2**0.5)(inputs))
        # near zero at first: early targets are random
        return Backward(1, self.cell, self.size, scale=0.01)(features, discount, valid)[..., 0]


@agent("frodo")
class FRODO:
    """An actor-critic whose returns are a network's, learned by what M updates with them led to."""

    meta_learning_rate: float = dial(1e-3, "Adam's step size for the rule", low=0.0)
    consistency_cost: float = dial(0.1, "weight of the targets' consistency in time", low=0.0)
    max_meta_grad_norm: float = dial(1.0, "global norm at which the rule's gradient is clipped; inf: off", low=0.0)
    inner_updates: int = option(5, "M, the updates of the agent that a meta step looks back on", low=1)
    window: int = option(
        0, "steps after which the rule starts anew, as if trajectories ended; 0: whole rollouts", low=0
    )
    off_policy: bool = option(False, "show the rule pi(a|s) and mu(a|s) as well")
    cell: str = option("lstm", "the rule's recurrent cell", choices=tuple(CELLS))
    size: int = option(32, "units of the rule's cell, and of the layer before it", low=1)
    remat: bool = option(True, "compute inner updates again on the way back instead of keeping them")
    agent: Any = child(A2C, "whose returns are learned: a2c, ppo, impala, online-q, td; its own loss is the outer")

    presets: ClassVar[dict] = {
        "minatar": {"source": "a rule of half the paper's width; chosen, not tuned", "size": 128},
        "atari": {"source": "Xu et al. 2020, section 5.4; not measured here", "size": 256},
    }
    keeps_batches: ClassVar[bool] = True

    @property
    def meta_period(self) -> int:
        return self.inner_updates

    def check(self):
        base = self.agent.registered_name
        if self.agent.meta_period:
            raise UserError(f"frodo: {base} has a meta-gradient of its own; expected an agent without one")
        takes = getattr(self.agent, "takes", ())
        if "target" not in takes:
            raise UserError(f"frodo: {base} takes no targets from outside; expected a2c, ppo, impala, online-q or td")
        if self.off_policy and "advantage" not in takes:
            raise UserError(f"frodo: {base} has no policy that off_policy could show the rule")
        if getattr(self.agent, "following", "max") != "max":
            raise UserError("frodo: sarsa learns of transitions one step late; expected following max")

    def init(self, key, spec):
        agent_key, rule_key = jax.random.split(key)
        theta = self.agent.init(agent_key, spec)
        row = jnp.zeros((1, 1))
        eta = self.rule.init(rule_key, jnp.zeros((1, 1, 5 if self.off_policy else 3)), row, row)["params"]
        state = MetaState.begin(theta, eta, adam(self.meta_learning_rate))
        return state.replace(past=Tape.blank(theta, blank_inputs(self, state, spec), self.inner_updates))

    def start(self, state, batch_size):
        return self.agent.start(state.agent, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.agent.act(state.agent, timestep, carry, key, explore)

    @property
    def rule(self):
        return Targets(self.cell, self.size)

    @property
    def reader(self):
        """What evaluates a batch for the base agent: its network, or, as values are a policy too, Q-learning itself."""
        return self.agent if hasattr(self.agent, "evaluate") else self.agent.network

    def targets(self, eta, theta, batch):
        """G_eta [T, B], and V [T+1, B] of the present parameters, a constant."""
        policy, value = jax.lax.stop_gradient(self.reader.evaluate(theta.params, theta, batch))
        reward, gamma = self.reader.rewards(theta, batch), self.agent.gamma * batch.discount
        seen = [reward, gamma, value[1:] * batch.discount]  # behind a termination there is no value
        if self.off_policy:
            now = jax.tree.map(lambda x: x[:-1], policy)
            seen += [jnp.exp(now.log_prob(batch.action)), jnp.exp(batch.extras["log_prob"])]
        valid = batch.valid
        if self.window:  # the rule's state is cut as at an episode's end, but the discount that it sees is not
            ends = (jnp.arange(len(valid)) + 1) % self.window == 0
            valid = jnp.where(ends[:, None], 0.0, valid)
        return self.rule.apply({"params": eta}, jnp.stack(seen, -1), batch.discount, valid), value

    def with_targets(self, eta, theta, batch):
        """The batch with G_eta for its returns."""
        target, value = self.targets(eta, theta, batch)
        told = {"target": target, "advantage": target - value[:-1], "value": value[:-1]}
        return batch.replace(extras={**batch.extras, **told})

    def update(self, eta, theta, batch, key):
        """theta' from the base agent's own update."""
        return self.agent.learn(theta, self.with_targets(eta, theta, batch), key)

    def consistency(self, eta, theta, batch):
        """mean (G_t - sg(r_{t+1} + gamma G_{t+1}))^2; behind the last step of a trajectory stands V."""
        target, value = self.targets(eta, theta, batch)
        goes_on = jnp.concatenate([batch.valid[1:], jnp.zeros_like(batch.valid[:1])])
        after = jnp.where(goes_on > 0, jnp.concatenate([target[1:], value[-1:]]), value[1:])
        reward, gamma = self.reader.rewards(theta, batch), self.agent.gamma * batch.discount
        return masked_mean(jnp.square(target - jax.lax.stop_gradient(reward + gamma * after)), batch.valid)

    def loss(self, params, state, batch, key):
        """The base agent's loss with the learned targets."""
        return self.agent.loss(params, state.agent, self.with_targets(state.eta, state.agent, batch), key)

    def learn(self, state, batch, key):
        past = state.past.write(state.agent, (batch, key))
        after, metrics, feedback = self.update(state.eta, state.agent, batch, key)
        return state.replace(agent=after, past=past), {**metrics, **state.report}, feedback

    def meta_learn(self, state, batch, key):
        """eta one step down the base agent's loss on the fresh trajectory, after the M updates of the tape."""
        theta = jax.lax.stop_gradient(state.agent)

        def outer(eta):
            after = state.past.replay(self.update, eta, self.remat)
            judged = self.agent.loss(after.params, theta, batch, key)[0]
            return judged + self.consistency_cost * self.consistency(eta, theta, batch)

        value, gradient = jax.value_and_grad(outer)(state.eta)
        return state.descend(value, gradient, adam(self.meta_learning_rate), self.max_meta_grad_norm)
