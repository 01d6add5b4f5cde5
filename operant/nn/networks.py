"""Networks: `(observation, carry, first) -> (outputs, carry)`."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from operant.nn.heads import DuelingHead, PolicyHead, QHead, ValueHead
from operant.nn.recurrent import CELLS, Carry
from operant.nn.torsos import MLP, Torso, dense, has_image, is_image
from operant.ops.distributions import Distribution
from operant.types import Dict, Space


class ActorCritic(nn.Module):
    """A policy and a value, for any observation and action space, with or without memory.

    torso, hidden, activation    see `Torso`
    shared                       True: one torso for both heads; False: one each; "auto": one where there are images
    recurrent, recurrent_size    "lstm" or "gru" after a torso that is then always shared; "": no memory, carry ()
    policy_scale, value_scale    gains of the heads' orthogonal weights
    squash, state_dependent_std, initial_log_std    see `PolicyHead`
    """

    observation_space: Space
    action_space: Space
    torso: str = "auto"
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    shared: bool | str = "auto"
    recurrent: str = ""
    recurrent_size: int = 128
    policy_scale: float = 0.01
    value_scale: float = 1.0
    squash: bool = False
    state_dependent_std: bool = False
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(
        self,
        observation: PyTree[Shaped[Array, "T B ..."]],
        carry: Carry = (),
        first: Bool[Array, "T B"] | None = None,
        mask: Bool[Array, "T B A"] | None = None,
    ) -> tuple[tuple[Distribution, Float[Array, "T B"]], Carry]:
        """Without memory any leading axes will do, and `carry` and `first` have nothing to act on."""

        def torso(name: str) -> Float[Array, "T B features"]:
            return Torso(self.observation_space, self.torso, self.hidden, self.activation, name=name)(observation)

        if self.recurrent:
            if first is None:
                raise ValueError("a recurrent network needs `first` [T, B]: it resets its carry there")
            features, carry = self._cell(name="cell")(torso("torso"), carry, first)
            for_policy = for_value = features
        elif self.shared is True or (self.shared == "auto" and has_image(self.observation_space)):
            for_policy = for_value = torso("torso")
        else:
            # Two plain towers. One batched product over a leading tower axis is slower: measured on two CPU cores,
            # a PPO update step (64-64 tanh, forward, backward, Adam, in a scan) takes 59 against 63 us at batch 128
            # and 758 against 1076 us at 2048; a concatenated first layer gains nothing (60 and 723 us), block-
            # diagonal layers lose (138 us at 128). A relu instead of tanh saves 8 %, so tanh is not worth replacing.
            for_policy, for_value = torso("actor_torso"), torso("critic_torso")

        std = (self.squash, self.state_dependent_std, self.initial_log_std)
        policy = PolicyHead(self.action_space, self.policy_scale, *std, name="policy")(for_policy, mask)
        return (policy, ValueHead(self.value_scale, name="value")(for_value)), carry

    @nn.nowrap
    def initial_carry(self, batch_size: int) -> Carry:
        """The carry at the start of an episode; () without memory. Needs no parameters."""
        return self._cell(parent=None).initial_carry(batch_size) if self.recurrent else ()

    @nn.nowrap
    def _cell(self, **kwargs) -> nn.Module:
        return recurrent_cell(self.recurrent, self.recurrent_size, **kwargs)


def recurrent_cell(kind: str, size: int, **kwargs) -> nn.Module:
    """The recurrent cell called `kind`, with `size` units."""
    if kind not in CELLS:
        raise ValueError(f"unknown recurrent cell {kind!r}; choose from {', '.join(CELLS)}")
    return CELLS[kind](size, **kwargs)


class ActionValue(nn.Module):
    """Q(s, a) of every action, each of `shape` numbers, for any observation space.

    torso, activation          see `Torso`
    hidden                     widths of the fully connected layers, the last of which belongs to the head: after it in
                               a plain head, in each stream of a dueling one; (): the usual ones for the observation
    dueling, shape, sigma0     see `DuelingHead`, `NoisyDense`
    recurrent, recurrent_size  "lstm" or "gru" between the torso (then with a layer of its own) and the head; "": none
    """

    observation_space: Space
    num_actions: int
    shape: tuple[int, ...] = ()
    dueling: bool = False
    torso: str = "auto"
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    sigma0: float = 0.0
    recurrent: str = ""
    recurrent_size: int = 128

    @nn.compact
    def __call__(
        self,
        observation: PyTree[Shaped[Array, "T B ..."]],
        carry: Carry = (),
        first: Bool[Array, "T B"] | None = None,
    ) -> tuple[Float[Array, "T B A *shape"], Carry]:
        """Without memory any leading axes will do, and `carry` and `first` have nothing to act on."""
        hidden = self.hidden or usual_hidden(self.observation_space, self.torso)
        torso = Torso(self.observation_space, self.torso, hidden[:-1], self.activation, not self.recurrent)
        features = torso(observation)
        if self.recurrent:
            if first is None:
                raise ValueError("a recurrent network needs `first` [T, B]: it resets its carry there")
            features, carry = self._cell(name="cell")(features, carry, first)
        head = DuelingHead if self.dueling else QHead
        q = head(self.num_actions, self.shape, hidden=hidden[-1:], sigma0=self.sigma0, name="head")(features)
        return q, carry

    @nn.nowrap
    def initial_carry(self, batch_size: int) -> Carry:
        """The carry at the start of an episode; () without memory. Needs no parameters."""
        return self._cell(parent=None).initial_carry(batch_size) if self.recurrent else ()

    @nn.nowrap
    def _cell(self, **kwargs) -> nn.Module:
        return recurrent_cell(self.recurrent, self.recurrent_size, **kwargs)


class Policy(nn.Module):
    """A policy by itself, for any observation and action space.

    torso           see `Torso`, of which the hidden layers stand here: vectors enter them as they are
    hidden          widths of the fully connected layers, behind the convolutions where there are any
    head            "gaussian" or "squashed" (see `PolicyHead`; discrete spaces have categorical ones), or
                    "deterministic": not a distribution but one action of a Box, tanh of the output
    initial_log_std Gaussian heads: log_std at the start
    """

    observation_space: Space
    action_space: Space
    torso: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    head: str = "squashed"
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(
        self, observation: PyTree[Shaped[Array, "*B ..."]], mask: Bool[Array, "*B A"] | None = None
    ) -> Distribution | Float[Array, "*B ..."]:
        features = Torso(self.observation_space, self.torso, (), self.activation)(observation)
        features = MLP(self.hidden, self.activation)(features)
        if self.head == "deterministic":
            shape = self.action_space.shape
            action = jnp.tanh(dense(math.prod(shape), 0.01, name="action")(features))
            return action.reshape(action.shape[:-1] + tuple(shape))
        squash = self.head == "squashed"
        head = PolicyHead(self.action_space, 0.01, squash, True, self.initial_log_std, name="policy")
        return head(features, mask)


class Critic(nn.Module):
    """Q(s, a), each of `shape` numbers: of an action that is given, or of all of a finite number.

    num_actions     0: the action is an input, joined to the features of the observation
    torso, hidden   as in `Policy`
    """

    observation_space: Space
    num_actions: int = 0
    shape: tuple[int, ...] = ()
    torso: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"

    @nn.compact
    def __call__(
        self, observation: PyTree[Shaped[Array, "*B ..."]], action: Float[Array, "*N *B D"] | None = None
    ) -> Float[Array, "*N *B *shape"] | Float[Array, "*B A *shape"]:
        """`action` flat, with any axes before those of the observation, whose features are computed once for all."""
        features = Torso(self.observation_space, self.torso, (), self.activation)(observation)
        if action is not None:
            features = jnp.broadcast_to(features, action.shape[:-1] + features.shape[-1:])
            features = jnp.concatenate([features, action], axis=-1)
        features = MLP(self.hidden, self.activation)(features)
        if self.num_actions:
            return QHead(self.num_actions, self.shape, name="head")(features)
        q = QHead(1, self.shape, name="head")(features)
        return q.squeeze(-1 - len(self.shape))


def usual_hidden(space: Space, torso: str) -> tuple[int, ...]:
    """The fully connected widths that the field uses: 512 after the convolutions of large images (Mnih et al. 2015),
    128 of small grids (Young and Tian 2019), 64-64 for vectors."""
    parts = [sub for _, sub in space.items] if isinstance(space, Dict) else [space]
    images = [min(sub.shape[:2]) for sub in parts if is_image(sub)]
    if not images or torso == "mlp":
        return (64, 64)
    return (512,) if max(images) >= 40 else (128,)
