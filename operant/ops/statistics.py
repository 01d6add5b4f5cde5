"""Running moments of a stream, on the device. What is said of finished runs is in `operant.scores`.

`Moments` belongs in an agent's state: updated from valid rows where it learns, read where it acts.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from operant.ops import parallel
from operant.types import struct

PyTree = Any


@struct
class Moments:
    """The running mean and variance of a stream of arrays, or of a pytree of them (a dictionary of observations).

    The variance itself is kept, not a sum of squares, and each batch enters as a correction: in float32 nothing
    grows, and nothing cancels where the mean is far from zero.  Past about 2**24 batches the weight of a new one
    stops to shrink, and old ones are forgotten slowly.
    """

    count: Float[Array, ""]
    mean: PyTree
    variance: PyTree

    @classmethod
    def init(cls, example: PyTree) -> Moments:
        """Nothing seen yet: mean 0 and variance 1, so that normalising changes nothing. `example` has no batch axes."""
        return cls(
            count=jnp.zeros(()),
            mean=jax.tree.map(lambda x: jnp.zeros(jnp.shape(x)), example),
            variance=jax.tree.map(lambda x: jnp.ones(jnp.shape(x)), example),
        )

    def update(self, batch: PyTree, valid: Float[Array, "*batch"]) -> Moments:
        """Take in the rows [*batch, ...] where `valid` is not 0 (Chan et al. 1979, eq. 2.1, by weights).

        The leading axes of every leaf of `batch` are those of `valid`; without a valid row nothing changes.  Devices
        that share the batch (`parallel`) all arrive at the moments of the whole.
        """
        rows = parallel.psum(jnp.sum(valid))
        count = self.count + rows
        weight = rows / jnp.maximum(count, 1.0)

        def merge(mean, variance, x):
            leading = tuple(range(jnp.ndim(valid)))
            if x.shape != jnp.shape(valid) + mean.shape:
                raise ValueError(
                    f"Moments.update: a leaf has shape {list(x.shape)}, expected the axes of `valid`"
                    f" {list(jnp.shape(valid))} and then {list(mean.shape)}"
                )
            mask = jnp.reshape(valid, jnp.shape(valid) + (1,) * mean.ndim)

            def average(y):
                return parallel.psum(jnp.sum(jnp.where(mask, y, 0.0), leading)) / jnp.maximum(rows, 1.0)

            offset = x.astype(mean.dtype) - mean
            shift = average(offset)
            spread = average((offset - shift) ** 2)
            return (
                mean + weight * shift,
                variance + weight * (spread - variance + (1.0 - weight) * shift**2),
            )

        merged = jax.tree.map(merge, self.mean, self.variance, batch)
        mean, variance = jax.tree.transpose(jax.tree.structure(self.mean), jax.tree.structure((0, 0)), merged)
        return Moments(count, mean, variance)

    def normalize(self, x: PyTree, clip: float | Float[Array, ""] = jnp.inf, epsilon: float = 1e-8) -> PyTree:
        """(x - mean) / sqrt(variance + epsilon), kept within [-clip, clip]. Any leading axes."""

        def one(mean, variance, x):
            return jnp.clip((x - mean) / jnp.sqrt(variance + epsilon), -clip, clip)

        return jax.tree.map(one, self.mean, self.variance, x)

    def inverse_deviation(self, epsilon: float = 1e-8) -> PyTree:
        """1 / sqrt(variance + epsilon): to scale without shifting, as rewards are."""
        return jax.tree.map(lambda variance: 1.0 / jnp.sqrt(variance + epsilon), self.variance)
