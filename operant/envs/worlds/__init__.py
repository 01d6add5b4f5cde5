"""Operant's own environments, functional and in JAX."""

from __future__ import annotations

import inspect
from typing import Any

from operant.envs import wrappers
from operant.envs.base import Environment, batched
from operant.envs.worlds.tiny import Cells, Masked, Pair, Pixels, Recall, Seek, Target
from operant.errors import check_options

WORLDS = {
    "operant:Cells-v0": Cells,
    "operant:Dict-v0": Seek,
    "operant:Masked-v0": Masked,
    "operant:Pair-v0": Pair,
    "operant:Pixels-v0": Pixels,
    "operant:Recall-v0": Recall,
    "operant:Target-v0": Target,
}

__all__ = ["WORLDS", "Cells", "Masked", "Pair", "Pixels", "Recall", "Seek", "Target", "from_world", "make"]


def make(name: str, num_envs: int, seeds: list[int], **options: Any) -> Environment:
    """The world of that name. Randomness comes from the keys given to `reset`; the seeds are not used."""
    return from_world(WORLDS[name], num_envs, name, **options)


def from_world(world: Any, num_envs: int, name: str = "", **options: Any) -> Environment:
    """A batch of a functional world; a class is constructed with those options that its constructor takes."""
    own: dict[str, Any] = {}
    if inspect.isclass(world):
        accepted = inspect.signature(world).parameters
        own = {option: options.pop(option) for option in list(options) if option in accepted}
    else:
        accepted = {}
    what = name or (world if inspect.isclass(world) else type(world)).__name__
    check_options(what, options, (*accepted, *wrappers.OPTIONS, "time_limit"))
    world = world(**own) if inspect.isclass(world) else world
    limit = options.pop("time_limit", None)
    return wrappers.wrap(batched(world, num_envs, name=what, time_limit=limit), **options)
