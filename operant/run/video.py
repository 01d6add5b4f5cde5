"""Films of trained agents."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio_ffmpeg
import jax
import numpy as np
from PIL import Image

from operant.envs import registry
from operant.envs.base import WorldState
from operant.envs.envpool import EnvPool
from operant.envs.gym import Gym
from operant.envs.wrappers import ClipReward, PreviousActionReward, StickyActions, Wrapped
from operant.errors import UserError
from operant.rollout import begin, interact, task_keys
from operant.run import draw
from operant.run.mirror import Mirror, NoPicture
from operant.types import PyTree, Timestep, to_native

FPS = {"atari": 15, "minatar": 10, "CartPole": 50, "Pendulum": 20, "Acrobot": 15, "MountainCar": 30, "minigrid": 8}
"""Frames per second by suite, or by name without version (Atari: a step is four of the game's frames); else 30."""

_TIMEOUT = 120.0  # seconds that a Gymnasium environment may take for one frame; the first sets up OpenGL


def film(
    run: Any,
    *,
    episodes: int = 1,
    out: str | os.PathLike = "",
    lane: int = -1,
    stochastic: bool = False,
    max_steps: int = 2000,
    fps: int = 0,
    render: draw.Renderer | None = None,
) -> tuple[Path, list[float]]:
    """Plays episodes with one lane's agent and films them: one frame for each step, what the step led to.

    run         an `operant.run.run.Run`
    out         file to write, .mp4 or .gif; by default films/<method>-<env>-<steps>.mp4 in the run
    lane        which lane; -1: the one that did best in the last evaluation
    stochastic  sample actions instead of taking the policy's mode
    max_steps   steps after which the film is cut, over all episodes
    fps         frames per second; 0: the environment's own
    render      `render(env_state, timestep) -> frame`, in place of the pictures that are known (`operant.run.draw`)

    Returns the file and the return (the sum of the true reward) of each episode; the last one's may be cut short.
    Raises UserError for arguments that do not fit, for an agent that has no one policy to play, and where the file
    cannot be written.  Where an environment's own pictures are not to be had, it says so in one line on standard error,
    and draws what the agent observes.
    """
    for name, value, least in (("episodes", episodes, 1), ("max_steps", max_steps, 1), ("fps", fps, 0)):
        if value < least:
            raise UserError(f"{name} is {value}, expected at least {least}")
    lane = the_lane(run, lane)
    path = _path(run, out)
    env, camera, own_fps = studio(run, lane, render)
    returns: list[float] = []
    total, step = 0.0, 0
    try:
        with _writing(path, fps or own_fps) as write:
            for action, timestep, frame, _ in play(run, lane, env, camera, stochastic):
                if timestep.first:  # the first observation of an episode is no step's doing
                    total, step = 0.0, 0
                    continue
                total, step = total + float(timestep.score), step + 1
                write(draw.caption(frame, step, total, draw.action_text(action, env.spec.action)))
                max_steps -= 1
                if timestep.last or max_steps == 0:
                    returns.append(total)
                if len(returns) == episodes or max_steps == 0:
                    break
    except jax.errors.JaxRuntimeError as error:
        failure = getattr(_inner(env), "error", None)  # a Gymnasium environment's, beneath JAX's wrapping
        if failure is None:
            raise
        raise failure from error
    finally:
        camera.close()
        env.close()
    return path, returns


def the_lane(run: Any, lane: int) -> int:
    """`lane`, or the best of the last evaluation for -1. Raises UserError for one that the run does not have."""
    number = run.program.lanes
    if not -1 <= lane < number:
        raise UserError(f"lane is {lane}, but this run's lanes are 0 to {number - 1} (-1: the best)")
    if lane >= 0:
        return lane
    means = [-math.inf if math.isnan(r) else r for r in run.evaluations[-1]["returns"]] if run.evaluations else [0.0]
    return int(np.argmax(means))


def _path(run: Any, out: str | os.PathLike) -> Path:
    """Where the film goes, once it is clear that a file can be made there."""
    name = f"{run.agent.registered_name}-{run.directory.config['env']}-{run.steps}"
    default = run.directory.films / (re.sub(r"[^A-Za-z0-9._-]+", "_", name) + ".mp4")
    path = Path(out).expanduser() if str(out) else default
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise UserError(f"{path} ends in {path.suffix or 'no suffix'!r}: films are .mp4 or .gif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        _partial(path).touch()
        _partial(path).unlink()
    except OSError as error:
        raise UserError(f"the film {path} cannot be written: {error.strerror or error}") from error
    return path


def _partial(path: Path) -> Path:
    return path.with_name(f".partial-{os.getpid()}-{path.name}")


@contextlib.contextmanager
def _writing(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes frames to a file that gets its name when it is whole."""
    partial = _partial(path)
    try:
        if path.suffix.lower() == ".mp4":
            writer: Any = _Mp4(partial, fps)
        else:
            # players do not believe in less than 20 ms a frame
            writer = imageio.get_writer(partial, format="GIF", duration=max(1000 / fps, 20.0), loop=0)
        with contextlib.closing(writer):
            yield writer.append_data
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"the film {path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


class _Mp4:
    """H.264 through a pipe to ffmpeg. (imageio's own writer runs Python between fork and exec, which can lock up in a
    process with as many threads as JAX has.)"""

    def __init__(self, path: Path, fps: float):
        self._path, self._fps = path, fps
        self._process: subprocess.Popen | None = None
        self._log = tempfile.TemporaryFile()

    def append_data(self, frame: np.ndarray) -> None:
        if self._process is None:
            height, width, _ = frame.shape
            given = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self._fps:g} -i -"
            wanted = "-an -c:v libx264 -crf 20 -pix_fmt yuv420p -movflags +faststart"
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *given.split(), *wanted.split()]
            # a session of its own: Ctrl-C is for us, and ffmpeg is to go on until we close it
            self._process = subprocess.Popen(
                [*command, str(self._path)], stdin=subprocess.PIPE, stderr=self._log, start_new_session=True
            )
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self.close()  # which knows more
            raise

    def close(self) -> None:
        """Waits for the file to be whole; OSError with ffmpeg's words if it is not."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.communicate()
        if process.returncode:
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").split()
            raise OSError(" ".join(words) or f"ffmpeg ended with status {process.returncode}")


# ------------------------------------------------------------------------------------------------------------- playing
def play(
    run: Any,
    lane: int,
    env: Any,
    camera: _Camera,
    stochastic: bool,
    stream: int = 8,
    look: Callable[..., dict[str, Any]] = lambda *_: {},
) -> Iterator[tuple[Any, Timestep, Any, dict[str, Any]]]:
    """Steps without end: the action, the timestep it led to, that one's picture, none of them with a batch axis, and
    what `look(agent, state, timestep, carry, key, stochastic)`, traced where the action is chosen, said there.

    `stream` tells the random numbers of one showing from those of another.
    """
    pick = lambda tree: jax.device_put(jax.tree.map(lambda x: x[lane : lane + 1], tree), jax.devices()[0])  # noqa: E731
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    agents, states = pick(run.state.agent), pick(run.state.state)
    seed = jax.random.key(int(run.program.seeds[lane]))
    key = jax.random.fold_in(seed, stream)
    start = jax.jit(lambda agents, states, key: begin(agents, states, env, key[None], 1, task_keys(seed[None])))

    @jax.jit
    def advance(agents, states, stage, key):
        said = look(*first((agents, states, stage.timestep, stage.carry)), key, stochastic)
        stage, row = interact(agents, states, env, stage, key[None], stochastic)
        executed = _executed(env, stage.env_state, first(row.action))
        action, timestep = jax.tree.map(lambda x: x[0, 0], (row.action, stage.timestep))
        return stage, (said, action, executed, timestep, _world(stage.env_state))

    stage = start(agents, states, jax.random.fold_in(key, 0))
    for count in itertools.count(1):
        stage, seen = advance(agents, states, stage, jax.random.fold_in(key, count))
        said, action, executed, timestep, world = jax.device_get(seen)
        yield action, timestep, camera(executed, timestep, world), said


def _world(env_state: Any) -> Any:
    """The state of the one functional world within; None for host environments."""
    while isinstance(env_state, Wrapped):
        env_state = env_state.inner
    return jax.tree.map(lambda x: x[0], env_state.world) if isinstance(env_state, WorldState) else None


def _executed(env: Any, env_state: Any, action: PyTree) -> PyTree:
    """The action [1, ...] that reached the environment within: sticky actions replace some."""
    while hasattr(env, "env"):
        if isinstance(env, StickyActions):
            action = env_state.memory[2]
        if not isinstance(env, (ClipReward, PreviousActionReward)):  # these have no state of their own
            env_state = env_state.inner
        env = env.env
    return action


# ------------------------------------------------------------------------------------------------------------ pictures
class _Camera:
    """Takes the pictures: from `source` as long as it gives any, then by `renderer` from what the agent observes."""

    def __init__(self, name: str, renderer: draw.Renderer, source: _Simulated | _Rendered | None = None):
        self._name, self._renderer, self._source = name, renderer, source
        self._shape: tuple[int, ...] | None = None

    def __call__(self, executed: PyTree, timestep: Timestep, world: Any) -> draw.Frame | None:
        """The picture of a timestep; None at the first one of an episode."""
        frame = None
        if self._source is not None:
            try:
                frame = self._source(executed, timestep)
            except NoPicture as error:
                print(f"no pictures of {self._name} ({error}): its observations are drawn instead", file=sys.stderr)
                self.close()
        if self._source is None:
            frame = self._renderer(world, timestep)  # at first steps too: it may remember
        if timestep.first:
            return None
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
            found = f"{frame.dtype}{frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UserError(f"the renderer of {self._name} returned {found}, expected a frame uint8 [H, W, 3]")
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:  # a film has frames of one size
            frame = np.array(Image.fromarray(frame).resize(self._shape[1::-1]))
        return frame

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None


class _Simulated:
    """Pictures by EnvPool, of a copy of the pool."""

    def __init__(self, env: EnvPool):
        self._layout, self._space = env._layout, env.spec.action
        # Options that turn rendering on are set by EnvPool itself, where they are not given.
        drop = ("render", "enable_render", "render_width", "render_height", "render_camera_id")
        config = {k: v for k, v in env._pool.config.items() if k not in drop}
        self._mirror = Mirror(env.spec.name, config)
        self._name, self._strayed = env.spec.name, False

    def __call__(self, executed: PyTree, timestep: Timestep) -> draw.Frame | None:
        native = self._layout.native_action(to_native(np.asarray(executed), self._space))
        native = np.asarray(native, self._layout.actions["action"].dtype)
        frame, reward = self._mirror.step(native, look=not timestep.first)
        if frame is None:
            return None
        if not self._strayed and not np.isclose(reward, float(timestep.score), rtol=1e-4, atol=1e-4):
            self._strayed = True
            print(f"{self._name} is not repeatable: the pictures are of another course of events", file=sys.stderr)
        return draw.enlarge(frame)

    def close(self) -> None:
        self._mirror.close()


class _Rendered:
    """Pictures by a Gymnasium environment itself, made with render_mode="rgb_array"."""

    def __init__(self, env: Gym):
        self._env = env

    def __call__(self, executed: PyTree, timestep: Timestep) -> draw.Frame | None:
        if timestep.first:
            return None
        try:
            # in the thread that the environment lives in: so does its OpenGL context
            frame = self._env._thread.call(lambda: self._env._vector.envs[0]._env.render(), _TIMEOUT)
        except Exception as error:
            raise NoPicture(" ".join(str(error).split()) or type(error).__name__) from error
        if not isinstance(frame, np.ndarray):
            raise NoPicture(f"its render() returned {type(frame).__name__}")
        return draw.enlarge(frame.astype(np.uint8, copy=False))

    def close(self) -> None:
        """The environment is closed by who made it."""


def studio(run: Any, lane: int, render: draw.Renderer | None) -> tuple[Any, _Camera, float]:
    """The environment, what takes its pictures, and the frames per second that suit it.

    Raises UserError for an agent that has no one policy to play.
    """
    run.program.check_playable()
    name, options = run.program.env_name, dict(run.program.eval_options)
    seed = int(np.random.SeedSequence([int(run.program.seeds[lane]), 2]).generate_state(1)[0]) & 0x7FFFFFFF
    env = registry.make(name, 1, [seed], **options)
    if isinstance(_inner(env), Gym) and _inner(env)._asynchronous:
        env.close()  # pictures come from this process
        options["asynchronous"] = False
        env = registry.make(name, 1, [seed], **options)
    title, stack = str(run.directory.config["env"]), int(options.get("frame_stack", 1))
    if render is not None:
        return env, _Camera(title, render), _fps(title, env)
    drawn = draw.renderer_for(title, env.spec, stack)
    if draw.own_renderer(title, draw.newest_space(env.spec.observation, stack)) is not None:
        return env, _Camera(title, drawn), _fps(title, env)
    source: _Simulated | _Rendered | None = None
    try:
        if isinstance(_inner(env), EnvPool):
            source = _Simulated(_inner(env))
        elif isinstance(_inner(env), Gym):
            env = _rendering(env, name, seed, options)
            source = _Rendered(_inner(env))
    except NoPicture as error:
        print(f"no pictures of {title} ({error}): its observations are drawn instead", file=sys.stderr)
    return env, _Camera(title, drawn, source), _fps(title, env)


def _rendering(env: Any, name: Any, seed: int, options: dict[str, Any]) -> Any:
    """A Gymnasium environment like `env` that gives pictures, in place of it; NoPicture if it has none to give."""
    own = _inner(env)._vector.envs[0]
    if own.render_mode == "rgb_array":
        return env
    if "rgb_array" not in own.metadata.get("render_modes", ()):
        raise NoPicture("its metadata name no render mode rgb_array")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo's default needs a screen
    try:
        made = registry.make(name, 1, [seed], **options, render_mode="rgb_array")
    except (UserError, TypeError) as error:
        raise NoPicture(str(error)) from error
    env.close()
    return made


def _inner(env: Any) -> Any:
    while hasattr(env, "env"):
        env = env.env
    return env


def _fps(name: str, env: Any) -> float:
    inner = _inner(env)
    if isinstance(inner, Gym):
        own = inner._vector.envs[0].metadata.get("render_fps")
        if own:
            return float(own)
    base = re.sub(r"(Continuous)?(-v\d+)?$", "", name.rpartition(":")[2])
    try:
        suite = registry.info(name).suite
    except UserError:
        suite = ""
    return float(FPS.get(base, FPS.get(suite, 30)))
