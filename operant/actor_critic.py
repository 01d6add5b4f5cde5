"""What actor-critic methods share: a policy and a value network, normalisers, acting, and advantages over a batch.

A method holds an `ActorCritic` as a part, so that discrete or continuous, feed-forward or recurrent, flat or pixels,
masked or not is a matter of the part and of the task's spaces, never of the method.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from operant import nn
from operant.agent import option, part
from operant.errors import UserError
from operant.gradient import State
from operant.ops import parallel
from operant.ops.optimizers import Optimizer
from operant.ops.returns import gae
from operant.ops.statistics import Moments
from operant.types import (
    Batch,
    Dict,
    Discrete,
    MultiDiscrete,
    PyTree,
    Space,
    Spec,
    Timestep,
    struct,
    transitions,
    zeros,
)


@struct
class Norm:
    """Running moments of observations, and of discounted returns (whose deviation scales rewards); () where off."""

    observation: PyTree
    discounted_return: PyTree


@struct
class Carry:
    """network: the recurrent state [B, ...] or (); discounted_return [B]: the sum behind reward scaling, or ()."""

    network: PyTree
    discounted_return: PyTree


@part("actor-critic")
class ActorCritic:
    """Policy and value networks with their normalisers."""

    torso: str = option("auto", "encoder: auto (by the observation), mlp, nature, nips, impala, minatar")
    hidden: tuple[int, ...] = option((64, 64), "widths of the hidden layers; torsos of images have their own", low=1)
    activation: str = option(
        "tanh",
        "nonlinearity of the hidden layers; torsos of images have their own",
        choices=("tanh", "relu", "elu", "gelu", "silu"),
    )
    shared: str = option(
        "auto", "one torso for policy and value; auto: for images, and with memory", choices=("auto", "yes", "no")
    )
    recurrent: str = option("", "recurrent cell between torso and heads; empty: none", choices=("", "lstm", "gru"))
    recurrent_size: int = option(128, "units of the recurrent cell", low=1)
    normalize_observation: bool = option(False, "standardise observations by their running moments, clipped at 10")
    normalize_reward: bool = option(False, "divide rewards by the running deviation of discounted returns")

    def check(self) -> None:
        if self.recurrent and self.shared == "no":
            raise UserError("actor-critic: shared is no, but a recurrent network has one torso; expected auto or yes")

    def module(self, spec: Spec) -> nn.ActorCritic:
        """The Linen module for a task: its observation decides the torso, its action space the head."""
        return nn.ActorCritic(
            spec.observation,
            spec.action,
            torso=self.torso,
            hidden=tuple(self.hidden),
            activation=self.activation,
            shared={"auto": "auto", "yes": True, "no": False}[self.shared],
            recurrent=self.recurrent,
            recurrent_size=self.recurrent_size,
        )

    def init(self, key: PRNGKeyArray, spec: Spec, optimizer: Optimizer) -> State:
        """Fresh parameters, optimizer state and normalisers."""
        module = self.module(spec)
        observation = zeros(spec.observation, (1, 1))
        first = jnp.ones((1, 1), bool)
        params = module.init(key, observation, module.initial_carry(1), first)["params"]
        norm = Norm(
            Moments.init(zeros(spec.observation)) if self.normalize_observation else (),
            Moments.init(jnp.zeros(())) if self.normalize_reward else (),
        )
        return State(params, optimizer.init(params), jnp.zeros((), jnp.int32), norm, spec)

    def start(self, state: State, batch_size: int) -> Carry:
        network = self.module(state.spec).initial_carry(batch_size)
        return Carry(network, jnp.zeros(batch_size) if self.normalize_reward else ())

    def act(
        self, state: State, timestep: Timestep, carry: Carry, key: PRNGKeyArray, explore: bool, gamma: Array | float
    ) -> tuple[PyTree, Carry, dict]:
        """Samples from the policy (its mode where `explore` is False). extras: log_prob [B], value [B]."""
        add_time = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
        (policy, value), network = self._apply(
            state.params,
            state,
            add_time(timestep.observation),
            carry.network,
            timestep.first[None],
            add_time(timestep.action_mask),
        )
        if explore:
            action, log_prob = policy.sample_and_log_prob(key)
        else:
            action = policy.mode()
            log_prob = policy.log_prob(action)
        extras = {"log_prob": log_prob[0], "value": value[0]}
        running = carry.discounted_return
        if self.normalize_reward:
            running = gamma * jnp.where(timestep.first, 0.0, running) + timestep.reward
            extras["discounted_return"] = running
        return jax.tree.map(lambda x: x[0], action), Carry(network, running), extras

    def evaluate(self, params: PyTree, state: State, batch: Batch) -> tuple[PyTree, Float[Array, "T B"]]:
        """The policy's distributions and the values at every observation of the batch, under `params`."""
        carry = batch.carry.network if isinstance(batch.carry, Carry) else ()
        outputs, _ = self._apply(params, state, batch.observation, carry, batch.first, batch.action_mask)
        return outputs

    def _apply(self, params, state, observation, carry, first, action_mask):
        if self.normalize_observation:
            observation = normalize(observation, state.norm.observation, state.spec.observation, clip=10.0)
        return self.module(state.spec).apply({"params": params}, observation, carry, first, action_mask)

    def values(self, state: State, batch: Batch) -> Float[Array, "T1 B"]:
        """V at every observation under the parameters that acted: kept from acting, so that a feed-forward network
        only has to look at the last observation."""
        if self.recurrent:
            return self.evaluate(state.params, state, batch)[1]
        last = lambda tree: jax.tree.map(lambda x: x[-1:], tree)  # noqa: E731
        end = batch.replace(
            observation=last(batch.observation), first=batch.first[-1:], action_mask=last(batch.action_mask)
        )
        return jnp.concatenate([batch.extras["value"], self.evaluate(state.params, state, end)[1]])

    def rewards(self, state: State, batch: Batch) -> Float[Array, "T B"]:
        """The batch's rewards as they are learned from."""
        if not self.normalize_reward:
            return batch.reward
        return jnp.clip(batch.reward * state.norm.discounted_return.inverse_deviation(), -10.0, 10.0)

    def with_advantages(
        self, state: State, batch: Batch, gamma: Array | float, gae_lambda: Array | float, bootstrap: bool = True
    ) -> Batch:
        """Adds to extras: advantage, target, value [T, B] (GAE under the parameters that acted; Schulman et al. 2016).

        bootstrap  whether the value stands for what comes behind the last step; else nothing does

        The gradient with respect to gamma and gae_lambda is kept: only the values are constants.  A batch that brings
        advantages of its own keeps them: a learned update rule puts its targets there.
        """
        if "advantage" in batch.extras:
            return batch
        value = jax.lax.stop_gradient(self.values(state, batch))
        value = value if bootstrap else value.at[-1].set(0.0)
        advantage = advantages(self.rewards(state, batch), value, batch, gamma, gae_lambda)
        extras = {**batch.extras, "advantage": advantage, "target": advantage + value[:-1], "value": value[:-1]}
        return batch.replace(extras=extras)

    def rows(
        self, state: State, batch: Batch, gamma: Array | float, gae_lambda: Array | float, bootstrap: bool = True
    ) -> Batch:
        """The transitions of a rollout, with advantages; a minibatch (it has no last observation) has them already."""
        if len(batch.first) == len(batch.reward):
            return batch
        return transitions(self.with_advantages(state, batch, gamma, gae_lambda, bootstrap))

    def update_norm(self, state: State, batch: Batch) -> State:
        """Normalisers learn from valid rows *after* the gradient steps, which must see what acting saw."""
        norm = state.norm
        if self.normalize_observation:
            observation = jax.tree.map(lambda x: x[:-1], batch.observation)
            norm = norm.replace(observation=norm.observation.update(observation, batch.valid))
        if self.normalize_reward:
            seen = batch.extras["discounted_return"]
            norm = norm.replace(discounted_return=norm.discounted_return.update(seen, jnp.ones_like(batch.valid)))
        return state.replace(norm=norm)


def advantages(
    reward: Float[Array, "T B"], value: Float[Array, "T1 B"], batch: Batch, gamma: Array | float, lam: Array | float
) -> Float[Array, "T B"]:
    """GAE of these rewards over these values, in the batch's episodes (Schulman et al. 2016, eq. 16)."""
    columns = (reward, batch.discount, batch.valid, value)
    return jax.vmap(gae, in_axes=(1, 1, 1, 1, None, None), out_axes=1)(*columns, gamma, lam)


def normalize(observation: PyTree, moments: Moments, space: Space, clip: float) -> PyTree:
    """Observations standardised and clipped, but for the integers of a discrete space: they are names, not amounts."""
    if isinstance(space, Dict):
        parts = {name: Moments(moments.count, moments.mean[name], moments.variance[name]) for name, _ in space.items}
        return {name: normalize(observation[name], parts[name], sub, clip) for name, sub in space.items}
    return observation if isinstance(space, (Discrete, MultiDiscrete)) else moments.normalize(observation, clip=clip)


def explained_variance(value: Float[Array, "T B"], target: Float[Array, "T B"], valid: Float[Array, "T B"]) -> Array:
    """1 - Var[target - value] / Var[target] over valid rows: 1 for a perfect critic, 0 for a constant one."""

    def variance(x):
        count = jnp.maximum(parallel.psum(valid.sum()), 1.0)
        mean = parallel.psum((x * valid).sum()) / count
        return parallel.psum((jnp.square(x - mean) * valid).sum()) / count

    return 1.0 - variance(target - value) / jnp.maximum(variance(target), 1e-8)
