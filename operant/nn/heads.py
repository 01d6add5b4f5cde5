"""Heads: from features to distributions and values. Orthogonal weights, zero biases."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from operant.nn.initial import orthogonal
from operant.nn.torsos import MLP, dense, linear
from operant.ops.distributions import Categorical, Distribution, MultiCategorical, Normal, SquashedNormal, masked
from operant.ops.safe import scale_gradient
from operant.types import Box, Discrete, MultiDiscrete, Space

LOG_STD_RANGE = (-5.0, 2.0)


class PolicyHead(nn.Module):
    """A distribution over actions, whose form the action space decides.

    Discrete: `Categorical`. MultiDiscrete: `MultiCategorical`. Box: `Normal`, or `SquashedNormal` with `squash`.

    scale                a small gain makes the first policy nearly uniform, and nearly the same everywhere
    squash               Box only: tanh keeps actions in [-1, 1], as a bounded Box is acted on
    state_dependent_std  Box only: log_std from the features, clipped to [-5, 2]; else free parameters
    initial_log_std      Box only: log_std at the start
    """

    action_space: Space
    scale: float = 0.01
    squash: bool = False
    state_dependent_std: bool = False
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, features: Float[Array, "*B D"], mask: Bool[Array, "*B A"] | None = None) -> Distribution:
        """`mask` is True where an action is allowed; for MultiDiscrete the masks of all parts side by side."""
        space = self.action_space
        match space:
            case Discrete() | MultiDiscrete():
                nvec = (space.n,) if isinstance(space, Discrete) else space.nvec
                logits = dense(sum(nvec), self.scale, name="logits")(features)
                logits = logits if mask is None else masked(logits, mask)
                return Categorical(logits) if isinstance(space, Discrete) else MultiCategorical(logits, nvec)
            case Box():
                return self._gaussian(features, mask)
        raise TypeError(f"no policy for the action space {space!r}; expected Discrete, MultiDiscrete or Box")

    def _gaussian(self, features, mask) -> Normal | SquashedNormal:
        space = self.action_space
        if mask is not None:
            raise ValueError("actions of a Box cannot be masked; give mask=None")
        if self.squash and not space.bounded:
            raise ValueError(f"squash=True confines actions to [-1, 1], but {space!r} is unbounded; use squash=False")
        size = math.prod(space.shape)
        mean = dense(size, self.scale, name="mean")(features)
        start = nn.initializers.constant(self.initial_log_std)
        if self.state_dependent_std:
            weights = orthogonal(self.scale)
            log_std = nn.Dense(size, kernel_init=weights, bias_init=start, name="log_std")(features)
            log_std = jnp.clip(log_std, *LOG_STD_RANGE)
        else:
            log_std = jnp.broadcast_to(self.param("log_std", start, (size,)), mean.shape)
        return (SquashedNormal if self.squash else Normal)(mean, log_std, tuple(space.shape))


class ValueHead(nn.Module):
    """One number: V(s)."""

    scale: float = 1.0

    @nn.compact
    def __call__(self, features: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        return dense(1, self.scale)(features)[..., 0]


class QHead(nn.Module):
    """Q(s, a) of every action: one number, or `shape` numbers (atoms, quantiles) where given.

    hidden   widths of the layers between the features and the output
    sigma0   noise of the linear layers (`NoisyDense`); 0: none
    """

    num_actions: int
    shape: tuple[int, ...] = ()
    scale: float = 1.0
    hidden: tuple[int, ...] = ()
    sigma0: float = 0.0

    @nn.compact
    def __call__(self, features: Float[Array, "*B D"]) -> Float[Array, "*B A *shape"]:
        features = MLP(self.hidden, "relu", sigma0=self.sigma0)(features)
        q = linear(self.num_actions * math.prod(self.shape), self.scale, self.sigma0)(features)
        return q.reshape(q.shape[:-1] + (self.num_actions, *self.shape))


class DuelingHead(nn.Module):
    """Q(s, a) = V(s) + A(s, a) - mean_a A(s, a) (Wang et al. 2016, arXiv:1511.06581, eq. 9).

    Fields as in `QHead`, `hidden` being the widths of each of the two streams (512 in the paper).  With `shape` it is
    composed as in Rainbow (Hessel et al. 2018, arXiv:1710.02298).  The gradient that enters the features from the two
    streams is scaled by 1 / sqrt(2) (section 4.2).
    """

    num_actions: int
    shape: tuple[int, ...] = ()
    scale: float = 1.0
    hidden: tuple[int, ...] = ()
    sigma0: float = 0.0

    @nn.compact
    def __call__(self, features: Float[Array, "*B D"]) -> Float[Array, "*B A *shape"]:
        features = scale_gradient(features, 1.0 / math.sqrt(2.0))

        def stream(actions: int, name: str) -> Float[Array, "*B actions *shape"]:
            return QHead(actions, self.shape, self.scale, self.hidden, self.sigma0, name=name)(features)

        advantage = stream(self.num_actions, "advantage")
        centred = advantage - advantage.mean(axis=-1 - len(self.shape), keepdims=True)
        return stream(1, "value") + centred
