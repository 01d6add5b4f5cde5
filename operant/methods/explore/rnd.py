"""RND: exploration by random network distillation (Burda et al. 2018, arXiv 1810.12894), the bonus form.

A network f with fixed random weights turns each observation into features, and a second network learns to predict
them.  It predicts well what it has often seen, so its error is a novelty bonus, added to the reward of any agent.

Differs from its base agent: (1) rewards become r + scale * e / sigma, with e the prediction error of the observation
arrived at and sigma the running deviation of the discounted sums of e; (2) a predictor is trained on each batch.
The paper's second value head and its non-episodic return for the bonus are not in this form, and the sums begin anew
with each rollout, where the paper's go on: with longer rollouts sigma is larger, and the bonus smaller.

Symbols: f target features, g predictor, e = |g(s') - f(s')|^2 / 2 prediction error.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import nn
from operant.actor_critic import normalize
from operant.agent import agent, child, dial, option
from operant.errors import UserError
from operant.gradient import State, count_steps, gradient_step
from operant.methods.policy.ppo import PPO
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam
from operant.ops.statistics import Moments
from operant.types import PyTree, struct, zeros


@struct
class RNDState:
    """agent: the base agent's state; predictor: g with its optimizer and normalisers; target: the weights of f."""

    agent: PyTree
    predictor: State
    target: PyTree

    @property
    def params(self) -> PyTree:
        return self.agent.params


@agent("rnd")
class RND:
    """A novelty bonus for any agent: rewards observations that a learned network cannot yet predict."""

    scale: float = dial(1.0, "weight of the bonus beside the reward", low=0.0)
    learning_rate: float = dial(1e-4, "Adam's step size for the predictor", low=0.0)
    gamma: float = dial(0.99, "discount of the bonus sums whose deviation scales the bonus", low=0.0, high=1.0)
    features: int = option(64, "outputs of target and predictor", low=1)
    hidden: tuple[int, ...] = option((128, 128), "widths of the predictor's hidden layers", low=1)
    torso: str = option("auto", "encoder of target and predictor, as in the base agent's network")
    agent: Any = child(PPO, "the agent that gets the bonus")

    presets: ClassVar[dict] = {}

    def check(self):
        if self.memory is not None and getattr(self.memory, "n_step", 1) > 1:
            raise UserError(
                f"rnd: its agent's memory has n_step {self.memory.n_step}, and gives no observations in between, each "
                "of which has a bonus; expected n_step 1 (--agent.memory.n-step 1)"
            )

    def networks(self, spec):
        """f and g: the same encoder, g with more layers behind it, so that it can learn f but not at once."""
        f = nn.Torso(spec.observation, self.torso, (*self.hidden[:1], self.features), "relu")
        g = nn.Torso(spec.observation, self.torso, (*self.hidden, self.features), "relu")
        return f, g

    def init(self, key, spec):
        agent_key, target_key, predictor_key = jax.random.split(key, 3)
        f, g = self.networks(spec)
        observation = zeros(spec.observation, (1,))
        params = g.init(predictor_key, observation)["params"]
        norm = {"observation": Moments.init(zeros(spec.observation)), "bonus": Moments.init(jnp.zeros(()))}
        predictor = State(params, adam(self.learning_rate).init(params), jnp.zeros((), jnp.int32), norm, spec)
        return RNDState(self.agent.init(agent_key, spec), predictor, f.init(target_key, observation)["params"])

    def start(self, state, batch_size):
        return self.agent.start(state.agent, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.agent.act(state.agent, timestep, carry, key, explore)

    def error(self, params, state, observation):
        """e for each observation [T, B, ...] -> [T, B], observations normalised and clipped at 5 (section 2.4)."""
        spec, norm = state.predictor.spec, state.predictor.norm["observation"]
        f, g = self.networks(spec)
        x = normalize(observation, norm, spec.observation, clip=5.0)
        target = jax.lax.stop_gradient(f.apply({"params": state.target}, x))
        return 0.5 * jnp.mean(jnp.square(g.apply({"params": params}, x) - target), axis=-1)

    def with_bonus(self, state, batch):
        """The batch with r + scale * e / sigma for its rewards; also e itself."""
        arrived = jax.tree.map(lambda x: x[1:], batch.observation)
        error = self.error(state.predictor.params, state, arrived) * batch.valid
        bonus = error * state.predictor.norm["bonus"].inverse_deviation()
        return batch.replace(reward=batch.reward + self.scale * bonus * _reward_unit(state.agent)), error

    def loss(self, params, state, batch, key):
        """The base agent's loss on rewards with the bonus."""
        return self.agent.loss(params, state.agent, self.with_bonus(state, batch)[0], key)

    def learn(self, state, batch, key):
        agent_key, predictor_key = jax.random.split(key)
        richer, error = self.with_bonus(state, batch)
        agent_state, metrics, feedback = self.agent.learn(state.agent, richer, agent_key)

        def distillation(params, predictor, batch, key):
            arrived = jax.tree.map(lambda x: x[1:], batch.observation)
            return masked_mean(self.error(params, state, arrived), batch.valid), {}

        predictor, fit = gradient_step(distillation, adam(self.learning_rate), state.predictor, batch, predictor_key)
        # sums of e discounted from the rollout's start: the deviation that the paper keeps per environment
        sums = jax.lax.scan(lambda total, e: (self.gamma * total + e,) * 2, jnp.zeros_like(error[0]), error)[1]
        norm = {
            "observation": predictor.norm["observation"].update(
                jax.tree.map(lambda x: x[1:], batch.observation), batch.valid
            ),
            "bonus": predictor.norm["bonus"].update(sums, batch.valid),
        }
        predictor = predictor.replace(norm=norm, steps=predictor.steps + count_steps(batch))
        metrics = {
            **metrics,
            "bonus": masked_mean((richer.reward - batch.reward) / _reward_unit(state.agent), batch.valid),
            "rnd_loss": fit["loss"],
        }
        return RNDState(agent_state, predictor, state.target), metrics, feedback


def _reward_unit(theta):
    """What the base agent divides rewards by, where it normalises them.

    The bonus has a unit of its own: divided by the deviation of a task's rewards that are all zero so far, it would end
    at the bound to which the base clips, whatever was seen.
    """
    while hasattr(theta, "agent"):
        theta = theta.agent
    returns = getattr(getattr(theta, "norm", ()), "discounted_return", ())
    return 1.0 / returns.inverse_deviation() if isinstance(returns, Moments) else 1.0
