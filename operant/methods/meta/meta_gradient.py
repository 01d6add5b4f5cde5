"""Meta-gradients over an agent's own dials: MGRL (Xu et al. 2018, "Meta-Gradient Reinforcement Learning", 1805.09801).

An update of the agent is a function of its dials eta (discount, lambda, costs ...).  How good were they?  Judge the
updated parameters on the batch that comes *next*, by an objective with fixed dials, and move eta along the derivative
of that judgement through the update.  Any dial of any agent that has a `loss`.

Differs from its base agent: (1) the dials in `over` are learned, by Adam, boxed to their ranges (sections 2 and 3);
(2) each update carries its derivative with respect to them; (3) with `condition`, policy and value see eta (section
2.3), here as one more observation instead of a linear layer of 16.

Symbols: theta parameters, f the update, theta' = f(theta, tau; eta), J' the outer objective on the next batch tau', z
the trace d theta / d eta, z' = mu df/dtheta z + df/deta (eq. 4 to 8; the paper takes the identity for df/dtheta).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from operant.agent import agent, boxed, child, dial, dials, option, unboxed, with_dials
from operant.errors import UserError
from operant.meta import MetaState, Tangent, Tape, blank_inputs, push
from operant.methods.policy.a2c import A2C
from operant.ops.optimizers import adam
from operant.types import Box, Dict, Discrete


@agent("meta-gradient")
class MetaGradient:
    """Any agent that tunes its own dials while it learns, by the gradient of its next batch through its updates."""

    meta_learning_rate: float = dial(1e-2, "Adam's step size for the (unboxed) dials", low=0.0)
    mu: float = dial(0.0, "decay of the trace over meta steps; needs accumulate", low=0.0, high=1.0)
    over: tuple[str, ...] = option(("gamma", "gae_lambda"), "the dials of the base agent that are tuned")
    horizon: int = option(1, "updates between meta steps, all of which a meta step looks back on", low=1)
    mode: str = option("forward", "how to differentiate; forward suits a few dials", choices=("forward", "reverse"))
    accumulate: bool = option(False, "carry the trace of forward mode on from meta step to meta step, decayed by mu")
    remat: bool = option(True, "reverse mode computes inner updates again instead of keeping them")
    by_state: bool = option(False, "a value of each tuned dial for every state, where observations number them")
    condition: bool = option(False, "show the tuned dials to the networks, as one more observation")
    agent: Any = child(A2C, "the agent whose dials are tuned; its own values are where they start")
    judge: Any = child(lambda: None, "the base agent with the outer dials; none: no entropy or value cost, lambda 1")

    presets: ClassVar[dict] = {}
    keeps_batches: ClassVar[bool] = True

    @property
    def meta_period(self) -> int:
        return self.horizon

    def around(self, base):
        """The wrapper with its base agent, and that agent's outer dials as its judge."""
        return self.replace(agent=base, judge=outer_dials(base))

    def check(self):
        if not self.over:
            raise UserError("meta-gradient: over is empty; name at least one dial of the base agent")
        unboxed(self.agent, self.over)
        if off := [name for name in self.over if not np.isfinite(dials(self.agent)[name]).all()]:
            raise UserError(f"meta-gradient: {off[0]} is infinite, and has no gradient there; expected a finite start")
        name = self.agent.registered_name
        if not hasattr(self.agent, "loss"):
            raise UserError(f"meta-gradient: {name} has no loss to differentiate")
        if self.agent.meta_period:
            raise UserError(f"meta-gradient: {name} has a meta-gradient of its own; expected an agent without one")
        if self.judge is not None and type(self.judge) is not type(self.agent):
            raise UserError(f"meta-gradient: judge is {self.judge.registered_name}; expected {name}, like the agent")
        if self.by_state and not set(self.over) <= set(getattr(self.agent, "by_state", ())):
            raise UserError(f"meta-gradient: {name} has no dials by state called {', '.join(self.over)}; td has")
        if self.by_state and self.condition:
            raise UserError("meta-gradient: condition shows one value of each dial; expected by_state or condition")
        if self.accumulate and self.mode == "reverse":
            raise UserError("meta-gradient: accumulate needs forward mode; reverse mode looks back over its horizon")

    # ------------------------------------------------------------------------------------------------- as its base
    def tuned(self, eta):
        return with_dials(self.agent, boxed(self.agent, eta))

    def outer(self):
        """The base agent with the dials of the outer objective."""
        return with_dials(self.agent, dials(outer_dials(self.agent) if self.judge is None else self.judge))

    def shown(self, observation, shape, agent):
        """What the networks see: the observation, leading axes `shape`, and beside it the agent's unboxed dials."""
        if not self.condition:
            return observation
        eta = jax.lax.stop_gradient(jnp.stack(list(unboxed(agent, self.over).values())))
        return {"observation": observation, "eta": jnp.broadcast_to(eta, (*shape, eta.size))}

    def init(self, key, spec):
        eta = unboxed(self.agent, self.over)
        if self.by_state:
            if not isinstance(spec.observation, Discrete):
                raise UserError(
                    f"meta-gradient: by_state needs observations that number states, not {spec.observation}"
                )
            eta = {name: jnp.broadcast_to(x, (spec.observation.n,)) for name, x in eta.items()}
        seen = Dict((("observation", spec.observation), ("eta", Box((len(eta),)))))
        base = self.agent.init(key, spec.replace(observation=seen) if self.condition else spec)
        state = MetaState.begin(base, eta, adam(self.meta_learning_rate))
        if self.mode == "forward":
            return state.replace(past=Tangent.zero(base, eta))
        return state.replace(past=Tape.blank(base, blank_inputs(self, state, spec), self.horizon))

    def start(self, state, batch_size):
        return self.agent.start(state.agent, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        tuned = self.tuned(state.eta)
        seen = timestep.replace(observation=self.shown(timestep.observation, timestep.first.shape, tuned))
        return tuned.act(state.agent, seen, carry, key, explore)

    def observe(self, state, batch):
        return state.replace(agent=self.tuned(state.eta).observe(state.agent, batch))

    # ---------------------------------------------------------------------------------------------- theta, then eta
    def loss(self, params, state, batch, key):
        """The base agent's loss at its present dials."""
        return self._loss(self.tuned(state.eta), params, state.agent, batch, key)

    def _loss(self, agent, params, state, batch, key):
        batch = batch.replace(observation=self.shown(batch.observation, batch.first.shape, agent))
        if self.condition and "value" in batch.extras:  # the values kept from acting were told of the dials of then
            value = jax.lax.stop_gradient(agent.network.evaluate(state.params, state, batch)[1])
            batch = batch.replace(extras={**batch.extras, "value": value[:-1]})
        return agent.loss(params, state, batch, key)

    def update(self, eta, theta, batch, key):
        """f(theta, tau; eta)"""
        tuned = self.tuned(eta)
        batch = batch.replace(observation=self.shown(batch.observation, batch.first.shape, tuned))
        return tuned.learn(theta, batch, key)

    def learn(self, state, batch, key):
        if self.mode == "forward":
            lasting = self.horizon > 1 or self.accumulate
            (after, metrics, feedback), past = push(
                self.update, state.eta, state.agent, state.past if lasting else None, batch, key
            )
        else:
            past = state.past.write(state.agent, (batch, key))
            after, metrics, feedback = self.update(state.eta, state.agent, batch, key)
        return state.replace(agent=after, past=past), {**metrics, **state.report, **self.told(state.eta)}, feedback

    def told(self, eta):
        """The tuned dials as metrics, entry by entry."""
        values = {f"dial {name}": value for name, value in boxed(self.agent, eta).items()}
        if not self.by_state:
            return values
        return {f"{name} {i}": x for name, value in values.items() for i, x in enumerate(value)}

    def meta_learn(self, state, batch, key):
        """eta one step down J'(tau'; theta'): eq. 8."""
        fixed, outer = jax.lax.stop_gradient(state.agent), self.outer()
        judge = lambda params: self._loss(outer, params, fixed, batch, key)[0]  # noqa: E731
        if self.mode == "forward":
            value, gradient = jax.value_and_grad(judge)(state.agent.params)
            gradient = state.past.slope(gradient, state.eta)
            past = state.past.scaled(self.mu if self.accumulate else 0.0)
        else:
            replay = lambda eta: judge(state.past.replay(self.update, eta, self.remat).params)  # noqa: E731
            value, gradient = jax.value_and_grad(replay)(state.eta)
            past = state.past
        return state.replace(past=past).descend(value, gradient, adam(self.meta_learning_rate))

    def current(self, state):
        """The dials as they stand, by name."""
        return dials(self.tuned(state.eta))


def outer_dials(agent):
    """The agent as section 2.1 judges: by its policy gradient alone, with returns that bootstrap at the batch's end."""
    told = {"entropy_cost": 0.0, "value_cost": 0.0, "gae_lambda": 1.0}
    return with_dials(agent, {name: value for name, value in told.items() if name in dials(agent)})
