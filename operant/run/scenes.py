"""Pictures of environments that are known by name, drawn from what they observe or from their state.

A renderer is any callable `render(env_state, timestep) -> frame`: see `operant.run.draw`.  Those of classic control
look at the observation alone, so that CartPole looks the same wherever it comes from.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from operant.envs.worlds.lifetimes import four_rooms
from operant.envs.worlds.mazes import GRIDS, RANDOM_GRIDS
from operant.types import Timestep

Frame = UInt8[np.ndarray, "H W 3"]
Renderer = Callable[[Any, Timestep], Frame]

PAPER, INK, FAINT = (250, 249, 246), (41, 46, 56), (214, 214, 210)
BLUE, ORANGE, GREEN = (47, 109, 196), (222, 105, 48), (64, 145, 108)
FINER = 3  # everything is drawn this many times larger, then averaged: Pillow's lines have no smooth edges


# --------------------------------------------------------------------------------------------------- classic control
@functools.cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


class Canvas:
    """A picture in the units of the world: x to the right, y upwards, smooth edges."""

    def __init__(self, width: int, height: int, scale: float, origin: tuple[float, float], background=PAPER):
        """scale: pixels a unit; origin: where (0, 0) is, in pixels from the upper left."""
        self._image = Image.new("RGB", (width * FINER, height * FINER), background)
        self._draw = ImageDraw.Draw(self._image)
        self._scale, self._origin = scale, origin

    def _at(self, points: Any) -> list[tuple[float, float]]:
        x0, y0 = self._origin
        return [((x0 + x * self._scale) * FINER, (y0 - y * self._scale) * FINER) for x, y in points]

    def line(self, points: Any, color: tuple, width: float) -> None:
        """A polyline of `width` pixels with round ends."""
        at, thick = self._at(points), width * FINER
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
                r = radius * FINER
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def rectangle(self, left: float, bottom: float, right: float, top: float, color: tuple, round_by: int = 0) -> None:
        (a, b), (c, d) = self._at([(left, top), (right, bottom)])
        self._draw.rounded_rectangle((a, b, c, d), radius=round_by * FINER, fill=color)

    def text(self, point: tuple[float, float], text: str, color: tuple, size: int, anchor: str = "ls") -> None:
        self._draw.text(self._at([point])[0], text, fill=color, font=font(size * FINER), anchor=anchor)

    def frame(self) -> Frame:
        return np.array(self._image.reduce(FINER))


def cart_pole(env_state: Any, timestep: Timestep) -> Frame:
    """Observation: position (m), velocity, angle (rad, clockwise from upright), angular velocity."""
    x, _, angle, _ = (float(v) for v in timestep.observation)
    canvas = Canvas(600, 400, 115, (300, 290))
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
    canvas = Canvas(400, 400, 150, (200, 200))
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
    canvas = Canvas(400, 400, 88, (200, 200))
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
    canvas = Canvas(600, 400, 600 / 1.9, (600 * 1.25 / 1.9, 372))
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
    canvas = Canvas(width * side, height * side, side, (0, 0))
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
