"""Differentiating through learning: what the meta-gradient methods share.

An update is a function `update(eta, state, batch, key) -> state, ...` of *meta-parameters* eta: dials of the agent, or
the weights of a network that makes rewards, targets or the update itself.  How good were they?  The parameters that K
updates led to are judged on data that came after, and the gradient of that judgement goes back to eta:

    forward  `Tangent` carries d state / d eta beside the state: for a few dials, over any number of updates
    reverse  `Tape` keeps what the last K updates were made of, and replays them under `grad`: for networks

To eta the batches are data: no environment is under `grad`.  A method is called by the learner before every
`meta_period`-th update: `meta_learn(state, batch, key) -> state`, with the fresh batch that is then learned from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, PRNGKeyArray

from operant.ops import parallel
from operant.ops.optimizers import Optimizer, clip_by_global_norm
from operant.rollout import blank_batch
from operant.types import PyTree, Spec, struct

Update = Callable[..., Any]
"""`update(eta, state, *inputs) -> state, ...`"""


@struct
class MetaState:
    """What a meta-gradient method learns.

    agent      the base agent's state, theta
    eta        the meta-parameters, with their optimizer's state
    past       how theta came from eta: a Tangent, a Tape, or ()
    report     metrics of the last meta step: its loss, and the norm of its gradient before clipping
    """

    agent: PyTree
    eta: PyTree
    opt_state: PyTree
    past: PyTree
    report: dict[str, Array]

    @staticmethod
    def begin(agent: PyTree, eta: PyTree, optimizer: Optimizer) -> MetaState:
        report = {"meta_loss": jnp.zeros(()), "meta_grad_norm": jnp.zeros(())}
        return MetaState(agent, eta, optimizer.init(eta), (), report)

    @property
    def params(self) -> PyTree:
        return self.agent.params

    def descend(
        self, value: Array, gradient: PyTree, optimizer: Optimizer, max_grad_norm: Array | float = jnp.inf
    ) -> MetaState:
        """eta one step down the gradient of its loss, averaged over the devices that share the batch."""
        value, gradient = parallel.pmean((value, gradient))
        gradient, norm = clip_by_global_norm(gradient, max_grad_norm)
        updates, opt_state = optimizer.update(gradient, self.opt_state, self.eta)
        eta = jax.tree.map(jnp.add, self.eta, updates)
        return self.replace(eta=eta, opt_state=opt_state, report={"meta_loss": value, "meta_grad_norm": norm})


# --------------------------------------------------------------------------------------------------------- forward
@struct
class Tangent:
    """d (floating leaves of a state) / d eta, along each of the n numbers in eta: leaves [n, ...]; None elsewhere."""

    state: PyTree

    @staticmethod
    def zero(state: PyTree, eta: PyTree) -> Tangent:
        number = ravel_pytree(eta)[0].size
        return Tangent(jax.tree.map(lambda x: jnp.zeros((number, *x.shape), x.dtype), _floats(state)))

    def scaled(self, by: Array | float) -> Tangent:
        return Tangent(jax.tree.map(lambda x: by * x, self.state))

    def slope(self, gradient: PyTree, eta: PyTree) -> PyTree:
        """The derivative with respect to eta of something whose `gradient` with respect to `state.params` is known."""
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(self.state.params), strict=True)
        along = sum(jnp.tensordot(tangent, slope, slope.ndim) for slope, tangent in pairs)
        return ravel_pytree(eta)[1](along)


def push(update: Update, eta: PyTree, state: PyTree, before: Tangent | None, *inputs: Any) -> tuple[Any, Tangent]:
    """`update(eta, state, *inputs)`, and the tangent of the state it leads to.

    before  the tangent of `state`; None: the state does not depend on eta (the update alone is differentiated, which
            is cheaper, since derivatives of the loss's gradient with respect to the parameters are not needed)
    """
    flat, unravel = ravel_pytree(eta)

    def after(flat, floats):
        new, *rest = update(unravel(flat), _with_floats(state, floats), *inputs)
        return _floats(new), (new, *rest)

    directions = (jnp.eye(flat.size, dtype=flat.dtype),)
    if before is None:
        alone = lambda flat: after(flat, _floats(state))  # noqa: E731
        along = lambda way: jax.jvp(alone, (flat,), (way,), has_aux=True)  # noqa: E731
    else:
        directions = (*directions, before.state)
        along = lambda *way: jax.jvp(after, (flat, _floats(state)), way, has_aux=True)  # noqa: E731
    _, tangent, out = jax.vmap(along, out_axes=(None, 0, None))(*directions)
    return out, Tangent(tangent)


def _floats(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)


def _with_floats(tree: PyTree, floats: PyTree) -> PyTree:
    return jax.tree.map(lambda x, new: x if new is None else new, tree, floats, is_leaf=lambda x: x is None)


# --------------------------------------------------------------------------------------------------------- reverse
@struct
class Tape:
    """What the last K updates were made of: the state `before` them, and their inputs, leaves [K, ...]."""

    before: PyTree
    inputs: PyTree
    count: Int[Array, ""]

    @staticmethod
    def blank(state: PyTree, inputs: PyTree, length: int) -> Tape:
        """An empty tape for `length` updates with inputs of these shapes (arrays, or their ShapeDtypeStructs)."""
        zeros = lambda x: jnp.zeros((length, *x.shape), x.dtype)  # noqa: E731
        return Tape(state, jax.tree.map(zeros, inputs), jnp.zeros((), jnp.int32))

    def write(self, state: PyTree, inputs: PyTree) -> Tape:
        """With the inputs of one more update of `state`; the first of K begins anew."""
        place = self.count % jax.tree.leaves(self.inputs)[0].shape[0]
        before = jax.tree.map(lambda new, old: jnp.where(place == 0, new, old), state, self.before)
        inputs = jax.tree.map(lambda rows, x: rows.at[place].set(x), self.inputs, inputs)
        return Tape(before, inputs, self.count + 1)

    def replay(self, update: Update, eta: PyTree, remat: bool = True, every: bool = False) -> PyTree:
        """The state that the K updates lead to, as a function of eta.

        remat  keep only the states between updates, and compute each update again on the way back: memory for K
               states and one update, instead of K updates, for about a third more work
        every  the states that each of them led to, leaves [K, ...], where all are judged
        """

        def step(state, inputs):
            state = update(eta, state, *inputs)[0]
            return state, state if every else None

        last, course = jax.lax.scan(jax.checkpoint(step) if remat else step, self.before, self.inputs)
        return course if every else last


def blank_inputs(agent: Any, state: PyTree, spec: Spec) -> tuple[PyTree, PRNGKeyArray]:
    """(batch, key) of the shapes that `agent.learn` is called with: a rollout's, or a sample's from its memory."""
    batch = blank_batch(agent, state, spec, agent.rollout_length)
    if agent.memory is not None:

        def sample(key):
            return agent.memory.sample(agent.memory.init(batch, spec), key, spec)[0]

        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(sample, jax.random.key(0)))
    return batch, jax.random.key(0)
