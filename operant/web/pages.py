"""What pages show, and how it becomes HTML: for the server and for files alike."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import jinja2

from operant import __version__
from operant.papers import SCALES
from operant.papers.listing import FAMILIES
from operant.web.atlas import Atlas, methods_of, paper, papers_of, sources

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def atlas_page(atlas: Atlas) -> dict[str, Any]:
    rows = atlas.rows()
    families = [(name, words, [row for row in rows if row["family"] == name]) for name, words in FAMILIES.items()]
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    return {"families": [f for f in families if f[2]], "total": len(rows), "states": states,
            "marks": {row["state"]: row["mark"] for row in rows}}  # fmt: skip


def paper_page(atlas: Atlas, slug: str, scale: str | None = None) -> dict[str, Any] | None:
    """What a paper's page shows, at a scale or the largest one that has a result; None where there is no such thing."""
    found = paper(slug)
    if found is None or (scale is not None and atlas.result(slug, scale) is None):
        return None
    entry, card = found
    results = atlas.all_of(slug)
    result = next((r for r in results if scale is None or r["scale"] == scale), None)
    return {"entry": entry, "card": card, "result": result, "results": results, "sources": sources(slug),
            "learning": atlas.learning.of(methods_of(slug)), "family": FAMILIES[entry.family], "scales": SCALES,
            "first": scale is None}  # fmt: skip


def learning_page(atlas: Atlas) -> dict[str, Any]:
    """What the page of learning runs shows; `together`: whether some task has several."""
    rows = atlas.learning.all()
    tasks = [row["task"] for row in rows]
    return {"rows": rows, "tasks": len(set(tasks)), "together": len(set(tasks)) < len(tasks)}


def learned_page(atlas: Atlas, name: str) -> dict[str, Any] | None:
    """What the page of one learning run shows; None where there is no such run."""
    row = atlas.learning.get(name)
    if row is None:
        return None
    others = [other for other in atlas.learning.all() if other["task"] == row["task"] and other["name"] != name]
    pairs = flat(row["agent"]), flat(row["machine"])
    found = [(heading, list(own.items())) for heading, own in zip(("Method", "Machine"), pairs, strict=True) if own]
    return {"row": row, "others": others, "papers": papers_of(row["idea"]), "tables": found}


# ---------------------------------------------------------------------------------------------------------------- HTML
@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("operant.web"), autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {"number": number, "duration": duration, "short": short}
    templates.globals |= {"version": __version__}
    return templates


def render(template: str, section: str, to: Callable[[str], str], exported: bool = False, **values: Any) -> str:
    """A page as HTML. `to(place)` makes the address of a page, of `static/NAME` or `data/NAME`."""
    return _templates().get_template(template).render(section=section, to=to, exported=exported, **values)


def assets() -> Iterator[tuple[str, bytes]]:
    """Style, scripts and icon: names and bytes."""
    for file in resources.files("operant.web").joinpath("static").iterdir():
        if os.path.splitext(file.name)[1] in KINDS:
            yield file.name, file.read_bytes()


# ------------------------------------------------------------------------------------------------------------- numbers
def number(x: Any, digits: int = 1) -> str:
    """A number for people; a dash where there is none."""
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x):
        return "–"
    return f"{x:,.0f}" if isinstance(x, int) or abs(x) >= 1e5 else f"{x:,.{digits}f}"


def short(x: Any) -> str:
    """Steps in few letters: 50k, 1.2M."""
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x):
        return "–"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:g}"


def duration(seconds: Any) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------------------ settings
def tables(config: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A run's configuration, as tables with a heading each."""
    tables = []
    for heading, name in (("Method", "agent"), ("Settings", "settings"), ("Machine", "machine")):
        pairs = list(flat(config.get(name)).items())
        if name == "machine":
            pairs += list(flat({"devices": config.get("devices")}).items())
        if pairs:
            tables.append((heading, pairs))
    return tables


def flat(value: Any, prefix: str = "", depth: int = 0) -> dict[str, str]:
    """Leaves by dotted name, as short text."""
    if not isinstance(value, dict) or depth > 6:
        return {prefix: text(value)} if prefix else {}
    found: dict[str, str] = {}
    for name, inside in list(value.items())[:400]:
        found |= flat(inside, f"{prefix}.{name}" if prefix else str(name), depth + 1)
    return found


def text(value: Any) -> str:
    """Anything as at most 200 printable characters."""
    words = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    words = "".join(c if c.isprintable() else "?" for c in words[:200])
    return words if len(words) < 200 else words + "…"


def texts(table: Any, name: str) -> list[str]:
    """A list of a table, as short text."""
    values = table.get(name) if isinstance(table, dict) else None
    return [text(x) for x in values[:50]] if isinstance(values, list) else []
