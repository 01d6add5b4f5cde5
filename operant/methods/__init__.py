"""The methods, found by their names. A method is one file below here with a class made by `@agent("name")`.

Nothing is imported to list them: names and one-line summaries are read from the files as text.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from operant.errors import UserError, near

_HEAD = re.compile(r'^@agent\("(?P<name>[^"]+)"\)\nclass (?P<cls>\w+)[^\n]*:\n    """(?P<summary>[^\n"]+)', re.M)


class Entry(NamedTuple):
    """Where a method is. `wraps` says that it is an idea added to a base agent."""

    name: str
    module: str
    cls: str
    summary: str
    family: str
    wraps: bool


@functools.cache
def entries() -> dict[str, Entry]:
    """All methods of the library by name."""
    root = Path(__file__).parent
    found = {}
    for path in sorted(root.glob("*/*.py")):
        text = path.read_text(encoding="utf-8")
        for match in _HEAD.finditer(text):
            module = f"operant.methods.{path.parent.name}.{path.stem}"
            wraps = bool(re.search(r"^    agent: ", text[match.end() :], re.M))
            found[match["name"]] = Entry(
                match["name"], module, match["cls"], match["summary"].strip(), path.parent.name, wraps
            )
    return found


def load(name: str) -> type:
    """The class of a method: a name of the library's, or one that the running program registered with `@agent`."""
    if name in entries():
        entry = entries()[name]
        return getattr(importlib.import_module(entry.module), entry.cls)
    from operant.agent import registered  # not above: a list of the methods must not start JAX

    cls = registered(name)
    if cls is None:
        raise UserError(
            f"unknown method '{name}'.{near(name, entries())} `operant methods` lists all; "
            "your own is given as path/to/file.py:Class, and before a run of it is loaded its file is imported "
            "(on the command line: --code path/to/file.py)"
        )
    return cls


def load_file(place: str) -> type:
    """The class in `path/to/file.py:Class`, a method of the user's own. Runs that file: only for what users type."""
    path, _, name = place.rpartition(":")
    cls = getattr(run_file(path), name, None)
    if cls is None:
        raise UserError(f"'{path}' defines no class '{name}'")
    if not hasattr(cls, "registered_name"):
        raise UserError(f"'{name}' in '{path}' is no agent; expected a class under @operant.agent(\"name\")")
    return cls


def run_file(path: str) -> ModuleType:
    """Runs a user's own file, which registers its methods under their names."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no file '{path}'; your own method is given as path/to/file.py:Class")
    module_name = f"operant_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path}' is no Python file; expected one whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def from_json(data: dict[str, Any]) -> Any:
    """The agent that `operant.agent.to_json` wrote, its methods found by name, imported only from the library."""
    from operant import agent as contract

    return contract.from_json(data, lambda name: contract.registered(name) or load(name))


def build(method: str, env: Any = "") -> Any:
    """An agent with its preset for a task: `ppo`, `file.py:Class`, or an idea around a base agent, as in `rnd:ppo`,
    `file.py:Class:ppo` and `rnd:file.py:Class`.

    Presets are looked up by the environment's name, then by its suite; without one the defaults stand.  A method may
    have more: `dqn@atari-2015` names one.
    """
    place, base = _split(method)
    place, _, named = place.partition("@") if place.partition("@")[0] in entries() else (place, "", "")
    cls = load_file(place) if ".py:" in place else load(place)
    missing = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    if missing:
        raise UserError(f"'{place}': {', '.join(missing)} has no default; give it one with dial, option or child")
    agent = cls()
    if named and named not in getattr(cls, "presets", {}):
        known = ", ".join(getattr(cls, "presets", {})) or "none"
        raise UserError(f"{place} has no preset '{named}'; it has: {known}")
    if base:
        if not _wraps(agent):
            raise UserError(f"{place} is no wrapper: it cannot go around '{base}'")
        return _preset(_around(agent, build(base, env)), env, named)
    return _with_presets(agent, env, named)


def _split(method: str) -> tuple[str, str]:
    """The first agent of `method`, and what it goes around ("" for nothing)."""
    name, _, rest = method.partition(":")
    if name not in entries() and (file := re.match(r"(.*?\.py:[^:]*)(?::(.*))?$", method)):
        return file[1], file[2] or ""
    return name, rest


def _wraps(agent: Any) -> bool:
    return "agent" in type(agent).__dataclass_fields__


def _with_presets(agent: Any, env: Any, named: str = "") -> Any:
    """An agent and those that it goes around, each with its own preset."""
    if _wraps(agent):
        agent = _around(agent, _with_presets(agent.agent, env))
    return _preset(agent, env, named)


def _around(agent: Any, base: Any) -> Any:
    """A wrapper with its base agent: a method `around(base)` of its own may take more from the base."""
    return agent.around(base) if hasattr(agent, "around") else agent.replace(agent=base)


def _preset(agent: Any, env: Any, named: str = "") -> Any:
    fields = type(agent).presets[named] if named else preset(type(agent), suite_of(env), env)
    return apply(agent, {name: value for name, value in fields.items() if name != "source"})


def suite_of(env: Any) -> str:
    """The suite of an environment that is listed; "" for objects and for names that only Gymnasium knows."""
    from operant.envs import registry

    return registry.info(env).suite if isinstance(env, str) and env in registry.names() else ""


def preset(cls: type, suite: str, env: Any) -> dict[str, Any]:
    """The preset of a method for an environment or its suite, with its `source`; empty where there is none."""
    presets = getattr(cls, "presets", {})
    return presets.get(env if isinstance(env, str) else "", presets.get(suite, {}))


def apply(agent: Any, fields: dict[str, Any]) -> Any:
    """`agent` with fields replaced; dotted names reach into its parts (`network.hidden`), and the name of a kind of
    part chooses it (`memory="prioritized"`)."""
    from operant.agent import children, choose

    for name, value in fields.items():
        owner, _, rest = name.partition(".")
        if rest:
            value = apply(getattr(agent, owner), {rest: value})
        elif isinstance(value, str) and owner in children(agent):
            agent = choose(agent, owner, value)
            continue
        agent = agent.replace(**{owner: value})
    return agent
