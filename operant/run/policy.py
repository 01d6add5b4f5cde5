"""A trained policy outside the library: NumPy in, NumPy out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant.errors import UserError
from operant.types import Box, Dict, Space, Spec, Timestep, to_native, zeros


class Policy:
    """`policy(observation) -> action`, in the environment's own units, for one observation or a batch of them.

        policy = op.load_run("runs/...").policy
        action = policy(observation)              # in a Gymnasium loop; policy.reset() between episodes
        evaluate_policy(policy, env)              # Stable-Baselines3, through `predict`

    A policy that remembers keeps its state from call to call: `reset()` forgets, and a change of the batch's size
    does too.
    """

    def __init__(self, agent: Any, state: Any, spec: Spec, *, seed: int = 0, stochastic: bool = False):
        """agent, state: of one lane (no leading axis)."""
        self.agent, self.spec, self.stochastic = agent, spec, stochastic
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
        observation = _arrays(observation)
        batched, size = self._batch_size(observation)
        batch = observation if batched else jax.tree.map(lambda x: np.asarray(x)[None], observation)
        if self._carry is None or self._first is None or len(self._first) != size:
            self._carry = self.agent.start(self._state, size)
            self._first = np.ones(size, bool)
            self._previous = zeros(self.spec.action, (size,))
        if self.spec.action_mask and action_mask is None:
            raise UserError("this policy was trained with action masks: call policy(observation, action_mask=mask)")
        if action_mask is not None and not batched:
            action_mask = np.asarray(action_mask)[None]
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
        if batched:
            return action
        single = jax.tree.map(lambda x: x[0], action)
        return single if isinstance(self.spec.action, (Box, Dict)) or np.ndim(single) else int(single)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Stable-Baselines3's signature. The recurrent state is kept here, not handed back and forth."""
        if episode_start is not None and np.all(episode_start):
            self.reset()
        elif episode_start is not None and self._first is not None and len(self._first) == len(episode_start):
            self._first = np.asarray(episode_start, bool)
        return self(observation, deterministic=deterministic), state

    def _batch_size(self, observation: Any) -> tuple[bool, int]:
        def look(x: Any, space: Space) -> tuple[bool, int]:
            if isinstance(space, Dict):
                name, sub = space.items[0]
                return look(x[name], sub)
            shape = np.shape(x)
            if shape == tuple(space.shape):
                return False, 1
            if shape[1:] == tuple(space.shape):
                return True, shape[0]
            raise UserError(f"observation has shape {shape}; expected {tuple(space.shape)} or a batch of such")

        return look(observation, self.spec.observation)

    def _cast(self, observation: Any, space: Space) -> Any:
        if isinstance(space, Dict):
            return {name: self._cast(observation[name], sub) for name, sub in space.items}
        return jnp.asarray(np.asarray(observation), space.dtype)


def _arrays(observation: Any) -> Any:
    """Lists and numbers as arrays: a list would pass for a tree."""
    if isinstance(observation, dict):
        return {name: _arrays(x) for name, x in observation.items()}
    return np.asarray(observation)
