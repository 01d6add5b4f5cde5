"""Matrix products and convolutions in the form that suits the backend.

XLA's CPU convolution is slow, and inside a scan, where every fused agent has it, an order of magnitude slower than its
matrix products.  There a convolution is written as one: a strided kernel becomes one of stride 1 on space-to-depth
blocks, and the few shifted images that are left are laid side by side, or added where that moves less.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Shaped

MANY_ROWS = 16_384  # from here on the gradient of the weights is summed over GROUPS
GROUPS = 4


def product(x: Float[Array, "*L N D"], weights: Float[Array, "*L D F"]) -> Float[Array, "*L N F"]:
    """`x @ weights`, with a gradient that CPUs are quick at. Differentiable to any order, in both modes.

    Whether the gradient is taken within `vmap` (lanes) or around it (critics side by side) makes no difference.
    """
    return _product.bind(x, weights)


def _weights_gradient(g: Float[Array, "*L N F"], x: Float[Array, "*L N D"]) -> Float[Array, "*L D F"]:
    # JAX derives (g.T @ x).T over all leading axes, for which XLA's CPU compiler copies activations transposed: with
    # minibatches of 128 that made the whole update of PPO about a tenth slower on one core.  Of two factors it copies
    # the one that stands on the left: the narrower, which for the heads of policies and values is the gradient.  (In
    # lanes XLA turns that product round again unless it is kept from it: eight seeds of PPO took 6 % longer.)  But
    # then every reader of the result, which has the size of the weights, reads it transposed: with wide layers
    # of few rows (Rainbow's on small grids) the whole update took 1.6 times as long.  Over very many rows one such
    # product runs on one core and misses its caches: in four groups it takes half the time on two.
    rows = x.shape[-2]
    if rows >= MANY_ROWS and rows % GROUPS == 0:
        grouped = lambda y: y.reshape(*y.shape[:-2], GROUPS, -1, y.shape[-1])  # noqa: E731
        return jnp.einsum("...nmf,...nmd->...nfd", grouped(g), grouped(x)).sum(-3).mT
    inputs, outputs = x.shape[-1], g.shape[-1]
    if (rows + inputs) * outputs < rows * inputs:
        return jax.lax.optimization_barrier(g.mT @ x).mT
    return x.mT @ g


def _batched_product(arguments, axes):
    (x, weights), (x_axis, weights_axis) = arguments, axes
    if weights_axis is None:  # more rows of one product
        x = jnp.moveaxis(x, x_axis, -3)
        y = product(x.reshape(*x.shape[:-3], -1, x.shape[-1]), weights)
        return y.reshape(*x.shape[:-1], y.shape[-1]), x.ndim - 3
    weights = jnp.moveaxis(weights, weights_axis, 0)
    x = jnp.broadcast_to(x, weights.shape[:1] + x.shape) if x_axis is None else jnp.moveaxis(x, x_axis, 0)
    return product(x, weights), 0


# A primitive, since nothing else has a transpose of its own and a tangent too: custom_vjp refuses forward mode, and
# linear_call cannot be batched.
_product = Primitive("operant_product")
_product.def_impl(jax.jit(jnp.matmul))
_product.def_abstract_eval(lambda x, w: jax.core.ShapedArray((*x.shape[:-1], w.shape[-1]), jnp.result_type(x, w)))
ad.defbilinear(_product, lambda g, x, w: product(g, w.mT), lambda g, x, w: _weights_gradient(g, x))
batching.primitive_batchers[_product] = _batched_product
mlir.register_lowering(_product, mlir.lower_fun(jnp.matmul, multiple_results=False))


def convolve(
    x: Shaped[Array, "N H W C"], kernel: Float[Array, "k k C F"], stride: int = 1, padding: str = "VALID"
) -> Float[Array, "N H2 W2 F"]:
    """Two-dimensional convolution (correlation) with a square kernel; padding "VALID" or "SAME".

    Bytes are taken for the numbers 0 to 255: scale the kernel, which is smaller than the images.
    """
    if jax.default_backend() == "cpu":
        return convolve_as_product(x, kernel, stride, padding)
    return jax.lax.conv_general_dilated(
        x.astype(kernel.dtype), kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolve_as_product(
    x: Shaped[Array, "N H W C"], kernel: Float[Array, "k k C F"], stride: int = 1, padding: str = "VALID"
) -> Float[Array, "N H2 W2 F"]:
    """`convolve` as one matrix product, equal to it but for rounding."""
    size = kernel.shape[0]
    words = x.dtype == jnp.uint8 and x.shape[-1] % 4 == 0
    if words:  # bytes are moved about four at a time, and become numbers only where the product begins
        x = jax.lax.bitcast_convert_type(x.reshape(*x.shape[:3], -1, 4), jnp.uint32)
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
    channels, features = kernel.shape[2:]
    rows, columns = ((n - 1) * stride + 1 for n in (height, width))
    # Images are moved about before the product (patches of size^2 channels), or, from side to side, behind it (columns
    # of size channels, size features): what moves less.  Measured on a core, forward and backward, the latter takes 0.7
    # of the time with 16 or 32 channels and features, 0.7 to 0.9 in the Nature network, and 1.6 on 4 channels.
    behind = stride == 1 and (size - 1) * channels > features
    sideways = [slice(None)] if behind else [slice(j, j + columns, stride) for j in range(size)]
    shifted = [x[:, i : i + rows : stride, across] for i in range(size) for across in sideways]
    patches = jnp.concatenate(shifted, axis=-1)
    if words:
        patches = jax.lax.bitcast_convert_type(patches, jnp.uint8).reshape(*patches.shape[:3], -1)
    patches = patches.astype(kernel.dtype)
    if behind:
        kernel = kernel.transpose(0, 2, 1, 3)
    y = product(patches.reshape(-1, patches.shape[-1]), kernel.reshape(patches.shape[-1], -1))
    y = y.reshape(*patches.shape[:3], -1)
    if not behind:
        return y
    shares = [y[:, :, j : j + width, j * features : (j + 1) * features] for j in range(size)]
    return functools.reduce(jnp.add, shares)


def max_pool(x: Float[Array, "*B H W C"], size: int, stride: int) -> Float[Array, "*B H2 W2 C"]:
    """The largest entry of each square window, padding "SAME".

    On a CPU of rows first, then of columns: the gradient of XLA's own takes three to ten times as long.  Among equal
    entries it is shared there, where XLA's goes to one of them.
    """
    if jax.default_backend() != "cpu":
        return nn.max_pool(x, (size, size), strides=(stride, stride), padding="SAME")
    pads = jax.lax.padtype_to_pads(x.shape[-3:-1], (size, size), (stride, stride), "SAME")
    x = jnp.pad(x, (*[(0, 0)] * (x.ndim - 3), *pads, (0, 0)), constant_values=-jnp.inf)
    for axis in (-3, -2):
        last = (x.shape[axis] - size) // stride * stride
        shifted = [jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(size)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def _space_to_depth(x: Shaped[Array, "N H W C"], block: int) -> Shaped[Array, "N H/block W/block block*block*C"]:
    n, height, width, channels = x.shape
    x = x.reshape(n, height // block, block, width // block, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // block, width // block, block * block * channels)
