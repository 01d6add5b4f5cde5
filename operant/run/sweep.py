"""Sweeps: settings of an agent's dials, all trained in one compilation.

`learning_rate=1e-4,3e-4` lists values, `gamma=0.9..0.999` draws at random from a range (`log:1e-5..1e-2` evenly in
the logarithm); several dials make a grid.  Only dials can be swept together: structure has shapes of its own.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from operant.agent import dial_field, with_dials
from operant.errors import UserError


def parse(texts: list[str] | tuple[str, ...], draws: int, seed: int) -> list[dict[str, float]]:
    """Settings from `name=values` texts: one dict of dials per setting. Ranges need `draws` (how many at random)."""
    grid: dict[str, list[float]] = {}
    ranges: dict[str, tuple[bool, float, float]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not values:
            raise UserError(f"--sweep {text}: expected NAME=1e-4,3e-4 or NAME=1e-4..1e-2 or NAME=log:1e-5..1e-2")
        if name in grid or name in ranges:
            raise UserError(f"--sweep: {name} is given twice")
        if ".." in values:
            log = values.startswith("log:")
            low, high = (_number(text, part) for part in values.removeprefix("log:").split("..", 1))
            if not low < high or (log and low <= 0):
                raise UserError(f"--sweep {text}: expected low..high with low < high (and low > 0 for log:)")
            ranges[name] = (log, low, high)
        else:
            grid[name] = [_number(text, part) for part in values.split(",")]
    if ranges and draws < 1:
        raise UserError("--sweep over a range draws at random: say how many with --sweep-draws N")
    points: list[dict[str, float]] = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if ranges:
        random = np.random.default_rng(seed)
        drawn = []
        for _ in range(draws):
            one = {}
            for name, (log, low, high) in ranges.items():
                value = random.uniform(math.log(low), math.log(high)) if log else random.uniform(low, high)
                one[name] = math.exp(value) if log else value
            drawn.append(one)
        points = [{**point, **one} for point in points for one in drawn]
    return points


def check(agent: Any, settings: list[dict[str, float]]) -> None:
    """Raises UserError for a name that is no dial, or a value out of its range."""
    for setting in settings:
        for name in setting:
            dial_field(agent, name)
        with_dials(agent, setting).check()


def _number(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise UserError(f"--sweep {text}: '{part}' is no number") from None
