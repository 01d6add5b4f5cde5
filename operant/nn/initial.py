"""Initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def orthogonal(scale: float = 1.0) -> Callable[..., Float[Array, "..."]]:
    """Weights whose columns (or rows, whichever are fewer) are orthogonal and of length `scale` (Saxe et al. 2014).

    The last axis are the outputs, all others together the inputs.  Uniformly distributed: the orthogonal factor of a
    Gaussian matrix, found by the Newton-Schulz iteration X <- X (3 - X'X) / 2.  Matrix products only: JAX's QR on a CPU
    calls LAPACK, and several such calls in one program were seen to wait for each other for ever on two cores.
    """

    def init(key, shape, dtype=jnp.float32):
        outputs, inputs = shape[-1], math.prod(shape[:-1])
        x = jax.random.normal(key, (max(inputs, outputs), min(inputs, outputs)))
        identity = jnp.eye(x.shape[1])
        product = lambda a, b: jnp.matmul(a, b, precision="highest")  # noqa: E731

        def unfinished(carried):
            n, x = carried
            return (n < 100) & (jnp.abs(product(x.T, x) - identity).max() > 1e-5)

        def step(carried):
            n, x = carried
            return n + 1, product(x, 1.5 * identity - 0.5 * product(x.T, x))

        # singular values at most 1, so that each step moves every one of them up towards 1
        _, x = jax.lax.while_loop(unfinished, step, (0, x / jnp.linalg.norm(x)))
        x = step((0, x))[1]
        return (scale * (x if inputs >= outputs else x.T)).reshape(shape).astype(dtype)

    return init
