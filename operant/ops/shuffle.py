"""Shuffling without a sort.

`jax.random.permutation` sorts random keys: on a CPU that is 2.5 ms for 8,192 indices, more than the gradient step that
waits for it.  A keyed bijection on the index (a Feistel network) needs only a few integer operations per index.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

_ROUNDS = 6


def permutation(key: PRNGKeyArray, n: int) -> Int[Array, "n"]:
    """A pseudo-random permutation of 0 .. n-1.

    The index is written as (left, right) in Z_a x Z_b with a * b = n, and each round adds a keyed hash of one half to
    the other: `left += F(right) mod a`, `right += G(left) mod b`, a bijection for any a and b (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains").  Lengths without a balanced factorisation fall back to the sort.
    """
    a = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    b = n // a
    if a < 8:
        return jax.random.permutation(key, n)
    index = jnp.arange(n, dtype=jnp.uint32)
    left, right = index // b, index % b
    salts = jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)
    for r in range(_ROUNDS):
        left = (left + _hash(right ^ salts[r, 0]) % a) % a
        right = (right + _hash(left ^ salts[r, 1]) % b) % b
    return (left * b + right).astype(jnp.int32)


def _hash(x: Int[Array, "n"]) -> Int[Array, "n"]:
    """Mixes 32 bits so that each input bit flips each output bit with probability near one half (the finaliser of
    MurmurHash3, with the multipliers of a published search for low bias)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
