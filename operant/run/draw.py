"""Pictures of environments that have none of their own, and the caption below a frame.

A renderer is any callable `render(env_state, timestep) -> frame`:

env_state  the state of a functional world, as its `reset` and `step` return it; None for host environments, whose
           state lies elsewhere
timestep   a `Timestep` of one environment, without the batch axis, as NumPy arrays
frame      uint8 [H, W, 3], of the same size at every call

Environments that are known by name have theirs in `operant.run.scenes`; the others are drawn from what they observe.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from operant.run.scenes import BLUE, FAINT, GREEN, INK, ORANGE, RENDERERS, Canvas, Frame, Renderer, font
from operant.types import Box, Dict, Discrete, MultiDiscrete, PyTree, Space, Spec, Timestep, to_native

NIGHT = (20, 22, 28)
PALETTE = (
    (86, 180, 233), (230, 90, 60), (240, 196, 60), (92, 190, 130), (196, 120, 210), (250, 150, 80),
    (130, 220, 210), (240, 130, 170), (160, 170, 255), (190, 200, 110), (235, 235, 235), (150, 110, 80),
)  # fmt: skip
"""Colors of channels, far from each other and from `NIGHT`. The thirteenth channel has the color of the first."""

_OBSERVED = {
    "CartPole": (4,),
    "Pendulum": (3,),
    "Acrobot": (6,),
    "MountainCar": (2,),
    "MountainCarContinuous": (2,),
}


# ------------------------------------------------------------------------------------------------------------ choice
def renderer_for(name: str, spec: Spec, frame_stack: int = 1) -> Renderer:
    """The renderer of this environment: its own, or one for what it observes.

    frame_stack  how many observations are joined along the last axis; the newest is drawn
    """
    space = newest_space(spec.observation, frame_stack)
    chosen = own_renderer(name, space)
    if chosen is None and isinstance(space, Box) and _is_image(space):
        chosen = image
    elif chosen is None and isinstance(space, Box) and _is_grid(space):
        chosen = functools.partial(cells, space)
    elif chosen is None:
        chosen = Bars(space, spec.action)
    return lambda state, timestep: chosen(state, _see_newest(timestep, spec.observation, frame_stack))


def own_renderer(name: str, space: Space) -> Renderer | None:
    """The entry of `RENDERERS` for this environment, where it observes `space`."""
    if name in RENDERERS:
        return RENDERERS[name]
    base = re.sub(r"-v\d+$", "", name.rpartition(":")[2])
    # CartPole through pixels, or with masked velocities, is another thing to look at
    fits = base not in _OBSERVED or getattr(space, "shape", None) == _OBSERVED[base]
    return RENDERERS.get(base) if fits else None


def newest_space(space: Space, frame_stack: int) -> Space:
    """The space of what is drawn: in a dictionary its `observation` or its one image, of a stack the newest."""
    if isinstance(space, Dict):
        name = _main_item(space)
        return space if name is None else newest_space(space[name], frame_stack)
    if isinstance(space, Box) and frame_stack > 1 and space.shape and space.shape[-1] % frame_stack == 0:
        shape = (*space.shape[:-1], space.shape[-1] // frame_stack)
        cut = lambda bound: bound if np.ndim(bound) == 0 else _newest_part(np.reshape(bound, space.shape), shape)  # noqa: E731
        return Box(shape, space.dtype, cut(space.low), cut(space.high))
    return space


def _newest_part(bound: np.ndarray, shape: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(float(b) for b in bound[..., -shape[-1] :].ravel())


def _main_item(space: Dict) -> str | None:
    names = [name for name, _ in space.items]
    if "observation" in names:
        return "observation"
    return next((name for name, sub in space.items if isinstance(sub, Box) and _is_image(sub)), None)


def _see_newest(timestep: Timestep, space: Space, frame_stack: int) -> Timestep:
    observation = timestep.observation
    while isinstance(space, Dict) and (name := _main_item(space)) is not None:
        observation, space = observation[name], space[name]
    if not isinstance(space, Dict):
        shape = getattr(newest_space(space, frame_stack), "shape", ())
        observation = observation[..., -shape[-1] :] if shape else observation
    return timestep.replace(observation=observation)


def _is_image(space: Box) -> bool:
    bright = np.ndim(space.high) > 0 or space.high >= 255  # bytes with a low bound are symbols
    return space.dtype == "uint8" and bright and len(space.shape) in (2, 3) and min(space.shape[:2]) >= 5


def _is_grid(space: Box) -> bool:
    return len(space.shape) in (2, 3) and 2 <= min(space.shape[:2]) and max(space.shape[:2]) <= 64


# -------------------------------------------------------------------------------------------------------- observations
def image(env_state: Any, timestep: Timestep) -> Frame:
    """An observation that is an image [H, W] or [H, W, C]: colored by its last three channels where C is 3, 6, 9 ..."""
    pixels = np.asarray(timestep.observation, np.uint8)
    if pixels.ndim == 2 or pixels.shape[-1] % 3:
        pixels = pixels if pixels.ndim == 2 else pixels[..., -1]
        pixels = np.repeat(pixels[..., None], 3, -1)
    return enlarge(pixels[..., -3:])


def cells(space: Box, env_state: Any, timestep: Timestep) -> Frame:
    """A small grid [H, W] or [H, W, C]: each channel has a color; where several meet, the first is on top."""
    grid = np.asarray(timestep.observation, np.float32)
    grid = grid[..., None] if grid.ndim == 2 else grid
    low, high = (space.low, space.high) if space.bounded else (0.0, max(float(np.abs(grid).max()), 1.0))
    low, high = (np.broadcast_to(np.reshape(b, space.shape) if np.ndim(b) else b, space.shape) for b in (low, high))
    above = grid - low.reshape(grid.shape) if space.bounded else np.abs(grid)
    light = (above / np.maximum((high - low).reshape(grid.shape), 1e-6)).clip(0, 1)
    shown = np.argmax(light > 0, -1)
    colors = np.array(PALETTE, np.float32)[shown % len(PALETTE)]
    strength = np.take_along_axis(light, shown[..., None], -1)
    night = np.array(NIGHT, np.float32)
    picture = (night + strength * (colors - night)).round().astype(np.uint8)
    picture = np.where(strength > 0, picture, np.uint8([30, 33, 41]))
    factor = max(2, 400 // max(picture.shape[:2]))
    large = picture.repeat(factor, 0).repeat(factor, 1)
    if factor >= 8:  # a thin line between cells
        large[::factor], large[:, ::factor] = NIGHT, NIGHT
    return large


@dataclasses.dataclass
class Bars:
    """Any observation as bars, with the action, the reward and the return so far. It remembers the largest values."""

    observation: Space
    action: Space
    most: int = 96

    def __post_init__(self):
        self._scale = np.zeros(0)
        self._returns: list[float] = []

    def __call__(self, env_state: Any, timestep: Timestep) -> Frame:
        values = _flat(timestep.observation, self.observation)
        number, values = len(values), values[: self.most]
        if bool(timestep.first) or not self._returns:
            self._returns = [0.0]
        if not bool(timestep.first):
            self._returns.append(self._returns[-1] + float(timestep.score))
        known = len(self._scale) == len(values)
        self._scale = np.maximum(self._scale if known else 1e-3, np.abs(values))
        canvas = Canvas(600, 400, 1, (0, 0))
        shown = "observation" if number == len(values) else f"observation (the first {len(values)} of {number} numbers)"
        self._bars(canvas, shown, values / self._scale, (24, 576), (36, 190), BLUE)
        action = _flat(timestep.previous_action, self.action)[: self.most]
        self._bars(canvas, "action", action.clip(-1, 1), (24, 276), (236, 376), ORANGE)
        self._curve(canvas, (316, 576), (236, 376))
        return canvas.frame()

    def _bars(self, canvas: Canvas, title: str, heights: Float[np.ndarray, "n"], x: tuple, y: tuple, color) -> None:
        """heights in [-1, 1]; x, y: the place in pixels, y downwards."""
        middle, half = (y[0] + y[1]) / 2, (y[1] - y[0]) / 2
        canvas.text((x[0], -y[0] + 8), title, INK, 14)
        canvas.line([(x[0], -middle), (x[1], -middle)], FAINT, 1.5)
        step = min((x[1] - x[0]) / max(len(heights), 1), 60.0)
        gap = min(step * 0.2, 6.0)
        for i, height in enumerate(heights):
            left, right = x[0] + i * step + gap / 2, x[0] + (i + 1) * step - gap / 2
            tip = -middle + float(height) * (half - 6)
            canvas.rectangle(left, min(tip, -middle) - 0.5, right, max(tip, -middle) + 0.5, color)

    def _curve(self, canvas: Canvas, x: tuple, y: tuple) -> None:
        canvas.text((x[0], -y[0] + 8), f"return {self._returns[-1]:,.2f}", INK, 14)
        low, high = min(0.0, *self._returns), max(0.0, *self._returns)
        at = lambda value: -y[1] + 6 + (value - low) / max(high - low, 1e-6) * (y[1] - y[0] - 12)  # noqa: E731
        canvas.line([(x[0], at(0.0)), (x[1], at(0.0))], FAINT, 1.5)
        if len(self._returns) > 1:
            number = min(len(self._returns), 400)
            picked = [self._returns[round(i)] for i in np.linspace(0, len(self._returns) - 1, number)]
            points = [(float(p), at(v)) for p, v in zip(np.linspace(x[0], x[1], len(picked)), picked, strict=True)]
            canvas.line(points, GREEN, 2.5)


def _flat(value: PyTree, space: Space) -> Float[np.ndarray, "n"]:
    """A member of `space` as one vector, integers one-hot."""
    if isinstance(space, Dict):
        return np.concatenate([_flat(value[name], sub) for name, sub in space.items])
    if isinstance(space, Discrete):
        return np.eye(space.n)[int(value)] if space.n <= 96 else np.array([int(value) / space.n])
    if isinstance(space, MultiDiscrete):
        return np.concatenate([np.eye(n)[int(v)] for n, v in zip(space.nvec, np.ravel(value), strict=True)])
    return np.nan_to_num(np.ravel(value).astype(np.float64), posinf=0.0, neginf=0.0)


# ------------------------------------------------------------------------------------------------------------- frames
def enlarge(frame: Frame, wanted: int = 400) -> Frame:
    """Pixels repeated until the longer side comes close to `wanted`; sharp, as games are."""
    factor = max(1, round(wanted / max(frame.shape[:2])))
    return frame.repeat(factor, 0).repeat(factor, 1)


def caption(frame: Frame, step: int, total: float, action: str) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The frame above a strip that tells the step, the return so far and the action; both sides become even."""
    height, width = frame.shape[:2]
    wide = max(width + width % 2, 320)
    strip = 30 + height % 2
    picture = Image.new("RGB", (wide, height + strip), NIGHT)
    picture.paste(Image.fromarray(frame), ((wide - width) // 2, 0))
    draw = ImageDraw.Draw(picture)
    line = height + strip / 2
    for x, anchor, text in (
        (10, "lm", f"step {step}"),
        (max(wide * 0.26, 100), "lm", f"return {total:,.10g}" if float(total).is_integer() else f"return {total:,.2f}"),
        (wide - 10, "rm", action),
    ):
        draw.text((x, line), text, fill=(226, 228, 232), font=font(14), anchor=anchor)
    return np.array(picture)


def action_text(action: PyTree, space: Space, room: int = 24) -> str:
    """An action in the environment's units, cut to about `room` characters."""
    if isinstance(space, Dict):
        parts = [f"{name} {action_text(action[name], sub).removeprefix('action ')}" for name, sub in space.items]
        return "action " + " ".join(parts)[:room]
    values = np.ravel(np.asarray(to_native(np.asarray(action), space)))
    if np.issubdtype(values.dtype, np.integer):
        words = [str(int(v)) for v in values]
    else:
        words = [f"{v:+.2f}" for v in values]
    text = " ".join(words)
    while len(text) > room and len(words) > 1:
        words = words[:-1]
        text = " ".join(words) + " …"
    return f"action {text}"
