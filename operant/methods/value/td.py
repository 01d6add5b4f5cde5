"""TD(lambda): learning to predict (Sutton 1988, "Learning to Predict by the Methods of Temporal Differences").

What will be earned from here on, as things are going?  Predictions are moved towards what was earned and what was
predicted later, mixed by lambda: 1 waits for what really came, 0 trusts the very next prediction.  Nothing is
controlled: the action is the prediction, for worlds that score predictions, such as `operant:RandomWalk-v0`.  How far
to look ahead, and how much to trust, may differ from state to state: gamma(s) and lambda(s) of the state arrived at.

Differs from a2c: (1) there is no policy; (2) plain gradient descent, on the rows of a table where observations are
numbers.

Symbols: V the prediction, G the lambda-return.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from operant.agent import agent, child, dial, option, part
from operant.gradient import State, count_steps, gradient_step
from operant.lives import Readout
from operant.ops.losses import l2, masked_mean
from operant.ops.optimizers import Optimizer, sgd
from operant.ops.returns import gae
from operant.types import Batch, PyTree, Spec, zeros


@part("predictor")
class Predictor:
    """A number for each observation: a table's row for a Discrete one, else a network's output."""

    torso: str = option("auto", "encoder of observations that number no table's rows")
    hidden: tuple[int, ...] = option((32,), "widths of its hidden layers", low=1)

    def init(self, key: PRNGKeyArray, spec: Spec, optimizer: Optimizer) -> State:
        """Fresh parameters."""
        params = self._readout(spec).init(key, zeros(spec.observation, (1,)))["params"]
        return State(params, optimizer.init(params), jnp.zeros((), jnp.int32), (), spec)

    def _readout(self, spec: Spec) -> Readout:
        return Readout(spec.observation, 1, self.torso, self.hidden, scale=1.0)

    def of(self, params: PyTree, state: State, observation: PyTree) -> Float[Array, "*B"]:
        """V of observations [*B, ...]."""
        return jnp.asarray(self._readout(state.spec).apply({"params": params}, observation))[..., 0]

    def evaluate(self, params: PyTree, state: State, batch: Batch) -> tuple[tuple[()], Float[Array, "T1 B"]]:
        """As an actor-critic's: no policy, and V at every observation of the batch."""
        return (), self.of(params, state, batch.observation)

    def rewards(self, state: State, batch: Batch) -> Float[Array, "T B"]:
        """The batch's rewards as they are learned from: as they are."""
        return batch.reward


@agent("td")
class TD:
    """Predicts returns, and has no say in them: what values are worth, where they are known exactly."""

    learning_rate: float = dial(0.1, "step size, for the mean error of a rollout", low=0.0)
    gamma: float = dial(1.0, "discount factor", low=0.0, high=1.0)
    td_lambda: float = dial(0.9, "lambda: 1: returns to the end of the rollout; 0: one step", low=0.0, high=1.0)
    num_envs: int = option(1, "environments of one agent", low=1)
    rollout_length: int = option(20, "steps in each environment between updates", low=1)
    network: Predictor = child(Predictor, "what predicts")

    actions: ClassVar = ("continuous",)
    by_state: ClassVar = ("gamma", "td_lambda")  # dials that may be arrays, one entry for each row of a table
    takes: ClassVar = ("target",)  # what a batch may bring of its own, in extras
    presets: ClassVar[dict] = {}

    def optimizer(self):
        return sgd(self.learning_rate)

    def init(self, key, spec):
        return self.network.init(key, spec, self.optimizer())

    def start(self, state, batch_size):
        return ()

    def act(self, state, timestep, carry, key, explore=True):
        value = self.network.of(state.params, state, timestep.observation)
        shape = state.spec.action.shape
        action = jnp.broadcast_to(value.reshape(-1, *[1] * len(shape)), (len(value), *shape))
        return action, (), {"value": value}

    def returns(self, state, batch):
        """G [T, B] by the predictions that were made; a batch that brings targets of its own keeps them."""
        if "target" in batch.extras:
            return batch.extras["target"]
        end = self.network.of(state.params, state, jax.tree.map(lambda x: x[-1:], batch.observation))
        value = jax.lax.stop_gradient(jnp.concatenate([batch.extras["value"], end]))
        arrived = jax.tree.map(lambda x: x[1:], batch.observation)
        there = lambda d: jnp.asarray(d)[arrived] if jnp.ndim(d) else jnp.full(batch.reward.shape, d)  # noqa: E731
        columns = (batch.reward, batch.discount, batch.valid, value, there(self.gamma), there(self.td_lambda))
        return jax.vmap(gae, in_axes=1, out_axes=1)(*columns) + value[:-1]

    def loss(self, params, state, batch, key):
        """The mean of (G - V)^2 / 2."""
        _, value = self.network.evaluate(params, state, batch)
        error = masked_mean(l2(self.returns(state, batch) - value[:-1]), batch.valid)
        return error, {"value_loss": error}

    def learn(self, state, batch, key):
        state, metrics = gradient_step(self.loss, self.optimizer(), state, batch, key)
        return state.replace(steps=state.steps + count_steps(batch)), metrics, ()
