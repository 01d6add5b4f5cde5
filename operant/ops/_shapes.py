"""One check of shapes, made while tracing, so that a batch handed to an unbatched function fails by name."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import ArrayLike


def check_shapes(function: str, **arguments: tuple[ArrayLike, str]) -> None:
    """Raise a ValueError unless every argument has the axes it was announced with.

    Axes are written as in jaxtyping, `values=(values, "T+1")`: a letter takes the size it has where it is first met,
    and must have that size again afterwards.
    """
    sizes: dict[str, int] = {}
    for name, (array, spec) in arguments.items():
        shape, axes = jnp.shape(array), spec.split()
        fits = len(shape) == len(axes)
        for size, axis in zip(shape, axes, strict=False):
            letter, _, extra = axis.partition("+")
            fits &= sizes.setdefault(letter, size - int(extra or 0)) + int(extra or 0) == size
        if not fits:
            known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
            raise ValueError(
                f"{function}: `{name}` must have shape [{', '.join(axes)}], got {list(shape)}"
                + (f" where {known}" if known else "")
                + ". It takes one sequence or one transition: use jax.vmap for batches."
            )
