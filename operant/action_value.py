"""What value-based methods share: the network of action values, and the parts in which the DQN lineage differs.

A method holds a `QNetwork`, a head (what a value is: a number, a distribution), a target (which next action counts)
and an exploration, each a part handed over.  Joint actions of a MultiDiscrete space are numbered, so that one action
value stands for each.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from operant import nn
from operant.agent import dial, option, part
from operant.errors import UserError
from operant.gradient import State
from operant.ops import exploration, losses
from operant.ops.returns import categorical_projection
from operant.types import Discrete, MultiDiscrete, PyTree, Space, Spec, struct, zeros

MOST_JOINT_ACTIONS = 10_000


@struct(static=("spec",))
class TargetState(State):
    """`State` with the target network's parameters, and the environment steps at which they were last copied."""

    target: PyTree
    copied: Int[Array, ""]


def copy_when_due(state: TargetState, period: int) -> TargetState:
    """The state whose target is the online network, if `period` environment steps have passed; 0: always."""
    due = state.steps - state.copied >= period
    target = jax.tree.map(lambda new, old: jnp.where(due, new, old), state.params, state.target)
    return state.replace(target=target, copied=jnp.where(due, state.steps, state.copied))


# ------------------------------------------------------------------------------------------------------------ actions
def num_actions(space: Space) -> int:
    """How many (joint) actions there are. Raises UserError where they cannot be numbered."""
    match space:
        case Discrete():
            return space.n
        case MultiDiscrete() if math.prod(space.nvec) <= MOST_JOINT_ACTIONS:
            return math.prod(space.nvec)
        case MultiDiscrete():
            raise UserError(
                f"action values for {math.prod(space.nvec):,} joint actions are too many (at most "
                f"{MOST_JOINT_ACTIONS:,}): choose a method with a policy, such as ppo"
            )
    raise UserError(f"action values need discrete actions, not {space}: choose ppo or sac")


def number_of(action: PyTree, space: Space) -> Int[Array, "*B"]:
    """Which of the joint actions this is."""
    if isinstance(space, Discrete):
        return action
    number = jnp.zeros(action.shape[:-1], jnp.int32)
    for i, n in enumerate(space.nvec):
        number = number * n + action[..., i]
    return number


def action_of(number: Int[Array, "*B"], space: Space) -> PyTree:
    """The joint action of that number."""
    if isinstance(space, Discrete):
        return number
    parts = []
    for n in space.nvec[::-1]:
        parts.append(number % n)
        number = number // n
    return jnp.stack(parts[::-1], axis=-1)


def joint_mask(mask: Bool[Array, "*B M"] | None, space: Space) -> Bool[Array, "*B A"] | None:
    """Which joint actions are allowed, from the masks of all parts side by side: those whose every part is."""
    if mask is None or isinstance(space, Discrete):
        return mask
    joint, start = jnp.ones((*mask.shape[:-1], 1), bool), 0
    for n in space.nvec:
        joint = (joint[..., :, None] & mask[..., None, start : start + n]).reshape(*mask.shape[:-1], -1)
        start += n
    return joint


# ------------------------------------------------------------------------------------------------------------ network
@part("q-network")
class QNetwork:
    """The network of action values; what its outputs mean is the head's matter."""

    torso: str = option("auto", "encoder: auto (by the observation), mlp, nature, nips, impala, minatar")
    hidden: tuple[int, ...] = option(
        (), "widths of the fully connected layers; none given: 64-64 for vectors, 128 small grids, 512 images", low=1
    )
    activation: str = option(
        "relu", "nonlinearity of the hidden layers", choices=("tanh", "relu", "elu", "gelu", "silu")
    )
    noise: str = option("none", "learned noise in the fully connected layers of the head", choices=("none", "noisy"))

    def module(self, spec: Spec, head: Head) -> nn.ActionValue:
        """The Linen module for a task and a head."""
        return nn.ActionValue(
            spec.observation,
            num_actions(spec.action),
            shape=head.shape,
            dueling=head.streams == 2,
            torso=self.torso,
            hidden=tuple(self.hidden),
            activation=self.activation,
            sigma0=0.5 if self.noise == "noisy" else 0.0,
        )

    def init(self, key: PRNGKeyArray, spec: Spec, head: Head) -> PyTree:
        """Fresh parameters."""
        module, first = self.module(spec, head), jnp.ones((1, 1), bool)
        return module.init(key, zeros(spec.observation, (1, 1)), module.initial_carry(1), first)["params"]

    def apply(
        self, params: PyTree, spec: Spec, head: Head, observation: PyTree, noise: PRNGKeyArray | None = None
    ) -> Float[Array, "*B A *shape"]:
        """The head's outputs for each action; with noise where a key is given and the network has any."""
        return self.module(spec, head).apply(self._variables(params, noise), observation)[0]

    def _variables(self, params, noise):
        drawn = {} if noise is None else nn.draw_noise(noise, params)
        return {"params": params, "noise": drawn}


@part("recurrent-q-network")
class RecurrentQNetwork(QNetwork):
    """The network of action values with memory; it is unrolled over time, not applied to single observations."""

    recurrent: str = option("lstm", "recurrent cell between torso and head", choices=("lstm", "gru"))
    recurrent_size: int = option(128, "units of the recurrent cell", low=1)

    def module(self, spec: Spec, head: Head) -> nn.ActionValue:
        return super().module(spec, head).clone(recurrent=self.recurrent, recurrent_size=self.recurrent_size)

    def start(self, spec: Spec, head: Head, batch_size: int) -> PyTree:
        """The recurrent state [B, ...] at the start of an episode."""
        return self.module(spec, head).initial_carry(batch_size)

    def unroll(
        self,
        params: PyTree,
        spec: Spec,
        head: Head,
        observation: PyTree,
        carry: PyTree,
        first: Bool[Array, "T B"],
        noise: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "T B A *shape"], PyTree]:
        """The head's outputs for observations [T, B, ...] that follow each other, and the recurrent state [B, ...]
        after them; `carry` is the one before, which is reset where `first` is true."""
        return self.module(spec, head).apply(self._variables(params, noise), observation, carry, first)


# --------------------------------------------------------------------------------------------------------------- heads
@part("plain")
class Plain:
    """One number for each action: its expected return."""

    huber: float = dial(1.0, "error from which on the loss grows linearly; inf: squared error", low=0.0)
    streams: int = option(1, "1: one stream; 2: dueling streams for V and A", low=1, high=2)

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def values(self, outputs: Float[Array, "*B A"]) -> Float[Array, "*B A"]:
        """Q(s, a)."""
        return outputs

    def loss(
        self, chosen: Float[Array, "S"], following: Float[Array, "S"], reward: Array, discount: Array
    ) -> tuple[Float[Array, "S"], Float[Array, "S"]]:
        """The loss of each sample towards reward + discount * following, and its priority."""
        error = reward + discount * following - chosen
        return losses.huber(error, self.huber), jnp.abs(error)


@part("dueling")
class Dueling(Plain):
    """One number for each action, from streams for V and A (Wang et al. 2016)."""

    streams: int = option(2, "1: one stream; 2: dueling streams for V and A", low=1, high=2)


@part("categorical")
class Categorical:
    """The distribution of returns on fixed atoms: C51 (Bellemare et al. 2017)."""

    v_min: float = dial(-10.0, "the lowest atom", low=-1e6, high=1e6)
    v_max: float = dial(10.0, "the highest atom", low=-1e6, high=1e6)
    num_atoms: int = option(51, "atoms of the distribution", low=2)
    streams: int = option(1, "1: one stream; 2: dueling streams for V and A", low=1, high=2)

    def check(self) -> None:
        if not float(jnp.max(jnp.asarray(self.v_min))) < float(jnp.min(jnp.asarray(self.v_max))):
            raise UserError(f"categorical: v_min {self.v_min} is not below v_max {self.v_max}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_atoms,)

    @property
    def atoms(self) -> Float[Array, "N"]:
        return self.v_min + (self.v_max - self.v_min) * jnp.linspace(0.0, 1.0, self.num_atoms)

    def values(self, outputs: Float[Array, "*B A N"]) -> Float[Array, "*B A"]:
        """The mean of each action's distribution."""
        return jax.nn.softmax(outputs) @ self.atoms

    def loss(
        self, chosen: Float[Array, "S N"], following: Float[Array, "S N"], reward: Array, discount: Array
    ) -> tuple[Float[Array, "S"], Float[Array, "S"]]:
        """Cross-entropy with the projected target (algorithm 1); the priority is the KL divergence."""
        moved = reward[:, None] + discount[:, None] * self.atoms
        project = jax.vmap(categorical_projection, in_axes=(0, 0, None))
        target = project(moved, jax.nn.softmax(following), self.atoms)
        loss = losses.categorical_cross_entropy(target, chosen)
        entropy = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=-1)
        return loss, loss - entropy


@part("quantile")
class Quantile:
    """Quantiles of the distribution of returns: QR-DQN (Dabney et al. 2018)."""

    huber: float = dial(1.0, "error from which on the loss grows linearly", low=0.0)
    num_quantiles: int = option(200, "quantiles", low=1)
    streams: int = option(1, "1: one stream; 2: dueling streams for V and A", low=1, high=2)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_quantiles,)

    def values(self, outputs: Float[Array, "*B A N"]) -> Float[Array, "*B A"]:
        """The mean over the quantiles."""
        return outputs.mean(-1)

    def loss(
        self, chosen: Float[Array, "S N"], following: Float[Array, "S N"], reward: Array, discount: Array
    ) -> tuple[Float[Array, "S"], Float[Array, "S"]]:
        """Quantile regression on the target's quantiles (algorithm 1); the priority is the mean's error."""
        targets = reward[:, None] + discount[:, None] * following
        taus = (jnp.arange(self.num_quantiles) + 0.5) / self.num_quantiles
        loss = jax.vmap(losses.quantile_huber, in_axes=(0, None, 0, None))(chosen, taus, targets, self.huber)
        return loss, jnp.abs(targets.mean(-1) - chosen.mean(-1))


Head = Plain | Categorical | Quantile
HEADS = (Plain, Dueling, Categorical, Quantile)


# ------------------------------------------------------------------------------------------------------------- targets
@part("max")
class Max:
    """The next action is the best by the target network itself (Mnih et al. 2015)."""

    def choose(self, target: Float[Array, "*B A"], online: Float[Array, "*B A"]) -> Int[Array, "*B"]:
        return target.argmax(-1)


@part("double")
class Double:
    """The next action is the best by the online network, its value the target network's (van Hasselt et al. 2016)."""

    def choose(self, target: Float[Array, "*B A"], online: Float[Array, "*B A"]) -> Int[Array, "*B"]:
        return online.argmax(-1)


TARGETS = (Max, Double)


# --------------------------------------------------------------------------------------------------------- exploration
@part("by-time")
class ByTime:
    """Epsilon falls in a line over the first part of the run."""

    start: float = dial(1.0, "epsilon at the start", low=0.0, high=1.0)
    end: float = dial(0.05, "epsilon from the end of the decay on", low=0.0, high=1.0)
    fraction: float = dial(0.1, "share of the planned length over which it falls", low=0.0, high=1.0)

    def epsilon(self, state: State, env_index: Int[Array, "B"]) -> Float[Array, "B"]:
        """The probability of a random action in each environment."""
        epsilon = exploration.linear_schedule(state.progress, self.start, self.end, self.fraction)
        return jnp.broadcast_to(epsilon, env_index.shape)


@part("by-index")
class ByIndex:
    """Each environment has an epsilon of its own, for good: base ** (1 + alpha i / (B - 1)) (Horgan et al. 2018)."""

    base: float = dial(0.4, "epsilon of the environment that explores the most", low=0.0, high=1.0)
    alpha: float = dial(7.0, "how much less the others do", low=0.0)

    def epsilon(self, state: State, env_index: Int[Array, "B"]) -> Float[Array, "B"]:
        """The probability of a random action in each environment."""
        return exploration.ape_x_epsilons(state.spec.num_envs, self.base, self.alpha)[env_index]


@part("by-worker")
class ByWorker:
    """Epsilon falls in a line to an end of each environment's own: 0.1, 0.01 or 0.5 (Mnih et al. 2016, section 4).

    The paper draws the ends with probabilities 0.4, 0.3 and 0.3; here the environments are shared out in these parts.
    """

    fraction: float = dial(0.1, "share of the planned length over which it falls", low=0.0, high=1.0)

    def epsilon(self, state: State, env_index: Int[Array, "B"]) -> Float[Array, "B"]:
        """The probability of a random action in each environment."""
        place = (env_index + 0.5) / state.spec.num_envs
        end = jnp.array([0.1, 0.01, 0.5])[jnp.searchsorted(jnp.array([0.4, 0.7]), place)]
        return exploration.linear_schedule(state.progress, 1.0, end, self.fraction)


EXPLORATIONS = (ByTime, ByIndex, ByWorker)


def choose_action(
    key: PRNGKeyArray,
    values: Float[Array, "B A"],
    epsilon: Float[Array, "B"] | float,
    mask: Bool[Array, "B M"] | None,
    space: Space,
) -> PyTree:
    """An epsilon-greedy action of the environment's action space."""
    return action_of(exploration.epsilon_greedy(key, values, epsilon, joint_mask(mask, space)), space)


def allowed_values(values: Float[Array, "*B A"], mask: PyTree, space: Space) -> Float[Array, "*B A"]:
    """Action values with -inf for those that are forbidden."""
    mask = joint_mask(mask, space)
    return values if mask is None else jnp.where(mask, values, -jnp.inf)
