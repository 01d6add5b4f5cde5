"""Meta-gradients over an agent's own dials (Xu et al. 2018, "Meta-Gradient Reinforcement Learning", arXiv 1805.09801).

An update of the agent is a function of its dials eta (discount, lambda, costs ...).  How good were they?  Take the
updated parameters to the *next* batch and differentiate an objective with fixed dials, through the update, with
respect to eta.  This is the method in its simplest form, for any agent that has a `loss` and any of its dials.

Differs from its base agent: (1) the dials in `over` are states, moved by Adam along the meta-gradient, boxed to their
ranges; (2) each update is differentiated once more, on the batch that follows it, and so its inputs are kept.

Symbols: theta parameters, theta' = learn(theta, tau; eta), tau' the next batch, J' the objective at the outer dials.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant.agent import agent, boxed, child, dial, dials, option, unboxed, with_dials
from operant.errors import UserError
from operant.methods.policy.a2c import A2C
from operant.ops import parallel
from operant.ops.optimizers import adam
from operant.rollout import blank_batch
from operant.types import Batch, PyTree, struct


@struct
class MetaState:
    """agent: theta; before, tau, key: what the last update was made of; eta: the dials, unboxed; updates: how many."""

    agent: PyTree
    before: PyTree
    tau: Batch
    key: jax.Array
    eta: dict[str, jax.Array]
    opt_state: PyTree
    updates: jax.Array

    @property
    def params(self) -> PyTree:
        return self.agent.params


@agent("meta-gradient")
class MetaGradient:
    """Any agent that tunes its own dials while it learns, by the gradient of its next batch through its last update."""

    meta_learning_rate: float = dial(1e-2, "Adam's step size for the (unboxed) dials", low=0.0)
    over: tuple[str, ...] = option(("gamma", "gae_lambda"), "the dials of the base agent that are tuned")
    agent: Any = child(A2C, "the agent whose dials are tuned; its own values are the start, and the outer dials")

    presets: ClassVar[dict] = {}
    keeps_batches: ClassVar[bool] = True

    def check(self):
        if not self.over:
            raise UserError("meta-gradient: over is empty; name at least one dial of the base agent")
        unboxed(self.agent, self.over)
        if not hasattr(self.agent, "loss"):
            raise UserError(f"meta-gradient: {self.agent.registered_name} has no loss to differentiate")
        if self.agent.memory is not None:
            raise UserError(
                f"meta-gradient: {self.agent.registered_name} learns from a memory, not from its next batch"
            )

    def tuned(self, eta):
        return with_dials(self.agent, boxed(self.agent, eta))

    def init(self, key, spec):
        state = self.agent.init(key, spec)
        tau = blank_batch(self.agent, state, spec, self.agent.rollout_length)
        eta = unboxed(self.agent, self.over)
        opt_state = adam(self.meta_learning_rate).init(eta)
        return MetaState(state, state, tau, key, eta, opt_state, jnp.zeros((), jnp.int32))

    def start(self, state, batch_size):
        return self.agent.start(state.agent, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.tuned(state.eta).act(state.agent, timestep, carry, key, explore)

    def loss(self, params, state, batch, key):
        """The base agent's loss at its present dials."""
        return self.tuned(state.eta).loss(params, state.agent, batch, key)

    def learn(self, state, batch, key):
        outer_key, inner_key = jax.random.split(key)

        def outer(eta):
            """J'(tau'; theta') with theta' = learn(theta, tau; eta): eq. 8, through any number of inner steps."""
            after, _, _ = self.tuned(eta).learn(state.before, state.tau, state.key)
            fixed = jax.lax.stop_gradient(state.agent)
            return self.agent.loss(after.params, fixed, batch, outer_key)[0]

        gradient = parallel.pmean(jax.grad(outer)(state.eta))
        updates, opt_state = adam(self.meta_learning_rate).update(gradient, state.opt_state, state.eta)
        started = state.updates > 0  # before the second batch there is no update to judge
        moved = lambda new, old: jax.tree.map(lambda n, o: jnp.where(started, n, o), new, old)  # noqa: E731
        eta = moved(jax.tree.map(jnp.add, state.eta, updates), state.eta)
        opt_state = moved(opt_state, state.opt_state)

        after, metrics, feedback = self.tuned(eta).learn(state.agent, batch, inner_key)
        metrics = {**metrics, **{f"dial {name}": value for name, value in boxed(self.agent, eta).items()}}
        new = MetaState(after, state.agent, batch, inner_key, eta, opt_state, state.updates + 1)
        return new, metrics, feedback

    def current(self, state):
        """The dials as they stand, by name."""
        return dials(self.tuned(state.eta))
