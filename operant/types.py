"""What flows through the house: spaces, `Spec`, `Timestep` and `Batch`.

Time follows dm_env's vocabulary and *next-step auto-reset*: when an episode ends, the next step ignores its action and
returns the first observation of the next episode.  The step across that boundary is no experience (`valid == 0`), so
no observation is stored twice and a time limit bootstraps from the true last observation.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

PyTree = Any


# --------------------------------------------------------------------------------------------------------- spaces
@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n-1."""

    n: int

    shape: tuple[int, ...] = dataclasses.field(default=(), init=False)
    dtype: str = dataclasses.field(default="int32", init=False)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """A vector of integers, the i-th in 0 .. nvec[i]-1."""

    nvec: tuple[int, ...]

    dtype: str = dataclasses.field(default="int32", init=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)


@dataclasses.dataclass(frozen=True)
class Box:
    """An array with bounds. `low` and `high` are one number, or a flat tuple with one number per element.

    Images are `uint8` with channels last; `stack` says that the last axis holds that many consecutive frames, oldest
    first, an episode's first frame being repeated before it (so that a memory can keep each frame once).

    As an *action* space a bounded Box is always presented to agents as [-1, 1]; adapters clip and rescale to the
    bounds given here (`to_native`).
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | tuple[float, ...] = -np.inf
    high: float | tuple[float, ...] = np.inf
    stack: int = 1

    @property
    def bounded(self) -> bool:
        return bool(np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high)))


@dataclasses.dataclass(frozen=True)
class Dict:
    """Named spaces, in a fixed order. Values are dictionaries of arrays."""

    items: tuple[tuple[str, "Space"], ...]

    def __getitem__(self, name: str) -> "Space":
        return dict(self.items)[name]


Space = Discrete | MultiDiscrete | Box | Dict


def zeros(space: Space, batch: tuple[int, ...] = ()) -> PyTree:
    """An all-zero member of `space` with leading axes `batch` (a structure to initialise networks and buffers with)."""
    if isinstance(space, Dict):
        return {name: zeros(sub, batch) for name, sub in space.items}
    return jnp.zeros(batch + tuple(space.shape), space.dtype)


def to_native(action: PyTree, space: Space) -> PyTree:
    """An agent's action in the units of the environment.

    A bounded Box is acted on in [-1, 1]: clip, then stretch to [low, high].  Other spaces pass unchanged, with the
    space's exact dtype (host simulators read raw memory).  Works on NumPy and JAX arrays, any leading axes.
    """
    if isinstance(space, Box):
        if space.bounded:
            low = np.reshape(np.broadcast_to(space.low, (int(np.prod(space.shape)),)), space.shape).astype(np.float32)
            high = np.reshape(np.broadcast_to(space.high, (int(np.prod(space.shape)),)), space.shape).astype(np.float32)
            action = low + (action.clip(-1.0, 1.0) + 1.0) * 0.5 * (high - low)
        return action.astype(space.dtype)
    if isinstance(space, Dict):
        return {name: to_native(action[name], sub) for name, sub in space.items}
    return action.astype(space.dtype)


# ----------------------------------------------------------------------------------------------------------- spec
@dataclasses.dataclass(frozen=True)
class Spec:
    """What an agent may know of its task before it starts. Hashable: it travels as static metadata in agent states.

    total_steps is the *planned length* in environment steps (valid transitions, over all environments of one lane):
    annealing and exploration schedules need it, and a resumed run keeps it.
    """

    observation: Space
    action: Space
    num_envs: int = 1
    total_steps: int = 0
    time_limit: int | None = None
    action_mask: bool = False
    name: str = ""

    def replace(self, **changes) -> "Spec":
        return dataclasses.replace(self, **changes)


# ------------------------------------------------------------------------------------------------------- pytrees
@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def struct(cls: Any = None, *, static: tuple[str, ...] = ()) -> Any:
    """A frozen dataclass that is a pytree; fields named in `static` are metadata (hashable), the others children."""

    def wrap(cls):
        cls = dataclasses.dataclass(frozen=True)(cls)
        names = [f.name for f in dataclasses.fields(cls)]
        data = [n for n in names if n not in static]
        jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=[n for n in names if n in static])
        cls.replace = lambda self, **changes: dataclasses.replace(self, **changes)
        return cls

    return wrap if cls is None else wrap(cls)


@struct
class Timestep:
    """What an agent sees at one moment, batched over environments [B].

    observation      the current observation
    reward           the reward that came with it (0 at a first step), as the agent is to learn from it
    discount         0 if the MDP terminated on arriving here, else 1 (a time limit keeps 1)
    first            True at the first step of an episode
    last             True if the episode ends here, by termination or time limit: the next step will be a `first`
    score            the true reward, before any clipping: returns that are reported are sums of it
    previous_action  the action that led here (zeros at a first step)
    action_mask      True for the actions that are allowed now; None where the environment has no masks
    env_index        which environment of the lane this is (exploration schedules by index)
    """

    observation: PyTree
    reward: Float[Array, "B"]
    discount: Float[Array, "B"]
    first: Bool[Array, "B"]
    last: Bool[Array, "B"]
    score: Float[Array, "B"]
    previous_action: PyTree
    action_mask: PyTree
    env_index: Int[Array, "B"]


@struct
class Batch:
    """A stretch of experience, time-major. Row t is the transition from observation[t] to observation[t+1].

    observation  [T+1, B, ...]
    first        [T+1, B]       cannot be derived at time 0; recurrent networks reset on it
    action       [T, B, ...]
    reward       [T, B]
    discount     [T, B]         0 where the MDP terminated, else 1 (a time limit keeps 1)
    valid        [T, B]         0 for the pseudo-transition across an episode boundary, else 1
    extras       [T, B, ...]    a dict: what `act` returned (behaviour log-probabilities, values, ...)
    carry        [B, ...]       the recurrent state before observation[0]; () unless the agent remembers
    action_mask  [T+1, B, A]    or None
    weight       [1, B]         importance weights of a prioritised sample, or None

    A sample of n-step transitions from a memory holds, for n rows of reward, discount and valid, the two ends only of
    observation, first and action_mask [2, B, ...]: a window's inner observations would be encoded for nothing.
    """

    observation: PyTree
    first: Bool[Array, "T1 B"]
    action: PyTree
    reward: Float[Array, "T B"]
    discount: Float[Array, "T B"]
    valid: Float[Array, "T B"]
    extras: PyTree = dataclasses.field(default_factory=dict)
    carry: PyTree = ()
    action_mask: PyTree = None
    weight: PyTree = None


def transitions(batch: Batch) -> Batch:
    """The batch without observation[T]: every time-major field has T rows, ready to be cut or stored."""
    head = lambda tree: jax.tree.map(lambda x: x[:-1], tree)  # noqa: E731
    return batch.replace(
        observation=head(batch.observation), first=head(batch.first), action_mask=head(batch.action_mask)
    )
