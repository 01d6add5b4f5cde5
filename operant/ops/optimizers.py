"""The house's optimizers: pure (init, update) pairs whose *second* derivatives are finite.

Learning rates and the like arrive as traced scalars: an optimizer is built inside `learn` from the agent's dials, so
that a new value is no new compilation and a meta-gradient flows through the update.  The usual forms of Adam, RMSProp
and the global-norm clip take the square root of an exact zero (a dead unit, an empty batch), whose derivative is
infinite; `safe_sqrt` has the same values and derivative zero there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from operant.ops.safe import safe_sqrt

PyTree = Any
Scalar = Float[Array, ""] | float


class Optimizer(NamedTuple):
    """`init(params) -> state`; `update(gradients, state, params) -> updates, state`; then params + updates."""

    init: Callable[[PyTree], PyTree]
    update: Callable[..., tuple[PyTree, PyTree]]

    def constant_scale(self) -> Optimizer:
        """The same steps, whose scale (the running squares) is constant to a derivative taken through them: a young
        Adam's step hardly depends on its gradient's length, and its true derivative is nearly zero."""
        return Optimizer(self.init, functools.partial(self.update, hold=True))


def global_norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm over all leaves."""
    return safe_sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def clip_by_global_norm(tree: PyTree, max_norm: Scalar) -> tuple[PyTree, Float[Array, ""]]:
    """Scales `tree` so that its global norm is at most `max_norm` (inf: no clipping). Returns it and the norm before
    (Pascanu et al. 2013, alg. 1)."""
    norm = global_norm(tree)
    scale = jnp.where(norm > max_norm, max_norm / jnp.where(norm > max_norm, norm, 1.0), 1.0)
    return jax.tree.map(lambda g: g * scale, tree), norm


class AdamState(NamedTuple):
    count: Array
    mean: PyTree
    square: PyTree


def adam(learning_rate: Scalar, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Optimizer:
    """Adam (Kingma and Ba 2015, alg. 1)."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(gradients, state, params, hold=False):
        count = state.count + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, gradients)
        gradients = jax.lax.stop_gradient(gradients) if hold else gradients
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.square, gradients)
        t = count.astype(jnp.float32)
        mean_scale, square_scale = 1.0 / (1.0 - b1**t), 1.0 / (1.0 - b2**t)
        updates = jax.tree.map(
            lambda m, v: -learning_rate * (m * mean_scale) / (safe_sqrt(v * square_scale) + eps), mean, square
        )
        return updates, AdamState(count, mean, square)

    return Optimizer(init, update)


class RMSPropState(NamedTuple):
    square: PyTree
    mean: PyTree


def rmsprop(
    learning_rate: Scalar,
    decay: Scalar = 0.99,
    eps: Scalar = 1e-5,
    eps_inside: bool = False,
    centred: bool = False,
) -> Optimizer:
    """RMSProp. `eps_inside` puts eps under the root (Mnih et al. 2016); outside is PyTorch's form.

    centred  divides by the running deviation instead of the root mean square (Graves 2013, eq. 38 to 40), as the DQN of
             2015 does
    """

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
        return RMSPropState(zeros(), zeros() if centred else ())

    def update(gradients, state, params, hold=False):
        average = lambda old, new: jax.tree.map(lambda a, g: decay * a + (1 - decay) * g, old, new)  # noqa: E731
        seen = jax.lax.stop_gradient(gradients) if hold else gradients
        square = average(state.square, jax.tree.map(jnp.square, seen))
        mean, spread = state.mean, square
        if centred:
            mean = average(state.mean, seen)
            # a variance that rounding takes below zero is zero
            spread = jax.tree.map(lambda v, m: jnp.maximum(v - m * m, 0.0), square, mean)
        root = (lambda v: jnp.sqrt(v + eps)) if eps_inside else (lambda v: safe_sqrt(v) + eps)
        updates = jax.tree.map(lambda g, v: -learning_rate * g / root(v), gradients, spread)
        return updates, RMSPropState(square, mean)

    return Optimizer(init, update)


def sgd(learning_rate: Scalar) -> Optimizer:
    """Plain gradient descent."""

    def update(gradients, state, params, hold=False):
        return jax.tree.map(lambda g: -learning_rate * g, gradients), state

    return Optimizer(lambda params: (), update)
