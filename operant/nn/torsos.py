"""Torsos: from an observation to features. `Torso` encodes any observation space; leading axes are arbitrary."""

from __future__ import annotations

import difflib
import itertools
import math
from functools import partial

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from operant.errors import UserError
from operant.nn.convolution import convolve, max_pool, product
from operant.nn.initial import orthogonal
from operant.types import Box, Dict, Discrete, MultiDiscrete, Space


def activate(x: Float[Array, "*shape"], name: str) -> Float[Array, "*shape"]:
    """The activation of `jax.nn` called `name`. By name, since modules must be equal when made twice."""
    if not callable(getattr(jax.nn, name, None)):
        near = difflib.get_close_matches(name, dir(jax.nn), n=3)
        raise ValueError(f"no activation {name!r} in jax.nn; near it: {', '.join(near) or 'none'}")
    return getattr(jax.nn, name)(x)


def _dot_general(x, weights, dimensions, **options):
    """`product` in the form that `nn.Dense` asks for."""
    return product(x.reshape(-1, x.shape[-1]), weights).reshape(*x.shape[:-1], -1)


def dense(features: int, scale: float, name: str | None = None) -> nn.Dense:
    """A linear layer with orthogonal weights of gain `scale` and zero biases."""
    return nn.Dense(features, kernel_init=orthogonal(scale), name=name, dot_general=_dot_general)


class NoisyDense(nn.Module):
    """A linear layer with learned noise, w = mu + sigma * epsilon (Fortunato et al. 2018, arXiv:1706.10295, eq. 9).

    The noise is factorised: epsilon_ij = f(e_i) f(e_j) with f(x) = sign(x) sqrt|x| (eq. 10 and 11).  The layer finds
    its f(e) in the collection "noise" (`draw_noise`), one for all leading axes; without it the layer is its mean.
    """

    features: int
    sigma0: float = 0.5

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B features"]:
        inputs, bound = x.shape[-1], 1.0 / math.sqrt(x.shape[-1])
        uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)  # noqa: E731
        deviation = nn.initializers.constant(self.sigma0 * bound)
        kernel = self.param("kernel", uniform, (inputs, self.features))
        bias = self.param("bias", uniform, (self.features,))
        kernel_sigma = self.param("kernel_sigma", deviation, (inputs, self.features))
        bias_sigma = self.param("bias_sigma", deviation, (self.features,))
        if self.has_variable("noise", "e"):
            # one product with the noisy weights costs half of two, with mu and with sigma
            e_in, e_out = jnp.split(self.get_variable("noise", "e"), [inputs])
            kernel, bias = kernel + kernel_sigma * e_in[:, None] * e_out, bias + bias_sigma * e_out
        return product(x.reshape(-1, inputs), kernel).reshape(*x.shape[:-1], -1) + bias


def draw_noise(key: PRNGKeyArray, params: PyTree) -> PyTree:
    """The collection "noise" for a network with these parameters, empty where it has no `NoisyDense`.

    At the path of each such layer stands "e" [D + features]: f(e) of its D inputs, then of its outputs (Fortunato et
    al. 2018, eq. 10 and 11).
    """
    leaves = flax.traverse_util.flatten_dict(params)
    sizes = {path[:-1]: sum(x.shape) for path, x in leaves.items() if path[-1] == "kernel_sigma"}
    if not sizes:
        return {}

    def draw(key):
        e = jax.random.normal(key, (-(-sum(sizes.values()) // 2),))
        return jnp.sign(e) * jnp.sqrt(jnp.abs(e))

    # One draw for all layers, since many short ones take longer; in two halves, since XLA's CPU compiler makes numbers
    # that are used in many places anew in each of them, unless they come out of a loop.
    drawn = jax.lax.map(draw, jax.random.split(key)).reshape(-1)
    starts = itertools.accumulate(sizes.values(), initial=0)
    return flax.traverse_util.unflatten_dict(
        {(*path, "e"): drawn[start : start + size] for (path, size), start in zip(sizes.items(), starts, strict=False)}
    )


def linear(features: int, scale: float, sigma0: float = 0.0) -> nn.Module:
    """A linear layer: `dense`, or `NoisyDense` where `sigma0` is not 0."""
    return NoisyDense(features, sigma0) if sigma0 else dense(features, scale)


class Conv(nn.Module):
    """A square convolution of images with channels last, `[..., H, W, C]`; any leading axes.

    Every convolution of the library passes here, and takes the form that suits the backend (`nn.convolution`).  Bytes
    are taken for numbers from 0 to 1, `white` being 1.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: str = "VALID"
    scale: float = math.sqrt(2.0)
    white: float = 255.0

    @nn.compact
    def __call__(self, x: Shaped[Array, "*B H W C"]) -> Float[Array, "*B H2 W2 features"]:
        if self.padding == "VALID" and min(x.shape[-3:-1]) < self.kernel:
            size = f"{x.shape[-3]} x {x.shape[-2]}"
            needed = f"a kernel of {self.kernel} x {self.kernel}"
            raise UserError(f"images are too small: {size} is left for {needed}; choose another torso, such as minatar")
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", orthogonal(self.scale), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = kernel / self.white if x.dtype == jnp.uint8 else kernel
        y = convolve(x.reshape((-1, *x.shape[-3:])), kernel, self.stride, self.padding)
        return y.reshape(x.shape[:-3] + y.shape[1:]) + bias


def to_float(x: Shaped[Array, "*shape"], white: float = 255.0) -> Float[Array, "*shape"]:
    """float32; bytes are scaled to [0, 1], with `white` becoming 1."""
    return x.astype(jnp.float32) / white if x.dtype == jnp.uint8 else x.astype(jnp.float32)


def flatten(x: Float[Array, "*B H W C"]) -> Float[Array, "*B HWC"]:
    return x.reshape(x.shape[:-3] + (-1,))


def _last(hidden: int, x: Float[Array, "*B D"]) -> Float[Array, "*B _"]:
    """The fully connected layer after the convolutions; with 0 units there is none."""
    return nn.relu(dense(hidden, math.sqrt(2.0))(x)) if hidden else x


class MLP(nn.Module):
    """Linear layers, each followed by the activation."""

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    scale: float = math.sqrt(2.0)
    sigma0: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B hidden"]:
        for features in self.hidden:
            x = activate(linear(features, self.scale, self.sigma0)(x), self.activation)
        return x


class NatureCNN(nn.Module):
    """The network of DQN (Mnih et al. 2015, Methods); images of at least 36 x 36.

    layers  features, kernel and stride of each convolution
    """

    hidden: int = 512
    white: float = 255.0
    layers: tuple[tuple[int, int, int], ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))

    @nn.compact
    def __call__(self, x: Shaped[Array, "*B H W C"]) -> Float[Array, "*B hidden"]:
        for features, kernel, stride in self.layers:
            x = nn.relu(Conv(features, kernel, stride, white=self.white)(x))
        return _last(self.hidden, flatten(x))


class MinAtarCNN(nn.Module):
    """The network of MinAtar (Young and Tian 2019, arXiv:1903.03176): for small grids, at least 3 x 3."""

    features: int = 16
    hidden: int = 128
    white: float = 255.0

    @nn.compact
    def __call__(self, x: Shaped[Array, "*B H W C"]) -> Float[Array, "*B hidden"]:
        x = nn.relu(Conv(self.features, 3, white=self.white)(x))
        return _last(self.hidden, flatten(x))


class ImpalaResNet(nn.Module):
    """The deep residual network of IMPALA (Espeholt et al. 2018, arXiv:1802.01561, figure 3)."""

    channels: tuple[int, ...] = (16, 32, 32)
    hidden: int = 256
    white: float = 255.0

    @nn.compact
    def __call__(self, x: Shaped[Array, "*B H W C"]) -> Float[Array, "*B hidden"]:
        for channels in self.channels:
            x = Conv(channels, 3, padding="SAME", white=self.white)(x)
            x = max_pool(x, 3, 2)
            for _ in range(2):
                y = Conv(channels, 3, padding="SAME")(nn.relu(x))
                x = x + Conv(channels, 3, padding="SAME")(nn.relu(y))
        return _last(self.hidden, flatten(nn.relu(x)))


# Mnih et al. 2013, section 5.1, and A3C's: a third of the Nature network's arithmetic
NipsCNN = partial(NatureCNN, hidden=256, layers=((16, 8, 4), (32, 4, 2)))

CONVOLUTIONAL = {"nature": NatureCNN, "nips": NipsCNN, "impala": ImpalaResNet, "minatar": MinAtarCNN}


def is_image(space: Space) -> bool:
    return isinstance(space, Box) and len(space.shape) == 3


def has_image(space: Space) -> bool:
    return any(has_image(sub) for _, sub in space.items) if isinstance(space, Dict) else is_image(space)


class Torso(nn.Module):
    """Features of an observation of any `space`.

    Images (rank-3 Box) pass a convolutional network, everything else an MLP of widths `hidden`: a Box flattened,
    integers one-hot. The entries of a Dict have a torso each; one more layer, of width `hidden[-1]`, mixes them.

    kind  "nature", "nips" (the smaller one of 2013), "impala" or "minatar": the network for images; "mlp": images are
          flattened as well; "auto": "nature" for images of at least 40 x 40, "minatar" for smaller ones
    trunk True: convolutions without the fully connected layer behind them, for heads that have their own
    """

    space: Space
    kind: str = "auto"
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    trunk: bool = False

    @nn.compact
    def __call__(self, observation: PyTree[Shaped[Array, "*B _"]]) -> Float[Array, "*B features"]:
        if self.kind not in ("auto", "mlp", *CONVOLUTIONAL):
            raise UserError(f"there is no torso {self.kind!r}; choose from auto, mlp, {', '.join(CONVOLUTIONAL)}")
        if self.kind in CONVOLUTIONAL and not has_image(self.space):
            raise UserError(f"the torso {self.kind!r} is for images, and the observation has none; choose auto or mlp")
        space, mlp = self.space, lambda x: MLP(self.hidden, self.activation)(x)
        match space:
            case Dict():
                parts = []
                for name, sub in space.items:
                    kind = self.kind if has_image(sub) else "mlp"
                    parts.append(self.copy(space=sub, kind=kind, name=f"torso_{name}")(observation[name]))
                return MLP(self.hidden[-1:], self.activation)(jnp.concatenate(parts, axis=-1))
            case Discrete():
                return mlp(jax.nn.one_hot(observation, space.n))
            case MultiDiscrete():
                parts = [jax.nn.one_hot(observation[..., i], n) for i, n in enumerate(space.nvec)]
                return mlp(jnp.concatenate(parts, axis=-1))
            case Box():
                # Grids of few symbols say so by their bound; bytes of unknown bound are brightness.
                bounded = isinstance(space.high, (int, float)) and 0 < space.high < math.inf
                white = float(space.high) if bounded else 255.0
                if is_image(space) and self.kind != "mlp":
                    small = "nature" if min(space.shape[:2]) >= 40 else "minatar"
                    network = CONVOLUTIONAL[small if self.kind == "auto" else self.kind]
                    x = observation if observation.dtype == jnp.uint8 else to_float(observation)
                    return (network(hidden=0, white=white) if self.trunk else network(white=white))(x)
                x = to_float(observation, white)
                return mlp(x.reshape(x.shape[: x.ndim - len(space.shape)] + (-1,)))
        raise TypeError(f"no torso for the space {space!r}; expected Box, Discrete, MultiDiscrete or Dict")
