"""Operant's own environments, functional and in JAX."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from operant.envs import wrappers
from operant.envs.base import Environment, batched
from operant.envs.options import defaults, like
from operant.envs.worlds.chains import Chain
from operant.envs.worlds.grids import Grid, RandomGrid, SmallGrid
from operant.envs.worlds.lifetimes import EmptyRooms, KeyBox, NonStationaryABC, RandomABC
from operant.envs.worlds.mazes import GRIDS, RANDOM_GRIDS
from operant.envs.worlds.tiny import Cells, Masked, Pair, Pixels, Recall, Seek, Target
from operant.envs.worlds.walks import NoisyChain, RandomWalk
from operant.errors import check_options

WORLDS: dict[str, Any] = {
    "operant:Cells-v0": Cells,
    "operant:Dict-v0": Seek,
    "operant:Masked-v0": Masked,
    "operant:Pair-v0": Pair,
    "operant:Pixels-v0": Pixels,
    "operant:Recall-v0": Recall,
    "operant:Target-v0": Target,
    "operant:Chain-short-v0": Chain,
    "operant:Chain-long-v0": functools.partial(Chain, longest=50),
    "operant:Chain-short_noisy-v0": functools.partial(Chain, noisy=True),
    "operant:Chain-long_noisy-v0": functools.partial(Chain, longest=50, noisy=True),
    "operant:Chain-distractor-v0": functools.partial(Chain, redraw=True, distractors=20),
    "operant:EmptyRooms-v0": EmptyRooms,
    "operant:KeyBox-v0": KeyBox,
    "operant:NonStationaryABC-v0": NonStationaryABC,
    "operant:NoisyChain-v0": NoisyChain,
    "operant:RandomABC-v0": RandomABC,
    "operant:RandomWalk-v0": RandomWalk,
    "operant:SmallGrid-v0": SmallGrid,
    "operant:LargerGrid-v0": functools.partial(SmallGrid, smallest=8, largest=10),
    **{f"operant:Grid-{name}-v0": functools.partial(Grid, *grid) for name, grid in GRIDS.items()},
    **{f"operant:RandomGrid-{name}-v0": functools.partial(RandomGrid, *grid) for name, grid in RANDOM_GRIDS.items()},
}
"""Names, and what makes a world: a class, or one with some of its fields given."""

__all__ = [
    "WORLDS", "Cells", "Chain", "EmptyRooms", "Grid", "KeyBox", "Masked", "NoisyChain", "NonStationaryABC", "Pair",
    "Pixels", "RandomABC", "RandomGrid", "RandomWalk", "Recall", "Seek", "SmallGrid", "Target", "from_world", "make",
]  # fmt: skip


def make(name: str, num_envs: int, seeds: list[int], **options: Any) -> Environment:
    """The world of that name. Randomness comes from the keys given to `reset`; the seeds are not used."""
    usual = defaults(WORLDS[name])
    options = {option: like(option, value, usual.get(option)) for option, value in options.items()}
    return from_world(WORLDS[name], num_envs, name, **options)


def from_world(world: Any, num_envs: int, name: str = "", **options: Any) -> Environment:
    """A batch of a functional world; a class is constructed with those options that its constructor takes."""
    own: dict[str, Any] = {}
    unmade = inspect.isclass(world) or isinstance(world, functools.partial)
    if unmade:
        accepted = inspect.signature(world).parameters
        own = {option: options.pop(option) for option in list(options) if option in accepted}
    else:
        accepted = {}
    what = name or (world if inspect.isclass(world) else type(world)).__name__
    check_options(what, options, (*accepted, *wrappers.OPTIONS, "time_limit"))
    world = world(**own) if unmade else world
    limit = options.pop("time_limit", None)
    return wrappers.wrap(batched(world, num_envs, name=what, time_limit=limit), **options)
