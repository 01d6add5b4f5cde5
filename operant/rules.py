"""Update rules that are learned: the network that stands in for an algorithm, and what an agent predicts for it.

A rule reads an agent's trajectory from its end and says how probable each action should become (pi_hat) and, where
the prediction's meaning is its own affair, what it should be regressed to (y_hat).

`Own` says what every kind of prediction has; shapes are those of one agent's rollout: T steps, T1 = T + 1 observations.

Symbols: y the prediction, phi an embedding of it, pi_hat and y_hat the rule's outputs (Oh et al. 2020, section 3.1).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from operant.actor_critic import advantages
from operant.agent import dial, option, part
from operant.nn import Backward
from operant.nn.torsos import dense
from operant.ops.distributions import Categorical
from operant.ops.losses import l2, masked_mean
from operant.types import Batch

SURE = 0.9  # of an entry, in a picture: a prediction that is certain is never seen


class Rule(nn.Module):
    """(pi_hat [T, B], y_hat [T, B, set_by_rule]) from what is seen at each step and everything after it.

    set_by_rule  entries of the prediction's target that the rule says, as a distribution; 0 where it says none
    bootstrap    whether it sees the prediction at the next observation
    """

    cell: str
    size: int
    set_by_rule: int
    bootstrap: bool

    @nn.compact
    def __call__(
        self, batch: Batch, gamma: Array | float, prob: Float[Array, "T B"], y: Float[Array, "T1 B m"]
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B set"]]:
        seen = [batch.reward, batch.discount, jnp.broadcast_to(gamma, prob.shape), prob]
        if y.shape[-1]:
            embed = nn.Sequential([dense(16, 2**0.5), nn.relu, dense(1, 1.0)])
            y = embed(y)[..., 0]
            seen += [y[:-1], y[1:] * batch.discount if self.bootstrap else jnp.zeros_like(prob)]
        rule = Backward(1 + self.set_by_rule, self.cell, self.size, scale=0.1, activation="relu")
        out = rule(jnp.stack(seen, -1), batch.discount, batch.valid)
        return out[..., 0], jax.nn.softmax(out[..., 1:]) if self.set_by_rule else out[..., 1:]


@part("own-prediction")
class Own:
    """A distribution over m entries: what they mean is the rule's affair."""

    entropy_cost: float = dial(0.001, "b1, weight of its entropy where the rule is judged", low=0.0)
    size_cost: float = dial(0.001, "b3, weight of mean |y_hat|^2 there", low=0.0)
    m: int = option(30, "entries of the prediction", low=2)

    @property
    def entries(self) -> int:
        """Outputs of the agent that are its prediction."""
        return self.m

    @property
    def set_by_rule(self) -> int:
        """Outputs of the rule that are the prediction's target."""
        return self.m

    def seen(self, out: Float[Array, "*B m"]) -> Float[Array, "*B m"]:
        """What the rule is shown of the agent's outputs."""
        return jax.nn.softmax(out)

    def loss(
        self, out: Float[Array, "T1 B m"], y_hat: Float[Array, "T B set"], batch: Batch, gamma: Array | float
    ) -> Float[Array, "T B"]:
        """What the prediction descends at each step: KL(y || y_hat), y_hat being a constant to the agent (eq. 4)."""
        log_y = jax.nn.log_softmax(out[:-1])
        return jnp.sum(jnp.exp(log_y) * (log_y - jnp.log(y_hat + 1e-8)), -1)

    def gain(self, out: Float[Array, "T1 B m"], y_hat: Float[Array, "T B set"], valid: Float[Array, "T B"]) -> Array:
        """What is added where the rule is judged (eq. 6)."""
        spread = masked_mean(Categorical(out[:-1]).entropy(), valid)
        return self.entropy_cost * spread - self.size_cost * masked_mean(jnp.square(y_hat).mean(-1), valid)

    def probes(self) -> tuple[str, Float[Array, "N"], Float[Array, "N m"], Float[Array, "m"]]:
        """For a picture: the name of an axis, places on it, a prediction at each, and one that says nothing."""
        even = jnp.full(self.m, 1.0 / self.m)
        sure = SURE * jax.nn.one_hot(jnp.arange(self.m), self.m) + (1 - SURE) * even
        return "entry it is sure of", jnp.arange(self.m), sure, even


@part("value-prediction")
class Value:
    """The value, learned by TD(lambda): the rule is only left to say how the policy changes (LPG-V)."""

    td_lambda: float = dial(0.9, "lambda of the returns that it is regressed to", low=0.0, high=1.0)

    entries = 1
    set_by_rule = 0

    def seen(self, out: Float[Array, "*B 1"]) -> Float[Array, "*B 1"]:
        return out

    def loss(self, out: Float[Array, "T1 B 1"], y_hat: Any, batch: Batch, gamma: Array | float) -> Float[Array, "T B"]:
        """Half the squared distance to the lambda-return, which is a constant."""
        value = jax.lax.stop_gradient(out[..., 0])
        target = advantages(batch.reward, value, batch, gamma, self.td_lambda) + value[:-1]
        return l2(target - out[:-1, ..., 0])

    def gain(self, out: Any, y_hat: Any, valid: Any) -> float:
        return 0.0

    def probes(self) -> tuple[str, Float[Array, "N"], Float[Array, "N 1"], Float[Array, "1"]]:
        values = jnp.linspace(-1.0, 1.0, 41)
        return "value", values, values[:, None], jnp.zeros(1)


@part("no-prediction")
class Nothing:
    """No prediction: the rule sees rewards, ends and the policy alone."""

    entries = 0
    set_by_rule = 0

    def seen(self, out: Float[Array, "*B 0"]) -> Float[Array, "*B 0"]:
        return out

    def loss(self, out: Any, y_hat: Any, batch: Batch, gamma: Array | float) -> Float[Array, "T B"]:
        return jnp.zeros_like(batch.reward)

    def gain(self, out: Any, y_hat: Any, valid: Any) -> float:
        return 0.0

    def probes(self) -> tuple[str, Float[Array, "0"], Float[Array, "0 0"], Float[Array, "0"]]:
        return "", jnp.zeros(0), jnp.zeros((0, 0)), jnp.zeros(0)


PREDICTIONS = (Own, Value, Nothing)
