"""One registry and one name space for all environments.

Listing reads the generated `index.json` and imports nothing heavy; `make` loads the adapter that it needs.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import inspect
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from operant.errors import UserError, near

if TYPE_CHECKING:
    from operant.envs.base import Environment

ADAPTERS = {
    "gymnax": "operant.envs.gymnax",
    "envpool": "operant.envs.envpool",
    "brax": "operant.envs.brax",
    "gym": "operant.envs.gym",
    "operant": "operant.envs.worlds",
}
"""Prefix of a name -> the module that makes such environments."""

_registered: dict[str, tuple[Any, dict[str, Any]]] = {}


@dataclasses.dataclass(frozen=True)
class EnvInfo:
    """What is known of an environment before it is made. `time_limit` in agent steps; returns where they are known."""

    name: str
    suite: str
    adapter: str
    observation: str = ""
    action: str = ""
    time_limit: int | None = None
    action_mask: bool = False
    optimal_return: float | None = None
    random_return: float | None = None


@functools.cache
def _index() -> dict[str, dict[str, Any]]:
    path = pathlib.Path(__file__).with_name("index.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"environments": {}, "left_out": {}}


def names(pattern: str | None = None) -> list[str]:
    """All names, sorted; with `pattern`, those that match it (`*` and `?`) or contain it. Case is ignored.

    Gymnasium's own registry is not listed: any name that `gymnasium.make` knows can be made too.
    """
    known = sorted({*_index()["environments"], *_registered}, key=str.lower)
    if not pattern:
        return known
    pattern = pattern.lower()
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern)]


def info(name: str) -> EnvInfo:
    """Suite, spaces, time limit and known returns of a listed environment; UserError with near matches if unknown."""
    if name in _registered:
        return EnvInfo(name, suite="registered", adapter="registered")
    name = _canonical(name)
    entry = _index()["environments"].get(name)
    if entry is None:
        raise _unknown(name)
    return EnvInfo(name, **entry)


def register(name: str, factory: Any, **options: Any) -> None:
    """Give an environment of your own a name, which then works wherever a name does.

    factory  a functional world (`operant.envs.base.World`: a class or an object), a Gymnasium environment (a class, a
             callable that returns one, or a registered id), or a callable
             `factory(num_envs=..., seeds=..., **options)` that returns an `operant.envs.base.Environment`
    options  defaults for `make`
    """
    if not name or not isinstance(name, str):
        raise UserError(f"an environment's name is a text that is not empty, got {name!r}.")
    if name in _index()["environments"] or name.partition(":")[0] in ADAPTERS:
        raise UserError(f"the name {name!r} is taken by a built-in environment: choose another.")
    _registered[name] = (factory, options)


def make(name: Any, num_envs: int, seeds: Sequence[int] | None = None, **options: Any) -> Environment:
    """A batch of `num_envs` environments.

    name     a name, anything that `register` takes, or a finished `Environment` or a Gymnasium environment (an
             instance), which is a pattern that more are made after, and is not played in
    seeds    one int for each environment (0, 1, 2, ... by default): host environments draw from these, functional ones
             from the keys given to `reset`
    options  of the adapter, and for every environment: time_limit, frame_stack, reward_clip, sticky,
             previous_action_reward; an unknown one raises UserError with the list of valid ones
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise UserError(f"num_envs is {num_envs!r}, expected a whole number above 0.")
    seeds = range(num_envs) if seeds is None else seeds
    if len(seeds) != num_envs:
        raise UserError(f"seeds holds {len(seeds)} numbers for {num_envs} environments: give one for each.")
    seeds = [int(seed) for seed in seeds]
    if not isinstance(name, str):
        return _make_object(name, num_envs, seeds, label="", **options)
    if name in _registered:
        factory, defaults = _registered[name]
        options = {**defaults, **options}
        if isinstance(factory, str):
            return make(factory, num_envs, seeds, **options)
        return _make_object(factory, num_envs, seeds, label=name, **options)
    adapter, local = _resolve(name)
    return _adapter(adapter).make(local, num_envs, seeds, **options)


def _adapter(adapter: str) -> Any:
    return importlib.import_module(ADAPTERS[adapter])


def _canonical(name: str) -> str:
    """The listed form of a name: aliases, and prefixes that are not needed."""
    alias = re.fullmatch(r"MinAtar/(\w+?)(-v[01])?", name)
    name = f"{alias[1]}-MinAtar" if alias else name
    known = _index()["environments"]
    prefix, _, rest = name.partition(":")
    if name not in known and rest in known and known[rest]["adapter"] == prefix:
        return rest
    return name


def _resolve(name: str) -> tuple[str, str]:
    """(adapter, the adapter's own name), or UserError."""
    name = _canonical(name)
    index = _index()
    if name in index["left_out"]:
        raise UserError(f"{name} is left out: {index['left_out'][name]}")
    prefix, _, rest = name.partition(":")
    entry = index["environments"].get(name)
    if entry is not None:
        return entry["adapter"], rest if prefix in ADAPTERS and prefix != "operant" else name
    if prefix == "gym" and rest:
        return "gym", rest
    if prefix not in ADAPTERS and _in_gymnasium(name):
        return "gym", name
    raise _unknown(name)


def _in_gymnasium(name: str) -> bool:
    import gymnasium

    try:
        gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError):
        return False
    return True


def _unknown(name: str) -> UserError:
    prefix, _, rest = name.partition(":")
    choices = names()
    if prefix in ADAPTERS:
        choices = [n for n in choices if _index()["environments"].get(n, {}).get("adapter") == prefix]
        choices += [n.partition(":")[2] for n in choices if ":" in n]
        name = name if prefix == "operant" else rest
    hint = near(name, choices)
    return UserError(f"there is no environment named {name!r}.{hint} `operant envs` lists all of them.")


def _make_object(thing: Any, num_envs: int, seeds: list[int], label: str, **options: Any) -> Environment:
    if all(hasattr(thing, part) for part in ("observation", "action", "reset", "step")):
        return _adapter("operant").from_world(thing, num_envs, label, **options)
    finished = all(hasattr(thing, part) for part in ("spec", "num_envs", "host", "reset", "step"))
    if finished and not inspect.isclass(thing):
        return _finished(thing, num_envs, seeds, **options)
    if isinstance(thing, Callable) and not inspect.isclass(thing) and "num_envs" in _parameters(thing):
        env = thing(num_envs=num_envs, seeds=seeds, **options)
        if env.num_envs != num_envs:
            raise UserError(f"{env.spec.name} came with num_envs={env.num_envs}, but {num_envs} were asked for.")
        return env
    if callable(thing) or hasattr(thing, "observation_space"):
        return _adapter("gym").make(thing, num_envs, seeds, label=label, **options)
    raise UserError(
        f"{type(thing).__name__} is no environment: expected a name, a functional world, a Gymnasium environment or a "
        "callable that returns one."
    )


def _parameters(function: Callable) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # builtins have no signature
        return set()


def _finished(env: Environment, num_envs: int, seeds: list[int], **options: Any) -> Environment:
    from operant.envs import wrappers
    from operant.envs.base import remake
    from operant.errors import check_options

    # Another one even of the same width: training and evaluation must not play, or close, each other's episodes.
    env = remake(env, num_envs, seeds)
    check_options(env.spec.name, options, (*wrappers.OPTIONS, "time_limit"))
    limit = options.pop("time_limit", None)
    return wrappers.wrap(env if limit is None else wrappers.TimeLimit(env, limit), **options)
