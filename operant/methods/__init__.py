"""The methods, found by their names. A method is one file below here with a class made by `@agent("name")`.

Nothing is imported to list them: names and one-line summaries are read from the files as text.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from pathlib import Path
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
    from operant.agent import registered

    cls = registered(name)
    if cls is None:
        raise UserError(
            f"unknown method '{name}'.{near(name, entries())} `operant methods` lists all; "
            "your own is given as path/to/file.py:Class"
        )
    return cls


def load_file(place: str) -> type:
    """The class in `path/to/file.py:Class`, a method of the user's own. Runs that file: only for what users type."""
    path, _, cls = place.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no file '{path}'; your own method is given as path/to/file.py:Class")
    module_name = f"operant_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, cls):
        raise UserError(f"'{path}' defines no class '{cls}'")
    return getattr(module, cls)


def build(method: str, env: Any = "") -> Any:
    """An agent with its preset for a task: `ppo`, `rnd:ppo` (an idea around a base agent), or `file.py:Class`.

    Presets are looked up by the environment's name, then by its suite; without one the defaults stand.
    """
    suite = suite_of(env)
    if ".py:" in method:
        return load_file(method)()
    name, _, rest = method.partition(":")
    cls = load(name)
    fields = {f: v for f, v in preset(cls, suite, env).items() if f != "source"}
    if rest:
        if "agent" not in cls.__dataclass_fields__:
            raise UserError(f"{name} is no wrapper: it cannot go around '{rest}'")
        fields["agent"] = build(rest, env)
    elif "agent" in cls.__dataclass_fields__:
        fields["agent"] = build(cls().agent.registered_name, env)
    return apply(cls(), fields)


def suite_of(env: Any) -> str:
    """The suite of an environment that is listed; "" for objects and for names that only Gymnasium knows."""
    from operant.envs import registry

    return registry.info(env).suite if isinstance(env, str) and env in registry.names() else ""


def preset(cls: type, suite: str, env: Any) -> dict[str, Any]:
    """The preset of a method for an environment or its suite, with its `source`; empty where there is none."""
    presets = getattr(cls, "presets", {})
    return presets.get(env if isinstance(env, str) else "", presets.get(suite, {}))


def apply(agent: Any, fields: dict[str, Any]) -> Any:
    """`agent` with fields replaced; dotted names reach into its parts (`network.hidden`)."""
    for name, value in fields.items():
        owner, _, rest = name.partition(".")
        if rest:
            value = apply(getattr(agent, owner), {rest: value})
        agent = agent.replace(**{owner: value})
    return agent
