"""Convolution in the form that suits the backend.

XLA's CPU convolution is slow, and inside a scan, where every fused agent has it, an order of magnitude slower than its
matrix products.  There a convolution is written as one: a strided kernel becomes one of stride 1 on space-to-depth
blocks, and the few shifted images that are left are laid side by side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def convolve(
    x: Float[Array, "N H W C"], kernel: Float[Array, "k k C F"], stride: int = 1, padding: str = "VALID"
) -> Float[Array, "N H2 W2 F"]:
    """Two-dimensional convolution (correlation) with a square kernel; padding "VALID" or "SAME"."""
    if jax.default_backend() == "cpu":
        return convolve_as_product(x, kernel, stride, padding)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolve_as_product(
    x: Float[Array, "N H W C"], kernel: Float[Array, "k k C F"], stride: int = 1, padding: str = "VALID"
) -> Float[Array, "N H2 W2 F"]:
    """`convolve` as one matrix product, equal to it but for rounding."""
    size = kernel.shape[0]
    if padding == "SAME":
        pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    if stride > 1 and size % stride == 0:
        x = x[:, : (height - 1) * stride + size, : (width - 1) * stride + size]
        x = _space_to_depth(x, stride)
        blocks = size // stride
        kernel = kernel.reshape(blocks, stride, blocks, stride, *kernel.shape[2:])
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(blocks, blocks, -1, kernel.shape[-1])
        size, stride = blocks, 1
    rows, columns = ((n - 1) * stride + 1 for n in (height, width))
    shifted = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]
    patches = jnp.concatenate(shifted, axis=-1)
    product = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return product.reshape(*patches.shape[:3], kernel.shape[-1])


def _space_to_depth(x: Float[Array, "N H W C"], block: int) -> Float[Array, "N H/block W/block block*block*C"]:
    n, height, width, channels = x.shape
    x = x.reshape(n, height // block, block, width // block, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // block, width // block, block * block * channels)
