"""Pictures of environments that have none of their own, and the caption below a frame.

A renderer is any callable `render(env_state, timestep) -> frame`:

env_state  the state of a functional world, as its `reset` and `step` return it; None for host environments, whose
           state lies elsewhere
timestep   a `Timestep` of one environment, without the batch axis, as NumPy arrays
frame      uint8 [H, W, 3], of the same size at every call

`RENDERERS` names those that belong to one environment.  Those of classic control look at the observation alone, so that
CartPole looks the same wherever it comes from.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from operant.envs.worlds.lifetimes import four_rooms
from operant.envs.worlds.mazes import GRIDS, RANDOM_GRIDS
from operant.types import Box, Dict, Discrete, MultiDiscrete, PyTree, Space, Spec, Timestep, to_native

Frame = UInt8[np.ndarray, "H W 3"]
Renderer = Callable[[Any, Timestep], Frame]

PAPER, INK, FAINT = (250, 249, 246), (41, 46, 56), (214, 214, 210)
BLUE, ORANGE, GREEN = (47, 109, 196), (222, 105, 48), (64, 145, 108)
NIGHT = (20, 22, 28)
PALETTE = (
    (86, 180, 233), (230, 90, 60), (240, 196, 60), (92, 190, 130), (196, 120, 210), (250, 150, 80),
    (130, 220, 210), (240, 130, 170), (160, 170, 255), (190, 200, 110), (235, 235, 235), (150, 110, 80),
)  # fmt: skip
"""Colors of channels, far from each other and from `NIGHT`. The thirteenth channel has the color of the first."""

_FINER = 3  # everything is drawn this many times larger, then averaged: Pillow's lines have no smooth edges


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


# --------------------------------------------------------------------------------------------------- classic control
class _Canvas:
    """A picture in the units of the world: x to the right, y upwards, smooth edges."""

    def __init__(self, width: int, height: int, scale: float, origin: tuple[float, float], background=PAPER):
        """scale: pixels a unit; origin: where (0, 0) is, in pixels from the upper left."""
        self._image = Image.new("RGB", (width * _FINER, height * _FINER), background)
        self._draw = ImageDraw.Draw(self._image)
        self._scale, self._origin = scale, origin

    def _at(self, points: Any) -> list[tuple[float, float]]:
        x0, y0 = self._origin
        return [((x0 + x * self._scale) * _FINER, (y0 - y * self._scale) * _FINER) for x, y in points]

    def line(self, points: Any, color: tuple, width: float) -> None:
        """A polyline of `width` pixels with round ends."""
        at, thick = self._at(points), width * _FINER
        self._draw.line(at, fill=color, width=round(thick), joint="curve")
        for x, y in (at[0], at[-1]):
            self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=color)

    def polygon(self, points: Any, color: tuple) -> None:
        self._draw.polygon(self._at(points), fill=color)

    def disc(self, center: tuple[float, float], pixels: float, color: tuple, hole: tuple | None = None) -> None:
        """A disc of radius `pixels`, with a smaller one of the color `hole` in it."""
        ((x, y),) = self._at([center])
        for radius, fill in ((pixels, color), (pixels * 0.45, hole)):
            if fill is not None:
                r = radius * _FINER
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def rectangle(self, left: float, bottom: float, right: float, top: float, color: tuple, round_by: int = 0) -> None:
        (a, b), (c, d) = self._at([(left, top), (right, bottom)])
        self._draw.rounded_rectangle((a, b, c, d), radius=round_by * _FINER, fill=color)

    def text(self, point: tuple[float, float], text: str, color: tuple, size: int, anchor: str = "ls") -> None:
        self._draw.text(self._at([point])[0], text, fill=color, font=font(size * _FINER), anchor=anchor)

    def frame(self) -> Frame:
        return np.array(self._image.reduce(_FINER))


def cart_pole(env_state: Any, timestep: Timestep) -> Frame:
    """Observation: position (m), velocity, angle (rad, clockwise from upright), angular velocity."""
    x, _, angle, _ = (float(v) for v in timestep.observation)
    canvas = _Canvas(600, 400, 115, (300, 290))
    canvas.line([(-2.6, -0.17), (2.6, -0.17)], FAINT, 3)
    for end in (-2.4, 2.4):  # beyond these the episode is over
        canvas.line([(end, -0.26), (end, -0.08)], ORANGE, 3)
    tip = (x + 1.5 * math.sin(angle), 0.16 + 1.5 * math.cos(angle))
    for wheel in (-0.2, 0.2):
        canvas.disc((x + wheel, -0.1), 9, INK, PAPER)
    canvas.rectangle(x - 0.34, -0.1, x + 0.34, 0.16, INK, round_by=6)
    canvas.line([(x, 0.12), tip], ORANGE, 13)
    canvas.disc((x, 0.12), 8, BLUE, PAPER)
    return canvas.frame()


def pendulum(env_state: Any, timestep: Timestep) -> Frame:
    """Observation: cosine and sine of the angle (counter-clockwise from upright), angular velocity."""
    cosine, sine, _ = (float(v) for v in timestep.observation)
    canvas = _Canvas(400, 400, 150, (200, 200))
    ring = [(1.13 * math.cos(a), 1.13 * math.sin(a)) for a in np.linspace(0, 2 * np.pi, 97)]
    canvas.line(ring, FAINT, 2)
    canvas.line([(0, 1.07), (0, 1.19)], GREEN, 4)
    torque = float(np.clip(np.ravel(timestep.previous_action)[0], -1, 1))  # agents act in [-1, 1]
    if abs(torque) > 0.02:
        # from straight down, in the direction in which it turns the rod
        arc = [(0.3 * math.sin(a), -0.3 * math.cos(a)) for a in np.linspace(0, torque * 2.6, 40)]
        canvas.line(arc, BLUE, 4)
        end, back = arc[-1], arc[-6]
        heading = math.atan2(end[1] - back[1], end[0] - back[0])
        canvas.polygon([_polar(end, heading + turn, 0.09) for turn in (0, 2.3, -2.3)], BLUE)
    canvas.line([(0, 0), (-sine, cosine)], ORANGE, 20)
    canvas.disc((-sine, cosine), 15, ORANGE)
    canvas.disc((0, 0), 8, INK, PAPER)
    return canvas.frame()


def acrobot(env_state: Any, timestep: Timestep) -> Frame:
    """Observation: cosine and sine of both joints' angles (the first from hanging down), two angular velocities."""
    first = math.atan2(timestep.observation[1], timestep.observation[0])
    both = first + math.atan2(timestep.observation[3], timestep.observation[2])
    elbow = (math.sin(first), -math.cos(first))
    hand = (elbow[0] + math.sin(both), elbow[1] - math.cos(both))
    canvas = _Canvas(400, 400, 88, (200, 200))
    for x in np.arange(-2.1, 2.1, 0.2):  # the hand is to reach this height
        canvas.line([(x, 1), (x + 0.1, 1)], GREEN, 2)
    canvas.line([(0, 0), elbow], BLUE, 15)
    canvas.line([elbow, hand], ORANGE, 15)
    for joint in ((0, 0), elbow):
        canvas.disc(joint, 7, INK, PAPER)
    canvas.disc(hand, 5, PAPER)
    return canvas.frame()


def mountain_car(env_state: Any, timestep: Timestep) -> Frame:
    """Observation: position (-1.2 to 0.6) and velocity. The goal of the continuous task stands a little before ours."""
    x = float(timestep.observation[0])
    height = lambda x: 0.55 + 0.45 * math.sin(3 * x)  # noqa: E731
    canvas = _Canvas(600, 400, 600 / 1.9, (600 * 1.25 / 1.9, 372))
    road = [(float(p), height(p)) for p in np.linspace(-1.3, 0.7, 160)]
    canvas.polygon([(-1.3, -1), *road, (0.7, -1)], (228, 229, 222))
    canvas.line(road, INK, 4)
    canvas.line([(0.5, height(0.5)), (0.5, height(0.5) + 0.16)], INK, 3)
    top = height(0.5) + 0.16
    canvas.polygon([(0.5, top), (0.5, top - 0.07), (0.585, top - 0.035)], GREEN)
    slope = math.atan(1.35 * math.cos(3 * x))
    place = lambda along, up: (  # noqa: E731
        x + along * math.cos(slope) - up * math.sin(slope),
        height(x) + along * math.sin(slope) + up * math.cos(slope),
    )
    canvas.polygon([place(*p) for p in ((-0.075, 0.03), (0.075, 0.03), (0.07, 0.062), (-0.07, 0.062))], ORANGE)
    canvas.polygon([place(*p) for p in ((-0.045, 0.06), (0.04, 0.06), (0.022, 0.095), (-0.03, 0.095))], ORANGE)
    for wheel in (-0.043, 0.043):
        canvas.disc(place(wheel, 0.027), 8, INK, PAPER)
    return canvas.frame()


def maze(env_state: Any, timestep: Timestep) -> Frame:
    """A grid world: what is good to collect is green, what is bad orange. The agent is blue."""
    task = env_state.task
    there = [(int(cell), GREEN if pay > 0 else ORANGE) for cell, pay, present in
             zip(env_state.cells, task.reward, env_state.present, strict=True) if present]  # fmt: skip
    return _plan(np.asarray(task.wall), int(env_state.cell), there)


def rooms(env_state: Any, timestep: Timestep) -> Frame:
    """Four rooms, with the goal that the agent does not see."""
    return _plan(four_rooms(timestep.observation.shape[0]), int(env_state.cell), [(int(env_state.task), GREEN)])


def _plan(wall: Bool[np.ndarray, "H W"], agent: int, things: list[tuple[int, tuple]]) -> Frame:
    """Walls and things of a grid whose cells are numbered row by row."""
    height, width = wall.shape
    side = max(400 // max(wall.shape), 8)
    canvas = _Canvas(width * side, height * side, side, (0, 0))
    for row, column in np.argwhere(wall):
        canvas.rectangle(column, -row - 1, column + 1, -row, INK)
    for line in range(1, height):
        canvas.line([(0, -line), (width, -line)], FAINT, 1)
    for line in range(1, width):
        canvas.line([(line, 0), (line, -height)], FAINT, 1)
    middle = lambda cell: (cell % width + 0.5, -(cell // width) - 0.5)  # noqa: E731
    for cell, color in things:
        canvas.disc(middle(cell), side * 0.36, color)
    canvas.disc(middle(agent), side * 0.28, BLUE, PAPER)
    return canvas.frame()


def _polar(center: tuple[float, float], angle: float, radius: float) -> tuple[float, float]:
    return center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)


RENDERERS: dict[str, Renderer] = {
    "CartPole": cart_pole,
    "Pendulum": pendulum,
    "Acrobot": acrobot,
    "MountainCar": mountain_car,
    "MountainCarContinuous": mountain_car,
    "EmptyRooms": rooms,
    "SmallGrid": maze,
    **{f"Grid-{name}": maze for name in GRIDS},
    **{f"RandomGrid-{name}": maze for name in RANDOM_GRIDS},
}
"""Renderers by environment: full names, or names without prefix and version. Add your own."""

_OBSERVED = {
    "CartPole": (4,),
    "Pendulum": (3,),
    "Acrobot": (6,),
    "MountainCar": (2,),
    "MountainCarContinuous": (2,),
}


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
        canvas = _Canvas(600, 400, 1, (0, 0))
        shown = "observation" if number == len(values) else f"observation (the first {len(values)} of {number} numbers)"
        self._bars(canvas, shown, values / self._scale, (24, 576), (36, 190), BLUE)
        action = _flat(timestep.previous_action, self.action)[: self.most]
        self._bars(canvas, "action", action.clip(-1, 1), (24, 276), (236, 376), ORANGE)
        self._curve(canvas, (316, 576), (236, 376))
        return canvas.frame()

    def _bars(self, canvas: _Canvas, title: str, heights: Float[np.ndarray, "n"], x: tuple, y: tuple, color) -> None:
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

    def _curve(self, canvas: _Canvas, x: tuple, y: tuple) -> None:
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


@functools.cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


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
