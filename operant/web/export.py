"""The atlas as files, for any static host: pages with relative links, figures with their data beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operant.errors import UserError
from operant.web import learning
from operant.web.atlas import Atlas, figure
from operant.web.pages import assets, atlas_page, learned_page, learning_page, paper_page, render

MARK = ".operant-web"  # what says that a directory was written by this


def export(results: Path, out: Path) -> int:
    """Writes the atlas, its results and the learning runs to `out`, and returns how many pages that are.

    Raises UserError where something else is there already, or the disk refuses.
    """
    atlas, pages = Atlas(results), 0

    def page(place: str, template: str, section: str = "papers", **values: object) -> None:
        nonlocal pages
        path = out / f"{place}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(template, section, _relative(place.count("/")), True, **values), encoding="utf-8")
        pages += 1

    def data(place: str, values: dict[str, Any]) -> None:
        path = out / "data" / f"{place}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")

    try:
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists())):
            raise UserError(f"--export {out}: something else is there; name a directory that is new, or empty")
        (out / "static").mkdir(parents=True, exist_ok=True)
        (out / MARK).touch()
        for name, content in assets():
            (out / "static" / name).write_bytes(content)
        page("index", "atlas.html", **atlas_page(atlas))
        for row in atlas.rows():
            slug = row["slug"]
            page(f"papers/{slug}", "paper.html", **(paper_page(atlas, slug) or {}))
            for result in atlas.all_of(slug):
                place = f"{slug}/{result['scale']}"
                page(f"papers/{place}", "paper.html", **(paper_page(atlas, slug, result["scale"]) or {}))
                data(place, figure(result))
        rows = atlas.learning.all()
        page("learning", "learning.html", "learning", **learning_page(atlas))
        data("learning", learning.together(rows))
        for row in rows:
            place = f"learning/{row['name']}"
            page(place, "learned.html", "learning", **(learned_page(atlas, row["name"]) or {}))
            data(place, learning.figure(row))
    except OSError as error:
        raise UserError(f"--export {out}: it cannot be written ({error.strerror})") from error
    return pages


def _relative(depth: int) -> Callable[[str], str]:
    """Addresses as they are seen from a page that lies so deep."""
    up = "../" * depth

    def to(place: str) -> str:
        is_file = place.startswith(("static/", "data/"))
        return up + (place if is_file else f"{place or 'index'}.html")

    return to
