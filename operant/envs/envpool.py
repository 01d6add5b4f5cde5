"""EnvPool's environments inside `jit`: Atari, MuJoCo, DeepMind Control, MiniGrid, Procgen, ViZDoom and many more.

EnvPool steps C++ simulators from a custom call of XLA.  The call does not check what it is given: a float32 buffer
where float64 is expected reads and writes beyond it.  Here every operand is brought to the exact type and shape of
the pool's specification and compared with it while tracing, so that a wrong buffer can never be compiled.

Float64 does not exist in JAX's default mode; the calls are traced with 64-bit types enabled, and observations become
float32 at once.  A pool cannot be copied: its state is a `Host`.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from operant.envs import wrappers
from operant.envs.base import (
    Environment,
    Host,
    Native,
    check_keys,
    clear,
    conform,
    first_timestep,
)
from operant.envs.envpool_layout import Layout, shape_of
from operant.envs.options import flag, like, positive, repeats
from operant.errors import UserError, check_options
from operant.types import PyTree, Spec, Timestep, to_native

# What the pool's own configuration must not decide behind the adapter's back: life losses that end episodes would
# falsify returns, and rewards are clipped here, so that the true score stays known.
_RESERVED = frozenset(
    "num_envs batch_size seed env_seed base_path gym_reset_return_info max_num_players max_episode_steps episodic_life "
    "zero_discount_on_life_loss reward_clip repeat_action_probability stack_num reward_threshold render_mode "
    "render_env_id env_name task task_name".split()
)
_POSITIVE = ("num_threads", "frame_skip", "img_height", "img_width")
_PIXELS = ("from_pixels", "render_width", "render_height", "render_camera_id")

_NO_PUZZLES = "EnvPool's packages lack the file of its puzzles."
LEFT_OUT = {
    "VizdoomCustom-v1": "it needs a scenario file of one's own: use EnvPool directly.",
    "Sudoku-v0": _NO_PUZZLES,
    "Jumanji/Sudoku-v0": _NO_PUZZLES,
    "Sudoku-very-easy-v0": _NO_PUZZLES,
    "Jumanji/Sudoku-very-easy-v0": _NO_PUZZLES,
}

# Suites that keep a clock of their own whatever limit they are given, and environments that keep none.
_OWN_CLOCK = ("gfootball", "highway", "jumanji", "procgen")
_NO_CLOCK = ("CatchEnvSpec", "CliffWalkingEnvSpec")

_SUITES = {"mujoco.gym": "mujoco", "mujoco.dmc": "dmc", "mujoco.robotics": "robotics"}


def make(name: str, num_envs: int, seeds: list[int], **options: Any) -> Environment:
    """A pool of `num_envs` environments, each with its own seed (int32).

    For every environment: time_limit, num_threads, flatten (a dictionary of vectors becomes one; on for DeepMind
    Control), the wrappers' options, and what the simulator itself knows.  For Atari, with the field's defaults:
    frame_stack=4, frame_skip=4, noop_max=30, sticky=0.0, reward_clip=True, life_loss_terminates=False (True: the
    discount is 0 where a life is lost, while the episode goes on), full_action_space=False.
    """
    pool = _import()
    if name not in pool.registry.specs:
        raise UserError(f"EnvPool has no environment {name!r}.")
    config = _config(name)
    check_options(name, options, valid_options(name))
    arguments: dict[str, Any] = {}
    generic = {"reward_clip": suite(name) == "atari"}
    generic |= {option: options.pop(option) for option in wrappers.OPTIONS if option in options}
    frame_stack = positive("frame_stack", generic.pop("frame_stack", config.get("stack_num", 1)))
    sticky = repeats("sticky", generic.pop("sticky", 0.0))
    # Two that some simulators do themselves.
    if "stack_num" in config:
        arguments["stack_num"], frame_stack = frame_stack, 1
    if "repeat_action_probability" in config:
        arguments["repeat_action_probability"], sticky = sticky, 0.0
    if "use_combined_action" in config:
        arguments["use_combined_action"] = True
    limit = options.pop("time_limit", None)
    if limit is not None:
        if suite(name) in _OWN_CLOCK or pool.registry.specs[name][1] in _NO_CLOCK:
            raise UserError(f"{name} keeps a clock of its own: time_limit cannot change it.")
        arguments["max_episode_steps"] = positive("time_limit", limit)
    flatten = flag("flatten", options.pop("flatten", suite(name) == "dmc"))
    life_loss = flag("life_loss_terminates", options.pop("life_loss_terminates", False))
    for option, value in options.items():
        options[option] = positive(option, value) if option in _POSITIVE else like(option, value, config.get(option))
    env = EnvPool(name, num_envs, seeds, {**arguments, **options}, flatten=flatten, life_loss_terminates=life_loss)
    return wrappers.wrap(env, frame_stack=frame_stack, sticky=sticky, **generic)


def valid_options(name: str) -> set[str]:
    """The names of all options that `make` takes for this environment."""
    config = _config(name)
    valid = {"time_limit", "num_threads", "flatten", *wrappers.OPTIONS, *(set(config) - _RESERVED)}
    if suite(name) == "atari":
        valid.add("life_loss_terminates")
    if _import().registry.specs[name][0].startswith("envpool.mujoco"):
        valid.update(_PIXELS)
    return valid


def suite(name: str) -> str:
    """The family of an environment: atari, mujoco, dmc, minigrid, ..."""
    path = _import().registry.specs[name][0].removeprefix("envpool.")
    return _SUITES.get(path, path.rpartition(".")[2])


def spec_of(name: str) -> Spec:
    """The Spec of `make(name, 1, [0])`, without starting a simulator."""
    if name in LEFT_OUT:
        raise UserError(LEFT_OUT[name])
    arguments = {"use_combined_action": True} if "use_combined_action" in _config(name) else {}
    return _layout(name, _spec(name, arguments), flatten=suite(name) == "dmc").spec(name, 1)


def _layout(name: str, pool_spec: Any, flatten: bool) -> Layout:
    return Layout(pool_spec, flatten, stack=int(pool_spec.config.stack_num) if suite(name) == "atari" else 1)


class EnvPool:
    """One pool. `close` ends its use; its memory is freed when the last compiled function that steps it is gone."""

    host = True

    def __init__(
        self,
        name: str,
        num_envs: int,
        seeds: list[int],
        arguments: dict[str, Any],
        *,
        flatten: bool,
        life_loss_terminates: bool,
    ):
        from envpool.python.xla_template import make_xla

        for seed in seeds:
            if not 0 <= seed < 2**31:
                raise UserError(f"the seed {seed} is outside of EnvPool's range, 0 to 2**31 - 1.")
        self._made_with = (name, arguments, {"flatten": flatten, "life_loss_terminates": life_loss_terminates})
        arguments = {"num_threads": min(num_envs, os.cpu_count() or 1), **arguments, "num_envs": num_envs}
        _spec(name, arguments)  # fails with a clear error
        try:
            self._pool = _import().make_gymnasium(name, env_seed=list(seeds), **arguments)
        except RuntimeError as error:
            raise UserError(f"EnvPool cannot make {name}: {' '.join(str(error).split())}") from error
        self._layout = _layout(name, self._pool.spec, flatten)
        self.spec: Spec = self._layout.spec(name, self._pool.config["num_envs"])
        self.num_envs: int = self.spec.num_envs
        self._true_discount = suite(name) == "dmc"
        self._life_loss = life_loss_terminates
        self._closed = False
        # Outside of this context the call would be declared with 32-bit types, whatever the simulator writes.
        with jax.enable_x64(True):
            self._handle, self._recv, self._send = make_xla(self._pool)

    def reset(self, keys: Key[Array, "B"]) -> tuple[Host, Timestep]:
        """Begin new episodes. The simulators go on with their own generators: `keys` are not used."""
        self._open()
        check_keys(keys, self.num_envs)
        # The handle that comes back makes the first `recv` wait for the resets to be on their way.
        handle = jax.ShapeDtypeStruct(self._handle.shape, self._handle.dtype)
        handle = jax.experimental.io_callback(self._begin, handle, ordered=True)
        handle, out = self._receive(handle)
        timestep = first_timestep(self.spec, self._layout.observe(out), self._layout.mask(out))
        return Host(handle, out.get("info:lives", ())), timestep

    def _begin(self) -> np.ndarray:
        self._pool.async_reset()
        return np.asarray(self._handle)

    def step(self, state: Host, action: PyTree) -> tuple[Host, Timestep]:
        """One step of every simulator, in the order of `env_index`."""
        self._open()
        action = conform(action, self.spec.action, "action")
        native = self._layout.native_action(to_native(action, self.spec.action))
        ids = jnp.arange(self.num_envs, dtype=jnp.int32)
        with jax.enable_x64(True):
            operands = []
            for key, declared in self._layout.actions.items():
                x = ids if key in ("env_id", "players.env_id") else jax.lax.convert_element_type(native, declared.dtype)
                operands.append(_exactly(x, declared, self.num_envs, key))
            handle = self._send(state.handle, *operands)
        handle, out = self._receive(handle)
        first = out["elapsed_step"] == 0
        last, live = out["done"] & ~first, ~first
        # At a time limit EnvPool sets `trunc`, and a discount of 0 that is not to be believed. DeepMind Control's
        # discounts are its own: true at a time limit, and sometimes 1 without one.
        terminated = last & (out["discount"] == 0) & (self._true_discount | ~out["trunc"])
        if "info:terminated" in out:
            terminated = terminated | (last & (out["info:terminated"] != 0))
        discount = 1.0 - terminated.astype(jnp.float32)
        lives = out.get("info:lives", ())
        if self._life_loss:
            discount = jnp.where(live & (lives < state.memory), 0.0, discount)
        # The reward of a first step is whatever the memory held.
        score = jnp.where(live, out.get("info:reward", out["reward"]), 0.0)
        timestep = Timestep(
            observation=self._layout.observe(out),
            reward=score,
            discount=discount,
            first=first,
            last=last,
            score=score,
            previous_action=clear(first, action),
            action_mask=self._layout.mask(out),
            env_index=ids,
        )
        return Host(handle, lives), timestep

    def _receive(self, handle: Array) -> tuple[Array, dict[str, Array]]:
        """The simulators' outputs by name, 64-bit numbers cut to 32, in the order of the environments."""
        with jax.enable_x64(True):
            handle, *values = self._recv(handle)
            out = dict(zip(self._pool._state_keys, values, strict=True))
            short = {np.dtype("float64"): jnp.float32, np.dtype("int64"): jnp.int32}
            out = {k: jax.lax.convert_element_type(v, short.get(v.dtype, v.dtype)) for k, v in out.items()}
        return handle, out

    def _open(self) -> None:
        if self._closed:
            raise UserError(f"{self.spec.name} was closed: make it again.")

    @property
    def native(self) -> Native:
        """Observations and actions as EnvPool's own `step` has them."""
        layout = self._layout
        return Native(example=layout.example(), observe=layout.observe_native, act=layout.act_native)

    def remake(self, num_envs: int, seeds: list[int]) -> Environment:
        """Another pool of the same simulators."""
        name, arguments, structure = self._made_with
        return EnvPool(name, num_envs, seeds, arguments, **structure)

    def close(self) -> None:
        """No new call can be traced after this. (Freeing the pool at once would pull memory from compiled calls.)"""
        self._closed = True


def _exactly(x: Array, declared: Any, num_envs: int, key: str) -> Array:
    """`x`, if it is exactly what the simulator will read from memory; TypeError while tracing otherwise."""
    expected = jax.ShapeDtypeStruct((num_envs, *shape_of(declared)), np.dtype(declared.dtype))
    if x.shape != expected.shape or x.dtype != expected.dtype:
        raise TypeError(f"EnvPool's {key!r} must be {expected.dtype}{expected.shape}, got {x.dtype}{x.shape}")
    return x


def _import() -> Any:
    try:
        import envpool
        import envpool.registration
    except ImportError as error:
        raise UserError(f"EnvPool cannot be imported ({error}): install it with pip install envpool.") from error
    return envpool.registration


def _spec(name: str, arguments: dict[str, Any]) -> Any:
    """EnvPool's own specification; whatever it objects to becomes a UserError."""
    try:
        return _import().make_spec(name, **arguments)
    except (ImportError, RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"EnvPool cannot make {name}: {reason}") from error


def _config(name: str) -> dict[str, Any]:
    return _spec(name, {}).config._asdict()
