"""A Gymnasium environment that survives its own exceptions. Free of JAX: it also runs in worker processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gymnasium

FAILED = "operant_failed"
"""Key of `info`: the text of the exception at a step that failed, so that this step begins another episode."""


class Guarded(gymnasium.Env):
    """The environment that `build` makes. When a step raises, it is made again and reset, with another seed."""

    def __init__(self, build: Callable[[], gymnasium.Env], seed: int):
        self._build, self._seed, self._remade = build, seed, 0
        self._env = build()
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self.metadata, self.render_mode = self._env.metadata, self._env.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            observation, info = self._env.reset(seed=seed, options=options)
            return observation, {**_kept(info), FAILED: ""}
        except Exception as error:
            return self._again(error)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = self._env.step(action)
            return observation, float(reward), bool(terminated), bool(truncated), {**_kept(info), FAILED: ""}
        except Exception as error:
            observation, info = self._again(error)
            return observation, 0.0, False, False, info

    def _again(self, error: Exception) -> tuple[Any, dict[str, Any]]:
        self.close()
        self._remade += 1
        self._env = self._build()
        observation, info = self._env.reset(seed=(self._seed + 1_000_003 * self._remade) % 2**31)
        return observation, {**_kept(info), FAILED: f"{type(error).__name__}: {error}" or "failed"}

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a broken environment may well fail to close
            self._env.close()


def _kept(info: dict[str, Any]) -> dict[str, Any]:
    # Vector environments merge these over all environments at every step: only what is read is worth that.
    return {"action_mask": info["action_mask"]} if "action_mask" in info else {}
