"""Any Gymnasium environment, called from `jit`: slow beside the others, but there is one for everything.

An environment may raise, hang or crash. One that raises is made again: the broken episode ends without a `last`, and
the next timestep is a `first`, so that the step between is no experience. One that hangs beyond `step_timeout`, or
takes its worker process down, costs the whole batch its episodes: all are made again. `failures` counts both; beyond
`max_failures` the run ends with EnvironmentFailure.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import multiprocessing
import queue
import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.experimental
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import create_empty_array
from jaxtyping import Array, Key

from operant.envs import gym_spaces, wrappers
from operant.envs.base import (
    Environment,
    Host,
    Native,
    allowed,
    check_keys,
    clear,
    conform,
    first_timestep,
)
from operant.envs.guard import FAILED, Guarded
from operant.envs.options import defaults, like, positive
from operant.errors import EnvironmentFailure, UserError, check_options
from operant.types import Discrete, MultiDiscrete, PyTree, Spec, Timestep, to_native

_START_TIMEOUT = 120.0  # seconds to make and reset a batch: imports and assets take their time
_OPTIONS = ("asynchronous", "max_failures", "step_timeout", "time_limit")


def make(name: Any, num_envs: int, seeds: list[int], *, label: str = "", **options: Any) -> Environment:
    """A batch of Gymnasium environments: a registered id, a class or callable that returns one, or an instance.

    An instance is a pattern: it is made again from its registered id, or copied, and not played in itself.

    time_limit    steps, instead of the registered limit
    asynchronous  each environment in a process of its own (False)
    step_timeout  seconds that a step of the batch may take (60)
    max_failures  failures before the run is given up (10)
    and the wrappers' options; all others go to the environment's constructor.
    """
    usual = defaults(Gym)
    own = {option: like(option, options.pop(option), usual[option]) for option in _OPTIONS if option in options}
    generic = {option: options.pop(option) for option in wrappers.OPTIONS if option in options}
    limit = own.pop("time_limit", None)
    build, limit = _builder(name, options, None if limit is None else positive("time_limit", limit))
    return wrappers.wrap(Gym(label or _title(name), build, num_envs, seeds, time_limit=limit, **own), **generic)


def _title(thing: Any) -> str:
    if isinstance(thing, gymnasium.Env):
        return thing.spec.id if thing.spec is not None else type(thing.unwrapped).__name__
    return thing if isinstance(thing, str) else getattr(thing, "__name__", type(thing).__name__)


def _builder(thing: Any, options: dict[str, Any], limit: int | None) -> tuple[Callable[[], gymnasium.Env], int | None]:
    """A function that makes one environment, and the time limit: `limit`, or the registered one."""
    if isinstance(thing, str):
        try:
            registered = gymnasium.spec(thing)
        except (gymnasium.error.Error, ImportError) as error:
            raise UserError(f"Gymnasium cannot make {thing!r}: {error}") from error
        return _from_entry(registered, options, limit)
    if isinstance(thing, gymnasium.Env):
        return _after(thing, options, limit)
    if inspect.isclass(thing):
        takes = inspect.signature(thing).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            check_options(thing.__name__, options, (*takes, *_OPTIONS, *wrappers.OPTIONS))
    elif not callable(thing):
        raise UserError(f"{type(thing).__name__} is no gymnasium.Env: hand over a callable that returns one.")
    build = functools.partial(thing, **options)
    return build if limit is None else functools.partial(_limited, build, limit), limit


def _from_entry(
    entry: EnvSpec, options: dict[str, Any], limit: int | None
) -> tuple[Callable[[], gymnasium.Env], int | None]:
    """`_builder` for an entry of Gymnasium's registry."""
    known = {} if limit is None else {"max_episode_steps": limit}
    # The entry itself, not its name: worker processes have not run the code that registered it.
    build = functools.partial(gymnasium.make, entry, disable_env_checker=True, **known, **options)
    return build, limit or entry.max_episode_steps


def _after(
    pattern: gymnasium.Env, options: dict[str, Any], limit: int | None
) -> tuple[Callable[[], gymnasium.Env], int | None]:
    """`_builder` for an instance: from its registered entry with the same wrappers, or else from a copy."""
    name, entry, reason = _title(pattern), pattern.spec, ""
    if entry is not None:
        build, limit_there = _from_entry(entry, options, limit)
        try:
            with contextlib.closing(build()) as made:
                if (made.observation_space, made.action_space) == (pattern.observation_space, pattern.action_space):
                    return build, limit_there
        except Exception as error:  # such as a wrapper that does not say what it was made with
            reason = f" ({' '.join(str(error).split())})"
    if options:
        raise UserError(
            f"{name} is made already, and cannot be given {', '.join(options)}{reason}: hand over its class."
        )
    try:
        kept = copy.deepcopy(pattern)  # whoever handed it over may go on with it
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{name} cannot be copied ({reason}): hand over its class, or a callable that returns a new one."
        ) from error
    build = functools.partial(copy.deepcopy, kept)
    there = None if entry is None else entry.max_episode_steps
    if limit is None:
        return build, there
    return functools.partial(_limited, build, limit), limit if there is None else min(limit, there)


def _limited(build: Callable[[], gymnasium.Env], limit: int) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(build(), limit)


class Gym:
    """A batch of Gymnasium environments. `failures` counts those that raised, hung or crashed.

    `error` holds the EnvironmentFailure that ended the run, if one did: what surfaces from `jit` is wrapped in an
    exception of JAX's.
    """

    host = True

    def __init__(
        self,
        name: str,
        build: Callable[[], gymnasium.Env],
        num_envs: int,
        seeds: list[int],
        *,
        time_limit: int | None = None,
        asynchronous: bool = False,
        step_timeout: float = 60.0,
        max_failures: int = 10,
    ):
        if step_timeout <= 0 or max_failures < 0:
            raise UserError(f"expected step_timeout > 0 and max_failures >= 0, got {step_timeout} and {max_failures}.")
        self._structure = {
            "time_limit": time_limit,
            "asynchronous": asynchronous,
            "step_timeout": step_timeout,
            "max_failures": max_failures,
        }
        self.num_envs, self.failures, self.error = num_envs, 0, None
        self._name, self._build, self._seeds, self._asynchronous = name, build, list(seeds), asynchronous
        self._step_timeout, self._max_failures = step_timeout, max_failures
        self._calls, self._started, self._closed, self._reason = 0, False, False, ""
        self._over = np.zeros(num_envs, bool)
        self._vector: Any = None
        self._thread = _Thread()
        observation, info = self._start_or_refuse()
        self._observation, self._action = self._vector.single_observation_space, self._vector.single_action_space
        action = gym_spaces.space_of(self._action, acting=True)
        self.spec = Spec(
            observation=gym_spaces.space_of(self._observation),
            action=action,
            num_envs=num_envs,
            time_limit=time_limit,
            action_mask="action_mask" in info and isinstance(action, (Discrete, MultiDiscrete)),
            name=name,
        )
        self._fresh: Any = (observation, info)
        never = np.zeros(num_envs, bool)
        example = self._pack(observation, np.zeros(num_envs), never, never, never, info)
        self._shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), example)

    # ------------------------------------------------------------------------------------------------ inside jit
    def reset(self, keys: Key[Array, "B"]) -> tuple[Host, Timestep]:
        """Begin new episodes. The environments go on with their own generators: `keys` are not used."""
        check_keys(keys, self.num_envs)
        out = jax.experimental.io_callback(self._host_reset, self._shapes, ordered=True)
        return Host(out["handle"]), first_timestep(self.spec, out["observation"], out["action_mask"])

    def step(self, state: Host, action: PyTree) -> tuple[Host, Timestep]:
        """One step of every environment, or the first observation of its next episode."""
        action = conform(action, self.spec.action, "action")
        native = to_native(action, self.spec.action)
        out = jax.experimental.io_callback(self._host_step, self._shapes, state.handle, native, ordered=True)
        timestep = Timestep(
            observation=out["observation"],
            reward=out["reward"],
            discount=1.0 - out["terminated"].astype("float32"),
            first=out["first"],
            last=out["terminated"] | out["truncated"],
            score=out["reward"],
            previous_action=clear(out["first"], action),
            action_mask=out["action_mask"],
            env_index=np.arange(self.num_envs, dtype=np.int32) + 0 * out["handle"],
        )
        return Host(out["handle"]), timestep

    # ---------------------------------------------------------------------------------------------- on the host
    def _host_reset(self) -> dict[str, Any]:
        self._usable()
        if self._fresh is None:
            try:
                self._fresh = self._thread.call(self._vector.reset, self._step_timeout)
            except Exception as error:
                self._fresh = self._start_again(error)
        (observation, info), self._fresh = self._fresh, None
        self._count(info)
        return self._host_first(observation, info)

    def _host_step(self, handle: Any, action: Any) -> dict[str, Any]:
        self._usable()
        self._fresh = None
        native = gym_spaces.native(jax.tree.map(np.asarray, action), self._action)
        try:
            observation, reward, terminated, truncated, info = self._thread.call(
                functools.partial(self._vector.step, native), self._step_timeout
            )
        except Exception as error:
            observation, info = self._start_again(error)
            return self._host_first(observation, info)
        first = self._over | self._count(info)
        reward = np.where(first, 0.0, reward)
        terminated, truncated = terminated & ~first, truncated & ~first & ~terminated
        self._over = terminated | truncated
        return self._pack(observation, reward, terminated, truncated, first, info)

    def _host_first(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        self._over = np.zeros(self.num_envs, bool)
        none = np.zeros(self.num_envs, bool)
        return self._pack(observation, np.zeros(self.num_envs), none, none, ~none, info)

    def _pack(self, observation, reward, terminated, truncated, first, info) -> dict[str, Any]:
        self._calls += 1
        return {
            "handle": np.int32(self._calls % 2**31),
            "observation": gym_spaces.observe(observation, self._observation),
            "reward": np.asarray(reward, np.float32),
            "terminated": np.asarray(terminated, bool),
            "truncated": np.asarray(truncated, bool),
            "first": np.asarray(first, bool),
            "action_mask": self._mask(info) if self.spec.action_mask else None,
        }

    def _mask(self, info: dict[str, Any]) -> np.ndarray:
        """Which actions are allowed [B, A]; all are where an environment does not say."""
        space = self.spec.action
        mask = np.ones((self.num_envs, space.n if isinstance(space, Discrete) else sum(space.nvec)), bool)
        for i in np.flatnonzero(info["_action_mask"]) if "action_mask" in info else ():
            mask[i] = allowed(info["action_mask"][i], space, self._name)
        return mask

    # -------------------------------------------------------------------------------------------------- failures
    def _count(self, info: dict[str, Any]) -> np.ndarray:
        """Which environments failed at this step [B]; counts them, and gives up when they are too many."""
        texts = [str(text or "") for text in info.get(FAILED, [""] * self.num_envs)]
        failed = np.array([bool(text) for text in texts])
        if failed.any():
            self.failures += int(failed.sum())
            self._reason = next(text for text in texts if text)
            self._bound()
        return failed

    def _bound(self) -> None:
        if self.failures > self._max_failures:
            self.error = EnvironmentFailure(
                f"{self._name} failed {self.failures} times (max_failures={self._max_failures}), the last time with "
                f"{self._reason}: mend the environment, or allow more failures."
            )
            raise self.error

    def _usable(self) -> None:
        if self.error is not None:
            raise self.error
        if self._closed:
            raise UserError(f"{self._name} was closed: make it again.")

    def _start_or_refuse(self) -> tuple[Any, dict[str, Any]]:
        try:
            return self._thread.call(self._start, _START_TIMEOUT)
        except Exception as error:
            self._discard()
            raise UserError(f"{self._name} cannot be made: {type(error).__name__}: {error}") from error

    def _start_again(self, error: Exception) -> tuple[Any, dict[str, Any]]:
        """A new batch in place of one that hung, crashed or could not go on. Every episode is lost."""
        while True:
            self.failures += 1
            hung = isinstance(error, (TimeoutError, multiprocessing.TimeoutError))
            self._reason = f"no answer within {self._step_timeout:g} s" if hung else f"{type(error).__name__}: {error}"
            self._discard()
            self._bound()
            self._seeds = [(seed + 7_368_787) % 2**31 for seed in self._seeds]
            self._thread = _Thread()
            try:
                observation, info = self._thread.call(self._start, _START_TIMEOUT)
            except Exception as another:
                error = another
                continue
            self._count(info)
            return observation, info

    def _start(self) -> tuple[Any, dict[str, Any]]:
        makers = [functools.partial(Guarded, self._build, seed) for seed in self._seeds]
        if self._asynchronous:
            # Never fork: JAX has threads. A fork server starts fastest where there is one.
            methods = multiprocessing.get_all_start_methods()
            context = "forkserver" if "forkserver" in methods else "spawn"
            self._vector = AsyncVectorEnv(makers, context=context, autoreset_mode=AutoresetMode.NEXT_STEP)
        else:
            self._vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
        return self._vector.reset(seed=self._seeds)

    def _discard(self) -> None:
        """Drop the batch, without waiting for anything that may hang."""
        vector, self._vector = self._vector, None
        if vector is None:
            return
        vector.closed = True
        if isinstance(vector, AsyncVectorEnv):
            for process in vector.processes:
                process.kill()
            for pipe in vector.parent_pipes:
                with contextlib.suppress(OSError):  # it may have been closed by the crash
                    pipe.close()

    @property
    def native(self) -> Native:
        """Gymnasium's own observations and actions."""
        example = create_empty_array(self._observation, n=1)
        return Native(
            example=jax.tree.map(lambda x: x[0], example),
            observe=functools.partial(gym_spaces.observe, space=self._observation),
            act=functools.partial(gym_spaces.native, space=self._action),
        )

    def remake(self, num_envs: int, seeds: list[int]) -> Environment:
        """Another batch of the same environments."""
        return Gym(self._name, self._build, num_envs, seeds, **self._structure)

    def close(self) -> None:
        """Close the environments; worker processes end."""
        if self._closed:
            return
        self._closed = True
        vector = self._vector
        if vector is not None:
            try:
                self._thread.call(vector.close, self._step_timeout)
            except Exception:
                self._discard()
        self._thread.stop()


class _Thread:
    """A daemon thread that owns the environments, so that a call that hangs can be given up."""

    def __init__(self):
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, name="operant-gym", daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            function, answer = task
            try:
                answer.put((True, function()))
            except Exception as error:
                answer.put((False, error))

    def call(self, function: Callable[[], Any], timeout: float) -> Any:
        answer: queue.SimpleQueue = queue.SimpleQueue()
        self._tasks.put((function, answer))
        try:
            fine, value = answer.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            raise TimeoutError(f"no answer within {timeout:g} s") from None
        if not fine:
            raise value
        return value

    def stop(self) -> None:
        self._tasks.put(None)
