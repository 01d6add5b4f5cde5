"""Functions whose derivatives of every order stay finite where the textbook forms give NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = float | Float[Array, ""]


def safe_sqrt(x: Float[Array, "*shape"], floor: float = 1e-20) -> Float[Array, "*shape"]:
    """The square root, with derivative zero (not infinity) for x <= `floor`. Values equal those of `jnp.sqrt`.

    One dead unit is enough to need it: with x = g**2 and g = 0 the chain rule asks for inf * 0.  The floor is above
    zero because derivatives of the second order grow as x**-1.5, which overflows float32 long before x vanishes.
    """
    smooth = x > floor
    # Both branches of a `where` are differentiated: the unused one must be given an argument that it can bear.
    return jnp.where(smooth, jnp.sqrt(jnp.where(smooth, x, 1.0)), jnp.sqrt(jax.lax.stop_gradient(x)))


def scale_gradient(x: Array, scale: Scalar) -> Array:
    """`x`, whose gradient is multiplied by `scale` on its way back."""
    return scale * x + jax.lax.stop_gradient((1.0 - scale) * x)
