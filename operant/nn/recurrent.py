"""Recurrent cells over time-major sequences, with resets inside.

The carry is set to zero where `first` is true, *before* that input is consumed. The inputs of the whole sequence are
projected by one matrix product outside the scan; only the recurrent product remains inside.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from operant.nn.initial import orthogonal

State = Float[Array, "B H"]
Carry = PyTree[State]


def _scan(step: Callable, inputs: Float[Array, "T B G"], carry: Carry, first: Bool[Array, "T B"]):
    def reset_then_step(carry, xs):
        x, first = xs
        # A selection, not a product: the carry of a dead episode may hold anything.
        return step(jax.tree.map(lambda c: jnp.where(first[:, None], jnp.zeros_like(c), c), carry), x)

    carry, outputs = jax.lax.scan(reset_then_step, carry, (inputs, first.astype(bool)))
    return outputs, carry


def _blocks(gates: int) -> Callable:
    """Each gate's recurrent matrix is orthogonal by itself."""
    square = orthogonal()

    def init(key, shape, dtype=jnp.float32):
        rows, columns = shape
        keys = jax.random.split(key, gates)
        return jnp.concatenate([square(k, (rows, columns // gates), dtype) for k in keys], axis=1)

    return init


class LSTM(nn.Module):
    """Long short-term memory with a forget gate (Gers et al. 2000).

    i, f, o = sigmoid(W x + U h + b);  g = tanh(W x + U h + b);  c = f c + i g;  h = o tanh(c)

    The forget gate's bias starts at 1 (Jozefowicz et al. 2015). Blocks stand in the order i, f, g, o.
    """

    hidden: int

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "T B D"], carry: tuple[State, State], first: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "T B H"], tuple[State, State]]:
        """The carry is (c, h)."""
        n = self.hidden
        w = self.param("input", orthogonal(), (inputs.shape[-1], 4 * n))
        u = self.param("recurrent", _blocks(4), (n, 4 * n))
        b = self.param("bias", lambda _, shape: jnp.zeros(shape).at[n : 2 * n].set(1.0), (4 * n,))

        def step(carry, x):
            c, h = carry
            i, f, g, o = jnp.split(x + h @ u, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        return _scan(step, inputs @ w + b, carry, first)

    @nn.nowrap
    def initial_carry(self, batch_size: int) -> tuple[State, State]:
        zeros = jnp.zeros((batch_size, self.hidden))
        return zeros, jnp.zeros_like(zeros)  # two buffers: one array twice could not be donated


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate after the recurrent product, as in cuDNN.

    r, z = sigmoid(W x + U h + b);  n = tanh(W x + b + r (U h + b'));  h = (1 - z) n + z h

    Blocks stand in the order r, z, n.
    """

    hidden: int

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "T B D"], carry: State, first: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "T B H"], State]:
        n = self.hidden
        w = self.param("input", orthogonal(), (inputs.shape[-1], 3 * n))
        u = self.param("recurrent", _blocks(3), (n, 3 * n))
        b = self.param("bias", nn.initializers.zeros, (3 * n,))
        b_n = self.param("recurrent_bias", nn.initializers.zeros, (n,))

        def step(h, x):
            uh = h @ u
            r, z = jnp.split(nn.sigmoid(x[:, : 2 * n] + uh[:, : 2 * n]), 2, axis=-1)
            new = jnp.tanh(x[:, 2 * n :] + r * (uh[:, 2 * n :] + b_n))
            h = (1.0 - z) * new + z * h
            return h, h

        return _scan(step, inputs @ w + b, carry, first)

    @nn.nowrap
    def initial_carry(self, batch_size: int) -> State:
        return jnp.zeros((batch_size, self.hidden))


CELLS = {"lstm": LSTM, "gru": GRU}


def unroll_backward(
    cell: Callable,
    inputs: Float[Array, "T B D"],
    carry: Carry,
    discount: Float[Array, "T B"],
    valid: Float[Array, "T B"],
) -> tuple[Float[Array, "T B H"], Carry]:
    """Runs a cell from the last step to the first, as networks do that predict from the future.

    The future of step t is cut where the MDP terminated (discount 0), and on both sides of the pseudo-transition across
    an episode boundary (valid 0), which is no experience: there the carry is reset. `first` would reset too early.
    """
    ends = jnp.concatenate([valid[1:] == 0, jnp.zeros_like(valid[:1], bool)])
    cut = (discount == 0) | (valid == 0) | ends
    outputs, carry = cell(jnp.flip(inputs, 0), carry, jnp.flip(cut, 0))
    return jnp.flip(outputs, 0), carry


class Backward(nn.Module):
    """A recurrent network that reads trajectories from their ends, as a learned return or update rule does.

    outputs     numbers for each step, made of what is seen there and of everything after it in the same episode
    scale       gain of the linear layer that makes them
    activation  of the cell's output before that layer: "relu", or "" for none
    """

    outputs: int
    cell: str = "lstm"
    size: int = 32
    scale: float = 1.0
    activation: str = ""

    @nn.compact
    def __call__(
        self, seen: Float[Array, "T B D"], discount: Float[Array, "T B"], valid: Float[Array, "T B"]
    ) -> Float[Array, "T B outputs"]:
        cell = CELLS[self.cell](self.size)
        hidden, _ = unroll_backward(cell, seen, cell.initial_carry(seen.shape[1]), discount, valid)
        hidden = nn.relu(hidden) if self.activation == "relu" else hidden
        return nn.Dense(self.outputs, kernel_init=orthogonal(self.scale))(hidden)
