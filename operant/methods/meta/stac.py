"""STAC and STACX: a self-tuning actor-critic (Zahavy et al. 2020, arXiv 2002.12928).

All differentiable hyperparameters of IMPALA's loss are tuned while it learns: discount, lambda, the weights of the
three losses, and how much the truncation of V-trace leaks.  Each update is judged at once, on the batch it was made
from, by the same loss with fixed hyperparameters and a divergence that keeps the policy near; the derivative of that
judgement through the update moves them.  With auxiliary heads (STACX) more pairs of policy and value, each with
hyperparameters of its own, shape the torso that all share; only the first pair acts and is judged.

Differs from impala: (1) the dials in `over` are sigmoids of meta-parameters eta, moved by Adam; (2) auxiliary heads;
(3) policy and value share a torso unless told otherwise.  Differs from meta-gradient: the judge sees the same batch,
not the next one, and has a divergence; weights of losses are shares of the judge's, with one eta for each head.

Symbols: theta parameters, eta meta-parameters, theta' = f(theta; eta) the update, zeta the judge's hyperparameters (the
dials of `agent`), g_v, g_p, g_e weights of the losses, alpha the truncation.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as linen
import jax
import jax.numpy as jnp

from operant import nn
from operant.actor_critic import normalize
from operant.agent import agent, child, dial, dials, option, with_dials
from operant.errors import UserError
from operant.meta import MetaState
from operant.methods.policy.impala import IMPALA
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam
from operant.types import Space, zeros

SHARES = ("gamma", "gae_lambda", "truncation")  # from 0 to 1
COSTS = ("value_cost", "policy_cost", "entropy_cost")  # from 0 to the judge's


class Auxiliary(linen.Module):
    """Pairs of policy and value, each with layers of its own between it and the shared features."""

    space: Space
    number: int
    hidden: tuple[int, ...]
    activation: str

    @linen.compact
    def __call__(self, features, mask):
        own = [nn.MLP(self.hidden, self.activation)(features) for _ in range(self.number)]
        return [(nn.PolicyHead(self.space)(x, mask), nn.ValueHead()(x)) for x in own]


@agent("stac")
class STAC:
    """Self-tuning actor-critic: IMPALA that tunes its discount, lambda, costs and truncation, with auxiliary heads."""

    meta_learning_rate: float = dial(1e-3, "Adam's step size for the meta-parameters", low=0.0)
    meta_eps: float = dial(1e-4, "epsilon of that Adam", low=0.0)
    kl_cost: float = dial(1.0, "weight of KL(pi after, pi before the update) in the judgement", low=0.0)
    begin: float = dial(0.99, "where the tuned dials begin, as a share of their largest values", low=0.01, high=0.999)
    over: tuple[str, ...] = option((*SHARES, *COSTS), "the dials of the base agent that are tuned")
    auxiliary_heads: int = option(2, "further pairs of policy and value, tuned likewise; 0: STAC, 2: STACX", low=0)
    auxiliary_hidden: tuple[int, ...] = option((32, 32), "widths of an auxiliary head's own hidden layers", low=1)
    agent: Any = child(IMPALA, "the agent that is tuned; its own dials are the judge's")

    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "larger meta steps, for a thousand updates instead of the paper's tens of thousands; of four "
            "settings of step size and epsilon, all of which learned CartPole-v1, 2 seeds",
            "meta_learning_rate": 1e-2,
        },
    }

    def check(self):
        if not isinstance(self.agent, IMPALA):
            raise UserError(f"stac: agent is {self.agent.registered_name}; expected impala, whose loss it tunes")
        if not self.over or not set(self.over) <= {*SHARES, *COSTS} or len(set(self.over)) < len(self.over):
            known = ", ".join((*SHARES, *COSTS))
            raise UserError(f"stac: over is {self.over}; expected one or more, each once, of {known}")
        if self.auxiliary_heads and self.agent.network.shared == "no" and not self.agent.network.recurrent:
            raise UserError("stac: auxiliary heads act through a torso that all share; set agent.network.shared to yes")

    # ------------------------------------------------------------------------------------------------- as its base
    @property
    def base(self) -> IMPALA:
        network = self.agent.network
        return self.agent.replace(network=network.replace(shared="yes") if network.shared == "auto" else network)

    def tuned(self, eta):
        """The base agent with the dials that eta says."""
        ceiling = dials(self.agent)
        return with_dials(
            self.base, {name: (1.0 if name in SHARES else ceiling[name]) * jax.nn.sigmoid(x) for name, x in eta.items()}
        )

    def of_head(self, eta, i):
        return jax.tree.map(lambda x: x[i], eta)

    def auxiliary(self, spec):
        network = self.agent.network
        return Auxiliary(spec.action, self.auxiliary_heads, tuple(self.auxiliary_hidden), network.activation)

    def init(self, key, spec):
        key, auxiliary_key = jax.random.split(key)
        theta = self.base.init(key, spec)
        if self.auxiliary_heads:
            blank = zeros(spec.observation, (1, 1)), jnp.ones((1, 1), bool), None
            _, features = self.see(theta.params, theta, *blank, self.base.start(theta, 1).network)
            params = {**theta.params, "auxiliary": self.auxiliary(spec).init(auxiliary_key, features, None)["params"]}
            theta = theta.replace(params=params, opt_state=self.base.optimizer().init(params))
            theta = theta.replace(acting=params) if self.agent.lag > 1 else theta
        logit = jnp.log(self.begin) - jnp.log1p(-self.begin)
        eta = {name: jnp.broadcast_to(logit, (1 + self.auxiliary_heads,)) for name in self.over}
        # for each tuned dial a logit a head, the first being that of the pair that acts
        return MetaState.begin(theta, eta, self.meta_optimizer())

    def meta_optimizer(self):
        return adam(self.meta_learning_rate, eps=self.meta_eps)

    def start(self, state, batch_size):
        return self.base.start(state.agent, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.tuned(self.of_head(state.eta, 0)).act(state.agent, timestep, carry, key, explore)

    # ---------------------------------------------------------------------------------------------- theta, then eta
    def see(self, params, theta, observation, first, mask, carry):
        """The first pair of policy and value at every observation, and the features that all heads look at."""
        network, spec = self.base.network, theta.spec
        if network.normalize_observation:
            observation = normalize(observation, theta.norm.observation, spec.observation, clip=10.0)
        last = "cell" if network.recurrent else "torso"
        (pair, _), kept = network.module(spec).apply(
            {"params": params}, observation, carry, first, mask,
            mutable=["intermediates"], capture_intermediates=lambda module, _: module.name == last,
        )  # fmt: skip
        (features,) = kept["intermediates"][last]["__call__"]
        return pair, features[0] if network.recurrent else features

    def losses(self, eta, params, theta, batch):
        """The inner loss, g_v L_V + g_p L_pi + g_e L_H summed over the heads, and the first one's metrics."""
        network, mask = self.base.network, batch.action_mask
        if self.auxiliary_heads:
            pair, features = self.see(params, theta, batch.observation, batch.first, mask, batch.carry.network)
            pairs = [pair, *self.auxiliary(theta.spec).apply({"params": params["auxiliary"]}, features, mask)]
        else:
            pairs = [network.evaluate(params, theta, batch)]
        reward = network.rewards(theta, batch)

        def head(eta, policy, value):
            return self.tuned(eta).head_loss(jax.tree.map(lambda x: x[:-1], policy), value, reward, batch)

        losses, metrics = jax.vmap(head)(eta, *jax.tree.map(lambda *x: jnp.stack(x), *pairs))
        return losses.sum(), jax.tree.map(lambda x: x[0], metrics)

    def loss(self, params, state, batch, key):
        """The inner loss at the present eta."""
        return self.losses(state.eta, params, state.agent, batch)

    def judge(self, params, theta, batch):
        """The outer loss of theta' on the batch: zeta's, of the first pair alone, and KL(pi', pi)."""
        network = self.base.network
        policy, value = network.evaluate(params, theta, batch)
        before, _ = network.evaluate(jax.lax.stop_gradient(theta.params), theta, batch)
        policy, before = jax.tree.map(lambda x: x[:-1], (policy, before))
        loss, _ = self.base.head_loss(policy, value, network.rewards(theta, batch), batch)
        return loss + self.kl_cost * masked_mean(policy.kl(before), batch.valid)

    def learn(self, state, batch, key):
        theta, eta = state.agent, state.eta

        def judged(eta):
            inner = lambda params, theta, batch, key: self.losses(eta, params, theta, batch)  # noqa: E731
            after, metrics = self.base.descend(inner, theta, batch, key)
            return self.judge(after.params, theta, batch), (after, metrics)

        (value, (after, metrics)), gradient = jax.value_and_grad(judged, has_aux=True)(eta)
        new = state.descend(value, gradient, self.meta_optimizer()).replace(agent=after)
        metrics |= new.report
        for i in range(1 + self.auxiliary_heads):  # the dials of auxiliary heads have the head's number
            now = dials(self.tuned(self.of_head(eta, i)))
            metrics |= {f"dial {name}" + f" {i + 1}" * (i > 0): now[name] for name in self.over}
        return new, metrics, ()

    def current(self, state):
        """The dials of the pair that acts as they stand, by name."""
        return dials(self.tuned(self.of_head(state.eta, 0)))
