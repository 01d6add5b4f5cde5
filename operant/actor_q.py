"""What off-policy actor-critics share: policy and critics, their target copies, a sample as one transition, noise.

The parameters of a method are a dictionary of parts (`actor`, `critic`, duals).  One `loss` over all of them, in which
each term sees the other parts through `stop_gradient`, gives each part its own gradient in one backward pass; then
every part takes a step with an optimizer of its own.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from operant import action_value as av
from operant import nn
from operant.agent import dial, option, part
from operant.errors import UserError
from operant.gradient import Loss, Metrics, State, gradient_step
from operant.ops import exploration, losses
from operant.ops.distributions import Categorical, Distribution, MultiCategorical
from operant.ops.optimizers import Optimizer, adam, clip_by_global_norm
from operant.ops.returns import n_step_parts
from operant.types import Batch, Box, PyTree, Space, Spec, Timestep, struct, zeros

Scalar = float | Float[Array, ""]


@struct(static=("spec",))
class ActorQState(State):
    """`State` with slow copies of some parts of `params`, and how many gradient steps were taken."""

    target: PyTree
    updates: Int[Array, ""]


def begin(params: dict[str, PyTree], spec: Spec, targets: tuple[str, ...]) -> ActorQState:
    """The state at the start, with target copies of the parts named in `targets`."""
    optimizer, zero = by_part(dict.fromkeys(params, 0.0)), jnp.zeros((), jnp.int32)
    copies = {name: jax.tree.map(jnp.copy, params[name]) for name in targets}  # buffers of their own: they are donated
    return ActorQState(params, optimizer.init(params), zero, (), spec, copies, zero)


def by_part(
    learning_rates: dict[str, Scalar], max_grad_norm: Scalar = math.inf, due: dict[str, Bool[Array, ""]] | None = None
) -> Optimizer:
    """Adam for each part of the parameters by itself: with a step size and a norm of the gradient of its own.

    A part whose entry in `due` is False stands still, moments included.
    """

    def init(params):
        return {name: adam(rate).init(params[name]) for name, rate in learning_rates.items()}

    def update(gradients, state, params):
        updates, new = {}, {}
        for name, rate in learning_rates.items():
            gradient, _ = clip_by_global_norm(gradients[name], max_grad_norm)
            updates[name], new[name] = adam(rate).update(gradient, state[name], params[name])
            if due and name in due:
                go = due[name]
                updates[name] = jax.tree.map(lambda u, go=go: jnp.where(go, u, 0.0), updates[name])
                new[name] = jax.tree.map(lambda x, y, go=go: jnp.where(go, x, y), new[name], state[name])
        return updates, new

    return Optimizer(init, update)


def learn(
    loss: Loss,
    state: ActorQState,
    batch: Batch,
    key: PRNGKeyArray,
    learning_rates: dict[str, Scalar],
    *,
    max_grad_norm: Scalar = math.inf,
    tau: Scalar = 1.0,
    target_period: int = 1,
    actor_period: int = 1,
) -> tuple[ActorQState, Metrics, Float[Array, "S"]]:
    """One step down `loss`, then one of the targets; also the metrics, and the priorities that the loss gave.

    tau            the targets' step towards the parameters, in every `target_period`-th gradient step
    actor_period   gradient steps for each of the part called "actor"
    """
    updates = state.updates + 1
    due = {} if actor_period == 1 else {"actor": updates % actor_period == 0}
    optimizer = by_part(learning_rates, max_grad_norm, due)
    new, metrics = gradient_step(loss, optimizer, state, batch, key)
    priority = metrics.pop("priority")
    share = jnp.where(updates % target_period == 0, tau, 0.0)
    online = {name: new.params[name] for name in state.target}
    target = jax.tree.map(lambda old, x: (1.0 - share) * old + share * x, state.target, online)
    return new.replace(target=target, updates=updates), metrics, priority


# ------------------------------------------------------------------------------------------------------------ networks
@part("tower")
class Tower:
    """The layers of a policy or a critic: an encoder that the observation decides, and fully connected layers."""

    torso: str = option("auto", "encoder: auto (by the observation), mlp, nature, nips, impala, minatar")
    hidden: tuple[int, ...] = option((256, 256), "widths of the fully connected layers", low=1)
    activation: str = option(
        "relu", "nonlinearity of the hidden layers", choices=("tanh", "relu", "elu", "gelu", "silu")
    )


@part("policy")
class Policy(Tower):
    """The network of a policy; the method says which head it has (see `nn.Policy`)."""

    def module(self, spec: Spec, head: str, initial_log_std: float = 0.0) -> nn.Policy:
        """The Linen module for a task."""
        layers = (self.torso, tuple(self.hidden), self.activation)
        return nn.Policy(spec.observation, spec.action, *layers, head, initial_log_std)

    def init(self, key: PRNGKeyArray, spec: Spec, head: str, initial_log_std: float = 0.0) -> PyTree:
        """Fresh parameters. Raises UserError for actions without bounds, which a tanh could not reach."""
        if isinstance(spec.action, Box) and not spec.action.bounded:
            raise UserError(f"the actions {spec.action} have no bounds; expected a bounded Box: choose ppo")
        return self.module(spec, head, initial_log_std).init(key, zeros(spec.observation, (1,)))["params"]

    def apply(
        self, params: PyTree, spec: Spec, head: str, observation: PyTree, mask: Bool[Array, "*B A"] | None = None
    ) -> Any:
        """The distribution of actions, or the action where the head is deterministic."""
        return self.module(spec, head).apply({"params": params}, observation, mask)


@part("critic")
class Critic(Tower):
    """The network of Q(s, a), of which there may be several side by side: their parameters have a leading axis [N].

    One product over that axis and N separate ones take the same time: measured on two CPU cores, an update of SAC
    with two critics (256-256, batch 256) takes 8.4 and 8.6 ms of processor time, three lanes of it 24.5 and 24.1.
    """

    def module(self, spec: Spec, shape: tuple[int, ...] = ()) -> nn.Critic:
        """The Linen module for a task, and outputs of `shape`."""
        actions = 0 if isinstance(spec.action, Box) else av.num_actions(spec.action)
        return nn.Critic(spec.observation, actions, shape, self.torso, tuple(self.hidden), self.activation)

    def init(self, key: PRNGKeyArray, spec: Spec, number: int, shape: tuple[int, ...] = ()) -> PyTree:
        """Fresh parameters of so many critics."""
        observation = zeros(spec.observation, (1,))
        action = self._input(zeros(spec.action, (1,)), spec.action)
        return jax.vmap(lambda key: self.module(spec, shape).init(key, observation, action)["params"])(
            jax.random.split(key, number)
        )

    def all(self, params: PyTree, spec: Spec, observation: PyTree) -> Float[Array, "N *B A"]:
        """Q(s, .) of every (joint) action, by each critic."""
        return self._each(params, self.module(spec), observation)

    def of(
        self, params: PyTree, spec: Spec, observation: PyTree, action: PyTree, shape: tuple[int, ...] = ()
    ) -> Float[Array, "N *M *B *shape"]:
        """Q(s, a) by each critic, of actions [*M, *B, ...] with any axes before those of the observation."""
        if not isinstance(spec.action, Box):
            return chosen(self.all(params, spec, observation), action, spec.action)
        return self._each(params, self.module(spec, shape), observation, self._input(action, spec.action))

    @staticmethod
    def _each(params: PyTree, module: nn.Critic, *inputs: PyTree) -> Any:
        """The outputs [N, ...] of all critics."""
        return jax.vmap(lambda one: module.apply({"params": one}, *inputs))(params)

    @staticmethod
    def _input(action: PyTree, space: Space) -> Float[Array, "*B D"] | None:
        """An action of a Box as a vector; nothing for discrete ones, which are outputs."""
        if not isinstance(space, Box):
            return None
        return action.reshape(*action.shape[: action.ndim - len(space.shape)], -1)


def chosen(values: Float[Array, "N *B A"], action: PyTree, space: Space) -> Float[Array, "N *M *B"]:
    """The values of some (joint) actions among those of all."""
    number = av.number_of(action, space)
    extra = number.ndim - (values.ndim - 2)
    values = values.reshape(values.shape[:1] + (1,) * extra + values.shape[1:])
    number = jnp.broadcast_to(number, values.shape[:1] + number.shape)
    values = jnp.broadcast_to(values, number.shape + values.shape[-1:])
    return jnp.take_along_axis(values, number[..., None], axis=-1)[..., 0]


def joint_log_probs(policy: Distribution) -> Float[Array, "*B A"]:
    """Log-probabilities of all joint actions of a discrete policy, numbered as in `action_value`."""
    if isinstance(policy, Categorical):
        return jax.nn.log_softmax(policy.logits)
    assert isinstance(policy, MultiCategorical)
    parts = jax.nn.log_softmax(policy.parts.logits)
    joint = jnp.zeros((*parts.shape[:-2], 1))
    for i, n in enumerate(policy.nvec):
        joint = (joint[..., :, None] + parts[..., i, None, :n]).reshape(*parts.shape[:-2], -1)
    return joint


# -------------------------------------------------------------------------------------------------------------- sample
@struct
class Transition:
    """A memory's sample [n, S] as n-step transitions: from `here` by `action` to `there`, each (observation, mask).

    reward, discount   R and D of the target R + D V(there); D is 0 where the MDP terminated within
    valid, weight      0 where it is no experience; importance weights
    """

    here: tuple[PyTree, PyTree]
    there: tuple[PyTree, PyTree]
    action: PyTree
    reward: Float[Array, "S"]
    discount: Float[Array, "S"]
    valid: Float[Array, "S"]
    weight: Float[Array, "S"]

    def mean(self, x: Float[Array, "S"]) -> Float[Array, ""]:
        """The mean over what is experience."""
        return losses.masked_mean(x, self.valid)

    def target(self, value: Float[Array, "S"]) -> Float[Array, "S"]:
        """R + D V for the value of `there`, which is a constant; the gradient with respect to gamma is kept."""
        return self.reward + self.discount * jax.lax.stop_gradient(value)

    def regression(
        self, q: Float[Array, "N S"], target: Float[Array, "S"]
    ) -> tuple[Float[Array, ""], Float[Array, "S"]]:
        """The squared errors of all critics, weighted, halved and added; and the size of each sample's error."""
        error = target - q
        return self.mean(losses.l2(error).sum(0) * self.weight), jnp.abs(error).mean(0)


def transition(batch: Batch, gamma: Scalar) -> Transition:
    """The n-step transitions of a sample."""
    at = lambda tree, i: jax.tree.map(lambda x: x[i], tree)  # noqa: E731
    reward, discount = jax.vmap(n_step_parts, (1, 1, 1, None))(batch.reward, batch.discount, batch.valid, gamma)
    here, there = (at((batch.observation, batch.action_mask), i) for i in (0, -1))
    weight = jnp.ones_like(reward) if batch.weight is None else batch.weight[0]
    return Transition(here, there, at(batch.action, 0), reward, discount, batch.valid[0], weight)


# --------------------------------------------------------------------------------------------------------- exploration
def random_at_first(key: PRNGKeyArray, state: State, random_steps: int, action: PyTree, timestep: Timestep) -> PyTree:
    """`action`, but in the first `random_steps` environment steps any that is allowed, each as likely."""
    space = state.spec.action
    if isinstance(space, Box):
        anything = jax.random.uniform(key, action.shape, minval=-1.0, maxval=1.0)
    else:
        indifferent = jnp.zeros((timestep.reward.shape[0], av.num_actions(space)))
        anything = av.choose_action(key, indifferent, 1.0, timestep.action_mask, space)
    return jax.tree.map(lambda x, y: jnp.where(state.steps < random_steps, x, y), anything, action)


@part("gaussian-noise")
class GaussianNoise:
    """Noise that is drawn anew in each step."""

    scale: float = dial(0.1, "standard deviation, in actions from -1 to 1", low=0.0)

    def start(self, spec: Spec, batch_size: int) -> PyTree:
        """Nothing is remembered."""
        return ()

    def add(self, key: PRNGKeyArray, action: Float[Array, "B *D"], carry: PyTree, first: Bool[Array, "B"]) -> tuple:
        """The noisy action, and what is remembered."""
        return exploration.gaussian_noise(key, action, self.scale), carry


@part("ou-noise")
class OUNoise:
    """Noise with inertia, from zero in each episode: an Ornstein-Uhlenbeck process (Lillicrap et al. 2016)."""

    theta: float = dial(0.15, "how fast it returns to zero, per step", low=0.0, high=1.0)
    sigma: float = dial(0.2, "standard deviation of what is added in a step", low=0.0)

    def start(self, spec: Spec, batch_size: int) -> PyTree:
        """No noise yet."""
        return jnp.zeros((batch_size, *spec.action.shape))

    def add(self, key: PRNGKeyArray, action: Float[Array, "B *D"], carry: PyTree, first: Bool[Array, "B"]) -> tuple:
        """The noisy action, and the noise."""
        noise = jnp.where(first.reshape(-1, *[1] * (carry.ndim - 1)), 0.0, carry)
        noise = exploration.ornstein_uhlenbeck(key, noise, self.theta, self.sigma)
        return jnp.clip(action + noise, -1.0, 1.0), noise


NOISES = (GaussianNoise, OUNoise)
