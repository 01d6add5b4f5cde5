"""A trained policy outside the library: NumPy in, NumPy out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant.envs.base import Native, allowed
from operant.errors import UserError
from operant.types import Dict, Discrete, Space, Spec, Timestep, to_native, zeros


class Policy:
    """`policy(observation) -> action`, in the environment's own units, for one observation or a batch of them.

        policy = op.load_run("runs/...").policy
        action = policy(observation)              # in a Gymnasium loop; policy.reset() between episodes
        evaluate_policy(policy, env)              # Stable-Baselines3, through `predict`

    In those units: images with their channels where the environment has them, numbers from where it counts. The form in
    which the agent sees observations is understood as well; after `frame_stack` it is the only one.

    A policy that remembers keeps its state from call to call: `reset()` forgets, and a change of the batch's size
    does too.
    """

    def __init__(self, agent: Any, state: Any, spec: Spec, *, env: Any = None, seed: int = 0, stochastic: bool = False):
        """agent, state: of one lane (no leading axis); env: the environment, which knows its own units."""
        self.agent, self.spec, self.stochastic = agent, spec, stochastic
        self._native: Native | None = getattr(env, "native", None)
        self._forms: list[tuple[Any, Callable]] = [(zeros(spec.observation), lambda x: x)]  # how observations may come
        if self._native is not None and self._native.example is not None:
            self._forms.insert(0, (self._native.example, self._native.observe))
        self._state = jax.device_get(state)
        self._key = jax.random.key(seed)
        self._carry: Any = None
        self._first: np.ndarray | None = None
        self._previous: Any = None

        def act(state, timestep, carry, key, explore):
            action, carry, _ = agent.act(state, timestep, carry, key, explore)
            return to_native(action, spec.action), action, carry

        self._act = jax.jit(act, static_argnames="explore")

    def reset(self) -> None:
        """Forget the episode so far."""
        self._carry = None

    def __call__(self, observation: Any, *, deterministic: bool | None = None, action_mask: Any = None) -> Any:
        """observation: one, or a batch with one leading axis. Raises UserError if its shape is neither."""
        batch, batched = self._batch(observation)
        size = len(jax.tree.leaves(batch)[0])
        if self._carry is None or self._first is None or len(self._first) != size:
            self._carry = self.agent.start(self._state, size)
            self._first = np.ones(size, bool)
            self._previous = zeros(self.spec.action, (size,))
        if self.spec.action_mask and action_mask is None:
            raise UserError("this policy was trained with action masks: call policy(observation, action_mask=mask)")
        if action_mask is not None:
            masks = action_mask if batched else [action_mask]
            action_mask = np.stack([allowed(mask, self.spec.action, "the policy's caller") for mask in masks])
        none = jnp.zeros(size)
        timestep = Timestep(
            observation=self._cast(batch, self.spec.observation),
            reward=none,
            discount=none + 1.0,
            first=jnp.asarray(self._first),
            last=jnp.zeros(size, bool),
            score=none,
            previous_action=self._previous,
            action_mask=None if action_mask is None else jnp.asarray(action_mask, bool),
            env_index=jnp.arange(size),
        )
        self._key, key = jax.random.split(self._key)
        explore = self.stochastic if deterministic is None else not deterministic
        action, self._previous, self._carry = self._act(self._state, timestep, self._carry, key, explore)
        self._first = np.zeros(size, bool)
        action = jax.tree.map(np.asarray, action)
        if self._native is not None:
            action = self._native.act(action)
        if batched:
            return action
        single = jax.tree.map(lambda x: x[0], action)
        return int(single) if isinstance(self.spec.action, Discrete) else single

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Stable-Baselines3's signature. The recurrent state is kept here, not handed back and forth."""
        if episode_start is not None and np.all(episode_start):
            self.reset()
        elif episode_start is not None and self._first is not None and len(self._first) == len(episode_start):
            self._first = np.asarray(episode_start, bool)
        return self(observation, deterministic=deterministic), state

    def _batch(self, observation: Any) -> tuple[Any, bool]:
        """The observations [B, ...] as the agent sees them, and whether a batch was given."""
        for example, convert in self._forms:
            for lead in (0, 1):
                arrays = _fit(observation, example, lead)
                if arrays is not None:
                    return convert(arrays if lead else jax.tree.map(lambda x: x[None], arrays)), bool(lead)
        expected = _shapes(self._forms[0][0])
        raise UserError(f"observation has shape {_shapes(observation)}; expected {expected} or a batch of such")

    def _cast(self, observation: Any, space: Space) -> Any:
        if isinstance(space, Dict):
            return {name: self._cast(observation[name], sub) for name, sub in space.items}
        return jnp.asarray(np.asarray(observation), space.dtype)


def _fit(value: Any, example: Any, lead: int) -> Any:
    """`value` as arrays, if it is put like `example` with `lead` axes more in front; else None."""
    if isinstance(example, dict):
        fits = isinstance(value, Mapping) and all(name in value for name in example)
        parts = {name: _fit(value[name], part, lead) for name, part in example.items()} if fits else {"": None}
        return None if any(part is None for part in parts.values()) else parts
    if isinstance(example, tuple):
        fits = isinstance(value, tuple) and len(value) == len(example)
        several = [_fit(x, part, lead) for x, part in zip(value, example, strict=True)] if fits else [None]
        return None if any(part is None for part in several) else tuple(several)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    fits = array.dtype != object and array.ndim == lead + np.ndim(example) and array.shape[lead:] == np.shape(example)
    return array if fits else None


def _shapes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _shapes(x) for name, x in value.items()}
    return tuple(_shapes(x) for x in value) if isinstance(value, tuple) else np.asarray(value).shape
