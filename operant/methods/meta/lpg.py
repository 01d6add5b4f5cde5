"""LPG: an agent that learns by a discovered rule (Oh et al. 2020, "Discovering RL Algorithms", arXiv 2007.08794).

A backward recurrent network takes the place of the update: it says how to change the policy, and what a vector of
predictions, which nobody gave a meaning, should be regressed to.  The rule is learned by `discover:lpg`, over many
lives of such agents in many tasks; this is one of them, which learns by a rule as it stands (`--rule RUN`).

Differs from a2c: (1) pi_hat takes the place of the advantage; (2) a prediction y, a distribution over m entries, takes
the place of the value, and y_hat that of its target; (3) a table suffices where the observation is a number.

`--prediction value-prediction` is LPG-V, whose prediction is a value, and `no-prediction` has none.

Symbols: eta the rule, theta the agent, pi policy, y prediction in the m-simplex, pi_hat, y_hat the rule's outputs,
alpha_y the prediction's weight, b0 to b3 regularisers (eq. 4 to 6).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import portraits
from operant.agent import agent, child, dial, option
from operant.lives import Readout
from operant.nn import CELLS
from operant.ops.distributions import Categorical
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam, clip_by_global_norm, sgd
from operant.rollout import blank_batch
from operant.rules import PREDICTIONS, Own, Rule
from operant.types import struct, zeros


@struct(static=("spec",))
class RuleState:
    """theta: the agent's parameters; eta: the rule's weights."""

    params: Any
    opt_state: Any
    eta: Any
    spec: Any


@agent("lpg")
class LPG:
    """An agent that learns by a discovered update rule instead of by an algorithm that somebody wrote down."""

    learning_rate: float = dial(40.0, "step size of policy and prediction; a table's gradients are tiny", low=0.0)
    alpha_y: float = dial(0.5, "weight of the prediction's regression", low=0.0)
    gamma: float = dial(0.995, "the discount factor that the rule is shown and judged at", low=0.0, high=1.0)
    max_grad_norm: float = dial(0.5, "global norm at which the agent's gradient is clipped; inf: off", low=0.0)
    entropy_cost: float = dial(0.01, "b0, weight of the policy's entropy where the rule is judged", low=0.0)
    policy_size_cost: float = dial(0.001, "b2, weight of mean |pi_hat|^2 there", low=0.0)
    num_envs: int = option(64, "environments of one agent", low=1)
    rollout_length: int = option(20, "steps in each environment between updates", low=1)
    optimizer: str = option("sgd", "sgd suits tables, adam networks", choices=("sgd", "adam"))
    bootstrap: bool = option(True, "show the rule the prediction at the next observation")
    cell: str = option("lstm", "the rule's recurrent cell", choices=tuple(CELLS))
    size: int = option(256, "units of the rule's cell", low=1)
    torso: str = option("auto", "encoder of observations that number no table's rows")
    hidden: tuple[int, ...] = option((32,), "widths of its hidden layers", low=1)
    prediction: Any = child(Own, "what the agent predicts, for the rule to see", choices=PREDICTIONS)

    actions: ClassVar = ("discrete",)
    presets: ClassVar[dict] = {
        "operant": {
            "source": "a rule a tenth of the paper's size, for two cores; chosen, not tuned",
            "num_envs": 16,
            "cell": "gru",
            "size": 64,
            "prediction.m": 8,
        },
        "minatar": {
            "source": "Oh et al. 2020, the agents of its random grids, with the rule of `operant`; not measured here",
            "learning_rate": 1e-3,
            "optimizer": "adam",
            "cell": "gru",
            "size": 64,
            "prediction.m": 8,
        },
    }

    starts_from: ClassVar[str] = "rule"

    @property
    def rule(self):
        return Rule(self.cell, self.size, self.prediction.set_by_rule, self.bootstrap)

    def outputs(self, spec):
        return Readout(spec.observation, spec.action.n + self.prediction.entries, self.torso, self.hidden)

    def steps(self):
        return (sgd if self.optimizer == "sgd" else adam)(self.learning_rate)

    def init(self, key, spec):
        rule_key, agent_key = jax.random.split(key)
        params = self.outputs(spec).init(agent_key, zeros(spec.observation, (1,)))["params"]
        state = RuleState(params, self.steps().init(params), (), spec)
        batch = blank_batch(self, state, spec, self.rollout_length)
        y = jnp.zeros((*batch.first.shape, self.prediction.entries))
        return state.replace(eta=self.rule.init(rule_key, batch, 0.0, batch.reward, y)["params"])

    def start(self, state, batch_size):
        return ()

    def act(self, state, timestep, carry, key, explore=True):
        policy = Categorical(self.heads(state.params, state, timestep.observation)[0])
        return (policy.sample(key) if explore else policy.mode()), (), {}

    def heads(self, params, state, observation):
        """Logits of pi and of y."""
        out = self.outputs(state.spec).apply({"params": params}, observation)
        return out[..., : state.spec.action.n], out[..., state.spec.action.n :]

    def told(self, state, logits, y, batch):
        """What the rule says about a trajectory, given the agent's outputs [T+1, P] on it as constants."""
        logits, y = jax.lax.stop_gradient((logits, self.prediction.seen(y)))
        prob = jnp.exp(Categorical(logits[:-1]).log_prob(batch.action))
        return self.rule.apply({"params": state.eta}, batch, self.gamma, prob, y)

    def learn(self, state, batch, key):
        """theta' = theta + alpha (pi_hat grad log pi(a|s) - alpha_y grad KL(y || y_hat)): eq. 4, for its own y."""
        (logits, y), pull = jax.vjp(lambda params: self.heads(params, state, batch.observation), state.params)
        pi_hat, y_hat = self.told(state, logits, y, batch)

        def loss(logits, y):
            distance = self.prediction.loss(y, y_hat, batch, self.gamma)
            gain = pi_hat * Categorical(logits[:-1]).log_prob(batch.action) - self.alpha_y * distance
            return -masked_mean(gain, batch.valid), masked_mean(distance, batch.valid)

        slopes, distance = jax.grad(loss, (0, 1), has_aux=True)(logits, y)
        gradient, norm = clip_by_global_norm(pull(slopes)[0], self.max_grad_norm)
        updates, opt_state = self.steps().update(gradient, state.opt_state, state.params)
        entropy = masked_mean(Categorical(logits[:-1]).entropy(), batch.valid)
        size = masked_mean(jnp.abs(pi_hat), batch.valid)
        metrics = {"entropy": entropy, "prediction_loss": distance, "pi_hat": size, "grad_norm": norm}
        params = jax.tree.map(jnp.add, state.params, updates)
        return state.replace(params=params, opt_state=opt_state), metrics, ()

    def portrait(self, state, seen=None):
        """What the rule answers to rewards, ends and predictions."""
        told = lambda batch, prob, y: self.rule.apply({"params": state.eta}, batch, self.gamma, prob, y)  # noqa: E731
        blank = lambda steps, width: blank_batch(self, state, state.spec.replace(num_envs=width), steps)  # noqa: E731
        return portraits.of_rule(jax.jit(told), blank, state.spec.action.n, *self.prediction.probes())

    def judge(self, state, batch, advantage):
        """The outer loss on a fresh trajectory (eq. 6), and the policy's mean entropy in nats."""
        (logits, y), valid = self.heads(state.params, state, batch.observation), batch.valid
        pi_hat, y_hat = self.told(state, logits, y, batch)
        policy = Categorical(logits[:-1])
        entropy = masked_mean(policy.entropy(), valid)
        gain = masked_mean(policy.log_prob(batch.action) * advantage, valid) + self.entropy_cost * entropy
        gain -= self.policy_size_cost * masked_mean(jnp.square(pi_hat), valid)
        return -gain - self.prediction.gain(y, y_hat, valid), entropy
