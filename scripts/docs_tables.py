"""Fills the tables of the documentation from the code, so that they cannot fall behind it (an MkDocs hook).

    <!-- fields: ppo -->      the fields of a method
    <!-- fields: actor-critic -->  ... or of a part
    <!-- presets: ppo -->     its presets for environments and suites
    <!-- settings -->         the runner's settings
    <!-- methods -->          all methods by family

A page of a method that does not exist, or a method without a page, stops the build.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

MARK = re.compile(r"^<!-- (fields|presets|settings|methods)(?:: ([\w-]+))? -->$", re.M)


def on_page_markdown(markdown: str, page: Any = None, config: Any = None, files: Any = None) -> str:
    return fill(markdown)


def fill(markdown: str) -> str:
    """`markdown` with every mark replaced by its table."""
    return MARK.sub(lambda mark: TABLES[mark[1]](*([mark[2]] if mark[2] else [])), markdown)


def fields(name: str) -> str:
    """A table of the fields of the agent or part that is registered under `name`."""
    from operant.agent import is_dial

    cls = _class(name)
    rows = []
    for f in dataclasses.fields(cls):
        kind = "part" if f.metadata.get("child") else "dial" if is_dial(f) else "structure"
        default = f.default_factory if kind == "part" else f.default
        shown = _part(default) if kind == "part" else _value(default)
        rows.append((f"`{f.name}`", kind, f"`{shown}`", _range(f), f.metadata.get("help", "")))
    return table(("field", "kind", "default", "range", "meaning"), rows)


def _part(factory: Any) -> str:
    """A part as it is made: `Replay`, or `Replay(updates_per_rollout=8)`."""
    if not isinstance(factory, functools.partial):
        return factory.__name__
    return f"{factory.func.__name__}({', '.join(f'{k}={_value(v)}' for k, v in factory.keywords.items())})"


def presets(name: str) -> str:
    """A table of a method's presets: what is changed where, and why."""
    rows = []
    for where, changes in getattr(_class(name), "presets", {}).items():
        values = ", ".join(f"`{k}={_value(v)}`" for k, v in changes.items() if k != "source")
        rows.append((f"`{where}`", values, changes.get("source", "")))
    return table(("environment or suite", "values", "source"), rows) if rows else "None: the defaults stand everywhere."


def settings() -> str:
    """A table of what can be set on a run, as flags and as arguments of `train`."""
    from operant.run.settings import Settings

    rows = []
    for f in dataclasses.fields(Settings):
        default = f.default_factory() if f.default is dataclasses.MISSING else f.default
        rows.append((f"`--{f.name.replace('_', '-')}`", f"`{_value(default)}`", f.metadata["help"]))
    return table(("flag", "default", "meaning"), rows)


def methods() -> str:
    """A table of all methods, each with a link to its page."""
    from operant.methods import entries

    pages = Path(__file__).parent.parent / "docs" / "methods"
    missing = sorted(name for name in entries() if not (pages / f"{name}.md").exists())
    unknown = sorted(p.stem for p in pages.glob("*.md") if p.stem != "index" and p.stem not in entries())
    if missing or unknown:
        raise ValueError(f"docs/methods: no page for {missing}, no method for {unknown}")
    rows = [
        (f"[`{e.name}`]({e.name}.md)", e.family, "around an agent" if e.wraps else "agent", e.summary)
        for e in entries().values()
    ]
    return table(("name", "family", "kind", "what it is"), rows)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *escaped])


def _class(name: str) -> type:
    from operant import agent
    from operant.methods import entries, load

    for entry in entries():  # the parts are registered as the methods that hold them are imported
        load(entry)
    cls = agent.registered(name)
    if cls is None:
        raise ValueError(f"the documentation asks for the fields of '{name}', which is neither a method nor a part")
    return cls


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return repr(value) if value == "" or not isinstance(value, str) else value


def _range(field: dataclasses.Field) -> str:
    choices = field.metadata.get("choices")
    if choices:
        return ", ".join(f"`{c.registered_name if isinstance(c, type) else _value(c)}`" for c in choices)
    low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
    if low == -math.inf:
        return "" if high == math.inf else f"at most {high:g}"
    return f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"


TABLES = {"fields": fields, "presets": presets, "settings": settings, "methods": methods}
