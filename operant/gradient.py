"""What methods that descend a gradient share: their state, minibatch epochs, and the step itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from operant.ops import parallel
from operant.ops.optimizers import Optimizer, clip_by_global_norm
from operant.ops.shuffle import permutation
from operant.types import Batch, PyTree, Spec, struct

Metrics = dict[str, Float[Array, ""]]
Loss = Callable[[PyTree, Any, Batch, PRNGKeyArray], tuple[Float[Array, ""], Metrics]]


@struct(static=("spec",))
class State:
    """The state of an agent that descends a gradient.

    steps counts the valid transitions that were learned from: schedules read it against `spec.total_steps`, so a run
    that was stopped and resumed equals the run that was not.  norm holds the normalisers of observation and reward.
    """

    params: PyTree
    opt_state: PyTree
    steps: Int[Array, ""]
    norm: PyTree
    spec: Spec

    @property
    def progress(self) -> Float[Array, ""]:
        """The share of the planned length that is done, 0 to 1; 0 where no length was planned."""
        return jnp.minimum(self.steps / max(self.spec.total_steps, 1), 1.0) if self.spec.total_steps else jnp.zeros(())


def count_steps(batch: Batch) -> Int[Array, ""]:
    """How many transitions of the batch are experience, over all devices that share it."""
    return parallel.psum(jnp.sum(batch.valid).astype(jnp.int32))


def gradient_step(
    loss: Loss,
    optimizer: Optimizer,
    state: State,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    max_grad_norm: Float[Array, ""] | float = jnp.inf,
    num_epochs: int = 1,
    num_minibatches: int = 1,
    whole_sequences: bool = False,
    prepare: Callable[[Batch], Batch] = lambda minibatch: minibatch,
) -> tuple[State, Metrics]:
    """Descends `loss(params, state, batch, key) -> scalar, metrics` for some epochs of minibatches.

    With one epoch of one minibatch the batch goes to the loss as it is.  Otherwise `batch` has equal lengths in time
    (`transitions`); each epoch shuffles it anew and cuts it into minibatches: of single transitions, [1, N], or, for
    recurrent networks, of whole sequences, [T, N], with the carries they start from.

    `prepare` adds to a minibatch what its loss needs and no step changes (statistics over its rows).  It is mapped over
    the minibatches of an epoch before the first step: devices that share the batch then meet for all of them at once,
    and in each step only for its gradients.

    Returns the state with new parameters and optimizer state, and the metrics' means over all minibatches, to which
    the total `loss` and the norm of the gradient before clipping, `grad_norm`, are added.
    """

    def step(carried, part, key):
        params, opt_state = carried
        return descend(loss, optimizer, state, params, opt_state, part, key, max_grad_norm=max_grad_norm)

    (params, opt_state), metrics = over_minibatches(
        step, (state.params, state.opt_state), batch, key, num_epochs, num_minibatches, whole_sequences, prepare
    )
    return state.replace(params=params, opt_state=opt_state), metrics


def over_minibatches(
    step: Callable[[PyTree, Batch, PRNGKeyArray], tuple[PyTree, Metrics]],
    carried: PyTree,
    batch: Batch,
    key: PRNGKeyArray,
    num_epochs: int = 1,
    num_minibatches: int = 1,
    whole_sequences: bool = False,
    prepare: Callable[[Batch], Batch] = lambda minibatch: minibatch,
) -> tuple[PyTree, Metrics]:
    """`step(carried, minibatch, key) -> carried, metrics` over epochs of minibatches: see `gradient_step`.

    Returns what is carried in the end, and the metrics' means.
    """
    if num_epochs == 1 and num_minibatches == 1:
        return step(carried, prepare(batch), key)

    def epoch(carried, key):
        shuffle_key, step_key = jax.random.split(key)
        parts = minibatches(parallel.local_key(shuffle_key), batch, num_minibatches, whole_sequences)
        inputs = (jax.vmap(prepare)(parts), jax.random.split(step_key, num_minibatches))
        return jax.lax.scan(lambda carried, inputs: step(carried, *inputs), carried, inputs)

    carried, metrics = jax.lax.scan(epoch, carried, jax.random.split(key, num_epochs))
    return carried, jax.tree.map(jnp.mean, metrics)


def descend(
    loss: Loss,
    optimizer: Optimizer,
    state: State,
    params: PyTree,
    opt_state: PyTree,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    max_grad_norm: Float[Array, ""] | float = jnp.inf,
) -> tuple[tuple[PyTree, PyTree], Metrics]:
    """One step down `loss(params, state, batch, key) -> scalar, metrics`: new params and opt_state, and the metrics."""
    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params, state, batch, key)
    gradients, metrics = parallel.pmean((gradients, {**metrics, "loss": value}))
    gradients, norm = clip_by_global_norm(gradients, max_grad_norm)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    params = jax.tree.map(lambda p, u: p + u, params, updates)
    return (params, opt_state), {**metrics, "grad_norm": norm}


def minibatches(key: PRNGKeyArray, batch: Batch, number: int, whole_sequences: bool) -> Batch:
    """The batch [T, B] shuffled and cut: leaves [number, 1, T*B/number, ...], or [number, T, B/number, ...] for whole
    sequences (whose carry is [number, B/number, ...])."""
    length, width = batch.reward.shape
    if whole_sequences:
        order = permutation(key, width).reshape(number, width // number)
        take = lambda x: jnp.moveaxis(x[:, order], 1, 0)  # noqa: E731
        parts = jax.tree.map(take, batch.replace(carry=()))
        return parts.replace(carry=jax.tree.map(lambda x: x[order], batch.carry))
    order = permutation(key, length * width)
    batch = batch.replace(carry=())
    leaves, tree = jax.tree.flatten(batch)
    leaves = [x.reshape(length * width, *x.shape[2:]) for x in leaves]
    leaves = [x.reshape(number, 1, -1, *x.shape[1:]) for x in _take_rows(leaves, order)]
    return jax.tree.unflatten(tree, leaves)


def _take_rows(leaves: list[Array], order: Int[Array, "N"]) -> list[Array]:
    """`[x[order] for x in leaves]`, the float32 ones side by side in one matrix: one gather instead of many."""
    flat = [x.reshape(x.shape[0], -1) for x in leaves]
    narrow = [i for i, x in enumerate(flat) if x.dtype == jnp.float32 and x.shape[1] <= 64]
    taken = {}
    if len(narrow) > 1:
        widths = [flat[i].shape[1] for i in narrow]
        columns = jnp.concatenate([flat[i] for i in narrow], axis=1)[order]
        start = 0
        for i, width in zip(narrow, widths, strict=True):
            taken[i] = columns[:, start : start + width].reshape(leaves[i].shape)
            start += width
    return [taken[i] if i in taken else x[order] for i, x in enumerate(leaves)]
